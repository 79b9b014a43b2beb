"""Talk rtnetlink: one long-lived request socket, and one that only listens.

Both belong to the network namespace of the thread that opens them, and stay in it. pyroute2 builds and reads the
messages; it takes a fifth of a second to import, so that happens at first use. What leaves this module is typed.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

import msgspec

from calico_engine.errors import KernelError

if TYPE_CHECKING:
    from pyroute2 import AsyncIPRoute

REQUEST_TIMEOUT_S = 30.0

# include/uapi/linux/rtnetlink.h
RTM_SETNEIGHTBL = 67
RTM_F_CLONED = 0x200
RTNH_F_ONLINK = 4
RTN_UNICAST = 1
RT_SCOPE_UNIVERSE, RT_SCOPE_LINK = 0, 253
RTPROT_KERNEL, RTPROT_BOOT, RTPROT_RA, RTPROT_CALICO = 2, 3, 9, 80
NUD_PERMANENT = 0x80
IFF_UP, IFF_RUNNING = 0x1, 0x40

FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}

T = TypeVar("T")


class Message(Protocol):
    """What this module uses of a message that pyroute2 has read: header fields by key, attributes by name."""

    def __getitem__(self, field: str, /) -> int: ...

    def get(self, name: str, /) -> object: ...


class Group:
    """Bits of the multicast groups a listener may join (RTMGRP_*)."""

    LINK = 0x1
    NEIGHBOUR = 0x4
    ADDRESS = 0x10 | 0x100
    ROUTE = 0x40 | 0x400


class RawLink(msgspec.Struct, frozen=True):
    """A link as the kernel has it. `up` is what Felix calls oper-up: administratively up and with carrier."""

    name: str
    index: int
    up: bool
    mac: str = ""


class RawRoute(msgspec.Struct, frozen=True, kw_only=True):
    """A route as the kernel has it, by interface index. `kind` is rtm_type; `dst` always has a mask."""

    dst: str
    table: int
    protocol: int
    scope: int
    kind: int
    oif: int = 0
    gateway: str = ""
    priority: int = 0
    src: str = ""
    onlink: bool = False
    paths: int = 1


class RawNeighbour(msgspec.Struct, frozen=True):
    index: int
    address: str
    mac: str
    state: int


class LinkEvent(msgspec.Struct, frozen=True):
    """A link is now so, or is gone."""

    link: RawLink
    gone: bool


class AddressEvent(msgspec.Struct, frozen=True):
    index: int
    address: str
    gone: bool


class RouteEvent(msgspec.Struct, frozen=True):
    route: RawRoute
    gone: bool


NetlinkEvent = LinkEvent | AddressEvent | RouteEvent


def explain(number: int) -> str:
    """Return the C library's words for an errno."""
    return os.strerror(number)


