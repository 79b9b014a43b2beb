"""Send packets of flows that must be denied, and of flows that must be allowed, and see which arrive.

    python -m calico_engine.testing.soak.sentry LAB-DIRECTORY < orders

First line of the orders: a Watch, answered with "ready". Every further line, one at a time, is answered with a
Sighting of all so far. Ends with its input.

A raw socket in each source pod sends TCP's SYN and UDP, each with a fresh source port, so that conntrack knows none of
them; a packet socket in each destination pod sees what its link delivers, whether or not anybody listens. One
established connection for each allowed TCP flow is kept open throughout, and carries a byte now and then.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import struct
import sys
import time
from collections import deque
from pathlib import Path

import msgspec

from calico_engine.kernel.namespaces import CLONE_NEWNET, enter_namespace
from calico_engine.lab.entering import NETNS_DIRECTORY, Holder
from calico_engine.lab.paths import LabPaths
from calico_engine.lab.plan import namespace_name
from calico_engine.lab.prober import checksum
from calico_engine.testing.soak.world import FlowEnds

_ETH_P_IP, _ETH_P_IPV6 = 0x0800, 0x86DD
_PROTOCOLS = {"tcp": socket.IPPROTO_TCP, "udp": socket.IPPROTO_UDP}
_FIRST_PORT, _PORTS = 10_000, 50_000
_TICK_S = 0.004
_MOST_A_TICK = 40
_BUFFER_BYTES = 4 << 20
_BEAT_S = 0.1
_STALL_S = 3.0
#: What is on its way for less than this is not lost yet.
_FLIGHT_S = 1.0


class Watch(msgspec.Struct, frozen=True, kw_only=True):
    """What to send: packets a second of all denied flows together, and of all allowed ones."""

    denied: tuple[FlowEnds, ...]
    allowed: tuple[FlowEnds, ...]
    denied_per_s: float
    allowed_per_s: float
    connections: tuple[FlowEnds, ...] = ()


class Leak(msgspec.Struct, frozen=True):
    """A packet that arrived though it must not; `at_s` is on the machine's monotonic clock."""

    flow: str
    at_s: float


class Sighting(msgspec.Struct, frozen=True, kw_only=True):
    """All so far.

    `lost`: packets of allowed flows that did not arrive. `lost_at`: those since the last Sighting, and when sent.
    """

    at_s: float
    denied_sent: int
    allowed_sent: int
    lost: int
    lost_at: tuple[Leak, ...]
    leaks: tuple[Leak, ...]
    refused: int
    connections: int
    broken: int
    longest_stall_s: float


class Track:
    """One flow: its packets, and which of them arrived."""

    def __init__(self, ends: FlowEnds, sender: socket.socket, *, is_denied: bool) -> None:
        self.ends = ends
        self.is_denied = is_denied
        self.count = 0
        self.in_flight: deque[tuple[int, float]] = deque()
        self._sender = sender
        family = socket.AF_INET6 if ":" in ends.source_address else socket.AF_INET
        self._v6 = family == socket.AF_INET6
        self._src = socket.inet_pton(family, ends.source_address)
        self._dst = socket.inet_pton(family, ends.destination_address)
        self._protocol = _PROTOCOLS[ends.protocol]
        self.key = (self._src, self._dst, self._protocol, ends.port)

    def send(self, now_s: float) -> bool:
        """Send one packet with the next source port; False when this kernel refuses it at the source."""
        port = _FIRST_PORT + self.count % _PORTS
        self.count += 1
        segment = self._segment(port)
        if self._v6:
            header = struct.pack("!IHBB", 6 << 28, len(segment), self._protocol, 64) + self._src + self._dst
        else:
            header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(segment), 0, 0, 64, self._protocol, 0)
            header += self._src + self._dst
        address = (self.ends.destination_address, 0, 0, 0) if self._v6 else (self.ends.destination_address, 0)
        try:
            self._sender.sendto(header + segment, address)
        except OSError:
            return False
        if not self.is_denied:
            self.in_flight.append((port, now_s))
        return True

    def _segment(self, port: int) -> bytes:
        if self._protocol == socket.IPPROTO_TCP:
            parts = ("!HHIIBBHHH", port, self.ends.port, self.count, 0, 5 << 4, 2, 64240)
            return struct.pack(*parts, self._sum(struct.pack(*parts, 0, 0)), 0)
        return struct.pack(
            "!HHHH",
            port,
            self.ends.port,
            8,
            self._sum(struct.pack("!HHHH", port, self.ends.port, 8, 0)) or 0xFFFF,
        )

    def _sum(self, segment: bytes) -> int:
        return checksum(self._src + self._dst + struct.pack("!HH", self._protocol, len(segment)) + segment)

    def arrived(self, port: int) -> None:
        for number, (sent_port, _) in enumerate(self.in_flight):
            if sent_port == port:
                del self.in_flight[number]
                return


