"""Write routes by raw netlink, many in one system call.

pyroute2 takes half a millisecond to build and send one route; a node of a large cluster has tens of thousands. Here a
batch is packed, sent, and its acknowledgements are read; each route gets an answer of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from enum import StrEnum

from calico_engine.errors import KernelError
from calico_engine.kernel.netlink import REQUEST_TIMEOUT_S
from calico_engine.kernel.rtnetlink import RTNH_F_ONLINK, RawRoute

# include/uapi/linux/netlink.h, rtnetlink.h
_SOL_NETLINK, _NETLINK_CAP_ACK, _NETLINK_EXT_ACK = 270, 10, 11
_NLMSG_ERROR = 2
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_ACK_TLVS = 0x1, 0x4, 0x200
_NLM_F_REPLACE, _NLM_F_EXCL, _NLM_F_CREATE = 0x100, 0x200, 0x400
_RTM_NEWROUTE, _RTM_DELROUTE = 24, 25
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY, _RTA_PREFSRC, _RTA_TABLE = 1, 4, 5, 6, 7, 15
_NLMSGERR_ATTR_MSG = 1

#: So many acknowledgements fit a socket's receive buffer with room to spare.
_BATCH = 128


class RouteCommand(StrEnum):
    ADD = "add"
    REPLACE = "replace"
    DELETE = "del"


_TYPE_AND_FLAGS = {
    RouteCommand.ADD: (_RTM_NEWROUTE, _NLM_F_CREATE | _NLM_F_EXCL),
    RouteCommand.REPLACE: (_RTM_NEWROUTE, _NLM_F_CREATE | _NLM_F_REPLACE),
    RouteCommand.DELETE: (_RTM_DELROUTE, 0),
}

RouteRequest = tuple[RouteCommand, RawRoute]


class RouteSocket:
    """Opened at first use, in the network namespace of the thread that does. Not for two event loops."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._sequence = 0
        #: By which the kernel names us in its news of what we wrote; 0 before the first write.
        self.port = 0

    def close(self) -> None:
        opened, self._socket = self._socket, None
        if opened is not None:
            opened.close()

    async def send(self, requests: Sequence[RouteRequest]) -> list[KernelError | None]:
        """Return each request's answer: None when it was done. Raises: KernelError when the kernel does not answer."""
        answers: list[KernelError | None] = []
        for start in range(0, len(requests), _BATCH):
            answers += await self._send_batch(requests[start : start + _BATCH])
        return answers

    async def _send_batch(self, requests: Sequence[RouteRequest]) -> list[KernelError | None]:
        opened = self._open()
        loop = asyncio.get_running_loop()
        first = self._sequence + 1
        self._sequence += len(requests)
        batch = b"".join(pack_request(request, first + index) for index, request in enumerate(requests))
        found: dict[int, tuple[int, str]] = {}
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                await loop.sock_sendall(opened, batch)
                while len(found) < len(requests):
                    found.update(unpack_answers(await loop.sock_recv(opened, 1 << 17)))
        except (OSError, TimeoutError) as error:
            # What still comes would be taken for later requests' answers.
            self.close()
            raise KernelError(
                "netlink routes", str(error) or f"no answer in {REQUEST_TIMEOUT_S:g} s"
            ) from error
        except asyncio.CancelledError:
            self.close()
            raise
        return [_error(request, *found[first + index]) for index, request in enumerate(requests)]

    def _open(self) -> socket.socket:
        if self._socket is None:
            opened = socket.socket(
                socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE
            )
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            # 4.2 and 4.12 on: without them an answer repeats the request and does not say why.
            for option in (_NETLINK_CAP_ACK, _NETLINK_EXT_ACK):
                with contextlib.suppress(OSError):
                    opened.setsockopt(_SOL_NETLINK, option, 1)
            opened.bind((0, 0))
            self.port = opened.getsockname()[0]
            self._socket = opened
        return self._socket


def pack_request(request: RouteRequest, sequence: int) -> bytes:
    """Return one message: nlmsghdr, rtmsg, attributes."""
    command, route = request
    kind, flags = _TYPE_AND_FLAGS[command]
    network = ipaddress.ip_network(route.dst)
    family = socket.AF_INET6 if network.version == 6 else socket.AF_INET
    body = struct.pack(
        "=BBBBBBBBI",
        family,
        network.prefixlen,
        0,
        0,
        route.table if route.table < 256 else 0,
        route.protocol,
        route.scope,
        route.kind,
        RTNH_F_ONLINK if route.onlink else 0,
    )
    body += b"".join(_attributes(route, network.network_address.packed))
    return (
        struct.pack("=IHHII", 16 + len(body), kind, _NLM_F_REQUEST | _NLM_F_ACK | flags, sequence, 0) + body
    )


def _attributes(route: RawRoute, destination: bytes) -> Iterator[bytes]:
    yield _attribute(_RTA_DST, destination)
    if route.oif:
        yield _attribute(_RTA_OIF, struct.pack("=I", route.oif))
    if route.gateway:
        yield _attribute(_RTA_GATEWAY, ipaddress.ip_address(route.gateway).packed)
    if route.priority:
        yield _attribute(_RTA_PRIORITY, struct.pack("=I", route.priority))
    if route.src:
        yield _attribute(_RTA_PREFSRC, ipaddress.ip_address(route.src).packed)
    if route.table >= 256:
        yield _attribute(_RTA_TABLE, struct.pack("=I", route.table))


def _attribute(kind: int, value: bytes) -> bytes:
    # Every value here is a multiple of 4 bytes, so that none needs padding.
    return struct.pack("=HH", 4 + len(value), kind) + value


def unpack_answers(data: bytes) -> Iterator[tuple[int, tuple[int, str]]]:
    """Yield (sequence, (errno, the kernel's words)) of each acknowledgement in a datagram."""
    offset = 0
    while offset + 20 <= len(data):
        length, kind, flags, sequence, _ = struct.unpack_from("=IHHII", data, offset)
        if length < 16:
            return
        if kind == _NLMSG_ERROR:
            number = -struct.unpack_from("=i", data, offset + 16)[0]
            # nlmsgerr: the errno, the request's header, attributes.
            words = _message(data[offset + 36 : offset + length]) if flags & _NLM_F_ACK_TLVS else ""
            yield sequence, (number, words)
        offset += (length + 3) & ~3


def _message(attributes: bytes) -> str:
    offset = 0
    while offset + 4 <= len(attributes):
        length, kind = struct.unpack_from("=HH", attributes, offset)
        if length < 4:
            break
        if kind == _NLMSGERR_ATTR_MSG:
            return attributes[offset + 4 : offset + length].rstrip(b"\0").decode(errors="replace")
        offset += (length + 3) & ~3
    return ""


def _error(request: RouteRequest, number: int, words: str) -> KernelError | None:
    if not number:
        return None
    command, route = request
    reason = f"{os.strerror(number)}: {words}" if words else os.strerror(number)
    return KernelError(f"netlink route {command} {route.dst}", reason, errno=number)
