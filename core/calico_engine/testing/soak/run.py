# ruff: noqa: S311  # random on purpose, and repeatable
"""The soak run: kill an engine, start it again, see that the node is as a fresh one's, many times; then clean up."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import msgspec

from calico_engine.errors import CalicoEngineError, UnavailableError
from calico_engine.lab.cluster import Lab, LabWish
from calico_engine.lab.control import engine_state
from calico_engine.lab.probing import ProbeWish, run_probes
from calico_engine.testing.soak.kernel import describe_differences, read_node
from calico_engine.testing.soak.killer import (
    EngineProcess,
    Moment,
    Victims,
    wait_for_moment,
    wait_until_dead,
)
from calico_engine.testing.soak.post import SentryPost, sentry_on
from calico_engine.testing.soak.report import Kill, SoakReport
from calico_engine.testing.soak.sentry import Sighting, Watch
from calico_engine.testing.soak.world import ALLOWED, DENIED, FLIPPING_PORT, NODES, OPEN_PORT, World, pod_name

PROFILE = "standalone"
_SETTLE_S = 60.0
_POLL_S = 0.05
#: iptables-nft lets go of sets a little after it has returned.
_CONVERGE_S = 3.0
_MOST_DIFFERENCES = 20
#: Lock files stay (engine/run_lock.py), that of iptables too; and a lab's nodes have their state directory in /run.
_FILES_LEFT = frozenset({"calico/engine.lock", "calico/programs.lock", "xtables.lock"})
_STATE_DIRECTORY = "calico-engine"
_FOREIGN = """
set -e
for tables in iptables-{backend} ip6tables-{backend}; do
    $tables --wait -N somebody
    $tables --wait -A somebody -m comment --comment "not Calico's" -j RETURN
    $tables --wait -A FORWARD -m comment --comment "not Calico's" -j somebody
done
ipset create somebody hash:ip
ipset add somebody 192.0.2.77
"""

Progress = Callable[[str], None]


class SoakWish(msgspec.Struct, frozen=True, kw_only=True):
    """How much of what. `base` is a directory for the labs; engines' logs are copied to `logs`."""

    kills: int
    seed: int
    backend: str
    base: Path
    compare_every: int = 10
    logs: Path | None = None
    denied_per_s: float = 600.0
    allowed_per_s: float = 60.0


def run_soak(wish: SoakWish, *, progress: Progress = lambda _text: None) -> SoakReport:
    """Do it and return what was found. Raises: CalicoEngineError when the lab itself cannot be had."""
    soak = Soak(wish, progress)
    started_s = time.monotonic()
    try:
        with soak.lab_up():
            with soak.sentry_on_duty():
                soak.kill_many()
                soak.report.sighting = soak.look()
            soak.check_cleanup()
    finally:
        soak.report.duration_s = time.monotonic() - started_s
    return soak.report


