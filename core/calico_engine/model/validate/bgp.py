"""BGP peers, configuration and filters.

Source: api/pkg/apis/projectcalico/v3/bgp*.go, libcalico-go/lib/validator/v3.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from calico_engine.model.bgp import (
    ASNumber,
    BGPConfiguration,
    BGPConfigurationSpec,
    BGPFilter,
    BGPFilterAction,
    BGPFilterOperation,
    BGPFilterRule,
    BGPPeer,
)
from calico_engine.model.canonical import ip_version, parse_as_number, shorten
from calico_engine.model.shape import FieldError
from calico_engine.model.validate.checks import (
    check_address,
    check_choice,
    check_duration,
    check_interface,
    check_name,
    check_names,
    check_network,
    check_range,
    check_selector,
    forbid,
    require,
)

LOG_LEVELS = ("None", "Debug", "Info", "Warning", "Error", "Fatal", "Panic")
_PATTERN_INTERFACE = re.compile(r"[a-zA-Z0-9_.*-]{1,15}")
_IPV4_WITH_PORT = re.compile(r"([0-9.]+):([0-9]{1,5})")
_IPV6_WITH_PORT = re.compile(r"\[([0-9a-fA-F:.]+)\]:([0-9]{1,5})")
_COMMUNITY = re.compile(r"[0-9]{1,10}(?::[0-9]{1,10}){1,2}")
_MAX_PRIORITY = 2_147_483_646


def check_peer(peer: BGPPeer) -> None:
    spec = peer.spec
    if spec.node:
        check_name("spec.node", spec.node)
        forbid("spec.nodeSelector", spec.node_selector, "cannot be given together with node")
    for path, selector in (
        ("spec.nodeSelector", spec.node_selector),
        ("spec.peerSelector", spec.peer_selector),
        ("spec.localWorkloadSelector", spec.local_workload_selector),
    ):
        check_selector(path, selector)
    address = parse_peer_address("spec.peerIP", spec.peer_ip)[0] if spec.peer_ip else ""
    _check_as_number("spec.asNumber", spec.as_number)
    _check_as_number("spec.localASNumber", spec.local_as_number)
    if spec.peer_selector:
        forbid("spec.peerIP", spec.peer_ip, "cannot be given together with peerSelector")
        forbid("spec.asNumber", spec.as_number, "must be absent when peerSelector is given")
    if spec.local_workload_selector:
        reason = "must be absent when localWorkloadSelector is given"
        forbid("spec.peerIP", spec.peer_ip, reason)
        forbid("spec.peerSelector", spec.peer_selector, reason)
        require("spec.asNumber", spec.as_number)
    if spec.reachable_by:
        check_address("spec.reachableBy", spec.reachable_by)
        if not address:
            raise FieldError("spec.reachableBy", "must be absent where peerIP is")
        if ip_version(address) != ip_version(spec.reachable_by):
            raise FieldError("spec.reachableBy", "must be of the same IP version as peerIP")
    check_choice("spec.nextHopMode", spec.next_hop_mode, ("Auto", "Self", "Keep"))
    if spec.keep_original_next_hop:
        forbid("spec.nextHopMode", spec.next_hop_mode, "replaces keepOriginalNextHop; give one of them")
    check_choice("spec.sourceAddress", spec.source_address, ("UseNodeIP", "None"))
    check_choice("spec.reversePeering", spec.reverse_peering, ("Auto", "Manual"))
    check_duration("spec.maxRestartTime", spec.max_restart_time)
    check_duration("spec.keepaliveTime", spec.keepalive_time)
    check_range("spec.numAllowedLocalASNumbers", spec.num_allowed_local_as_numbers, 0, 2**31 - 1)
    check_range("spec.ttlSecurity", spec.ttl_security, 0, 255)
    check_names("spec.filters", spec.filters)


def parse_peer_address(path: str, text: str) -> tuple[str, int | None]:
    """Return address and port of "192.0.2.1", "192.0.2.1:1790" or "[2001:db8::1]:1790"."""
    port: int | None = None
    if matched := _IPV4_WITH_PORT.fullmatch(text) or _IPV6_WITH_PORT.fullmatch(text):
        text, port = matched[1], int(matched[2])
        check_range(path, port, 1, 65535)
    check_address(path, text)
    return text, port


def _check_as_number(path: str, number: ASNumber | None) -> None:
    if number is None:
        return
    try:
        parse_as_number(number)
    except ValueError as error:
        raise FieldError(path, str(error)) from None


def check_configuration(configuration: BGPConfiguration) -> None:
    spec = configuration.spec
    check_choice("spec.logSeverityScreen", spec.log_severity_screen, LOG_LEVELS)
    _check_as_number("spec.asNumber", spec.as_number)
    for field, blocks in (
        ("serviceLoadBalancerIPs", spec.service_load_balancer_ips),
        ("serviceExternalIPs", spec.service_external_ips),
        ("serviceClusterIPs", spec.service_cluster_ips),
    ):
        for index, block in enumerate(blocks):
            check_network(f"spec.{field}[{index}].cidr", block.cidr)
    check_choice(
        "spec.serviceLoadBalancerAggregation", spec.service_load_balancer_aggregation, ("Enabled", "Disabled")
    )
    check_choice("spec.bindMode", spec.bind_mode, ("None", "NodeIP"))
    check_choice(
        "spec.programClusterRoutes",
        spec.program_cluster_routes,
        ("Enabled", "Disabled", "EnabledIPIPOnly", "EnabledNoEncapOnly"),
    )
    check_range("spec.listenPort", spec.listen_port, 0, 65535)
    check_range("spec.ipv4NormalRoutePriority", spec.ipv4_normal_route_priority, 1, _MAX_PRIORITY)
    check_range("spec.ipv6NormalRoutePriority", spec.ipv6_normal_route_priority, 1, _MAX_PRIORITY)
    check_duration("spec.nodeMeshMaxRestartTime", spec.node_mesh_max_restart_time)
    if spec.node_to_node_mesh_enabled is False:
        reason = "needs nodeToNodeMeshEnabled to be true"
        forbid("spec.nodeMeshPassword", spec.node_mesh_password, reason)
        forbid("spec.nodeMeshMaxRestartTime", spec.node_mesh_max_restart_time, reason)
    for index, interface in enumerate(spec.ignored_interfaces):
        path = f"spec.ignoredInterfaces[{index}]"
        check_interface(path, interface, pattern=_PATTERN_INTERFACE)
        if interface == "*":
            raise FieldError(path, '"*" would ignore every interface')
    if spec.local_workload_peering_ipv4:
        check_address("spec.localWorkloadPeeringIPV4", spec.local_workload_peering_ipv4, 4)
    if spec.local_workload_peering_ipv6:
        check_address("spec.localWorkloadPeeringIPV6", spec.local_workload_peering_ipv6, 6)
    _check_communities(spec)


def _check_communities(spec: BGPConfigurationSpec) -> None:
    for index, community in enumerate(spec.communities):
        check_name(f"spec.communities[{index}].name", community.name)
        _check_community(f"spec.communities[{index}].value", community.value)
    if spec.communities and not spec.prefix_advertisements:
        raise FieldError("spec.communities", "are defined but no prefixAdvertisements uses them")
    defined = {community.name for community in spec.communities}
    for index, advertisement in enumerate(spec.prefix_advertisements):
        path = f"spec.prefixAdvertisements[{index}]"
        check_network(f"{path}.cidr", advertisement.cidr)
        require(f"{path}.communities", advertisement.communities)
        for position, community_text in enumerate(advertisement.communities):
            if community_text not in defined:
                _check_community(f"{path}.communities[{position}]", community_text)


def _check_community(path: str, text: str) -> None:
    """Check `aa:nn` of two 16-bit numbers, or `aa:nn:mm` of three 32-bit ones."""
    parts = text.split(":")
    most = 0xFFFF if len(parts) == 2 else 0xFFFFFFFF
    if _COMMUNITY.fullmatch(text) is None or any(int(part) > most for part in parts):
        raise FieldError(
            path,
            f"{shorten(text)} is neither a name from communities, nor aa:nn of 16-bit or aa:nn:mm of 32-bit numbers",
        )


def check_filter(filter_: BGPFilter) -> None:
    spec = filter_.spec
    _check_filter_rules("spec.exportV4", spec.export_v4, 4)
    _check_filter_rules("spec.importV4", spec.import_v4, 4)
    _check_filter_rules("spec.exportV6", spec.export_v6, 6)
    _check_filter_rules("spec.importV6", spec.import_v6, 6)


def _check_filter_rules(path: str, rules: Sequence[BGPFilterRule], version: int) -> None:
    for index, rule in enumerate(rules):
        _check_filter_rule(f"{path}[{index}]", rule, version)


def _check_filter_rule(path: str, rule: BGPFilterRule, version: int) -> None:
    if rule.cidr:
        check_network(f"{path}.cidr", rule.cidr, version)
        require(f"{path}.matchOperator", rule.match_operator)
    else:
        forbid(f"{path}.matchOperator", rule.match_operator, "needs cidr")
        forbid(f"{path}.prefixLength", rule.prefix_length, "needs cidr")
    if rule.prefix_length is not None:
        most = 32 if version == 4 else 128
        check_range(f"{path}.prefixLength.min", rule.prefix_length.min, 0, most)
        check_range(f"{path}.prefixLength.max", rule.prefix_length.max, 0, most)
    check_choice(f"{path}.source", rule.source, ("RemotePeers",))
    check_choice(f"{path}.peerType", rule.peer_type, ("eBGP", "iBGP"))
    if rule.interface:
        check_interface(f"{path}.interface", rule.interface, pattern=_PATTERN_INTERFACE)
    if rule.communities is not None:
        require(f"{path}.communities.values", rule.communities.values)
        for index, value in enumerate(rule.communities.values):
            _check_community(f"{path}.communities.values[{index}]", value)
    for index, number in enumerate(rule.as_path_prefix):
        _check_as_number(f"{path}.asPathPrefix[{index}]", number)
    check_range(f"{path}.priority", rule.priority, 1, _MAX_PRIORITY)
    if rule.operations and rule.action is not BGPFilterAction.ACCEPT:
        raise FieldError(f"{path}.operations", "are allowed with action Accept only")
    for index, operation in enumerate(rule.operations):
        _check_operation(f"{path}.operations[{index}]", operation)


def _check_operation(path: str, operation: BGPFilterOperation) -> None:
    given = [
        part
        for part in (operation.add_community, operation.prepend_as_path, operation.set_priority)
        if part is not None
    ]
    if len(given) != 1:
        raise FieldError(path, "needs exactly one of addCommunity, prependASPath, setPriority")
    if operation.add_community is not None:
        _check_community(f"{path}.addCommunity.value", operation.add_community.value)
    if operation.prepend_as_path is not None:
        require(f"{path}.prependASPath.prefix", operation.prepend_as_path.prefix)
        for index, number in enumerate(operation.prepend_as_path.prefix):
            _check_as_number(f"{path}.prependASPath.prefix[{index}]", number)
    if operation.set_priority is not None:
        check_range(f"{path}.setPriority.value", operation.set_priority.value, 1, _MAX_PRIORITY)
