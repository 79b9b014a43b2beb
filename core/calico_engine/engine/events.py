"""What can happen in an engine, as data: an Event's fields are its hook's arguments."""

from __future__ import annotations

from typing import ClassVar

import msgspec

from calico_engine.messages import Batch
from calico_engine.model.resource import ResourceKey
from calico_engine.plugin.hookspecs import EngineHandle
from calico_engine.plugin.protocols import ApplyResult, SyncStatus


class _Event(msgspec.Struct, frozen=True, kw_only=True):
    """`HOOK` is the hook that is called with the fields by name."""

    HOOK: ClassVar[str] = ""


class EngineStarted(_Event, frozen=True, kw_only=True):
    HOOK: ClassVar[str] = "ce_engine_started"
    engine: EngineHandle


class EngineStopping(_Event, frozen=True, kw_only=True):
    HOOK: ClassVar[str] = "ce_engine_stopping"
    engine: EngineHandle


class SyncStatusChanged(_Event, frozen=True, kw_only=True):
    HOOK: ClassVar[str] = "ce_sync_status_changed"
    status: SyncStatus


class BatchReady(_Event, frozen=True, kw_only=True):
    HOOK: ClassVar[str] = "ce_batch_ready"
    batch: Batch


class ApplyFinished(_Event, frozen=True, kw_only=True):
    HOOK: ClassVar[str] = "ce_apply_finished"
    result: ApplyResult


class ResourceRejected(_Event, frozen=True, kw_only=True):
    HOOK: ClassVar[str] = "ce_resource_rejected"
    key: ResourceKey | None
    name: str
    error: str


class DriftDetected(_Event, frozen=True, kw_only=True):
    HOOK: ClassVar[str] = "ce_drift_detected"
    plugin: str
    message: str


class DataplaneSwitch(_Event, frozen=True, kw_only=True):
    HOOK: ClassVar[str] = "ce_dataplane_switch"
    before: tuple[str, ...]
    after: tuple[str, ...]
    phase: str
    error: str


class PluginFailed(_Event, frozen=True, kw_only=True):
    HOOK: ClassVar[str] = "ce_plugin_failed"
    plugin: str
    phase: str
    error: str


Event = (
    EngineStarted
    | EngineStopping
    | SyncStatusChanged
    | BatchReady
    | ApplyFinished
    | ResourceRejected
    | DriftDetected
    | DataplaneSwitch
    | PluginFailed
)
