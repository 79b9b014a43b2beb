"""Manifests made to harm, given to the real program: named in `status`, never in the kernel, never fatal."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from calico_engine.kernel.namespaces import NetworkNamespace
from calico_engine.ruleset.names import policy_chain
from calico_engine.settings import Layout

pytestmark = [
    pytest.mark.kernel(tools=("iptables", "ipset"), features=("ipset", "iptables-legacy", "veth")),
    pytest.mark.component("ip", "iptables", "ipset"),
    pytest.mark.timeout(90),
]

API = "projectcalico.org/v3"
MARK = "evilmark"
PROGRAM = [sys.executable, "-W", "error", "-m", "calico_engine"]

# No field may take these.
HOSTILE = {
    "newline": f"x\n-A INPUT -j ACCEPT\n{MARK}",
    "double-quote": f'x" -j ACCEPT --comment "{MARK}',
    "option": f"-j ACCEPT {MARK}",
    "shell": f"$(touch {MARK})",
    "backtick": f"`touch {MARK}`;touch {MARK}",
    "unicode": f"{MARK}\u00e9\u202e\u2028",
    "control": f"{MARK}\x1b[2J\x07\r",
    "nul": f"{MARK}\x00x",
    "path": f"../../{MARK}",
    "long": MARK + "a" * 300,
}
# Words that mean something to the kernel or to iptables. Some fields may take some of them.
TRICKY = ("all", "default", "lo", "+", "cali+", "!", "-", ".", "..", "", "a/b", "0.0.0.0/0", "eth0:1", "null")

GOOD = f"""\
apiVersion: {API}
kind: WorkloadEndpoint
metadata: {{name: node--1-manual-web-eth0, namespace: default, labels: {{app: web}}}}
spec: {{orchestrator: manual, workload: web, endpoint: eth0, node: node-1, interfaceName: cali1,
        ipNetworks: [10.65.0.1/32]}}
