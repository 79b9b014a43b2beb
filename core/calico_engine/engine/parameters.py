"""Felix's parameters: name, form, and which field of FelixSettings each one sets.

A parameter without a field, or one that nothing built in uses, is accepted and reported once as not in effect.
Source: felix/config/config_params.go; names in FelixConfiguration: api/pkg/apis/projectcalico/v3/felixconfig.go.
"""

from __future__ import annotations

import msgspec

from calico_engine.engine import parsing as p
from calico_engine.settings import ChainInsertMode, DenyAction, EndpointToHostAction, Layout


class Parameter(msgspec.Struct, frozen=True):
    """One parameter. `zero` is what `none` means; `can_be_none` false refuses `none`.

    `used` false: it is parsed and handed to plugins, but none of the built-in ones looks at it.
    """

    name: str
    parse: p.Parser
    field: str = ""
    zero: object = ""
    can_be_none: bool = True
    used: bool = True

    @property
    def in_effect(self) -> bool:
        return bool(self.field) and self.used


_port = p.integer(0, 65535)
_count = p.integer(0, 2**31 - 1)
_table_action = p.one_of("ACCEPT", "RETURN")
_on_off = p.one_of("Enabled", "Disabled")
_severity = p.one_of("Trace", "Debug", "Info", "Warning", "Error", "Fatal")


def _required(name: str, parse: p.Parser, field: str) -> Parameter:
    return Parameter(name, parse, field, can_be_none=False)


def _switch(name: str, field: str) -> Parameter:
    return Parameter(name, p.parse_bool, field, zero=False)


def _seconds(name: str, field: str) -> Parameter:
    return Parameter(name, p.parse_seconds, field, zero=0.0)


def _number(name: str, parse: p.Parser, field: str) -> Parameter:
    return Parameter(name, parse, field, zero=0)


_IN_EFFECT = (
    # Ours: the shape of the static chains. Native is not for users to choose but goes with the dataplane.
    _required("Layout", p.one_of_enum((Layout.V2, Layout.V3)), "layout"),
    _required("InterfacePrefix", p.parse_interface_prefixes, "interface_prefix"),
    Parameter("InterfaceExclude", p.parse_interface_patterns, "interface_exclude", zero=()),
    _required("ChainInsertMode", p.one_of_enum(ChainInsertMode), "chain_insert_mode"),
    _required(
        "DefaultEndpointToHostAction", p.one_of_enum(EndpointToHostAction), "default_endpoint_to_host_action"
    ),
    _required("IptablesFilterAllowAction", _table_action, "iptables_filter_allow_action"),
    _required("IptablesMangleAllowAction", _table_action, "iptables_mangle_allow_action"),
    _required("IptablesFilterDenyAction", p.one_of_enum(DenyAction), "iptables_filter_deny_action"),
    _required("IptablesMarkMask", p.parse_mask, "iptables_mark_mask"),
    _required("IptablesBackend", p.one_of("auto", "legacy", "nft"), "iptables_backend"),
    Parameter("LogPrefix", p.parse_text, "log_prefix"),
    Parameter("FailsafeInboundHostPorts", p.parse_host_ports, "failsafe_inbound_host_ports", zero=()),
    Parameter("FailsafeOutboundHostPorts", p.parse_host_ports, "failsafe_outbound_host_ports", zero=()),
    _switch("Ipv6Support", "ipv6_support"),
    _switch("DisableConntrackInvalidCheck", "disable_conntrack_invalid_check"),
    _required("WorkloadSourceSpoofing", p.one_of("Disabled", "Any"), "workload_source_spoofing"),
    _switch("AllowVXLANPacketsFromWorkloads", "allow_vxlan_packets_from_workloads"),
    _switch("AllowIPIPPacketsFromWorkloads", "allow_ipip_packets_from_workloads"),
    _required("FloatingIPs", _on_off, "floating_ips"),
    Parameter("NATPortRange", p.parse_port_range, "nat_port_range"),
    Parameter("NATOutgoingAddress", p.parse_ipv4, "nat_outgoing_address"),
    _required(
        "NATOutgoingExclusions", p.one_of("IPPoolsOnly", "IPPoolsAndHostIPs"), "nat_outgoing_exclusions"
    ),
    Parameter(
        "IptablesNATOutgoingInterfaceFilter", p.parse_interface, "iptables_nat_outgoing_interface_filter"
    ),
    _required("ServiceLoopPrevention", p.one_of("Drop", "Reject", "Disabled"), "service_loop_prevention"),
    _required("MaxIpsetSize", p.integer(1, 2**31 - 1), "max_ipset_size"),
    Parameter("MetadataAddr", p.parse_host, "metadata_addr"),
    _number("MetadataPort", _port, "metadata_port"),
    Parameter("IpInIpEnabled", p.parse_bool, "ip_in_ip_enabled", zero=None),
    Parameter("VXLANEnabled", p.parse_bool, "vxlan_enabled", zero=None),
    _number("VXLANPort", _port, "vxlan_port"),
    _number("DeviceRouteProtocol", p.integer(0, 255), "device_route_protocol"),
    Parameter("DeviceRouteSourceAddress", p.parse_ipv4, "device_route_source_address"),
    Parameter("DeviceRouteSourceAddressIPv6", p.parse_ipv6, "device_route_source_address_ipv6"),
    _switch("RemoveExternalRoutes", "remove_external_routes"),
    _required("IPv4NormalRoutePriority", p.integer(1, 2147483646), "ipv4_normal_route_priority"),
    _required("IPv6NormalRoutePriority", p.integer(1, 2147483646), "ipv6_normal_route_priority"),
    _required("IPForwarding", _on_off, "ip_forwarding"),
    _seconds("IptablesRefreshInterval", "iptables_refresh_interval_s"),
    _seconds("IptablesPostWriteCheckIntervalSecs", "iptables_post_write_check_interval_s"),
    _seconds("IptablesLockTimeoutSecs", "iptables_lock_timeout_s"),
    _number("IptablesLockProbeIntervalMillis", p.parse_millis, "iptables_lock_probe_interval_ms"),
    _required("IptablesLockFilePath", p.parse_text, "iptables_lock_file_path"),
    _seconds("IpsetsRefreshInterval", "ipsets_refresh_interval_s"),
    _seconds("RouteRefreshInterval", "route_refresh_interval_s"),
    _seconds("InterfaceRefreshInterval", "interface_refresh_interval_s"),
    _seconds("DataplaneWatchdogTimeout", "dataplane_watchdog_timeout_s"),
    _seconds("ReportingIntervalSecs", "reporting_interval_s"),
    _switch("EndpointReportingEnabled", "endpoint_reporting_enabled"),
    _seconds("EndpointReportingDelaySecs", "endpoint_reporting_delay_s"),
    _switch("HealthEnabled", "health_enabled"),
    Parameter("HealthHost", p.parse_host, "health_host"),
    _number("HealthPort", _port, "health_port"),
    _switch("PrometheusMetricsEnabled", "prometheus_metrics_enabled"),
    Parameter("PrometheusMetricsHost", p.parse_host, "prometheus_metrics_host"),
    _number("PrometheusMetricsPort", _port, "prometheus_metrics_port"),
    _switch("PrometheusProcessMetricsEnabled", "prometheus_process_metrics_enabled"),
    Parameter("LogSeverityScreen", _severity, "log_severity_screen"),
    Parameter("LogSeverityFile", _severity, "log_severity_file"),
    Parameter("LogFilePath", p.parse_text, "log_file_path"),
)

