"""The calculation graph: resources of the whole cluster in, what this node must do out.

    on_updates ─ validate ─┬─ policies, tiers ─────────────────┐
                           ├─ own endpoints ─ LocalEndpoints ─ PolicyResolver ─ active policies, endpoints' tiers
                           ├─ profiles ──────────────────────────────────────── ActiveRules ─ sets in use
                           ├─ all endpoints, network sets, profiles' labels ─── SetMembers ─ sets, differences
                           ├─ all addresses, blocks, pools, nodes ───────────── NetworkResolver ─ routes
                           └─ FelixConfiguration ── config ─────────────────────────────── Sequencer ─ Batch

Pure and synchronous. `on_updates` only notes; the work is done once per `flush`, however many updates came. Output
is a function of current state: the order and number of updates that led to it do not matter. Nothing is said before
the first IN_SYNC. A resource that is wrong counts as absent and is named in `rejected`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import msgspec

from calico_engine.calc.active_rules import ActiveRules
from calico_engine.calc.endpoint_facts import named_ports, network_set_labels, workload_labels
from calico_engine.calc.local_endpoints import LocalEndpoints, check_local_workload
from calico_engine.calc.nets import canonical_hosts, canonical_members
from calico_engine.calc.network_resolver import NetworkResolver
from calico_engine.calc.policy_resolver import PolicyResolver
from calico_engine.calc.rule_selectors import NAMESPACE_PROFILE_PREFIX
from calico_engine.calc.sequencer import Sequencer
from calico_engine.calc.set_members import SetMembers
from calico_engine.errors import ConfigError, ValidationError
from calico_engine.messages import Batch, ConfigUpdate
from calico_engine.model import validate as validate_resource
from calico_engine.model.config import FelixConfiguration
from calico_engine.model.endpoint import HostEndpoint, WorkloadEndpoint
from calico_engine.model.node import IPAMBlock, IPPool, Node
from calico_engine.model.policy import (
    GlobalNetworkPolicy,
    GlobalNetworkSet,
    NetworkPolicy,
    NetworkSet,
    Profile,
    Tier,
)
from calico_engine.model.resource import Resource, ResourceKey
from calico_engine.settings import FelixSettings

IN_SYNC = "in-sync"

Config = Callable[[Mapping[str, str], Mapping[str, str]], FelixSettings]
Handler = Callable[[ResourceKey, Resource | None], None]


class ResourceUpdate(Protocol):
    """What a datastore's Update looks like from here."""

    @property
    def key(self) -> ResourceKey: ...
    @property
    def resource(self) -> Resource | None: ...
    @property
    def error(self) -> str: ...
    @property
    def checked(self) -> bool: ...


