"""What other plugins need to know of nodes and pools: addresses, subnets, VXLAN tunnel end points, encapsulation.

Pure. Source: felix/calc/l3_route_resolver.go (which address of a node counts), vxlan_resolver.go (MACs),
felix/dataplane/linux/masq_mgr.go (pools for load balancers only are not part of the network).
"""

from __future__ import annotations

import hashlib
from ipaddress import ip_interface

from calico_engine.calc.nets import canonical_cidr, canonical_hosts
from calico_engine.messages import NodeUpdate, PoolEncap, PoolUpdate, VtepUpdate
from calico_engine.model.node import EncapMode, IPPool, Node

_LOAD_BALANCER_ONLY = ("LoadBalancer",)
# Where a node without a BGP section has its address, best first.
_ADDRESS_TYPES = ("InternalIP", "ExternalIP")


def resolve_node(name: str, node: Node) -> NodeUpdate:
    """Return a node's own addresses and subnets. Raises: ValueError."""
    spec = node.spec
    found: dict[int, tuple[str, str]] = {}
    if spec.bgp is not None and (spec.bgp.ipv4_address or spec.bgp.ipv6_address):
        candidates = [text for text in (spec.bgp.ipv4_address, spec.bgp.ipv6_address) if text]
    else:
        candidates = [each.address for kind in _ADDRESS_TYPES for each in spec.addresses if each.type == kind]
    for text in candidates:
        interface = ip_interface(text)
        known_subnet = interface.network.prefixlen < interface.network.max_prefixlen
        network = str(interface.network) if known_subnet else ""
        found.setdefault(interface.version, (str(interface.ip), network))
    ipv4, ipv4_network = found.get(4, ("", ""))
    ipv6, ipv6_network = found.get(6, ("", ""))
    others = [text for each in spec.addresses if (text := _address(each.address)) not in ("", ipv4, ipv6)]
    tunnel = spec.bgp.ipv4_ipip_tunnel_addr if spec.bgp is not None else ""
    return NodeUpdate(
        node=name,
        ipv4_address=ipv4,
        ipv4_network=ipv4_network,
        ipv6_address=ipv6,
        ipv6_network=ipv6_network,
        other_addresses=tuple(dict.fromkeys(others)),
        ipip_tunnel_address=canonical_hosts((tunnel,))[0] if tunnel else "",
    )


def _address(text: str) -> str:
    """Return a node's further address; "" for a name, which nodes may have beside addresses."""
    try:
        return canonical_hosts((text,))[0]
    except ValueError:
        return ""


def resolve_vtep(update: NodeUpdate, node: Node) -> VtepUpdate | None:
    """Return a node's VXLAN tunnel end point, None while neither family has both of its addresses."""
    spec = node.spec
    fields: dict[str, str] = {}
    if spec.ipv4_vxlan_tunnel_addr and update.ipv4_address:
        fields["parent_ipv4"] = update.ipv4_address
        fields["ipv4_address"] = canonical_hosts((spec.ipv4_vxlan_tunnel_addr,))[0]
        fields["mac"] = spec.vxlan_tunnel_mac_addr or vtep_mac(update.node)
    if spec.ipv6_vxlan_tunnel_addr and update.ipv6_address:
        fields["parent_ipv6"] = update.ipv6_address
        fields["ipv6_address"] = canonical_hosts((spec.ipv6_vxlan_tunnel_addr,))[0]
        fields["mac_v6"] = spec.vxlan_tunnel_mac_addr_v6 or vtep_mac(update.node + "-v6")
    return VtepUpdate(node=update.node, **fields) if fields else None


def vtep_mac(name: str) -> str:
    """Return the MAC address every node computes alike for a node's VXLAN device."""
    digest = hashlib.sha1(name.encode(), usedforsecurity=False).digest()
    return "66:" + ":".join([f"{byte:02x}" for byte in digest[:5]])


def resolve_pool(pool: IPPool) -> PoolUpdate | None:
    """Return what a pool means for routes and NAT; None for one that holds no workloads. Raises: ValueError."""
    spec = pool.spec
    if spec.allowed_uses == _LOAD_BALANCER_ONLY:
        return None
    encap = PoolEncap.NONE
    if spec.vxlan_mode != EncapMode.NEVER:
        encap = PoolEncap.VXLAN
    elif spec.ipip_mode != EncapMode.NEVER:
        encap = PoolEncap.IPIP
    return PoolUpdate(
        cidr=canonical_cidr(spec.cidr),
        nat_outgoing=spec.nat_outgoing,
        encap=encap,
        cross_subnet=EncapMode.CROSS_SUBNET in (spec.vxlan_mode, spec.ipip_mode),
        disabled=spec.disabled,
    )
