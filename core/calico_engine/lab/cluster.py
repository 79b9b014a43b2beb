"""A lab, as the command line and the tests use it.

lab = Lab("default", base)
lab.up(LabWish(nodes=2))      returns when every engine has applied what the manifests say
lab.settle()                  the same, after the manifests were changed
lab.down()
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from calico_engine.errors import CalicoEngineError, ConfigError, UnavailableError, ValidationError
from calico_engine.lab.control import EngineState, ask_engine, ask_holder, engine_state
from calico_engine.lab.entering import Holder
from calico_engine.lab.expectation import describe_difference, expected_messages
from calico_engine.lab.paths import LabPaths, lab_paths, make_base
from calico_engine.lab.plan import FABRIC, LabPlan, default_resources, make_plan
from calico_engine.model import Resource, dump, load_each

DEFAULT_PROFILE = "standalone"
GENERATED = "celab-generated.yaml"

_POLL_S = 0.02
_LOG_TAIL_BYTES = 2000

Progress = Callable[[str], None]


class LabWish(msgspec.Struct, frozen=True, kw_only=True):
    """What to build: from a directory of manifests, or a small open cluster of `nodes` nodes.

    `ends_with_us`: the lab dies with the thread that made it, whatever ends that.
    """

    nodes: int = 0
    profile: str = DEFAULT_PROFILE
    manifests: Path | None = None
    overrides: tuple[str, ...] = ()
    ends_with_us: bool = False


class EngineSummary(msgspec.Struct, frozen=True, kw_only=True):
    """How a node's engine is, in short. `exit_code` only where it has ended."""

    ready: bool
    settled: bool = False
    exit_code: int | None = None
    endpoints: dict[str, str] = {}
    rejected: dict[str, str] = {}
    problems: dict[str, str] = {}


