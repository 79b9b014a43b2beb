"""Why a set is wanted: what the rules of a chain look into.

Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from calico_engine.messages import SetKind
from calico_engine.ruleset.ir import (
    ChainKey,
    Classify,
    DispatchByInterface,
    InterfaceAssigned,
    Level,
    Rule,
    SetLookup,
    SourceAssigned,
)
from calico_engine.tables.single_table import (
    HOSTS_MAP,
    INTERFACES_SET,
    NETS_MAP,
    SOURCES_SET,
    dispatch_map,
    level_map,
    members_set,
)

#: Levels of a verdict table whose keys begin with an identity.
WITH_IDENTITY = frozenset({Level.PORTS, Level.PROTOCOLS, Level.IDENTITIES})


class PairsNeed(msgspec.Struct, frozen=True):
    set_id: str


class IPPortsNeed(msgspec.Struct, frozen=True):
    set_id: str


class LevelNeed(msgspec.Struct, frozen=True):
    table: str
    level: Level


class IdentitiesNeed(msgspec.Struct, frozen=True):
    """The map of hosts, or that of networks."""

    name: str


class DispatchNeed(msgspec.Struct, frozen=True):
    key: ChainKey
    op: DispatchByInterface


class InterfacesNeed(msgspec.Struct, frozen=True):
    """Of all workload endpoints."""


class SourcesNeed(msgspec.Struct, frozen=True):
    """Addresses by interface."""


SmallNeed = PairsNeed | IPPortsNeed | LevelNeed | DispatchNeed | SourcesNeed | InterfacesNeed
#: Why a set is wanted.
Need = PairsNeed | IPPortsNeed | LevelNeed | IdentitiesNeed | DispatchNeed | SourcesNeed | InterfacesNeed


def find_needs(key: ChainKey, rules: Iterable[Rule]) -> Iterator[tuple[str, Need]]:
    """Yield the sets that rules of a chain look into, and what each is for."""
    identities = False
    for rule in rules:
        for match in rule.matches:
            if isinstance(match, SetLookup):
                of_pairs = match.kind is SetKind.NET
                identities = identities or of_pairs
                yield members_set(match.set_id), (PairsNeed if of_pairs else IPPortsNeed)(match.set_id)
            elif isinstance(match, SourceAssigned):
                yield SOURCES_SET, SourcesNeed()
            elif isinstance(match, InterfaceAssigned):
                yield INTERFACES_SET, InterfacesNeed()
        if isinstance(rule.op, Classify):
            identities = identities or any(level in WITH_IDENTITY for level in rule.op.levels)
            for level in rule.op.levels:
                yield level_map(rule.op.table, level), LevelNeed(rule.op.table, level)
        elif isinstance(rule.op, DispatchByInterface):
            yield dispatch_map(key), DispatchNeed(key, rule.op)
    if identities:
        for name in (HOSTS_MAP, NETS_MAP):
            yield name, IdentitiesNeed(name)
