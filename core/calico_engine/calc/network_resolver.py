"""Nodes, pools and routes together: what the routing plugins are told.

Pure. Two pools of one CIDR cannot be stored, but may be seen for a moment: the lower name counts.
"""

from __future__ import annotations

from calico_engine.calc.node_resolver import resolve_node, resolve_pool, resolve_vtep
from calico_engine.calc.route_resolver import RouteResolver
from calico_engine.calc.sequencer import Sequencer
from calico_engine.messages import NodeRemove, PoolRemove, PoolUpdate, RouteRemove, VtepRemove
from calico_engine.model.node import IPPool, Node
from calico_engine.model.resource import ResourceKey


class NetworkResolver:
    """Nodes, pools, blocks and workloads' addresses in; nodes, pools, VTEPs and routes out."""

    def __init__(self, node: str, sequencer: Sequencer) -> None:
        self.routes = RouteResolver(node)
        self.nodes: set[str] = set()
        self._sequencer = sequencer
        self._pools: dict[ResourceKey, PoolUpdate] = {}
        self._said: dict[str, PoolUpdate] = {}

    def put_node(self, name: str, node: Node | None) -> None:
        """Enter, replace or (None) remove a node. Raises: ValueError, before anything is changed."""
        update = None if node is None else resolve_node(name, node)
        vtep = None if node is None or update is None else resolve_vtep(update, node)
        self.routes.put_node(name, update)
        if update is None:
            self.nodes.discard(name)
            self._sequencer.remove(NodeRemove(node=name))
        else:
            self.nodes.add(name)
            self._sequencer.add(update)
        if vtep is None:
            self._sequencer.remove(VtepRemove(node=name))
        else:
            self._sequencer.add(vtep)

    def put_pool(self, key: ResourceKey, pool: IPPool | None) -> None:
        """Enter, replace or (None) remove a pool. Raises: ValueError, before anything is changed."""
        new = None if pool is None else resolve_pool(pool)
        old = self._pools.pop(key, None)
        if new is not None:
            self._pools[key] = new
        for cidr in {each.cidr for each in (old, new) if each is not None}:
            self._settle_pool(cidr)

    def _settle_pool(self, cidr: str) -> None:
        claims = {key: pool for key, pool in self._pools.items() if pool.cidr == cidr}
        now = claims[min(claims)] if claims else None
        before = self._said.pop(cidr, None)
        if now is not None:
            self._said[cidr] = now
            self._sequencer.add(now)
        else:
            self._sequencer.remove(PoolRemove(cidr=cidr))
        if now != before:
            self.routes.put_pool(before, now)

    def flush(self) -> None:
        """Say what is new of routes."""
        for dst, route in self.routes.flush():
            if route is None:
                self._sequencer.remove(RouteRemove(dst=dst))
            else:
                self._sequencer.add(route)
