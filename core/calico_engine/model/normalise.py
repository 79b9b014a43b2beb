"""Put a resource into canonical form: what can be written in many ways is spelled in one.

Pure. Networks get their mask, ports and protocols their one spelling, addresses their shortest form. A value that has
no canonical form is left as it is, for validation to name. What is canonical already is returned as it came.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import msgspec

from calico_engine.model.canonical import (
    canonical_address,
    canonical_interface_address,
    canonical_mac,
    canonical_network,
    canonical_port,
    canonical_protocol,
    is_plain_host,
    is_plain_mac,
    mask_network,
)
from calico_engine.model.endpoint import IPNAT, EndpointPort, HostEndpoint, WorkloadEndpoint
from calico_engine.model.names import workload_endpoint_name
from calico_engine.model.node import IPPool, IPReservation, Node
from calico_engine.model.policy import (
    EntityRule,
    GlobalNetworkPolicy,
    GlobalNetworkSet,
    NetworkPolicy,
    NetworkSet,
    Profile,
    Rule,
    StagedGlobalNetworkPolicy,
    StagedNetworkPolicy,
)
from calico_engine.model.resource import Resource

S = TypeVar("S", bound=msgspec.Struct)
T = TypeVar("T")


def normalise(resource: Resource) -> Resource:
    """Return the resource in canonical form; equal to what comes in when it is canonical already.

    A namespaced resource without a namespace goes to "default", a workload endpoint without a name gets the one its
    identifiers give it.
    """
    if resource.NAMESPACED and not resource.metadata.namespace:
        resource = _replace(resource, metadata=_replace(resource.metadata, namespace="default"))
    match resource:
        case WorkloadEndpoint():
            return _workload(resource)
        case (
            NetworkPolicy()
            | GlobalNetworkPolicy()
            | StagedNetworkPolicy()
            | StagedGlobalNetworkPolicy()
            | Profile()
        ):
            spec = resource.spec
            ingress, egress = [
                tuple([_rule(rule) for rule in rules]) for rules in (spec.ingress, spec.egress)
            ]
            return _replace(resource, spec=_replace(spec, ingress=ingress, egress=egress))
        case NetworkSet() | GlobalNetworkSet():
            return _replace(
                resource, spec=_replace(resource.spec, nets=_each(mask_network, resource.spec.nets))
            )
        case HostEndpoint():
            return _host(resource)
        case IPPool():
            cidr = _attempt(canonical_network, resource.spec.cidr)
            return _replace(resource, spec=_replace(resource.spec, cidr=cidr))
        case IPReservation():
            cidrs = _each(mask_network, resource.spec.reserved_cidrs)
            return _replace(resource, spec=_replace(resource.spec, reserved_cidrs=cidrs))
        case Node():
            return _node(resource)
        case _:
            return resource


def _attempt(canonical: Callable[[T], T], value: T) -> T:
    if value == "" or value is None:
        return value
    try:
        return canonical(value)
    except ValueError:
        return value


def _each(canonical: Callable[[T], T], values: tuple[T, ...]) -> tuple[T, ...]:
    return tuple([_attempt(canonical, value) for value in values]) if values else values


def _replace(struct: S, **changes: object) -> S:
    """Return the struct with those fields replaced that differ."""
    differing = {name: value for name, value in changes.items() if getattr(struct, name) != value}
    return msgspec.structs.replace(struct, **differing) if differing else struct


def _entity(entity: EntityRule) -> EntityRule:
    if not (entity.nets or entity.not_nets or entity.ports or entity.not_ports):
        return entity
    return _replace(
        entity,
        nets=_each(canonical_network, entity.nets),
        not_nets=_each(canonical_network, entity.not_nets),
        ports=_each(canonical_port, entity.ports),
        not_ports=_each(canonical_port, entity.not_ports),
    )


def _rule(rule: Rule) -> Rule:
    return _replace(
        rule,
        protocol=_attempt(canonical_protocol, rule.protocol) if rule.protocol is not None else None,
        not_protocol=_attempt(canonical_protocol, rule.not_protocol)
        if rule.not_protocol is not None
        else None,
        source=_entity(rule.source),
        destination=_entity(rule.destination),
    )


def _ports(ports: tuple[EndpointPort, ...]) -> tuple[EndpointPort, ...]:
    return tuple([_replace(port, protocol=_attempt(canonical_protocol, port.protocol)) for port in ports])


def _nat(nat: IPNAT) -> IPNAT:
    return _replace(
        nat,
        internal_ip=_attempt(canonical_address, nat.internal_ip),
        external_ip=_attempt(canonical_address, nat.external_ip),
    )


def _workload(endpoint: WorkloadEndpoint) -> WorkloadEndpoint:
    spec = endpoint.spec
    if (
        endpoint.metadata.name
        and (not spec.mac or is_plain_mac(spec.mac))
        and not (spec.ports or spec.ip_nats or spec.allow_spoofed_source_prefixes)
        and not (spec.ipv4_gateway or spec.ipv6_gateway)
        and all(map(is_plain_host, spec.ip_networks))
    ):
        return endpoint  # what most are, and there are many
    if not endpoint.metadata.name:
        endpoint = _replace(endpoint, metadata=_replace(endpoint.metadata, name=workload_endpoint_name(spec)))
    return _replace(
        endpoint,
        spec=_replace(
            spec,
            ip_networks=_each(canonical_network, spec.ip_networks),
            ip_nats=tuple([_nat(nat) for nat in spec.ip_nats]),
            ipv4_gateway=_attempt(canonical_address, spec.ipv4_gateway),
            ipv6_gateway=_attempt(canonical_address, spec.ipv6_gateway),
            mac=_attempt(canonical_mac, spec.mac),
            ports=_ports(spec.ports),
            allow_spoofed_source_prefixes=_each(mask_network, spec.allow_spoofed_source_prefixes),
        ),
    )


def _host(endpoint: HostEndpoint) -> HostEndpoint:
    spec = endpoint.spec
    return _replace(
        endpoint,
        spec=_replace(
            spec, expected_ips=_each(canonical_address, spec.expected_ips), ports=_ports(spec.ports)
        ),
    )


def _node(node: Node) -> Node:
    spec = node.spec
    bgp = spec.bgp
    if bgp is not None:
        bgp = _replace(
            bgp,
            ipv4_address=_attempt(canonical_interface_address, bgp.ipv4_address),
            ipv6_address=_attempt(canonical_interface_address, bgp.ipv6_address),
            ipv4_ipip_tunnel_addr=_attempt(canonical_address, bgp.ipv4_ipip_tunnel_addr),
        )
    return _replace(
        node,
        spec=_replace(
            spec,
            bgp=bgp,
            ipv4_vxlan_tunnel_addr=_attempt(canonical_address, spec.ipv4_vxlan_tunnel_addr),
            ipv6_vxlan_tunnel_addr=_attempt(canonical_address, spec.ipv6_vxlan_tunnel_addr),
            vxlan_tunnel_mac_addr=_attempt(canonical_mac, spec.vxlan_tunnel_mac_addr),
            vxlan_tunnel_mac_addr_v6=_attempt(canonical_mac, spec.vxlan_tunnel_mac_addr_v6),
        ),
    )
