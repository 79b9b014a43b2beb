"""Which endpoints are up, and what could not be programmed as it was asked for.

Pure. An endpoint is up when its interface is up and everything that applies to it is programmed; what is closed for
want of a set, or because the kernel refused a chain, makes it an error. Source: felix/dataplane/linux/endpoint_mgr.go.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from calico_engine.messages import TierPolicies, WorkloadEndpointUpdate
from calico_engine.model.resource import ResourceKey
from calico_engine.plugin.protocols import EndpointStatus
from calico_engine.ruleset.names import is_interface_name
from calico_engine.ruleset.state import DesiredState, Touched
from calico_engine.tables.family import FamilyTables
from calico_engine.tables.use_index import Part


def table_errors(families: Iterable[FamilyTables]) -> dict[str, str]:
    """Return, by a name for people, why something is closed instead of programmed."""
    errors: dict[str, str] = {}
    for family in families:
        compiler = family.compiler
        for part, reason in compiler.errors.items():
            errors[f"{part[0]} {part[1]}"] = reason
        for set_id in compiler.missing_sets:
            users = ", ".join(sorted(f"{kind} {key}" for kind, key in compiler.parts_using_set(set_id)))
            errors[f"set {set_id}"] = (
                f"unknown or larger than max_ipset_size; rules that use it are closed in: {users}"
            )
        for key, reason in family.quarantined.items():
            makers = ", ".join(sorted(f"{kind} {name}" for kind, name in compiler.makers(key))) or "nothing"
            errors[f"chain ipv{family.backend.family} {key.layer}/{key.name}"] = (
                f"made from {makers}, refused by the kernel and closed: {reason}"
            )
    return errors


def _broken_parts(family: FamilyTables) -> set[Part]:
    compiler = family.compiler
    broken: set[Part] = set(compiler.errors)
    for set_id in compiler.missing_sets:
        broken |= compiler.parts_using_set(set_id)
    for chain in family.quarantined:
        broken |= compiler.makers(chain)
    for kind, key in list(broken):
        if kind == "policy" and isinstance(key, ResourceKey):
            broken |= compiler.parts_using(key)
        elif kind == "list" and isinstance(key, str):
            broken |= compiler.workloads_of_list(key)
    return broken


class EndpointStatuses:
    """The status of every endpoint of this node, worked out again for those that something has happened to."""

    def __init__(self, state: DesiredState, families: Sequence[FamilyTables]) -> None:
        self._state = state
        self._families = families
        self._statuses: dict[ResourceKey, EndpointStatus] = {}
        self._broken: frozenset[Part] = frozenset()
        self._policies: frozenset[ResourceKey] = frozenset()
        self._interfaces: dict[ResourceKey, str] = {}
        self._workloads: dict[str, set[ResourceKey]] = {}
        self._touched: set[ResourceKey] = set()
        self._all = True

    def touch(self, touched: Touched) -> None:
        """Note what a batch changed."""
        self._touched |= touched.workloads
        known = self._state.policies
        appeared = any((policy in known) != (policy in self._policies) for policy in touched.policies)
        if appeared or touched.interfaces or touched.host_endpoints or touched.settings:
            self._all = True

    def current(self) -> dict[ResourceKey, EndpointStatus]:
        """Return the status of every endpoint. Call when everything has been compiled."""
        broken: frozenset[Part] = frozenset().union(*map(_broken_parts, self._families))
        if broken != self._broken:
            self._broken, self._all = broken, True
        changed = self._move(
            self._state.workloads.keys() | self._interfaces.keys() if self._all else self._touched
        )
        if self._all:
            self._policies = frozenset(self._state.policies)
            self._statuses = self._hosts()
        self._touched, self._all = set(), False
        for key in changed:
            workload = self._state.workloads.get(key)
            if workload is None:
                self._statuses.pop(key, None)
            else:
                self._statuses[key] = self._workload(workload)
        return dict(self._statuses)

    def _move(self, keys: Iterable[ResourceKey]) -> set[ResourceKey]:
        """Note which interfaces endpoints name; return these endpoints and all that share an interface with them."""
        found: set[ResourceKey] = set()
        for key in keys:
            found.add(key)
            before = self._interfaces.pop(key, "")
            self._workloads.get(before, set()).discard(key)
            found |= self._workloads.get(before, set())
            workload = self._state.workloads.get(key)
            if workload is not None:
                self._interfaces[key] = workload.interface_name
                rivals = self._workloads.setdefault(workload.interface_name, set())
                rivals.add(key)
                found |= rivals
            if not self._workloads.get(before, True):
                del self._workloads[before]
        return found

    def _workload(self, workload: WorkloadEndpointUpdate) -> EndpointStatus:
        name = workload.interface_name
        governs = any(family.compiler.workloads.get(name) is workload for family in self._families[:1])
        link = self._state.interfaces.get(name)
        if (
            not is_interface_name(name)
            or ("workload", name) in self._broken
            or any(("profile", profile) in self._broken for profile in workload.profiles)
            or _lacks_policy(self._state, workload.tiers)
        ):
            return EndpointStatus.ERROR
        return EndpointStatus.UP if governs and link is not None and link.up else EndpointStatus.DOWN

    def _hosts(self) -> dict[ResourceKey, EndpointStatus]:
        interfaces_of: dict[ResourceKey, list[str]] = {}
        for family in self._families[:1]:
            for name, host in family.compiler.hosts.items():
                interfaces_of.setdefault(host.endpoint, []).append(name)
        statuses: dict[ResourceKey, EndpointStatus] = {}
        for key in self._state.host_endpoints:
            names = interfaces_of.get(key, [])
            links = [self._state.interfaces.get(name) for name in names if name != "*"]
            if not names or any(("host", name) in self._broken for name in names):
                statuses[key] = EndpointStatus.ERROR
            elif all(link is not None and link.up for link in links):
                statuses[key] = EndpointStatus.UP
            else:
                statuses[key] = EndpointStatus.DOWN
        return statuses


def _lacks_policy(state: DesiredState, tiers: Iterable[TierPolicies]) -> bool:
    """Tell whether a policy that should apply is not known: the endpoint drops in its place."""
    return any(policy not in state.policies for tier in tiers for policy in (*tier.ingress, *tier.egress))
