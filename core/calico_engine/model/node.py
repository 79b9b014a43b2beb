"""Nodes, address pools, reservations and the IPAM kinds, as stored (projectcalico.org/v3)."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from calico_engine.model.resource import Resource, camel, register_kind


class _Spec(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True, rename=camel()):
    """Options every spec struct shares."""


class EncapMode(StrEnum):
    NEVER = "Never"
    ALWAYS = "Always"
    CROSS_SUBNET = "CrossSubnet"


class IPPoolSpec(_Spec, frozen=True, rename=camel(("disable_bgp_export", "disableBGPExport"))):
    cidr: str = ""
    vxlan_mode: EncapMode = EncapMode.NEVER
    ipip_mode: EncapMode = EncapMode.NEVER
    nat_outgoing: bool = False
    disabled: bool = False
    disable_bgp_export: bool = False
    block_size: int = 0
    node_selector: str = ""
    namespace_selector: str = ""
    allowed_uses: tuple[str, ...] = ()
    assignment_mode: str = ""


@register_kind("ippools")
class IPPool(Resource, frozen=True):
    spec: IPPoolSpec = IPPoolSpec()


class IPReservationSpec(_Spec, frozen=True, rename=camel(("reserved_cidrs", "reservedCIDRs"))):
    reserved_cidrs: tuple[str, ...] = ()


@register_kind("ipreservations")
class IPReservation(Resource, frozen=True):
    spec: IPReservationSpec = IPReservationSpec()


class NodeBGPSpec(
    _Spec,
    frozen=True,
    rename=camel(
        ("ipv4_ipip_tunnel_addr", "ipv4IPIPTunnelAddr"),
        ("route_reflector_cluster_id", "routeReflectorClusterID"),
    ),
):
    """`ipv4_address` and `ipv6_address` carry the mask of the node's subnet: 192.0.2.1/24."""

    as_number: int | str | None = None
    ipv4_address: str = ""
    ipv6_address: str = ""
    ipv4_ipip_tunnel_addr: str = ""
    route_reflector_cluster_id: str = ""


class NodeAddress(_Spec, frozen=True):
    address: str
    type: str = ""


class NodeInterface(_Spec, frozen=True):
    name: str = ""
    addresses: tuple[str, ...] = ()


class OrchRef(_Spec, frozen=True):
    node_name: str = ""
    orchestrator: str = ""


class NodeWireguardSpec(
    _Spec,
    frozen=True,
    rename=camel(
        ("interface_ipv4_address", "interfaceIPv4Address"), ("interface_ipv6_address", "interfaceIPv6Address")
    ),
):
    interface_ipv4_address: str = ""
    interface_ipv6_address: str = ""


class NodeSpec(
    _Spec,
    frozen=True,
    rename=camel(
        ("ipv4_vxlan_tunnel_addr", "ipv4VXLANTunnelAddr"),
        ("vxlan_tunnel_mac_addr", "vxlanTunnelMACAddr"),
        ("ipv6_vxlan_tunnel_addr", "ipv6VXLANTunnelAddr"),
        ("vxlan_tunnel_mac_addr_v6", "vxlanTunnelMACAddrV6"),
    ),
):
    bgp: NodeBGPSpec | None = None
    ipv4_vxlan_tunnel_addr: str = ""
    vxlan_tunnel_mac_addr: str = ""
    ipv6_vxlan_tunnel_addr: str = ""
    vxlan_tunnel_mac_addr_v6: str = ""
    orch_refs: tuple[OrchRef, ...] = ()
    wireguard: NodeWireguardSpec | None = None
    addresses: tuple[NodeAddress, ...] = ()
    interfaces: tuple[NodeInterface, ...] = ()


class NodeStatus(_Spec, frozen=True, rename=camel(("pod_cidrs", "podCIDRs"))):
    wireguard_public_key: str = ""
    wireguard_public_key_v6: str = ""
    pod_cidrs: tuple[str, ...] = ()


@register_kind("nodes")
class Node(Resource, frozen=True):
    spec: NodeSpec = NodeSpec()
    status: NodeStatus = NodeStatus()


class AllocationAttribute(
    _Spec, frozen=True, rename=camel(("handle_id", "handle_id"), ("active_owner_attrs", "secondary"))
):
    handle_id: str | None = None
    active_owner_attrs: dict[str, str] = {}
    alternate_owner_attrs: dict[str, str] = {}
    released_at: str | None = None


class IPAMBlockSpec(_Spec, frozen=True):
    """One block of addresses. `allocations[ordinal]` is an index into `attributes`, or None when free."""

    cidr: str = ""
    affinity: str | None = None
    affinity_claim_time: str | None = None
    allocations: tuple[int | None, ...] = ()
    unallocated: tuple[int, ...] = ()
    attributes: tuple[AllocationAttribute, ...] = ()
    sequence_number: int = 0
    sequence_number_for_allocation: dict[str, int] = {}
    deleted: bool = False
    strict_affinity: bool = False


@register_kind("ipamblocks")
class IPAMBlock(Resource, frozen=True):
    spec: IPAMBlockSpec = IPAMBlockSpec()


class BlockAffinitySpec(_Spec, frozen=True):
    state: str = ""
    node: str = ""
    type: str = ""
    cidr: str = ""
    deleted: str = "false"


@register_kind("blockaffinities")
class BlockAffinity(Resource, frozen=True):
    spec: BlockAffinitySpec = BlockAffinitySpec()


class IPAMHandleSpec(_Spec, frozen=True, rename=camel(("handle_id", "handleID"))):
    handle_id: str = ""
    block: dict[str, int] = {}
    deleted: bool = False


@register_kind("ipamhandles")
class IPAMHandle(Resource, frozen=True):
    spec: IPAMHandleSpec = IPAMHandleSpec()


class IPAMConfigurationSpec(_Spec, frozen=True):
    strict_affinity: bool = False
    auto_allocate_blocks: bool = True
    max_blocks_per_host: int = 0
    ip_cooldown_seconds: int | None = None


@register_kind("ipamconfigurations")
class IPAMConfiguration(Resource, frozen=True):
    spec: IPAMConfigurationSpec = IPAMConfigurationSpec()
