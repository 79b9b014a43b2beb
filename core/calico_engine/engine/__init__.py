"""The asyncio engine that wires a datastore, the calculation graph and a node's plugins together.

Embedders use `Engine` and `load_profile`; `calico-engine run` uses engine.daemon.
"""

from calico_engine.engine.directories import RUN_DIRECTORY, STATE_DIRECTORY
from calico_engine.engine.engine import Engine
from calico_engine.engine.profile import (
    EngineOptions,
    EngineProfile,
    list_profiles,
    load_profile,
    parse_profile,
)
from calico_engine.engine.status import EngineStatus, Health, MemberStatus

__all__ = [
    "RUN_DIRECTORY",
    "STATE_DIRECTORY",
    "Engine",
    "EngineOptions",
    "EngineProfile",
    "EngineStatus",
    "Health",
    "MemberStatus",
    "list_profiles",
    "load_profile",
    "parse_profile",
]
