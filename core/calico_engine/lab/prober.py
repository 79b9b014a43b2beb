"""Make real connections between pods and say how each ended.

    python -m calico_engine.lab.prober STATE-DIRECTORY < job.json > verdicts.json

A socket belongs to the network namespace it was made in, so one process serves all pods: it enters each, makes that
pod's sockets, and then waits for all of them together. A probe takes as long as its slowest answer, a denied one as
long as the time limit.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import selectors
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from pathlib import Path

import msgspec

from calico_engine.errors import CalicoEngineError
from calico_engine.kernel.namespaces import CLONE_NEWNET, enter_namespace
from calico_engine.lab.entering import NETNS_DIRECTORY, Holder
from calico_engine.lab.paths import LabPaths
from calico_engine.lab.plan import FABRIC, namespace_name

BANNER = b"celab "
_RESEND_S = 0.25
#: Probes at one time: each needs a descriptor, and the default limit is 1024.
_WAVE = 400

_NOT_REACHED = frozenset({errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EACCES, errno.EPERM, errno.EHOSTDOWN})


class ProbeResult(StrEnum):
    OPEN = "open"
    DENIED = "denied"  # no answer in time
    REFUSED = "refused"  # nobody listens there
    UNREACHABLE = "unreachable"  # a router or a firewall says so
    WRONG = "wrong"  # somebody else answered


class Spot(msgspec.Struct, frozen=True):
    """Where a pod (or the fabric) is and what it answers on: (protocol, port)."""

    name: str
    addresses: tuple[str, ...]
    serves: tuple[tuple[str, int], ...] = ()


class Probe(msgspec.Struct, frozen=True):
    """One connection to make. Port is 0 for ICMP."""

    source: str
    destination: str
    address: str
    protocol: str
    port: int


class Job(msgspec.Struct, frozen=True):
    spots: tuple[Spot, ...]
    probes: tuple[Probe, ...]
    timeout_s: float


class Verdict(msgspec.Struct, frozen=True):
    """How the probe of the same index ended, and after how long; `detail` only where there is more to say."""

    result: ProbeResult
    elapsed_ms: float
    detail: str = ""


Done = Callable[[ProbeResult, str], None]


class Attempt:
    """One probe on its way: a socket, what to do when it can be read or written, and when to send again."""

    def __init__(self, probe: Probe, family: socket.AddressFamily, number: int) -> None:
        self.probe = probe
        self.number = number
        self.started_s = 0.0
        self.verdict: Verdict | None = None
        self.socket = self._make(family)
        self.socket.settimeout(0)

    def _make(self, family: socket.AddressFamily) -> socket.socket:
        if self.probe.protocol == "icmp":
            kind = socket.IPPROTO_ICMP if family == socket.AF_INET else socket.IPPROTO_ICMPV6
            return socket.socket(family, socket.SOCK_RAW, kind)
        return socket.socket(
            family, socket.SOCK_STREAM if self.probe.protocol == "tcp" else socket.SOCK_DGRAM
        )

    def begin(self) -> None:
        self.started_s = time.monotonic()
        try:
            self.socket.connect((self.probe.address, 0 if self.probe.protocol == "icmp" else self.probe.port))
        except BlockingIOError:
            return
        except OSError as error:
            self._failed(error)
            return
        self.again()

    def again(self) -> None:
        """Send (again) what a connectionless protocol sends."""
        if self.verdict is not None or self.probe.protocol == "tcp":
            return
        try:
            self.socket.send(self._request())
        except BlockingIOError:
            return
        except OSError as error:
            self._failed(error)

    def on_ready(self) -> None:
        """Read what came: the banner, an answer, or why there is none."""
        try:
            data = self.socket.recv(2048)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._failed(error)
            return
        if self.probe.protocol == "icmp":
            if self._is_reply(data):
                self.end(ProbeResult.OPEN)
            return
        who = data.removeprefix(BANNER).decode(errors="replace").strip()
        if data.startswith(BANNER) and who != self.probe.destination:
            self.end(ProbeResult.WRONG, f"{who} answered")
        else:
            self.end(ProbeResult.OPEN)

    def give_up(self) -> None:
        """End for lack of time: open where somebody took the connection and had nothing to say, else denied."""
        if self.verdict is not None:
            return
        try:
            self.socket.getpeername()
        except OSError:
            self.end(ProbeResult.DENIED)
        else:
            self.end(ProbeResult.OPEN if self.probe.protocol == "tcp" else ProbeResult.DENIED)

    def end(self, result: ProbeResult, detail: str = "") -> None:
        if self.verdict is None:
            elapsed_ms = round((time.monotonic() - self.started_s) * 1000, 2)
            self.verdict = Verdict(result, elapsed_ms, detail)

    def _failed(self, error: OSError) -> None:
        if error.errno == errno.ECONNREFUSED:
            self.end(ProbeResult.REFUSED)
        elif error.errno in _NOT_REACHED:
            self.end(ProbeResult.UNREACHABLE, error.strerror or "")
        else:
            self.end(ProbeResult.DENIED, error.strerror or "")

    def _request(self) -> bytes:
        if self.probe.protocol != "icmp":
            return BANNER
        kind = 8 if self.socket.family == socket.AF_INET else 128
        header = struct.pack("!BBHHH", kind, 0, 0, os.getpid() & 0xFFFF, self.number & 0xFFFF)
        # The kernel fills in the checksum of ICMPv6 alone.
        return struct.pack("!BBHHH", kind, 0, checksum(header), os.getpid() & 0xFFFF, self.number & 0xFFFF)

    def _is_reply(self, data: bytes) -> bool:
        if self.socket.family == socket.AF_INET:
            data = data[(data[0] & 0xF) * 4 :]
        reply = 0 if self.socket.family == socket.AF_INET else 129
        if len(data) < 8:
            return False
        kind, _, _, identity, number = struct.unpack_from("!BBHHH", data)
        return (kind, identity, number) == (reply, os.getpid() & 0xFFFF, self.number & 0xFFFF)


def checksum(data: bytes) -> int:
    """Return the Internet checksum (RFC 1071) of an even number of bytes."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    folded: int = total + (total >> 16)
    return ~folded & 0xFFFF