class Connection:
    """An established connection that carries a byte each way now and then; made anew when it breaks or stalls."""

    def __init__(self, ends: FlowEnds, now_s: float) -> None:
        self.ends = ends
        self.socket: socket.socket | None = None
        self.asked_s = now_s
        self.is_waiting = False
        self.next_s = now_s

    def open(self, now_s: float) -> socket.socket:
        enter_pod(self.ends.source)
        made = socket.socket(socket.AF_INET6 if ":" in self.ends.source_address else socket.AF_INET)
        made.settimeout(0)
        with contextlib.suppress(BlockingIOError):
            made.connect((self.ends.destination_address, self.ends.port))
        self.socket, self.is_waiting, self.next_s = made, False, now_s + 5 * _BEAT_S
        return made

    def beat(self, now_s: float) -> None:
        """Send a byte when the last one was answered and it is time. Raises: OSError."""
        if self.socket is not None and not self.is_waiting and now_s >= self.next_s:
            self.socket.send(b"x")
            self.is_waiting, self.asked_s = True, now_s


class Sentry:
    """All flows of a watch; `run` serves until the input ends."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._selector = selectors.DefaultSelector()
        self._senders: dict[tuple[str, bool], socket.socket] = {}
        self._denied = [self._track(ends, is_denied=True) for ends in watch.denied]
        self._allowed = [self._track(ends, is_denied=False) for ends in watch.allowed]
        self._tracks = {track.key: track for track in (*self._denied, *self._allowed)}
        self._leaks: list[Leak] = []
        self._lost: list[Leak] = []
        self._refused = self._denied_sent = self._allowed_sent = 0
        self._lost_count = self._broken = 0
        self._longest_stall_s = 0.0
        for pod in sorted({track.ends.destination for track in self._tracks.values()}):
            self._listen(pod)
        now_s = time.monotonic()
        self._connections = [Connection(ends, now_s) for ends in watch.connections]
        for connection in self._connections:
            self._serve(connection.ends)

    def _track(self, ends: FlowEnds, *, is_denied: bool) -> Track:
        v6 = ":" in ends.source_address
        if (ends.source, v6) not in self._senders:
            enter_pod(ends.source)
            self._senders[ends.source, v6] = socket.socket(
                socket.AF_INET6 if v6 else socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW
            )
        return Track(ends, self._senders[ends.source, v6], is_denied=is_denied)

    def _listen(self, pod: str) -> None:
        enter_pod(pod)
        for kind in (_ETH_P_IP, _ETH_P_IPV6):
            # A socket of one protocol sees what comes in, not what goes out.
            made = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(kind))
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
            made.bind(("eth0", kind))
            made.settimeout(0)
            self._selector.register(made, selectors.EVENT_READ, self._on_packets)

    def _serve(self, ends: FlowEnds) -> None:
        enter_pod(ends.destination)
        made = socket.socket(socket.AF_INET6 if ":" in ends.destination_address else socket.AF_INET)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.settimeout(0)
        try:
            made.bind((ends.destination_address, ends.port))
        except OSError:
            made.close()  # another connection's server has it
            return
        made.listen()
        self._selector.register(made, selectors.EVENT_READ, self._on_connection)

    def run(self) -> None:
        orders = sys.stdin.fileno()
        os.set_blocking(orders, False)
        self._selector.register(orders, selectors.EVENT_READ, None)
        paces = [
            _Pace(self._denied, self._watch.denied_per_s),
            _Pace(self._allowed, self._watch.allowed_per_s),
        ]
        while True:
            for key, _ in self._selector.select(_TICK_S):
                if key.data is None:
                    asked = os.read(orders, 4096)
                    if not asked:
                        return
                    sys.stdout.buffer.write(msgspec.json.encode(self._sighting()) + b"\n")
                    sys.stdout.buffer.flush()
                else:
                    key.data(key.fileobj)
            now_s = time.monotonic()
            for pace in paces:
                for track in pace.due(now_s):
                    self._send(track, now_s)
            self._beat(now_s)

    def _send(self, track: Track, now_s: float) -> None:
        if not track.send(now_s):
            self._refused += 1
        elif track.is_denied:
            self._denied_sent += 1
        else:
            self._allowed_sent += 1

    def _on_packets(self, made: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                self._on_packet(made.recv(128))

    def _on_packet(self, packet: bytes) -> None:
        if packet[0] >> 4 == 4:
            protocol, src, dst, rest = packet[9], packet[12:16], packet[16:20], packet[(packet[0] & 15) * 4 :]
        else:
            protocol, src, dst, rest = packet[6], packet[8:24], packet[24:40], packet[40:]
        if len(rest) < 4:
            return
        source_port, port = struct.unpack_from("!HH", rest)
        track = self._tracks.get((src, dst, protocol, port))
        if track is None:
            return
        if track.is_denied:
            self._leaks.append(Leak(str(track.ends), time.monotonic()))
        else:
            track.arrived(source_port)

    def _sighting(self) -> Sighting:
        now_s = time.monotonic()
        for track in self._allowed:
            while track.in_flight and track.in_flight[0][1] < now_s - _FLIGHT_S:
                self._lost.append(Leak(str(track.ends), track.in_flight.popleft()[1]))
        lost, self._lost = self._lost, []
        self._lost_count += len(lost)
        return Sighting(
            at_s=now_s,
            denied_sent=self._denied_sent,
            allowed_sent=self._allowed_sent,
            lost=self._lost_count,
            lost_at=tuple(lost),
            leaks=tuple(self._leaks),
            refused=self._refused,
            connections=len(self._connections),
            broken=self._broken,
            longest_stall_s=self._longest_stall_s,
        )

    # Established connections

    def _beat(self, now_s: float) -> None:
        for connection in self._connections:
            if connection.socket is None:
                made = connection.open(now_s)
                self._selector.register(
                    made, selectors.EVENT_READ, lambda _, c=connection: self._on_answer(c)
                )
            elif connection.is_waiting and now_s - connection.asked_s > _STALL_S:
                self._break(connection)
            else:
                try:
                    connection.beat(now_s)
                except BlockingIOError:
                    continue
                except OSError:
                    self._break(connection)

    def _on_answer(self, connection: Connection) -> None:
        assert connection.socket is not None
        try:
            data = connection.socket.recv(16)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        now_s = time.monotonic()
        if not data:
            self._break(connection)
            return
        self._longest_stall_s = max(self._longest_stall_s, now_s - connection.asked_s)
        connection.is_waiting, connection.next_s = False, now_s + _BEAT_S

    def _break(self, connection: Connection) -> None:
        assert connection.socket is not None
        self._broken += 1
        self._selector.unregister(connection.socket)
        connection.socket.close()
        connection.socket = None

    def _on_connection(self, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            peer, _ = server.accept()
            peer.settimeout(0)
            self._selector.register(peer, selectors.EVENT_READ, self._on_byte)

    def _on_byte(self, peer: socket.socket) -> None:
        try:
            data = peer.recv(16)
            if data:
                peer.send(data)
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self._selector.unregister(peer)
        peer.close()


class _Pace:
    """Which flows are due: all in turn, at a rate that is never made up for."""

    def __init__(self, tracks: list[Track], per_s: float) -> None:
        self._tracks = tracks
        self._per_s = per_s
        self._next = 0
        self._at_s = time.monotonic()
        self._owed = 0.0

    def due(self, now_s: float) -> list[Track]:
        self._owed = min(_MOST_A_TICK, self._owed + (now_s - self._at_s) * self._per_s)
        self._at_s = now_s
        count, self._owed = int(self._owed), self._owed % 1
        chosen = [self._tracks[(self._next + number) % len(self._tracks)] for number in range(count)]
        self._next = (self._next + count) % len(self._tracks)
        return chosen


def enter_pod(name: str) -> None:
    """Move to a pod's network namespace. Raises: KernelError, OSError."""
    descriptor = os.open(NETNS_DIRECTORY / namespace_name(name), os.O_RDONLY | os.O_CLOEXEC)
    try:
        enter_namespace(descriptor, CLONE_NEWNET)
    finally:
        os.close(descriptor)


def _first_line() -> bytes:
    data = b""
    while not data.endswith(b"\n"):
        more = os.read(sys.stdin.fileno(), 65536)
        if not more:
            raise EOFError("no watch")
        data += more
    return data


def main(arguments: list[str]) -> int:
    """Watch the lab of a state directory."""
    holder = Holder.find(LabPaths(Path(arguments[0])))
    if holder is None:
        sys.stderr.write("the lab is not up\n")
        return 1
    watch = msgspec.json.decode(_first_line(), type=Watch)
    holder.enter()
    sentry = Sentry(watch)
    sys.stdout.buffer.write(b"ready\n")
    sys.stdout.buffer.flush()
    sentry.run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
