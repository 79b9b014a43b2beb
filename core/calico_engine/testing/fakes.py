"""Small real plugins that live in memory: a datastore, a dataplane with a kernel of its own, a graph that passes on.

Fakes, not mocks: they keep the contracts of plugin/protocols.py, so a test asserts on what came out.

    fakes = Fakes()
    engine = Engine(fakes.profile(), "node-a", run_dir=tmp_path, environ={}, registry=fakes.registry)
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence

import msgspec

from calico_engine.calc.graph import GraphStats
from calico_engine.engine.profile import EngineOptions, EngineProfile
from calico_engine.engine.world import World
from calico_engine.errors import ConflictError, KernelError, NotFoundError, ValidationError
from calico_engine.messages import Batch, InterfaceUpdate, Message, NodeRemove, NodeUpdate
from calico_engine.model.resource import Resource, ResourceKey
from calico_engine.plugin.hookspecs import hookimpl
from calico_engine.plugin.protocols import (
    ApplyResult,
    Capability,
    Change,
    Dataplane,
    Datastore,
    EndpointStatus,
    Notification,
    PluginContext,
    StatusReport,
    SyncStatus,
    Update,
)
from calico_engine.plugin.registry import PluginRegistry
from calico_engine.settings import FelixSettings

WatchItem = Sequence[Update] | SyncStatus | Exception


class MemoryDatastore:
    """A Datastore whose resources outlive it when several are made over one `contents`."""

    def __init__(
        self, contents: dict[ResourceKey, Resource] | None = None, *, hold_sync: bool = False
    ) -> None:
        """hold_sync: IN_SYNC comes only when it is `say`'d."""
        self.contents = contents if contents is not None else {}
        self.hold_sync = hold_sync
        self.reports: list[StatusReport] = []
        self.closed = False
        self._watches: list[asyncio.Queue[WatchItem]] = []
        self._revision = 0

    async def watch(self) -> AsyncIterator[Sequence[Update] | SyncStatus]:
        queue: asyncio.Queue[WatchItem] = asyncio.Queue()
        self._watches.append(queue)
        try:
            yield SyncStatus.RESYNC
            yield [Update(key, resource) for key, resource in self.contents.items()]
            if not self.hold_sync:
                yield SyncStatus.IN_SYNC
            while True:
                item = await queue.get()
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            self._watches.remove(queue)

    @property
    def watched(self) -> bool:
        return bool(self._watches)

    def say(self, item: WatchItem) -> None:
        """Have every watch yield this, or raise it."""
        for queue in self._watches:
            queue.put_nowait(item)

    async def list(self, kind: str, namespace: str = "") -> Sequence[Resource]:
        return [
            r
            for key, r in sorted(self.contents.items())
            if key.kind == kind and namespace in ("", key.namespace)
        ]

    async def get(self, key: ResourceKey) -> Resource:
        if key not in self.contents:
            raise NotFoundError(str(key))
        return self.contents[key]

    async def put(self, resource: Resource, *, expect_revision: str | None = None) -> Resource:
        self._expect(resource.key, expect_revision)
        self._revision += 1
        metadata = msgspec.structs.replace(resource.metadata, resource_version=str(self._revision))
        stored = msgspec.structs.replace(resource, metadata=metadata)
        self.contents[stored.key] = stored
        self.say([Update(stored.key, stored)])
        return stored

    async def delete(self, key: ResourceKey, *, expect_revision: str | None = None) -> None:
        if key not in self.contents:
            raise NotFoundError(str(key))
        self._expect(key, expect_revision)
        del self.contents[key]
        self.say([Update(key, None)])

    async def report_status(self, report: StatusReport) -> None:
        self.reports.append(report)

    async def close(self) -> None:
        self.closed = True

    def _expect(self, key: ResourceKey, revision: str | None) -> None:
        if revision is None:
            return
        present = self.contents.get(key)
        found = present.metadata.resource_version if present else ""
        if found != revision:
            raise ConflictError(str(key), revision, found)


class FakeKernel:
    """What a RecordingDataplane programs: outlives the plugin, can refuse, can be changed by somebody else."""

    def __init__(self) -> None:
        self.objects: dict[str, Message] = {}
        self.writes = 0
        self.reads = 0
        self.refusals: list[Exception] = []

    def refuse(self, times: int, error: Exception | None = None) -> None:
        """Fail the next `times` changes."""
        self.refusals += [error or KernelError("fake", "no luck")] * times

    def change(self, added: Mapping[str, Message], removed: Sequence[str]) -> int:
        """One transaction; returns the number of writes."""
        if self.refusals and (added or removed):
            raise self.refusals.pop(0)
        self.objects.update(added)
        for name in removed:
            self.objects.pop(name, None)
        self.writes += len(added) + len(removed)
        return len(added) + len(removed)

    def names(self, kind: str = "") -> set[str]:
        """The names of what is there, of one type of Message or of all."""
        return {name for name in self.objects if name.startswith(kind)}


