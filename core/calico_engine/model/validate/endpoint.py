"""Workload and host endpoints. Source: libcalico-go/lib/validator/v3 and api/pkg/apis/projectcalico/v3/hostendpoint.go.

Endpoints come by the hundred thousand: a canonical address costs one regular expression here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from calico_engine.model import v1
from calico_engine.model.canonical import (
    canonical_mac,
    ip_version,
    is_plain_host,
    is_plain_mac,
    mask_network,
    parse_network,
    protocol_number,
    shorten,
)
from calico_engine.model.endpoint import EndpointPort, HostEndpoint, WorkloadEndpoint, WorkloadEndpointSpec
from calico_engine.model.shape import FieldError
from calico_engine.model.validate.checks import (
    check,
    check_address,
    check_interface,
    check_name,
    check_names,
    check_network,
    check_range,
    is_name,
    is_single_address,
    require,
)
from calico_engine.model.validate.policy import PORT_PROTOCOLS

_CONTAINER_ID = re.compile(r"[a-zA-Z0-9](?:[-a-zA-Z0-9]{0,251}[a-zA-Z0-9])?")
#: What the v1 API let through as an identifier, less what could end up in a rule or a path as more than a word.
_V1_IDENTIFIER = re.compile(r"[A-Za-z0-9_.:-]{1,253}")
#: Of a network that a v1 endpoint may have.
_V1_SHORTEST_MASK = 8
_PORT_NAME = re.compile(r"(?=.*[a-z])(?!.*--)[a-z0-9](?:[-a-z0-9]{0,13}[a-z0-9])?")


def check_workload(endpoint: WorkloadEndpoint) -> None:
    spec = endpoint.spec
    from_v1 = v1.CONVERTED_FROM in endpoint.metadata.annotations
    if from_v1 or not (
        _are_names(spec.orchestrator, spec.node, spec.endpoint, spec.service_account_name, spec.profiles)
        and (not spec.workload or is_name(spec.workload))
        and (not spec.pod or is_name(spec.pod))
    ):
        _check_identifiers(spec, from_v1=from_v1)
    if spec.container_id and _CONTAINER_ID.fullmatch(spec.container_id) is None:
        raise FieldError("spec.containerID", f"{shorten(spec.container_id)} must be letters, digits and '-'")
    if spec.interface_name:
        check_interface("spec.interfaceName", spec.interface_name)
    if spec.mac and not is_plain_mac(spec.mac):
        check("spec.mac", canonical_mac, spec.mac)
    _check_workload_networks(endpoint, from_v1=from_v1)
    if spec.ports:
        _check_ports(spec.ports, needs_name=False)
    for index, prefix in enumerate(spec.allow_spoofed_source_prefixes):
        check(f"spec.allowSpoofedSourcePrefixes[{index}]", mask_network, prefix)


@lru_cache(maxsize=16_384)
def _are_names(
    orchestrator: str, node: str, endpoint: str, service_account_name: str, profiles: tuple[str, ...]
) -> bool:
    """Return whether what many endpoints share needs no closer look."""
    return bool(node) and all(
        not name or is_name(name) for name in (orchestrator, node, endpoint, service_account_name, *profiles)
    )


def _check_identifiers(spec: WorkloadEndpointSpec, *, from_v1: bool) -> None:
    require("spec.node", spec.node)
    for field, value in (
        ("spec.orchestrator", spec.orchestrator),
        ("spec.workload", spec.workload),
        ("spec.node", spec.node),
        ("spec.pod", spec.pod),
        ("spec.endpoint", spec.endpoint),
        ("spec.serviceAccountName", spec.service_account_name),
    ):
        if value and not (from_v1 and _V1_IDENTIFIER.fullmatch(value)):
            check_name(field, value)
    check_names("spec.profiles", spec.profiles)


def _check_workload_networks(endpoint: WorkloadEndpoint, *, from_v1: bool) -> None:
    spec = endpoint.spec
    for index, network in enumerate(spec.ip_networks):
        if is_plain_host(network):
            continue
        path = f"spec.ipNetworks[{index}]"
        check_network(path, network)
        # The old API took whole networks. Anybody can write the annotation: not one that takes the node's own routes.
        allowed = from_v1 and parse_network(network).prefixlen >= _V1_SHORTEST_MASK
        if not allowed and not is_single_address(network):
            raise FieldError(
                path, f"{network} holds several addresses; an endpoint has single ones, /32 or /128"
            )
    if spec.ipv4_gateway:
        check_address("spec.ipv4Gateway", spec.ipv4_gateway, 4)
    if spec.ipv6_gateway:
        check_address("spec.ipv6Gateway", spec.ipv6_gateway, 6)
    for index, nat in enumerate(spec.ip_nats):
        path = f"spec.ipNATs[{index}]"
        check_address(f"{path}.internalIP", nat.internal_ip)
        check_address(f"{path}.externalIP", nat.external_ip)
        if ip_version(nat.internal_ip) != ip_version(nat.external_ip):
            raise FieldError(f"{path}.externalIP", "must be of the same IP version as internalIP")
        internal = parse_network(nat.internal_ip).network_address
        if not any(internal in parse_network(network) for network in spec.ip_networks):
            raise FieldError(f"{path}.internalIP", f"{nat.internal_ip} is not in the endpoint's ipNetworks")


def _check_ports(ports: Sequence[EndpointPort], *, needs_name: bool) -> None:
    for index, port in enumerate(ports):
        path = f"spec.ports[{index}]"
        if (port.name or needs_name or not port.host_port) and _PORT_NAME.fullmatch(port.name) is None:
            raise FieldError(
                f"{path}.name",
                f"{shorten(port.name)} is not a port name: 1-15 lower-case letters, digits and '-', "
                "with a letter, no '--', and no '-' at either end",
            )
        try:
            number = protocol_number(port.protocol)
        except ValueError as error:
            raise FieldError(f"{path}.protocol", str(error)) from None
        if number not in PORT_PROTOCOLS:
            raise FieldError(f"{path}.protocol", f"{port.protocol} has no ports; allowed are TCP, UDP, SCTP")
        check_range(f"{path}.port", port.port, 1, 65535)
        check_range(f"{path}.hostPort", port.host_port, 0, 65535)
        if port.host_ip:
            check_network(f"{path}.hostIP", port.host_ip)


def check_host(endpoint: HostEndpoint) -> None:
    spec = endpoint.spec
    require("spec.node", spec.node)
    check_name("spec.node", spec.node)
    if not spec.interface_name and not spec.expected_ips:
        raise FieldError(
            "spec.interfaceName", 'is required where expectedIPs is empty; "*" stands for all interfaces'
        )
    if spec.interface_name not in ("", "*"):
        check_interface("spec.interfaceName", spec.interface_name)
    for index, address in enumerate(spec.expected_ips):
        check_address(f"spec.expectedIPs[{index}]", address)
    check_names("spec.profiles", spec.profiles)
    _check_ports(spec.ports, needs_name=True)
