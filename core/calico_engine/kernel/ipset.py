"""Speak to the kernel's ipsets by raw netlink: sets made, filled, changed, swapped, destroyed and read back.

The ipset program costs two milliseconds to start and three microseconds a member to parse; here one long-lived socket
carries thousands of members in a message. Requests are idempotent, as `ipset -exist` is: adding what is there and
deleting what is not are no errors.

IpsetSocket blocks: a message of 2000 members takes the kernel about a millisecond. An event loop goes through
run_ipset, which takes large work to a thread. The socket belongs to the network namespace of the thread that opens it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import struct
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Literal, TypeVar

from calico_engine.errors import KernelError, KernelUnsupportedError
from calico_engine.fastpath import SET_ROW_SIZE, encode_set_members, parse_set_dump
from calico_engine.fastpath.set_messages import encode_member
from calico_engine.kernel import ipset_messages as wire
from calico_engine.kernel.ipset_errors import ipset_error
from calico_engine.kernel.ipset_messages import Attribute, Command, SetHeader
from calico_engine.kernel.rtnetlink import Message, error_of, read_messages
from calico_engine.kernel.set_rows import unpack_members

MEMBERS_PER_MESSAGE = 2000
#: Work on no more members than this is done before a thread is woken.
INLINE_MEMBERS = 1000
REQUEST_TIMEOUT_S = 30
_ENCODE_AT_ONCE = 10 * MEMBERS_PER_MESSAGE
#: A socket takes at least this much at once, as its send buffer is twice what is asked for.
_SEND_BYTES = 192 << 10
_RECEIVE_BYTES = 1 << 16
_LOST_ANSWERS = 3
_NAMES_KEPT = 1000
#: nlmsghdr and the error of an acknowledgement.
_ANSWER = struct.Struct("=IHHIIi")

#: Where the numbers of requests begin anew; far below what a message has room for, so that no group passes over it.
_SEQUENCES = 0x7FFFFFFF

_NETLINK_NETFILTER, _SOL_NETLINK, _NETLINK_CAP_ACK, _SO_SNDBUFFORCE = 12, 270, 10, 32
T = TypeVar("T")
#: Messages to send at once, in parts, and the first and last sequence number that answers to them have.
_Request = tuple[tuple[bytes | memoryview, ...], int, int]
_BYTE_ORDER: Literal["little", "big"] = sys.byteorder


class IpsetSocket:
    """Opened and agreed on a protocol version at first use. One request at a time, from whatever thread."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._finalizer: weakref.finalize[[], IpsetSocket] | None = None
        self._sequence = 0
        self._revisions: dict[tuple[str, str], int] = {}
        self._names: dict[str, bytes] = {}
        self._answer = bytearray(_RECEIVE_BYTES)
        #: Held by whoever uses the socket where several threads might; `given_up` is that user's.
        self.lock = threading.Lock()
        self.given_up: threading.Event | None = None
        #: The protocol version agreed on; 0 before the first request.
        self.protocol = 0

    def close(self) -> None:
        self._socket = None
        if self._finalizer is not None:
            self._finalizer()

    def open(self) -> None:
        """Open in this thread's network namespace; no error when open. Raises: KernelUnsupportedError, KernelError."""
        if self._socket is not None:
            return
        hint = "load or build the kernel modules nfnetlink and ip_set"
        try:
            self._socket = opened = _open_socket()
        except OSError as error:
            if error.errno in (errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT):
                raise KernelUnsupportedError("ipset by netlink", hint=hint) from error
            if error.errno in (errno.EPERM, errno.EACCES):
                # A security module says no to this program; the ipset program may have a domain of its own.
                hint = "let calico-engine open netlink sockets for netfilter (SELinux, AppArmor, seccomp)"
                raise KernelUnsupportedError("ipset by netlink", hint=hint) from error
            raise ipset_error("open the ipset netlink socket", error.errno or errno.EIO) from error
        # Of a plugin that nobody closed, the socket goes with it.
        self._finalizer = weakref.finalize(self, opened.close)
        if self.protocol:
            return
        try:
            answer = self._ask(
                Command.PROTOCOL,
                wire.byte(Attribute.PROTOCOL, wire.PROTOCOL_NEWEST),
                "ipset protocol",
            )
        except KernelError as error:
            self.close()
            if error.errno in (errno.EINVAL, errno.EOPNOTSUPP):
                # nfnetlink says so where ip_set is neither built in nor to be loaded.
                raise KernelUnsupportedError("ipset by netlink", hint=hint) from error
            raise
        newest = answer.get(Attribute.PROTOCOL, b"\0")[0]
        oldest = answer.get(Attribute.OLDEST, bytes([newest]))[0]
        if newest < wire.PROTOCOL_OLDEST or oldest > wire.PROTOCOL_NEWEST:
            self.close()
            raise KernelUnsupportedError(
                f"ipset protocol {wire.PROTOCOL_OLDEST} or {wire.PROTOCOL_NEWEST}",
                hint=f"the kernel speaks {oldest} to {newest}; use a version of calico-engine that does",
            )
        self.protocol = min(newest, wire.PROTOCOL_NEWEST)

    # Requests

    def create(self, name: str, kind: str, family: str, *, hashsize: int, maxelem: int) -> None:
        """Make a set; no error when there is one of this shape. kind: hash:net or hash:ip,port; family: inet, inet6.

        Room for all members at once is worth it: each doubling of the hash waits for every reader.
        """
        command = f"ipset create {name} {kind} family {family}"
        self.open()
        data = wire.number(Attribute.HASHSIZE, hashsize) + wire.number(Attribute.MAXELEM, maxelem)
        revision = self._revisions.get((kind, family)) or self._find_revision(kind, family)
        body = (
            self._named(name) + wire.text(Attribute.TYPENAME, kind) + wire.byte(Attribute.REVISION, revision)
        )
        body += wire.byte(Attribute.FAMILY, wire.FAMILIES[family]) + wire.nested(Attribute.DATA, data)
        self._ask(Command.CREATE, body, command)

    def add(self, name: str, rows: bytes) -> None:
        """Add members. Raises: KernelError naming the first refused; those before it were added, others may be."""
        self._change(Command.ADD, name, rows)

    def delete(self, name: str, rows: bytes) -> None:
        """Delete members. Raises: KernelError naming the first refused; those before it were deleted."""
        self._change(Command.DEL, name, rows)

    def swap(self, name: str, other: str) -> None:
        """Give two sets of one type and family each other's name: rules see the other members at once.

        Twice is never: when the answer is lost, this fails, and what the kernel has must be read back.
        """
        self.open()
        body = self._named(name) + wire.text(Attribute.SETNAME2, other)
        self._ask(Command.SWAP, body, f"ipset swap {name} {other}")

    def destroy(self, name: str) -> None:
        """Destroy a set; no error when there is none. Raises: KernelError with IpsetError.BUSY while a rule uses it."""
        self.open()
        try:
            self._ask(Command.DESTROY, self._named(name), f"ipset destroy {name}")
        except KernelError as error:
            # New kernels pass over it by themselves, as NLM_F_EXCL is not set.
            if error.errno != errno.ENOENT:
                raise

    # Reading back

    def headers(self) -> list[SetHeader]:
        """Return all sets of the network namespace, foreign ones included."""
        self.open()
        body = wire.byte(Attribute.PROTOCOL, self.protocol)
        body += wire.number(Attribute.FLAGS, wire.FLAG_LIST_HEADER)
        dump = self._dump(body, "ipset list -terse")
        return [
            wire.read_header(message)
            for message in read_messages(dump)
            if message.type == wire.SUBSYSTEM | Command.LIST
        ]

    def members(self, name: str) -> bytes:
        """Return a set's members as rows, in no order. Raises: KernelError with ENOENT when there is no such set."""
        self.open()
        command = f"ipset list {name}"
        dump = self._dump(self._named(name), command)
        try:
            return parse_set_dump(dump)
        except ValueError as error:
            raise KernelError(command, f"the kernel's answer is not understood: {error}") from error

    # Messages

    def _named(self, name: str) -> bytes:
        """Return the attributes that every request about a set begins with."""
        known = self._names.get(name)
        if known is None:
            if not 0 < len(name.encode()) <= wire.MAX_NAME_BYTES:
                raise KernelError(f"ipset {name}", f"a set's name has 1 to {wire.MAX_NAME_BYTES} bytes")
            known = wire.byte(Attribute.PROTOCOL, self.protocol) + wire.text(Attribute.SETNAME, name)
            if len(self._names) >= _NAMES_KEPT:
                self._names.clear()
            self._names[name] = known
        return known

    def _find_revision(self, kind: str, family: str) -> int:
        body = wire.byte(Attribute.PROTOCOL, self.protocol) + wire.text(Attribute.TYPENAME, kind)
        body += wire.byte(Attribute.FAMILY, wire.FAMILIES[family])
        answer = self._ask(Command.TYPE, body, f"ipset set type {kind} family {family}")
        newest = answer.get(Attribute.REVISION, b"\0")[0]
        oldest = answer.get(Attribute.OLDEST, b"\0")[0]
        self._revisions[kind, family] = revision = max(oldest, min(newest, wire.REVISION))
        return revision

    def _change(self, command: Command, name: str, rows: bytes) -> None:
        self.open()
        what = f"ipset {command.name.lower()} {name}"
        if len(rows) == SET_ROW_SIZE:
            self._change_one(command, name, rows, what)
            return
        step = _ENCODE_AT_ONCE * SET_ROW_SIZE
        for start in range(0, len(rows), step):
            piece = rows[start : start + step]
            first = 0
            for group, end in self._groups(command, name, piece):
                if self._send_again(group, what):
                    # Which member it was, the kernel does not say: send each in a message of its own.
                    for place in range(first * SET_ROW_SIZE, end * SET_ROW_SIZE, SET_ROW_SIZE):
                        self._change_one(command, name, piece[place : place + SET_ROW_SIZE], what)
                first = end

    def _change_one(self, command: Command, name: str, row: bytes, what: str) -> None:
        """Change one member. Most changes are of one: nothing here but what that takes. Raises: KernelError."""
        body = self._named(name) + encode_member(row)
        message = self._head(command, wire.NLM_F_REQUEST | wire.NLM_F_ACK, len(body)) + body
        if number := self._send_again(((message,), self._sequence, self._sequence), what):
            raise ipset_error(what, number, member=unpack_members(row)[0])

    def _groups(self, command: Command, name: str, rows: bytes) -> Iterator[tuple[_Request, int]]:
        """Yield messages as they are sent together, and after how many rows each group ends.

        One send and one answer for several messages: another thread that computes has the interpreter in between, and
        each time it must be waited for. A refusal is answered without being asked for.
        """
        # The kernel wants a line number beside many members, and tells it of the one refused if each has one, too.
        body = self._named(name) + wire.attribute(Attribute.LINENO, struct.pack("=I", 0))
        head = self._head(command, wire.NLM_F_REQUEST, len(body)) + body
        messages, ends = encode_set_members(head, rows, MEMBERS_PER_MESSAGE)
        sequence = self._sequence
        self._sequence = (self._sequence + len(ends)) & _SEQUENCES
        view, start, offset = memoryview(messages), 0, 0
        first = number = sequence
        for number, end in enumerate(ends, sequence):
            length = int.from_bytes(view[offset : offset + 4], _BYTE_ORDER)
            if end == ends[-1] or offset + 2 * length - start > _SEND_BYTES:
                flags = (wire.NLM_F_REQUEST | wire.NLM_F_ACK).to_bytes(2, _BYTE_ORDER)
                parts = (view[start : offset + 6], flags, view[offset + 8 : offset + length])
                yield (parts, first, number), end
                start, first = offset + length, number + 1
            offset += length

    def _head(self, command: Command, flags: int, size: int) -> bytes:
        self._sequence = (self._sequence + 1) & _SEQUENCES
        return wire.message_head(command, flags, self._sequence, size)

    def _send_again(self, request: _Request, what: str) -> int:
        """Send what may come twice; return the kernel's errno, 0 when done."""
        for _ in range(_LOST_ANSWERS - 1):
            try:
                return self._exchange(request, what)[0]
            except KernelError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self.open()
        return self._exchange(request, what)[0]

    def _ask(self, command: Command, body: bytes, what: str) -> dict[int, bytes]:
        """Send one request; return the attributes of its answer, if it has one. Raises: KernelError."""
        head = self._head(command, wire.NLM_F_REQUEST | wire.NLM_F_ACK, len(body))
        number, answers = self._exchange(((head + body,), self._sequence, self._sequence), what)
        if number:
            raise ipset_error(what, number)
        return dict(wire.read_attributes(answers[0].body[4:])) if answers else {}

    def _exchange(self, request: _Request, what: str) -> tuple[int, list[Message]]:
        """Send messages; return the errno of the first refusal or of the acknowledgement, and what came before that."""
        if self.given_up is not None and self.given_up.is_set():
            raise KernelError(what, "stopped before it was sent", errno=errno.ECANCELED)
        opened = self._socket
        assert opened is not None
        parts, first, last = request
        answers: list[Message] = []
        try:
            if len(parts) == 1:
                opened.send(parts[0])
            else:
                opened.sendmsg(parts)
            while True:
                size = opened.recv_into(self._answer)
                if size >= _ANSWER.size and not answers:
                    length, kind, _, answered, _, number = _ANSWER.unpack_from(self._answer)
                    if length == size and kind == wire.NLMSG_ERROR and first <= answered <= last:
                        return -number, answers
                for answer in read_messages(bytes(self._answer[:size])):
                    if not first <= answer.sequence <= last:
                        continue  # of a request that was given up
                    if answer.type == wire.NLMSG_ERROR:
                        return error_of(answer), answers
                    answers.append(answer)
        except OSError as error:
            raise self._broken(error, what) from error

    def _dump(self, body: bytes, what: str) -> bytes:
        """Return the messages that a request to list gives, back to back. Raises: KernelError."""
        for attempt in range(_LOST_ANSWERS):
            try:
                return self._dump_once(body, what)
            except KernelError as error:
                if error.errno != errno.ENOBUFS or attempt == _LOST_ANSWERS - 1:
                    raise
                self.open()
        raise AssertionError("unreachable")

    def _dump_once(self, body: bytes, what: str) -> bytes:
        # Without NLM_F_ACK old kernels say nothing when there is no such set.
        head = self._head(Command.LIST, wire.NLM_F_REQUEST | wire.NLM_F_ACK | wire.NLM_F_DUMP, len(body))
        parts: list[bytes] = []
        opened = self._socket
        assert opened is not None
        try:
            opened.send(head + body)
            while True:
                data = opened.recv(_RECEIVE_BYTES)
                for message in read_messages(data):
                    if message.sequence != self._sequence:
                        break  # of a dump that was given up
                    if message.type in (wire.NLMSG_ERROR, wire.NLMSG_DONE):
                        if number := error_of(message):
                            raise ipset_error(what, number)
                        return b"".join([*parts, data])
                else:
                    parts.append(data)
        except OSError as error:
            raise self._broken(error, what) from error

    def _broken(self, error: OSError, what: str) -> KernelError:
        """Close the socket, as an answer may still come that would be taken for another request's."""
        self.close()
        if isinstance(error, BlockingIOError):
            return KernelError(what, f"no answer in {REQUEST_TIMEOUT_S} s", errno=errno.ETIMEDOUT)
        return ipset_error(what, error.errno or errno.EIO)


