"""A node under real tables between wires without IP stacks: raw frames in, captured frames out.

The node is n1 of calico_engine.testing.worlds. The other end of each of its interfaces is in one more namespace, where
packet sockets inject what pods and the outside send and see what reaches them; raw sockets in the node see what reaches
the node itself. The sending thread stays on one CPU, whose queue of arrived packets is first in, first out: when a
frame sent last has come through, so has everything that will come.
"""

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path as FilePath
from typing import Any

import msgspec
import pytest
from tests.kernel.conftest import NodeNamespace

from calico_engine.calc.graph import CalcGraph
from calico_engine.evaluation import Flow
from calico_engine.kernel.namespaces import NetworkNamespace
from calico_engine.messages import Message
from calico_engine.model.resource import Resource, ResourceKey
from calico_engine.plugin.protocols import PluginContext, SyncStatus, Update
from calico_engine.ruleset.interpret import Path
from calico_engine.ruleset.state import PolicyForm
from calico_engine.settings import FelixSettings, Layout
from calico_engine.testing.cluster import Hop
from calico_engine.testing.messages import make_interface
from calico_engine.testing.packets import TOKEN_BYTES, Arrival, build_packet, read_packet, read_token
from calico_engine.testing.worlds import NODES, UPLINK, WORKLOADS
from calico_engine_ipset.plugin import IpsetDataplane
from calico_engine_iptables.plugin import make_dataplane as make_iptables
from calico_engine_nftables.config import NftablesConfig
from calico_engine_nftables.plugin import make_dataplane as make_nftables

NODE = "n1"
HOST = ""  # where a packet arrives that is for the node itself
LOCAL = {
    interface: (name, addresses) for name, (node, interface, *addresses) in WORKLOADS.items() if node == NODE
}
NODE_MAC, PEER_MAC = "ee:ee:ee:ee:ee:ee", "02:00:00:00:00:01"
ETHERTYPES = {4: 0x0800, 6: 0x86DD}
SENTINEL_TYPE = 0x88B5  # for local experiments, IEEE 802
PROTOCOLS = {4: (1, 6, 17, 47, 132), 6: (58, 6, 17, 47, 132)}
#: linux/if_packet.h
SOL_PACKET, PACKET_IGNORE_OUTGOING = 263, 23
ETH_P_ALL = 3
#: A frame crosses two queues, one into the node and one out of it; each sentinel empties one.
QUEUES = 2

SYSCTLS = (
    "net.ipv4.ip_forward=1",
    "net.ipv6.conf.all.forwarding=1",
    "net.ipv6.conf.default.accept_dad=0",
    "net.ipv6.conf.default.addr_gen_mode=1",
    "net.ipv4.conf.all.rp_filter=0",
    "net.ipv4.conf.default.rp_filter=0",
    "net.ipv4.conf.all.send_redirects=0",
    "net.ipv4.conf.default.send_redirects=0",
    "net.ipv4.icmp_echo_ignore_all=1",
    "net.ipv6.icmp.echo_ignore_all=1",
)


