"""Reconcile the routes of one routing table, and touch nobody else's.

What is ours is said by the owner's `owns` rule (route protocol, interface, shape), from the kernel's own words, so that
it holds after a restart without memory. A desired route whose key (destination and priority) is taken by a route that
is not ours is left undone and reported; a route whose interface is missing or down waits for the interface.
"""

from __future__ import annotations

import errno
import ipaddress
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

import msgspec

from calico_engine.errors import KernelError
from calico_engine.kernel.netlink import (
    RT_SCOPE_LINK,
    RT_SCOPE_UNIVERSE,
    Group,
    Netlink,
    NetlinkListener,
)
from calico_engine.kernel.route_socket import RouteCommand, RouteSocket
from calico_engine.kernel.rtnetlink import NetlinkEvent, RawRoute, RouteEvent
from calico_engine.messages import InterfaceRemove, InterfaceUpdate
from calico_engine.plugin.protocols import NO_METRICS, Change, MetricSink
from calico_engine.reconcile import DeltaTracker

log = logging.getLogger(__name__)

MAIN_TABLE = 254
#: What a plan calls these objects.
WHERE = "routes"
#: What the kernel gives an IPv6 route that is added without a metric.
IPV6_DEFAULT_PRIORITY = 1024

#: The interface went, or went down, since we last heard of it: its next event brings us back.
_WAITS = frozenset({errno.ENODEV, errno.ENETDOWN, errno.ENXIO})
#: The route makes no sense to the kernel as things are (no way to the gateway, no such source address).
_REFUSED = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EINVAL})
_ALREADY_GONE = frozenset({errno.ESRCH, errno.ENODEV, errno.ENXIO, errno.ENOENT})


class RouteType(StrEnum):
    UNICAST = "unicast"
    LOCAL = "local"
    BROADCAST = "broadcast"
    ANYCAST = "anycast"
    MULTICAST = "multicast"
    BLACKHOLE = "blackhole"
    UNREACHABLE = "unreachable"
    PROHIBIT = "prohibit"
    OTHER = "other"


_KINDS: dict[RouteType, int] = {
    kind: number for number, kind in enumerate(RouteType, start=1) if kind is not RouteType.OTHER
}
_KINDS_BACK = {number: kind for kind, number in _KINDS.items()}


class RouteKey(NamedTuple):
    """What makes two routes the same place in a table."""

    version: int
    dst: str
    priority: int


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """A route by interface name, in the kernel's normal form: make it with `make_route`."""

    dst: str
    protocol: int
    kind: RouteType = RouteType.UNICAST
    interface: str = ""
    gateway: str = ""
    link_scope: bool = False
    priority: int = 0
    src: str = ""
    onlink: bool = False
    paths: int = 1

    @property
    def version(self) -> int:
        return 6 if ":" in self.dst else 4

    @property
    def key(self) -> RouteKey:
        return RouteKey(self.version, self.dst, self.priority)


def make_route(
    dst: str,
    protocol: int,
    *,
    kind: RouteType = RouteType.UNICAST,
    interface: str = "",
    gateway: str = "",
    priority: int = 0,
    src: str = "",
    onlink: bool = False,
) -> Route:
    """Return the route as the kernel would read it back. Raises: ValueError for a bad destination."""
    network = ipaddress.ip_network(dst, strict=False)
    v6 = network.version == 6
    return Route(
        dst=str(network),
        protocol=protocol,
        kind=kind,
        interface=interface,
        gateway=gateway,
        # IPv6 routes have no scope.
        link_scope=not v6 and kind is RouteType.UNICAST and not gateway,
        priority=priority or (IPV6_DEFAULT_PRIORITY if v6 else 0),
        src=src,
        onlink=onlink,
    )


def route_text(route: Route) -> str:
    """Return the route as `ip route` prints it."""
    words = [] if route.kind is RouteType.UNICAST else [route.kind.value]
    words.append(route.dst)
    for word, value in (("via", route.gateway), ("dev", route.interface)):
        if value:
            words += [word, value]
    words += ["proto", str(route.protocol)]
    if route.link_scope:
        words += ["scope", "link"]
    if route.src:
        words += ["src", route.src]
    if route.priority:
        words += ["metric", str(route.priority)]
    if route.onlink:
        words.append("onlink")
    return " ".join(words)


