"""BGP peers, filters and the BGP configuration, as users write them (projectcalico.org/v3)."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from calico_engine.model.resource import Resource, camel, register_kind

#: An AS number as written: 64512, "64512" or dotted, "1.10".
ASNumber = int | str


class _Spec(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True, rename=camel()):
    """Options every spec struct shares."""


class SecretKeyRef(_Spec, frozen=True):
    """Names one key of a Kubernetes Secret."""

    name: str = ""
    key: str = ""
    optional: bool | None = None


class BGPPassword(_Spec, frozen=True):
    secret_key_ref: SecretKeyRef | None = None


class BGPPeerSpec(
    _Spec,
    frozen=True,
    rename=camel(
        ("peer_ip", "peerIP"),
        ("local_as_number", "localASNumber"),
        ("num_allowed_local_as_numbers", "numAllowedLocalASNumbers"),
        ("ttl_security", "ttlSecurity"),
    ),
):
    """Who peers (`node` or `node_selector`; neither is every node) with whom (`peer_ip` or `peer_selector`)."""

    node: str = ""
    node_selector: str = ""
    peer_ip: str = ""
    as_number: ASNumber | None = None
    local_as_number: ASNumber | None = None
    peer_selector: str = ""
    keep_original_next_hop: bool = False
    next_hop_mode: str = ""
    password: BGPPassword | None = None
    source_address: str = ""
    max_restart_time: str = ""
    keepalive_time: str = ""
    num_allowed_local_as_numbers: int | None = None
    ttl_security: int | None = None
    reachable_by: str = ""
    filters: tuple[str, ...] = ()
    local_workload_selector: str = ""
    reverse_peering: str = ""


@register_kind("bgppeers")
class BGPPeer(Resource, frozen=True):
    spec: BGPPeerSpec = BGPPeerSpec()


class CIDRBlock(_Spec, frozen=True):
    cidr: str = ""


class Community(_Spec, frozen=True):
    """A name for a community value, "64512:100" or "64512:1:100"."""

    name: str = ""
    value: str = ""


class PrefixAdvertisement(_Spec, frozen=True):
    cidr: str = ""
    communities: tuple[str, ...] = ()


class BGPConfigurationSpec(
    _Spec,
    frozen=True,
    rename=camel(
        ("service_load_balancer_ips", "serviceLoadBalancerIPs"),
        ("service_external_ips", "serviceExternalIPs"),
        ("service_cluster_ips", "serviceClusterIPs"),
        ("local_workload_peering_ipv4", "localWorkloadPeeringIPV4"),
        ("local_workload_peering_ipv6", "localWorkloadPeeringIPV6"),
    ),
):
    log_severity_screen: str = ""
    node_to_node_mesh_enabled: bool | None = None
    as_number: ASNumber | None = None
    service_load_balancer_ips: tuple[CIDRBlock, ...] = ()
    service_external_ips: tuple[CIDRBlock, ...] = ()
    service_cluster_ips: tuple[CIDRBlock, ...] = ()
    service_load_balancer_aggregation: str = ""
    communities: tuple[Community, ...] = ()
    prefix_advertisements: tuple[PrefixAdvertisement, ...] = ()
    listen_port: int = 0
    node_mesh_password: BGPPassword | None = None
    node_mesh_max_restart_time: str = ""
    bind_mode: str = ""
    ignored_interfaces: tuple[str, ...] = ()
    local_workload_peering_ipv4: str = ""
    local_workload_peering_ipv6: str = ""
    program_cluster_routes: str = ""
    ipv4_normal_route_priority: int | None = None
    ipv6_normal_route_priority: int | None = None


@register_kind("bgpconfigurations")
class BGPConfiguration(Resource, frozen=True):
    spec: BGPConfigurationSpec = BGPConfigurationSpec()


class BGPFilterAction(StrEnum):
    ACCEPT = "Accept"
    REJECT = "Reject"


class BGPFilterMatchOperator(StrEnum):
    EQUAL = "Equal"
    NOT_EQUAL = "NotEqual"
    IN = "In"
    NOT_IN = "NotIn"


class BGPFilterPrefixLength(_Spec, frozen=True):
    """Prefix lengths min..max, both included; None leaves that side open."""

    min: int | None = None
    max: int | None = None


class BGPFilterCommunityMatch(_Spec, frozen=True):
    values: tuple[str, ...] = ()


class BGPFilterAddCommunity(_Spec, frozen=True):
    value: str


class BGPFilterPrependASPath(_Spec, frozen=True):
    prefix: tuple[ASNumber, ...]


class BGPFilterSetPriority(_Spec, frozen=True):
    value: int


class BGPFilterOperation(_Spec, frozen=True, rename=camel(("prepend_as_path", "prependASPath"))):
    """One change to an accepted route; exactly one field is set."""

    add_community: BGPFilterAddCommunity | None = None
    prepend_as_path: BGPFilterPrependASPath | None = None
    set_priority: BGPFilterSetPriority | None = None


class BGPFilterRule(_Spec, frozen=True, kw_only=True):
    """Criteria are ANDed; rules are tried in order; a route that matches none takes the default."""

    cidr: str = ""
    prefix_length: BGPFilterPrefixLength | None = None
    source: str = ""
    interface: str = ""
    match_operator: BGPFilterMatchOperator | None = None
    peer_type: str = ""
    communities: BGPFilterCommunityMatch | None = None
    as_path_prefix: tuple[ASNumber, ...] = ()
    priority: int | None = None
    action: BGPFilterAction
    operations: tuple[BGPFilterOperation, ...] = ()


class BGPFilterSpec(_Spec, frozen=True):
    export_v4: tuple[BGPFilterRule, ...] = ()
    import_v4: tuple[BGPFilterRule, ...] = ()
    export_v6: tuple[BGPFilterRule, ...] = ()
    import_v6: tuple[BGPFilterRule, ...] = ()


@register_kind("bgpfilters")
class BGPFilter(Resource, frozen=True):
    spec: BGPFilterSpec = BGPFilterSpec()
