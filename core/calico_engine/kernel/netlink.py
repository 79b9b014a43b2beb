"""Talk rtnetlink: one long-lived request socket, and one that only listens.

Both belong to the network namespace of the thread that opens them, and stay in it. What is dumped or heard is decoded
by rtnetlink.py; the rare requests for one object go through pyroute2, which takes a fifth of a second to import, so
that happens at first use. What leaves this module is typed.
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

from calico_engine.errors import KernelError
from calico_engine.kernel import rtnetlink
from calico_engine.kernel.rtnetlink import RTN_UNICAST, NetlinkEvent, RawLink, RawNeighbour, RawRoute

if TYPE_CHECKING:
    from pyroute2 import AsyncIPRoute

REQUEST_TIMEOUT_S = 30.0
_RECEIVE_BYTES = 1 << 16
#: A dump during which something changes is asked for again, so often.
_DUMP_ATTEMPTS = 10

# include/uapi/linux/rtnetlink.h
RTM_SETNEIGHTBL = 67
RT_SCOPE_UNIVERSE, RT_SCOPE_LINK = 0, 253
RTPROT_KERNEL, RTPROT_BOOT, RTPROT_RA, RTPROT_CALICO = 2, 3, 9, 80
NUD_PERMANENT = 0x80

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


def explain(number: int) -> str:
    """Return the C library's words for an errno."""
    return os.strerror(number)


class Netlink:
    """A request socket, opened at first use. Not for two event loops."""

    def __init__(self) -> None:
        self._socket: AsyncIPRoute | None = None
        self._raw: socket.socket | None = None
        self._sequence = 0

    async def close(self) -> None:
        raw, self._raw = self._raw, None
        if raw is not None:
            raw.close()
        opened, self._socket = self._socket, None
        if opened is not None:
            opened.close()

    async def links(self) -> list[RawLink]:
        found = [rtnetlink.read_link(body) for body in await self._dump(rtnetlink.RTM_GETLINK)]
        return [link for link in found if link is not None]

    async def addresses(self) -> list[tuple[int, str]]:
        """Return (interface index, address) of both families."""
        return [rtnetlink.read_address(body) for body in await self._dump(rtnetlink.RTM_GETADDR)]

    async def routes(self, family: int, table: int) -> list[RawRoute]:
        bodies = await self._dump(rtnetlink.RTM_GETROUTE, FAMILIES[family])
        routes = [rtnetlink.read_route(body) for body in bodies if rtnetlink.is_in_table(body, table)]
        return [route for route in routes if route is not None and route.table == table]

    async def on_link_interface(self, address: str) -> int:
        """Return the index of the interface on whose link the address is; 0 when a router is in between, or no way.

        The kernel's own answer, so that it holds for any mask and any number of interfaces. Raises: KernelError.
        """
        family = FAMILIES[ipaddress.ip_address(address).version]
        try:
            found = await self._ask("route", "get", {"family": family, "dst": address})
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
        bodies = await self._dump(rtnetlink.RTM_GETNEIGH, socket.AF_INET)
        everything = [rtnetlink.read_neighbour(body) for body in bodies]
        return [neighbour for neighbour in everything if neighbour.state & NUD_PERMANENT]

    async def change_neighbour(self, command: str, index: int, address: str, mac: str) -> None:
        """command: replace or del; the entry is permanent. Raises: KernelError with the errno."""
        spec: dict[str, object] = {"ifindex": index, "dst": address, "family": socket.AF_INET}
        if mac:
            spec.update(lladdr=mac, state=NUD_PERMANENT)
        await self._ask("neigh", command, spec)

    async def _open(self) -> AsyncIPRoute:
        if self._socket is None:
            # 0.2 s to import: not before a kernel is really programmed.
            from pyroute2 import AsyncIPRoute

            opened = AsyncIPRoute()
            await opened.setup_endpoint()
            self._socket = opened
        return self._socket

    async def _dump(self, kind: int, family: int = socket.AF_UNSPEC) -> list[bytes]:
        """Return the bodies of all objects of a kind. Raises: KernelError."""
        for _ in range(_DUMP_ATTEMPTS):
            try:
                bodies = await self._guard(lambda: self._dump_once(kind, family), f"dump {kind}")
            except (asyncio.CancelledError, KernelError):
                # The kernel refuses another dump while one is under way on the socket.
                await self.close()
                raise
            if bodies is not None:
                # The kernel answers at once, so that nobody else had a turn so far.
                await asyncio.sleep(0)
                return bodies
        raise KernelError(f"netlink dump {kind}", "what is dumped changes all the time", errno=errno.EAGAIN)

    async def _dump_once(self, kind: int, family: int) -> list[bytes] | None:
        """Return the bodies; None when something changed meanwhile, so that they may not be all."""
        opened = self._open_raw()
        loop = asyncio.get_running_loop()
        self._sequence += 1
        await loop.sock_sendall(opened, rtnetlink.dump_request(kind, family, self._sequence))
        bodies: list[bytes] = []
        whole = True
        while True:
            for message in rtnetlink.read_messages(await loop.sock_recv(opened, _RECEIVE_BYTES)):
                if message.sequence != self._sequence:
                    continue
                whole = whole and not message.flags & rtnetlink.NLM_F_DUMP_INTR
                if message.type not in (rtnetlink.NLMSG_ERROR, rtnetlink.NLMSG_DONE):
                    bodies.append(message.body)
                elif number := rtnetlink.error_of(message):
                    raise KernelError(f"netlink dump {kind}", explain(number), errno=number)
                else:
                    return bodies if whole else None

    def _open_raw(self) -> socket.socket:
        if self._raw is None:
            opened = socket.socket(
                socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE
            )
            opened.bind((0, 0))
            self._raw = opened
        return self._raw

    async def _ask(self, noun: str, command: str, spec: dict[str, object]) -> list[Message]:
        async def ask() -> list[Message]:
            opened = await self._open()
            from pyroute2.netlink.exceptions import NetlinkError

            try:
                return list(await getattr(opened, noun)(command, **spec))
            except NetlinkError as error:
                number = int(error.code)
                raise KernelError(f"netlink {noun} {command}", explain(number), errno=number) from error

        return await self._guard(ask, f"{noun} {command} {spec.get('dst', '')}")

    async def _guard(self, call: Callable[[], Awaitable[T]], what: str) -> T:
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                return await call()
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
        found = (rtnetlink.read_event(message) for message in rtnetlink.read_messages(data))
        events = [event for event in found if event is not None]
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


def _number(message: Message, name: str) -> int:
    value = message.get(name)
    return value if isinstance(value, int) else 0
