"""Hear from the kernel when somebody else changes nftables.

The kernel announces every transaction to a netlink multicast group, whoever made it and by whatever tool. What concerns
a plugin, the plugin says; what its own sockets and processes wrote is passed over.
Source: linux/netfilter/nf_tables.h, nfnetlink.h.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import logging
import socket
import struct
from collections.abc import Callable, Container, Iterator

log = logging.getLogger(__name__)

#: Kinds of messages within the subsystem, as far as somebody asks for them.
NEWTABLE, DELTABLE, NEWCHAIN, DELCHAIN, NEWRULE, DELRULE, NEWGEN = 0, 2, 3, 5, 6, 8, 15

_NETLINK_NETFILTER = 12
_GROUP_NFTABLES = 7  # NFNLGRP_NFTABLES
_SUBSYSTEM_NFTABLES = 10
_GENERATION_PROCESS = 2

_SOL_NETLINK = 270
_NETLINK_ADD_MEMBERSHIP, _NETLINK_DROP_MEMBERSHIP = 1, 2
_SO_RCVBUFFORCE, _SO_ATTACH_FILTER = 33, 26
_BUFFER_BYTES = 16 << 20
_READ_BYTES = 1 << 18
_READS_PER_WAKE = 64
_OWN_PROCESSES = 256

_HEADER = struct.Struct("=IHHII")
_PORT_OFFSET = 12
_ATTRIBUTE = struct.Struct("=HH")
# struct sock_filter: load a word, jump if equal, return.
_INSTRUCTION = struct.Struct("=HBBI")
_LOAD_WORD, _JUMP_EQUAL, _RETURN = 0x20, 0x15, 0x06

#: (kind, what follows the netlink header) -> what of ours a message touches, "" for nothing.
Relevance = Callable[[int, memoryview], str]


class NftEvents:
    """Calls `changed(reason)` after a foreign transaction that touched what is ours. Lives in the event loop."""

    def __init__(self, relevance: Relevance, changed: Callable[[str], None]) -> None:
        self._relevance = relevance
        self._changed = changed
        self._socket: socket.socket | None = None
        # Process ids are reused by the kernel only much later.
        self._own: dict[int, None] = {}
        self._pending = ""

    @property
    def is_open(self) -> bool:
        return self._socket is not None

    def open(self) -> None:
        """Start listening; without the right to, only the timers find foreign changes."""
        try:
            listener = socket.socket(
                socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, _NETLINK_NETFILTER
            )
        except OSError as error:
            log.warning("no events of nftables, timers alone find foreign changes: %s", error)
            return
        try:
            with contextlib.suppress(OSError):
                listener.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
            listener.bind((0, 0))
            listener.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, _GROUP_NFTABLES)
            asyncio.get_running_loop().add_reader(listener, self._read)
        except OSError as error:
            listener.close()
            log.warning("no events of nftables, timers alone find foreign changes: %s", error)
            return
        self._socket = listener

    def leave(self) -> None:
        """Hear nothing until `join`: the kernel builds its messages only for somebody who listens."""
        self._member(_NETLINK_DROP_MEMBERSHIP)

    def join(self) -> None:
        """Hear again."""
        self._member(_NETLINK_ADD_MEMBERSHIP)

    def tell(self, reason: str) -> None:
        """Have ours be read back."""
        self._changed(reason)

    def _member(self, option: int) -> None:
        if self._socket is not None:
            self._socket.setsockopt(_SOL_NETLINK, option, _GROUP_NFTABLES)

    def ignore_process(self, pid: int) -> None:
        """Take what this process writes for our own. A socket's port is the process's id unless that is taken."""
        self._own[pid] = None
        if self._socket is not None:
            _attach_filter(self._socket, pid)
        if len(self._own) > _OWN_PROCESSES:
            del self._own[next(iter(self._own))]

    def ignore_port(self, port: int) -> None:
        """Take what the netlink socket of this port writes, and that alone, for our own.

        The kernel drops it before it is queued: a load of 100 000 elements would be as many messages.
        """
        if port in self._own:
            return
        self._own = {port: None}
        if self._socket is not None:
            _attach_filter(self._socket, port)

    def close(self) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None

    def _read(self) -> None:
        assert self._socket is not None
        for _ in range(_READS_PER_WAKE):
            try:
                data = self._socket.recv(_READ_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                # More was announced than we could take: whose it was, nobody knows.
                self._changed("nftables events were lost")
                continue
            self.feed(data)

    def feed(self, data: bytes) -> None:
        """Take in what one read of the socket gave."""
        for kind, port, payload in _messages(data, self._own):
            if kind == NEWGEN:
                reason, self._pending = self._pending, ""
                author = _number(payload, _GENERATION_PROCESS)
                if reason and author not in self._own and port not in self._own:
                    self._changed(reason)
            elif not self._pending:
                self._pending = self._relevance(kind, payload)


def _messages(data: bytes, own: Container[int]) -> Iterator[tuple[int, int, memoryview]]:
    """Yield (message type within nftables, port of the author's socket, what follows the netlink header).

    Of what we changed ourselves, which may be thousands of messages, only the end is yielded.
    """
    view = memoryview(data)
    offset = 0
    while offset + _HEADER.size <= len(view):
        length, kind, _, _, port = _HEADER.unpack_from(view, offset)
        if length < _HEADER.size + 4:
            return
        if kind >> 8 == _SUBSYSTEM_NFTABLES and (port not in own or kind & 0xFF == NEWGEN):
            yield kind & 0xFF, port, view[offset + _HEADER.size : offset + length]
        offset += (length + 3) & ~3


def _attach_filter(listener: socket.socket, port: int) -> None:
    """Have the kernel drop what a port's socket wrote; all messages of one datagram have one author."""
    instructions = (
        _INSTRUCTION.pack(_LOAD_WORD, 0, 0, _PORT_OFFSET)
        # The filter loads in network byte order what is in the machine's.
        + _INSTRUCTION.pack(_JUMP_EQUAL, 0, 1, socket.htonl(port))
        + _INSTRUCTION.pack(_RETURN, 0, 0, 0)
        + _INSTRUCTION.pack(_RETURN, 0, 0, 0xFFFFFFFF)
    )
    held = ctypes.create_string_buffer(instructions)
    program = struct.pack("@HP", len(instructions) // _INSTRUCTION.size, ctypes.addressof(held))
    with contextlib.suppress(OSError):
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)


def _attribute(payload: memoryview, wanted: int) -> memoryview | None:
    offset = 4  # struct nfgenmsg
    while offset + _ATTRIBUTE.size <= len(payload):
        length, kind = _ATTRIBUTE.unpack_from(payload, offset)
        if length < _ATTRIBUTE.size:
            return None
        if kind & 0x3FFF == wanted:
            return payload[offset + _ATTRIBUTE.size : offset + length]
        offset += (length + 3) & ~3
    return None


def attribute_text(payload: memoryview, wanted: int) -> str:
    """Return a text attribute of a message, "" when it has none."""
    value = _attribute(payload, wanted)
    return bytes(value).rstrip(b"\0").decode("ascii", "replace") if value is not None else ""


def _number(payload: memoryview, wanted: int) -> int:
    value = _attribute(payload, wanted)
    return int.from_bytes(value, "big") if value is not None else -1
