"""The addresses of a host's tunnel devices: given out by IPAM like a pod's, under a handle of the host.

The host's tunnel asks before its first pod does, so with IPIP the first pod's address is the second of the block.
"""

from __future__ import annotations

from enum import StrEnum

from calico_engine.errors import AddressTakenError, NoPoolError, NotFoundError
from calico_engine.ipam.block import Holder, ReleaseRequest
from calico_engine.ipam.client import AssignRequest, AutoAssignRequest, IpamClient
from calico_engine.ipam.pools import PoolUse
from calico_engine.ipam.records import Address, Cidr


class TunnelKind(StrEnum):
    """The value is the address's attribute `type`."""

    IPIP = "ipipTunnelAddress"
    VXLAN = "vxlanTunnelAddress"
    VXLAN_V6 = "vxlanV6TunnelAddress"
    WIREGUARD = "wireguardTunnelAddress"
    WIREGUARD_V6 = "wireguardV6TunnelAddress"

    @property
    def version(self) -> int:
        return 6 if self in (TunnelKind.VXLAN_V6, TunnelKind.WIREGUARD_V6) else 4


_HANDLES = {
    TunnelKind.IPIP: "ipip-tunnel-addr-",
    TunnelKind.VXLAN: "vxlan-tunnel-addr-",
    TunnelKind.VXLAN_V6: "vxlan-v6-tunnel-addr-",
    TunnelKind.WIREGUARD: "wireguard-tunnel-addr-",
    TunnelKind.WIREGUARD_V6: "wireguard-v6-tunnel-addr-",
}


def tunnel_holder(host: str, kind: TunnelKind) -> Holder:
    return Holder(handle_id=_HANDLES[kind] + host, attributes={"node": host, "type": str(kind)})


async def ensure_tunnel_address(
    ipam: IpamClient, host: str, kind: TunnelKind, pools: tuple[Cidr, ...], current: Address | None
) -> Address:
    """Return the address the host's tunnel is to have: the current one if it is the tunnel's and in one of the pools.

    Else what the tunnel had is released and a new address given out. Raises: NoPoolError, also when all are used up.
    """
    holder = tunnel_holder(host, kind)
    if current is not None:
        try:
            found = await ipam.attributes(current)
        except NotFoundError:
            found = None
        if found is not None:
            owner = found.active_owner or {}
            if owner.get("type") == kind and owner.get("node") == host:
                if any(current in cidr for cidr in pools):
                    return current
            elif not owner and found.handle_id is None and await _adopt(ipam, host, holder, current):
                return current
    await release_tunnel_address(ipam, host, kind)
    assignment = await ipam.auto_assign(
        AutoAssignRequest(host=host, version=kind.version, holder=holder, pools=pools, use=PoolUse.TUNNEL)
    )
    if not assignment.addresses:
        reasons = "; ".join(assignment.messages)
        raise NoPoolError(f"no {kind} for {host}: {reasons}; enlarge a pool or release addresses")
    return assignment.addresses[0]


async def release_tunnel_address(ipam: IpamClient, host: str, kind: TunnelKind) -> None:
    """Release what a tunnel has; nothing is right too."""
    handle_id = tunnel_holder(host, kind).handle_id
    assert handle_id is not None
    try:
        await ipam.release_by_handle(handle_id)
    except NotFoundError:
        return


async def _adopt(ipam: IpamClient, host: str, holder: Holder, address: Address) -> bool:
    """Note handle and attributes with an address of the first versions, which had none; False when it got away."""
    await ipam.release_addresses([ReleaseRequest(address)])
    try:
        await ipam.assign(AssignRequest(address=address, host=host, holder=holder))
    except AddressTakenError:
        return False
    return True
