"""What an engine says of itself, as data: `calico-engine status` and GET /status print it."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import msgspec

from calico_engine.plugin.protocols import EndpointStatus, SyncStatus


class MemberStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One plugin. `age_s` is the time since its last good apply, None before the first."""

    name: str
    family: str
    state: str
    error: str = ""
    failures: int = 0
    age_s: float | None = None
    duration_s: float = 0.0
    writes: int = 0
    rebuilds: int = 0
    next_resync_s: float | None = None


class PluginWarning(msgspec.Struct, frozen=True, kw_only=True):
    """What a plugin warned of, and when last."""

    plugin: str
    message: str
    time: str


class SwitchPhase(StrEnum):
    """Where a switch of dataplanes is; engine/switching.py says what each means."""

    CHECKING = "checking"
    PROGRAMMING = "programming"
    REMOVING = "removing"
    UNDOING = "undoing"
    DONE = "done"
    FAILED = "failed"

    @property
    def is_last(self) -> bool:
        return self in (SwitchPhase.DONE, SwitchPhase.FAILED)


class SwitchStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A switch: `lines` is what has been done so far, `error` why it failed, `trouble` what keeps it from ending."""

    before: tuple[str, ...]
    after: tuple[str, ...]
    phase: SwitchPhase
    lines: tuple[str, ...] = ()
    error: str = ""
    trouble: str = ""


class EngineStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The whole engine at one moment.

    `rejected`: resource -> why it counts as absent. `problems`: what else is wrong now, subject -> sentence.
    `warnings`: the latest from plugins, the newest last. `notices`: settings that are accepted but not in effect.
    """

    node: str
    profile: str
    version: str
    pid: int
    uptime_s: float
    datastore: SyncStatus
    live: bool
    ready: bool
    settled: bool  # ready, and nothing waits to be applied
    revision: int
    passes: int
    plugins: tuple[MemberStatus, ...]
    endpoints: Mapping[str, EndpointStatus]
    rejected: Mapping[str, str]
    counts: Mapping[str, int]
    problems: Mapping[str, str] = {}
    warnings: tuple[PluginWarning, ...] = ()
    notices: tuple[str, ...] = ()
    dataplane: tuple[str, ...] = ()  # in force: the profile's, or what `switch` has chosen
    switch: SwitchStatus | None = None  # the last one of this engine


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """One part's health; `detail` says what is wrong, or that nothing is."""

    part: str
    live: bool
    ready: bool
    detail: str


def render_health(parts: tuple[Health, ...]) -> str:
    """Return a table of every part, one a line."""
    width = max([len(part.part) for part in parts], default=0)
    return "".join(
        f"{part.part:<{width}}  live={str(part.live).lower():<5}  ready={str(part.ready).lower():<5}  {part.detail}\n"
        for part in parts
    )
