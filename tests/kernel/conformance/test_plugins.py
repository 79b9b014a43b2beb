"""The built-in plugins that program a kernel keep the dataplane contract, in a namespace of their own."""

from __future__ import annotations

import asyncio
import ctypes
import re
import struct
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from tests.kernel.conftest import NodeNamespace

from calico_engine.kernel.namespaces import CAP_NET_ADMIN
from calico_engine.messages import Batch
from calico_engine.plugin import ApplyResult, Change, Dataplane, PluginContext
from calico_engine.ruleset.state import PolicyForm
from calico_engine.settings import FelixSettings
from calico_engine.testing.conformance.dataplane import DataplaneConformance, DataplaneHarness, Scenario
from calico_engine_ipset.plugin import IpsetDataplane
from calico_engine_iptables.plugin import make_dataplane
from calico_engine_nftables.config import NftablesConfig
from calico_engine_nftables.plugin import make_dataplane as make_nftables
from calico_engine_noencap.plugin import NoEncapRouting

pytestmark = pytest.mark.kernel(tools=("iptables", "ipset", "nft"), features=("ipset",))


class Together:
    """Several dataplanes as one, in the order a profile names them: rules need their sets."""

    def __init__(self, plugins: Sequence[Dataplane]) -> None:
        self._plugins = plugins

    def on_batch(self, batch: Batch, /) -> None:
        for plugin in self._plugins:
            plugin.on_batch(batch)

    def invalidate(self, reason: str, /) -> None:
        for plugin in self._plugins:
            plugin.invalidate(reason)

    async def apply(self) -> ApplyResult:
        return _sum([await plugin.apply() for plugin in self._plugins])

    async def prune(self) -> ApplyResult:
        return _sum([await plugin.prune() for plugin in reversed(self._plugins)])

    async def plan(self) -> Sequence[Change]:
        return [change for plugin in self._plugins for change in await plugin.plan()]

    def render(self) -> str:
        return "".join(plugin.render() for plugin in self._plugins)

    async def cleanup(self) -> int:
        return sum([await plugin.cleanup() for plugin in reversed(self._plugins)])

    async def close(self) -> None:
        for plugin in self._plugins:
            await plugin.close()


def _sum(results: Sequence[ApplyResult]) -> ApplyResult:
    return ApplyResult(
        plugin="together",
        writes=sum(result.writes for result in results),
        endpoint_status={key: status for result in results for key, status in result.endpoint_status.items()},
    )


@contextmanager
def without_net_admin() -> Iterator[None]:
    """Take CAP_NET_ADMIN from this thread's effective set; the kernel then refuses its netlink requests."""
    libc = ctypes.CDLL(None, use_errno=True)
    # _LINUX_CAPABILITY_VERSION_3, this thread; effective, permitted and inheritable, twice 32 bits.
    header = struct.pack("=Ii", 0x20080522, 0)
    before = ctypes.create_string_buffer(24)
    assert libc.capget(header, before) == 0
    sets = list(struct.unpack("=6I", before.raw))
    sets[0] &= ~(1 << CAP_NET_ADMIN)
    assert libc.capset(header, struct.pack("=6I", *sets)) == 0
    try:
        yield
    finally:
        assert libc.capset(header, before.raw) == 0


class NodeHarness:
    """Plugins in a network namespace; what they made is read with the tools."""

    def __init__(
        self,
        node: NodeNamespace,
        make: Callable[[PluginContext], Dataplane],
        read: Callable[[NodeNamespace], object],
        disturb: Sequence[str],
        settings: FelixSettings | None = None,
    ) -> None:
        self._node = node
        self._make = make
        self._read = read
        self._disturb = disturb
        self._settings = settings or FelixSettings()

    def run(self, scenario: Scenario) -> None:
        self._node.run(scenario)

    def make(self) -> Dataplane:
        return self._make(self._node.context(self._settings, node="node-1"))

    def outside(self) -> object:
        return self._read(self._node)

    def disturb(self) -> None:
        self._node.sh(*self._disturb)

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """The tools that write are in front of everybody's PATH, and fail; netlink lacks the capability."""
        # A thread keeps what its maker had: the loop's worker is made now, and not for good without.
        workers = ThreadPoolExecutor(max_workers=1)
        workers.submit(str).result()
        asyncio.get_running_loop().set_default_executor(workers)
        with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
            for stem in ("ipset", "iptables-legacy-restore", "iptables-nft-restore"):
                program = Path(folder, stem)
                program.write_text("#!/bin/sh\necho 'no memory' >&2\nexit 4\n")
                program.chmod(0o755)
            patch.setenv("PATH", folder, prepend=":")
            with without_net_admin():
                yield


