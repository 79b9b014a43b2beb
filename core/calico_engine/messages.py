"""The policy-level facts that the calculation graph tells this node's plugins.

Pure data. A Batch is the unit handed to a plugin: an ordered tuple of Messages in which everything a message refers
to came earlier (sets, then policies and profiles, then endpoints; for removals the reverse). Both address families
travel together: members, addresses and routes are text in canonical form, a ':' marks IPv6.

    members   SetKind.NET      "10.0.0.1", "10.1.0.0/16", "fd00::1", "fd00::/64"   (no "/32" or "/128")
              SetKind.IP_PORT  "10.0.0.1,tcp:80", "fd00::1,udp:53"
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from calico_engine.model.endpoint import IPNAT
from calico_engine.model.policy import Action
from calico_engine.model.policy import PortRange as PortRange
from calico_engine.model.resource import ResourceKey
from calico_engine.settings import FelixSettings


class _Message(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Options every message shares."""


class SetKind(StrEnum):
    NET = "net"
    IP_PORT = "ip,port"


class IPSetUpdate(_Message, frozen=True):
    """A set became active, or was replaced: its whole membership."""

    set_id: str
    kind: SetKind
    members: frozenset[str]


class IPSetDelta(_Message, frozen=True):
    set_id: str
    added: frozenset[str]
    removed: frozenset[str]


class IPSetRemove(_Message, frozen=True):
    set_id: str


class ActiveRule(_Message, frozen=True, omit_defaults=True):
    """A rule with selectors resolved to set ids.

    Criteria are ANDed. Within one side, `src_ports` and `src_named_port_sets` together form one criterion: any of them
    matches. Several nets are alternatives; several set ids must all match. A `not_` criterion must not match:
    several `not_nets` exclude each, several `not_` sets exclude each. `icmp_code` is None for any code.
    """

    action: Action
    ip_version: int | None = None
    protocol: int | None = None
    icmp_type: int | None = None
    icmp_code: int | None = None
    src_nets: tuple[str, ...] = ()
    src_ports: tuple[PortRange, ...] = ()
    src_named_port_sets: tuple[str, ...] = ()
    src_sets: tuple[str, ...] = ()
    dst_nets: tuple[str, ...] = ()
    dst_ports: tuple[PortRange, ...] = ()
    dst_named_port_sets: tuple[str, ...] = ()
    dst_sets: tuple[str, ...] = ()
    dst_ip_port_sets: tuple[str, ...] = ()
    not_protocol: int | None = None
    not_icmp_type: int | None = None
    not_icmp_code: int | None = None
    not_src_nets: tuple[str, ...] = ()
    not_src_ports: tuple[PortRange, ...] = ()
    not_src_named_port_sets: tuple[str, ...] = ()
    not_src_sets: tuple[str, ...] = ()
    not_dst_nets: tuple[str, ...] = ()
    not_dst_ports: tuple[PortRange, ...] = ()
    not_dst_named_port_sets: tuple[str, ...] = ()
    not_dst_sets: tuple[str, ...] = ()


class ActivePolicyUpdate(_Message, frozen=True):
    """A policy that applies to at least one local endpoint. Rule i of a list comes from rule i of the resource."""

    policy: ResourceKey
    tier: str
    inbound: tuple[ActiveRule, ...]
    outbound: tuple[ActiveRule, ...]
    untracked: bool = False
    pre_dnat: bool = False
    selector: str = ""


class ActivePolicyRemove(_Message, frozen=True):
    policy: ResourceKey


class ActiveProfileUpdate(_Message, frozen=True):
    profile: str
    inbound: tuple[ActiveRule, ...]
    outbound: tuple[ActiveRule, ...]


class ActiveProfileRemove(_Message, frozen=True):
    profile: str


class TierPolicies(_Message, frozen=True):
    """One tier's policies for one endpoint, in evaluation order; a direction without policies is not enforced."""

    tier: str
    default_action: Action
    ingress: tuple[ResourceKey, ...] = ()
    egress: tuple[ResourceKey, ...] = ()


class WorkloadEndpointUpdate(_Message, frozen=True):
    """A local workload endpoint and the policies that apply to it. Networks are canonical CIDRs with a mask.

    A profile id without an ActiveProfile message names a profile that does not exist: it allows nothing.
    """

    endpoint: ResourceKey
    interface_name: str
    ip_networks: tuple[str, ...]
    tiers: tuple[TierPolicies, ...] = ()
    profiles: tuple[str, ...] = ()
    mac: str = ""
    ip_nats: tuple[IPNAT, ...] = ()
    allow_spoofed_source_prefixes: tuple[str, ...] = ()
    labels: dict[str, str] = {}
    orchestrator: str = ""


