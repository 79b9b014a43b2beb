"""All resources at once, and the questions evaluation asks of them.

Pure. Written for plainness, not speed: an independent statement of which policies apply to whom and who has which
address, so that the calculation graph can be tested against it.
"""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Iterable, Mapping

import msgspec

from calico_engine.evaluation.flow import Address, Direction
from calico_engine.model.endpoint import EndpointPort, HostEndpoint, WorkloadEndpoint
from calico_engine.model.load import load
from calico_engine.model.node import Node
from calico_engine.model.policy import (
    Action,
    GlobalNetworkPolicy,
    GlobalNetworkSet,
    NetworkPolicy,
    NetworkSet,
    PolicyType,
    Profile,
    Rule,
    Tier,
)
from calico_engine.model.resource import Resource, ResourceKey
from calico_engine.selector import Node as SelectorNode
from calico_engine.selector import Selector, parse
from calico_engine.selector.ast import All, And, Global, Not, Or
from calico_engine.settings import FelixSettings

Policy = NetworkPolicy | GlobalNetworkPolicy
Endpoint = WorkloadEndpoint | HostEndpoint

NAMESPACE = "projectcalico.org/namespace"
ORCHESTRATOR = "projectcalico.org/orchestrator"
SERVICE_ACCOUNT = "projectcalico.org/serviceaccount"
DEFAULT_TIER = "default"


class Item(msgspec.Struct, frozen=True):
    """Something that rule selectors select: an endpoint or a network set, with its own and inherited labels."""

    key: ResourceKey
    labels: dict[str, str]
    ports: tuple[EndpointPort, ...] = ()


class TierView(msgspec.Struct, frozen=True):
    """One tier's policies for one endpoint and direction, in the order they are tried."""

    name: str
    default_action: Action
    policies: tuple[Policy, ...]


class World:
    """A snapshot of resources. Raises: ValidationError for a document that does not load."""

    def __init__(
        self,
        resources: Iterable[Resource | Mapping[str, object] | str | bytes],
        settings: FelixSettings | None = None,
    ) -> None:
        self.settings = settings or FelixSettings()
        self.workloads: list[WorkloadEndpoint] = []
        self.hosts: list[HostEndpoint] = []
        self.nodes: dict[str, Node] = {}
        self.profiles: dict[str, Profile] = {}
        self._policies: list[Policy] = []
        self._tiers: dict[str, Tier] = {}
        self._sets: list[NetworkSet | GlobalNetworkSet] = []
        for resource in _unique(resources):
            self._add(resource)
        self.workloads.sort(key=lambda endpoint: endpoint.key)
        self.hosts.sort(key=lambda endpoint: endpoint.key)
        self._policies.sort(key=_policy_order)
        self._items = self._index_items()
        self._applying: dict[ResourceKey, tuple[Policy, ...]] = {}

    def _add(self, resource: Resource) -> None:
        # Staged policies are on trial: they decide nothing, so they are not even kept.
        match resource:
            case WorkloadEndpoint():
                self.workloads.append(resource)
            case HostEndpoint():
                self.hosts.append(resource)
            case NetworkPolicy() | GlobalNetworkPolicy():
                self._policies.append(resource)
            case Tier():
                self._tiers[resource.metadata.name] = resource
            case Profile():
                self.profiles[resource.metadata.name] = resource
            case NetworkSet() | GlobalNetworkSet():
                self._sets.append(resource)
            case Node():
                self.nodes[resource.metadata.name] = resource
            case _:
                pass

    # Labels

    def endpoint_labels(self, endpoint: Endpoint) -> dict[str, str]:
        """Return an endpoint's labels: its own win over those of its profiles, an earlier profile over a later."""
        own = dict(endpoint.metadata.labels)
        if isinstance(endpoint, WorkloadEndpoint):
            # What its namespace and service account hand down a workload cannot claim by itself.
            own = {label: value for label, value in own.items() if not label.startswith(("pcns.", "pcsa."))}
            own[NAMESPACE] = endpoint.metadata.namespace
            if endpoint.spec.service_account_name:
                own[SERVICE_ACCOUNT] = endpoint.spec.service_account_name
            if endpoint.spec.orchestrator:
                own.setdefault(ORCHESTRATOR, endpoint.spec.orchestrator)
        return self._inherit(own, endpoint.spec.profiles)

    def _set_labels(self, network_set: NetworkSet | GlobalNetworkSet) -> dict[str, str]:
        own = dict(network_set.metadata.labels)
        if isinstance(network_set, GlobalNetworkSet):
            return own
        own[NAMESPACE] = network_set.metadata.namespace
        return self._inherit(own, (f"kns.{network_set.metadata.namespace}",))

    def _inherit(self, labels: dict[str, str], profile_names: tuple[str, ...]) -> dict[str, str]:
        for name in profile_names:
            if name in self.profiles:
                labels = {**self.profiles[name].spec.labels_to_apply, **labels}
        return labels

    # Addresses

    def _index_items(self) -> dict[tuple[int, int], dict[int, list[Item]]]:
        """Return items by (IP version, prefix length), then by network address as a number."""
        index: dict[tuple[int, int], dict[int, list[Item]]] = {}

        def enter(text: str, item: Item) -> None:
            network = ipaddress.ip_network(text, strict=False)
            by_address = index.setdefault((network.version, network.prefixlen), {})
            by_address.setdefault(int(network.network_address), []).append(item)

        for workload in self.workloads:
            item = Item(workload.key, self.endpoint_labels(workload), workload.spec.ports)
            for text in workload.spec.ip_networks:
                enter(text, item)
        for host in self.hosts:
            item = Item(host.key, self.endpoint_labels(host), host.spec.ports)
            for text in host.spec.expected_ips:
                enter(text, item)
        for network_set in self._sets:
            item = Item(network_set.key, self._set_labels(network_set))
            for text in network_set.spec.nets:
                enter(text, item)
        return index

    def items_at(self, address: Address) -> list[Item]:
        """Return all endpoints and network sets that an address belongs to."""
        found: list[Item] = []
        number, bits = int(address), address.max_prefixlen
        for (version, prefix_length), by_address in self._items.items():
            if version == address.version:
                shift = bits - prefix_length
                found += by_address.get(number >> shift << shift, ())
        return found

    # Policies

    def tiers_for(self, endpoint: Endpoint, direction: Direction) -> list[TierView]:
        """Return the policies that apply to an endpoint in one direction, tier by tier, all kinds of them."""
        by_tier: dict[str, list[Policy]] = {}
        for policy in self._policies_for(endpoint):
            if direction in policy_directions(policy):
                by_tier.setdefault(policy.spec.tier or DEFAULT_TIER, []).append(policy)
        views = [self._view(name, policies) for name, policies in by_tier.items()]
        return sorted(views, key=lambda view: self._tier_order(view.name))

    def _policies_for(self, endpoint: Endpoint) -> tuple[Policy, ...]:
        found = self._applying.get(endpoint.key)
        if found is None:
            labels = self.endpoint_labels(endpoint)
            found = tuple([policy for policy in self._policies if applies_to(policy, labels)])
            self._applying[endpoint.key] = found
        return found

    def _view(self, name: str, policies: list[Policy]) -> TierView:
        tier = self._tiers.get(name)
        action = tier.spec.default_action if tier is not None else Action.DENY
        return TierView(name, action, tuple(policies))

    def _tier_order(self, name: str) -> tuple[bool, float, str]:
        """Tiers by order, then by name; none is last; a tier that does not exist comes after all others."""
        tier = self._tiers.get(name)
        if tier is None:
            return (name != DEFAULT_TIER, 1_000_000.0 if name == DEFAULT_TIER else math.inf, name)
        return (False, math.inf if tier.spec.order is None else tier.spec.order, name)