class Soak:
    """One run on one lab of two nodes. `DEED` is what is done again and again."""

    DEED = "kill"

    def __init__(self, wish: SoakWish, progress: Progress) -> None:
        self.report = SoakReport(backend=wish.backend, seed=wish.seed)
        self._wish = wish
        self._progress = progress
        self._random = Random(wish.seed)
        self._world = World(Random(wish.seed + 1))
        self._lab = Lab(f"soak-{wish.backend}-{os.getpid()}", wish.base)
        self._fresh = Lab(f"fresh-{wish.backend}-{os.getpid()}", wish.base)
        self._post: SentryPost | None = None
        self._writing = threading.Lock()
        self._stopped = threading.Event()
        self._leaks_told = 0
        self._foreign: dict[str, dict[str, tuple[str, ...]]] = {}

    # Set-up

    @contextmanager
    def lab_up(self) -> Iterator[None]:
        self._progress("building the lab")
        with tempfile.TemporaryDirectory() as directory:
            for name, text in self._world.first().items():
                (Path(directory) / name).write_bytes(text)
            try:
                self._up(self._lab, Path(directory))
                for node in NODES:
                    self._run(node, "sh", "-c", _FOREIGN.format(backend=self._wish.backend))
                    self._foreign[node] = _not_ours(read_node(self._lab, node, self._wish.backend))
                    # Theirs went behind the rules that we append; legacy tables tell nobody of it.
                    self._lab.engine(node, "/apply", method="POST")
                yield
            finally:
                self._copy_logs()
                self._lab.down()

    def _copy_logs(self) -> None:
        for node in NODES if self._wish.logs else ():
            assert self._wish.logs is not None
            self._wish.logs.mkdir(parents=True, exist_ok=True)
            shutil.copy(
                self._lab.paths.engine_log(node), self._wish.logs / f"{self._wish.backend}-{node}.log"
            )

    def _up(self, lab: Lab, manifests: Path) -> None:
        lab.up(
            LabWish(
                manifests=manifests,
                profile=PROFILE,
                overrides=(f"felix.IptablesBackend={self._wish.backend}",),
                ends_with_us=True,
            ),
            timeout_s=_SETTLE_S * 2,
        )

    @contextmanager
    def sentry_on_duty(self) -> Iterator[None]:
        """Have packets sent and manifests rewritten until the end of the block."""
        watch = Watch(
            denied=DENIED,
            allowed=ALLOWED,
            denied_per_s=self._wish.denied_per_s,
            allowed_per_s=self._wish.allowed_per_s,
            connections=tuple(ends for ends in ALLOWED if ends.protocol == "tcp" and ends.port == OPEN_PORT),
        )
        writer = threading.Thread(target=self._rewrite)
        with sentry_on(self._lab, watch) as self._post:
            writer.start()
            try:
                yield
            finally:
                self._stopped.set()
                writer.join()

    # Manifests

    def _rewrite(self) -> None:
        random = Random(self._wish.seed + 2)
        while not self._stopped.wait(random.uniform(0.1, 0.8)):
            with self._writing:
                self._write_version()

    def _write_version(self) -> None:
        for name, text in self._world.change().items():
            self._lab.write_manifest(name, text.decode())
        self.report.versions += 1

    # Killing

    def kill_many(self) -> None:
        """Kill as often as wished, each followed by a start; whole chains of kills while starting are checked once."""
        moment = self._draw_moment()
        node = self._random.choice(NODES)
        for number in range(1, self._wish.kills + 1):
            self._kill(number, node, moment)
            moment = self._draw_moment()
            last = number == self._wish.kills
            self._stopped.wait(self._random.uniform(0, 0.5))
            started_s = time.monotonic()
            self._lab.holder({"op": "start", "node": node})
            self.report.restarts += 1
            if moment is Moment.STARTING and not last:
                continue
            self._check(node, started_s, number, compare=last or number % self._wish.compare_every == 0)
            if moment is not Moment.STARTING:
                node = self._random.choice(NODES)
            if len(self.report.failures) > _MOST_DIFFERENCES:
                return

    def _draw_moment(self) -> Moment:
        return self._random.choice(list(Moment))

    def _kill(self, number: int, node: str, moment: Moment) -> None:
        victims = self._random.choice(list(Victims))
        engine = EngineProcess.find(self._lab, node)
        if moment is Moment.CHANGED:
            with self._writing:
                self._write_version()
        wait_for_moment(engine, moment, self._random)
        running = engine.kill(victims)
        at_s = time.monotonic()
        wait_until_dead(self._lab, node)
        names = tuple(sorted(_program_name(words) for words in running))
        self.report.kills.append(
            Kill(number=number, node=node, moment=moment, victims=victims, running=names, at_s=at_s)
        )
        self._progress(f"kill {number}: {node} {moment}, {victims}; ran: {', '.join(names) or 'no program'}")

    # Checking

    def _check(self, node: str, started_s: float, number: int, *, compare: bool) -> None:
        """Have manifests rest, and see that nodes are whole, and the same as fresh ones when asked to."""
        with self._writing:
            try:
                self._wait_ready(node, started_s)
                self._lab.settle(timeout_s=_SETTLE_S)
                self.report.slowest_restart_s = max(
                    self.report.slowest_restart_s, time.monotonic() - started_s
                )
                self._check_plans(number)
                if compare:
                    self._progress(f"after kill {number}: comparing with a fresh run")
                    self._check_probes(number)
                    self._check_fresh(number)
            except CalicoEngineError as error:
                self._fail(number, str(error))
        self.look()

    def _wait_ready(self, node: str, started_s: float) -> None:
        """Wait at small cost, before looking closely."""
        while time.monotonic() < started_s + _SETTLE_S:
            try:
                if engine_state(self._lab.paths.engine_socket(node)).settled:
                    return
            except UnavailableError:
                pass
            time.sleep(_POLL_S)

    def _check_plans(self, number: int) -> None:
        """See that reading the kernel back finds nothing to do, or soon nothing."""
        for node in NODES:
            end_s = time.monotonic() + _CONVERGE_S
            while left := self._plan(node):
                if time.monotonic() > end_s:
                    self._fail(number, f"{node}: settled, but its plan is {str(left)[:1000]}")
                    break
                time.sleep(_POLL_S)
            else:
                late_s = time.monotonic() - end_s + _CONVERGE_S
                self.report.longest_rest_s = max(self.report.longest_rest_s, late_s)

    def _plan(self, node: str) -> dict[str, object]:
        plugins = json.loads(self._lab.engine(node, "/plan"))["plugins"]
        return {name: changes for name, changes in plugins.items() if changes}

    def _check_probes(self, number: int) -> None:
        """See that what the manifests say at this moment is what connections do."""
        pods = tuple(pod_name(role, NODES[0]) for role in ("friend", "closed")) + tuple(
            pod_name(role, NODES[1]) for role in ("guest", "vault", "web")
        )
        for outcome in run_probes(self._lab, ProbeWish(pods=pods, tcp=(OPEN_PORT + 1, FLIPPING_PORT))):
            if not outcome.as_expected:
                self._fail(
                    number,
                    f"{outcome.source} -> {outcome.destination} {outcome.port} ipv{outcome.family}: "
                    f"{outcome.result}, the manifests say {outcome.expected}: {outcome.reason}",
                )

    def _check_fresh(self, number: int) -> None:
        """See that nodes that never saw a kill come to the same."""
        self.report.comparisons += 1
        try:
            self._up(self._fresh, self._lab.paths.manifests)
            for node in NODES:
                wanted = _without_foreign(read_node(self._fresh, node, self._wish.backend))
                found = _without_foreign(read_node(self._lab, node, self._wish.backend))
                for difference in list(describe_differences(wanted, found))[:_MOST_DIFFERENCES]:
                    self._fail(number, f"{node}: not as a fresh run: {difference}")
        finally:
            self._fresh.down()

    def look(self) -> Sighting:
        """Ask the sentry, and note each packet that got through."""
        assert self._post is not None
        seen = self._post.look()
        for leak in seen.leaks[self._leaks_told :]:
            self._fail(self._deeds(), f"got through: {leak.flow}, {self._since_deed(leak.at_s)}")
        self._leaks_told = len(seen.leaks)
        lost = [f"{lost.flow}, {self._since_deed(lost.at_s)}" for lost in seen.lost_at]
        if lost:
            self._progress(f"{len(lost)} packets of allowed flows lost, from {lost[0]} to {lost[-1]}")
        self.report.lost_at += lost
        return seen

    def _deeds(self) -> int:
        """How many there were so far."""
        return len(self.report.kills)

    def _since_deed(self, at_s: float) -> str:
        before = [kill for kill in self.report.kills if kill.at_s <= at_s]
        if not before:
            return "before any kill"
        return f"{at_s - before[-1].at_s:.3f} s after kill {before[-1].number} ({before[-1].node})"

    def _fail(self, number: int, text: str) -> None:
        self.report.failures.append(f"{self.DEED} {number}: {text}")
        self._progress(f"FAILED after {self.DEED} {number}: {text}")

    # The end

    def check_cleanup(self) -> None:
        """End one engine well and one badly, clean up, and see that only what others made is left."""
        self._progress("cleaning up")
        number = self._deeds()
        for node, how in zip(NODES, (signal.SIGTERM, signal.SIGKILL), strict=True):
            self._lab.holder({"op": "signal", "node": node, "signal": int(how)})
            wait_until_dead(self._lab, node)
            options = ["--profile", PROFILE, "--set", f"felix.IptablesBackend={self._wish.backend}", "--yes"]
            self._run(node, sys.executable, "-m", "calico_engine.cli", "cleanup", *options)
            left = read_node(self._lab, node, self._wish.backend)
            for difference in describe_differences(self._foreign[node], left):
                self._fail(number, f"{node}: after cleanup: {difference}")
            for name in sorted(set(self._files(node)) - _FILES_LEFT):
                self._fail(number, f"{node}: after cleanup: file {name} is left")

    def _files(self, node: str) -> Iterator[str]:
        run = self._lab.paths.run(node)
        for path in run.rglob("*"):
            name = path.relative_to(run)
            if not path.is_dir() and name.parts[0] != _STATE_DIRECTORY:
                yield str(name)

    def _run(self, node: str, *argv: str) -> None:
        done = self._lab.run(node, argv)
        if done.returncode != 0:
            raise UnavailableError(f"{node}: {' '.join(argv[:6])}: {done.stdout}{done.stderr}")


def _program_name(words: str) -> str:
    program, _, rest = words.partition(" ")
    name = Path(program).name
    return f"{name} {rest.split()[0]}" if name == "ipset" and rest else name


def _is_foreign(line: str) -> bool:
    return "somebody" in line


def _not_ours(found: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Return what must be left when all of ours has gone."""
    chains = {tuple(line.split()[:2]) for lines in found.values() for line in lines if _is_foreign(line)}
    return {
        name: tuple(
            line
            for line in lines
            if _is_foreign(line)
            or (name.endswith("tables") and " policy " in line and tuple(line.split()[:2]) in chains)
        )
        for name, lines in found.items()
    }


def _without_foreign(found: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    return {name: tuple(line for line in lines if not _is_foreign(line)) for name, lines in found.items()}