# Accepted, so that an existing felix.cfg or environment is taken as it is. Grouped as in the reference's source.
_NOT_IN_EFFECT = """
UseInternalDataplaneDriver DataplaneDriver UseInternalDataplane
WireguardEnabled WireguardEnabledV6 WireguardListeningPort WireguardListeningPortV6 WireguardRoutingRulePriority
WireguardInterfaceName WireguardInterfaceNameV6 WireguardMTU WireguardMTUV6 WireguardHostEncryptionEnabled
WireguardPersistentKeepAlive WireguardThreadingEnabled
NFTablesMode NFTablesFlowTableOffload NFTablesFlowTableDataIfacePattern NftablesRefreshInterval
NftablesFilterAllowAction NftablesMangleAllowAction NftablesFilterDenyAction NftablesMarkMask
BPFEnabled BPFOverlayHostSourceIP BPFDisableUnprivileged BPFJITHardening BPFLogLevel BPFConntrackLogLevel
BPFConntrackCleanupMode BPFConntrackTimeouts BPFIPFragTimeout BPFLogFilters BPFCTLBLogFilter BPFDataIfacePattern
BPFL3IfacePattern BPFConnectTimeLoadBalancingEnabled BPFConnectTimeLoadBalancing BPFHostNetworkedNATWithoutCTLB
BPFExternalServiceMode BPFDSROptoutCIDRs BPFKubeProxyIptablesCleanupEnabled BPFKubeProxyMinSyncPeriod
BPFKubeProxyHealthzPort BPFExtToServiceConnmark BPFPSNATPorts BPFMapSizeNATFrontend BPFMapSizeNATBackend
BPFMapSizeNATAffinity BPFMapSizeRoute BPFMapSizeConntrack BPFMapSizePerCPUConntrack BPFMapSizeConntrackScaling
BPFMapSizeConntrackCleanupQueue BPFMapSizeIPSets BPFMapSizeIfState BPFHostConntrackBypass
BPFIPFragmentReassemblyEnabled BPFEnforceRPF BPFPolicyDebugEnabled BPFForceTrackPacketsFromIfaces
BPFDisableGROForIfaces BPFExcludeCIDRsFromNAT BPFRedirectToPeer BPFAttachType BPFExportBufferSizeMB BPFProfiling
BPFMaglevMaxEndpointsPerService BPFMaglevMaxServices BPFKubeProxyEndpointSlicesEnabled BPFDisableLinuxConntrack
IstioAmbientMode IstioDSCPMark CgroupV2Path DebugBPFCgroupV2
EtcdAddr EtcdScheme EtcdKeyFile EtcdCertFile EtcdCaFile EtcdEndpoints
TyphaAddr TyphaK8sServiceName TyphaK8sNamespace TyphaReadTimeout TyphaWriteTimeout TyphaKeyFile TyphaCertFile
TyphaCAFile TyphaCN TyphaURISAN
ProgramClusterRoutes FeatureGates XDPRefreshInterval XDPEnabled GenericXDPEnabled PolicySyncPathPrefix
OpenstackRegion LogActionRateLimit LogActionRateLimitBurst LogSeveritySys LogDebugFilenameRegex
VXLANMTUV6 IPv4VXLANTunnelAddr IPv6VXLANTunnelAddr VXLANTunnelMACAddr VXLANTunnelMACAddrV6 IpInIpTunnelAddr
LocalSubnetL2Reachability LocalSubnetL2ReachabilityRefreshInterval WindowsManageFirewallRules WindowsNetworkName
AWSSrcDstCheck EndpointStatusPathPrefix HealthTimeoutOverrides PrometheusGoMetricsEnabled
PrometheusWireGuardMetricsEnabled PrometheusMetricsCAFile PrometheusMetricsCertFile PrometheusMetricsKeyFile
PrometheusMetricsClientAuth
FlowLogsFlushInterval FlowLogsCollectorDebugTrace FlowLogsGoldmaneServer FlowLogsLocalReporter
FlowLogsPolicyEvaluationMode GoldmaneServer KubeNodePortRanges
UsageReportingEnabled UsageReportingInitialDelaySecs UsageReportingIntervalSecs ClusterGUID ClusterType CalicoVersion
ExternalNodesCIDRList DebugMemoryProfilePath DebugCPUProfilePath DebugDisableLogDropping
DebugSimulateCalcGraphHangAfter DebugSimulateDataplaneHangAfter DebugSimulateDataplaneApplyDelay DebugPanicAfter
DebugSimulateDataRace DebugHost DebugPort RouteTableRange RouteTableRanges RouteSyncDisabled
IPv4ElevatedRoutePriority IPv6ElevatedRoutePriority LiveMigrationRouteConvergenceTime SidecarAccelerationEnabled
Variant GoGCThreshold GoMemoryLimitMB GoMaxProcs MTUIfacePattern RequireMTUFile IgnoreLooseRPF StartupCleanupDelay
""".split()  # noqa: SIM905  # one name a line would be 150 lines

