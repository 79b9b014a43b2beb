"""A node in a network namespace, programmed by the plugins as a profile would have it, for the benchmarks."""

from __future__ import annotations

import asyncio
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Coroutine, Sequence
from functools import partial
from pathlib import Path
from typing import Self, TypeVar

import msgspec

from bench.figures import WrongContentError
from bench.world import CLIENT, CLIENT_INTERFACE, SERVER, SERVER_INTERFACE
from calico_engine.kernel.namespaces import NetworkNamespace
from calico_engine.messages import Batch
from calico_engine.plugin.context import decode_options
from calico_engine.plugin.protocols import Dataplane, PluginContext
from calico_engine.plugin.registry import PluginRegistry
from calico_engine.settings import FelixSettings

T = TypeVar("T")

FAMILIES = (4,)
_NODE_MAC = "ee:ee:ee:ee:ee:ee"
_POD_MACS = {CLIENT: "02:00:00:00:00:02", SERVER: "02:00:00:00:00:03"}


class Stack(msgspec.Struct, frozen=True):
    """A choice of dataplane plugins, with the settings that it needs."""

    name: str
    dataplanes: tuple[str, ...]
    iptables_backend: str = "auto"
    options: dict[str, dict[str, object]] = {}


_IPSET: dict[str, dict[str, object]] = {"ipset": {"kernel_access": "netlink"}}
STACKS = {
    stack.name: stack
    for stack in (
        Stack("iptables-legacy", ("ipset", "iptables"), "legacy", _IPSET),
        Stack("iptables-nft", ("ipset", "iptables"), "nft", _IPSET),
        Stack("nftables", ("nftables",)),
        Stack("nftables linear", ("nftables",), options={"nftables": {"form": "linear"}}),
    )
}


def make_dataplanes(stack: Stack, lock_file: Path) -> list[Dataplane]:
    """Make a stack's plugins as the engine does, with nothing going on but what is asked of them."""
    registry = PluginRegistry()
    settings = FelixSettings(
        iptables_backend=stack.iptables_backend,
        iptables_lock_file_path=str(lock_file),
        iptables_post_write_check_interval_s=0.0,
        iptables_refresh_interval_s=0.0,
        ipsets_refresh_interval_s=0.0,
    )
    made = []
    for name in stack.dataplanes:
        registry.load("dataplane", name)
        config_type = registry.config_type("dataplane", name)
        context = PluginContext(
            name=name,
            node="bench",
            settings=settings,
            options=decode_options(name, stack.options.get(name, {}), config_type),
            families=FAMILIES,
            request_apply=lambda reason: None,
            notify=lambda note: None,
        )
        made.append(registry.make_dataplane(name, context))
    return made


