"""The whole engine, profile `standalone`, in a namespace: manifests in, kernel objects out."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

import pytest

from calico_engine.engine import Engine, load_profile
from calico_engine.model import dump
from calico_engine.model.resource import Resource
from calico_engine.testing.builders import make_endpoint, make_global_policy, make_node, make_rule

pytestmark = pytest.mark.kernel(
    tools=("ip", "ipset", "iptables"), features=("veth", "ipset", "iptables-legacy")
)


class Node(Protocol):
    """The fixture `node` of tests/kernel/conftest.py."""

    def run(self, scenario: Callable[[], Awaitable[None]]) -> None: ...
    def sh(self, *argv: str, check: bool = True) -> str: ...
    def command(self, *argv: str) -> str: ...
    def add_veth(self, name: str, peer: str = "", *, up: bool = True) -> None: ...


class Machine:
    """A node with a directory of manifests and what its kernel shows."""

    def __init__(self, node: Node, base: Path) -> None:
        self.node = node
        self.run_dir = base / "run"
        self.manifests = base / "manifests"
        self.manifests.mkdir()
        node.run(self._connect)

    async def _connect(self) -> None:
        self.node.add_veth("caliweb")

    def write(self, name: str, *resources: Resource) -> None:
        new = self.manifests / f".{name}.new"
        new.write_text("---\n".join(dump(resource) for resource in resources))
        new.rename(self.manifests / f"{name}.yaml")

    def tables(self, family: str = "") -> str:
        """Every rule of every table in every spelling, without counters and comments of the tool."""
        tools = (f"ip{family}tables-legacy-save", f"ip{family}tables-nft-save")
        text = "".join(self.node.sh(tool, check=False) for tool in tools)
        return "\n".join(line.split(" [")[0] for line in text.splitlines() if line[:1] in "-*:")

    def sets(self) -> str:
        return self.node.sh("ipset", "list", "-name")

    def routes(self) -> str:
        return self.node.sh("ip", "-4", "route") + self.node.sh(
            "ip", "-6", "route", "show", "type", "unicast"
        )

    @asynccontextmanager
    async def engine(self, *overrides: str) -> AsyncIterator[Engine]:
        """Run an engine for the length of the block, once it has applied everything."""
        overrides = (f"options.file.path={self.manifests}", *overrides)
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


@pytest.fixture
def machine(node: Node, tmp_path: Path) -> Machine:
    made = Machine(node, tmp_path)
    made.write("base", make_node("node-1"), ENDPOINT, make_policy("allow-web"))
    return made


ENDPOINT = make_endpoint(
    "web", ip=["10.65.0.2", "fd00::2"], labels={"app": "web"}, node="node-1", interface="caliweb"
)


def make_policy(name: str) -> Resource:
    return make_global_policy(
        name, selector="app == 'web'", ingress=[make_rule(selector="app == 'web'", ports=[80])]
    )


async def until(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"not within {timeout_s:g} s"
        await asyncio.sleep(0.02)


def test_manifests_become_kernel_objects_and_go_again(machine: Machine) -> None:
    async def scenario() -> None:
        async with machine.engine() as engine:
            assert "10.65.0.2 dev caliweb" in machine.routes()
            assert "fd00::2 dev caliweb" in machine.routes()
            assert "allow-web" in machine.tables() or "cali-pi-" in machine.tables()
            assert "cali-tw-caliweb" in machine.tables("6")
            assert engine.status().endpoints == {"WorkloadEndpoint(default/web)": "up"}

            (machine.manifests / "base.yaml").unlink()
            await until(
                lambda: "10.65.0.2" not in machine.routes() and "cali-tw-caliweb" not in machine.tables()
            )

    machine.node.run(scenario)


def test_stopping_leaves_everything_and_a_restart_writes_nothing(machine: Machine) -> None:
    async def scenario() -> None:
        async with machine.engine():
            pass
        left = (machine.tables(), machine.tables("6"), machine.sets(), machine.routes())
        assert "cali-tw-caliweb" in left[0]

        async with machine.engine() as engine:
            writes = {plugin.name: plugin.writes for plugin in engine.status().plugins}

        assert writes == {"ipset": 0, "iptables": 0, "endpoints": 0, "noencap": 0}
        assert (machine.tables(), machine.tables("6"), machine.sets(), machine.routes()) == left

    machine.node.run(scenario)


# Only nftables tells who else writes; the older tables are looked at by interval.
@pytest.mark.parametrize(("backend", "interval"), [("nft", "none"), ("legacy", "1")])
def test_flushed_chains_come_back(machine: Machine, backend: str, interval: str) -> None:
    async def scenario() -> None:
        timers = (f"felix.IptablesRefreshInterval={interval}", "felix.IptablesPostWriteCheckIntervalSecs=0")
        async with machine.engine(f"felix.IptablesBackend={backend}", *timers) as engine:
            before = machine.tables()

            machine.node.sh(f"iptables-{backend}", "-w", "-F")
            assert machine.tables() != before

            await until(lambda: sorted(machine.tables().splitlines()) == sorted(before.splitlines()))
            await until(lambda: engine.metrics.value("calico_engine_drift_detected") >= 1)

    machine.node.run(scenario)


def test_a_lost_route_comes_back(machine: Machine) -> None:
    async def scenario() -> None:
        async with machine.engine():
            machine.node.sh("ip", "route", "del", "10.65.0.2")

            await until(lambda: "10.65.0.2 dev caliweb" in machine.routes())

    machine.node.run(scenario)


def test_nothing_is_written_while_there_is_no_datastore(machine: Machine) -> None:
    async def scenario() -> None:
        (machine.manifests / "base.yaml").unlink()
        machine.manifests.rmdir()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.0), machine.engine():
                pass

        assert "cali" not in machine.tables() + machine.sets() + machine.node.sh("ip", "route")

    machine.node.run(scenario)


def test_a_datastore_that_goes_away_leaves_the_dataplane(machine: Machine) -> None:
    async def scenario() -> None:
        async with machine.engine() as engine:
            before = (machine.tables(), machine.routes())
            machine.manifests.rename(machine.manifests.with_name("gone"))
            await until(lambda: engine.status().datastore != "in-sync")
            await engine.apply_now()

            assert (machine.tables(), machine.routes()) == before

    machine.node.run(scenario)


def test_an_interface_that_comes_later_is_connected(machine: Machine) -> None:
    late = make_endpoint("late", ip="10.65.0.3", node="node-1", interface="calilate")

    async def scenario() -> None:
        machine.write("late", late)
        async with machine.engine() as engine:
            assert engine.status().endpoints["WorkloadEndpoint(default/late)"] != "up"

            machine.node.add_veth("calilate")
            await until(lambda: "10.65.0.3 dev calilate" in machine.routes())
            await until(lambda: engine.status().endpoints["WorkloadEndpoint(default/late)"] == "up")

    machine.node.run(scenario)


def test_a_killed_engine_is_followed_by_one_that_finds_everything_its_own(machine: Machine) -> None:
    async def fresh() -> None:
        async with machine.engine():
            pass

    async def scenario() -> None:
        code = (
            "import asyncio, sys; from calico_engine.engine.daemon import make_engine, run_daemon;"
            "asyncio.run(run_daemon(make_engine('standalone', overrides=[f'options.file.path={sys.argv[1]}'],"
            " node='node-1', run_dir=sys.argv[2])))"
        )
        for delay_s in (0.8, 1.0, 1.2):
            child = subprocess.Popen(
                [sys.executable, "-c", code, str(machine.manifests), str(machine.run_dir)],
                stderr=subprocess.DEVNULL,
            )
            await asyncio.sleep(delay_s)
            os.kill(child.pid, signal.SIGKILL)
            child.wait()

        await fresh()
        after_kills = (machine.tables(), machine.tables("6"), machine.sets(), machine.routes())
        async with machine.engine() as engine:
            for member in reversed(list(engine.applier.members.values()) if engine.applier else []):
                await member.plugin.cleanup()
        await fresh()

        assert (machine.tables(), machine.tables("6"), machine.sets(), machine.routes()) == after_kills

    machine.node.run(scenario)