---
apiVersion: {API}
kind: GlobalNetworkPolicy
metadata: {{name: web}}
spec: {{selector: app == 'web', ingress: [{{action: Allow, protocol: TCP, destination: {{ports: [%d]}}}}]}}
"""


def _resource(kind: str, name: str, spec: object = None, **metadata: object) -> dict[str, object]:
    return {"apiVersion": API, "kind": kind, "metadata": {"name": name, **metadata}, "spec": spec or {}}


def _endpoint(
    name: str, *, labels: object = None, namespace: str = "default", **spec: object
) -> dict[str, object]:
    own: dict[str, object] = {
        "orchestrator": "manual",
        "workload": name,
        "endpoint": "eth0",
        "node": "node-1",
    }
    own |= {"interfaceName": f"cali{name}", "ipNetworks": ["10.65.9.9/32"], **spec}
    return _resource(
        "WorkloadEndpoint", f"node--1-manual-{name}-eth0", own, namespace=namespace, labels=labels or {}
    )


def _policy(name: str, rule: object = None, **spec: object) -> dict[str, object]:
    rule = rule or {"action": "Allow"}
    return _resource("GlobalNetworkPolicy", name, {"selector": "all()", "ingress": [rule], **spec})


# Where a string can be written: the field's path in an error, and a resource with the string there. `n` is unique.
FIELDS: dict[str, tuple[str, Callable[[str, str], dict[str, object]]]] = {
    "interface": ("spec.interfaceName", lambda v, n: _endpoint(n, interfaceName=v)),
    "workload": ("spec.workload", lambda v, n: _endpoint(n, workload=v)),
    "endpoint": ("spec.endpoint", lambda v, n: _endpoint(n, endpoint=v)),
    "label": ("metadata.labels", lambda v, n: _endpoint(n, labels={"a": v})),
    "label-key": ("metadata.labels", lambda v, n: _endpoint(n, labels={v: "a"})),
    "namespace": ("metadata.namespace", lambda v, n: _endpoint(n, namespace=v)),
    "profile": ("spec.profiles[0]", lambda v, n: _endpoint(n, profiles=[v])),
    "mac": ("spec.mac", lambda v, n: _endpoint(n, mac=v)),
    "address": ("spec.ipNetworks[0]", lambda v, n: _endpoint(n, ipNetworks=[v])),
    "port-name": (
        "spec.ports[0].name",
        lambda v, n: _endpoint(n, ports=[{"name": v, "protocol": "TCP", "port": 1}]),
    ),
    "policy-name": ("metadata.name", lambda v, n: _policy(v)),
    "selector": ("spec.selector", lambda v, n: _policy(n, selector=f"a == {v}")),
    "tier": ("spec.tier", lambda v, n: _policy(n, tier=v)),
    "action": ("spec.ingress[0].action", lambda v, n: _policy(n, {"action": v})),
    "protocol": ("spec.ingress[0].protocol", lambda v, n: _policy(n, {"action": "Allow", "protocol": v})),
    "port": (
        "spec.ingress[0].destination.ports[0]",
        lambda v, n: _policy(n, {"action": "Allow", "protocol": "TCP", "destination": {"ports": [v]}}),
    ),
    "net": (
        "spec.ingress[0].source.nets[0]",
        lambda v, n: _policy(n, {"action": "Allow", "source": {"nets": [v]}}),
    ),
    "account": (
        "spec.ingress[0].source.serviceAccounts.names[0]",
        lambda v, n: _policy(n, {"action": "Allow", "source": {"serviceAccounts": {"names": [v]}}}),
    ),
    "annotation": (
        "spec.ingress[0].metadata.annotations",
        lambda v, n: _policy(n, {"action": "Allow", "metadata": {"annotations": {v: v}}}),
    ),
    "tier-name": ("metadata.name", lambda v, n: _resource("Tier", v, {"order": 1})),
    "profile-name": (
        "metadata.name",
        lambda v, n: _resource("Profile", v, {"ingress": [{"action": "Allow"}]}),
    ),
    "profile-label": (
        "spec.labelsToApply",
        lambda v, n: _resource("Profile", n, {"labelsToApply": {"z": v}}),
    ),
    "set-name": ("metadata.name", lambda v, n: _resource("GlobalNetworkSet", v, {"nets": ["192.0.2.0/24"]})),
    "set-net": ("spec.nets[0]", lambda v, n: _resource("GlobalNetworkSet", n, {"nets": [v]})),
    "host-interface": (
        "spec.interfaceName",
        lambda v, n: _resource("HostEndpoint", n, {"node": "node-1", "interfaceName": v}),
    ),
    "host-name": (
        "metadata.name",
        lambda v, n: _resource("HostEndpoint", v, {"node": "node-1", "interfaceName": "ethx"}),
    ),
    "node-name": ("metadata.name", lambda v, n: _resource("Node", v)),
    "node-address": ("spec.bgp.ipv4Address", lambda v, n: _resource("Node", n, {"bgp": {"ipv4Address": v}})),
    "pool-name": ("metadata.name", lambda v, n: _resource("IPPool", v, {"cidr": "10.99.0.0/16"})),
    "pool-cidr": ("spec.cidr", lambda v, n: _resource("IPPool", n, {"cidr": v})),
    "kind": ("kind", _resource),
    "field": ("spec", lambda v, n: _resource("Tier", n, {v: 1})),
}


class Machine:
    """A namespace with one workload, and the program in it."""

    def __init__(self, namespace: NetworkNamespace, folder: Path) -> None:
        self._namespace = namespace
        self.manifests = folder / "manifests"
        self.manifests.mkdir()
        self._run_dir = folder / "run"
        self.log = folder / "engine.log"
        self.write_port(80)
        self.sh("ip", "link", "set", "lo", "up")
        self.sh("ip", "link", "add", "cali1", "type", "veth", "peer", "name", "p1")
        self.sh("ip", "link", "set", "p1", "up")
        self.sh("ip", "link", "set", "cali1", "up")

    def write_port(self, port: int) -> None:
        new = self.manifests / ".new"
        new.write_text(GOOD % port)
        new.rename(self.manifests / "a-good.yaml")

    def write(self, name: str, document: object) -> str:
        (self.manifests / f"{name}.json").write_text(json.dumps(document))
        return f"{name}.json"

    def sh(self, *argv: str) -> str:
        def run() -> str:
            return subprocess.run(argv, text=True, capture_output=True, check=True).stdout

        return self._namespace.run(run)

    def kernel(self) -> str:
        """Everything that a name could have reached."""
        tables = [f"ip{family}tables-{kind}-save" for family in ("", "6") for kind in ("legacy", "nft")]
        commands = [[tool] for tool in tables] + [["ipset", "save"], ["ip", "route"], ["ip", "rule"]]
        return "".join(self.sh(*argv) for argv in commands)

    @contextmanager
    def engine(self) -> Iterator[subprocess.Popen[bytes]]:
        """A running engine that has applied everything; it must still run at the end."""
        with self._start() as process:
            try:
                argv = [*PROGRAM, "status", "--run-dir", str(self._run_dir)]
                self.until(lambda: subprocess.run(argv, capture_output=True).returncode == 0)
                yield process
                assert process.poll() is None
            finally:
                process.kill()

    def _start(self) -> subprocess.Popen[bytes]:
        arguments = ["run", "--node", "node-1", "--manifests", str(self.manifests)]
        argv = [*PROGRAM, *arguments, "--run-dir", str(self._run_dir)]

        def run() -> subprocess.Popen[bytes]:
            with self.log.open("wb") as log:
                return subprocess.Popen(argv, stdout=log, stderr=log, cwd=self.manifests.parent)

        return self._namespace.run(run)

    def status(self) -> str:
        argv = [*PROGRAM, "status", "--run-dir", str(self._run_dir)]
        return subprocess.run(argv, text=True, capture_output=True).stdout

    def status_data(self) -> Any:
        argv = [*PROGRAM, "status", "-o", "json", "--run-dir", str(self._run_dir)]
        return json.loads(subprocess.run(argv, text=True, capture_output=True).stdout)

    def until(self, condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
        end = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < end, (
                self.log.read_text(errors="replace")[-5000:] + self.status()[-3000:]
            )
            time.sleep(0.1)

    def assert_enforces(self) -> None:
        """The good resources are in the kernel, and a change of them still gets there."""
        assert "10.65.0.1 dev cali1" in self.sh("ip", "route")
        rules = self.sh("iptables-legacy-save", "-t", "filter")
        assert "-A cali-tw-dispatch" in rules or "cali-tw-cali1" in rules
        self.write_port(4711)
        self.until(lambda: "dports 4711" in self.sh("iptables-legacy-save", "-t", "filter"))


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with NetworkNamespace.create() as namespace:
        yield Machine(namespace, tmp_path)


def _assert_named_once(machine: Machine, expected: dict[str, str]) -> None:
    """Every file is in status, with its field, in text and as JSON; in text in one line that shows no control code."""
    lines = machine.status().splitlines()
    problems = list(machine.status_data()["problems"].values())
    for name, field in expected.items():
        told = [line for line in lines if line.startswith(f"problem: {name}:")]
        assert len(told) == 1, (name, told)
        assert field in told[0], (name, told)
        assert told[0].isprintable()
        assert any(text.startswith(f"{name}:") and field in text for text in problems), name


def test_hostile_strings_in_every_field(machine: Machine) -> None:
    expected = {}
    for field, (path, make) in FIELDS.items():
        for number, (kind, text) in enumerate(HOSTILE.items()):
            name = machine.write(f"{field}-{kind}", make(text, f"{field}{number}"))
            expected[name] = path
        for number, text in enumerate(TRICKY):
            machine.write(f"{field}-tricky-{number}", make(text, f"t{field}{number}"))
    # Where a text may be anything, it may not get further than the resource.
    for number, text in enumerate(HOSTILE.values()):
        quoted = text.replace('"', "")
        machine.write(
            f"free-{number}", _policy(f"free{number}", {"action": "Log"}, selector=f'a == "{quoted}"')
        )
    before = {
        name: machine.sh("cat", f"/proc/sys/net/{name}")
        for name in ("ipv4/conf/all/proxy_arp", "ipv4/conf/default/proxy_arp", "ipv4/conf/lo/route_localnet")
    }

    with machine.engine():
        _assert_named_once(machine, expected)
        kernel = machine.kernel()
        machine.assert_enforces()

    assert MARK not in kernel.lower()
    assert "-A INPUT -j ACCEPT" not in kernel
    assert {name: machine.sh("cat", f"/proc/sys/net/{name}") for name in before} == before
    assert not list(machine.manifests.parent.rglob(MARK))
    log = machine.log.read_text()
    assert "Traceback" not in log
    assert "\x1b[2J" not in log
    assert not any(line.startswith("-A INPUT") for line in log.splitlines())


def test_names_that_are_alike_when_shortened_stay_apart(machine: Machine) -> None:
    alike = [f"{'a' * 60}-{number}" for number in range(3)]
    for number, name in enumerate(alike):
        rule = {"action": "Allow", "protocol": "TCP", "destination": {"ports": [7000 + number]}}
        machine.write(f"alike{number}", _policy(name, rule))

    with machine.engine():
        rules = machine.sh("iptables-legacy-save", "-t", "filter").splitlines()

    from calico_engine.model.resource import ResourceKey

    for number, name in enumerate(alike):
        chain = policy_chain("cali-pi-", ResourceKey("GlobalNetworkPolicy", "", name), Layout.V3)
        own = [line for line in rules if line.startswith(f"-A {chain} ")]
        assert len([line for line in own if f"dports {7000 + number} " in line]) == 1
        assert not [line for line in own if "--dports 70" in line and f"dports {7000 + number} " not in line]


HALF_A_CHARACTER = json.dumps(_resource("Tier", "x", annotations={"a": "\ud83d"})).encode()
FILES: dict[str, tuple[bytes, str]] = {
    "truncated.yaml": (b"apiVersion: v1\nkind: policy\nmetadata: {name: x", "did not find expected"),
    "kind.yaml": (f"apiVersion: {API}\nkind: Surprise\nmetadata: {{name: x}}\n".encode(), "kind: unknown kind"),
    "binary.yaml": (bytes(range(256)) * 400, "not"),
    "deep.json": (b"[" * 100_000, "nest too deep"),
    "deep.yaml": (b"- " * 100_000, "nest deeper than"),
    "bomb.yaml": (
        b"a0: &a0 [x,x,x,x,x,x,x,x,x]\n"
        + b"".join(b"a%d: &a%d [%s]\n" % (i, i, b",".join([b"*a%d" % (i - 1)] * 9)) for i in range(1, 12)),
        "aliases expand to more than",
    ),
    "tag.yaml": (b"!!python/object/apply:os.system ['touch evilmark']\n", "is not allowed"),
    "scalar.yaml": (b"42", "must be a mapping"),
    "twice.yaml": (b"kind: Tier\nkind: Profile\n", "line 2: key 'kind' appears twice"),
    "utf-16.yaml": ("kind: Tier".encode("utf-16"), "line 1: not UTF-8"),
    "half.json": (HALF_A_CHARACTER, "no Unicode text"),
    "ten.yaml": (
        f"apiVersion: {API}\nkind: GlobalNetworkPolicy\nmetadata: {{name: ten}}\n".encode()
        + b'spec: {selector: "' + b"x" * 10_000_000 + b'"}\n', "spec.selector: is longer than",
    ),
}  # fmt: skip


def test_files_that_are_no_manifests(machine: Machine) -> None:
    expected = {name: sentence for name, (_, sentence) in FILES.items()}
    for name, (content, _) in FILES.items():
        (machine.manifests / name).write_bytes(content)
    folder = machine.manifests
    with (folder / "sparse.yaml").open("wb") as file:
        file.truncate(200_000_000)
    os.mkfifo(folder / "fifo.yaml")
    (folder / "loop.yaml").symlink_to("loop.yaml")
    (folder / "zero.yaml").symlink_to("/dev/zero")
    (folder / "again").symlink_to(".")
    (folder / "directory.yaml").mkdir()
    (folder / "directory.yaml" / "line\nbreak.yaml").write_text("42")
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff\xfe.yaml")).write_text("42")
    expected |= {
        "sparse.yaml": "200000000 bytes, more than max_file_bytes",
        "fifo.yaml": "not a regular file",
        "loop.yaml": "cannot be looked at",
        "zero.yaml": "the link leads out of the directory",
        "again": "is not followed",
        "directory.yaml/line\\nbreak.yaml": "must be a mapping",
    }
    sets = [
        _resource(
            "GlobalNetworkSet", f"set{i}", {"nets": [f"{20 + i}.{j // 256}.{j % 256}.0/24" for j in range(12_000)]},
            labels={"set": str(i)},
        )
        for i in range(50)
    ]  # fmt: skip
    machine.write("ten-megabytes-of-good", sets)
    rule = {"action": "Allow", "source": {"selector": "set == '7'"}}
    machine.write("uses", _policy("uses", rule))

    with machine.engine():
        text = machine.status()
        named = {name: sentence for name, sentence in expected.items() if "\\n" not in name}
        _assert_named_once(machine, named)
        assert "problem: directory.yaml/line\\nbreak.yaml: " in text
        assert "problem: \\udcff\\udcfe.yaml: " in text
        assert "Number of entries: 12000" in machine.sh("ipset", "list", "-terse")
        machine.assert_enforces()

    assert not list(machine.manifests.parent.rglob(MARK))
    assert "Traceback" not in machine.log.read_text(errors="replace")
