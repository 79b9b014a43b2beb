"""The lab as its users see it: the command line, real engines, real packets. As root, and in a user namespace."""

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

from calico_engine.errors import CalicoEngineError, ConfigError, UnavailableError
from calico_engine.lab.cluster import Lab, LabWish
from calico_engine.lab.entering import Holder
from calico_engine.lab.prober import ProbeResult
from calico_engine.lab.probing import ProbeWish, run_probes

pytestmark = [pytest.mark.component("ip", "iptables", "ipset", "conntrack"), pytest.mark.timeout(120)]

OPEN, DENIED = ProbeResult.OPEN, ProbeResult.DENIED

DENY_CLIENT2 = """\
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: web-only-for-client1}
spec:
  selector: role == 'web'
  types: [Ingress]
  ingress:
  - {action: Allow, protocol: TCP, source: {selector: app == 'client1'}, destination: {ports: [80]}}
"""
NEW_POD = """\
apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: {name: node1-k8s-late-eth0, namespace: default, labels: {app: late}}
spec:
  node: node1
  orchestrator: k8s
  pod: late
  endpoint: eth0
  interfaceName: calilate
  ipNetworks: [10.65.9.9/32]
  profiles: [lab-open]
"""


def can_make_namespaces() -> bool:
    """Root can; others where the system lets them make user namespaces."""
    argv = ["unshare", "--user", "--map-root-user", "--net", "--mount", "--pid", "--fork", "true"]
    return os.geteuid() == 0 or subprocess.run(argv, capture_output=True, check=False).returncode == 0


def wait_until(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.01)


def processes_of(directory: Path) -> list[str]:
    """Return the command lines of processes that were started for labs in a directory."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if "calico_engine.lab.holder" in words and any(str(directory) in word for word in words):
            found.append(" ".join(words))
    return found


@pytest.fixture(scope="module", params=["plain", "user-namespace"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory for labs; with `user-namespace`, labs made there get by without root."""
    if not can_make_namespaces():
        pytest.skip("neither root nor user namespaces")
    directory = tmp_path_factory.mktemp("labs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CALICO_ENGINE_LAB_DIR", str(directory))
        patch.setenv("CALICO_ENGINE_LAB_USERNS", "1" if request.param == "user-namespace" else "0")

        yield directory

    assert processes_of(directory) == []


@pytest.fixture(scope="module")
def lab(base: Path) -> Iterator[Lab]:
    """Two nodes with a web and a client pod each, up for the whole module."""
    made = Lab("shared", base)
    made.up(LabWish(nodes=2))
    try:
        yield made
    finally:
        made.down()


@pytest.fixture
def edit(lab: Lab) -> Iterator[Callable[[str, str], None]]:
    """Write manifests into the lab; they are gone, and the lab has followed, at the end."""
    written: list[str] = []

    def write(name: str, text: str) -> None:
        written.append(name)
        lab.write_manifest(name, text)

    yield write

    for name in written:
        (lab.paths.manifests / name).unlink(missing_ok=True)
    lab.refresh()


def calico_engine(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "calico_engine.cli", *arguments], text=True, capture_output=True, check=False
    )


def results(lab: Lab, wish: ProbeWish) -> dict[tuple[str, str, str, int], ProbeResult]:
    outcomes = run_probes(lab, wish)
    assert [o for o in outcomes if not o.as_expected] == []
    return {(o.source, o.destination, o.protocol, o.family): o.result for o in outcomes}


def test_open_cluster_is_open_in_both_families_and_to_the_outside(lab: Lab) -> None:
    found = results(lab, ProbeWish(tcp=(80,), udp=(53,), icmp=True, with_outside=True))

    assert len(found) == 4 * 4 * 3 * 2  # pods, other places, protocols, families
    assert set(found.values()) == {OPEN}


