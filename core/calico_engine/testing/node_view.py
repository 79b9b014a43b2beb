"""What a plugin would know after some Batches, and whether those Batches kept their promises.

`NodeView.apply` raises AssertionError for a Batch that breaks the contract of `calico_engine.messages`: a reference to
something not yet said, a removal of something still referred to or never said, a difference that does not fit, a
repetition without change.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

from calico_engine.messages import (
    ActivePolicyRemove,
    ActivePolicyUpdate,
    ActiveProfileRemove,
    ActiveProfileUpdate,
    ActiveRule,
    Batch,
    ConfigUpdate,
    HostEndpointRemove,
    HostEndpointUpdate,
    IPSetDelta,
    IPSetRemove,
    IPSetUpdate,
    Message,
    NodeRemove,
    NodeUpdate,
    PoolRemove,
    PoolUpdate,
    RouteRemove,
    RouteUpdate,
    SetKind,
    TierPolicies,
    VtepRemove,
    VtepUpdate,
    WorkloadEndpointRemove,
    WorkloadEndpointUpdate,
)
from calico_engine.model.resource import ResourceKey
from calico_engine.settings import FelixSettings

EndpointUpdate = WorkloadEndpointUpdate | HostEndpointUpdate
K = TypeVar("K")
V = TypeVar("V")


class NodeView:
    """The sum of all Batches so far."""

    def __init__(self) -> None:
        self.revision = 0
        self.settings: FelixSettings | None = None
        self.sets: dict[str, frozenset[str]] = {}
        self.set_kinds: dict[str, SetKind] = {}
        self.policies: dict[ResourceKey, ActivePolicyUpdate] = {}
        self.profiles: dict[str, ActiveProfileUpdate] = {}
        self.endpoints: dict[ResourceKey, EndpointUpdate] = {}
        self.nodes: dict[str, NodeUpdate] = {}
        self.pools: dict[str, PoolUpdate] = {}
        self.vteps: dict[str, VtepUpdate] = {}
        self.routes: dict[str, RouteUpdate] = {}

    def apply(self, batch: Batch | None) -> None:
        """Take a Batch in; None, as `flush` gives when nothing changed, is fine."""
        if batch is None:
            return
        assert batch.revision == self.revision + 1, "revisions count up by one"
        assert batch.in_sync, "nothing is said before the first in-sync"
        self.revision = batch.revision
        for message in batch.messages:
            self._take(message)
        self._check_endpoints()

    def _take(self, message: Message) -> None:
        match message:
            case ConfigUpdate(settings=settings):
                assert settings != self.settings, "settings repeated"
                self.settings = settings
            case IPSetUpdate() | IPSetDelta() | IPSetRemove():
                self._take_set(message)
            case ActivePolicyUpdate():
                self._check_rules((*message.inbound, *message.outbound))
                _put(self.policies, message.policy, message)
            case ActivePolicyRemove(policy=policy):
                assert policy not in self._policies_in_use(), f"{policy} is removed but used"
                del self.policies[policy]
            case ActiveProfileUpdate():
                self._check_rules((*message.inbound, *message.outbound))
                _put(self.profiles, message.profile, message)
            case ActiveProfileRemove(profile=profile):
                del self.profiles[profile]
            case WorkloadEndpointUpdate() | HostEndpointUpdate():
                missing = set(_policies(message)) - self.policies.keys()
                assert not missing, f"{message.endpoint} refers to {missing}"
                _put(self.endpoints, message.endpoint, message)
            case WorkloadEndpointRemove(endpoint=endpoint) | HostEndpointRemove(endpoint=endpoint):
                del self.endpoints[endpoint]
            case _:
                self._take_network(message)

    def _take_set(self, message: IPSetUpdate | IPSetDelta | IPSetRemove) -> None:
        set_id = message.set_id
        match message:
            case IPSetUpdate():
                assert set_id not in self.sets, f"set {set_id} is said whole twice"
                self.sets[set_id] = message.members
                self.set_kinds[set_id] = message.kind
            case IPSetDelta():
                known = self.sets[set_id]
                assert message.added or message.removed, f"empty difference for {set_id}"
                assert not message.added & known, f"{set_id}: added although there: {message.added & known}"
                assert message.removed <= known, f"{set_id}: removed although absent"
                self.sets[set_id] = (known | message.added) - message.removed
            case IPSetRemove():
                users = [rule for rule in self._rules() if set_id in _sets(rule)]
                assert not users, f"set {set_id} is removed but used by {users}"
                del self.sets[set_id]
                del self.set_kinds[set_id]

    def _take_network(self, message: Message) -> None:
        match message:
            case NodeUpdate():
                _put(self.nodes, message.node, message)
            case NodeRemove(node=node):
                del self.nodes[node]
            case PoolUpdate():
                _put(self.pools, message.cidr, message)
            case PoolRemove(cidr=cidr):
                del self.pools[cidr]
            case VtepUpdate():
                _put(self.vteps, message.node, message)
            case VtepRemove(node=node):
                del self.vteps[node]
            case RouteUpdate():
                _put(self.routes, message.dst, message)
            case RouteRemove(dst=dst):
                del self.routes[dst]
            case _:
                raise AssertionError(f"unexpected {message}")

    def _check_rules(self, rules: Iterable[ActiveRule]) -> None:
        for rule in rules:
            missing = set(_sets(rule)) - self.sets.keys()
            assert not missing, f"{rule} refers to unknown sets {missing}"

    def _check_endpoints(self) -> None:
        missing = self._policies_in_use() - self.policies.keys()
        assert not missing, f"endpoints refer to {missing}"
        unused = self.sets.keys() - {set_id for rule in self._rules() for set_id in _sets(rule)}
        assert not unused, f"sets nobody uses: {unused}"

    def _policies_in_use(self) -> set[ResourceKey]:
        return {policy for endpoint in self.endpoints.values() for policy in _policies(endpoint)}

    def _rules(self) -> Iterator[ActiveRule]:
        for policy in self.policies.values():
            yield from (*policy.inbound, *policy.outbound)
        for profile in self.profiles.values():
            yield from (*profile.inbound, *profile.outbound)


def _put(table: dict[K, V], key: K, value: V) -> None:
    assert table.get(key) != value, f"{key} repeated without change"
    table[key] = value


def _policies(endpoint: EndpointUpdate) -> Iterator[ResourceKey]:
    tiers: tuple[TierPolicies, ...] = endpoint.tiers
    if isinstance(endpoint, HostEndpointUpdate):
        tiers += endpoint.untracked_tiers + endpoint.pre_dnat_tiers + endpoint.forward_tiers
    for tier in tiers:
        yield from tier.ingress
        yield from tier.egress


def _sets(rule: ActiveRule) -> tuple[str, ...]:
    return (
        rule.src_sets
        + rule.dst_sets
        + rule.not_src_sets
        + rule.not_dst_sets
        + rule.dst_ip_port_sets
        + rule.src_named_port_sets
        + rule.dst_named_port_sets
        + rule.not_src_named_port_sets
        + rule.not_dst_named_port_sets
    )