class Lab:
    """One lab, up or not."""

    def __init__(self, name: str, base: Path) -> None:
        self.name = name
        self._base = base
        self.paths: LabPaths = lab_paths(name, base)
        self._process: subprocess.Popen[bytes] | None = None
        self._read: dict[Path, tuple[bytes, tuple[Resource, ...]]] = {}

    # Life

    def up(
        self, wish: LabWish, *, progress: Progress = lambda _text: None, timeout_s: float = 60.0
    ) -> LabPlan:
        """Build the lab and wait until every engine has applied everything.

        Raises: ConfigError when it is up already or the wish cannot be met, UnavailableError after `timeout_s`.
        """
        if self.is_up():
            raise ConfigError(
                f"lab {self.name} is up", key="name", hint="calico-engine lab down, or another --name"
            )
        make_base(self._base)
        self._remove_files()
        self.paths.root.mkdir(mode=0o700)
        self.paths.manifests.mkdir()
        plan = self._write_manifests(wish)
        self.paths.plan.write_bytes(msgspec.json.encode(plan))
        end_s = time.monotonic() + timeout_s
        self._start_holder(wish)
        self._wait_built(progress, end_s)
        self.settle(progress=progress, timeout_s=max(1.0, end_s - time.monotonic()))
        return plan

    def down(self, *, timeout_s: float = 20.0) -> bool:
        """End the lab and remove its files; returns whether there was anything. Raises: UnavailableError."""
        if not self.paths.root.exists():
            return False
        end_s = time.monotonic() + timeout_s
        lock = os.open(self.paths.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            # Whoever has the lock is the lab's holder. While we have it, one that is about to start gives up.
            while not _try_lock(lock):
                self._end_holder(end_s)
            if self._process is not None:
                self._process.wait(timeout_s)
                self._process = None
            self._remove_files()
        finally:
            os.close(lock)
        return True

    def _end_holder(self, end_s: float) -> None:
        """End the process that has the lock; come back soon when it has not said yet who it is."""
        if time.monotonic() > end_s:
            raise UnavailableError(f"lab {self.name}: its holder does not end; see {self.paths.log}")
        holder = Holder.find(self.paths)
        if holder is None:
            time.sleep(_POLL_S)
            return
        try:
            descriptor = os.pidfd_open(holder.outer)
        except ProcessLookupError:
            return
        try:
            signal.pidfd_send_signal(descriptor, signal.SIGTERM)
            if not _wait_readable(descriptor, (end_s - time.monotonic()) / 2):
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                _wait_readable(descriptor, end_s - time.monotonic())
        except ProcessLookupError:
            return
        finally:
            os.close(descriptor)

    def is_up(self) -> bool:
        return Holder.find(self.paths) is not None

    def plan(self) -> LabPlan:
        """Return what the lab is made of. Raises: ConfigError when there is no such lab."""
        try:
            return msgspec.json.decode(self.paths.plan.read_bytes(), type=LabPlan)
        except OSError as error:
            raise ConfigError(
                f"lab {self.name} is not up", key="name", hint="calico-engine lab up"
            ) from error

    def refresh(self, *, progress: Progress = lambda _text: None, timeout_s: float = 60.0) -> LabPlan:
        """Follow the manifests: make and remove nodes and pods, then settle. Raises: as `up`."""
        before = self.plan()
        plan, added = make_plan(
            self.name,
            before.profile,
            self.resources(),
            min_nodes=len(before.nodes),
            overrides=before.overrides,
        )
        if added:
            self._write_generated([*self._generated(), *added])
        self.paths.plan.write_bytes(msgspec.json.encode(plan))
        self.holder({"op": "update"})
        self.settle(progress=progress, timeout_s=timeout_s)
        return plan

    # State

    def resources(self) -> list[Resource]:
        """Return the resources in the lab's manifests; what cannot be read is left out, as the engines leave it."""
        found: dict[str, Resource] = {}
        # A thousand policies take a second to parse: only what has changed is parsed anew.
        known, self._read = self._read, {}
        for path in _manifest_files(self.paths.manifests):
            data = path.read_bytes()
            before = known.get(path)
            if before is None or before[0] != data:
                loaded = [r for r in load_each(data) if not isinstance(r, ValidationError)]
                before = (data, tuple(loaded))
            self._read[path] = before
            found |= {str(resource.key): resource for resource in before[1]}
        return list(found.values())

    def holder(self, request: dict[str, object]) -> dict[str, object]:
        """Ask the holder. Raises: UnavailableError."""
        return ask_holder(self.paths.socket, request)

    def engine(self, node: str, target: str, *, method: str = "GET") -> bytes:
        """Ask the engine of a node on its control socket. Raises: UnavailableError."""
        return ask_engine(self.paths.engine_socket(node), target, method=method)

    def run(
        self, place: str, argv: Sequence[str], *, timeout_s: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        """Run a program in a pod, on a node or in the fabric, and return its end and its words.

        Raises: ConfigError for an unknown place, UnavailableError after `timeout_s`.
        """
        name, kind = self.locate(place)
        command = [
            sys.executable,
            "-m",
            "calico_engine.lab.entering",
            str(self.paths.root),
            name,
            kind,
            *argv,
        ]
        try:
            return subprocess.run(command, text=True, capture_output=True, check=False, timeout=timeout_s)
        except subprocess.TimeoutExpired as error:
            raise UnavailableError(f"{' '.join(argv)} in {place}: no end after {timeout_s:g} s") from error

    def locate(self, place: str) -> tuple[str, str]:
        """Return a place's name in the lab and whether it is a `node` or a `pod`. Raises: ConfigError."""
        plan = self.plan()
        if place == FABRIC:
            return place, "pod"
        if place in {node.name for node in plan.nodes} and place not in {pod.name for pod in plan.pods}:
            return place, "node"
        return plan.pod(place).name, "pod"

    def write_manifest(self, name: str, text: str) -> None:
        """Put a manifest into the lab, whole at once, as an editor that saves safely would."""
        path = self.paths.manifests / name
        fresh = path.with_name(f".{path.name}.new")
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(path)

    def settle(self, *, progress: Progress = lambda _text: None, timeout_s: float = 60.0) -> None:
        """Wait until every engine knows exactly what the manifests say, and has applied it.

        Raises: UnavailableError naming what is missing, or the engine that ended.
        """
        resources = self.resources()
        end_s = time.monotonic() + timeout_s
        for node in self.plan().nodes:
            progress(f"waiting for the engine of {node.name}")
            expected = expected_messages(node.name, resources)
            asked_s = time.monotonic()
            while why := self._why_not_settled(node.name, expected):
                self._check_engine(node.name, why)
                if time.monotonic() > end_s:
                    raise UnavailableError(f"lab {self.name}: {node.name} is not there yet: {why}")
                # An engine of thousands of policies takes long to say what it knows: leave it time to work, too.
                time.sleep(max(_POLL_S, 2 * (time.monotonic() - asked_s)))
                asked_s = time.monotonic()

    def engines(self) -> dict[str, EngineSummary]:
        """Return how the engine of every node is. Raises: UnavailableError when the lab has no holder."""
        status = self.holder({"op": "status"})
        known = status.get("engines")
        summaries: dict[str, EngineSummary] = {}
        for node, engine in (known if isinstance(known, dict) else {}).items():
            exit_code = engine.get("exit")
            try:
                state = engine_state(self.paths.engine_socket(node))
            except UnavailableError as error:
                problems = {"engine": str(error)}
                summaries[node] = EngineSummary(ready=False, exit_code=exit_code, problems=problems)
                continue
            summaries[node] = EngineSummary(
                ready=state.ready,
                settled=state.settled,
                endpoints=state.endpoints,
                rejected=state.rejected,
                problems=state.problems,
            )
        return summaries

    def _why_not_settled(self, node: str, expected: frozenset[str]) -> str:
        try:
            # The cheap question first: what an engine knows is worth asking once it is done.
            if applying := _still_applying(engine_state(self.paths.engine_socket(node))):
                return applying
            difference = describe_difference(expected, self.engine(node, "/dump?what=state"))
            if difference:
                return difference
            state = engine_state(self.paths.engine_socket(node))
        except UnavailableError as error:
            return str(error)
        down = sorted(key for key, status in state.endpoints.items() if status != "up")
        if applying := _still_applying(state):
            return applying
        return f"endpoints not up: {', '.join(down)}" if down and self._has_pods(down) else ""

    def _has_pods(self, keys: Sequence[str]) -> bool:
        """Tell whether the lab made a pod for any of these endpoints: others cannot come up."""
        return any(pod.key in keys for pod in self.plan().pods)

    def _check_engine(self, node: str, why: str) -> None:
        status = self.holder({"op": "status"})
        engines = status.get("engines")
        engine = engines.get(node) if isinstance(engines, dict) else None
        if isinstance(engine, dict) and engine.get("exit") is not None:
            tail = _tail(self.paths.engine_log(node))
            raise UnavailableError(
                f"the engine of {node} ended with exit code {engine['exit']}: {tail or why}"
            )

    # Building

    def _write_manifests(self, wish: LabWish) -> LabPlan:
        if wish.manifests is not None:
            _copy_manifests(wish.manifests, self.paths.manifests)
        elif wish.nodes:
            text = _yaml(default_resources(wish.nodes, families=kernel_families()))
            (self.paths.manifests / "lab.yaml").write_text(text, encoding="utf-8")
        else:
            raise ConfigError("nothing to build", key="nodes", hint="say --nodes N or --manifests DIR")
        plan, added = make_plan(
            self.name,
            wish.profile,
            self.resources(),
            min_nodes=wish.nodes,
            overrides=wish.overrides,
            families=kernel_families(),
        )
        self._write_generated(added)
        return plan

    def _generated(self) -> list[Resource]:
        path = self.paths.manifests / GENERATED
        found = list(load_each(path.read_bytes())) if path.exists() else []
        return [resource for resource in found if not isinstance(resource, ValidationError)]

    def _write_generated(self, resources: Sequence[Resource]) -> None:
        if resources:
            (self.paths.manifests / GENERATED).write_text(_yaml(resources), encoding="utf-8")

    def _start_holder(self, wish: LabWish) -> None:
        bond = ["--end-with-parent"] if wish.ends_with_us else []
        with self.paths.log.open("ab") as output:
            # It outlives us: its own session, and no stream of ours.
            process = subprocess.Popen(
                [sys.executable, "-m", "calico_engine.lab.holder", str(self.paths.root), *bond],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd="/",
                start_new_session=True,
            )
        if wish.ends_with_us:
            self._process = process
        elif process.wait() != 0:
            raise LabBrokenError(f"lab {self.name} cannot be built: {_tail(self.paths.log)}")

    def _wait_built(self, progress: Progress, end_s: float) -> None:
        told = ""
        while True:
            with contextlib.suppress(UnavailableError):
                status = self.holder({"op": "status"})
                if status["failure"]:
                    raise LabBrokenError(f"lab {self.name} cannot be built: {status['failure']}")
                if status["phase"] != told:
                    told = str(status["phase"])
                    progress(told)
                if status["ready"]:
                    return
            ended = self._process.poll() is not None if self._process is not None else not self.is_up()
            if ended:
                raise LabBrokenError(f"lab {self.name} cannot be built: {_tail(self.paths.log)}")
            if time.monotonic() > end_s:
                raise UnavailableError(
                    f"lab {self.name} is not built yet, in step {told!r}: {_tail(self.paths.log)}"
                )
            time.sleep(_POLL_S)

    def _remove_files(self) -> None:
        if self.paths.root.exists():
            shutil.rmtree(self.paths.root)


def _still_applying(state: EngineState) -> str:
    """Say that an engine is not done; "" when it is."""
    if state.ready and state.settled:
        return ""
    return f"its engine is still applying; problems: {'; '.join(state.problems.values()) or 'none'}"


class LabBrokenError(CalicoEngineError):
    """The holder could not build the lab; it waits for `lab down`."""


def kernel_families() -> tuple[int, ...]:
    """Return the address families this machine's kernel has."""
    return (4, 6) if Path("/proc/sys/net/ipv6").exists() else (4,)


def _manifest_files(directory: Path) -> list[Path]:
    suffixes = {".yaml", ".yml", ".json"}
    return sorted(
        p for p in directory.rglob("*") if p.suffix in suffixes and p.is_file() and not p.name.startswith(".")
    )


def _copy_manifests(source: Path, target: Path) -> None:
    """Copy manifests, keeping their tree. Raises: ConfigError when there are none, or one is wrong."""
    files = _manifest_files(source) if source.is_dir() else []
    if not files:
        raise ConfigError(
            f"no manifests (*.yaml, *.yml, *.json) in {source}", key="manifests", hint="name a directory"
        )
    for path in files:
        for resource in load_each(path.read_bytes()):
            if isinstance(resource, ValidationError):
                raise ConfigError(f"{path}: {resource}", key="manifests", hint="correct it first")
        copy = target / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)


def _yaml(resources: Sequence[Resource]) -> str:
    return "---\n".join(dump(resource) for resource in resources)


def _tail(path: Path) -> str:
    try:
        return path.read_bytes()[-_LOG_TAIL_BYTES:].decode(errors="replace").strip()
    except OSError:
        return ""


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _wait_readable(descriptor: int, timeout_s: float) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(max(0.0, timeout_s) * 1000))
