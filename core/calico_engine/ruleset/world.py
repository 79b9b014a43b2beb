"""Everything for one family in one call: what render, tests and the interpreter work on.

Pure. The table dataplanes make the same pieces one by one, as objects change; their sum is this.
"""

from __future__ import annotations

from collections.abc import Iterable

from calico_engine.messages import ActiveRule, SetKind, WorkloadEndpointUpdate
from calico_engine.model.resource import ResourceKey
from calico_engine.ruleset.actions import Chains
from calico_engine.ruleset.assigned import AssignedSources
from calico_engine.ruleset.classify import Classifier, PolicyList
from calico_engine.ruleset.compile_dispatch import compile_host_dispatch, compile_workload_dispatch
from calico_engine.ruleset.compile_endpoint import compile_workload
from calico_engine.ruleset.compile_host import compile_host, resolve_host_endpoints
from calico_engine.ruleset.compile_list import (
    CLOSED,
    EndpointList,
    compile_list,
    compile_list_dispatch,
    endpoint_lists,
    policy_list,
)
from calico_engine.ruleset.compile_nat import (
    compile_cidr_block,
    compile_floating_ips,
    compile_nat_outgoing,
)
from calico_engine.ruleset.compile_policy import INGRESS, compile_policy, compile_profile, policy_layers
from calico_engine.ruleset.compile_sets import (
    compile_sets,
    compile_used_fixed_sets,
    find_tunnels,
    masquerades,
)
from calico_engine.ruleset.compile_sources import compile_anti_spoof, compile_rpf_skip
from calico_engine.ruleset.compile_static import compile_static
from calico_engine.ruleset.ir import Family, Layer, Ruleset
from calico_engine.ruleset.names import is_interface_name
from calico_engine.ruleset.references import reachable, stub_rules
from calico_engine.ruleset.state import DesiredState, PolicyForm
from calico_engine.ruleset.static_native import find_needs
from calico_engine.settings import FelixSettings, Layout


def compile_world(state: DesiredState, settings: FelixSettings, family: Family) -> Ruleset:
    """Return all chains, hooks and sets of one family, not yet lowered to any backend.

    Chains that no packet can get to are left out; those that are referred to and missing are stubs that fail closed.
    """
    chains: Chains = {}
    for policy in state.policies.values():
        chains |= compile_policy(policy, settings, family)
    for profile in state.profiles.values():
        chains |= compile_profile(profile, settings, family)
    classifier = Classifier(family) if settings.layout is Layout.NATIVE else None
    if classifier is None:
        chains |= _workloads(state, settings, family)
    else:
        chains |= _lists(state, settings, classifier)
    chains |= _hosts(state, settings, family)
    workloads = governing_workloads(state.workloads.values()).values()
    chains |= compile_nat_outgoing(settings, family, active=masquerades(state, family))
    chains |= compile_floating_ips(workloads, settings, family)
    if settings.layout is Layout.NATIVE:
        chains |= compile_anti_spoof(workloads, settings, family)
    else:
        chains |= compile_rpf_skip(workloads, settings, family)
    chains |= compile_cidr_block((), settings, family)
    tunnels = find_tunnels(state, settings, family)
    static = compile_static(settings, family, tunnels, find_needs(chains))
    chains |= static.chains
    needed = sorted(reachable(chains, static.hooks, static.appends))
    return Ruleset(
        family=family,
        chains={key: chains[key] if key in chains else stub_rules(key) for key in needed},
        hooks=static.hooks,
        appends=static.appends,
        sets=compile_sets(state, settings, family),
        verdict_tables=dict(classifier.tables) if classifier is not None else {},
        identities=classifier.identities if classifier is not None else None,
        sources=_sources(state, family) if settings.layout is Layout.NATIVE else frozenset(),
        interfaces=frozenset(governing_workloads(state.workloads.values()))
        if settings.layout is Layout.NATIVE
        else frozenset(),
    )


def _sources(state: DesiredState, family: Family) -> frozenset[tuple[str, str]]:
    sources = AssignedSources(family)
    for interface, update in governing_workloads(state.workloads.values()).items():
        sources.assign(interface, update.ip_networks)
    return sources.pairs


def governing_workloads(endpoints: Iterable[WorkloadEndpointUpdate]) -> dict[str, WorkloadEndpointUpdate]:
    """Return the endpoint that governs each interface name: of several that claim one, the first by key.

    One whose interface name no rule may match on governs nothing.
    """
    governing: dict[str, WorkloadEndpointUpdate] = {}
    for endpoint in sorted(endpoints, key=lambda update: update.endpoint):
        if is_interface_name(endpoint.interface_name):
            governing.setdefault(endpoint.interface_name, endpoint)
    return governing


def _workloads(state: DesiredState, settings: FelixSettings, family: Family) -> Chains:
    governing = governing_workloads(state.workloads.values())
    chains = compile_workload_dispatch(governing, settings)
    for endpoint in governing.values():
        chains |= compile_workload(endpoint, state.policies, settings, family)
    return chains


def _hosts(state: DesiredState, settings: FelixSettings, family: Family) -> Chains:
    resolved = resolve_host_endpoints(state.host_endpoints.values(), state.interfaces.values(), settings)
    chains = compile_host_dispatch(resolved, settings)
    for name, endpoint in resolved.items():
        chains |= compile_host(name, endpoint, state.policies, settings, family)
    return chains


def _lists(state: DesiredState, settings: FelixSettings, classifier: Classifier) -> Chains:
    """Return the native layout's chains of workloads, and have their lists classified."""
    endpoints = {
        name: endpoint_lists(update) for name, update in governing_workloads(state.workloads.values()).items()
    }
    lists = {of.chain: of for entry in endpoints.values() for of in (entry.inbound, entry.outbound)}
    family = classifier.family
    used = compile_used_fixed_sets(state, settings, family)
    for set_id, data in compile_sets(state, settings, family).items():
        if data.kind is SetKind.NET and (set_id in state.sets or set_id in used):
            classifier.set_members(set_id, data.members)
    if state.form is PolicyForm.CLASSIFIED:
        for name, of in lists.items():
            classifier.set_list(name, _policy_list(of, state, settings))
    for _ in classifier.settle():
        pass
    compiled = compile_list_dispatch(endpoints, settings)
    for name, of in lists.items():
        table = classifier.exact.get(name)
        compiled |= compile_list(
            of,
            state.policies,
            settings,
            () if table is None else table.levels,
            to_linear=classifier.needs_linear(name),
        )
    return compiled


def _policy_list(of: EndpointList, state: DesiredState, settings: FelixSettings) -> PolicyList:
    """Return a list for classification. A policy without a chain is closed, a profile without one allows nothing."""

    def policy_rules(key: ResourceKey, direction: str) -> tuple[ActiveRule, ...]:
        update = state.policies.get(key)
        if update is None or Layer.FILTER not in policy_layers(update, settings):
            return CLOSED
        return update.inbound if direction == INGRESS else update.outbound

    def profile_rules(profile: str, direction: str) -> tuple[ActiveRule, ...]:
        update = state.profiles.get(profile)
        if update is None:
            return ()
        return update.inbound if direction == INGRESS else update.outbound

    return policy_list(of, policy_rules, profile_rules, settings)
