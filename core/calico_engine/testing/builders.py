"""Build valid resources in one line: every argument has a default, a test names only what matters to it.

All results are in canonical form and pass `model.validate`; what a caller passes is not checked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from calico_engine.model.endpoint import (
    EndpointPort,
    HostEndpoint,
    HostEndpointSpec,
    WorkloadEndpoint,
    WorkloadEndpointSpec,
)
from calico_engine.model.node import (
    EncapMode,
    IPAMBlock,
    IPAMBlockSpec,
    IPPool,
    IPPoolSpec,
    Node,
    NodeBGPSpec,
    NodeSpec,
)
from calico_engine.model.normalise import normalise
from calico_engine.model.policy import (
    Action,
    EntityRule,
    GlobalNetworkPolicy,
    GlobalNetworkPolicySpec,
    GlobalNetworkSet,
    ICMPFields,
    NetworkPolicy,
    NetworkPolicySpec,
    NetworkSet,
    NetworkSetSpec,
    PolicyType,
    Port,
    Profile,
    ProfileSpec,
    Protocol,
    Rule,
    Tier,
    TierSpec,
)
from calico_engine.model.resource import Metadata

DEFAULT_NODE = "node-1"
DEFAULT_ADDRESS = "10.65.0.1"


def make_endpoint(
    name: str = "web-1",
    *,
    ip: str | Sequence[str] = DEFAULT_ADDRESS,
    labels: Mapping[str, str] | None = None,
    node: str = DEFAULT_NODE,
    namespace: str = "default",
    interface: str = "",
    profiles: Sequence[str] = (),
    ports: Sequence[EndpointPort] = (),
    mac: str = "",
) -> WorkloadEndpoint:
    """Return a workload endpoint; `interface` defaults to "cali" and the first 11 characters of its name."""
    addresses = (ip,) if isinstance(ip, str) else tuple(ip)
    endpoint = WorkloadEndpoint(
        metadata=Metadata(name=name, namespace=namespace, labels=dict(labels or {})),
        spec=WorkloadEndpointSpec(
            orchestrator="cni",
            workload=name,
            endpoint="eth0",
            container_id=name.replace(".", "-"),
            node=node,
            ip_networks=addresses,
            interface_name=interface or "cali" + name[:11],
            profiles=tuple(profiles),
            ports=tuple(ports),
            mac=mac,
        ),
    )
    normal = normalise(endpoint)
    assert isinstance(normal, WorkloadEndpoint)
    return normal


def make_host_endpoint(
    name: str = "host-1",
    *,
    interface: str = "eth0",
    expected_ips: Sequence[str] = (),
    labels: Mapping[str, str] | None = None,
    node: str = DEFAULT_NODE,
    profiles: Sequence[str] = (),
    ports: Sequence[EndpointPort] = (),
) -> HostEndpoint:
    """Return a host endpoint; `interface` "*" stands for every interface of the node."""
    return HostEndpoint(
        metadata=Metadata(name=name, labels=dict(labels or {})),
        spec=HostEndpointSpec(
            node=node,
            interface_name=interface,
            expected_ips=tuple(expected_ips),
            profiles=tuple(profiles),
            ports=tuple(ports),
        ),
    )


def make_rule(
    action: Action = Action.ALLOW,
    *,
    protocol: Protocol | None = None,
    not_protocol: Protocol | None = None,
    ip_version: int | None = None,
    icmp: ICMPFields | None = None,
    source: EntityRule | None = None,
    destination: EntityRule | None = None,
    selector: str = "",
    nets: Sequence[str] = (),
    ports: Sequence[Port] = (),
) -> Rule:
    """Return a rule. `selector` and `nets` go to an unnamed source, `ports` to an unnamed destination."""
    return Rule(
        action=action,
        protocol=protocol if protocol is not None or not ports else "TCP",
        not_protocol=not_protocol,
        ip_version=ip_version,
        icmp=icmp,
        source=source or EntityRule(selector=selector, nets=tuple(nets)),
        destination=destination or EntityRule(ports=tuple(ports)),
    )


def make_policy(
    name: str = "policy-1",
    *,
    namespace: str = "default",
    selector: str = "all()",
    ingress: Sequence[Rule] = (),
    egress: Sequence[Rule] = (),
    order: float | None = None,
    tier: str = "default",
    types: Sequence[PolicyType] = (),
    service_account_selector: str = "",
) -> NetworkPolicy:
    """Return a namespaced policy."""
    return NetworkPolicy(
        metadata=Metadata(name=name, namespace=namespace),
        spec=NetworkPolicySpec(
            tier=tier,
            order=order,
            selector=selector,
            ingress=tuple(ingress),
            egress=tuple(egress),
            types=tuple(types),
            service_account_selector=service_account_selector,
        ),
    )


def make_global_policy(
    name: str = "policy-1",
    *,
    selector: str = "all()",
    ingress: Sequence[Rule] = (),
    egress: Sequence[Rule] = (),
    order: float | None = None,
    tier: str = "default",
    types: Sequence[PolicyType] = (),
    namespace_selector: str = "",
    service_account_selector: str = "",
    apply_on_forward: bool = False,
    do_not_track: bool = False,
    pre_dnat: bool = False,
) -> GlobalNetworkPolicy:
    """Return a global policy; do_not_track and pre_dnat bring apply_on_forward along."""
    return GlobalNetworkPolicy(
        metadata=Metadata(name=name),
        spec=GlobalNetworkPolicySpec(
            tier=tier,
            order=order,
            selector=selector,
            ingress=tuple(ingress),
            egress=tuple(egress),
            types=tuple(types),
            namespace_selector=namespace_selector,
            service_account_selector=service_account_selector,
            apply_on_forward=apply_on_forward or do_not_track or pre_dnat,
            do_not_track=do_not_track,
            pre_dnat=pre_dnat,
        ),
    )


def make_tier(
    name: str = "security", *, order: float | None = 100.0, default_action: Action = Action.DENY
) -> Tier:
    return Tier(metadata=Metadata(name=name), spec=TierSpec(order=order, default_action=default_action))


def make_profile(
    name: str = "profile-1",
    *,
    ingress: Sequence[Rule] = (),
    egress: Sequence[Rule] = (),
    labels_to_apply: Mapping[str, str] | None = None,
) -> Profile:
    return Profile(
        metadata=Metadata(name=name),
        spec=ProfileSpec(
            ingress=tuple(ingress), egress=tuple(egress), labels_to_apply=dict(labels_to_apply or {})
        ),
    )


def make_network_set(
    name: str = "set-1",
    *,
    namespace: str = "default",
    nets: Sequence[str] = ("192.0.2.0/24",),
    labels: Mapping[str, str] | None = None,
) -> NetworkSet:
    return NetworkSet(
        metadata=Metadata(name=name, namespace=namespace, labels=dict(labels or {})),
        spec=NetworkSetSpec(nets=tuple(nets)),
    )


def make_global_network_set(
    name: str = "set-1", *, nets: Sequence[str] = ("192.0.2.0/24",), labels: Mapping[str, str] | None = None
) -> GlobalNetworkSet:
    return GlobalNetworkSet(
        metadata=Metadata(name=name, labels=dict(labels or {})), spec=NetworkSetSpec(nets=tuple(nets))
    )


def make_pool(
    name: str = "pool-1",
    *,
    cidr: str = "10.65.0.0/16",
    nat_outgoing: bool = False,
    ipip_mode: EncapMode = EncapMode.NEVER,
    vxlan_mode: EncapMode = EncapMode.NEVER,
    disabled: bool = False,
    block_size: int = 0,
) -> IPPool:
    return IPPool(
        metadata=Metadata(name=name),
        spec=IPPoolSpec(
            cidr=cidr,
            nat_outgoing=nat_outgoing,
            ipip_mode=ipip_mode,
            vxlan_mode=vxlan_mode,
            disabled=disabled,
            block_size=block_size,
        ),
    )


def make_node(name: str = DEFAULT_NODE, *, ipv4: str = "192.0.2.1/24", ipv6: str = "") -> Node:
    """Return a node; addresses carry the mask of its subnet, "" for none."""
    bgp = NodeBGPSpec(ipv4_address=ipv4, ipv6_address=ipv6) if ipv4 or ipv6 else None
    return Node(metadata=Metadata(name=name), spec=NodeSpec(bgp=bgp))


def make_block(cidr: str = "10.65.0.0/26", *, node: str = DEFAULT_NODE) -> IPAMBlock:
    """Return a block affine to a node with no address allocated; its name is the cidr's."""
    prefix_length = int(cidr.rpartition("/")[2])
    size = 1 << ((128 if ":" in cidr else 32) - prefix_length)
    return IPAMBlock(
        metadata=Metadata(name=cidr.replace(".", "-").replace(":", "-").replace("/", "-")),
        spec=IPAMBlockSpec(
            cidr=cidr, affinity=f"host:{node}", allocations=(None,) * size, unallocated=tuple(range(size))
        ),
    )
