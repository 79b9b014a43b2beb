"""Felix's settings, typed, with the reference's names and defaults.

Pure. Attribute names are the snake_case of Felix's parameters (`DefaultEndpointToHostAction` is
`default_endpoint_to_host_action`); units are in the name where Felix leaves them out.
Source: felix/config/config_params.go.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec


class HostPort(msgspec.Struct, frozen=True, order=True, gc=False):
    """A failsafe: protocol name, optional CIDR of the peer, port."""

    protocol: str
    port: int
    net: str = ""


class EndpointToHostAction(StrEnum):
    DROP = "DROP"
    RETURN = "RETURN"
    ACCEPT = "ACCEPT"


class ChainInsertMode(StrEnum):
    INSERT = "insert"
    APPEND = "append"


class DenyAction(StrEnum):
    DROP = "DROP"
    REJECT = "REJECT"


class Layout(StrEnum):
    """The shape of the static chains, names and marks: `v2` is Calico 2.1's as the articles print it.

    `native` is not for users to choose: dataplanes whose kernel has verdict maps compile with it whatever is set.
    """

    V2 = "v2"
    V3 = "v3"
    NATIVE = "native"


def _ports(*specs: tuple[str, int]) -> tuple[HostPort, ...]:
    return tuple(HostPort(protocol, port) for protocol, port in specs)


FAILSAFE_INBOUND = _ports(
    ("tcp", 22), ("udp", 68), ("tcp", 179), ("tcp", 2379), ("tcp", 2380), ("tcp", 5473), ("tcp", 6443),
    ("tcp", 6666), ("tcp", 6667),
)  # fmt: skip
FAILSAFE_OUTBOUND = _ports(
    ("udp", 53), ("udp", 67), ("tcp", 179), ("tcp", 2379), ("tcp", 2380), ("tcp", 5473), ("tcp", 6443),
    ("tcp", 6666), ("tcp", 6667),
)  # fmt: skip


class FelixSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What the dataplane and routing plugins of one node need to know."""

    # What is programmed
    layout: Layout = Layout.V3
    interface_prefix: tuple[str, ...] = ("cali",)
    interface_exclude: tuple[str, ...] = ("kube-ipvs0",)
    chain_insert_mode: ChainInsertMode = ChainInsertMode.INSERT
    default_endpoint_to_host_action: EndpointToHostAction = EndpointToHostAction.DROP
    iptables_filter_allow_action: str = "ACCEPT"
    iptables_mangle_allow_action: str = "ACCEPT"
    iptables_filter_deny_action: DenyAction = DenyAction.DROP
    iptables_mark_mask: int = 0xFFFF0000
    iptables_backend: str = "auto"
    log_prefix: str = "calico-packet"
    failsafe_inbound_host_ports: tuple[HostPort, ...] = FAILSAFE_INBOUND
    failsafe_outbound_host_ports: tuple[HostPort, ...] = FAILSAFE_OUTBOUND
    ipv6_support: bool = True
    disable_conntrack_invalid_check: bool = False
    workload_source_spoofing: str = "Disabled"
    allow_vxlan_packets_from_workloads: bool = False
    allow_ipip_packets_from_workloads: bool = False
    floating_ips: str = "Disabled"
    nat_port_range: str = ""
    nat_outgoing_address: str = ""
    nat_outgoing_exclusions: str = "IPPoolsOnly"
    iptables_nat_outgoing_interface_filter: str = ""
    service_loop_prevention: str = "Drop"
    max_ipset_size: int = 1048576
    openstack_metadata: bool = False
    metadata_addr: str = ""
    metadata_port: int = 8775

    # Tunnels and routes
    ip_in_ip_enabled: bool | None = None
    ip_in_ip_mtu: int = 0
    vxlan_enabled: bool | None = None
    vxlan_port: int = 4789
    vxlan_vni: int = 4096
    vxlan_mtu: int = 0
    device_route_protocol: int = 3
    device_route_source_address: str = ""
    remove_external_routes: bool = True
    device_route_source_address_ipv6: str = ""
    ipv4_normal_route_priority: int = 1024
    ipv6_normal_route_priority: int = 1024
    ip_forwarding: str = "Enabled"
    route_source: str = "CalicoIPAM"
    netlink_timeout_s: float = 10.0
    feature_detect_override: tuple[tuple[str, str], ...] = ()

    # Timers; 0 switches a timer off
    iptables_refresh_interval_s: float = 180.0
    iptables_post_write_check_interval_s: float = 5.0
    iptables_lock_timeout_s: float = 0.0
    iptables_lock_probe_interval_ms: int = 50
    iptables_lock_file_path: str = "/run/xtables.lock"
    ipsets_refresh_interval_s: float = 90.0
    route_refresh_interval_s: float = 90.0
    interface_refresh_interval_s: float = 90.0

    dataplane_watchdog_timeout_s: float = 90.0

    # Reports
    reporting_interval_s: float = 30.0
    reporting_ttl_s: float = 90.0
    endpoint_reporting_enabled: bool = False
    endpoint_reporting_delay_s: float = 1.0
    health_enabled: bool = False
    health_host: str = "localhost"
    health_port: int = 9099
    prometheus_metrics_enabled: bool = False
    prometheus_metrics_host: str = ""
    prometheus_metrics_port: int = 9091
    prometheus_process_metrics_enabled: bool = True
    log_severity_screen: str = "Info"
    log_severity_file: str = "Info"
    log_file_path: str = "/var/log/calico/felix.log"
