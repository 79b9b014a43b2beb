"""Hear from the kernel when somebody else changes the nftables form of our tables.

iptables-nft keeps its tables in nftables, which announces every transaction to a netlink multicast group. What our own
iptables-restore writes carries its process id and is ignored, and so is everything outside the four tables, our
chains and the kernel's built-in chains. Source: linux/netfilter/nf_tables.h, nfnetlink.h.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import struct
from collections.abc import Callable, Container, Iterator

from calico_engine.ruleset.ir import Family, Hook, Layer
from calico_engine.ruleset.names import owns_chain

log = logging.getLogger(__name__)

_NETLINK_NETFILTER = 12
_GROUP_NFTABLES = 7  # NFNLGRP_NFTABLES
_SUBSYSTEM_NFTABLES = 10
_NEWTABLE, _DELTABLE, _NEWCHAIN, _DELCHAIN, _NEWRULE, _DELRULE, _NEWGEN = 0, 2, 3, 5, 6, 8, 15
_TABLE_NAME = 1  # of tables, chains and rules alike
_CHAIN_NAME = {_NEWCHAIN: 3, _DELCHAIN: 3, _NEWRULE: 2, _DELRULE: 2}
_GENERATION_PROCESS = 2

_SOL_NETLINK = 270
_NETLINK_ADD_MEMBERSHIP = 1
_SO_RCVBUFFORCE = 33
_BUFFER_BYTES = 16 << 20
_READ_BYTES = 1 << 18
_READS_PER_WAKE = 64
_OWN_PROCESSES = 256

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_NF_FAMILY = {Family.V4: socket.AF_INET, Family.V6: socket.AF_INET6}
_TABLES = frozenset(layer.value for layer in Layer)
_BUILT_IN = frozenset(hook.value for hook in Hook)


class NftEvents:
    """Calls `changed(reason)` after a foreign transaction that touched what is ours. Lives in the event loop."""

    def __init__(self, family: Family, changed: Callable[[str], None]) -> None:
        self._nf_family = _NF_FAMILY[family]
        self._changed = changed
        self._socket: socket.socket | None = None
        # Process ids are reused by the kernel only much later.
        self._own: dict[int, None] = {}
        self._pending = ""

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

    def ignore_process(self, pid: int) -> None:
        """Take what this process writes for our own."""
        self._own[pid] = None
        if len(self._own) > _OWN_PROCESSES:
            del self._own[next(iter(self._own))]

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
        for kind, payload in _messages(data, self._own):
            if kind == _NEWGEN:
                reason, self._pending = self._pending, ""
                author = _number(payload, _GENERATION_PROCESS)
                if reason and author not in self._own:
                    self._changed(reason)
            elif not self._pending:
                self._pending = self._relevance(kind, payload)

    def _relevance(self, kind: int, payload: memoryview) -> str:
        """Return what of ours a message touches, "" for nothing."""
        if payload[0] != self._nf_family or kind not in (*_CHAIN_NAME, _DELTABLE):
            return ""
        table = _text(payload, _TABLE_NAME)
        if table not in _TABLES:
            return ""
        if kind == _DELTABLE:
            return f"table {table} was deleted"
        chain = _text(payload, _CHAIN_NAME[kind])
        return f"chain {chain} of {table} changed" if owns_chain(chain) or chain in _BUILT_IN else ""


def _messages(data: bytes, own: Container[int]) -> Iterator[tuple[int, memoryview]]:
    """Yield (message type within nftables, what follows the netlink header).

    Of what processes of our `own` changed, which may be thousands of messages, only the end is yielded.
    """
    view = memoryview(data)
    offset = 0
    while offset + _HEADER.size <= len(view):
        length, kind, _, _, process = _HEADER.unpack_from(view, offset)
        if length < _HEADER.size + 4:
            return
        if kind >> 8 == _SUBSYSTEM_NFTABLES and (process not in own or kind & 0xFF == _NEWGEN):
            yield kind & 0xFF, view[offset + _HEADER.size : offset + length]
        offset += (length + 3) & ~3


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


def _text(payload: memoryview, wanted: int) -> str:
    value = _attribute(payload, wanted)
    return bytes(value).rstrip(b"\0").decode("ascii", "replace") if value is not None else ""


def _number(payload: memoryview, wanted: int) -> int:
    value = _attribute(payload, wanted)
    return int.from_bytes(value, "big") if value is not None else -1