def _unique(resources: Iterable[Resource | Mapping[str, object] | str | bytes]) -> list[Resource]:
    """Load what is not loaded; of two resources of one key the later counts."""
    by_key: dict[ResourceKey, Resource] = {}
    for given in (resources,) if isinstance(resources, str | bytes) else resources:
        for resource in (given,) if isinstance(given, Resource) else load(given):
            by_key[resource.key] = resource
    return list(by_key.values())


def _policy_order(policy: Policy) -> tuple[float, str]:
    """Lower order first, none last; ties by name, then namespace, then kind."""
    key = policy.key
    order = math.inf if policy.spec.order is None else policy.spec.order
    return (order, f"{key.name}/{key.namespace}/{key.kind}")


def policy_directions(policy: Policy) -> frozenset[Direction]:
    """Return what a policy speaks about: its types, else the directions it has rules for, else ingress."""
    spec = policy.spec
    types = spec.types
    if not types:
        types = (PolicyType.EGRESS,) if spec.egress else (PolicyType.INGRESS,)
        if spec.egress and spec.ingress:
            types = (PolicyType.INGRESS, PolicyType.EGRESS)
    directions = frozenset([Direction(kind.lower()) for kind in types])
    if isinstance(policy, GlobalNetworkPolicy) and policy.spec.pre_dnat:
        return directions & {Direction.INGRESS}
    return directions


def policy_rules(policy: Policy | Profile, direction: Direction) -> tuple[Rule, ...]:
    return policy.spec.ingress if direction is Direction.INGRESS else policy.spec.egress


def applies_to(policy: Policy, labels: Mapping[str, str]) -> bool:
    """Return whether a policy applies to an endpoint with these labels, own and inherited."""
    spec = policy.spec
    if not parse(spec.selector).matches(labels):
        return False
    if isinstance(policy, NetworkPolicy):
        if labels.get(NAMESPACE) != policy.metadata.namespace:
            return False
    elif policy.spec.namespace_selector and not matches_namespace(policy.spec.namespace_selector, labels):
        return False
    if not spec.service_account_selector:
        return True
    if isinstance(policy, GlobalNetworkPolicy):
        return matches_service_account(spec.service_account_selector, labels)
    return parse(spec.service_account_selector).with_prefix("pcsa.").matches(labels)


def matches_namespace(text: str, labels: Mapping[str, str]) -> bool:
    """Return whether an item's namespace matches, by the labels that its profile hands down.

    all() means any namespace, global() what is in none: host endpoints and global network sets.
    """
    return _matches_owner(parse(text).ast, labels, "pcns.", NAMESPACE)


def matches_service_account(text: str, labels: Mapping[str, str]) -> bool:
    """Return whether an item's service account matches, by the labels that its profile hands down."""
    return _matches_owner(parse(text).ast, labels, "pcsa.", SERVICE_ACCOUNT)


def _matches_owner(node: SelectorNode, labels: Mapping[str, str], prefix: str, owner_label: str) -> bool:
    match node:
        case All():
            return owner_label in labels
        case Global():
            return owner_label not in labels
        case Not(operand):
            return not _matches_owner(operand, labels, prefix, owner_label)
        case And(operands):
            return all(_matches_owner(operand, labels, prefix, owner_label) for operand in operands)
        case Or(operands):
            return any(_matches_owner(operand, labels, prefix, owner_label) for operand in operands)
        case _:
            return Selector(node).with_prefix(prefix).matches(labels)
