"""Nodes, address pools, reservations and the IPAM kinds.

Source: api/pkg/apis/projectcalico/v3/ippool.go and libcalico-go/lib/validator/v3.
"""

from __future__ import annotations

import ipaddress

from calico_engine.model.canonical import (
    canonical_interface_address,
    canonical_mac,
    ip_version,
    mask_network,
    parse_as_number,
    parse_network,
)
from calico_engine.model.node import (
    BlockAffinity,
    EncapMode,
    IPAMBlock,
    IPAMConfiguration,
    IPPool,
    IPPoolSpec,
    IPReservation,
    Node,
    NodeBGPSpec,
)
from calico_engine.model.shape import FieldError
from calico_engine.model.validate.checks import (
    check,
    check_address,
    check_choice,
    check_length,
    check_network,
    check_printable,
    check_range,
    check_selector,
    check_unique,
    forbid,
    require,
)

_USES = ("Workload", "Tunnel", "LoadBalancer")
_LINK_LOCAL = (ipaddress.ip_network("169.254.0.0/16"), ipaddress.ip_network("fe80::/10"))
#: Allowed block sizes, and the one in force where a pool names none.
_BLOCK_SIZES = {4: (20, 32), 6: (116, 128)}
_DEFAULT_BLOCK_SIZES = {4: 26, 6: 122}


def check_pool(pool: IPPool) -> None:
    spec = pool.spec
    require("spec.cidr", spec.cidr)
    check_network("spec.cidr", spec.cidr)
    version = ip_version(spec.cidr)
    network = parse_network(spec.cidr)
    for link_local in _LINK_LOCAL:
        if network.version == link_local.version and network.overlaps(link_local):
            raise FieldError("spec.cidr", f"{spec.cidr} overlaps the link-local range {link_local}")
    if EncapMode.NEVER not in (spec.ipip_mode, spec.vxlan_mode):
        raise FieldError("spec.vxlanMode", "cannot be enabled together with ipipMode")
    if version == 6 and spec.ipip_mode is not EncapMode.NEVER:
        raise FieldError("spec.ipipMode", "must be Never: IPIP does not carry IPv6 pools")
    check_selector("spec.nodeSelector", spec.node_selector)
    check_selector("spec.namespaceSelector", spec.namespace_selector)
    check_choice("spec.assignmentMode", spec.assignment_mode, ("Automatic", "Manual"))
    if spec.block_size:
        check_range("spec.blockSize", spec.block_size, *_BLOCK_SIZES[version])
    block_size = spec.block_size or _DEFAULT_BLOCK_SIZES[version]
    if not spec.disabled and network.prefixlen > block_size:
        raise FieldError("spec.cidr", f"{spec.cidr} is smaller than one block (/{block_size})")
    _check_uses(spec)


def _check_uses(spec: IPPoolSpec) -> None:
    check_length("spec.allowedUses", spec.allowed_uses, 10)
    check_unique("spec.allowedUses", spec.allowed_uses)
    for index, use in enumerate(spec.allowed_uses):
        require(f"spec.allowedUses[{index}]", use)
        check_choice(f"spec.allowedUses[{index}]", use, _USES)
    if "Tunnel" in spec.allowed_uses:
        forbid("spec.namespaceSelector", spec.namespace_selector, "cannot be given for a pool of use Tunnel")
    if "LoadBalancer" not in spec.allowed_uses:
        return
    if len(spec.allowed_uses) > 1:
        raise FieldError("spec.allowedUses", "LoadBalancer cannot be combined with other uses")
    for field, mode in (("ipipMode", spec.ipip_mode), ("vxlanMode", spec.vxlan_mode)):
        if mode is not EncapMode.NEVER:
            raise FieldError(f"spec.{field}", "must be Never for a pool of use LoadBalancer")
    forbid("spec.disableBGPExport", spec.disable_bgp_export, "must be false for a pool of use LoadBalancer")
    if spec.node_selector not in ("", "all()"):
        raise FieldError("spec.nodeSelector", "must be all() for a pool of use LoadBalancer")


def check_reservation(reservation: IPReservation) -> None:
    for index, cidr in enumerate(reservation.spec.reserved_cidrs):
        check(f"spec.reservedCIDRs[{index}]", mask_network, cidr)