class RecordingDataplane:
    """A Dataplane that programs every Message but interfaces into a FakeKernel, under "Type:key"."""

    def __init__(self, context: PluginContext, kernel: FakeKernel, journal: list[str] | None = None) -> None:
        self.context = context
        self.kernel = kernel
        self.journal = journal if journal is not None else []
        self.batches: list[Batch] = []
        self.invalidations: list[str] = []
        self.fail_on_batch: Exception | None = None
        self.resync_after_s: float | None = None
        self.mark_bits = 0
        self.endpoint_status = EndpointStatus.UP
        self.closed = False
        self._world = World()
        self._believed: dict[str, Message] | None = None

    def on_batch(self, batch: Batch, /) -> None:
        if self.fail_on_batch is not None:
            error, self.fail_on_batch = self.fail_on_batch, None
            raise error
        self.batches.append(batch)
        self._world.apply(batch)

    def invalidate(self, reason: str, /) -> None:
        self.invalidations.append(reason)
        self._believed = None

    async def apply(self) -> ApplyResult:
        self.journal.append(f"{self.context.name}.apply")
        desired, actual = self._desired(), self._actual()
        added = {name: message for name, message in desired.items() if actual.get(name) != message}
        writes = self._write(added, ())
        status = dict.fromkeys(self._world.workloads, self.endpoint_status)
        return ApplyResult(
            plugin=self.context.name,
            writes=writes,
            endpoint_status=status,
            resync_after_s=self.resync_after_s,
        )

    async def prune(self) -> ApplyResult:
        self.journal.append(f"{self.context.name}.prune")
        removed = sorted(self._actual().keys() - self._desired())
        return ApplyResult(plugin=self.context.name, writes=self._write({}, removed))

    async def plan(self) -> Sequence[Change]:
        desired, actual = self._desired(), dict(self.kernel.objects)
        added = [Change("+", "kernel", name) for name in sorted(desired.keys() - actual)]
        changed = [
            Change("~", "kernel", n) for n in sorted(desired.keys() & actual) if desired[n] != actual[n]
        ]
        return [*added, *changed, *(Change("-", "kernel", name) for name in sorted(actual.keys() - desired))]

    def render(self) -> str:
        return "".join(f"{name}\n" for name in sorted(self._desired()))

    async def cleanup(self) -> int:
        return self.kernel.change({}, sorted(self.kernel.objects))

    async def close(self) -> None:
        self.closed = True

    def drift(self, name: str) -> None:
        """Somebody else removes an object, and the kernel tells us."""
        self.kernel.objects.pop(name)
        self.context.notify(Notification(plugin=self.context.name, kind="drift", message=f"{name} is gone"))

    def _desired(self) -> dict[str, Message]:
        return {identity(m): m for m in self._world.messages() if not isinstance(m, InterfaceUpdate)}

    def _actual(self) -> dict[str, Message]:
        if self._believed is None:
            self.kernel.reads += 1
            self._believed = dict(self.kernel.objects)
        return self._believed

    def _write(self, added: Mapping[str, Message], removed: Sequence[str]) -> int:
        if not added and not removed:
            return 0
        try:
            writes = self.kernel.change(added, removed)
        except Exception:
            self._believed = None
            raise
        self._believed = None if self._believed is None else dict(self.kernel.objects)
        return writes


def identity(message: Message) -> str:
    """Name a Message by type and key: "NodeUpdate:node-a"; ConfigUpdate has no key."""
    kind = type(message).__name__
    return kind if kind == "ConfigUpdate" else f"{kind}:{getattr(message, message.__struct_fields__[0])}"


