"""A running engine goes from iptables to nftables and back, in a namespace, with connections that must not notice."""

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Protocol

import pytest

from calico_engine.engine import Engine, load_profile
from calico_engine.engine.choice import Choice, ChoiceFile
from calico_engine.engine.status import SwitchPhase, SwitchStatus
from calico_engine.kernel.namespaces import NetworkNamespace
from calico_engine.model import dump
from calico_engine.model.policy import PolicyType
from calico_engine.testing.builders import (
    make_endpoint,
    make_global_policy,
    make_node,
    make_pool,
    make_profile,
    make_rule,
)

pytestmark = [
    pytest.mark.kernel(
        tools=("ip", "ipset", "iptables", "nft"),
        features=("veth", "ipset", "iptables-legacy", "iptables-nft", "nftables"),
    ),
    pytest.mark.timeout(90),
]

OLD, NEW = ("ipset", "iptables"), ("nftables",)
POD, OUTSIDE, NODE = ("10.65.0.2", "fd00:65::2"), ("192.0.2.2", "fd02::2"), ("192.0.2.1", "fd02::1")
#: What nft calls the tables that iptables-nft makes.
IPTABLES_TABLES = {
    f"{family} {table}" for family in ("ip", "ip6") for table in ("raw", "mangle", "nat", "filter")
}


class Node(Protocol):
    """The fixture `node` of tests/kernel/conftest.py."""

    def run(self, scenario: Callable[[], Awaitable[None]]) -> None: ...
    def sh(self, *argv: str, check: bool = True) -> str: ...
    def command(self, *argv: str) -> str: ...


