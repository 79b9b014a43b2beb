"""Exchange the dataplanes of running engines again and again, while manifests change and packets are sent.

Each node goes from the profile's dataplane to another and back. Throughout, a sentry keeps connections open, sends what
policy denies and sees that nothing of it arrives. In some switches the engine is killed: the next one must come up with
one of the two, whole, and remove the other.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import msgspec

from calico_engine.errors import CalicoEngineError, UnavailableError
from calico_engine.lab.control import engine_state
from calico_engine.testing.soak.killer import EngineProcess, Victims, wait_until_dead
from calico_engine.testing.soak.report import Kill, SoakReport
from calico_engine.testing.soak.run import Progress, Soak, SoakWish
from calico_engine.testing.soak.world import NODES

#: What the standalone profile names.
PROFILE_DATAPLANE = ("ipset", "iptables")
_IPTABLES_TABLES = {
    f"{family} {table}"
    for family in ("ip", "ip6")
    for table in ("raw", "mangle", "nat", "filter", "security")
}
_SWITCH_S = 60.0
_POLL_S = 0.02
#: About as long as a phase takes.
_PHASE_S = 0.12
_PHASES = ("checking", "programming", "removing")


class SwitchWish(msgspec.Struct, frozen=True, kw_only=True):
    """How often there and back, to which plugins, and in how many of those switches to kill besides."""

    round_trips: int
    kills: int = 0
    dataplane: tuple[str, ...] = ("nftables",)
    seed: int = 1
    backend: str = "nft"
    base: Path
    logs: Path | None = None
    denied_per_s: float = 600.0
    allowed_per_s: float = 60.0


class Switched(msgspec.Struct, frozen=True, kw_only=True):
    """One switch of one node, from the command to its end."""

    node: str
    after: tuple[str, ...]
    at_s: float
    took_s: float


class SwitchReport(SoakReport, kw_only=True):
    """As SoakReport; the kills are those within switches."""

    switches: list[Switched] = msgspec.field(default_factory=list)

    def headline(self) -> str:
        return (
            f"iptables-{self.backend}, seed {self.seed}: {len(self.switches)} switches, {len(self.kills)} kills in a "
            f"switch, in {self.duration_s:.0f} s"
        )

    def details(self) -> list[str]:
        times: dict[str, list[float]] = {}
        for done in self.switches:
            times.setdefault(", ".join(done.after), []).append(done.took_s)
        return [
            f"to {name:13} {len(took)}, median {sorted(took)[len(took) // 2]:.2f} s, slowest {max(took):.2f} s"
            for name, took in times.items()
        ]


def run_switches(wish: SwitchWish, *, progress: Progress = lambda _text: None) -> SwitchReport:
    """Do it and return what was found. Raises: CalicoEngineError when the lab itself cannot be had."""
    soak = SwitchSoak(wish, progress)
    started_s = time.monotonic()
    try:
        with soak.lab_up():
            with soak.sentry_on_duty():
                soak.switch_many()
                soak.kill_in_switches()
                soak.report.sighting = soak.look()
            soak.check_cleanup()
    finally:
        soak.report.duration_s = time.monotonic() - started_s
    return soak.report


class SwitchSoak(Soak):
    """One run. After it the nodes have the other dataplane, so that `cleanup` has to find it."""

    DEED = "switch"
    report: SwitchReport

    def __init__(self, wish: SwitchWish, progress: Progress) -> None:
        super().__init__(
            SoakWish(
                kills=0,
                seed=wish.seed,
                backend=wish.backend,
                base=wish.base,
                logs=wish.logs,
                denied_per_s=wish.denied_per_s,
                allowed_per_s=wish.allowed_per_s,
            ),
            progress,
        )
        self.report = SwitchReport(backend=wish.backend, seed=wish.seed)
        self._switching = wish
        self._before: dict[str, tuple[str, ...]] = dict.fromkeys(NODES, PROFILE_DATAPLANE)

    # Switching

    def switch_many(self) -> None:
        """Go there and back as often as wished, then there once more."""
        for _ in range(self._switching.round_trips):
            for after in (self._switching.dataplane, PROFILE_DATAPLANE):
                self._switch_all(after)
        self._switch_all(self._switching.dataplane)

    def _switch_all(self, after: tuple[str, ...]) -> None:
        for node in self._random.sample(NODES, len(NODES)):
            self._switch(node, after)
        with self._writing:
            self._check_nodes()
        self.look()

    def _switch(self, node: str, after: tuple[str, ...]) -> None:
        """Switch one node by the command, while manifests change."""
        at_s = time.monotonic()
        words = ["switch", "--dataplane", ",".join(after), "--timeout", f"{_SWITCH_S:g}"]
        done = self._lab.run(
            node, [sys.executable, "-m", "calico_engine.cli", *words], timeout_s=2 * _SWITCH_S
        )
        took_s = time.monotonic() - at_s
        self.report.switches.append(Switched(node=node, after=after, at_s=at_s, took_s=took_s))
        self._progress(f"switch {self._deeds()}: {node} to {', '.join(after)} in {took_s:.2f} s")
        if done.returncode != 0:
            self._fail(self._deeds(), f"{node}: exit code {done.returncode}: {done.stdout}{done.stderr}")
            after = self._in_force(node)
        self._before[node] = after

    # Killing

    def kill_in_switches(self) -> None:
        """Begin a switch, kill the engine in it, start it again and see what it makes of that."""
        for number in range(1, self._switching.kills + 1):
            node = self._random.choice(NODES)
            before = self._before[node]
            after = PROFILE_DATAPLANE if before == self._switching.dataplane else self._switching.dataplane
            self._kill_in_switch(number, node, after)
            with self._writing:
                try:
                    self._wait_finished(node)
                    self._before[node] = self._in_force(node)
                    if self._before[node] not in (before, after):
                        self._fail(number, f"{node}: {self._before[node]} in force after a kill")
                    self._check_nodes()
                except CalicoEngineError as error:
                    self._fail(number, str(error))
            self.look()

    def _kill_in_switch(self, number: int, node: str, after: tuple[str, ...]) -> None:
        engine = EngineProcess.find(self._lab, node)
        victims = self._random.choice(list(Victims))
        wanted = _PHASES[number % len(_PHASES)]
        delay_s = self._random.uniform(0, _PHASE_S)
        self._lab.engine(node, f"/switch?dataplane={','.join(after)}", method="POST")
        begun_s = time.monotonic()
        while self._phase(node) in _PHASES[: _PHASES.index(wanted)]:
            pass
        time.sleep(delay_s)
        phase = self._phase(node)
        running = engine.kill(victims)
        at_s = time.monotonic()
        wait_until_dead(self._lab, node)
        self.report.kills.append(
            Kill(
                number=number, node=node, moment=f"{phase} {', '.join(after)}", victims=victims,
                running=tuple(sorted(Path(words.partition(" ")[0]).name for words in running)), at_s=at_s,
            )
        )  # fmt: skip
        self._progress(
            f"kill {number}: {node} {phase} {', '.join(after)}, {at_s - begun_s:.2f} s in; {victims}"
        )
        self._lab.holder({"op": "start", "node": node})
        self.report.restarts += 1

    def _phase(self, node: str) -> str:
        state = self._state(node)
        return str(state["phase"]) if state else "not begun"

    def _state(self, node: str) -> dict[str, object] | None:
        found: dict[str, object] | None = json.loads(self._lab.engine(node, "/switch"))["switch"]
        return found

    def _wait_finished(self, node: str) -> None:
        """Wait until a restarted engine has applied everything and has removed what is to go."""
        started_s = time.monotonic()
        state: dict[str, object] | None = None
        while time.monotonic() < started_s + _SWITCH_S:
            try:
                settled = engine_state(self._lab.paths.engine_socket(node)).settled
                state = self._state(node)
            except UnavailableError:
                settled = False
            if settled and (state is None or state["phase"] in ("done", "failed")):
                self.report.slowest_restart_s = max(
                    self.report.slowest_restart_s, time.monotonic() - started_s
                )
                return
            time.sleep(_POLL_S)
        raise UnavailableError(f"{node}: not finished after a kill in a switch: {state}")

    # Checking

    def _check_nodes(self) -> None:
        """While manifests rest: everything is applied, there is nothing to do, and nothing of the other is left."""
        number = self._deeds()
        try:
            self._lab.settle(timeout_s=_SWITCH_S)
        except CalicoEngineError as error:
            self._fail(number, str(error))
        self._check_plans(number)
        for node in NODES:
            if self._in_force(node) != self._before[node]:
                self._fail(number, f"{node}: {self._in_force(node)} is in force, not {self._before[node]}")
            for line in self._left(node, self._before[node]):
                self._fail(number, f"{node}: left beside {', '.join(self._before[node])}: {line}")

    def _in_force(self, node: str) -> tuple[str, ...]:
        return tuple(json.loads(self._lab.engine(node, "/status"))["dataplane"])

    def _left(self, node: str, in_force: tuple[str, ...]) -> list[str]:
        """Return what the kernel has of dataplanes that are not in force."""
        left = []
        if "iptables" not in in_force:
            for variant in ("legacy", "nft"):
                for tool in ("iptables", "ip6tables"):
                    saved = self._lab.run(node, [f"{tool}-{variant}-save"]).stdout.splitlines()
                    left += [f"{tool}-{variant}: {line}" for line in saved if "cali" in line]
        if "ipset" not in in_force:
            sets = self._lab.run(node, ["ipset", "list", "-name"]).stdout.splitlines()
            left += [f"set {name}" for name in sets if name.startswith("cali")]
        if "nftables" not in in_force:
            left += [f"nft {name}" for name in self._own_tables(node)]
        return left

    def _own_tables(self, node: str) -> list[str]:
        """Return the tables of nftables that iptables has not made."""
        done = self._lab.run(node, ["nft", "list", "tables"])
        if done.returncode != 0:
            raise UnavailableError(f"{node}: nft list tables: {done.stderr}")
        names = [line.removeprefix("table ") for line in done.stdout.splitlines()]
        return [name for name in names if name not in _IPTABLES_TABLES]

    def check_cleanup(self) -> None:
        """As after kills; and nothing of the dataplane that was switched to is left."""
        super().check_cleanup()
        for node in NODES:
            for name in self._own_tables(node):
                self._fail(self._deeds(), f"{node}: after cleanup: nft table {name}")

    # Words

    def _deeds(self) -> int:
        return len(self.report.switches) + len(self.report.kills)

    def _since_deed(self, at_s: float) -> str:
        deeds = [
            (done.at_s, f"the beginning of the switch of {done.node} to {', '.join(done.after)}")
            for done in self.report.switches
        ]
        deeds += [(kill.at_s, f"the kill of {kill.node} while {kill.moment}") for kill in self.report.kills]
        before = sorted(deed for deed in deeds if deed[0] <= at_s)
        if not before:
            return "before any switch"
        return f"{at_s - before[-1][0]:.3f} s after {before[-1][1]}"