class GraphStats(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes, under the names of the reference's metrics without their prefix."""

    active_local_endpoints: int = 0
    active_local_policies: int = 0
    active_local_selectors: int = 0
    cluster_num_hosts: int = 0
    cluster_num_host_endpoints: int = 0
    cluster_num_workload_endpoints: int = 0
    cluster_num_policies: int = 0
    cluster_num_profiles: int = 0
    cluster_num_tiers: int = 0


class CalcGraph:
    """One node's view of the cluster.

    Args: `config` resolves FelixConfiguration's global and this node's parameters to settings; `validate` raises
    ValidationError for a wrong resource, None trusts the sender.
    """

    def __init__(
        self,
        node: str,
        *,
        config: Config | None = None,
        validate: Callable[[Resource], None] | None = validate_resource,
    ) -> None:
        self.node = node
        #: What was found wrong since the last flush; stays readable until updates come again.
        self.rejected: list[ValidationError] = []
        #: What is wrong now.
        self.invalid: dict[ResourceKey, ValidationError] = {}
        self._config = config
        self._validate = validate
        self._settings = FelixSettings()
        self._parameters: dict[str, dict[str, str]] = {}
        self._spoofing: dict[ResourceKey, WorkloadEndpoint] = {}
        self._config_changed = config is not None
        self._in_sync = False
        self._revision = 0
        self._rejected_is_old = False
        self._sequencer = Sequencer()
        self._resolver = PolicyResolver()
        self._endpoints = LocalEndpoints(self._resolver)
        self._rules = ActiveRules(self._resolver, self._endpoints)
        self._members = SetMembers()
        self._network = NetworkResolver(node, self._sequencer)
        self._routes = self._network.routes
        self._tiers: set[str] = set()
        self._counts = {WorkloadEndpoint: 0, HostEndpoint: 0}
        self._handlers: dict[str, Handler] = {
            "WorkloadEndpoint": self._on_workload,
            "HostEndpoint": self._on_host,
            "NetworkPolicy": self._on_policy,
            "GlobalNetworkPolicy": self._on_policy,
            "Tier": self._on_tier,
            "Profile": self._on_profile,
            "NetworkSet": self._on_network_set,
            "GlobalNetworkSet": self._on_network_set,
            "IPPool": self._on_pool,
            "Node": self._on_node,
            "IPAMBlock": self._on_block,
            "FelixConfiguration": self._on_felix_configuration,
        }

    # -- in ------------------------------------------------------------------------------------------------------

    def on_updates(self, updates: Sequence[ResourceUpdate]) -> None:
        """Note what resources are now. Kinds that mean nothing here are skipped."""
        if self._rejected_is_old:
            self.rejected = []
            self._rejected_is_old = False
        for update in updates:
            handler = self._handlers.get(update.key.kind)
            if handler is None:
                continue
            resource = update.resource
            error = ValidationError(str(update.key), "", update.error) if update.error else None
            if error is None:
                error = self._try(handler, update.key, resource, checked=update.checked)
            if error is None:
                if self.invalid:
                    self.invalid.pop(update.key, None)
            else:
                self._reject(update.key, resource, error)

    def on_status(self, status: str) -> None:
        """Note how far the datastore is; only the first IN_SYNC matters."""
        if status == IN_SYNC:
            self._in_sync = True

    def reconfigure(self) -> None:
        """Resolve settings anew at the next flush: what outranks FelixConfiguration has changed."""
        self._config_changed = self._config is not None

    def _try(
        self, handler: Handler, key: ResourceKey, resource: Resource | None, *, checked: bool
    ) -> ValidationError | None:
        try:
            if resource is not None and self._validate is not None and not checked:
                self._validate(resource)
            handler(key, resource)
        except ValidationError as error:
            return error
        except ValueError as error:
            return ValidationError(str(key), "spec", str(error))
        return None

    def _reject(self, key: ResourceKey, resource: Resource | None, error: ValidationError) -> None:
        """Treat a wrong resource as absent."""
        self.invalid[key] = error
        self.rejected.append(error)
        self._handlers[key.kind](key, None)
        if isinstance(resource, WorkloadEndpoint) and resource.spec.allow_spoofed_source_prefixes:
            # It may become right when settings change.
            self._spoofing[key] = resource

    # -- out -----------------------------------------------------------------------------------------------------

    def flush(self) -> Batch | None:
        """Return what changed since the last flush; None when nothing did, or before the first IN_SYNC.

        The first Batch comes even if it is empty: it says that the datastore has been read.
        """
        if not self._in_sync:
            return None
        self._flush_config()
        dirty_policies, dirty_endpoints = self._resolver.flush()
        for error in self._rules.flush(dirty_policies, self._sequencer):
            self.rejected.append(error)
        updates, removals = self._members.flush(*self._rules.sets.take_changes())
        for update in updates:
            self._sequencer.add(update)
        for removal in removals:
            self._sequencer.remove(removal)
        self._endpoints.flush(dirty_endpoints, self._sequencer)
        self._network.flush()
        self._rejected_is_old = True
        messages = self._sequencer.flush()
        if not messages and self._revision:
            return None
        self._revision += 1
        return Batch(revision=self._revision, in_sync=True, messages=messages)

    @property
    def stats(self) -> GraphStats:
        """Return current sizes."""
        return GraphStats(
            active_local_endpoints=len(self._endpoints),
            active_local_policies=len(self._resolver.active),
            active_local_selectors=len(self._rules.sets.specs),
            cluster_num_hosts=len(self._network.nodes),
            cluster_num_host_endpoints=self._counts[HostEndpoint],
            cluster_num_workload_endpoints=self._counts[WorkloadEndpoint],
            cluster_num_policies=len(self._resolver.policies),
            cluster_num_profiles=len(self._rules.profiles),
            cluster_num_tiers=len(self._tiers),
        )

    def _flush_config(self) -> None:
        if self._config is None or not self._config_changed:
            return
        self._config_changed = False
        node_name = f"node.{self.node}"
        try:
            settings = self._config(self._parameters.get("default", {}), self._parameters.get(node_name, {}))
        except ConfigError as error:
            # What was good stays in force.
            self.rejected.append(ValidationError("FelixConfiguration", error.key, str(error)))
            settings = self._settings
        if settings.workload_source_spoofing != self._settings.workload_source_spoofing:
            self._settings = settings
            for key, endpoint in list(self._spoofing.items()):
                if (found := self._try(self._on_workload, key, endpoint, checked=False)) is not None:
                    self._reject(key, endpoint, found)
                else:
                    self.invalid.pop(key, None)
        self._settings = settings
        self._sequencer.add(ConfigUpdate(settings=settings))

    # -- by kind -------------------------------------------------------------------------------------------------

    def _on_workload(self, key: ResourceKey, endpoint: Resource | None) -> None:
        if not isinstance(endpoint, WorkloadEndpoint) or not endpoint.spec.ip_networks:
            # Without an address there is nothing to enforce or to reach.
            self._spoofing.pop(key, None)
            self._drop_workload(key)
            return
        spec = endpoint.spec
        hosts = canonical_hosts(spec.ip_networks)
        ports = named_ports(spec.ports) if spec.ports else ()
        node = spec.node
        if node == self.node:
            if spec.allow_spoofed_source_prefixes:
                self._spoofing[key] = endpoint
            check_local_workload(key, endpoint, self._settings.workload_source_spoofing)
            self._endpoints.put(key, endpoint)
        old = self._members.put(key, workload_labels(endpoint), spec.profiles, hosts, ports, node)
        if old is None:
            self._counts[WorkloadEndpoint] += 1
            self._routes.put_workload(node, hosts, "", ())
            return
        self._routes.put_workload(node, hosts, old.node, old.members)
        if old.node == self.node != node:
            self._endpoints.drop(key)

    def _drop_workload(self, key: ResourceKey) -> None:
        self._endpoints.drop(key)
        old = self._members.drop(key)
        if old is not None:
            self._counts[WorkloadEndpoint] -= 1
            self._routes.put_workload("", (), old.node, old.members)

    def _on_host(self, key: ResourceKey, endpoint: Resource | None) -> None:
        if not isinstance(endpoint, HostEndpoint):
            self._endpoints.drop(key)
            if self._members.drop(key) is not None:
                self._counts[HostEndpoint] -= 1
            return
        spec = endpoint.spec
        hosts = canonical_hosts(spec.expected_ips) if spec.expected_ips else ()
        ports = named_ports(spec.ports) if spec.ports else ()
        if spec.node == self.node:
            self._endpoints.put(key, endpoint)
        else:
            self._endpoints.drop(key)
        if self._members.put(key, endpoint.metadata.labels, spec.profiles, hosts, ports) is None:
            self._counts[HostEndpoint] += 1

    def _on_policy(self, key: ResourceKey, policy: Resource | None) -> None:
        self._resolver.put_policy(
            key, policy if isinstance(policy, NetworkPolicy | GlobalNetworkPolicy) else None
        )

    def _on_tier(self, key: ResourceKey, tier: Resource | None) -> None:
        if isinstance(tier, Tier):
            self._tiers.add(key.name)
            self._resolver.put_tier(key.name, tier)
        else:
            self._tiers.discard(key.name)
            self._resolver.put_tier(key.name, None)

    def _on_profile(self, key: ResourceKey, profile: Resource | None) -> None:
        now = self._rules.put_profile(key.name, profile if isinstance(profile, Profile) else None)
        labels = None if now is None else now.spec.labels_to_apply
        self._resolver.put_profile_labels(key.name, labels)
        self._members.put_profile_labels(key.name, labels)

    def _on_network_set(self, key: ResourceKey, network_set: Resource | None) -> None:
        if isinstance(network_set, NetworkSet):
            # A namespaced set inherits its namespace's labels, as the workloads of that namespace do.
            parents: tuple[str, ...] = (NAMESPACE_PROFILE_PREFIX + network_set.metadata.namespace,)
            labels = network_set_labels(network_set)
        elif isinstance(network_set, GlobalNetworkSet):
            parents, labels = (), network_set.metadata.labels
        else:
            self._members.drop(key)
            return
        self._members.put(key, labels, parents, canonical_members(network_set.spec.nets))

    def _on_pool(self, key: ResourceKey, pool: Resource | None) -> None:
        self._network.put_pool(key, pool if isinstance(pool, IPPool) else None)

    def _on_node(self, key: ResourceKey, node: Resource | None) -> None:
        self._network.put_node(key.name, node if isinstance(node, Node) else None)

    def _on_block(self, key: ResourceKey, block: Resource | None) -> None:
        self._routes.put_block(key, block if isinstance(block, IPAMBlock) else None)

    def _on_felix_configuration(self, key: ResourceKey, config: Resource | None) -> None:
        if isinstance(config, FelixConfiguration):
            self._parameters[key.name] = {name: _as_text(value) for name, value in config.spec.items()}
        else:
            self._parameters.pop(key.name, None)
        self._config_changed = self._config is not None


def _as_text(value: object) -> str:
    """Return a parameter as an environment variable would carry it."""
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return value
        case int() | float():
            return str(value)
        case _:
            return msgspec.json.encode(value).decode()