class Wires:
    """The far ends of the node's interfaces. Frames that the node sends wait in sockets until they are collected."""

    def __init__(self, node: Any) -> None:
        """Make links, addresses, routes and fixed neighbours. Only inside the node's namespace."""
        self._sh: Callable[[str], str] = lambda words: str(node.sh(*words.split()))
        self.namespace = NetworkNamespace.create()
        self._sh(f"sysctl -qw {' '.join(SYSCTLS)}")
        peers = f"/proc/{os.getpid()}/fd/{self.namespace.descriptor}"
        for interface in (UPLINK, *LOCAL):
            self._sh(f"ip link add {interface} type veth peer name {interface} netns {peers}")
            self._sh(f"ip link set {interface} address {NODE_MAC} up")
        self.namespace.run(self._set_up)
        self._route()
        self._taps = {interface: self._tap(interface) for interface in (UPLINK, *LOCAL)}
        self._first, self._last = self._tap("first"), self._tap("last")
        self._last.setblocking(True)
        self._last.settimeout(5.0)
        self._own = {4: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)}
        self._own[6] = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW)
        self._hosts = [
            (version, protocol, self._host_socket(version, protocol))
            for version, protocols in PROTOCOLS.items()
            for protocol in protocols
        ]

    def _set_up(self) -> None:
        """Set up the far ends, and the pair that sentinels cross."""
        self._sh("sysctl -qw net.ipv6.conf.default.disable_ipv6=1")
        self._sh("ip link add first type veth peer name last")
        for interface in (UPLINK, *LOCAL):
            self._sh(f"ip link set {interface} address {PEER_MAC} arp off up")
        for interface in ("first", "last"):
            self._sh(f"ip link set {interface} arp off up")

    def _route(self) -> None:
        permanent = f"lladdr {PEER_MAC} nud permanent"
        gateways = {4: "192.0.2.254", 6: "2001:db8::fe"}
        for version, own, other in zip((4, 6), NODES[NODE], NODES["n2"], strict=True):
            length, nodad = (24, "") if version == 4 else (64, " nodad")
            self._sh(f"ip -{version} address add {own}/{length} dev {UPLINK}{nodad}")
            for address in (gateways[version], other):
                self._sh(f"ip -{version} neighbour add {address} dev {UPLINK} {permanent}")
            self._sh(f"ip -{version} route add default via {gateways[version]} dev {UPLINK}")
        for interface, (_, addresses) in LOCAL.items():
            for version, address in zip((4, 6), addresses, strict=True):
                self._sh(f"ip -{version} route add {address} dev {interface}")
                self._sh(f"ip -{version} neighbour add {address} dev {interface} {permanent}")

    def _tap(self, interface: str) -> socket.socket:
        def make() -> socket.socket:
            tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            tap.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
            tap.bind((interface, ETH_P_ALL))
            tap.setblocking(False)
            return tap

        return self.namespace.run(make)

    def _host_socket(self, version: int, protocol: int) -> socket.socket:
        family = socket.AF_INET if version == 4 else socket.AF_INET6
        made = socket.socket(family, socket.SOCK_RAW, protocol)
        made.setblocking(False)
        return made

    def send(self, hop: Hop, packet: bytes, destination: str) -> None:
        """Send a packet into the node, or from it."""
        version = packet[0] >> 4
        if hop.path is Path.FROM_HOST:
            with contextlib.suppress(PermissionError):  # what a drop on the way out says
                self._own[version].sendto(packet, (destination, 0))
            return
        macs = bytes.fromhex((NODE_MAC + PEER_MAC).replace(":", ""))
        frame = macs + struct.pack("!H", ETHERTYPES[version]) + packet
        self._taps[hop.in_interface].send(frame)

    def settle(self) -> None:
        """Wait until everything sent so far is where it ends."""
        frame = b"\xff" * 12 + struct.pack("!H", SENTINEL_TYPE)
        for number in range(QUEUES):
            expected = frame + struct.pack("!Q", number) + bytes(46)
            self._first.send(expected)
            while self._last.recv(256) != expected:
                pass

    def collect(self) -> Iterator[tuple[str, Arrival]]:
        """Yield everything that arrived, with the interface it left by, or HOST."""
        for interface, tap in self._taps.items():
            for frame, _ in _received(tap):
                if frame[12:14] in [struct.pack("!H", number) for number in ETHERTYPES.values()]:
                    arrival = read_packet(frame[14:])
                    if arrival is not None:
                        yield interface, arrival
        for version, protocol, host in self._hosts:
            for data, sender in _received(host):
                if version == 4:
                    arrival = read_packet(data)
                    if arrival is not None:
                        yield HOST, arrival
                elif len(data) >= TOKEN_BYTES:
                    # Without its header; it came to the one IPv6 address that the node has.
                    source = str(sender[0]).partition("%")[0]
                    yield HOST, Arrival(source, NODES[NODE][1], protocol, read_token(data))

    def close(self) -> None:
        hosts = [host for _, _, host in self._hosts]
        for made in (*self._taps.values(), *self._own.values(), *hosts, self._first, self._last):
            made.close()
        self.namespace.close()


def _received(source: socket.socket) -> Iterator[tuple[bytes, Any]]:
    while True:
        try:
            yield source.recvfrom(2048)
        except BlockingIOError:
            return


#: What programs a node: iptables of one variant with ipset, or nftables with policies in one form.
SUBJECTS: dict[str, PolicyForm | None] = {
    "legacy": None,
    "nft": None,
    "nftables": PolicyForm.CLASSIFIED,
    "nftables-linear": PolicyForm.LINEAR,
}


