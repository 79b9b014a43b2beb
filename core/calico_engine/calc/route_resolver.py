"""Where each destination lives: local endpoints, blocks, borrowed addresses, other nodes.

A destination may be known from several sources; the most specific one counts: a local endpoint, then a remote one,
then an allocation outside of its node's blocks, then a node's own address, then a block. Two nodes that claim one
destination: the lower name wins, so that the outcome does not depend on the order of updates.
Routes to a node whose address is unknown are held back.
Destinations are kept in the form of set members: an address, or a network with its mask.
Pure. Source: felix/calc/l3_route_resolver.go.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address

from calico_engine.calc.nets import canonical_members, host_cidr, parse_cidr
from calico_engine.calc.prefixes import PrefixMap
from calico_engine.messages import NodeUpdate, PoolEncap, PoolUpdate, RouteKind, RouteUpdate
from calico_engine.model.node import IPAMBlock
from calico_engine.model.resource import ResourceKey

_AFFINITY_PREFIX = "host:"
_NODE_ATTRIBUTE = "node"

# Larger blocks are compared with every known address instead of being walked through.
_ENUMERATED = 4096

#: A block's destination, the node it is affine to ("" for none), and who has which address of it elsewhere.
_Block = tuple[str, str, dict[str, str]]


class Owners:
    """Which nodes claim a destination, counted: nearly always one node, once."""

    __slots__ = ("by_destination",)

    def __init__(self) -> None:
        self.by_destination: dict[str, str | dict[str, int]] = {}

    def add(self, destination: str, node: str) -> bool:
        """Count a claim; return whether it is the only one."""
        known = self.by_destination.get(destination)
        if known is None:
            self.by_destination[destination] = node
            return True
        if isinstance(known, str):
            known = self.by_destination[destination] = {known: 1}
        known[node] = known.get(node, 0) + 1
        return False

    def remove(self, destination: str, node: str) -> None:
        """Take a claim back."""
        known = self.by_destination[destination]
        if isinstance(known, str):
            del self.by_destination[destination]
            return
        known[node] -= 1
        if known[node] == 0:
            del known[node]
        if not known:
            del self.by_destination[destination]

    def first(self, destination: str, preferred: str) -> str:
        """Return the preferred node if it claims the destination, else the first by name, "" when nobody does."""
        known = self.by_destination.get(destination, "")
        if isinstance(known, str):
            return known
        return preferred if preferred in known else min(known)

    def of_nodes(self, nodes: set[str]) -> Iterator[str]:
        """Yield what any of some nodes claims."""
        for destination, known in self.by_destination.items():
            if known in nodes if isinstance(known, str) else not nodes.isdisjoint(known):
                yield destination


class RouteResolver:
    """Endpoints, blocks, pools and nodes in; one RouteUpdate per destination out."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._nodes: dict[str, NodeUpdate] = {}
        self._workloads = Owners()
        self._allocations = Owners()
        self._hosts = Owners()
        self._blocks = Owners()
        self._block_of: dict[ResourceKey, _Block] = {}
        self._block_nodes: PrefixMap[str] = PrefixMap()
        self._pools: PrefixMap[PoolUpdate] = PrefixMap()
        self._dirty: set[str] = set()
        self._dirty_nodes: set[str] = set()
        self._dirty_areas: PrefixMap[None] = PrefixMap()
        self._subnet_changed = False
        self._same_subnet: dict[str, bool] = {}

    # -- inputs --------------------------------------------------------------------------------------------------

    def put_workload(
        self, node: str, hosts: tuple[str, ...], old_node: str, old_hosts: tuple[str, ...]
    ) -> None:
        """Move a workload endpoint's addresses from what they were to what they are; none when it is gone."""
        if node == old_node and hosts == old_hosts:
            return
        # While the node is unknown there is no route; when it becomes known all that it claims is looked at.
        visible = node == self._node or node in self._nodes
        for host in hosts:
            if not self._workloads.add(host, node) or visible:
                self._dirty.add(host)
        for host in old_hosts:
            self._workloads.remove(host, old_node)
            self._dirty.add(host)

    def put_block(self, key: ResourceKey, block: IPAMBlock | None) -> None:
        """Enter, replace or (None) remove an IPAM block. Raises: ValueError, before anything is changed."""
        new = None if block is None or block.spec.deleted else _read_block(block)
        old = self._block_of.pop(key, None)
        if new is not None:
            self._block_of[key] = new
        if old == new:
            return
        for cidr in {each[0] for each in (old, new) if each is not None}:
            self._mark_inside(cidr)
        if old is not None:
            cidr, node, elsewhere = old
            if node:
                self._blocks.remove(cidr, node)
                self._block_nodes.pop(cidr)
            for host, owner in elsewhere.items():
                self._allocations.remove(host, owner)
            self._dirty.update((cidr, *elsewhere))
        if new is not None:
            cidr, node, elsewhere = new
            if node:
                self._blocks.add(cidr, node)
                self._block_nodes[cidr] = node
            for host, owner in elsewhere.items():
                self._allocations.add(host, owner)
            self._dirty.update((cidr, *elsewhere))

    def put_pool(self, old: PoolUpdate | None, new: PoolUpdate | None) -> None:
        """Replace a pool; None where there was or is none."""
        if old is not None:
            self._pools.pop(old.cidr)
            self._dirty_areas[old.cidr] = None
        if new is not None:
            self._pools[new.cidr] = new
            self._dirty_areas[new.cidr] = None

    def put_node(self, name: str, node: NodeUpdate | None) -> None:
        """Enter, replace or (None) remove a node."""
        old = self._nodes.pop(name, None)
        if node is not None:
            self._nodes[name] = node
        if old == node:
            return
        for address in _addresses(node):
            self._hosts.add(address, name)
        for address in _addresses(old):
            self._hosts.remove(address, name)
            self._dirty.add(address)
        self._dirty_nodes.add(name)
        self._same_subnet.clear()
        if name == self._node and _subnets(old) != _subnets(node):
            self._subnet_changed = True

    # -- output --------------------------------------------------------------------------------------------------

    def flush(self) -> Iterator[tuple[str, RouteUpdate | None]]:
        """Yield each destination (a CIDR) that may have changed with its route, None when it has none."""
        for destination in self._take_dirty():
            yield host_cidr(destination) if "/" not in destination else destination, self._route(destination)

    def _take_dirty(self) -> set[str]:
        dirty, self._dirty = self._dirty, set()
        sources = (self._workloads, self._allocations, self._hosts, self._blocks)
        if self._subnet_changed:
            # Which nodes are in our subnet may have changed.
            for source in sources:
                dirty.update(source.by_destination)
            self._subnet_changed = False
        elif self._dirty_nodes:
            for source in sources:
                dirty.update(source.of_nodes(self._dirty_nodes))
        if self._dirty_areas:
            for source in sources:
                for destination in source.by_destination:
                    if next(self._dirty_areas.covering(destination), None) is not None:
                        dirty.add(destination)
            self._dirty_areas = PrefixMap()
        self._dirty_nodes.clear()
        return dirty

    def _route(self, destination: str) -> RouteUpdate | None:
        ours = self._node
        owner = self._workloads.first(destination, ours)
        if owner == ours:
            return self._update(destination, RouteKind.LOCAL_WORKLOAD, ours)
        if owner:
            if owner not in self._nodes:
                return None
            block = self._block_node(destination)
            if owner == block:
                return None
            return self._update(destination, RouteKind.REMOTE_WORKLOAD, owner, borrowed=bool(block))
        owner = self._allocations.first(destination, ours)
        if owner and owner != ours:
            borrowed = bool(self._block_node(destination))
            return self._update(destination, RouteKind.REMOTE_WORKLOAD, owner, borrowed=borrowed)
        owner = self._hosts.first(destination, ours)
        if owner and owner != ours:
            return self._update(destination, RouteKind.REMOTE_HOST, owner)
        owner = self._blocks.first(destination, ours)
        if owner and owner != ours:
            return self._update(destination, RouteKind.REMOTE_BLOCK, owner)
        # A block of one address is not blackholed: its route is the endpoint's.
        return (
            self._update(destination, RouteKind.LOCAL_BLOCK, owner) if owner and "/" in destination else None
        )

    def _mark_inside(self, block: str) -> None:
        """Look again at the addresses in a block: they may be routed by it, or no longer."""
        network = parse_cidr(block)
        if network.num_addresses > _ENUMERATED:
            self._dirty_areas[block] = None
            return
        for address in network:
            host = str(address)
            if host in self._workloads.by_destination or host in self._allocations.by_destination:
                self._dirty.add(host)

    def _block_node(self, destination: str) -> str:
        """Return the node of the block around a destination, "" outside of any."""
        return next(
            (node for cidr, node in self._block_nodes.covering(destination) if cidr != destination), ""
        )

    def _update(
        self, destination: str, kind: RouteKind, owner: str, *, borrowed: bool = False
    ) -> RouteUpdate | None:
        next_hop = ""
        same_subnet = False
        if owner != self._node:
            node = self._nodes.get(owner)
            if node is not None:
                next_hop = node.ipv6_address if ":" in destination else node.ipv4_address
            if not next_hop:
                return None
            known = self._same_subnet.get(next_hop)
            if known is None:
                known = self._same_subnet[next_hop] = self._in_our_subnet(next_hop)
            same_subnet = known
        pool = next((pool for _, pool in self._pools.covering(destination)), None)
        encap = PoolEncap.NO_POOL
        if pool is not None:
            encap = PoolEncap.NONE if pool.cross_subnet and same_subnet else pool.encap
        return RouteUpdate(
            dst=destination if "/" in destination else host_cidr(destination),
            kind=kind,
            node=owner,
            next_hop=next_hop,
            encap=encap,
            same_subnet=same_subnet,
            nat_outgoing=pool is not None and pool.nat_outgoing,
            borrowed=borrowed,
        )

    def _in_our_subnet(self, address: str) -> bool:
        ours = self._nodes.get(self._node)
        if ours is None:
            return False
        network = ours.ipv6_network if ":" in address else ours.ipv4_network
        return bool(network) and ip_address(address) in parse_cidr(network)


def _addresses(node: NodeUpdate | None) -> list[str]:
    if node is None:
        return []
    return [address for address in (node.ipv4_address, node.ipv6_address) if address]


def _subnets(node: NodeUpdate | None) -> tuple[str, str]:
    return ("", "") if node is None else (node.ipv4_network, node.ipv6_network)


def _read_block(block: IPAMBlock) -> _Block:
    spec = block.spec
    network = parse_cidr(spec.cidr)
    affinity = spec.affinity or ""
    node = affinity.removeprefix(_AFFINITY_PREFIX) if affinity.startswith(_AFFINITY_PREFIX) else ""
    elsewhere: dict[str, str] = {}
    for ordinal, attribute in enumerate(spec.allocations):
        if attribute is not None and 0 <= attribute < len(spec.attributes):
            owner = spec.attributes[attribute].active_owner_attrs.get(_NODE_ATTRIBUTE, "")
            if owner and owner != node and ordinal < network.num_addresses:
                elsewhere[str(network.network_address + ordinal)] = owner
    return canonical_members((spec.cidr,))[0], node, elsewhere