class Node:
    """A namespace with a thread in it, in whose event loop the plugins of a stack run."""

    def __init__(self, stack: Stack | None = None) -> None:
        self.namespace = NetworkNamespace.create()
        self._loop = asyncio.new_event_loop()
        self._stack = stack
        self._directory = tempfile.TemporaryDirectory(prefix="ce-bench-")
        self.dataplanes: list[Dataplane] = []
        started = threading.Event()
        self._thread = threading.Thread(target=self.namespace.run, args=(lambda: self._work(started),))
        self._thread.start()
        started.wait()

    def _work(self, started: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.call_soon(started.set)
        self._loop.run_forever()

    def run(self, coroutine: Coroutine[None, None, T]) -> T:
        """Return what a coroutine returns, run in the namespace."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def sh(self, *words: str, stdin: str | bytes = b"") -> str:
        """Return what a program says, run in the namespace."""
        given = stdin.encode() if isinstance(stdin, str) else stdin
        environ = dict(os.environ, XTABLES_LOCKFILE=str(self.lock_file))

        def call() -> str:
            done = subprocess.run(words, input=given, capture_output=True, env=environ, check=False)
            if done.returncode != 0:
                raise RuntimeError(f"{' '.join(words)}: {done.stderr.decode()[-500:]}")
            return done.stdout.decode()

        return self.namespace.run(call)

    @property
    def lock_file(self) -> Path:
        return Path(self._directory.name, "xtables.lock")

    @property
    def path(self) -> str:
        """The namespace's file, for programs that this process starts."""
        return f"/proc/{os.getpid()}/fd/{self.namespace.descriptor}"

    async def hear(self, batch: Batch) -> None:
        for dataplane in self.dataplanes:
            dataplane.on_batch(batch)

    async def apply(self) -> int:
        """Bring the kernel to what was heard, by the engine's steps; return how many writes that took."""
        results = [await dataplane.apply() for dataplane in self.dataplanes]
        results += [await dataplane.prune() for dataplane in reversed(self.dataplanes)]
        return sum(result.writes for result in results)

    async def take_us(self, batch: Batch) -> float:
        """Hear a batch and apply it; return what that took, in microseconds."""
        started = time.perf_counter_ns()
        await self.hear(batch)
        await self.apply()
        return (time.perf_counter_ns() - started) / 1000

    async def _program(self, batch: Batch) -> None:
        assert self._stack is not None
        self.dataplanes = make_dataplanes(self._stack, self.lock_file)
        await self.hear(batch)
        await self.apply()
        if again := await self.apply():
            raise WrongContentError(f"{self._stack.name}: a second apply made {again} writes")
        for dataplane in self.dataplanes:
            if problems := getattr(dataplane, "problems", {}):
                raise WrongContentError(f"{self._stack.name}: {problems}")

    def program(self, batch: Batch) -> None:
        """Make the plugins, tell them a state, and apply it. Raises: WrongContentError for problems with it."""
        self.run(self._program(batch))

    async def _close_dataplanes(self) -> None:
        for dataplane in self.dataplanes:
            await dataplane.close()
        self.dataplanes = []

    def forget(self) -> None:
        """Close the plugins; the kernel's state stays."""
        self.run(self._close_dataplanes())

    def close(self) -> None:
        self.forget()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self.namespace.close()
        self._directory.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Wired(Node):
    """A node between a client and a server, each in a namespace of its own at the end of a veth pair."""

    def __init__(self, stack: Stack | None = None) -> None:
        super().__init__(stack)
        self.client, self.server = NetworkNamespace.create(), NetworkNamespace.create()
        self.sh("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv4.conf.all.send_redirects=0")
        ends = (
            (CLIENT_INTERFACE, self.client, CLIENT, SERVER),
            (SERVER_INTERFACE, self.server, SERVER, CLIENT),
        )
        for interface, namespace, own, other in ends:
            peer = f"/proc/{os.getpid()}/fd/{namespace.descriptor}"
            self._ip(f"link add {interface} type veth peer name eth0 netns {peer}")
            self._ip(f"link set {interface} address {_NODE_MAC} up")
            self._ip(f"route add {own} dev {interface}")
            self._ip(f"neighbour add {own} dev {interface} lladdr {_POD_MACS[own]} nud permanent")
            pod = (
                "link set lo up",
                f"link set eth0 address {_POD_MACS[own]} up",
                f"address add {own}/32 dev eth0",
                "route add default dev eth0",
                f"neighbour add {other} dev eth0 lladdr {_NODE_MAC} nud permanent",
            )
            namespace.run(partial(_ip_all, pod))

    def _ip(self, words: str) -> None:
        self.sh("ip", *words.split())

    def probe(self, program: Path, port: int, milliseconds: int, modes: Sequence[str]) -> dict[str, float]:
        """Return what bench/floor/packet_probe.c measures in each of its modes."""
        argv = [
            str(program),
            *(f"/proc/{os.getpid()}/fd/{n.descriptor}" for n in (self.client, self.server, self.namespace)),
            *(CLIENT, SERVER, str(port), str(max(os.sched_getaffinity(0))), str(milliseconds), *modes),
        ]
        done = subprocess.run(argv, text=True, capture_output=True, check=False)
        if done.returncode != 0:
            raise WrongContentError(
                f"{self._stack.name if self._stack else 'no rules'}: {done.stderr.strip()}"
            )
        return {mode: float(value) for mode, value in (line.split() for line in done.stdout.splitlines())}

    def close(self) -> None:
        super().close()
        self.client.close()
        self.server.close()


def _ip_all(lines: Sequence[str]) -> None:
    for line in lines:
        subprocess.run(["ip", *line.split()], check=True)