class Netlink:
    """A request socket, opened at first use. Not for two event loops."""

    def __init__(self) -> None:
        self._socket: AsyncIPRoute | None = None

    async def close(self) -> None:
        opened, self._socket = self._socket, None
        if opened is not None:
            opened.close()

    async def links(self) -> list[RawLink]:
        return [read_link(message) for message in await self._dump("link", "dump", {})]

    async def addresses(self) -> list[tuple[int, str]]:
        """Return (interface index, address) of both families."""
        found = await self._dump("addr", "dump", {})
        return [(message["index"], read_address(message)) for message in found]

    async def routes(self, family: int, table: int) -> list[RawRoute]:
        found = await self._dump("route", "dump", {"family": FAMILIES[family], "table": table})
        routes = [read_route(message) for message in found if not message["flags"] & RTM_F_CLONED]
        return [route for route in routes if route.table == table]

    async def on_link_interface(self, address: str) -> int:
        """Return the index of the interface on whose link the address is; 0 when a router is in between, or no way.

        The kernel's own answer, so that it holds for any mask and any number of interfaces. Raises: KernelError.
        """
        family = FAMILIES[ipaddress.ip_address(address).version]
        try:
            found = await self._dump("route", "get", {"family": family, "dst": address})
        except KernelError as error:
            if error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL):
                return 0
            raise
        direct = [
            message for message in found if message["type"] == RTN_UNICAST and not message.get("RTA_GATEWAY")
        ]
        return _number(direct[0], "RTA_OIF") if direct else 0

    async def permanent_neighbours(self) -> list[RawNeighbour]:
        """Return the IPv4 neighbours that somebody set to stay."""
        found = await self._dump("neigh", "dump", {"family": socket.AF_INET})
        everything = [
            RawNeighbour(m["ifindex"], _text(m, "NDA_DST"), _text(m, "NDA_LLADDR"), m["state"]) for m in found
        ]
        return [neighbour for neighbour in everything if neighbour.state & NUD_PERMANENT]

    async def change_neighbour(self, command: str, index: int, address: str, mac: str) -> None:
        """command: replace or del; the entry is permanent. Raises: KernelError with the errno."""
        spec: dict[str, object] = {"ifindex": index, "dst": address, "family": socket.AF_INET}
        if mac:
            spec.update(lladdr=mac, state=NUD_PERMANENT)
        await self._request("neigh", command, spec, f"neighbour {command} {address}")

    async def _open(self) -> AsyncIPRoute:
        if self._socket is None:
            # 0.2 s to import: not before a kernel is really programmed.
            from pyroute2 import AsyncIPRoute

            opened = AsyncIPRoute()
            await opened.setup_endpoint()
            self._socket = opened
        return self._socket

    async def _dump(self, noun: str, command: str, spec: dict[str, object]) -> list[Message]:
        async def collect() -> list[Message]:
            answer = await getattr(await self._open(), noun)(command, **spec)
            return [message async for message in answer] if command == "dump" else list(answer)

        return await self._guard(collect, f"{noun} dump")

    async def _request(self, noun: str, command: str, spec: dict[str, object], what: str) -> None:
        async def ask() -> None:
            await getattr(await self._open(), noun)(command, **spec)

        await self._guard(ask, what)

    async def _guard(self, call: Callable[[], Awaitable[T]], what: str) -> T:
        from pyroute2.netlink.exceptions import NetlinkError

        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                return await call()
        except NetlinkError as error:
            number = int(error.code)
            raise KernelError(f"netlink {what}", explain(number), errno=number) from error
        except TimeoutError as error:
            # An answer that comes later would be taken for the next request's.
            await self.close()
            raise KernelError(f"netlink {what}", f"no answer in {REQUEST_TIMEOUT_S:g} s") from error
        except OSError as error:
            await self.close()
            raise KernelError(f"netlink {what}", str(error), errno=error.errno or 0) from error


class NetlinkListener:
    """Hears what changes. Not a task: the event loop calls `on_events` when the kernel has said something.

    `on_events(None)` means that the kernel said more than the socket could hold: read everything anew.
    """

    def __init__(self, groups: int, on_events: Callable[[Sequence[NetlinkEvent] | None], None]) -> None:
        self._groups = groups
        self._on_events = on_events
        self._socket: socket.socket | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def open(self, *, receive_buffer_bytes: int = 1 << 20) -> None:
        """Join the groups in this thread's network namespace; no error when already open."""
        if self._socket is not None:
            return
        opened = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE
        )
        try:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
            opened.bind((0, self._groups))
        except OSError:
            opened.close()
            raise
        self._socket = opened
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(opened.fileno(), self._on_readable)

    def close(self) -> None:
        opened, self._socket = self._socket, None
        if opened is not None and self._loop is not None:
            self._loop.remove_reader(opened.fileno())
            opened.close()

    def _on_readable(self) -> None:
        from pyroute2.netlink.rtnl.marshal import MarshalRtnl

        assert self._socket is not None
        try:
            data = self._socket.recv(1 << 17)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            self._on_events(None)
            return
        events = [
            event for message in MarshalRtnl().parse(data) if (event := read_event(message)) is not None
        ]
        if events:
            self._on_events(events)


