"""What a plugin implements: typing.Protocol objects. Hooks (plugin.hookspecs) only find, make and notify them.

The contract of each method is in its docstring; `calico_engine.testing.conformance` holds a plugin to it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from enum import StrEnum
from typing import Protocol, runtime_checkable

import msgspec

from calico_engine.messages import Batch
from calico_engine.model.resource import Resource, ResourceKey
from calico_engine.settings import FelixSettings


class SyncStatus(StrEnum):
    WAIT_FOR_DATASTORE = "wait-for-datastore"
    RESYNC = "resync"
    IN_SYNC = "in-sync"


class Update(msgspec.Struct, frozen=True, gc=False):
    """One resource is now `resource`; None when it is absent. `error` says why a present one could not be read:
    consumers treat it as absent (fail closed) and report it. `checked` says that the resource is as `model.load` or
    `model.decode` made it, but for its revision, and need not be validated again."""

    key: ResourceKey
    resource: Resource | None
    error: str = ""
    checked: bool = False


class EndpointStatus(StrEnum):
    UP = "up"
    DOWN = "down"
    ERROR = "error"


class StatusReport(msgspec.Struct, frozen=True, kw_only=True):
    """What this node says of itself and its endpoints; written to the datastore with a time to live."""

    node: str
    time: str
    uptime_s: float
    first_update: bool
    endpoints: Mapping[str, EndpointStatus] = {}


@runtime_checkable
class Datastore(Protocol):
    """Lists, watches and compare-and-sets resources. The contract is eventual convergence only: spurious deletes,
    repeats and reversions are allowed as long as the last word is right."""

    def watch(self) -> AsyncIterator[Sequence[Update] | SyncStatus]:
        """Yield WAIT_FOR_DATASTORE or RESYNC, then updates for all resources, IN_SYNC, then changes for ever.

        After a loss of connection: RESYNC, updates that lead from what was said to what is, IN_SYNC.
        """
        ...

    async def list(self, kind: str, namespace: str = "") -> Sequence[Resource]:
        """Return all resources of a kind, of every namespace when `namespace` is ""."""
        ...

    async def get(self, key: ResourceKey) -> Resource:
        """Return the resource. Raises: NotFoundError."""
        ...

    async def put(self, resource: Resource, *, expect_revision: str | None = None) -> Resource:
        """Write and return the resource with its new `metadata.resource_version`.

        `expect_revision` None writes whatever is there, "" only if there is nothing, else only over that revision.
        Raises: ConflictError.
        """
        ...

    async def delete(self, key: ResourceKey, *, expect_revision: str | None = None) -> None:
        """Delete. Raises: NotFoundError, ConflictError."""
        ...

    async def report_status(self, report: StatusReport) -> None: ...

    async def close(self) -> None: ...


class Change(msgspec.Struct, frozen=True, gc=False):
    """One line of a plan: what would be added (+), changed (~) or removed (-), where, and its text."""

    action: str
    where: str
    text: str


class ApplyResult(msgspec.Struct, frozen=True, kw_only=True):
    """What an apply did. `resync_after_s`: call again then even if nothing changes (None: no need)."""

    plugin: str
    writes: int = 0
    changes: tuple[Change, ...] = ()
    endpoint_status: Mapping[ResourceKey, EndpointStatus] = {}
    resync_after_s: float | None = None


@runtime_checkable
class Dataplane(Protocol):
    """Enforces policy on local endpoints. Routing plugins have the same methods.

    Per apply the engine calls `apply` of every plugin in the profile's order, then `prune` of every plugin in reverse:
    what is referred to comes first and goes last. Until the first batch with in_sync nothing is applied.
    """

    def on_batch(self, batch: Batch, /) -> None:
        """Note the desired state and mark it dirty. No I/O, quick."""
        ...

    def invalidate(self, reason: str, /) -> None:
        """Trust nothing of the kernel's state: the next apply reads it back."""
        ...

    async def apply(self) -> ApplyResult:
        """Bring the kernel to the desired state, but remove nothing that another plugin may still refer to.

        A second apply without changes writes nothing. Raises: KernelError; what failed stays dirty and the next apply
        reads the kernel back.
        """
        ...

    async def prune(self) -> ApplyResult:
        """Remove what is ours and no longer desired. Raises: KernelError."""
        ...

    async def plan(self) -> Sequence[Change]:
        """Read the kernel back and say what apply and prune would do. Writes nothing."""
        ...

    def render(self) -> str:
        """Return the desired state in the tool's own save format. No I/O, no root."""
        ...

    async def cleanup(self) -> int:
        """Remove everything of ours from the kernel, with no knowledge but what the kernel shows. Returns a count."""
        ...

    async def close(self) -> None:
        """Stop watching; leave the kernel as it is."""
        ...


