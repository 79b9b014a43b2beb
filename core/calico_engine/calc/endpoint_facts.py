"""What the graph needs to know of endpoints and network sets, and what it says of those of this node.

Pure. Source: libcalico-go/lib/backend/syncersv1/updateprocessors (which labels count), felix/calc/event_sequencer.go.
"""

from __future__ import annotations

from collections.abc import Sequence

from calico_engine.calc.nets import canonical_hosts, host_cidr
from calico_engine.calc.policy_order import EndpointTiers
from calico_engine.calc.rule_selectors import (
    NAMESPACE_LABEL,
    NAMESPACE_PREFIX,
    ORCHESTRATOR_LABEL,
    SERVICE_ACCOUNT_LABEL,
    SERVICE_ACCOUNT_PREFIX,
)
from calico_engine.messages import HostEndpointUpdate, WorkloadEndpointUpdate
from calico_engine.model.canonical import mask_network, protocol_number
from calico_engine.model.endpoint import EndpointPort, HostEndpoint, WorkloadEndpoint
from calico_engine.model.policy import NetworkSet
from calico_engine.model.resource import ResourceKey

_PORT_PROTOCOLS = {6: "tcp", 17: "udp", 132: "sctp"}


def workload_labels(endpoint: WorkloadEndpoint) -> dict[str, str]:
    """Return the labels by which selectors see a workload endpoint.

    Its namespace, service account and orchestrator are what its fields say, and labels that would fake those a
    profile gives are left out: a workload must not be able to claim that it is somebody else's.
    """
    labels = endpoint.metadata.labels
    spec = endpoint.spec
    names = "\n".join(labels)
    changes: dict[str, str] = {}
    namespace = endpoint.metadata.namespace
    if namespace and labels.get(NAMESPACE_LABEL) != namespace:
        changes[NAMESPACE_LABEL] = namespace
    if spec.service_account_name and labels.get(SERVICE_ACCOUNT_LABEL) != spec.service_account_name:
        changes[SERVICE_ACCOUNT_LABEL] = spec.service_account_name
    if spec.orchestrator and ORCHESTRATOR_LABEL not in labels:
        changes[ORCHESTRATOR_LABEL] = spec.orchestrator
    if NAMESPACE_PREFIX in names or SERVICE_ACCOUNT_PREFIX in names:
        prefixes = (NAMESPACE_PREFIX, SERVICE_ACCOUNT_PREFIX)
        labels = {label: value for label, value in labels.items() if not label.startswith(prefixes)}
    return {**labels, **changes} if changes else labels


def network_set_labels(network_set: NetworkSet) -> dict[str, str]:
    """Return the labels by which selectors see a namespaced network set."""
    return {**network_set.metadata.labels, NAMESPACE_LABEL: network_set.metadata.namespace}


def named_ports(ports: Sequence[EndpointPort]) -> tuple[tuple[str, str, int], ...]:
    """Return an endpoint's ports that have a name, as (name, protocol, number). Raises: ValueError."""
    return tuple(
        [
            (port.name, _PORT_PROTOCOLS.get(protocol_number(port.protocol), "tcp"), port.port)
            for port in ports
            if port.name
        ]
    )


def workload_update(
    key: ResourceKey, endpoint: WorkloadEndpoint, labels: dict[str, str], tiers: EndpointTiers
) -> WorkloadEndpointUpdate:
    """Return what the dataplane is told of a local workload endpoint."""
    spec = endpoint.spec
    return WorkloadEndpointUpdate(
        endpoint=key,
        interface_name=spec.interface_name,
        ip_networks=tuple([host_cidr(host) for host in canonical_hosts(spec.ip_networks)]),
        tiers=tiers.normal,
        profiles=spec.profiles,
        mac=spec.mac,
        ip_nats=spec.ip_nats,
        allow_spoofed_source_prefixes=tuple(
            [mask_network(net) for net in spec.allow_spoofed_source_prefixes]
        ),
        labels=labels,
        orchestrator=spec.orchestrator,
    )


def host_update(key: ResourceKey, endpoint: HostEndpoint, tiers: EndpointTiers) -> HostEndpointUpdate:
    """Return what the dataplane is told of a local host endpoint."""
    spec = endpoint.spec
    return HostEndpointUpdate(
        endpoint=key,
        interface_name=spec.interface_name,
        expected_ips=canonical_hosts(spec.expected_ips) if spec.expected_ips else (),
        tiers=tiers.normal,
        untracked_tiers=tiers.untracked,
        pre_dnat_tiers=tiers.pre_dnat,
        forward_tiers=tiers.forward,
        profiles=spec.profiles,
    )
