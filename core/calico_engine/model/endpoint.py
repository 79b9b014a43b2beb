"""Workload and host endpoints, as users write them (projectcalico.org/v3)."""

from __future__ import annotations

import msgspec

from calico_engine.model.policy import Protocol
from calico_engine.model.resource import Resource, camel, register_kind


class _Spec(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True, rename=camel()):
    """Options every spec struct shares."""


class EndpointPort(_Spec, frozen=True, rename=camel(("host_ip", "hostIP"))):
    """A named port of an endpoint, for rules that match ports by name."""

    name: str
    protocol: Protocol
    port: int
    host_port: int = 0
    host_ip: str = ""


class IPNAT(_Spec, frozen=True, rename=camel(("internal_ip", "internalIP"), ("external_ip", "externalIP"))):
    internal_ip: str = ""
    external_ip: str = ""


class WorkloadEndpointSpec(
    _Spec, frozen=True, rename=camel(("container_id", "containerID"), ("ip_nats", "ipNATs"))
):
    orchestrator: str = ""
    workload: str = ""
    node: str = ""
    container_id: str = ""
    pod: str = ""
    endpoint: str = ""
    service_account_name: str = ""
    ip_networks: tuple[str, ...] = ()
    ip_nats: tuple[IPNAT, ...] = ()
    ipv4_gateway: str = ""
    ipv6_gateway: str = ""
    profiles: tuple[str, ...] = ()
    interface_name: str = ""
    mac: str = ""
    ports: tuple[EndpointPort, ...] = ()
    allow_spoofed_source_prefixes: tuple[str, ...] = ()
    qos_controls: dict[str, int] = {}


@register_kind("workloadendpoints", namespaced=True)
class WorkloadEndpoint(Resource, frozen=True):
    spec: WorkloadEndpointSpec = WorkloadEndpointSpec()


class HostEndpointSpec(_Spec, frozen=True, rename=camel(("expected_ips", "expectedIPs"))):
    node: str = ""
    interface_name: str = ""
    expected_ips: tuple[str, ...] = ()
    profiles: tuple[str, ...] = ()
    ports: tuple[EndpointPort, ...] = ()


@register_kind("hostendpoints")
class HostEndpoint(Resource, frozen=True):
    spec: HostEndpointSpec = HostEndpointSpec()
