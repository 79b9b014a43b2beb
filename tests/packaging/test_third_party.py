"""A third party's plugin beside the wheel, used as its users would: by the program, named in a profile."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ENVIRONMENT = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith(("FELIX_", "CALICO_ENGINE_", "PYTHON"))
}
FRONTEND = """\
apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata:
  name: node1-manual-frontend-eth0
  namespace: default
  labels: {role: frontend}
spec:
  node: node1
  orchestrator: manual
  workload: frontend
  endpoint: eth0
  interfaceName: cali1
  ipNetworks: [172.16.1.1/32, "fd00::1/128"]
"""
DATABASE = (
    FRONTEND.replace("node1", "node2")
    .replace("frontend", "database")
    .replace("cali1", "cali2")
    # other addresses
    .replace("172.16.1.1", "172.16.1.2")
    .replace("fd00::1", "fd00::2")
)
POLICY = """\
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: database, namespace: default}
spec:
  selector: role == 'database'
  ingress:
  - action: Allow
    protocol: TCP
    source: {selector: role == 'frontend'}
    destination: {ports: [3306]}
"""
ENDPOINT = "endpoint WorkloadEndpoint(default/node2-manual-database-eth0)"
POLICY_NAME = "policy NetworkPolicy(default/database)"


@pytest.fixture(scope="module")
def program(clean_python: Path) -> Path:
    return clean_python.parent / "calico-engine"


@pytest.fixture
def manifests(tmp_path: Path) -> Path:
    folder = tmp_path / "manifests"
    folder.mkdir()
    for name, text in (("frontend", FRONTEND), ("database", DATABASE), ("policy", POLICY)):
        (folder / f"{name}.yaml").write_text(text)
    return folder


def call(program: Path, *arguments: str | Path) -> Any:
    """Return the JSON that a command prints; it must succeed."""
    argv = [str(program), *map(str, arguments), "--output", "json"]
    done = subprocess.run(argv, capture_output=True, text=True, env=ENVIRONMENT, cwd=program.parent)
    assert done.returncode == 0, f"{argv}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return json.loads(done.stdout)


def engine_argv(program: Path, manifests: Path, run_dir: Path, *more: str) -> list[str]:
    """Return the command that runs node2's engine with the third party's profile."""
    words = ("--profile", "hello", "--node", "node2", "--manifests", manifests, "--run-dir", run_dir)
    return [str(program), "run", *map(str, words), *more]


def read(path: Path) -> dict[str, Any]:
    """Return what the node enforces; {} before the first apply. The plugin replaces the file in one step."""
    return json.loads(path.read_text()) if path.exists() else {}


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = 30.0) -> None:
    end_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end_s, f"not within {timeout_s:g} s: {what}"
        time.sleep(0.01)


@pytest.fixture
def engine(program: Path, manifests: Path, tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """A running engine of the profile `hello` on node2."""
    argv = engine_argv(program, manifests, tmp_path / "run")
    with subprocess.Popen(
        argv,
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        yield process
        process.kill()


def test_plugin_is_listed_with_its_distribution(program: Path) -> None:
    listed = {(info["family"], info["name"]): info for info in call(program, "plugins")}

    hello = listed["dataplane", "hello"]
    assert (hello["distribution"], hello["built_in"]) == ("calico-engine-hello", False)
    assert listed["dataplane", "iptables"]["built_in"]


def test_profile_it_brings_is_shown(program: Path) -> None:
    profile = call(program, "profiles", "show", "hello")

    assert (profile["datastore"], profile["dataplane"]) == ("file", ["hello"])
    assert profile["source"] == "dataplane:hello of calico-engine-hello"


def test_option_it_does_not_know_is_refused_by_name(program: Path, manifests: Path, tmp_path: Path) -> None:
    argv = engine_argv(program, manifests, tmp_path, "--once", "--set", "options.hello.pth=x")

    done = subprocess.run(argv, capture_output=True, text=True, env=ENVIRONMENT)

    assert done.returncode == 4
    assert "dataplane:hello: unknown key 'pth'" in done.stderr
    assert "'path'" in done.stderr
    assert "Traceback" not in done.stderr


def test_file_holds_what_the_node_enforces_and_follows_the_manifests(
    engine: "subprocess.Popen[str]", program: Path, manifests: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    path = run_dir / "hello.json"
    wait_until(lambda: ENDPOINT in read(path), "the first apply")

    enforced = read(path)

    # node1's endpoint is no business of node2 but as a member of the set that the policy's rule looks up.
    (set_name,) = set(enforced) - {ENDPOINT, POLICY_NAME}
    (rule,) = enforced[POLICY_NAME]["inbound"]
    assert rule == {
        "action": "Allow",
        "protocol": 6,
        "dst_ports": [{"first": 3306, "last": 3306}],
        "src_sets": [set_name.removeprefix("set ")],
    }
    assert enforced[set_name]["members"] == ["172.16.1.1", "fd00::1"]
    assert enforced[ENDPOINT]["interface_name"] == "cali2"
    (tier,) = enforced[ENDPOINT]["tiers"]
    assert [policy["name"] for policy in tier["ingress"]] == ["database"]

    (manifests / "frontend.yaml").write_text(FRONTEND.replace("172.16.1.1", "172.16.1.9"))
    wait_until(lambda: read(path)[set_name]["members"] == ["172.16.1.9", "fd00::1"], "the changed address")
    (manifests / "policy.yaml").unlink()
    wait_until(lambda: set(read(path)) == {ENDPOINT}, "policy and set gone")

    status = call(program, "status", "--run-dir", run_dir)
    assert [member["name"] for member in status["plugins"] if member["family"] == "dataplane"] == ["hello"]

    engine.send_signal(signal.SIGTERM)
    _, log = engine.communicate(timeout=20)
    assert engine.returncode == 0, log
    assert set(read(path)) == {ENDPOINT}
    cleaned = call(program, "cleanup", "--profile", "hello", "--run-dir", run_dir, "--yes")
    assert cleaned == {"removed": {"dataplane:hello": 1}, "errors": {}}
    assert not path.exists()


def test_restart_writes_only_what_changed_meanwhile(program: Path, manifests: Path, tmp_path: Path) -> None:
    argv = engine_argv(program, manifests, tmp_path / "run", "--once")
    logs = []
    for change in (None, "policy.yaml", None):
        if change:
            (manifests / change).unlink()
        done = subprocess.run(argv, capture_output=True, text=True, env=ENVIRONMENT)
        assert done.returncode == 0, done.stderr
        logs.append(done.stderr)

    assert ["file written" in log for log in logs] == [True, True, False]
    assert set(read(tmp_path / "run" / "hello.json")) == {ENDPOINT}
