"""Find a lab's engine among this machine's processes, wait for a moment in its work, and kill it there."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Collection
from enum import StrEnum
from pathlib import Path
from random import Random

from calico_engine.errors import UnavailableError
from calico_engine.lab.cluster import Lab
from calico_engine.lab.entering import Holder

_POLL_S = 0.001
_WAIT_S = 4.0
#: Not longer than a program of the engine takes to do its work.
_PROGRAM_S = 0.006
#: About as long as an engine takes from a changed file to the last route.
_APPLY_S = 0.8
_START_S = 2.5


class Moment(StrEnum):
    """When to kill."""

    SETS = "sets are written"
    TABLES = "tables are written"
    READING = "the kernel is read back"
    CHANGED = "after a change"
    STARTING = "while it starts"


class Victims(StrEnum):
    """Whom to kill: what the engine started goes on alone, or ends with it."""

    ENGINE = "the engine"
    GROUP = "the engine and its programs"


_PROGRAMS = {
    Moment.SETS: ("ipset restore",),
    Moment.TABLES: ("iptables-", "-restore"),
    Moment.READING: ("-save",),
}


class EngineProcess:
    """A running engine, by its process id as seen from outside the lab; it leads its own process group."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._others: set[str] = set()

    @classmethod
    def find(cls, lab: Lab, node: str, timeout_s: float = 5.0) -> EngineProcess:
        """Return the engine that runs on a node. Raises: UnavailableError."""
        end_s = time.monotonic() + timeout_s
        while time.monotonic() < end_s:
            engines = lab.holder({"op": "status"})["engines"]
            inner = engines[node]["pid"] if isinstance(engines, dict) else None
            holder = Holder.find(lab.paths)
            if inner is not None and holder is not None:
                found = _outer_pid(holder, inner)
                if found is not None:
                    return cls(found)
            time.sleep(_POLL_S)
        raise UnavailableError(f"{node} has no engine")

    def programs(self) -> list[str]:
        """Return the command lines of what the engine has started and is still running."""
        return [words for pid in self._children() if (words := _command_line(pid))]

    def _children(self) -> list[int]:
        pids = {name for name in os.listdir("/proc") if name.isdigit()}  # noqa: PTH208  # a thousand times a second
        found = []
        for name in pids - self._others:
            try:
                text = Path(f"/proc/{name}/stat").read_text(errors="replace")
            except OSError:
                continue
            if int(text.rpartition(")")[2].split()[1]) == self.pid:
                found.append(int(name))
            else:
                self._others.add(name)
        self._others &= pids
        return found

    def wait_for(self, parts: Collection[str], timeout_s: float = _WAIT_S) -> bool:
        """Wait until the engine runs a program with all these words in its command line; False when it does not."""
        end_s = time.monotonic() + timeout_s
        while time.monotonic() < end_s:
            if any(all(part in words for part in parts) for words in self.programs()):
                return True
            time.sleep(_POLL_S)
        return False

    def kill(self, victims: Victims) -> list[str]:
        """Kill, and return what ran at that moment."""
        running = self.programs()
        with contextlib.suppress(ProcessLookupError):
            if victims is Victims.GROUP:
                os.killpg(self.pid, signal.SIGKILL)
            else:
                os.kill(self.pid, signal.SIGKILL)
        return running


def wait_for_moment(engine: EngineProcess, moment: Moment, random: Random) -> None:
    """Return within the moment, or after some seconds when it does not come."""
    match moment:
        case Moment.CHANGED:
            time.sleep(random.uniform(0, _APPLY_S))
        case Moment.STARTING:
            time.sleep(random.uniform(0, _START_S))
        case Moment.SETS | Moment.TABLES | Moment.READING:
            delay_s = random.uniform(0, _PROGRAM_S)
            if engine.wait_for(_PROGRAMS[moment]):
                time.sleep(delay_s)


def wait_until_dead(lab: Lab, node: str, timeout_s: float = 10.0) -> None:
    """Wait until the holder has buried a node's engine. Raises: UnavailableError."""
    end_s = time.monotonic() + timeout_s
    while time.monotonic() < end_s:
        engines = lab.holder({"op": "status"})["engines"]
        if isinstance(engines, dict) and engines[node]["pid"] is None:
            return
        time.sleep(_POLL_S)
    raise UnavailableError(f"the engine of {node} does not end")


def _outer_pid(holder: Holder, inner: int) -> int | None:
    """Return which of our processes a process of the lab is."""
    namespace = Path(f"/proc/{holder.inner}/ns/pid").readlink()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if (entry / "ns/pid").readlink() != namespace:
                continue
            for line in (entry / "status").read_text().splitlines():
                if line.startswith("NSpid:") and line.split()[-1] == str(inner):
                    return int(entry.name)
        except OSError:
            continue
    return None


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").replace("\0", " ").strip()
    except OSError:
        return ""
