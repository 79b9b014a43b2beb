"""Speak to nftables by raw netlink: whole transactions in, whole dumps of one generation out.

A transaction is one buffer of messages, sent at once: it happens whole or not at all. The kernel answers each message
that it refuses, and the last one, which is how we know that it has happened; when no answer comes, nobody knows, and
OutcomeUnknownError says so. A dump that something changed under is asked for again.

TransactionSocket's plain methods block; the async ones do large work in a thread, so that no event loop waits for the
kernel. The socket belongs to the network namespace of the thread that opens it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import struct
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from calico_engine.errors import (
    KernelError,
    KernelUnsupportedError,
    OutcomeUnknownError,
    TransactionRefusedError,
)
from calico_engine.fastpath import number_messages

#: Transactions up to this long are sent without waking a thread, as long as the last one was quick.
INLINE_BYTES = 1 << 14
_QUICK_S = 0.004
_TIMEOUT_S = 30
_DUMP_ATTEMPTS = 10
_RECEIVE_BYTES = 1 << 18
_RECEIVE_BUFFER_BYTES = 4 << 20

_NETLINK_NETFILTER, _SOL_NETLINK, _NETLINK_CAP_ACK, _NETLINK_EXT_ACK = 12, 270, 10, 11
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33
_SUBSYSTEM_NFTABLES = 10
_BATCH_BEGIN, _BATCH_END = 16, 17
_NEWGEN, _GETGEN = _SUBSYSTEM_NFTABLES << 8 | 15, _SUBSYSTEM_NFTABLES << 8 | 16
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_DUMP_INTR = 0x1, 0x4, 0x10
_NLM_F_CAPPED, _NLM_F_ACK_TLVS = 0x100, 0x200
_ATTRIBUTE_TEXT, _ATTRIBUTE_OFFSET = 1, 2  # enum nlmsgerr_attrs
_BATCH_GENERATION = 1  # enum nfnl_batch_attributes

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_FLAGS_OFFSET, _SEQUENCE_OFFSET = 6, 8

_HINTS = {
    errno.EPERM: "run as root, or with CAP_NET_ADMIN in this network namespace",
    errno.ENOENT: "something that it refers to is not there; read the table back",
    errno.EEXIST: "something of this name or key is there already; read the table back",
    errno.EBUSY: "something that it removes is still in use",
    errno.ENFILE: "the set is full",
    errno.ERESTART: "somebody else changed nftables meanwhile; read the table back",
    errno.EMLINK: "chains lead to each other in too long a row",
    errno.ELOOP: "chains lead to each other in a circle",
    errno.EINTR: "interrupted by a signal; nothing was changed",
}

T = TypeVar("T")


class TransactionSocket:
    """Opened at first use. One request at a time, from whatever thread."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._finalizer: weakref.finalize[[], TransactionSocket] | None = None
        self._sequence = 0
        self._send_buffer_bytes = 0
        self._lock = threading.Lock()
        self._last_s = 0.0
        #: The netlink port, by which our own changes are known among the kernel's events; 0 while closed.
        self.port = 0

    def open(self) -> None:
        """Open in this thread's network namespace; no error when open. Raises: KernelUnsupportedError, KernelError."""
        if self._socket is not None:
            return
        try:
            opened = _open_socket()
        except OSError as error:
            if error.errno in (errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT):
                raise KernelUnsupportedError(
                    "nftables by netlink", hint="load or build the kernel modules nfnetlink and nf_tables"
                ) from error
            raise _error("open the nftables netlink socket", error.errno or errno.EIO) from error
        self._socket = opened
        self.port = opened.getsockname()[0]
        # Of a plugin that nobody closed, the socket goes with it.
        self._finalizer = weakref.finalize(self, opened.close)
        self._send_buffer_bytes = 0

    def close(self) -> None:
        self._socket = None
        self.port = 0
        if self._finalizer is not None:
            self._finalizer()

    # For an event loop

    async def commit(self, messages: bytes, *, generation: int | None = None) -> None:
        """commit_now, in a thread where it may take long. When cancelled, it may happen nonetheless."""
        quick = len(messages) <= INLINE_BYTES and self._last_s < _QUICK_S
        await self._run(lambda: self._commit(messages, generation), quick=quick)

    async def dump(self, *requests: bytes) -> list[bytes]:
        """dump_now in a thread: how much there is shows only when it comes."""
        return await self._run(lambda: self._dump_all(requests), quick=False)

    async def _run(self, work: Callable[[], T], *, quick: bool) -> T:
        if quick and self._lock.acquire(blocking=False):
            try:
                return work()
            finally:
                self._lock.release()
        # A worker thread has its caller's network namespace only if that has not changed since: open it here.
        self.open()
        return await asyncio.to_thread(self._alone, work)

    def _alone(self, work: Callable[[], T]) -> T:
        with self._lock:
            return work()

    # Blocking

    def commit_now(self, messages: bytes, *, generation: int | None = None) -> None:
        """Carry out messages, back to back, as one transaction; nothing when there are none.

        With a generation (see generation_now) only if nobody changed nftables since: else ERESTART.
        Raises: TransactionRefusedError, nothing happened, `index` is the message; OutcomeUnknownError, read back;
        KernelError, nothing was sent.
        """
        self._alone(lambda: self._commit(messages, generation))

    def dump_now(self, *requests: bytes) -> list[bytes]:
        """Return the messages that answer each request, back to back; all of them are of one generation.

        Raises: KernelError, with EAGAIN when nftables changes all the time.
        """
        return self._alone(lambda: self._dump_all(requests))

    def generation_now(self) -> int:
        """Return the number of the ruleset's generation: it changes with each transaction of anybody."""
        return self._alone(self._generation)

    # A transaction

    def _commit(self, messages: bytes, generation: int | None) -> None:
        if not messages:
            return
        self.open()
        begin_s = time.perf_counter()
        buffer, first = self._batch(messages, generation)
        self._make_room(len(buffer))
        opened = self._opened()
        try:
            opened.send(buffer)
        except OSError as error:
            self.close()
            raise _error("nftables transaction", error.errno or errno.EIO) from error
        try:
            self._take_answers(opened, first, self._sequence - 1)
        finally:
            self._last_s = time.perf_counter() - begin_s

    def _batch(self, messages: bytes, generation: int | None) -> tuple[bytearray, int]:
        """Return the batch, and the sequence number of its first message."""
        check = b""
        if generation is not None:
            check = _ATTRIBUTE.pack(8, _BATCH_GENERATION) + generation.to_bytes(4, "big")
        begin, end = _batch_mark(_BATCH_BEGIN, check), _batch_mark(_BATCH_END, b"")
        buffer = bytearray().join((begin, messages, end))
        first = self._sequence + 1
        try:
            count, last = number_messages(buffer, first)
        except ValueError as error:
            raise KernelError("nftables transaction", str(error), errno=errno.EINVAL) from error
        self._sequence = first + count - 1
        # The kernel answers it once all is done. Older ones do not answer the end itself.
        flags = (
            int.from_bytes(buffer[last + _FLAGS_OFFSET : last + _FLAGS_OFFSET + 2], sys.byteorder)
            | _NLM_F_ACK
        )
        buffer[last + _FLAGS_OFFSET : last + _FLAGS_OFFSET + 2] = flags.to_bytes(2, sys.byteorder)
        return buffer, first

    def _take_answers(self, opened: socket.socket, first: int, last: int) -> None:
        """Read what the kernel said of a transaction. It has said everything by now."""
        acknowledged = lost = False
        refused: TransactionRefusedError | None = None
        while True:
            try:
                data = opened.recv(_RECEIVE_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    self.close()
                    raise OutcomeUnknownError(
                        "nftables transaction", os.strerror(error.errno or errno.EIO)
                    ) from error
                lost = True
                continue
            for kind, flags, sequence, body in _messages(data):
                if kind != _NLMSG_ERROR or not first <= sequence <= last + 1 or len(body) < 4:
                    continue
                number = -int.from_bytes(body[:4], sys.byteorder, signed=True)
                if number == 0:
                    acknowledged = acknowledged or sequence == last
                elif refused is None:
                    refused = _refusal(number, sequence - first - 1, flags, body)
        if refused is not None:
            raise refused
        if not acknowledged or lost:
            raise OutcomeUnknownError(
                "nftables transaction", "the kernel's answer was lost", errno=errno.ENOBUFS
            )

    def _make_room(self, size: int) -> None:
        """Let the socket take a transaction whole: in two pieces it would be two transactions."""
        if size <= self._send_buffer_bytes:
            return
        opened = self._opened()
        try:
            opened.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, size + 4096)
        except OSError:
            with contextlib.suppress(OSError):
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size + 4096)
        self._send_buffer_bytes = size

    # Dumps

    def _dump_all(self, requests: Sequence[bytes]) -> list[bytes]:
        self.open()
        for _ in range(_DUMP_ATTEMPTS):
            before = self._generation()
            found = [self._dump(request) for request in requests]
            if None not in found and self._generation() == before:
                return [dump for dump in found if dump is not None]
        raise KernelError("nftables dump", "nftables changes all the time", errno=errno.EAGAIN)

    def _dump(self, request: bytes) -> bytes | None:
        """Return the messages of an answer; None when it is to be asked for again."""
        self._sequence += 1
        sequence = self._sequence
        opened = self._opened()
        parts: list[bytes] = []
        whole = True
        try:
            opened.send(_with_sequence(request, sequence))
            while True:
                data = opened.recv(_RECEIVE_BYTES)
                for kind, flags, answered, body in _messages(data):
                    if answered != sequence:
                        break  # of a dump that was given up
                    whole = whole and not flags & _NLM_F_DUMP_INTR
                    if kind in (_NLMSG_ERROR, _NLMSG_DONE):
                        number = -int.from_bytes(body[:4], sys.byteorder, signed=True)
                        if number == errno.EINTR:
                            return None
                        if number:
                            raise _error("nftables dump", number)
                        parts.append(data)
                        return b"".join(parts) if whole else None
                else:
                    parts.append(data)
        except OSError as error:
            # What still comes would be taken for the next answer.
            self.close()
            self.open()
            if error.errno in (errno.ENOBUFS, errno.EINTR):
                return None
            raise _error("nftables dump", _number_of(error)) from error

    def _generation(self) -> int:
        self.open()
        self._sequence += 1
        opened = self._opened()
        request = _HEADER.pack(20, _GETGEN, _NLM_F_REQUEST, self._sequence, 0) + bytes(4)
        try:
            opened.send(request)
            while True:
                for kind, _, sequence, body in _messages(opened.recv(_RECEIVE_BYTES)):
                    if sequence != self._sequence:
                        continue
                    if kind == _NLMSG_ERROR:
                        raise _error(
                            "nftables generation", -int.from_bytes(body[:4], sys.byteorder, signed=True)
                        )
                    if kind == _NEWGEN and len(body) >= 12:
                        return int.from_bytes(body[8:12], "big")
        except OSError as error:
            self.close()
            raise _error("nftables generation", _number_of(error)) from error

    def _opened(self) -> socket.socket:
        assert self._socket is not None
        return self._socket