class WorkloadEndpointRemove(_Message, frozen=True):
    endpoint: ResourceKey


class HostEndpointUpdate(_Message, frozen=True):
    """A local host endpoint. `interface_name` is a name, "*" for all, or "" to be found by `expected_ips`."""

    endpoint: ResourceKey
    interface_name: str
    expected_ips: tuple[str, ...]
    tiers: tuple[TierPolicies, ...] = ()
    untracked_tiers: tuple[TierPolicies, ...] = ()
    pre_dnat_tiers: tuple[TierPolicies, ...] = ()
    forward_tiers: tuple[TierPolicies, ...] = ()
    profiles: tuple[str, ...] = ()


class HostEndpointRemove(_Message, frozen=True):
    endpoint: ResourceKey


class RouteKind(StrEnum):
    LOCAL_WORKLOAD = "local-workload"  # one address of a local endpoint
    LOCAL_BLOCK = (
        "local-block"  # a block affine to this node: blackholed, so that a free address goes nowhere
    )
    REMOTE_BLOCK = "remote-block"  # a block affine to another node
    REMOTE_WORKLOAD = "remote-workload"  # one address borrowed from, or outside of, its node's blocks
    REMOTE_HOST = "remote-host"  # another node's own address


class PoolEncap(StrEnum):
    NONE = "none"  # in a pool, routed as it is
    IPIP = "ipip"
    VXLAN = "vxlan"
    NO_POOL = "no-pool"


class RouteUpdate(_Message, frozen=True):
    """Where a destination lives. `next_hop` is the owning node's address, "" while unknown (then: unreachable).

    `encap` is what this destination needs from this node, cross-subnet already decided by `same_subnet`.
    """

    dst: str
    kind: RouteKind
    node: str
    next_hop: str = ""
    encap: PoolEncap = PoolEncap.NO_POOL
    same_subnet: bool = False
    nat_outgoing: bool = False
    borrowed: bool = False


class RouteRemove(_Message, frozen=True):
    dst: str


class PoolUpdate(_Message, frozen=True):
    """An enabled or disabled pool: both kinds count as in-network, so that NAT keeps off it."""

    cidr: str
    nat_outgoing: bool
    encap: PoolEncap
    cross_subnet: bool = False
    disabled: bool = False


class PoolRemove(_Message, frozen=True):
    cidr: str


class NodeUpdate(_Message, frozen=True):
    """A node's own addresses; `ipv4_network` is its subnet, "" when unknown."""

    node: str
    ipv4_address: str = ""
    ipv4_network: str = ""
    ipv6_address: str = ""
    ipv6_network: str = ""
    other_addresses: tuple[str, ...] = ()
    ipip_tunnel_address: str = ""


class NodeRemove(_Message, frozen=True):
    node: str


class VtepUpdate(_Message, frozen=True):
    """A node's VXLAN tunnel end point: where to send, and to which inner address and MAC."""

    node: str
    parent_ipv4: str = ""
    ipv4_address: str = ""
    mac: str = ""
    parent_ipv6: str = ""
    ipv6_address: str = ""
    mac_v6: str = ""


class VtepRemove(_Message, frozen=True):
    node: str


class ConfigUpdate(_Message, frozen=True):
    """This node's settings as resolved from environment, profile, datastore and defaults."""

    settings: FelixSettings


class InterfaceUpdate(_Message, frozen=True):
    """A link of this node, as the kernel reports it (from the link monitor, not from the graph)."""

    name: str
    index: int
    up: bool
    addresses: frozenset[str] = frozenset()


class InterfaceRemove(_Message, frozen=True):
    name: str


Message = (
    IPSetUpdate
    | IPSetDelta
    | IPSetRemove
    | ActivePolicyUpdate
    | ActivePolicyRemove
    | ActiveProfileUpdate
    | ActiveProfileRemove
    | WorkloadEndpointUpdate
    | WorkloadEndpointRemove
    | HostEndpointUpdate
    | HostEndpointRemove
    | RouteUpdate
    | RouteRemove
    | PoolUpdate
    | PoolRemove
    | NodeUpdate
    | NodeRemove
    | VtepUpdate
    | VtepRemove
    | ConfigUpdate
    | InterfaceUpdate
    | InterfaceRemove
)


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """An ordered set of changes. `in_sync` is true once a whole snapshot of the datastore has been processed:
    before that nothing may be written to the kernel."""

    revision: int
    in_sync: bool
    messages: tuple[Message, ...]
