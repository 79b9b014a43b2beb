"""Which endpoints are up, and what could not be programmed as it was asked for.

Pure. An endpoint is up when its interface is up and everything that applies to it is programmed; what is closed for
want of a set, or because the kernel refused a chain, makes it an error. Source: felix/dataplane/linux/endpoint_mgr.go.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from calico_engine.messages import TierPolicies
from calico_engine.model.resource import ResourceKey
from calico_engine.plugin.protocols import EndpointStatus
from calico_engine.ruleset.names import is_interface_name
from calico_engine.ruleset.state import DesiredState
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


def endpoint_status(
    state: DesiredState, families: Sequence[FamilyTables]
) -> dict[ResourceKey, EndpointStatus]:
    """Return the status of every endpoint of this node."""
    broken: set[Part] = set()
    for family in families:
        broken |= _broken_parts(family)
    broken_profiles = {key for kind, key in broken if kind == "profile"}
    governing = families[0].compiler if families else None
    statuses: dict[ResourceKey, EndpointStatus] = {}
    for key, workload in state.workloads.items():
        name = workload.interface_name
        governs = governing is not None and governing.workloads.get(name) is workload
        link = state.interfaces.get(name)
        if (
            not is_interface_name(name)
            or ("workload", name) in broken
            or not broken_profiles.isdisjoint(workload.profiles)
            or _lacks_policy(state, workload.tiers)
        ):
            statuses[key] = EndpointStatus.ERROR
        elif governs and link is not None and link.up:
            statuses[key] = EndpointStatus.UP
        else:
            statuses[key] = EndpointStatus.DOWN
    interfaces_of: dict[ResourceKey, list[str]] = {}
    for name, host in governing.hosts.items() if governing else ():
        interfaces_of.setdefault(host.endpoint, []).append(name)
    for key in state.host_endpoints:
        names = interfaces_of.get(key, [])
        links = [state.interfaces.get(name) for name in names if name != "*"]
        if not names or any(("host", name) in broken for name in names):
            statuses[key] = EndpointStatus.ERROR
        elif all(link is not None and link.up for link in links):
            statuses[key] = EndpointStatus.UP
        else:
            statuses[key] = EndpointStatus.DOWN
    return statuses


def _lacks_policy(state: DesiredState, tiers: Iterable[TierPolicies]) -> bool:
    """Tell whether a policy that should apply is not known: the endpoint drops in its place."""
    return any(policy not in state.policies for tier in tiers for policy in (*tier.ingress, *tier.egress))