def read_tables(variant: str) -> Callable[[NodeNamespace], object]:
    """Return what reads our rules, chain by chain, and our sets."""

    def read(node: NodeNamespace) -> object:
        chains: dict[str, list[str]] = {}
        for program in (f"iptables-{variant}-save", f"ip6tables-{variant}-save"):
            table = ""
            for line in node.sh(program).splitlines():
                words = line.split()
                if line.startswith("*"):
                    table = line
                elif line.startswith((":cali", "-A")) and "cali" in line:
                    chain = words[1] if line.startswith("-A") else words[0][1:]
                    chains.setdefault(f"{program} {table} {chain}", []).append(line.split(" [")[0])
        return {**chains, **({"sets": sets} if (sets := read_sets(node)) else {})}

    return read


def read_sets(node: NodeNamespace) -> list[str]:
    """Return our sets and their members; what the kernel chose itself (hash seeds and sizes) is left out."""
    lines = [line for line in node.sh("ipset", "save").splitlines() if " cali" in line]
    return sorted(re.sub(r" (hashsize|initval|bucketsize) \S+", "", line) for line in lines)


def read_routes(node: NodeNamespace) -> list[str]:
    return sorted(
        f"{family} {route['dst']} via {route.get('gateway')} dev {route['dev']}"
        for family in (4, 6)
        for route in node.ip(f"-{family} route show proto 80")
    )


@pytest.mark.parametrize("variant", ["legacy", "nft"])
class TestIpsetAndIptables(DataplaneConformance):
    @pytest.fixture
    def harness(self, node: NodeNamespace, variant: str) -> DataplaneHarness:
        def make(context: PluginContext) -> Dataplane:
            return Together([IpsetDataplane(context), make_dataplane(context)])

        settings = msgspec.structs.replace(FelixSettings(), iptables_backend=variant)
        flush = (f"iptables-{variant}", "-F", "cali-FORWARD")
        return NodeHarness(node, make, read_tables(variant), flush, settings)


@pytest.mark.parametrize("form", list(PolicyForm))
class TestNftables(DataplaneConformance):
    @pytest.fixture
    def harness(self, node: NodeNamespace, form: PolicyForm) -> DataplaneHarness:
        def make(context: PluginContext) -> Dataplane:
            return make_nftables(msgspec.structs.replace(context, options=NftablesConfig(form=form)))

        flush = ("nft", "flush", "chain", "ip", "calico", "filter-FORWARD")
        return NodeHarness(node, make, lambda node: node.ruleset(), flush)


class TestIpset(DataplaneConformance):
    @pytest.fixture
    def harness(self, node: NodeNamespace) -> DataplaneHarness:
        member = ("ipset", "add", "cali40s:conformance-web", "198.51.100.1")
        return NodeHarness(node, IpsetDataplane, read_sets, member)


class TestNoencap(DataplaneConformance):
    # A route that is refused is reported, not raised.
    test_refused_change_is_an_error_and_done_later = None  # type: ignore[assignment]  # how pytest is told

    @pytest.fixture
    def harness(self, node: NodeNamespace) -> DataplaneHarness:
        def links() -> None:
            # The index that the suite's messages give it.
            node.sh("ip", "link", "add", "eth0", "index", "1002", "type", "veth", "peer", "name", "peer0")
            node.sh("ip", "address", "add", "192.0.2.1/24", "dev", "eth0")
            node.sh("ip", "address", "add", "2001:db8::1/64", "dev", "eth0", "nodad")
            node.set_up("peer0", "eth0")

        node.namespace.run(links)
        away = ("ip", "route", "del", "10.65.1.0/26", "proto", "80")
        return NodeHarness(node, NoEncapRouting, read_routes, away)
