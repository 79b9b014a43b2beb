"""Everything for one family in one call: what render, tests and the interpreter work on.

Pure. The table dataplanes make the same pieces one by one, as objects change; their sum is this.
"""

from __future__ import annotations

from collections.abc import Iterable

from calico_engine.messages import WorkloadEndpointUpdate
from calico_engine.ruleset.actions import Chains
from calico_engine.ruleset.compile_dispatch import compile_host_dispatch, compile_workload_dispatch
from calico_engine.ruleset.compile_endpoint import compile_workload
from calico_engine.ruleset.compile_host import compile_host, resolve_host_endpoints
from calico_engine.ruleset.compile_nat import (
    compile_cidr_block,
    compile_floating_ips,
    compile_nat_outgoing,
    compile_rpf_skip,
)
from calico_engine.ruleset.compile_policy import compile_policy, compile_profile
from calico_engine.ruleset.compile_sets import compile_sets, find_tunnels, masquerades
from calico_engine.ruleset.compile_static import compile_static
from calico_engine.ruleset.ir import Family, Ruleset
from calico_engine.ruleset.names import is_interface_name
from calico_engine.ruleset.references import reachable, stub_rules
from calico_engine.ruleset.state import DesiredState
from calico_engine.settings import FelixSettings


def compile_world(state: DesiredState, settings: FelixSettings, family: Family) -> Ruleset:
    """Return all chains, hooks and sets of one family, not yet lowered to any backend.

    Chains that no packet can get to are left out; those that are referred to and missing are stubs that fail closed.
    """
    static = compile_static(settings, family, find_tunnels(state, settings, family))
    chains: Chains = dict(static.chains)
    for policy in state.policies.values():
        chains |= compile_policy(policy, settings, family)
    for profile in state.profiles.values():
        chains |= compile_profile(profile, settings, family)
    chains |= _workloads(state, settings, family)
    chains |= _hosts(state, settings, family)
    workloads = governing_workloads(state.workloads.values()).values()
    chains |= compile_nat_outgoing(settings, family, active=masquerades(state, family))
    chains |= compile_floating_ips(workloads, settings, family)
    chains |= compile_rpf_skip(workloads, settings, family)
    chains |= compile_cidr_block((), settings, family)
    needed = sorted(reachable(chains, static.hooks, static.appends))
    return Ruleset(
        family=family,
        chains={key: chains[key] if key in chains else stub_rules(key) for key in needed},
        hooks=static.hooks,
        appends=static.appends,
        sets=compile_sets(state, settings, family),
    )


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
