"""One dataplane or routing plugin as the engine runs it: what it was told, how it fares, when it is due."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum

from calico_engine.errors import CalicoEngineError
from calico_engine.model.resource import ResourceKey
from calico_engine.plugin.protocols import ApplyResult, Dataplane, EndpointStatus

_STUCK_AFTER_PERMANENT_FAILURES = 3

#: From best to worst.
STATUS_RANK = {EndpointStatus.UP: 0, EndpointStatus.DOWN: 1, EndpointStatus.ERROR: 2}

MakeDataplane = Callable[[], Dataplane]


class MemberState(StrEnum):
    WAITING = "waiting"  # not applied yet
    OK = "ok"
    FAILING = "failing"  # raised; will be retried


class BackOff:
    """Counts failures in a row and says when to try again."""

    def __init__(self, initial_s: float, max_s: float) -> None:
        self.initial_s = initial_s
        self.max_s = max_s
        self.failures = 0
        self.retry_at_s: float | None = None

    def failed(self, now_s: float) -> None:
        self.failures += 1
        self.retry_at_s = now_s + min(self.initial_s * 2.0 ** min(self.failures - 1, 30), self.max_s)

    def succeeded(self) -> None:
        self.failures = 0
        self.retry_at_s = None

    def holds_back(self, now_s: float) -> bool:
        return self.retry_at_s is not None and now_s < self.retry_at_s


class Member:
    """The plugin, and the record of what it did."""

    def __init__(
        self, family: str, name: str, make: MakeDataplane, *, retry_initial_s: float, retry_max_s: float
    ) -> None:
        self.family = family
        self.name = name
        self.make = make
        self.plugin = make()
        self.apply_back_off = BackOff(retry_initial_s, retry_max_s)
        self.prune_back_off = BackOff(retry_initial_s, retry_max_s)
        self.lost = False  # missed a batch: must be made anew and told everything
        self.applied_once = False
        self.last_error = ""
        self.last_apply_s: float | None = None
        self.last_duration_s = 0.0
        self.writes = 0
        self.rebuilds = 0
        self.resync_at_s: float | None = None
        self.endpoint_status: dict[ResourceKey, EndpointStatus] = {}

    @property
    def full_name(self) -> str:
        return f"{self.family}:{self.name}"

    @property
    def state(self) -> MemberState:
        if self.lost or self.apply_back_off.failures or self.prune_back_off.failures:
            return MemberState.FAILING
        return MemberState.OK if self.applied_once else MemberState.WAITING

    @property
    def is_well(self) -> bool:
        return self.state is MemberState.OK

    def due_s(self) -> float | None:
        """When this plugin next wants an apply by itself; None when it does not."""
        times = (self.apply_back_off.retry_at_s, self.prune_back_off.retry_at_s, self.resync_at_s)
        return min((at_s for at_s in times if at_s is not None), default=None)

    def postpone(self, now_s: float) -> None:
        """Blocked by another member: what is overdue waits for the pass in which that one succeeds."""
        for back_off in (self.apply_back_off, self.prune_back_off):
            if not back_off.holds_back(now_s):
                back_off.retry_at_s = None
        if self.resync_at_s is not None and self.resync_at_s <= now_s:
            self.resync_at_s = now_s + 1.0

    def succeeded(self, result: ApplyResult, *, started_s: float, now_s: float) -> None:
        """Record an apply that went well."""
        self.apply_back_off.succeeded()
        self.applied_once = True
        self.last_error = ""
        self.last_apply_s = now_s
        self.last_duration_s = now_s - started_s
        self.writes += result.writes
        self.endpoint_status.update(result.endpoint_status)

    def schedule_resync(self, after_s: float | None, now_s: float) -> None:
        """Be invalidated and applied again `after_s` from now; None never."""
        self.resync_at_s = None if after_s is None else now_s + after_s

    def schedule_resync_by(self, after_s: float, now_s: float) -> None:
        """As `schedule_resync`, unless one is due earlier anyway."""
        if self.resync_at_s is None or now_s + after_s < self.resync_at_s:
            self.resync_at_s = now_s + after_s

    def is_stuck(self, error: Exception, stuck_after_failures: int) -> bool:
        """Whether retrying has lost its point: too many failures in a row, fewer when it said that it cannot."""
        limit = stuck_after_failures
        if isinstance(error, CalicoEngineError) and not error.retryable:
            limit = min(limit, _STUCK_AFTER_PERMANENT_FAILURES)
        return self.apply_back_off.failures >= limit


def combined_status(members: Mapping[str, Member]) -> dict[ResourceKey, EndpointStatus]:
    """One status an endpoint: error when any plugin says so, else down when any does, else up."""
    combined: dict[ResourceKey, EndpointStatus] = {}
    for member in members.values():
        for key, status in member.endpoint_status.items():
            if key not in combined or STATUS_RANK[status] > STATUS_RANK[combined[key]]:
                combined[key] = status
    return combined
