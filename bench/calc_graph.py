"""Time and memory of the calculation graph at the sizes of the reference's calc_graph_bench_test.go.

    python -m bench.calc_graph [--scenario NAME ...] [--rounds N] [--json]

Every round runs in a process of its own: all resources are built first, then handed to a fresh graph in the
reference's order (policies, profiles, remote endpoints, network sets, local endpoints), then IN_SYNC and one flush.
Validation is off, as the reference's benchmark starts behind its validation. Printed per scenario: wall and CPU
seconds (median of the rounds; CPU is what counts on a busy machine), the CPU seconds of the first flush alone,
memory the graph added over its inputs (resident set size after, and at the peak), and what it said.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from bench import figures
from bench.figures import Figure
from calico_engine.calc import CalcGraph
from calico_engine.messages import ActivePolicyUpdate, IPSetUpdate, WorkloadEndpointUpdate
from calico_engine.model import (
    EntityRule,
    GlobalNetworkPolicy,
    GlobalNetworkSet,
    Metadata,
    Profile,
    Resource,
    ResourceKey,
    Rule,
    WorkloadEndpoint,
)
from calico_engine.model.endpoint import WorkloadEndpointSpec
from calico_engine.model.policy import Action, GlobalNetworkPolicySpec, NetworkSetSpec, ProfileSpec

NAMESPACES = 100
RULES_PER_POLICY = 5
MARKERS = [
    "FOO_BAR", "FOO_BAR", "BIFF_BOP", "calico/FizzBuzz", "calico/BoffBip", "calico/Bazzle", "calico/Razzle",
    "calico/DoopDeeDoo", "calico/SOME_LABEL", "calico/BORED_NOW", "MyMarkerLabel",
]  # fmt: skip
MARKERS += [prefix + marker for prefix in ("x", "yx") for marker in MARKERS[1:]]
NETWORK_SET_SIZES = (1, 1, 1, 1, 2, 3, 4, 5, 100, 1000)


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """How many of what; `delete_local` takes the local endpoints out again and flushes once more."""

    endpoints: int
    local: int = 200
    label_policies: int = 0
    network_sets: int = 0
    delete_local: bool = False


SCENARIOS = {
    "250k-endpoints-10k-label-policies": Scenario(endpoints=250_000, label_policies=10_000),
    "10k-endpoints-1k-netset-policies": Scenario(endpoints=10_000, network_sets=1_000),
    "10k-endpoints-10k-netset-policies": Scenario(endpoints=10_000, network_sets=10_000),
    "250k-endpoints-10k-label-policies-then-delete": Scenario(
        endpoints=250_000, label_policies=10_000, delete_local=True
    ),
    "10k-endpoints-1k-netset-policies-then-delete": Scenario(
        endpoints=10_000, network_sets=1_000, delete_local=True
    ),
    "10k-endpoints-10k-netset-policies-then-delete": Scenario(
        endpoints=10_000, network_sets=10_000, delete_local=True
    ),
}


class Said(msgspec.Struct, frozen=True, gc=False):
    """An update, as a datastore would hand it over."""

    key: ResourceKey
    resource: Resource | None
    error: str = ""
    checked: bool = False


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One round."""

    seconds: float
    cpu_seconds: float
    flush_cpu_seconds: float
    input_mib: float
    graph_mib: float
    peak_mib: float
    messages: int
    sets: int
    members: int
    policies: int
    endpoints: int


def _updates(resources: Iterator[Resource]) -> list[Said]:
    return [Said(resource.key, resource) for resource in resources]


def _addresses(first: int = 0x0A000001) -> Iterator[str]:
    number = first
    while True:
        yield f"{number >> 24}.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}/32"
        number += 1


def _endpoints(count: int, node: str, seed: int, addresses: Iterator[str]) -> Iterator[Resource]:
    for number in range(count):
        seed += 1
        labels = {f"one-in-{n}": f"value-{seed % n}" for n in (10, 11, 20, 30, 40)}
        labels[MARKERS[seed % len(MARKERS)]] = "true"
        labels["projectcalico.org/namespace"] = "default"
        labels["projectcalico.org/orchestrator"] = "k8s"
        yield WorkloadEndpoint(
            # Through JSON and back, so that every string is its own, as after reading a datastore.
            metadata=Metadata(
                name=f"{node}-k8s-wep--{number}-eth0",
                namespace="default",
                labels=json.loads(json.dumps(labels)),
            ),
            spec=WorkloadEndpointSpec(
                orchestrator="k8s",
                node=node,
                pod=f"wep-{number}",
                endpoint="eth0",
                interface_name=f"cali{number:011x}",
                ip_networks=(next(addresses),),
                profiles=(f"kns.namespace-{number % NAMESPACES}",),
            ),
        )


def _profiles() -> Iterator[Resource]:
    for number in range(NAMESPACES):
        name = f"namespace-{number}"
        labels = {"pcns.projectcalico.org/name": name}
        yield Profile(metadata=Metadata(name=f"kns.{name}"), spec=ProfileSpec(labels_to_apply=labels))


