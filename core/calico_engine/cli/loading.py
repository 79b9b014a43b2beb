"""Manifests to what a node would do, without an engine: load, calculate, make plugins, render."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import msgspec

from calico_engine.calc import CalcGraph
from calico_engine.cli.output import progress, warn
from calico_engine.engine.profile import EngineProfile
from calico_engine.engine.settings import SettingsResolver
from calico_engine.errors import CalicoEngineError, ConfigError, ValidationError
from calico_engine.messages import Batch
from calico_engine.model import Resource, load_each
from calico_engine.plugin import (
    Dataplane,
    Notification,
    PluginContext,
    PluginRegistry,
    SyncStatus,
    Update,
    decode_options,
)
from calico_engine.plugin.protocols import ReportsProblems
from calico_engine.settings import FelixSettings


class Loaded(msgspec.Struct):
    """What a path of manifests holds, and what is wrong with it."""

    updates: list[Update]
    problems: list[str]

    @property
    def resources(self) -> list[Resource]:
        return [
            update.resource for update in self.updates if update.resource is not None and not update.error
        ]


def load_manifests(path: str) -> Loaded:
    """Read a directory as the datastore `file` does, or one file. Raises: CalicoEngineError when it cannot be read."""
    with progress(f"reading {path}"):
        if Path(path).is_dir():
            return asyncio.run(_load_directory(path))
        return _load_file(path)


def _load_file(path: str) -> Loaded:
    loaded = Loaded([], [])
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise CalicoEngineError(f"{path}: {error.strerror}") from error
    for found in load_each(data, source=path):
        if isinstance(found, ValidationError):
            loaded.problems.append(str(found))
        else:
            loaded.updates.append(Update(found.key, found))
    return loaded


async def _load_directory(path: str) -> Loaded:
    registry = PluginRegistry()
    config_type = registry.config_type("datastore", "file")
    options = decode_options("datastore:file", {"path": path, "watch": "poll"}, config_type)
    loaded = Loaded([], [])
    context = PluginContext(
        name="file",
        node="",
        settings=FelixSettings(),
        options=options,
        request_apply=lambda _: None,
        notify=lambda _: None,
    )
    store = registry.make_datastore("file", context)
    latest: dict[object, Update] = {}
    try:
        async for word in store.watch():
            if word is SyncStatus.IN_SYNC:
                break
            if word is SyncStatus.WAIT_FOR_DATASTORE:
                raise CalicoEngineError(f"{path}: cannot be read")
            if not isinstance(word, SyncStatus):
                latest.update((update.key, update) for update in word)
    finally:
        await store.close()
    loaded.updates = list(latest.values())
    if isinstance(store, ReportsProblems):
        loaded.problems = [text for _, text in sorted(store.problems.items())]
    return loaded


class Desired(msgspec.Struct):
    """What one node is to do."""

    node: str
    settings: FelixSettings
    batch: Batch
    problems: list[str]


def calculate(loaded: Loaded, node: str, profile: EngineProfile) -> Desired:
    """Return what the node would do by these resources and this profile's settings."""
    resolver = SettingsResolver(profile.felix, {}, config_file=Path("/nonexistent/felix.cfg"))
    settings = [resolver.resolve({}, {})]

    def resolve(global_: object, own: object) -> FelixSettings:
        assert isinstance(global_, dict)
        assert isinstance(own, dict)
        settings.append(resolver.resolve(global_, own))
        return settings[-1]

    graph = CalcGraph(node, config=resolve)
    with progress("calculating"):
        graph.on_updates(loaded.updates)
        graph.on_status(SyncStatus.IN_SYNC)
        batch = graph.flush() or Batch(revision=1, in_sync=True, messages=())
    rejected = [str(error) for error in graph.rejected]
    # What the store has said already it need not hear again from the graph.
    told = "\n".join(loaded.problems)
    problems = [*loaded.problems, *(text for text in rejected if text not in told), *resolver.problems]
    return Desired(node, settings[-1], batch, problems)


def make_plugin(
    registry: PluginRegistry,
    profile: EngineProfile,
    desired: Desired,
    family: str,
    name: str,
    *,
    families: Sequence[int] = (4, 6),
    run_dir: str = "/var/run/calico",
) -> Dataplane:
    """Return a dataplane or routing plugin that knows the desired state. It has not touched the kernel."""
    options = decode_options(
        f"{family}:{name}", profile.options_of(family, name), registry.config_type(family, name)
    )
    context = PluginContext(
        name=name,
        node=desired.node,
        settings=desired.settings,
        options=options,
        families=tuple(families),
        run_dir=run_dir,
        request_apply=lambda _: None,
        notify=_print_notification,
    )
    make = registry.make_dataplane if family == "dataplane" else registry.make_routing
    plugin = make(name, context)
    plugin.on_batch(desired.batch)
    return plugin


def _print_notification(notification: Notification) -> None:
    if notification.kind == "warning":
        warn(f"{notification.plugin}: {notification.message}")


def address_families(family: str) -> tuple[int, ...]:
    """Return "4", "6" or "both" as numbers. Raises: ConfigError."""
    try:
        return {"4": (4,), "6": (6,), "both": (4, 6)}[family]
    except KeyError:
        raise ConfigError(f"family {family!r}", key="family", hint="allowed: 4, 6, both") from None