def check_node(node: Node) -> None:
    spec = node.spec
    if spec.bgp is not None:
        _check_node_bgp(spec.bgp)
    for path, address, version in (
        ("spec.ipv4VXLANTunnelAddr", spec.ipv4_vxlan_tunnel_addr, 4),
        ("spec.ipv6VXLANTunnelAddr", spec.ipv6_vxlan_tunnel_addr, 6),
    ):
        if address:
            check_address(path, address, version)
    for path, mac in (
        ("spec.vxlanTunnelMACAddr", spec.vxlan_tunnel_mac_addr),
        ("spec.vxlanTunnelMACAddrV6", spec.vxlan_tunnel_mac_addr_v6),
    ):
        if mac:
            check(path, canonical_mac, mac)
    if spec.wireguard is not None:
        if spec.wireguard.interface_ipv4_address:
            check_address("spec.wireguard.interfaceIPv4Address", spec.wireguard.interface_ipv4_address, 4)
        if spec.wireguard.interface_ipv6_address:
            check_address("spec.wireguard.interfaceIPv6Address", spec.wireguard.interface_ipv6_address, 6)
    for index, item in enumerate(spec.addresses):
        path = f"spec.addresses[{index}]"
        check(f"{path}.address", mask_network, item.address)
        check_choice(f"{path}.type", item.type, ("CalicoNodeIP", "InternalIP", "ExternalIP"))
    for index, interface in enumerate(spec.interfaces):
        check_printable(f"spec.interfaces[{index}].name", interface.name)
    for index, reference in enumerate(spec.orch_refs):
        check_printable(f"spec.orchRefs[{index}].nodeName", reference.node_name)


def _check_node_bgp(bgp: NodeBGPSpec) -> None:
    if bgp == NodeBGPSpec():
        raise FieldError("spec.bgp", "must not be empty; leave it out")
    if bgp.as_number is not None:
        try:
            parse_as_number(bgp.as_number)
        except ValueError as error:
            raise FieldError("spec.bgp.asNumber", str(error)) from None
    for path, address, version in (
        ("spec.bgp.ipv4Address", bgp.ipv4_address, 4),
        ("spec.bgp.ipv6Address", bgp.ipv6_address, 6),
    ):
        if address:
            check(path, canonical_interface_address, address)
            if ip_version(address) != version:
                raise FieldError(path, f"{address} is not IPv{version}")
    for path, address in (
        ("spec.bgp.ipv4IPIPTunnelAddr", bgp.ipv4_ipip_tunnel_addr),
        ("spec.bgp.routeReflectorClusterID", bgp.route_reflector_cluster_id),
    ):
        if address:
            check_address(path, address, 4)


def check_block(block: IPAMBlock) -> None:
    spec = block.spec
    check_network("spec.cidr", spec.cidr)
    size = parse_network(spec.cidr).num_addresses
    if len(spec.allocations) > size:
        raise FieldError(
            "spec.allocations", f"has {len(spec.allocations)} entries; {spec.cidr} has {size} addresses"
        )
    for index, attribute in enumerate(spec.allocations):
        if attribute is not None and not 0 <= attribute < len(spec.attributes):
            raise FieldError(f"spec.allocations[{index}]", f"{attribute} is no index into attributes")
    for index, ordinal in enumerate(spec.unallocated):
        check_range(f"spec.unallocated[{index}]", ordinal, 0, size - 1)
    if spec.affinity is not None:
        check_printable("spec.affinity", spec.affinity)


def check_affinity(affinity: BlockAffinity) -> None:
    check_network("spec.cidr", affinity.spec.cidr)
    check_choice("spec.state", affinity.spec.state, ("confirmed", "pending", "pendingDeletion"))
    check_printable("spec.node", affinity.spec.node)


def check_ipam_configuration(configuration: IPAMConfiguration) -> None:
    spec = configuration.spec
    check_range("spec.maxBlocksPerHost", spec.max_blocks_per_host, 0, 2**31 - 1)
    if not spec.strict_affinity and not spec.auto_allocate_blocks:
        raise FieldError("spec.autoAllocateBlocks", "must be true where strictAffinity is false")