# Read by the engine before there are settings: which datastore, which node.
_BOOTSTRAP = ("DatastoreType", "FelixHostname")

# For plugins of others: in FelixSettings, and not in effect as long as the built-in ones do without.
_FOR_PLUGINS = (
    _number("IpInIpMtu", _count, "ip_in_ip_mtu"),
    _number("VXLANVNI", p.integer(0, 2**24 - 1), "vxlan_vni"),
    _number("VXLANMTU", _count, "vxlan_mtu"),
    _required("RouteSource", p.one_of("WorkloadIPs", "CalicoIPAM"), "route_source"),
    _seconds("NetlinkTimeoutSecs", "netlink_timeout_s"),
    Parameter("FeatureDetectOverride", p.parse_pairs, "feature_detect_override", zero=()),
    _seconds("ReportingTTLSecs", "reporting_ttl_s"),
)

PARAMETERS: dict[str, Parameter] = {
    **{parameter.name: parameter for parameter in _IN_EFFECT},
    **{parameter.name: msgspec.structs.replace(parameter, used=False) for parameter in _FOR_PLUGINS},
    **{name: Parameter(name, p.parse_text) for name in (*_NOT_IN_EFFECT, *_BOOTSTRAP)},
}

BOOTSTRAP = frozenset(_BOOTSTRAP)

# Names in FelixConfiguration that are not the parameter's with a small first letter, in lower case.
_OTHER_NAMES = {
    "iptablespostwritecheckinterval": "IptablesPostWriteCheckIntervalSecs",
    "iptableslockprobeinterval": "IptablesLockProbeIntervalMillis",
    "iptableslocktimeout": "IptablesLockTimeoutSecs",
    "netlinktimeout": "NetlinkTimeoutSecs",
    "ipipenabled": "IpInIpEnabled",
    "ipipmtu": "IpInIpMtu",
    "reportinginterval": "ReportingIntervalSecs",
    "reportingttl": "ReportingTTLSecs",
    "endpointreportingdelay": "EndpointReportingDelaySecs",
    "usagereportinginitialdelay": "UsageReportingInitialDelaySecs",
    "usagereportinginterval": "UsageReportingIntervalSecs",
    "ipsetsrefreshintervalsecs": "IpsetsRefreshInterval",
}

_BY_LOWER = {name.lower(): parameter for name, parameter in PARAMETERS.items()} | {
    lower: PARAMETERS[name] for lower, name in _OTHER_NAMES.items()
}


def find_parameter(name: str) -> Parameter | None:
    """Return the parameter by its name, in any case, or by its name in FelixConfiguration."""
    return _BY_LOWER.get(name.lower())
