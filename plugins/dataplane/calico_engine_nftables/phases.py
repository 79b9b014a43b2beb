"""In which steps a table is changed, so that no packet on its way is let through that neither state would let through.

Pure. A transaction is atomic for packets that come after it, not for one that is in the middle of the table: that one
goes on with the rules it began with, but looks into sets as they are by then (6.18). So it could come into a chain too
new to have rules for it, and return from there as if allowed; or find neither the entry that denied it nor the one that
will. The steps, each a transaction; most changes take one or two:

    make      chains and sets that nothing leads to yet, with all that is in them
    tighten   rules; in verdict maps what is to be denied, and no longer what was allowed
    move      which identity an address has, who is dispatched where; what is allowed now (in one with `tighten` where
              rules themselves look identities up)
    clear     what was denied and is looked up no more
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec.structs import replace

from calico_engine.messages import SetKind
from calico_engine.ruleset.ir import SetLookup
from calico_engine.tables.backend import ChainWrite, Element, KeyPart, SetWrite, TableDelta, ValueKind
from calico_engine.tables.single_table import chain_name
from calico_engine_nftables.transaction import Present

_ALLOWED = b"return"


def phases(delta: TableDelta, present: Present) -> list[TableDelta]:
    """Return the steps of a change, none of them empty. What has to go before it is made afresh takes all at once."""
    if present.to_replace or any(write.create and write.name in present.sets for write in delta.sets):
        return [delta]
    there = present.chains | present.alien
    fresh_chains = tuple(write for write in delta.chains if chain_name(write.key) not in there)
    known_chains = tuple(write for write in delta.chains if chain_name(write.key) in there)
    fresh_sets = tuple(write for write in delta.sets if write.create)
    known_sets = [write for write in delta.sets if not write.create]
    tightened: list[SetWrite] = []
    moved: list[SetWrite] = []
    cleared: list[SetWrite] = []
    for write in known_sets:
        if _has_verdicts(write):
            tightened += _part(write, *_tighter(write))
            moved += _part(write, *_looser(write))
            cleared += _part(write, {}, _denials_gone(write))
        else:
            moved.append(write)
    if any(_walks(write) for write in known_chains):
        tightened, moved = tightened + moved, []
    steps = (
        TableDelta(chains=fresh_chains, sets=fresh_sets),
        TableDelta(chains=known_chains, hooks=delta.hooks, sets=tuple(tightened)),
        TableDelta(sets=tuple(moved)),
        TableDelta(sets=tuple(cleared)),
        TableDelta(deletions=delta.deletions, set_deletions=delta.set_deletions),
    )
    return [step for step in steps if step]


def _walks(write: ChainWrite) -> bool:
    """Tell whether rules themselves look identities up: those must not change apart from the identities."""
    return any(
        isinstance(match, SetLookup) and match.kind is SetKind.NET
        for rule in write.rules
        for match in rule.matches
    )


def _has_verdicts(write: SetWrite) -> bool:
    """Tell levels of verdict tables from everything else: maps that dispatch have one way on for each interface."""
    return write.shape.value is ValueKind.VERDICT and write.shape.key != (KeyPart.INTERFACE,)


def _part(
    write: SetWrite, added: Mapping[bytes, Element], removed: Mapping[bytes, Element]
) -> Iterable[SetWrite]:
    return [replace(write, added=added, removed=removed)] if added or removed else []


def _tighter(write: SetWrite) -> tuple[dict[bytes, Element], dict[bytes, Element]]:
    """Return what is denied from now on, and what was allowed and is listed no more; with what it replaces."""
    added = {key: element for key, element in write.added.items() if element.value != _ALLOWED}
    removed = {
        key: element
        for key, element in write.removed.items()
        if key in added or (key not in write.added and element.value == _ALLOWED)
    }
    return added, removed


def _looser(write: SetWrite) -> tuple[dict[bytes, Element], dict[bytes, Element]]:
    added = {key: element for key, element in write.added.items() if element.value == _ALLOWED}
    return added, {key: element for key, element in write.removed.items() if key in added}


def _denials_gone(write: SetWrite) -> dict[bytes, Element]:
    return {
        key: element
        for key, element in write.removed.items()
        if key not in write.added and element.value != _ALLOWED
    }
