"""What plugin authors import: the hook marker, the protocols to implement and the data they carry."""

from calico_engine.plugin.context import decode_options
from calico_engine.plugin.hookspecs import EngineHandle, Orchestrator, hookimpl
from calico_engine.plugin.protocols import (
    NO_METRICS,
    ApplyResult,
    Capability,
    Change,
    ClaimsMarks,
    Dataplane,
    Datastore,
    EndpointStatus,
    MetricSink,
    Notification,
    PluginContext,
    ReportsProblems,
    Routing,
    StatusReport,
    SyncStatus,
    Update,
)
from calico_engine.plugin.registry import FAMILIES, PluginInfo, PluginRegistry, installed

__all__ = [
    "FAMILIES",
    "NO_METRICS",
    "ApplyResult",
    "Capability",
    "Change",
    "ClaimsMarks",
    "Dataplane",
    "Datastore",
    "EndpointStatus",
    "EngineHandle",
    "MetricSink",
    "Notification",
    "Orchestrator",
    "PluginContext",
    "PluginInfo",
    "PluginRegistry",
    "ReportsProblems",
    "Routing",
    "StatusReport",
    "SyncStatus",
    "Update",
    "decode_options",
    "hookimpl",
    "installed",
]