class RouteTable:
    """Keeps our part of one routing table, both families, equal to what is desired.

    Kernel work happens in `apply` (adds and changes), `prune` (removals) and `plan` (reads) alone. Interfaces come
    through `note_interface`. From the first apply on it hears of route changes.
    """

    def __init__(
        self,
        name: str,
        owns: Callable[[Route], bool],
        *,
        families: Sequence[int] = (4, 6),
        table: int = MAIN_TABLE,
        on_change: Callable[[str], None] = lambda _reason: None,
        on_drift: Callable[[str], None] = lambda _text: None,
        metrics: MetricSink = NO_METRICS,
    ) -> None:
        """name: the owner's, for metrics. on_change: the kernel told of a change that an apply must look at.

        on_drift: a route of ours that somebody else took away or changed has been put right.
        """
        self._name = name
        self._owns = owns
        self._families = tuple(families)
        self._table = table
        self._on_change = on_change
        self._on_drift = on_drift
        self._metrics = metrics
        self._netlink = Netlink()
        self._writer = RouteSocket()
        self._listener = NetlinkListener(Group.ROUTE, self._on_events)
        self._tracker: DeltaTracker[RouteKey, Route] = DeltaTracker()
        self._foreign: dict[RouteKey, Route] = {}
        self._doubles: list[Route] = []
        self._interfaces: dict[str, InterfaceUpdate] = {}
        self._indexes: dict[str, int] = {}
        self._stale = True
        self._refused: dict[RouteKey, str] = {}
        self._lost: set[RouteKey] = set()

    @property
    def desired(self) -> Mapping[RouteKey, Route]:
        return self._tracker.desired

    @property
    def actual(self) -> Mapping[RouteKey, Route]:
        """Our routes in the kernel, as last read or written."""
        return self._tracker.actual

    @property
    def refused(self) -> Mapping[RouteKey, str]:
        """Desired routes that the kernel or a foreign route does not let in, with the reason."""
        return self._refused

    @property
    def in_sync(self) -> bool:
        return not self._stale and self._tracker.in_sync and not self._doubles

    def set_desired(self, route: Route) -> None:
        if route.version in self._families:
            self._tracker.set_desired(route.key, route)

    def delete_desired(self, key: RouteKey) -> None:
        self._tracker.delete_desired(key)
        self._refused.pop(key, None)
        self._lost.discard(key)

    def note_interface(self, message: InterfaceUpdate | InterfaceRemove) -> None:
        """Take an interface's new state: its routes went with an old index, or with going down."""
        before = self._interfaces.pop(message.name, None)
        if isinstance(message, InterfaceUpdate):
            self._interfaces[message.name] = message
            if before is not None and before.up and message.up and before.index == message.index:
                return
        # The kernel says nothing when it drops IPv4 routes with their interface; of IPv6 routes it does, which is
        # nobody's doing.
        self._lost = {key for key in self._lost if self._tracker.desired[key].interface != message.name}
        for key in [key for key, route in self._tracker.actual.items() if route.interface == message.name]:
            self._tracker.forget(key)

    def invalidate(self) -> None:
        self._stale = True

    async def apply(self) -> list[Change]:
        """Add and change. Returns what was written. Raises: KernelError, after trying every route."""
        self._listener.open()
        if self._stale:
            await self.read_back()
        self._refused.clear()
        done: list[Change] = []
        errors: list[KernelError] = []
        writable = [pair for pair in self._writable() if not self._is_taken(*pair)]
        commands = [RouteCommand.ADD if before is None else RouteCommand.REPLACE for _, before in writable]
        answers = await self._writer.send(
            [
                (command, self._to_kernel(route))
                for command, (route, _) in zip(commands, writable, strict=True)
            ]
        )
        for (route, before), error in zip(writable, answers, strict=True):
            if error is None:
                self._note_written(route)
                done.append(
                    Change(action="+" if before is None else "~", where=WHERE, text=route_text(route))
                )
            elif not self._note_refusal(route, error):
                errors.append(error)
        if errors:
            self._stale = True
            raise errors[0]
        return done

    async def prune(self, keep: Callable[[Route], bool] = lambda _route: False) -> list[Change]:
        """Remove ours that are not desired, but for those to `keep` for now. Raises: KernelError."""
        if self._stale:
            await self.read_back()
        done: list[Change] = []
        errors: list[KernelError] = []
        removable = [route for route in self._removable() if not keep(route)]
        answers = await self._writer.send(
            [(RouteCommand.DELETE, self._to_kernel(route)) for route in removable]
        )
        for route, error in zip(removable, answers, strict=True):
            if error is not None and error.errno not in _ALREADY_GONE:
                errors.append(error)
                continue
            self._note_removed(route)
            done.append(Change(action="-", where=WHERE, text=route_text(route)))
        labels = {"plugin": self._name}
        self._metrics.gauge("felix_route_table_num_routes", len(self._tracker.actual), labels)
        interfaces = {route.interface for route in self._tracker.actual.values()}
        self._metrics.gauge("felix_route_table_num_ifaces", len(interfaces), labels)
        if errors:
            self._stale = True
            raise errors[0]
        return done

    async def plan(self) -> list[Change]:
        """Read the kernel back and say what apply and prune would do."""
        await self.read_back()
        changes = [
            Change(action="+" if before is None else "~", where=WHERE, text=route_text(route))
            for route, before in self._writable()
        ]
        changes += [Change(action="-", where=WHERE, text=route_text(route)) for route in self._removable()]
        return changes

    async def cleanup(self) -> int:
        """Remove all that is ours. Returns a count."""
        self._tracker.replace_desired({})
        self._stale = True
        return len(await self.prune())

    async def close(self) -> None:
        self._listener.close()
        self._writer.close()
        await self._netlink.close()

    async def read_back(self) -> None:
        """Read the table from the kernel. Raises: KernelError."""
        started_s = time.monotonic()
        names = {link.index: link.name for link in await self._netlink.links()}
        self._indexes = {name: index for index, name in names.items()}
        ours: dict[RouteKey, Route] = {}
        self._foreign, self._doubles = {}, []
        self._stale = False
        for family in self._families:
            for raw in await self._netlink.routes(family, self._table):
                route = _from_kernel(raw, names)
                if not self._owns(route):
                    self._foreign.setdefault(route.key, route)
                    continue
                other = ours.get(route.key)
                if other is None:
                    ours[route.key] = route
                elif self._tracker.desired.get(route.key) == route:
                    ours[route.key] = route
                    self._doubles.append(other)
                else:
                    self._doubles.append(route)
        self._tracker.replace_actual(ours)
        self._metrics.observe("felix_route_table_list_seconds", time.monotonic() - started_s)

    def _writable(self) -> Iterator[tuple[Route, Route | None]]:
        """Yield (desired, actual or None) for every difference whose interface is there and up."""
        delta = self._tracker.pending()
        for _, route in delta.add:
            if self._is_ready(route):
                yield route, None
        for _, before, route in delta.change:
            if self._is_ready(route):
                yield route, before

    def _removable(self) -> list[Route]:
        return [route for _, route in self._tracker.pending().delete] + list(self._doubles)

    def _is_ready(self, route: Route) -> bool:
        if not route.interface:
            return True
        interface = self._interfaces.get(route.interface)
        return interface is not None and interface.up

    def _is_taken(self, route: Route, before: Route | None) -> bool:
        """Tell whether a route that is not ours is in this one's place, and note it."""
        foreign = self._foreign.get(route.key)
        if before is not None or foreign is None:
            return False
        self._refused[route.key] = f"not ours is in its place: {route_text(foreign)}"
        return True

    def _note_refusal(self, route: Route, error: KernelError) -> bool:
        """Take what will pass or what a person must see; False for a failure."""
        if error.errno in _WAITS:
            log.debug("route waits for its interface: %s", route_text(route))
            return True
        if error.errno in _REFUSED:
            self._refused[route.key] = error.reason
            return True
        return False

    def _note_written(self, route: Route) -> None:
        self._tracker.set_actual(route.key, route)
        if route.key in self._lost:
            self._lost.discard(route.key)
            self._on_drift(f"put back after somebody else changed it: {route_text(route)}")

    def _note_removed(self, route: Route) -> None:
        if route in self._doubles:
            self._doubles.remove(route)
        elif self._tracker.actual.get(route.key) == route:
            self._tracker.forget(route.key)

    def _to_kernel(self, route: Route) -> RawRoute:
        interface = self._interfaces.get(route.interface)
        scope = RT_SCOPE_LINK if route.link_scope else RT_SCOPE_UNIVERSE
        return RawRoute(
            dst=route.dst,
            table=self._table,
            protocol=route.protocol,
            scope=scope,
            kind=_KINDS[route.kind],
            oif=interface.index if interface else self._indexes.get(route.interface, 0),
            gateway=route.gateway,
            priority=route.priority,
            src=route.src,
            onlink=route.onlink,
        )

    def _on_events(self, events: Sequence[NetlinkEvent] | None) -> None:
        if events is None:
            self._stale = True
            self._on_change("route notifications overran us")
            return
        names = {interface.index: interface.name for interface in self._interfaces.values()}
        # Our own writes are known by their answers; their news may come when they are old.
        heard = [
            event
            for event in events
            if isinstance(event, RouteEvent)
            and event.route.table == self._table
            and (not event.author or event.author != self._writer.port)
        ]
        reasons = [self._note(_from_kernel(event.route, names), gone=event.gone) for event in heard]
        for reason in filter(None, reasons):
            self._on_change(reason)
            return

    def _note(self, route: Route, *, gone: bool) -> str:
        """Take one route's news; return why an apply is needed, "" when it is not."""
        key = route.key
        wanted = self._tracker.desired.get(key)
        if gone:
            if wanted is None or self._tracker.actual.get(key) != route:
                return ""
            self._tracker.forget(key)
            self._lost.add(key)
            return f"route gone: {route_text(route)}"
        if route == wanted or (wanted is None and not self._owns(route)):
            return ""
        if self._tracker.actual.get(key) == route:
            return ""
        self._stale = True
        if wanted is not None:
            self._lost.add(key)
        return f"route changed: {route_text(route)}"


def _from_kernel(raw: RawRoute, names: Mapping[int, str]) -> Route:
    dst = raw.dst
    return Route(
        dst=dst,
        protocol=raw.protocol,
        kind=_KINDS_BACK.get(raw.kind, RouteType.OTHER),
        interface=names.get(raw.oif, f"if{raw.oif}") if raw.oif else "",
        gateway=raw.gateway,
        link_scope=raw.scope == RT_SCOPE_LINK,
        priority=raw.priority,
        src=raw.src,
        onlink=raw.onlink,
        paths=raw.paths,
    )