class DifferentialNode:
    """Programs one generated world after another, and says what the kernel does with packets.

    `form` is how the native layout tells policies, None where the layout is iptables'.
    """

    def __init__(self, node: Any, subject: str, layout: Layout, lock_file: FilePath) -> None:
        self._node = node
        self.form = SUBJECTS[subject]
        self._base = {"iptables_lock_file_path": str(lock_file)}
        if self.form is None:
            self._base["iptables_backend"] = subject
        self._settings = self._complete(FelixSettings(layout=layout))
        self._wires: Wires | None = None
        self._sent = 0
        self._dataplanes: list[Any] = []
        self._known: dict[ResourceKey, Resource] = {}
        self._graph = CalcGraph(NODE)

    def _complete(self, settings: FelixSettings) -> FelixSettings:
        return msgspec.structs.replace(settings, **self._base)

    def run(self, scenario: Callable[[], Awaitable[None]]) -> None:
        """Run a scenario in the node's namespace, on one CPU."""

        async def main() -> None:
            os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
            self._wires = Wires(self._node)
            try:
                await scenario()
            finally:
                await self._close_dataplanes()
                self._wires.close()

        self._node.namespace.run(lambda: asyncio.run(main()))

    async def restart(self) -> None:
        """Forget everything but the kernel's state, as an engine that starts anew does."""
        await self._close_dataplanes()
        self._known = {}
        self._graph = CalcGraph(NODE, config=lambda _cluster, _node: self._settings)
        context = PluginContext(
            name="under-test",
            node=NODE,
            settings=self._settings,
            options={} if self.form is None else NftablesConfig(form=self.form),
            request_apply=self._node.requests.append,
            notify=self._node.notifications.append,
        )
        if self.form is None:
            self._dataplanes = [IpsetDataplane(context), make_iptables(context)]
        else:
            self._dataplanes = [make_nftables(context)]
        workloads = [make_interface(name) for name in LOCAL]
        self._hear(make_interface(UPLINK, *NODES[NODE]), *workloads)

    async def _close_dataplanes(self) -> None:
        for dataplane in self._dataplanes:
            await dataplane.close()

    def _hear(self, *messages: Message) -> None:
        for dataplane in self._dataplanes:
            dataplane.on_batch(self._node.batch(*messages))

    async def program(self, resources: Sequence[Resource], settings: FelixSettings) -> None:
        """Bring the kernel from whatever world it has to this one, by the engine's own steps."""
        self._settings = self._complete(settings)
        if not self._dataplanes:
            await self.restart()
        wanted = {resource.key: resource for resource in resources}
        gone = [Update(key, None) for key in self._known.keys() - wanted.keys()]
        changed = [Update(key, new) for key, new in wanted.items() if self._known.get(key) != new]
        self._known = wanted
        self._graph.on_updates([*gone, *changed])
        self._graph.on_status(SyncStatus.IN_SYNC)
        self._graph.reconfigure()
        batch = self._graph.flush()
        assert self._graph.rejected == []
        if batch is not None:
            self._hear(*batch.messages)
        for dataplane in self._dataplanes:
            await dataplane.apply()
        for dataplane in reversed(self._dataplanes):
            await dataplane.prune()
        assert self._dataplanes[-1].problems == {}

    def arrive(self, flows: Sequence[tuple[Flow, Hop]]) -> list[bool]:
        """Send the first packet of each flow through the node; return which came out where they should."""
        assert self._wires is not None
        arrived: dict[int, bool] = {}
        for group in apart(flows):
            self._forget_connections()
            sent: dict[int, tuple[Flow, Hop]] = {}
            for position in group:
                flow, hop = flows[position]
                self._sent += 1
                token = self._sent << 16 | position
                sent[token] = flow, hop
                arrived[position] = False
                self._wires.send(hop, build_packet(flow, token), flow.dst)
            self._wires.settle()
            for place, arrival in self._wires.collect():
                # A reply, or an error that quotes a packet, carries its token too, but other addresses.
                if arrival.token in sent:
                    flow, hop = sent[arrival.token]
                    if (arrival.src, arrival.dst) == (flow.src, flow.dst):
                        assert place == hop.out_interface, f"{flow} came out at {place or 'the node'}"
                        arrived[arrival.token & 0xFFFF] = True
        return [arrived[position] for position in range(len(flows))]

    def _forget_connections(self) -> None:
        for family in ("ipv4", "ipv6"):
            self._node.sh("conntrack", "-F", "-f", family)


def apart(flows: Sequence[tuple[Flow, Hop]]) -> list[list[int]]:
    """Return positions in groups within which no two packets belong to one connection, in either direction."""
    groups: list[list[int]] = []
    members: list[set[frozenset[tuple[str, int]]]] = []
    for position, (flow, _) in enumerate(flows):
        has_ports = flow.protocol in ("TCP", "UDP", "SCTP")
        ends = ((flow.src, flow.src_port if has_ports else 0), (flow.dst, flow.dst_port if has_ports else 0))
        key = frozenset((*ends, (str(flow.protocol), 0)))
        # Each echo request has an identifier of its own.
        free = (number for number, keys in enumerate(members) if key not in keys)
        number = next(free, len(groups)) if "ICMP" not in str(flow.protocol) else 0
        if number == len(groups):
            groups.append([])
            members.append(set())
        groups[number].append(position)
        members[number].add(key)
    return groups


@pytest.fixture
def make_differential_node(tmp_path: FilePath) -> Iterator[Callable[[str, Layout], DifferentialNode]]:
    """Return a factory: subject and layout of the static chains -> node, each in a namespace of its own."""
    with contextlib.ExitStack() as namespaces:

        def make(subject: str, layout: Layout) -> DifferentialNode:
            node = NodeNamespace(namespaces.enter_context(NetworkNamespace.create()))
            node.command("ip", "link", "set", "lo", "up")
            return DifferentialNode(node, subject, layout, tmp_path / "xtables.lock")

        yield make
