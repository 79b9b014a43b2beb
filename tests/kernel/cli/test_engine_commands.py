"""The commands that meet a kernel or a running engine: run, status, dump, plan, cleanup."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.kernel.conftest import NodeNamespace

pytestmark = pytest.mark.kernel(tools=("iptables", "ipset"), features=("ipset", "veth"))

PROGRAM = [sys.executable, "-W", "error", "-m", "calico_engine"]
MANIFEST = """\
apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: {{name: node--1-manual-web-eth0, namespace: default, labels: {{app: web}}}}
spec: {{orchestrator: manual, workload: web, endpoint: eth0, node: node-1, interfaceName: cali1,
        ipNetworks: [10.65.0.1/32], profiles: [open]}}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {{name: web}}
spec: {{selector: app == 'web', ingress: [{{action: Allow, protocol: TCP, destination: {{ports: [{port}]}}}}]}}
"""


class Machine:
    """A node in a namespace, with manifests and a run directory, on which the program is called."""

    def __init__(self, node: NodeNamespace, folder: Path) -> None:
        self.node = node
        self.manifests = folder / "manifests"
        self.run_dir = folder / "run"
        self.manifests.mkdir()
        self.log = folder / "engine.log"
        self.write_port(80)
        node.namespace.run(lambda: node.add_veth("cali1"))

    def write_port(self, port: int) -> None:
        (self.manifests / "web.yaml").write_text(MANIFEST.format(port=port))

    def call(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        """Run a command in the namespace; its exit code must be `code`."""

        def run() -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [*PROGRAM, *arguments], text=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=50
            )

        done = self.node.namespace.run(run)
        assert done.returncode == code, (
            f"{arguments}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        )
        return done

    def here(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        return self.call(*arguments, "--run-dir", str(self.run_dir), code=code)

    def answer(self, *arguments: str, code: int = 0) -> Any:
        return json.loads(self.here(*arguments, "-o", "json", code=code).stdout)

    def engine_arguments(self) -> list[str]:
        run_dir, manifests = str(self.run_dir), str(self.manifests)
        return ["run", "--node", "node-1", "--manifests", manifests, "--run-dir", run_dir]

    def start(self) -> subprocess.Popen[bytes]:
        def run() -> subprocess.Popen[bytes]:
            with self.log.open("wb") as log:
                return subprocess.Popen([*PROGRAM, *self.engine_arguments()], stdout=log, stderr=log)

        return self.node.namespace.run(run)

    def kernel(self) -> str:
        """Return our rules, sets and routes as the tools print them."""

        def read() -> str:
            commands = ("iptables-legacy-save", "iptables-nft-save", "ipset save", "ip route show proto 3")
            text = "".join(self.node.sh(*command.split()) for command in commands)
            return "\n".join(line for line in text.splitlines() if "cali" in line)

        return self.node.namespace.run(read)

    def until(self, condition: Callable[[], bool], timeout_s: float = 40.0) -> None:
        end = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.05)


@pytest.fixture
def machine(node: NodeNamespace, tmp_path: Path) -> Machine:
    return Machine(node, tmp_path)


@pytest.fixture
def engine(machine: Machine) -> Iterator[subprocess.Popen[bytes]]:
    """A running engine that has applied everything."""
    status = [*PROGRAM, "status", "--run-dir", str(machine.run_dir)]
    with machine.start() as process:
        try:
            machine.until(lambda: subprocess.run(status, capture_output=True).returncode == 0)
            yield process
        finally:
            process.kill()


def test_run_once_programs_the_kernel_and_ends(machine: Machine) -> None:
    machine.call(*machine.engine_arguments(), "--once")

    assert "--dports 80 " in machine.kernel()
    assert "10.65.0.1 dev cali1" in machine.kernel()
    assert not (machine.run_dir / "engine.sock").exists()


def test_run_once_that_does_not_get_ready_fails(machine: Machine) -> None:
    arguments = ["run", "--node", "node-1", "--run-dir", str(machine.run_dir), "--once", "--timeout", "1"]

    done = machine.call(*arguments, "--set", "options.file.path=/nonexistent", code=1)

    assert "error: not everything was applied within 1 s" in done.stderr
    assert machine.kernel() == ""


def test_status_of_a_running_engine(machine: Machine, engine: subprocess.Popen[bytes]) -> None:
    answer = machine.answer("status")

    assert (answer["node"], answer["profile"], answer["pid"]) == ("node-1", "standalone", engine.pid)
    assert (answer["live"], answer["ready"], answer["datastore"]) == (True, True, "in-sync")
    assert answer["endpoints"] == {"WorkloadEndpoint(default/node--1-manual-web-eth0)": "up"}
    assert [plugin["name"] for plugin in answer["plugins"]] == ["ipset", "iptables", "endpoints", "noencap"]
    assert "dataplane:iptables" in machine.here("status").stdout


def test_wrong_manifest_is_named_in_status_and_the_old_one_stays(
    machine: Machine, engine: subprocess.Popen[bytes]
) -> None:
    (machine.manifests / "web.yaml").write_text("kind: [")
    machine.until(lambda: "web.yaml" in machine.here("status").stdout)

    assert "line" in machine.answer("status")["problems"]["web.yaml"]
    assert "--dports 80 " in machine.kernel()
    machine.write_port(81)
    machine.until(lambda: "--dports 81 " in machine.kernel())
    assert machine.answer("status")["problems"] == {}


def test_dump_shows_what_is_in_force(machine: Machine, engine: subprocess.Popen[bytes]) -> None:
    state = machine.answer("dump", "state")["messages"]
    rules = machine.answer("dump", "rules")["plugins"]

    assert {"ActivePolicyUpdate", "WorkloadEndpointUpdate", "ConfigUpdate"} <= {m["message"] for m in state}
    assert "--dports 80 " in rules["dataplane:iptables"]
    assert "10.65.0.1" in machine.here("dump", "routes").stdout
    assert machine.answer("dump", "sets")["sets"] == {}
    assert machine.answer("dump", "config")["settings"]["layout"] == "v3"
    assert "--dports 80 " in machine.here("dump", "rules").stdout


def test_plan_of_an_engine_is_empty_until_somebody_interferes(
    machine: Machine, engine: subprocess.Popen[bytes]
) -> None:
    assert machine.here("plan").stdout == "no changes\n"
    variant = "legacy" if "cali" in machine.node.command("iptables-legacy-save") else "nft"
    os.kill(engine.pid, signal.SIGSTOP)  # or it repairs before we can ask
    machine.node.command(f"iptables-{variant}", "-F", "cali-FORWARD")

    arguments = ("plan", "--manifests", str(machine.manifests), "--node", "node-1")
    changes = machine.answer(*arguments)["plugins"]["dataplane:iptables"]
    os.kill(engine.pid, signal.SIGCONT)

    assert changes
    assert set(changes[0]) == {"action", "where", "text"}
    machine.until(lambda: machine.here("plan").stdout == "no changes\n")


def test_plan_without_an_engine_compares_with_the_kernel(machine: Machine) -> None:
    arguments = ("plan", "--manifests", str(machine.manifests), "--node", "node-1")

    before = machine.here(*arguments).stdout
    assert machine.kernel() == ""
    machine.call(*machine.engine_arguments(), "--once")
    after = machine.here(*arguments).stdout
    machine.write_port(81)
    changed = machine.here(*arguments).stdout

    assert "+ dataplane:iptables" in before
    assert after == "no changes\n"
    assert "~ dataplane:iptables ipv4 filter/cali-pi-gnp/web" in changed
    assert "--dports 80 " in machine.kernel()


def test_cleanup_asks_for_an_engine_to_stop_and_then_removes_everything(
    machine: Machine, engine: subprocess.Popen[bytes]
) -> None:
    refused = machine.here("cleanup", "--yes", code=1)
    assert "stop it first" in refused.stderr
    engine.terminate()
    assert engine.wait(10) == 0
    assert "--dports 80 " in machine.kernel()

    removed = machine.answer("cleanup", "--yes")

    assert removed["removed"]["dataplane:iptables"] > 0
    assert removed["removed"]["routing:endpoints"] == 1
    assert removed["errors"] == {}
    assert machine.kernel() == ""
    assert set(machine.answer("cleanup", "--yes")["removed"].values()) == {0}


def test_cleanup_after_a_kill_leaves_lock_files_alone(
    machine: Machine, engine: subprocess.Popen[bytes]
) -> None:
    engine.kill()
    engine.wait(10)
    assert (machine.run_dir / "engine.sock").exists()

    machine.answer("cleanup", "--yes")

    assert machine.kernel() == ""
    assert sorted(path.name for path in machine.run_dir.iterdir()) == [
        "engine.lock",
        "programs.lock",
        "state",
    ]


def test_second_engine_in_one_run_directory_is_refused(
    machine: Machine, engine: subprocess.Popen[bytes]
) -> None:
    done = machine.call(*machine.engine_arguments(), code=4)

    assert f"process {engine.pid}" in done.stderr


def test_check_finds_this_machine_able(machine: Machine) -> None:
    facts = machine.answer("check", "--profile", "standalone")

    assert {fact["plugin"] for fact in facts} >= {"engine", "dataplane:ipset", "dataplane:iptables"}
    assert all(fact["ok"] for fact in facts if fact["required"])