class Server:
    """What a pod answers with: its name, so that a connection that ends elsewhere is noticed."""

    def __init__(self, name: str, protocol: str, made: socket.socket) -> None:
        self._banner = BANNER + name.encode()
        self._protocol = protocol
        self.socket = made

    def on_ready(self) -> None:
        with contextlib.suppress(OSError):
            if self._protocol == "udp":
                _, sender = self.socket.recvfrom(2048)
                self.socket.sendto(self._banner, sender)
                return
            connection, _ = self.socket.accept()
            with connection:
                connection.settimeout(1.0)
                connection.sendall(self._banner)


def family_of(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def make_servers(spot: Spot) -> Iterator[Server]:
    """Listen in the present namespace; a port that is taken is left to whoever has it."""
    for address in spot.addresses:
        for protocol, port in spot.serves:
            made = socket.socket(
                family_of(address), socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
            )
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.settimeout(0)
            try:
                made.bind((address, port))
                if protocol == "tcp":
                    made.listen(256)
            except OSError:
                made.close()
                continue
            yield Server(spot.name, protocol, made)


def enter_spot(name: str, fabric: int) -> None:
    """Move to a pod's network namespace; `fabric` is the descriptor of the fabric's."""
    if name == FABRIC:
        enter_namespace(fabric, CLONE_NEWNET)
        return
    descriptor = os.open(NETNS_DIRECTORY / namespace_name(name), os.O_RDONLY | os.O_CLOEXEC)
    try:
        enter_namespace(descriptor, CLONE_NEWNET)
    finally:
        os.close(descriptor)


def run_job(job: Job, fabric: int) -> list[Verdict]:
    """Make all connections and return their verdicts in order. Raises: KernelError, OSError."""
    with contextlib.ExitStack() as stack:
        selector = stack.enter_context(selectors.DefaultSelector())
        for spot in job.spots:
            enter_spot(spot.name, fabric)
            for server in make_servers(spot):
                stack.enter_context(server.socket)
                selector.register(server.socket, selectors.EVENT_READ, server)
        verdicts: list[Verdict] = []
        for start in range(0, len(job.probes), _WAVE):
            verdicts += _run_wave(job.probes[start : start + _WAVE], start, job.timeout_s, selector, fabric)
    return verdicts


def _run_wave(
    probes: Sequence[Probe],
    start: int,
    timeout_s: float,
    selector: selectors.BaseSelector,
    fabric: int,
) -> list[Verdict]:
    attempts: dict[int, Attempt] = {}
    numbered = sorted(enumerate(probes), key=lambda pair: pair[1].source)
    here = ""
    for index, probe in numbered:
        if probe.source != here:
            enter_spot(probe.source, fabric)
            here = probe.source
        attempts[index] = Attempt(probe, family_of(probe.address), start + index + 1)
    waiting = list(attempts.values())
    for attempt in waiting:
        selector.register(attempt.socket, selectors.EVENT_READ, attempt)
        attempt.begin()
    end_s = time.monotonic() + timeout_s
    resend_s = time.monotonic() + _RESEND_S
    while waiting and (now_s := time.monotonic()) < end_s:
        for key, _ in selector.select(max(0.0, min(resend_s, end_s) - now_s)):
            key.data.on_ready()
        if time.monotonic() >= resend_s:
            resend_s += _RESEND_S
            for attempt in waiting:
                attempt.again()
        waiting = [attempt for attempt in waiting if attempt.verdict is None]
    for attempt in attempts.values():
        attempt.give_up()
        selector.unregister(attempt.socket)
        attempt.socket.close()
    return [verdict for _, attempt in sorted(attempts.items()) if (verdict := attempt.verdict) is not None]


def main(arguments: list[str]) -> int:
    """Run the job on standard input in the lab of a state directory."""
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    holder = Holder.find(LabPaths(Path(arguments[0])))
    if holder is None:
        sys.stderr.write("the lab is not up\n")
        return 1
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        # The lab's /proc shows nothing of a process of another PID namespace, such as we remain.
        fabric = os.open(f"/proc/{holder.inner}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        holder.enter()
        verdicts = run_job(job, fabric)
    except (CalicoEngineError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.buffer.write(msgspec.json.encode(verdicts))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
