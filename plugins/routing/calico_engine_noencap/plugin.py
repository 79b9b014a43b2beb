"""Program `block via node` routes in the main table, for destinations that need no tunnel.

Ours are the unicast routes of protocol 80 with a gateway, on anything but workload interfaces and tunnels. A next hop
must be on a link of this node; where it is not, nothing is routed and the reason is told once. Destinations that need
IPIP or VXLAN are left to those plugins.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from calico_engine.kernel.namespaces import has_net_admin
from calico_engine.kernel.netlink import RTPROT_CALICO, Netlink
from calico_engine.kernel.routes import Route, RouteTable, RouteType, make_route, route_text
from calico_engine.messages import (
    Batch,
    ConfigUpdate,
    InterfaceRemove,
    InterfaceUpdate,
    Message,
    NodeRemove,
    NodeUpdate,
    PoolEncap,
    RouteKind,
    RouteRemove,
    RouteUpdate,
)
from calico_engine.plugin import ApplyResult, Capability, Change, Notification, PluginContext

log = logging.getLogger(__name__)

TUNNEL_INTERFACES = frozenset({"tunl0", "vxlan.calico", "vxlan-v6.calico", "wireguard.cali", "wg-v6.cali"})
_REMOTE = frozenset({RouteKind.REMOTE_BLOCK, RouteKind.REMOTE_WORKLOAD})
_PLAIN = frozenset({PoolEncap.NONE, PoolEncap.NO_POOL})


class NoEncapRouting:
    """A Routing plugin (calico_engine.plugin.protocols)."""

    def __init__(self, context: PluginContext) -> None:
        self._context = context
        self._settings = context.settings
        self._remote: dict[str, RouteUpdate] = {}
        self._dirty: set[str] = set()
        self._interfaces: dict[str, InterfaceUpdate] = {}
        self._own_addresses: frozenset[str] = frozenset()
        self._ways: dict[str, str] = {}
        self._unreachable: dict[str, str] = {}
        self._told: set[str] = set()
        self._netlink = Netlink()
        self._routes = RouteTable(
            context.name,
            self._owns,
            families=context.families,
            on_change=context.request_apply,
            on_drift=self._tell_drift,
            metrics=context.metrics,
        )

    def on_batch(self, batch: Batch, /) -> None:
        for message in batch.messages:
            self._note(message)

    def invalidate(self, reason: str, /) -> None:
        log.debug("noencap: reading the kernel back: %s", reason)
        self._routes.invalidate()
        self._forget_ways()

    def _note(self, message: Message) -> None:
        match message:
            case RouteUpdate(dst=dst):
                self._dirty.add(dst)
                if message.kind in _REMOTE:
                    self._remote[dst] = message
                else:
                    self._remote.pop(dst, None)
            case RouteRemove(dst=dst):
                self._dirty.add(dst)
                self._remote.pop(dst, None)
            case InterfaceUpdate() | InterfaceRemove():
                self._note_interface(message)
            case NodeUpdate(node=node) if node == self._context.node:
                self._own_addresses = frozenset(filter(None, (message.ipv4_address, message.ipv6_address)))
                self._forget_ways()
            case NodeRemove(node=node) if node == self._context.node:
                self._own_addresses = frozenset()
                self._forget_ways()
            case ConfigUpdate(settings=settings):
                self._settings = settings
            case _:
                pass

    def _note_interface(self, message: InterfaceUpdate | InterfaceRemove) -> None:
        self._routes.note_interface(message)
        before = self._interfaces.pop(message.name, None)
        if isinstance(message, InterfaceUpdate):
            self._interfaces[message.name] = message
        # Pods come and go all day; only the node's own links lead to other nodes.
        if before != self._interfaces.get(message.name) and not message.name.startswith(
            self._settings.interface_prefix
        ):
            self._forget_ways()

    def _forget_ways(self) -> None:
        """Ask the kernel anew how each next hop is reached."""
        self._ways.clear()
        self._dirty.update(self._remote)

    def _owns(self, route: Route) -> bool:
        return (
            route.kind is RouteType.UNICAST
            and route.protocol == RTPROT_CALICO
            and bool(route.gateway)
            and route.interface not in TUNNEL_INTERFACES
            and not route.interface.startswith(self._settings.interface_prefix)
        )

    async def apply(self) -> ApplyResult:
        await self._resolve()
        changes = await self._routes.apply()
        self._report()
        return ApplyResult(
            plugin=self._context.name,
            writes=len(changes),
            changes=tuple(changes),
            resync_after_s=self._settings.route_refresh_interval_s or None,
        )

    async def prune(self) -> ApplyResult:
        changes = await self._routes.prune()
        return ApplyResult(plugin=self._context.name, writes=len(changes), changes=tuple(changes))

    async def plan(self) -> Sequence[Change]:
        await self._resolve()
        return await self._routes.plan()

    @property
    def problems(self) -> dict[str, str]:
        """Destinations that cannot be reached, each with why."""
        return {f"{self._context.name} {number}": text for number, text in enumerate(sorted(self._told), 1)}

    def render(self) -> str:
        """Return the routes as `ip route` shows them; without a kernel, the interface of a next hop is not known."""
        routes = [self._desired(route, "") for route in self._remote.values() if not self._why_not(route)]
        return "".join(f"{route_text(route)}\n" for route in sorted(routes, key=lambda route: route.key))

    async def cleanup(self) -> int:
        return await self._routes.cleanup()

    async def close(self) -> None:
        await self._routes.close()
        await self._netlink.close()

    async def _resolve(self) -> None:
        """Turn dirty destinations into desired routes. Raises: KernelError; what is left stays dirty."""
        for dst in sorted(self._dirty):
            update = self._remote.get(dst)
            self._unreachable.pop(dst, None)
            desired = None
            if update is not None:
                desired, reason = await self._route_or_reason(update)
                if reason:
                    self._unreachable[dst] = reason
            key = make_route(dst, RTPROT_CALICO).key
            if desired is None:
                self._routes.delete_desired(key)
            else:
                self._routes.set_desired(desired)
            self._dirty.discard(dst)

    async def _route_or_reason(self, update: RouteUpdate) -> tuple[Route | None, str]:
        reason = self._why_not(update)
        if reason:
            return None, reason
        hop = update.next_hop
        if hop not in self._ways:
            index = await self._netlink.on_link_interface(hop)
            names = [name for name, interface in self._interfaces.items() if interface.index == index]
            self._ways[hop] = names[0] if names else ""
        if self._ways[hop]:
            return self._desired(update, self._ways[hop]), ""
        parent = self._parent_interface()
        if update.same_subnet and parent:
            # The nodes say they share a subnet, the kernel's masks do not show it (a /32 on the interface).
            return self._desired(update, parent, onlink=True), ""
        return None, (
            f"{update.dst} is not routed: its node {update.node} ({hop}) is on no link of this node; "
            "use a pool with IPIP or VXLAN (CrossSubnet will do), or BGP"
        )

    def _why_not(self, update: RouteUpdate) -> str:
        if update.encap not in _PLAIN:
            return f"destinations that need {update.encap.value} are left to the routing plugin {update.encap.value}"
        if not update.next_hop:
            return f"{update.dst} is not routed: the address of its node {update.node} is not known"
        if (":" in update.next_hop) != (":" in update.dst):
            return f"{update.dst} is not routed: {update.next_hop} of its node {update.node} is of the other family"
        return ""

    def _parent_interface(self) -> str:
        names = [
            name for name, interface in self._interfaces.items() if interface.addresses & self._own_addresses
        ]
        return min(names, default="")

    def _desired(self, update: RouteUpdate, interface: str, *, onlink: bool = False) -> Route:
        return make_route(
            update.dst, RTPROT_CALICO, interface=interface, gateway=update.next_hop, onlink=onlink
        )

    def _tell_drift(self, text: str) -> None:
        self._context.notify(Notification(plugin=self._context.name, kind="drift", message=text))

    def _report(self) -> None:
        reasons = set(self._unreachable.values())
        reasons.update(f"route to {key.dst} is refused: {why}" for key, why in self._routes.refused.items())
        for reason in sorted(reasons - self._told):
            log.warning("%s", reason)
            self._context.notify(Notification(plugin=self._context.name, kind="warning", message=reason))
        self._told = reasons


def check_machine() -> Sequence[Capability]:
    """Say whether this process may write routes. Writes nothing."""
    return (
        Capability(
            name="CAP_NET_ADMIN",
            ok=has_net_admin(),
            needed_for="routes to other nodes",
            remedy="run as root, or in a network namespace of a user namespace of your own",
        ),
    )
