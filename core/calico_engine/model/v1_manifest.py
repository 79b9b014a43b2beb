"""The manifests of Calico 2 as structs: what may stand where. Conversion is in `v1`.

Pure. Source: the v1 API reference of Calico 2.6.
"""

from __future__ import annotations

import msgspec

from calico_engine.model.bgp import ASNumber
from calico_engine.model.endpoint import IPNAT
from calico_engine.model.node import NodeBGPSpec, OrchRef
from calico_engine.model.policy import ICMPFields, Port, Protocol
from calico_engine.model.resource import camel


class _Struct(msgspec.Struct, frozen=True, kw_only=True, rename=camel()):
    """Options every v1 struct shares."""


class MetadataV1(_Struct, frozen=True):
    name: str = ""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class EntityRuleV1(_Struct, frozen=True):
    tag: str = ""
    net: str = ""
    nets: tuple[str, ...] = ()
    selector: str = ""
    ports: tuple[Port, ...] = ()
    not_tag: str = ""
    not_net: str = ""
    not_nets: tuple[str, ...] = ()
    not_selector: str = ""
    not_ports: tuple[Port, ...] = ()


class RuleV1(_Struct, frozen=True, rename=camel(("not_icmp", "notICMP"))):
    action: str
    ip_version: int | None = None
    protocol: Protocol | None = None
    icmp: ICMPFields | None = None
    not_protocol: Protocol | None = None
    not_icmp: ICMPFields | None = None
    source: EntityRuleV1 = EntityRuleV1()
    destination: EntityRuleV1 = EntityRuleV1()


class PolicySpecV1(_Struct, frozen=True, rename=camel(("pre_dnat", "preDNAT"))):
    order: float | None = None
    ingress: tuple[RuleV1, ...] = ()
    egress: tuple[RuleV1, ...] = ()
    selector: str = ""
    do_not_track: bool = False
    pre_dnat: bool = False
    types: tuple[str, ...] = ()


class ProfileMetadataV1(MetadataV1, frozen=True):
    tags: tuple[str, ...] = ()


class ProfileSpecV1(_Struct, frozen=True):
    ingress: tuple[RuleV1, ...] = ()
    egress: tuple[RuleV1, ...] = ()


class WorkloadMetadataV1(MetadataV1, frozen=True, rename=camel(("active_instance_id", "activeInstanceID"))):
    workload: str = ""
    orchestrator: str = ""
    node: str = ""
    active_instance_id: str = ""


class WorkloadSpecV1(_Struct, frozen=True, rename=camel(("ip_nats", "ipNATs"))):
    ip_networks: tuple[str, ...] = ()
    ip_nats: tuple[IPNAT, ...] = ()
    ipv4_gateway: str = ""
    ipv6_gateway: str = ""
    profiles: tuple[str, ...] = ()
    interface_name: str = ""
    mac: str = ""


class HostMetadataV1(MetadataV1, frozen=True):
    node: str = ""


class HostSpecV1(_Struct, frozen=True, rename=camel(("expected_ips", "expectedIPs"))):
    interface_name: str = ""
    expected_ips: tuple[str, ...] = ()
    profiles: tuple[str, ...] = ()


class PoolMetadataV1(MetadataV1, frozen=True):
    cidr: str = ""


class IPIPV1(_Struct, frozen=True):
    enabled: bool = False
    mode: str = ""


class PoolSpecV1(_Struct, frozen=True, rename=camel(("nat_outgoing", "nat-outgoing"))):
    ipip: IPIPV1 | None = None
    nat_outgoing: bool = False
    disabled: bool = False


class NodeSpecV1(_Struct, frozen=True):
    bgp: NodeBGPSpec | None = None
    orch_refs: tuple[OrchRef, ...] = ()


class PeerMetadataV1(MetadataV1, frozen=True, rename=camel(("peer_ip", "peerIP"))):
    scope: str = ""
    node: str = ""
    peer_ip: str = ""


class PeerSpecV1(_Struct, frozen=True):
    as_number: ASNumber | None = None


class ManifestV1(_Struct, frozen=True):
    api_version: str
    kind: str


class PolicyV1(ManifestV1, frozen=True):
    metadata: MetadataV1 = MetadataV1()
    spec: PolicySpecV1 = PolicySpecV1()


class ProfileV1(ManifestV1, frozen=True):
    metadata: ProfileMetadataV1 = ProfileMetadataV1()
    spec: ProfileSpecV1 = ProfileSpecV1()


class WorkloadEndpointV1(ManifestV1, frozen=True):
    metadata: WorkloadMetadataV1 = WorkloadMetadataV1()
    spec: WorkloadSpecV1 = WorkloadSpecV1()


class HostEndpointV1(ManifestV1, frozen=True):
    metadata: HostMetadataV1 = HostMetadataV1()
    spec: HostSpecV1 = HostSpecV1()


class PoolV1(ManifestV1, frozen=True):
    metadata: PoolMetadataV1 = PoolMetadataV1()
    spec: PoolSpecV1 = PoolSpecV1()


class NodeV1(ManifestV1, frozen=True):
    metadata: MetadataV1 = MetadataV1()
    spec: NodeSpecV1 = NodeSpecV1()


class PeerV1(ManifestV1, frozen=True):
    metadata: PeerMetadataV1 = PeerMetadataV1()
    spec: PeerSpecV1 = PeerSpecV1()