class PassThroughGraph:
    """A graph of one node: every resource becomes a NodeUpdate under its key's text, with its labels' "address".

    A resource named "bad" is rejected, one named "choke" is a bug. FelixConfiguration is resolved as
    the real graph has it resolved.
    """

    def __init__(
        self, node: str, config: Callable[[Mapping[str, str], Mapping[str, str]], FelixSettings] | None = None
    ) -> None:
        self.node = node
        self.rejected: list[ValidationError] = []
        self.stats = GraphStats()
        self._config = config
        self._maps: dict[str, dict[str, str]] = {}
        self._pending: dict[str, Message] = {}
        self._known: set[str] = set()
        self._complete = False
        self._revision = 0

    def on_updates(self, updates: Sequence[Update], /) -> None:
        self.rejected = []
        for update in updates:
            self._on_update(update)

    def on_status(self, status: SyncStatus, /) -> None:
        self._complete = self._complete or status is SyncStatus.IN_SYNC

    def reconfigure(self) -> None:
        if self._config is not None:
            self._config(self._maps.get("default", {}), self._maps.get(f"node.{self.node}", {}))

    def flush(self) -> Batch | None:
        self.stats = GraphStats(cluster_num_hosts=len(self._known))
        if not self._pending:
            return None
        self._revision += 1
        messages, self._pending = tuple(self._pending.values()), {}
        return Batch(revision=self._revision, in_sync=self._complete, messages=messages)

    def _on_update(self, update: Update) -> None:
        key, resource = update.key, update.resource
        name = str(key)
        if key.kind == "FelixConfiguration":
            spec = getattr(resource, "spec", {}) if resource is not None else {}
            self._maps[key.name] = {k: str(v) for k, v in spec.items()}
            self.reconfigure()
            return
        if resource is not None and key.name == "choke":
            raise RuntimeError("no way to process this")
        if resource is not None and key.name == "bad":
            self.rejected.append(ValidationError(name, "metadata.name", "must not be bad"))
            resource = None
        if resource is not None:
            self._known.add(name)
            self._pending[name] = NodeUpdate(node=name, ipv4_address=resource.labels.get("address", ""))
        elif name in self._known:
            self._known.discard(name)
            self._pending[name] = NodeRemove(node=name)


class _DatastorePlugin:
    def __init__(self, make: Callable[[PluginContext], Datastore]) -> None:
        self._make = make

    @hookimpl
    def ce_make_datastore(self, context: PluginContext) -> Datastore:
        return self._make(context)


class _DataplanePlugin:
    def __init__(self, make: Callable[[PluginContext], Dataplane], checks: Sequence[Capability] = ()) -> None:
        self._make = make
        self._checks = checks

    @hookimpl
    def ce_make_dataplane(self, context: PluginContext) -> Dataplane:
        return self._make(context)

    @hookimpl
    def ce_checks(self) -> Sequence[Capability]:
        return self._checks


class _RoutingPlugin:
    def __init__(self, make: Callable[[PluginContext], Dataplane]) -> None:
        self._make = make

    @hookimpl
    def ce_make_routing(self, context: PluginContext) -> Dataplane:
        return self._make(context)


class Fakes:
    """A registry with a memory datastore, dataplanes "sets" and "rules" and routing "routes", and a hand on each."""

    def __init__(self) -> None:
        self.registry = PluginRegistry()
        self.contents: dict[ResourceKey, Resource] = {}
        self.datastores: list[MemoryDatastore] = []
        self.kernels = {name: FakeKernel() for name in ("sets", "rules", "routes")}
        self.made: dict[str, list[RecordingDataplane]] = {name: [] for name in self.kernels}
        self.journal: list[str] = []
        self.hold_sync = False
        self.registry.register("datastore", "memory", _DatastorePlugin(self._make_datastore))
        self.registry.register("dataplane", "sets", _DataplanePlugin(self._make_dataplane))
        self.registry.register("dataplane", "rules", _DataplanePlugin(self._make_dataplane))
        self.registry.register("routing", "routes", _RoutingPlugin(self._make_dataplane))

    def add_dataplane(self, name: str, checks: Sequence[Capability] = ()) -> FakeKernel:
        """Install one more dataplane, which no profile names."""
        self.kernels[name] = FakeKernel()
        self.made[name] = []
        self.registry.register("dataplane", name, _DataplanePlugin(self._make_dataplane, checks))
        return self.kernels[name]

    @property
    def datastore(self) -> MemoryDatastore:
        """The datastore made last."""
        return self.datastores[-1]

    def dataplane(self, name: str) -> RecordingDataplane:
        """The plugin of that name made last."""
        return self.made[name][-1]

    def profile(self, options: EngineOptions | None = None, **felix: str) -> EngineProfile:
        """A profile of all three, without plumbing and links, quick to retry."""
        quick = EngineOptions(
            plumbing=False, link_monitor=False, apply_burst=1000, retry_initial_s=0.01, retry_max_s=0.02
        )
        return EngineProfile(
            name="fakes",
            datastore="memory",
            dataplane=("sets", "rules"),
            routing=("routes",),
            engine=options or quick,
            felix={**felix},
        )

    def _make_datastore(self, _: PluginContext) -> Datastore:
        self.datastores.append(MemoryDatastore(self.contents, hold_sync=self.hold_sync))
        return self.datastores[-1]

    def _make_dataplane(self, context: PluginContext) -> Dataplane:
        made = RecordingDataplane(context, self.kernels[context.name], self.journal)
        self.made[context.name].append(made)
        return made