async def run_ipset(ipset: IpsetSocket, work: Callable[[IpsetSocket], T], n_members: int) -> T:
    """Return what `work` does with the socket: at once where few members are concerned, else in another thread.

    When cancelled, the work ends after the message it is at. A worker thread has its caller's network namespace.
    """
    if n_members <= INLINE_MEMBERS and ipset.lock.acquire(blocking=False):
        try:
            ipset.given_up = None
            return work(ipset)
        finally:
            ipset.lock.release()
    given_up = threading.Event()
    try:
        return await asyncio.to_thread(_work_alone, ipset, work, given_up)
    except asyncio.CancelledError:
        given_up.set()
        raise


def _work_alone(ipset: IpsetSocket, work: Callable[[IpsetSocket], T], given_up: threading.Event) -> T:
    with ipset.lock:
        ipset.given_up = given_up
        return work(ipset)


def _open_socket() -> socket.socket:
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
    try:
        # Not settimeout, which polls before each call.
        patience = struct.pack("@ll", REQUEST_TIMEOUT_S, 0)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, patience)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, patience)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 18)
        # Where net.core.wmem_max is small, and we may pass over it.
        with contextlib.suppress(OSError):
            opened.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, 1 << 18)
        # 4.2+: without it a refusal repeats the whole message.
        with contextlib.suppress(OSError):
            opened.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
        opened.bind((0, 0))
    except OSError:
        opened.close()
        raise
    return opened
