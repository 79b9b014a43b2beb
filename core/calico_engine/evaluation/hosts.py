"""Who is at an address, and which host endpoint guards which interface of a node."""

from __future__ import annotations

import ipaddress

import msgspec

from calico_engine.evaluation.flow import Address
from calico_engine.evaluation.world import World
from calico_engine.model.endpoint import HostEndpoint, WorkloadEndpoint

ALL_INTERFACES = "*"


class Workload(msgspec.Struct, frozen=True):
    """An end of a flow that is a workload endpoint."""

    address: Address
    endpoint: WorkloadEndpoint

    @property
    def node(self) -> str:
        return self.endpoint.spec.node


class Host(msgspec.Struct, frozen=True):
    """An end of a flow that is a node itself."""

    address: Address
    node: str


class Outside(msgspec.Struct, frozen=True):
    """An end of a flow that no resource knows."""

    address: Address
    node: str = ""


Party = Workload | Host | Outside


def resolve_parties(world: World, src: str, dst: str) -> tuple[Party, Party]:
    """Return both ends of a flow, addresses of one family. Raises: ValueError for a name nobody has."""
    sources, destinations = _candidates(world, src), _candidates(world, dst)
    for source in sources:
        for destination in destinations:
            if source.address.version == destination.address.version:
                return source, destination
    raise ValueError(f"flow: {src} and {dst} have no addresses of one IP version")


def _candidates(world: World, text: str) -> list[Party]:
    try:
        return [party_at(world, ipaddress.ip_address(text))]
    except ValueError:
        pass
    namespace, _, name = text.rpartition("/")
    for workload in world.workloads:
        if workload.metadata.name == name and namespace in ("", workload.metadata.namespace):
            return [Workload(address, workload) for address in _addresses(workload.spec.ip_networks)]
    for host in world.hosts:
        if host.metadata.name == text and host.spec.expected_ips:
            return [Host(address, host.spec.node) for address in _addresses(host.spec.expected_ips)]
    if text in world.nodes and node_addresses(world, text):
        return [Host(address, text) for address in node_addresses(world, text)]
    raise ValueError(
        f"flow: {text!r} is neither an IP address nor the name of an endpoint or node with an address"
    )


def _addresses(networks: tuple[str, ...]) -> list[Address]:
    return [ipaddress.ip_interface(network).ip for network in networks]


def party_at(world: World, address: Address) -> Party:
    """Return who has an address; of several the first by key, workloads before hosts."""
    owners = {item.key for item in world.items_at(address)}
    for workload in world.workloads if owners else ():
        if workload.key in owners:
            return Workload(address, workload)
    for host in world.hosts if owners else ():
        if host.key in owners:
            return Host(address, host.spec.node)
    for name in sorted(world.nodes):
        if address in node_addresses(world, name):
            return Host(address, name)
    return Outside(address)


def node_addresses(world: World, name: str) -> list[Address]:
    node = world.nodes.get(name)
    if node is None:
        return []
    texts = [item.address for item in node.spec.addresses]
    if node.spec.bgp is not None:
        texts += [node.spec.bgp.ipv4_address, node.spec.bgp.ipv6_address]
    return [ipaddress.ip_interface(text).ip for text in texts if text]


def named_host_endpoint(world: World, node: str, interface: str, own: Address | None) -> HostEndpoint | None:
    """Return the host endpoint of one interface; of several the one whose name comes first.

    Args: interface: its name, "" when the flow does not say; own: the node's address on it, where that is known.
    """
    named = [
        host for host in world.hosts if host.spec.node == node and host.spec.interface_name != ALL_INTERFACES
    ]
    named.sort(key=lambda host: host.metadata.name)
    if interface:
        matching = [host for host in named if host.spec.interface_name == interface]
        matching += [host for host in named if not host.spec.interface_name and _expects(host, own)]
        matching.sort(key=lambda host: host.metadata.name)
        return matching[0] if matching else None
    addresses = [own] if own is not None else node_addresses(world, node)
    for host in named:
        if any(_expects(host, address) for address in addresses):
            return host
    return named[0] if len(named) == 1 else None


def _expects(host: HostEndpoint, address: Address | None) -> bool:
    return address is not None and address in _addresses(host.spec.expected_ips)


def default_host_endpoint(world: World, node: str) -> HostEndpoint | None:
    """Return the node's host endpoint for all interfaces that have none of their own."""
    found = [
        host for host in world.hosts if host.spec.node == node and host.spec.interface_name == ALL_INTERFACES
    ]
    return min(found, key=lambda host: host.metadata.name, default=None)
