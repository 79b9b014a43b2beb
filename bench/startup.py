"""From an engine's start to its first apply done, and what a restart costs, on one node in a network namespace.

    python -m bench.startup [--policies N] [--rules N] [--endpoints N] [--backend nft|legacy ...] [--rounds N] [--json]

A round starts an engine on an empty kernel, ends it, and starts another one on what the first left, which must write
nothing. `restore` is CPU time of the programs that the engine runs (iptables-restore, iptables-save, ipset): what
today's tools take at least. `own` is CPU time of the engine itself, without starting Python and importing modules,
which is `import`. The ratio of the two is the figure to watch: both parts feel a busy machine alike. The stages are
wall time from one mark to the next, and overlap where work is done in threads. `stall` is the longest time for which
the event loop answered nobody.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import inspect
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from bench import figures

NODE = "node1"
#: Looking more often would cost more than a tenth of what is measured.
_STALL_TICK_S = 0.005
_TIMEOUT_S = 300.0


class Load(msgspec.Struct, frozen=True):
    """How much of what is in the datastore, and how it is written."""

    policies: int = 1000
    rules: int = 2
    endpoints: int = 200
    one_file: bool = False


class Start(msgspec.Struct, kw_only=True):
    """What one start took."""

    wall_ms: float
    own_ms: float
    restore_ms: float
    import_ms: float
    stall_ms: float
    writes: int
    stages: dict[str, float]


class Round(msgspec.Struct, kw_only=True):
    """A start on an empty kernel, and one on what it left."""

    first: Start
    again: Start


# What is measured


def policy(index: int, rules: int) -> str:
    lines = "".join(
        f"  - {{action: Allow, protocol: TCP, source: {{nets: [10.{index % 250}.{number}.0/24]}}, "
        f"destination: {{ports: [{1000 + index}]}}}}\n"
        for number in range(rules)
    )
    return f"""apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {{name: policy-{index}}}
spec:
  selector: app == 'app-{index % 20}'
  ingress:
{lines}"""


def endpoint(index: int) -> str:
    return f"""apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: {{name: {NODE}-k8s-pod{index}-eth0, namespace: default, labels: {{app: app-{index % 20}}}}}