Routing = Dataplane


class Notification(msgspec.Struct, frozen=True, kw_only=True):
    """A plugin's word to the engine: `kind` is `drift` (somebody else changed our objects), `warning` or `info`."""

    plugin: str
    kind: str
    message: str


@runtime_checkable
class ReportsProblems(Protocol):
    """What a plugin may have beside its family's methods: its present problems, for `calico-engine status`."""

    @property
    def problems(self) -> Mapping[str, str]:
        """What is wrong now: subject -> sentence. Empty when all is well."""
        ...


@runtime_checkable
class ClaimsMarks(Protocol):
    """What a plugin that uses bits of the packet mark has beside its family's methods.

    Two dataplanes work side by side during a switch (`calico-engine switch`): they must not use the same bits.
    """

    @property
    def mark_bits(self) -> int:
        """All bits that it sets, clears or looks at, with the settings it was made with."""
        ...


class Capability(msgspec.Struct, frozen=True, kw_only=True):
    """One line of `calico-engine check`: what, whether it is there, why it matters, what to do if it is not."""

    name: str
    ok: bool
    needed_for: str
    remedy: str = ""
    detail: str = ""
    required: bool = True


class MetricSink(Protocol):
    """Takes a plugin's measurements, under the reference's metric names where it has one (felix_ipset_calls, ...)."""

    def count(self, name: str, value: float = 1.0, labels: Mapping[str, str] = {}) -> None:
        """Add to a counter."""
        ...

    def gauge(self, name: str, value: float, labels: Mapping[str, str] = {}) -> None:
        """Set a gauge."""
        ...

    def observe(self, name: str, value: float, labels: Mapping[str, str] = {}) -> None:
        """Add one observation, in the unit the name ends with, to a summary."""
        ...


class _NoMetrics:
    """Drops measurements: what a plugin has when nobody collects."""

    def count(self, name: str, value: float = 1.0, labels: Mapping[str, str] = {}) -> None: ...

    def gauge(self, name: str, value: float, labels: Mapping[str, str] = {}) -> None: ...

    def observe(self, name: str, value: float, labels: Mapping[str, str] = {}) -> None: ...


NO_METRICS: MetricSink = _NoMetrics()


class PluginContext(msgspec.Struct, frozen=True, kw_only=True):
    """All that a plugin gets from the engine when it is made.

    `options` is the plugin's own section of the profile, decoded into the type its `ce_config_type` names (or a plain
    dict). `request_apply(reason)` asks for an apply soon, from any thread. `notify` publishes on the event bus.
    `run_dir` is gone after a reboot, `state_dir` is not; a plugin keeps its files in a folder of its name there. "" is
    for nowhere: a command that only looks must leave nothing behind.
    """

    name: str
    node: str
    settings: FelixSettings
    options: object
    families: tuple[int, ...] = (4, 6)
    run_dir: str = "/var/run/calico"
    state_dir: str = ""
    request_apply: Callable[[str], None]
    notify: Callable[[Notification], None]
    metrics: MetricSink = NO_METRICS
