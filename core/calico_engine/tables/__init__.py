"""What all table dataplanes share: incremental compiling, tracking, applying; a backend adds only its spelling."""

from calico_engine.tables.backend import (
    ActualTables,
    ChainWrite,
    HookRule,
    HookWrite,
    Limits,
    TableBackend,
    TableDelta,
)
from calico_engine.tables.dataplane import TableDataplane
from calico_engine.tables.timers import ResyncTimer

__all__ = [
    "ActualTables",
    "ChainWrite",
    "HookRule",
    "HookWrite",
    "Limits",
    "ResyncTimer",
    "TableBackend",
    "TableDataplane",
    "TableDelta",
]
