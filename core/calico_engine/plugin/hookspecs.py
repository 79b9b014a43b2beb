"""The hooks: what the engine asks a plugin for, and what it tells it.

Make-hooks and questions are put to the selected plugin alone. Notifications go to every loaded plugin, one by one; what
one of them raises is logged and stops nobody else. All hooks are plain functions and take only the arguments they use.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import pluggy

from calico_engine.messages import Batch
from calico_engine.model.resource import ResourceKey
from calico_engine.plugin.protocols import (
    ApplyResult,
    Capability,
    Dataplane,
    Datastore,
    PluginContext,
    Routing,
    SyncStatus,
)

if TYPE_CHECKING:
    import click

PROJECT = "calico_engine"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class EngineHandle(Protocol):
    """What a hook may do with the engine it is given."""

    @property
    def node(self) -> str: ...

    @property
    def profile_name(self) -> str: ...

    def request_apply(self, reason: str) -> None:
        """Ask for an apply soon."""
        ...

    def request_stop(self) -> None:
        """Ask the engine to stop; the dataplane stays as it is."""
        ...


class Orchestrator(Protocol):
    """Lets a scheduler ask for endpoints for as long as `serve` runs."""

    async def serve(self) -> None: ...

    async def close(self) -> None: ...


class Hookspecs:
    """One method a hook; the docstring is the contract."""

    # Made and asked: the selected plugin only.

    @hookspec(firstresult=True)
    def ce_make_datastore(self, context: PluginContext) -> Datastore | None:
        """Return the datastore. Raises: ConfigError for options that cannot work."""

    @hookspec(firstresult=True)
    def ce_make_dataplane(self, context: PluginContext) -> Dataplane | None:
        """Return the dataplane. No I/O: the kernel is first read by `apply`."""

    @hookspec(firstresult=True)
    def ce_make_routing(self, context: PluginContext) -> Routing | None:
        """Return the routing plugin. No I/O: the kernel is first read by `apply`."""

    @hookspec(firstresult=True)
    def ce_make_orchestrator(self, context: PluginContext) -> Orchestrator | None:
        """Return the orchestrator plugin."""

    @hookspec(firstresult=True)
    def ce_config_type(self) -> type | None:
        """Return the msgspec.Struct that the plugin's section of the profile is decoded into."""

    @hookspec(firstresult=True)
    def ce_checks(self) -> Sequence[Capability] | None:
        """Return what this machine must have for the plugin to work, each with the remedy. May run programs."""

    @hookspec
    def ce_register_profiles(self) -> Mapping[str, str]:
        """Return engine profiles this distribution brings: name -> TOML text."""
        return {}

    @hookspec
    def ce_register_commands(self) -> Sequence[click.Command]:
        """Return commands to add to `calico-engine`."""
        return ()

    # Told: every loaded plugin.

    @hookspec
    def ce_engine_started(self, engine: EngineHandle) -> None:
        """The plugins are made and the datastore is being watched; the kernel has not been touched yet."""

    @hookspec
    def ce_engine_stopping(self, engine: EngineHandle) -> None:
        """The engine is about to close its plugins."""

    @hookspec
    def ce_sync_status_changed(self, status: SyncStatus) -> None:
        """The datastore's state as the graph has processed it."""

    @hookspec
    def ce_batch_ready(self, batch: Batch) -> None:
        """A batch has been handed to every dataplane and routing plugin."""

    @hookspec
    def ce_apply_finished(self, result: ApplyResult) -> None:
        """One plugin's apply or prune succeeded."""

    @hookspec
    def ce_resource_rejected(self, key: ResourceKey | None, name: str, error: str) -> None:
        """A resource is treated as absent because it is wrong. `key` is None when not even that could be read."""

    @hookspec
    def ce_drift_detected(self, plugin: str, message: str) -> None:
        """Somebody else changed our kernel objects; repair starts at once."""

    @hookspec
    def ce_dataplane_switch(
        self, before: tuple[str, ...], after: tuple[str, ...], phase: str, error: str
    ) -> None:
        """A switch of dataplanes entered a phase: checking, programming, removing, undoing, done or failed."""

    @hookspec
    def ce_plugin_failed(self, plugin: str, phase: str, error: str) -> None:
        """A plugin raised in `phase` (watch, on_batch, apply, prune, ...); it will be retried."""