spec:
  {{node: {NODE}, orchestrator: k8s, pod: pod{index}, endpoint: eth0, interfaceName: {interface(index)},
  ipNetworks: [10.65.{index // 250}.{index % 250 + 1}]}}
"""


def interface(index: int) -> str:
    return f"cali{index:05x}"


def write_manifests(directory: Path, load: Load) -> None:
    texts = {f"endpoint-{index}": endpoint(index) for index in range(load.endpoints)}
    texts |= {f"policy-{index}": policy(index, load.rules) for index in range(load.policies)}
    if load.one_file:
        texts = {"everything": "---\n".join(texts.values())}
    for name, text in texts.items():
        (directory / f"{name}.yaml").write_text(text)


# One start: this part runs in a process of its own, in the namespace


class Stages:
    """Wall time spent in chosen functions of the engine."""

    def __init__(self) -> None:
        self.ms: dict[str, float] = {}

    def watch(self, owner: object, name: str, stage: str) -> None:
        original: Callable[..., Any] = getattr(owner, name)

        @functools.wraps(original)
        def timed(*args: object, **kwargs: object) -> object:
            start_s = time.perf_counter()
            try:
                return original(*args, **kwargs)
            finally:
                self._note(stage, start_s)

        @functools.wraps(original)
        async def timed_async(*args: object, **kwargs: object) -> object:
            start_s = time.perf_counter()
            try:
                return await original(*args, **kwargs)
            finally:
                self._note(stage, start_s)

        setattr(owner, name, timed_async if inspect.iscoroutinefunction(original) else timed)

    def _note(self, stage: str, start_s: float) -> None:
        self.ms[stage] = self.ms.get(stage, 0.0) + (time.perf_counter() - start_s) * 1000


def watch_stages() -> Stages:
    from calico_engine.engine.applier import Applier
    from calico_engine.engine.graph_runner import GraphRunner
    from calico_engine.kernel.plumbing import EndpointPlumber
    from calico_engine.tables.dataplane import TableDataplane
    from calico_engine_file.catalogue import Catalogue
    from calico_engine_ipset.plugin import IpsetDataplane
    from calico_engine_iptables.backend import IptablesBackend

    stages = Stages()
    stages.watch(Catalogue, "scan", "parse")
    stages.watch(Catalogue, "refresh", "parse")
    stages.watch(GraphRunner, "_feed", "graph")
    stages.watch(GraphRunner, "_flush", "graph")
    stages.watch(Applier, "on_batch", "hand over")
    stages.watch(IpsetDataplane, "apply", "sets")
    stages.watch(TableDataplane, "_compile", "compile")
    stages.watch(IptablesBackend, "render", "render")
    stages.watch(IptablesBackend, "read_back", "read back")
    stages.watch(IptablesBackend, "commit", "commit")
    stages.watch(EndpointPlumber, "apply", "plumbing")
    return stages


async def longest_stall(until: asyncio.Event) -> float:
    """Return for how many ms at most the loop did not come round."""
    longest_s = 0.0
    while not until.is_set():
        start_s = time.perf_counter()
        await asyncio.sleep(_STALL_TICK_S)
        longest_s = max(longest_s, time.perf_counter() - start_s - _STALL_TICK_S)
    return longest_s * 1000


async def start_engine(manifests: Path, run_dir: Path, backend: str, import_ms: float) -> Start:
    from calico_engine.engine import Engine, load_profile
    from calico_engine.engine.daemon import SWITCH_INTERVAL_S

    sys.setswitchinterval(SWITCH_INTERVAL_S)
    stages = watch_stages()
    overrides = (f"options.file.path={manifests}", f"felix.IptablesBackend={backend}")
    engine = Engine(load_profile("standalone", overrides=overrides), NODE, run_dir=run_dir, environ={})
    done = asyncio.Event()
    own_s, restore_s, start_s = time.process_time(), children_s(), time.perf_counter()
    running = asyncio.ensure_future(engine.run())
    stall = asyncio.ensure_future(longest_stall(done))
    await engine.wait_applied(_TIMEOUT_S)
    wall_s = time.perf_counter() - start_s
    own_s, restore_s = time.process_time() - own_s, children_s() - restore_s
    done.set()
    writes = sum(member.writes for member in engine.status().plugins)
    engine.request_stop()
    await running
    return Start(
        wall_ms=wall_s * 1000,
        own_ms=own_s * 1000,
        restore_ms=restore_s * 1000,
        import_ms=import_ms,
        stall_ms=await stall,
        writes=writes,
        stages=stages.ms,
    )


def children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run_start(manifests: str, run_dir: str, backend: str) -> None:
    import calico_engine.engine  # noqa: F401  # what follows is without importing it

    # A process's time so far: starting Python, and the modules of the engine.
    import_ms = time.process_time() * 1000
    found = asyncio.run(start_engine(Path(manifests), Path(run_dir), backend, import_ms))
    os.write(1, msgspec.json.encode(found))


# Rounds: this part makes namespaces and starts the former in them


def run_round(load: Load, backend: str) -> Round:
    with tempfile.TemporaryDirectory(prefix="ce-startup-") as base:
        manifests = Path(base, "manifests")
        manifests.mkdir()
        write_manifests(manifests, load)
        links = Path(base, "links")
        links.write_text(
            "link set lo up\n"
            + "".join(
                f"link add {interface(index)} type veth peer name peer{index}\n"
                f"link set {interface(index)} up\nlink set peer{index} up\n"
                for index in range(load.endpoints)
            )
        )
        start = f"{sys.executable} -m bench.startup --start {manifests} {base}/run {backend}"
        # Both starts in one namespace, which is gone when the shell ends.
        script = f"ip -batch {links} && {start} && echo && {start}"
        environ = dict(os.environ, XTABLES_LOCKFILE=f"{base}/xtables.lock")
        # An installed program is not compiled anew at each start.
        environ.pop("PYTHONDONTWRITEBYTECODE", None)
        out = subprocess.run(
            ["unshare", "--net", "sh", "-c", script], check=True, stdout=subprocess.PIPE, env=environ
        ).stdout
    first, again = (msgspec.json.decode(line, type=Start) for line in out.splitlines())
    return Round(first=first, again=again)


def median(starts: list[Start]) -> Start:
    """Return the medians of all figures; of the writes the most there were."""

    def of(field: str) -> float:
        values: list[float] = [getattr(start, field) for start in starts]
        return statistics.median(values)

    names = {name for start in starts for name in start.stages}
    return Start(
        wall_ms=of("wall_ms"),
        own_ms=of("own_ms"),
        restore_ms=of("restore_ms"),
        import_ms=of("import_ms"),
        stall_ms=of("stall_ms"),
        writes=max(start.writes for start in starts),
        stages={name: statistics.median(start.stages.get(name, 0.0) for start in starts) for name in names},
    )


def table_row(name: str, start: Start) -> str:
    stages = "  ".join(f"{stage} {ms:.0f}" for stage, ms in sorted(start.stages.items(), key=lambda s: -s[1]))
    ratio = start.own_ms / start.restore_ms
    return (
        f"{name:16} wall {start.wall_ms:6.0f}  own {start.own_ms:6.0f}  restore {start.restore_ms:6.0f}"
        f"  own/restore {ratio:5.2f}  import {start.import_ms:4.0f}  stall {start.stall_ms:4.0f}"
        f"  writes {start.writes:5}\n{'':16} {stages}"
    )


def rows_of(name: str, starts: list[Start]) -> list[figures.Figure]:
    """Return the rows of results.json: CPU time of the engine, over that of the programs which it runs."""
    own, programs = "calico-engine, own CPU", "the programs it runs, CPU"
    values = {own: [start.own_ms for start in starts], programs: [start.restore_ms for start in starts]}
    return figures.rows(f"startup {name}", values, peers={own: [programs]}, unit="ms")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--policies", type=int, default=1000)
    parser.add_argument("--rules", type=int, default=2)
    parser.add_argument("--endpoints", type=int, default=200)
    parser.add_argument("--one-file", action="store_true", help="all manifests in one file, not one each")
    parser.add_argument("--backend", choices=("nft", "legacy"), action="append")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    figures.add_arguments(parser)
    parser.add_argument("--start", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.start:
        run_start(*options.start)
        return
    load = Load(options.policies, options.rules, options.endpoints, options.one_file)
    if not options.json:
        print(
            f"{load.policies} policies of {load.rules} rules, {load.endpoints} endpoints; ms, medians of rounds"
        )
    results: dict[str, Start] = {}
    found: list[figures.Figure] = []
    for backend in options.backend or ("nft", "legacy"):
        rounds = [run_round(load, backend) for _ in range(options.rounds)]
        for name, starts in (
            ("first", [each.first for each in rounds]),
            ("restart", [each.again for each in rounds]),
        ):
            results[f"{backend} {name}"] = median(starts)
            found += rows_of(f"{backend} {name}", starts)
    figures.write(options.figures, found)
    if options.json:
        print(msgspec.json.encode(results).decode())
        return
    for name, start in results.items():
        print(table_row(name, start))


if __name__ == "__main__":
    main()