def _open_socket() -> socket.socket:
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
    try:
        # Not settimeout, which polls before each call.
        patience = struct.pack("@ll", _TIMEOUT_S, 0)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, patience)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, patience)
        try:
            opened.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER_BYTES)
        except OSError:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
        # 4.2+, 4.12+: refusals do not repeat the message, and say why.
        for option in (_NETLINK_CAP_ACK, _NETLINK_EXT_ACK):
            with contextlib.suppress(OSError):
                opened.setsockopt(_SOL_NETLINK, option, 1)
        opened.bind((0, 0))
    except OSError:
        opened.close()
        raise
    return opened


def _batch_mark(kind: int, attributes: bytes) -> bytes:
    header = _HEADER.pack(20 + len(attributes), kind, _NLM_F_REQUEST, 0, 0)
    return header + struct.pack(">BBH", 0, 0, _SUBSYSTEM_NFTABLES) + attributes


def _with_sequence(request: bytes, sequence: int) -> bytes:
    return request[:_SEQUENCE_OFFSET] + struct.pack("=I", sequence) + request[_SEQUENCE_OFFSET + 4 :]


def _messages(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Yield (type, flags, sequence number, body)."""
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, flags, sequence, _ = _HEADER.unpack_from(data, at)
        if length < _HEADER.size:
            return
        yield kind, flags, sequence, data[at + _HEADER.size : at + length]
        at += (length + 3) & ~3


def _refusal(number: int, index: int, flags: int, body: bytes) -> TransactionRefusedError:
    """Return the error of an answer; index -1 is the transaction as a whole."""
    reason, offset = "", -1
    if flags & _NLM_F_ACK_TLVS:
        at = 20 if flags & _NLM_F_CAPPED else 4 + ((int.from_bytes(body[4:8], sys.byteorder) + 3) & ~3)
        while at + 4 <= len(body):
            length, kind = _ATTRIBUTE.unpack_from(body, at)
            if length < 4:
                break
            value = body[at + 4 : at + length]
            if kind & 0x3FFF == _ATTRIBUTE_TEXT:
                reason = value.split(b"\0", 1)[0].decode(errors="replace")
            elif kind & 0x3FFF == _ATTRIBUTE_OFFSET:
                offset = int.from_bytes(value, sys.byteorder)
            at += (length + 3) & ~3
    words = ", ".join(filter(None, (os.strerror(number), reason, _HINTS.get(number, ""))))
    return TransactionRefusedError(
        "nftables transaction", words, errno=number, index=index, offset_bytes=offset
    )


def _number_of(error: OSError) -> int:
    return errno.ETIMEDOUT if isinstance(error, BlockingIOError) else error.errno or errno.EIO


def _error(command: str, number: int) -> KernelError:
    words = ", ".join(filter(None, (os.strerror(number), _HINTS.get(number, ""))))
    return KernelError(command, words, errno=number)
