"""Sets as the kernel has them: one family each, with the fixed sets of pools and hosts.

Pure. Source: felix/dataplane/linux/{masq_mgr,ipip_mgr,vxlan_mgr}.go.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from calico_engine.messages import PoolEncap, PoolUpdate, SetKind
from calico_engine.ruleset import names
from calico_engine.ruleset.addresses import is_family
from calico_engine.ruleset.ir import Family, SetData
from calico_engine.ruleset.state import DesiredState
from calico_engine.ruleset.static_common import Tunnels
from calico_engine.settings import FelixSettings


def family_members(members: Collection[str], kind: SetKind, family: Family) -> frozenset[str]:
    """Return those members that are of this family."""
    if kind is SetKind.IP_PORT:
        return frozenset(member for member in members if is_family(member.partition(",")[0], family))
    return frozenset(member for member in members if is_family(member, family))


def compile_sets(state: DesiredState, settings: FelixSettings, family: Family) -> dict[str, SetData]:
    """Return every set by id: those of selectors and services, and the fixed ones."""
    sets = {
        set_id: SetData(set_id, entry.kind, family_members(entry.members, entry.kind, family))
        for set_id, entry in state.sets.items()
    }
    return sets | compile_fixed_sets(state, settings, family)


def compile_fixed_sets(state: DesiredState, settings: FelixSettings, family: Family) -> dict[str, SetData]:
    """Return the sets of pools, of pools to masquerade and, where rules use them, of hosts and of VXLAN peers."""
    pools = state.pools.values()
    contents: dict[str, Iterable[str]] = {
        names.all_pools_set(settings.layout): (pool.cidr for pool in pools),
        names.MASQUERADE_POOLS_SET: (pool.cidr for pool in pools if pool.nat_outgoing),
    }
    tunnels = find_tunnels(state, settings, family)
    if tunnels.ipip or settings.nat_outgoing_exclusions == "IPPoolsAndHostIPs":
        addresses = (a for node in state.nodes.values() for a in (node.ipv4_address, node.ipv6_address))
        contents[names.all_hosts_set(settings.layout)] = addresses
    if tunnels.vxlan:
        parents = (a for vtep in state.vteps.values() for a in (vtep.parent_ipv4, vtep.parent_ipv6))
        contents[names.ALL_VXLAN_SET] = parents
    return {
        set_id: SetData(set_id, SetKind.NET, family_members(set(filter(None, members)), SetKind.NET, family))
        for set_id, members in contents.items()
    }


def compile_used_fixed_sets(
    state: DesiredState, settings: FelixSettings, family: Family
) -> dict[str, SetData]:
    """Return those of the fixed sets that a native ruleset looks up: each costs identities."""
    fixed = compile_fixed_sets(state, settings, family)
    if not masquerades(state, family):
        del fixed[names.all_pools_set(settings.layout)], fixed[names.MASQUERADE_POOLS_SET]
    return fixed


def masquerades(state: DesiredState, family: Family) -> bool:
    """Tell whether any pool of this family wants outgoing NAT."""
    return any(pool.nat_outgoing and is_family(pool.cidr, family) for pool in state.pools.values())


def find_tunnels(state: DesiredState, settings: FelixSettings, family: Family) -> Tunnels:
    """Return the encapsulations in use: as configured, else as any pool of this family asks. IPIP carries IPv4."""
    pools = [pool for pool in state.pools.values() if is_family(pool.cidr, family)]
    v4 = family is Family.V4
    return Tunnels(
        ipip=v4 and _in_use(settings.ip_in_ip_enabled, PoolEncap.IPIP, pools),
        vxlan=_in_use(settings.vxlan_enabled if v4 else None, PoolEncap.VXLAN, pools),
    )


def _in_use(configured: bool | None, encap: PoolEncap, pools: Iterable[PoolUpdate]) -> bool:  # noqa: FBT001
    return configured if configured is not None else any(pool.encap is encap for pool in pools)
