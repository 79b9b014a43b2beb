"""From a manifest changed on disk to the kernel changed: p50 and p99, on a lab of two nodes.

    python -m bench.latency [--changes N] [--policies N] [--json]

Two kinds of change are timed, each on both nodes at once, and the later node counts: `set`, a network set gains or
loses a member that a rule looks up; `rules`, a policy gains or loses a rule. The clock starts when the file has its
new content under its name, and stops when the kernel of the node holds it (bench/kernel_changes.py). `--policies`
makes that many other policies with as many network sets, so that the cost of what did not change shows. Changes are
0.3 s apart, so that none waits for the engine's throttle.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from bench import figures
from calico_engine.lab.cluster import Lab, LabWish
from calico_engine.model import load
from calico_engine.ruleset.ir import Family
from calico_engine.ruleset.names import set_name
from calico_engine.selector import parse
from calico_engine.settings import Layout

NODES = ("node1", "node2")
MEMBER = "203.0.113.77"
SELECTOR = "bench == 'peers'"
_TIMEOUT_S = 20.0
#: An engine applies ten times a second for long; a change may take an apply more than one, to look at the kernel again.
_APART_S = 0.3


def endpoints() -> str:
    return "---\n".join(
        f"""apiVersion: projectcalico.org/v3
kind: Node
metadata: {{name: {node}}}
spec: {{bgp: {{ipv4Address: 192.0.2.{index}/24}}}}
---
apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: {{name: {node}-k8s-pod-eth0, namespace: default, labels: {{app: web}}}}
spec:
  {{node: {node}, orchestrator: k8s, pod: pod, endpoint: eth0, interfaceName: cali{node}, ipNetworks: [10.0.0.{index}]}}
"""
        for index, node in enumerate(NODES, 1)
    )


def network_set(*, with_member: bool) -> str:
    nets = ["203.0.113.1", *([MEMBER] if with_member else [])]
    return f"""apiVersion: projectcalico.org/v3
kind: GlobalNetworkSet
metadata: {{name: peers, labels: {{bench: peers}}}}
spec: {{nets: {json.dumps(nets)}}}
"""


def policy(*, with_rule: bool) -> str:
    extra = "\n  - {action: Deny, protocol: UDP, destination: {ports: [9]}}" if with_rule else ""
    return f"""apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {{name: web}}
spec:
  selector: app == 'web'
  ingress:
  - {{action: Allow, protocol: TCP, source: {{selector: "{SELECTOR}"}}, destination: {{ports: [80]}}}}{extra}
"""


def others(count: int) -> str:
    return "---\n".join(
        f"""apiVersion: projectcalico.org/v3