def _label_policies(count: int) -> Iterator[Resource]:
    for number in range(count):
        rules = [
            Rule(
                action=Action.ALLOW,
                source=EntityRule(selector=f"has({MARKERS[(number + rule) % len(MARKERS)]})"),
            )
            for rule in range(RULES_PER_POLICY)
        ]
        yield GlobalNetworkPolicy(
            metadata=Metadata(name=f"tag-pol-{number}"),
            spec=GlobalNetworkPolicySpec(
                tier="default", selector=f"has({MARKERS[number % len(MARKERS)]})", ingress=tuple(rules)
            ),
        )


def _network_sets(count: int) -> Iterator[Resource]:
    addresses = _addresses()
    for number in range(count):
        name = f"network-set-{number}"
        size = NETWORK_SET_SIZES[number % len(NETWORK_SET_SIZES)]
        yield GlobalNetworkSet(
            metadata=Metadata(name=name, labels={"network-set-name": name}),
            spec=NetworkSetSpec(nets=tuple([next(addresses) for _ in range(size)])),
        )
        rule = Rule(action=Action.ALLOW, source=EntityRule(selector=f"network-set-name == '{name}'"))
        yield GlobalNetworkPolicy(
            metadata=Metadata(name=f"network-set-pol-{number}"),
            spec=GlobalNetworkPolicySpec(tier="default", selector="all()", ingress=(rule,)),
        )


def _memory_mib(field: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    raise LookupError(field)


def run(scenario: Scenario) -> Result:
    """Run one round in this process."""
    addresses = _addresses()
    remote = _updates(_endpoints(scenario.endpoints, "remotehost", 0, addresses))
    local = _updates(_endpoints(scenario.local, "localhost", scenario.endpoints, addresses))
    batches = [
        _updates(_label_policies(scenario.label_policies)),
        _updates(_profiles()),
        remote,
        _updates(_network_sets(scenario.network_sets)),
        local,
    ]
    graph = CalcGraph("localhost", validate=None)
    gc.collect()
    before = _memory_mib("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")

    start, cpu_start = time.perf_counter(), time.process_time()
    for updates in batches:
        graph.on_updates(updates)
    graph.on_status("in-sync")
    flush_start = time.process_time()
    batch = graph.flush()
    flush_cpu_seconds = time.process_time() - flush_start
    messages = [] if batch is None else list(batch.messages)
    del batch
    said = len(messages)
    if scenario.delete_local:
        graph.on_updates([Said(update.key, None) for update in local])
        second = graph.flush()
        said += 0 if second is None else len(second.messages)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start

    peak = _memory_mib("VmHWM")
    sets = [message for message in messages if isinstance(message, IPSetUpdate)]
    return Result(
        seconds=seconds,
        cpu_seconds=cpu_seconds,
        flush_cpu_seconds=flush_cpu_seconds,
        input_mib=before,
        graph_mib=_memory_mib("VmRSS") - before,
        peak_mib=peak - before,
        messages=said,
        sets=len(sets),
        members=sum(len(message.members) for message in sets),
        policies=sum(isinstance(message, ActivePolicyUpdate) for message in messages),
        endpoints=sum(isinstance(message, WorkloadEndpointUpdate) for message in messages),
    )


def rows_of(name: str, results: Sequence[Result]) -> list[Figure]:
    """Return the rows of results.json: there is nothing to compare with in the same run."""
    values = {
        "CPU": ("s", [result.cpu_seconds for result in results]),
        "CPU of the first flush": ("s", [result.flush_cpu_seconds for result in results]),
        "memory at the peak": ("MiB", [result.peak_mib for result in results]),
    }
    return [
        row
        for subject, (unit, numbers) in values.items()
        for row in figures.rows(f"calc-graph {name}", {f"calico-engine, {subject}": numbers}, unit=unit)
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--scenario", action="append", choices=sorted(SCENARIOS), help="default: all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print JSON lines")
    figures.add_arguments(parser)
    parser.add_argument("--one-round", choices=sorted(SCENARIOS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one_round:
        sys.stdout.buffer.write(msgspec.json.encode(run(SCENARIOS[args.one_round])) + b"\n")
        return 0
    if not args.json:
        print(f"{'scenario':<46} {'wall s':>7} {'cpu s':>7} {'flush':>7} {'MiB':>7} {'peak':>7}  said")
    found: list[Figure] = []
    for name in args.scenario or SCENARIOS:
        command = [sys.executable, "-m", "bench.calc_graph", "--one-round", name]
        results = [
            msgspec.json.decode(subprocess.run(command, check=True, capture_output=True).stdout, type=Result)
            for _ in range(args.rounds)
        ]
        found += rows_of(name, results)
        middle = sorted(results, key=lambda result: result.cpu_seconds)[len(results) // 2]
        peak = statistics.median(result.peak_mib for result in results)
        if args.json:
            print(json.dumps({"scenario": name, **msgspec.to_builtins(middle)}))
        else:
            print(
                f"{name:<46} {middle.seconds:7.2f} {middle.cpu_seconds:7.2f} {middle.flush_cpu_seconds:7.2f}"
                f" {middle.graph_mib:7.0f} {peak:7.0f}  {middle.messages} messages, {middle.sets} sets,"
                f" {middle.members} members, {middle.policies} policies, {middle.endpoints} endpoints"
            )
    figures.write(args.figures, found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