def test_policy_is_followed_by_every_node(lab: Lab, edit: Any) -> None:
    edit("policy.yaml", DENY_CLIENT2)
    lab.settle()

    found = results(lab, ProbeWish(tcp=(80,), udp=(53,), icmp=True))

    into_web = {key for key in found if key[1] in ("web1", "web2")}
    opened = {("client1", web, "tcp", family) for web in ("web1", "web2") for family in (4, 6)}
    assert {key for key in into_web if found[key] is OPEN} == opened
    assert {found[key] for key in into_web - opened} == {DENIED}
    assert {found[key] for key in found.keys() - into_web} == {OPEN}


def test_port_where_nobody_listens_is_refused(lab: Lab) -> None:
    done = lab.run(
        "client1",
        [sys.executable, "-c", f"import socket; socket.create_connection(('{address(lab, 'web2')}', 81), 2)"],
    )

    assert "ConnectionRefusedError" in done.stderr


def address(lab: Lab, pod: str) -> str:
    return lab.plan().pod(pod).address(4)


def test_new_endpoint_gets_a_pod_and_a_removed_one_loses_it(lab: Lab, edit: Any) -> None:
    edit("late.yaml", NEW_POD)
    plan = lab.refresh()
    assert "late" in [pod.name for pod in plan.pods]
    assert results(lab, ProbeWish(pods=("late", "web2"), families=(4,)))["web2", "late", "tcp", 4] is OPEN

    (lab.paths.manifests / "late.yaml").unlink()
    lab.refresh()

    assert "10.65.9.9" not in lab.run("node1", ["ip", "route"]).stdout
    assert "calilate" not in lab.run("node1", ["ip", "link"]).stdout
    with pytest.raises(ConfigError, match="late"):
        lab.run("late", ["true"])


def test_killed_engine_leaves_the_node_working_and_can_be_started_again(lab: Lab) -> None:
    lab.holder({"op": "signal", "node": "node1", "signal": int(signal.SIGKILL)})
    wait_until(lambda: lab.engines()["node1"].exit_code == -signal.SIGKILL)

    assert results(lab, ProbeWish(pods=("web1", "web2")))["web2", "web1", "tcp", 4] is OPEN
    lab.holder({"op": "start", "node": "node1"})
    lab.settle()

    assert lab.engines()["node1"].ready


@pytest.mark.parametrize("broken", ["spec: [\n", DENY_CLIENT2.replace("role ==", "role = =")])
def test_policy_that_breaks_while_its_engine_is_stopped_is_enforced_anew(
    lab: Lab, edit: Any, broken: str
) -> None:
    edit("policy.yaml", DENY_CLIENT2)
    lab.settle()
    web = address(lab, "web1")
    lab.holder({"op": "signal", "node": "node1", "signal": int(signal.SIGTERM)})
    wait_until(lambda: lab.engines()["node1"].exit_code == 0)
    # As after a reboot: nothing in the kernel, and the file is not what it was.
    cleanup = [sys.executable, "-m", "calico_engine.cli", "cleanup", "--yes"]
    assert lab.run("node1", cleanup).returncode == 0
    lab.write_manifest("policy.yaml", broken)

    lab.holder({"op": "start", "node": "node1"})
    wait_until(lambda: lab.engines()["node1"].ready and lab.engines()["node1"].settled)

    # Nobody listens: who gets through is refused by the pod itself.
    assert connect(lab, "client1", web) == "ConnectionRefusedError"
    assert connect(lab, "client2", web) == "TimeoutError"
    status = lab.run("node1", [sys.executable, "-m", "calico_engine.cli", "status"]).stdout
    assert "policy.yaml: serving the version of 20" in status or "; serving the version of 20" in status


def connect(lab: Lab, pod: str, target: str) -> str:
    """Return the name of the error."""
    code = "import socket, sys\ntry: socket.create_connection((sys.argv[1], 80), 1.5)"
    code += "\nexcept OSError as error: print(type(error).__name__)"
    return lab.run(pod, [sys.executable, "-c", code, target]).stdout.strip()