kind: GlobalNetworkSet
metadata: {{name: other-{index}, labels: {{other: "{index}"}}}}
spec: {{nets: [198.51.{index % 250}.{index // 250}]}}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {{name: other-{index}}}
spec:
  selector: app == 'web'
  ingress: [{{action: Allow, protocol: TCP, source: {{selector: "other == '{index}'"}}}}]
"""
        for index in range(count)
    )


class Row(msgspec.Struct, frozen=True):
    """One kind of change."""

    change: str
    n: int
    p50_ms: float
    p99_ms: float


class Watcher:
    """A running bench.kernel_changes in one node; `next` waits for its next line."""

    def __init__(self, lab: Lab, node: str, *arguments: str) -> None:
        argv = [sys.executable, "-m", "bench.kernel_changes", *arguments]
        enter = [sys.executable, "-m", "calico_engine.lab.entering", str(lab.paths.root), node, "node"]
        # The program is found from here, wherever the node's own working directory is.
        environ = dict(os.environ, PYTHONPATH=str(Path(__file__).resolve().parent.parent))
        self._process = subprocess.Popen([*enter, *argv], stdout=subprocess.PIPE, env=environ, bufsize=0)
        self.next()

    def next(self) -> tuple[int, str]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().decode()
        if not line:
            raise RuntimeError(f"the watcher ended with {self._process.wait()}")
        stamp, word = line.split()
        return int(stamp), word

    def wait_for(self, word: str) -> int:
        while True:
            stamp, found = self.next()
            if found == word:
                return stamp

    def drain(self) -> None:
        """Throw away what was said so far, once nothing has been said for a while."""
        assert self._process.stdout is not None
        while select.select([self._process.stdout], [], [], 0.2)[0]:
            self.next()

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


def rest(lab: Lab, start_ns: int) -> None:
    """Let everything come to rest, and the next change come no sooner than the engine allows applies without end."""
    lab.settle(timeout_s=_TIMEOUT_S)
    time.sleep(max(0.0, start_ns / 1e9 + _APART_S - time.monotonic()))


def measure_set(lab: Lab, changes: int) -> list[float]:
    """Return one latency in ms per change of the set."""
    name = set_name(parse(SELECTOR).uid, Family.V4, Layout.V3)
    watchers = [Watcher(lab, node, "set", name, MEMBER) for node in NODES]
    found = []
    try:
        for number in range(changes):
            wanted = number % 2 == 0
            lab.write_manifest("peers.yaml", network_set(with_member=wanted))
            start = time.monotonic_ns()
            ends = [watcher.wait_for("present" if wanted else "absent") for watcher in watchers]
            found.append((max(ends) - start) / 1e6)
            rest(lab, start)
    finally:
        for watcher in watchers:
            watcher.stop()
    return found


def measure_rules(lab: Lab, changes: int) -> list[float]:
    """Return one latency in ms per change of the policy."""
    watchers = [Watcher(lab, node, "tables") for node in NODES]
    found = []
    try:
        for number in range(changes):
            for watcher in watchers:
                watcher.drain()
            lab.write_manifest("policy.yaml", policy(with_rule=number % 2 == 0))
            start = time.monotonic_ns()
            ends = [watcher.wait_for("changed") for watcher in watchers]
            found.append((max(ends) - start) / 1e6)
            rest(lab, start)
    finally:
        for watcher in watchers:
            watcher.stop()
    return found


def percentile(values: list[float], share: int) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[share - 1]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--changes", type=int, default=100)
    parser.add_argument("--policies", type=int, default=0, help="other policies that apply")
    parser.add_argument("--json", action="store_true")
    figures.add_arguments(parser)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ce-latency-") as base:
        manifests = Path(base, "manifests")
        manifests.mkdir()
        texts = {"nodes.yaml": endpoints(), "peers.yaml": network_set(with_member=False)}
        texts |= {"policy.yaml": policy(with_rule=False)}
        if options.policies:
            texts["others.yaml"] = others(options.policies)
        for name, text in texts.items():
            load(text)
            (manifests / name).write_text(text)
        lab = Lab("latency", Path(base, "labs"))
        wish = LabWish(manifests=manifests, overrides=("felix.IptablesBackend=nft",), ends_with_us=True)
        lab.up(wish)
        try:
            results = {
                "set": measure_set(lab, options.changes),
                "rules": measure_rules(lab, options.changes),
            }
        finally:
            lab.down()
    rows = [
        Row(kind, len(values), percentile(values, 50), percentile(values, 99))
        for kind, values in results.items()
    ]
    figures.write(
        options.figures,
        [
            row
            for kind, values in results.items()
            for row in figures.rows(
                f"latency {kind}, {options.policies} other policies",
                {"calico-engine, p50": values},
                unit="ms",
            )
        ],
    )
    if options.json:
        print(msgspec.json.encode(rows).decode())
        return
    print(f"manifest on disk to kernel, two nodes, {options.policies} other policies")
    for row in rows:
        print(f"{row.change:6}  n={row.n}  p50 {row.p50_ms:7.1f} ms  p99 {row.p99_ms:7.1f} ms")


if __name__ == "__main__":
    main()