class Machine:
    """A node with one pod, and one host outside that knows the way to it."""

    def __init__(self, node: Node, base: Path, backend: str) -> None:
        self.node = node
        self.backend = backend
        self.run_dir = base / "run"
        self.manifests = base / "manifests"
        self.manifests.mkdir()
        self.pod, self.outside = NetworkNamespace.create(), NetworkNamespace.create()
        node.run(self._connect)
        open_ = make_profile("open", egress=[make_rule()])
        web = make_endpoint(
            "web", ip=POD, labels={"app": "web"}, node="node-1", interface="caliweb", profiles=("open",)
        )
        pools = [
            make_pool("four", cidr="10.65.0.0/16", nat_outgoing=True),
            make_pool("six", cidr="fd00:65::/64", nat_outgoing=True),
        ]
        resources = (make_node("node-1", ipv4=f"{NODE[0]}/24"), open_, web, *pools)
        (self.manifests / "all.yaml").write_text("---\n".join(map(dump, resources)))
        self.allow(80)

    def allow(self, *ports: int) -> None:
        """Let everybody in to these ports of the pod, and to no other."""
        rules = [make_rule(protocol=protocol, ports=ports) for protocol in ("TCP", "UDP")]
        policy = make_global_policy(
            "web", selector="app == 'web'", types=(PolicyType.INGRESS,), ingress=rules
        )
        fresh = self.manifests / ".policy.new"
        fresh.write_text(dump(policy))
        fresh.rename(self.manifests / "policy.yaml")

    async def _connect(self) -> None:
        sh = self.node.sh
        for place, link, addresses, gateways in (
            (self.pod, "caliweb", (f"{POD[0]}/32", f"{POD[1]}/128"), ("169.254.1.1", "fe80::1")),
            (self.outside, "eth0", (f"{OUTSIDE[0]}/24", f"{OUTSIDE[1]}/64"), NODE),
        ):
            place.run(lambda: sh("sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0"))
            path = f"/proc/{os.getpid()}/fd/{place.descriptor}"
            sh("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", path)
            sh("ip", "link", "set", link, "address", "ee:ee:ee:ee:ee:ee", "up")
            place.run(partial(self._configure, addresses, gateways))
        sh("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
        for address, length in zip(NODE, (24, 64), strict=True):
            sh(
                "ip",
                "address",
                "add",
                f"{address}/{length}",
                "dev",
                "eth0",
                *(["nodad"] if ":" in address else []),
            )

    def _configure(self, addresses: tuple[str, ...], gateways: tuple[str, ...]) -> None:
        sh = self.node.sh
        sh("ip", "link", "set", "lo", "up")
        sh("ip", "link", "set", "eth0", "up")
        for address, gateway in zip(addresses, gateways, strict=True):
            sh("ip", "address", "add", address, "dev", "eth0")
            if ":" not in gateway and address.endswith("/32"):
                sh("ip", "route", "add", gateway, "dev", "eth0")
            beside = ("lladdr", "ee:ee:ee:ee:ee:ee", "dev", "eth0", "nud", "permanent")
            sh("ip", "neighbour", "replace", gateway, *beside)
            family = "-6" if ":" in gateway else "-4"
            sh("ip", family, "route", "add", "default", "via", gateway, "dev", "eth0")

    @asynccontextmanager
    async def engine(self, *overrides: str) -> AsyncIterator[Engine]:
        overrides = (
            f"options.file.path={self.manifests}",
            f"felix.IptablesBackend={self.backend}",
            *overrides,
        )
        engine = Engine(
            load_profile("standalone", overrides=overrides), "node-1", run_dir=self.run_dir, environ={}
        )
        task = asyncio.get_running_loop().create_task(engine.run())
        try:
            await engine.wait_applied(20)
            yield engine
        finally:
            engine.request_stop()
            await task

    # What the kernel has, read with the tools

    def iptables_lines(self) -> list[str]:
        tools = [f"ip{six}tables-{variant}-save" for six in ("", "6") for variant in ("legacy", "nft")]
        lines = [line for tool in tools for line in self.node.sh(tool).splitlines() if "cali" in line]
        return lines + [
            n for n in self.node.sh("ipset", "list", "-name").splitlines() if n.startswith("cali")
        ]

    def nftables_tables(self) -> set[str]:
        names = {line.removeprefix("table ") for line in self.node.sh("nft", "list", "tables").splitlines()}
        return names - IPTABLES_TABLES

    # Connections

    async def serve(
        self, place: NetworkNamespace, address: str, port: int, peers: list[str]
    ) -> asyncio.Server:
        """Echo what comes; note who connects."""

        async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            peers.append(writer.get_extra_info("peername")[0])
            while data := await reader.read(100):
                writer.write(data)
            writer.close()

        made = place.run(lambda: _bound(address, port))
        return await asyncio.start_server(echo, sock=made)

    async def connect(
        self, place: NetworkNamespace, address: str, port: int
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        made = place.run(lambda: socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET))
        made.setblocking(False)
        async with asyncio.timeout(5):
            await asyncio.get_running_loop().sock_connect(made, (address, port))
        return await asyncio.open_connection(sock=made)

    def close(self) -> None:
        self.pod.close()
        self.outside.close()


def _bound(address: str, port: int) -> socket.socket:
    made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind((address, port))
    return made


class Talk:
    """One connection that carries a byte there and back all the time, each within a second."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.answers = 0
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        while True:
            self._writer.write(b"x")
            async with asyncio.timeout(1.0):
                assert await self._reader.readexactly(1) == b"x"
            self.answers += 1
            await asyncio.sleep(0.002)

    async def end(self) -> int:
        """Return how many answers there were. Raises: what broke the connection."""
        done = self._task.done()
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        assert not done
        self._writer.close()
        return self.answers


class Knocking:
    """Datagrams to a port that policy denies, each from a new port; `arrived` must stay 0."""

    def __init__(self, machine: Machine, pod: str) -> None:
        family = socket.AF_INET6 if ":" in pod else socket.AF_INET
        self.sent = self.arrived = 0
        self._machine, self._pod = machine, pod
        self._server = machine.pod.run(lambda: socket.socket(family, socket.SOCK_DGRAM))
        self._server.setblocking(False)
        self._server.bind((pod, 81))
        self._family = family
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        senders = self._machine.outside.run(
            lambda: [socket.socket(self._family, socket.SOCK_DGRAM) for _ in range(400)]
        )
        try:
            while True:
                with contextlib.suppress(OSError):
                    senders[self.sent % len(senders)].sendto(b"?", (self._pod, 81))
                    self.sent += 1
                with contextlib.suppress(BlockingIOError):
                    self._server.recv(16)
                    self.arrived += 1
                await asyncio.sleep(0.002)
        finally:
            for sender in senders:
                sender.close()
            self._server.close()

    async def end(self) -> int:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        assert self.sent > 20
        return self.arrived


@pytest.fixture(params=["legacy", "nft"])
def machine(request: pytest.FixtureRequest, node: Node, tmp_path: Path) -> Iterator[Machine]:
    made = Machine(node, tmp_path, request.param)
    yield made
    made.close()


async def switched(engine: Engine, *names: str) -> SwitchStatus:
    engine.switcher.begin(names, 30)
    end_s = time.monotonic() + 40
    while engine.switcher.status is None or not engine.switcher.status.phase.is_last:
        assert time.monotonic() < end_s, engine.switcher.status
        await asyncio.sleep(0.01)
    return engine.switcher.status


def test_connections_go_on_and_what_is_denied_stays_denied(machine: Machine) -> None:
    async def scenario() -> None:
        peers: list[str] = []
        async with machine.engine() as engine:
            servers = [await machine.serve(machine.pod, address, 80, []) for address in POD]
            servers += [await machine.serve(machine.outside, address, 8080, peers) for address in OUTSIDE]
            talks = [Talk(*await machine.connect(machine.outside, address, 80)) for address in POD]
            talks += [Talk(*await machine.connect(machine.pod, address, 8080)) for address in OUTSIDE]
            knockings = [Knocking(machine, address) for address in POD]
            before = engine.status().endpoints

            for names in (NEW, OLD, NEW, OLD):
                ended = await switched(engine, *names)
                assert ended.phase is SwitchPhase.DONE, ended
                assert engine.status().endpoints == before
                assert bool(machine.nftables_tables()) == (names == NEW)
                assert bool(machine.iptables_lines()) == (names == OLD)
                for address, port, place in ((POD[0], 80, machine.outside), (OUTSIDE[0], 8080, machine.pod)):
                    _, writer = await machine.connect(place, address, port)
                    writer.close()

            answers = [await talk.end() for talk in talks]
            assert min(answers) > 100, answers
            assert [await knocking.end() for knocking in knockings] == [0, 0]
            assert not any((await engine.plan()).values())
            for server in servers:
                server.close()
        # Whichever dataplane has it done, pods go out by the node's address.
        assert set(peers) == set(NODE)
        assert ChoiceFile(machine.run_dir).read() == Choice()

    machine.node.run(scenario)


def test_what_knocks_is_heard_when_it_may_enter(machine: Machine) -> None:
    async def scenario() -> None:
        async with machine.engine() as engine:
            await switched(engine, *NEW)
            knockings = [Knocking(machine, address) for address in POD]
            machine.allow(80, 81)
            end_s = time.monotonic() + 10
            while not all(knocking.arrived for knocking in knockings):
                assert time.monotonic() < end_s
                await asyncio.sleep(0.02)
            assert min([await knocking.end() for knocking in knockings]) > 0

    machine.node.run(scenario)


def test_a_restart_comes_up_with_the_choice_and_writes_nothing(machine: Machine) -> None:
    async def scenario() -> None:
        async with machine.engine() as engine:
            await switched(engine, *NEW)
        left = machine.nftables_tables()

        async with machine.engine() as engine:
            writes = {plugin.name: plugin.writes for plugin in engine.status().plugins}

            assert engine.status().dataplane == NEW
            assert writes == {"nftables": 0, "endpoints": 0, "noencap": 0}
            assert machine.nftables_tables() == left
            assert machine.iptables_lines() == []

    machine.node.run(scenario)


def test_too_few_mark_bits_are_refused_before_anything_is_written(machine: Machine) -> None:
    async def scenario() -> None:
        async with machine.engine("felix.IptablesMarkMask=0x3f0000") as engine:
            ended = await switched(engine, *NEW)

            assert ended.phase is SwitchPhase.FAILED
            assert "mark bits" in ended.error
            assert machine.nftables_tables() == set()
            assert engine.status().dataplane == OLD
            assert not any((await engine.plan()).values())

    machine.node.run(scenario)


def test_a_firewall_that_counts_on_iptables_is_named_until_it_does_not(machine: Machine) -> None:
    iptables = f"iptables-{machine.backend}"

    async def scenario() -> None:
        machine.node.sh(iptables, "-w", "-P", "FORWARD", "DROP")
        async with machine.engine() as engine:
            server = await machine.serve(machine.pod, POD[0], 80, [])
            refused = await switched(engine, *NEW)
            _, writer = await machine.connect(machine.outside, POD[0], 80)
            writer.close()

            assert refused.phase is SwitchPhase.FAILED
            assert f"FORWARD of {iptables} has the policy DROP" in refused.error
            assert machine.nftables_tables() == set()

            for side in ("-i", "-o"):
                machine.node.sh(iptables, "-w", "-A", "FORWARD", side, "cali+", "-j", "ACCEPT")
            done = await switched(engine, *NEW)
            _, writer = await machine.connect(machine.outside, POD[0], 80)
            writer.close()
            server.close()

            assert done.phase is SwitchPhase.DONE, done

    machine.node.run(scenario)


def test_a_rehearsal_writes_nothing(machine: Machine) -> None:
    async def scenario() -> None:
        async with machine.engine() as engine:
            lines = await engine.switcher.rehearse(NEW)

            assert "dataplane:nftables" in lines[0]
            assert machine.nftables_tables() == set()

    machine.node.run(scenario)