def test_nodes_do_not_share_run_and_see_their_own_namespace(lab: Lab) -> None:
    for node in ("node1", "node2"):
        links = {link["ifname"] for link in json.loads(lab.run(node, ["ip", "-j", "link"]).stdout)}
        assert {name for name in links if name.startswith("cali")} == {
            pod.interface for pod in lab.plan().pods if pod.node == node
        }
        status = json.loads(
            lab.run(node, [sys.executable, "-m", "calico_engine.cli", "status", "-o", "json"]).stdout
        )
        assert status["node"] == node


def test_killed_exec_takes_its_program_along(lab: Lab) -> None:
    argv = [sys.executable, "-m", "calico_engine.cli", "lab", "exec", "--name", lab.name, "web1", "--"]
    process = subprocess.Popen(
        [*argv, "sh", "-c", "echo $$; exec sleep 1000"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    alive = ["sh", "-c", f"kill -0 {int(process.stdout.readline())}"]
    assert lab.run("fabric", alive).returncode == 0

    process.kill()
    process.wait()
    process.stdout.close()

    wait_until(lambda: lab.run("fabric", alive).returncode != 0)


def test_command_line(lab: Lab) -> None:
    name = ("--name", lab.name)

    assert calico_engine("lab", "exec", *name, "web1", "sh", "-c", "exit 7").returncode == 7
    assert calico_engine("lab", "exec", *name, "web1", "no-such-program").returncode == 127
    assert "10.65.1.1" in calico_engine("lab", "exec", *name, "web1", "--", "ip", "-br", "address").stdout
    graph = calico_engine("lab", "graph", *name).stdout
    assert all(word in graph for word in ("node1", "node2", "web1", "10.65.2.1", "celab-br"))
    assert calico_engine("lab", "graph", *name, "--dot").stdout.startswith("graph lab {")
    status = json.loads(calico_engine("lab", "status", *name, "-o", "json").stdout)
    assert status["up"]
    assert set(status["engines"]) == {"node1", "node2"}
    probe = calico_engine("lab", "probe", *name, "-o", "json", "--pod", "web1", "--pod", "client2")
    assert probe.returncode == 0
    assert {p["result"] for p in json.loads(probe.stdout)["probes"]} == {"open"}
    assert "engine started" in calico_engine("lab", "logs", *name, "node1").stdout
    assert lab.name in calico_engine("lab", "list").stdout


def test_probe_ends_with_1_when_the_kernel_does_otherwise(lab: Lab) -> None:
    pair = ("--pod", "web1", "--pod", "web2", "--family", "4")
    lab.run("web2", ["ip", "route", "add", "blackhole", f"{address(lab, 'web1')}/32"])
    try:
        probe = calico_engine("lab", "probe", "--name", lab.name, *pair)
    finally:
        lab.run("web2", ["ip", "route", "del", "blackhole", f"{address(lab, 'web1')}/32"])

    assert probe.returncode == 1
    assert "the manifests say allow" in probe.stdout


def test_second_up_is_refused_and_changes_nothing(lab: Lab) -> None:
    with pytest.raises(ConfigError, match="is up"):
        lab.up(LabWish(nodes=5))

    assert len(lab.plan().nodes) == 2


def test_place_that_is_not_there_is_named(lab: Lab) -> None:
    done = calico_engine("lab", "exec", "--name", lab.name, "web9", "true")

    assert done.returncode != 0
    assert "web9" in done.stderr
    assert "web1" in done.stderr


def test_death_of_the_holder_takes_everything_with_it(base: Path) -> None:
    doomed = Lab("doomed", base)
    doomed.up(LabWish(nodes=1))
    holder = Holder.find(doomed.paths)
    assert holder is not None
    inside = os.pidfd_open(holder.inner)

    os.kill(holder.outer, signal.SIGKILL)
    # The first process of the PID namespace ends last.
    wait_until(lambda: _has_ended(inside))
    os.close(inside)

    assert not doomed.is_up()
    with pytest.raises(UnavailableError):
        doomed.engines()
    assert doomed.down()
    assert not doomed.paths.root.exists()


def _has_ended(descriptor: int) -> bool:
    try:
        signal.pidfd_send_signal(descriptor, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.parametrize("when", ["lock", "holder.sock", "places/node2/engine.log"])
def test_down_removes_what_a_killed_up_left(base: Path, when: str) -> None:
    killed = Lab("killed", base)
    process = subprocess.Popen(
        [sys.executable, "-m", "calico_engine.cli", "lab", "up", "--nodes", "2", "--name", "killed"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_until((killed.paths.root / when).exists)
    process.kill()
    process.wait()

    assert killed.down()

    # What gave up for lack of the lock may take a moment to end.
    wait_until(lambda: processes_of(killed.paths.root) == [])
    assert not killed.paths.root.exists()


def test_engine_that_cannot_start_is_named_with_its_words(base: Path) -> None:
    broken = Lab("broken", base)
    try:
        with pytest.raises(CalicoEngineError, match="no-such-profile"):
            broken.up(LabWish(nodes=1, profile="no-such-profile"), timeout_s=30)
    finally:
        assert broken.down()


def test_manifests_that_are_wrong_are_refused_before_anything_is_made(base: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text(
        "apiVersion: projectcalico.org/v3\nkind: Policcy\nmetadata: {name: x}\n"
    )
    refused = Lab("refused", base)

    with pytest.raises(ConfigError, match=r"bad\.yaml"):
        refused.up(LabWish(manifests=tmp_path))

    assert not refused.is_up()
    refused.down()


CHROOT = """
root=$1; shift
for entry in /*; do
    if [ -L "$entry" ]; then cp -P "$entry" "$root"
    elif [ -d "$entry" ]; then mkdir "$root$entry" && mount --rbind "$entry" "$root$entry"
    fi
done
exec chroot "$root" "$@"
"""


@pytest.mark.kernel
def test_lab_within_a_chroot(tmp_path: Path) -> None:
    root, labs = tmp_path / "root", tmp_path / "labs"
    root.mkdir()
    lab = f"{sys.executable} -m calico_engine.cli lab"
    script = f"""
export CALICO_ENGINE_LAB_DIR={labs} CALICO_ENGINE_LAB_USERNS=0
{lab} up --nodes 1 && {lab} exec node1 -- ls {sys.executable} && {lab} probe; code=$?
{lab} down && exit $code
"""

    done = subprocess.run(
        ["unshare", "--mount", "sh", "-ec", CHROOT, "sh", root, "sh", "-c", script],
        text=True,
        capture_output=True,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert sys.executable in done.stdout.splitlines()
    assert processes_of(labs) == []


@pytest.mark.kernel(tools=("setpriv",))
def test_root_that_may_not_make_namespaces_makes_a_user_namespace(tmp_path: Path) -> None:
    labs = tmp_path / "labs"
    lab = f"{sys.executable} -m calico_engine.cli lab"
    script = f"{lab} up --nodes 1 && {lab} probe; code=$?; {lab} down && exit $code"

    done = subprocess.run(
        ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin", "sh", "-c", script],
        env={**os.environ, "CALICO_ENGINE_LAB_DIR": str(labs), "CALICO_ENGINE_LAB_USERNS": "0"},
        text=True,
        capture_output=True,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert processes_of(labs) == []


@pytest.mark.kernel
def test_machine_has_nothing_of_the_labs(base: Path) -> None:
    before = (
        sorted(Path("/run").iterdir()),
        subprocess.run(["ip", "link"], capture_output=True, check=True).stdout,
    )
    mounts = Path("/proc/self/mountinfo").read_text()

    other = Lab("other", base)
    other.up(LabWish(nodes=1))
    during = (
        sorted(Path("/run").iterdir()),
        subprocess.run(["ip", "link"], capture_output=True, check=True).stdout,
    )
    mounts_during = Path("/proc/self/mountinfo").read_text()
    other.down()

    assert during == before
    assert mounts_during == mounts