def set_proxy_delay(index: int, delay_ms: int) -> None:
    """Set proxy_delay of an interface's ARP table by netlink.

    The sysctl of the same name is not there in a network namespace that a user namespace owns.
    Raises: KernelError.
    """
    # struct ndtmsg, NDTA_NAME (1), NDTA_PARMS (6) { NDTPA_IFINDEX (1), NDTPA_PROXY_DELAY (13) }
    parameters = struct.pack("=HHI", 8, 1, index) + struct.pack("=HHQ", 12, 13, delay_ms)
    body = struct.pack("=B3x", socket.AF_INET)
    body += struct.pack("=HH12s", 4 + 10, 1, b"arp_cache\0")
    body += struct.pack("=HH", 4 + len(parameters), 6 | 0x8000) + parameters
    header = struct.pack("=IHHII", 16 + len(body), RTM_SETNEIGHTBL, 0x1 | 0x4, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as opened:
        opened.settimeout(REQUEST_TIMEOUT_S)
        opened.send(header + body)
        answer = opened.recv(4096)
    number = -struct.unpack_from("=i", answer, 16)[0]
    if number:
        raise KernelError(f"netlink proxy_delay of interface {index}", explain(number), errno=number)


def read_link(message: Message) -> RawLink:
    flags = message["flags"]
    up = bool(flags & IFF_UP and flags & IFF_RUNNING)
    return RawLink(_text(message, "IFLA_IFNAME"), message["index"], up, _text(message, "IFLA_ADDRESS"))


def read_address(message: Message) -> str:
    """Return the interface's own address: IFA_LOCAL where it differs from the peer's, else IFA_ADDRESS."""
    return _text(message, "IFA_LOCAL") or _text(message, "IFA_ADDRESS")


def read_route(message: Message) -> RawRoute:
    anywhere = "0.0.0.0" if message["family"] == socket.AF_INET else "::"
    paths = message.get("RTA_MULTIPATH")
    kind = message["type"]
    return RawRoute(
        dst=f"{_text(message, 'RTA_DST') or anywhere}/{message['dst_len']}",
        table=_number(message, "RTA_TABLE") or message["table"],
        protocol=message["proto"],
        scope=message["scope"],
        kind=kind,
        # An IPv6 blackhole is shown on lo.
        oif=_number(message, "RTA_OIF") if kind == RTN_UNICAST else 0,
        gateway=_text(message, "RTA_GATEWAY"),
        priority=_number(message, "RTA_PRIORITY"),
        src=_text(message, "RTA_PREFSRC"),
        onlink=bool(message["flags"] & RTNH_F_ONLINK),
        paths=len(paths) if isinstance(paths, list) else 1,
    )


def read_event(message: Message) -> NetlinkEvent | None:
    name = _text(message, "event")
    match name:
        case "RTM_NEWLINK" | "RTM_DELLINK":
            # A bridge port that leaves its bridge also says DELLINK, with family AF_BRIDGE.
            if message["family"] != socket.AF_UNSPEC:
                return None
            return LinkEvent(read_link(message), name == "RTM_DELLINK")
        case "RTM_NEWADDR" | "RTM_DELADDR":
            return AddressEvent(message["index"], read_address(message), name == "RTM_DELADDR")
        case "RTM_NEWROUTE" | "RTM_DELROUTE":
            if message["flags"] & RTM_F_CLONED:
                return None
            return RouteEvent(read_route(message), name == "RTM_DELROUTE")
    return None


def _text(message: Message, name: str) -> str:
    value = message.get(name)
    return value if isinstance(value, str) else ""


def _number(message: Message, name: str) -> int:
    value = message.get(name)
    return value if isinstance(value, int) else 0
