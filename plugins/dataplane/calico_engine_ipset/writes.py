"""What each dirty set needs, and the steps that do it. Pure."""

from __future__ import annotations

from collections.abc import Container

import msgspec

from calico_engine.plugin.protocols import Change
from calico_engine.ruleset.ir import Family
from calico_engine.ruleset.names import temporary_set_name
from calico_engine_ipset.desired import DesiredSets, SetId
from calico_engine_ipset.row_set import count_rows
from calico_engine_ipset.steps import Destroy, Step, change_steps, fill_steps, swap_steps


class Write(msgspec.Struct, frozen=True):
    """What one transaction does to one set: `rewritten` with all of `added`, or changed. Members are rows."""

    set_id: SetId
    added: bytes
    deleted: bytes
    rewritten: bool


def find_write(desired: DesiredSets, set_id: SetId) -> Write | None:
    """Return what a set needs; None when it is as it should be."""
    known = desired.sets[set_id]
    if known.shape != desired.shape(set_id) or known.is_rewrite_cheaper:
        return Write(set_id, known.desired.rows(), b"", rewritten=True)
    if not known.in_sync:
        return Write(set_id, known.missing.rows(), known.extra.rows(), rewritten=False)
    return None


def write_steps(desired: DesiredSets, write: Write, number: int, present: Container[str]) -> list[Step]:
    """Return how a write is done. `number` tells the writes of one transaction apart, `present` names what there is."""
    name = desired.name(write.set_id)
    before, shape = desired.sets[write.set_id].shape, desired.shape(write.set_id)
    if not write.rewritten:
        return change_steps(name, write.added, write.deleted)
    if name not in present:
        return fill_steps(name, shape, write.added)
    if before is None or (before.type, before.family) != (shape.type, shape.family):
        # Sets of two types cannot be swapped. In use by a rule, it cannot be destroyed either: then this fails.
        return [Destroy(name), *fill_steps(name, shape, write.added)]
    return swap_steps(name, temporary_set_name(number, write.set_id[0]), shape, write.added)


def note_written(desired: DesiredSets, write: Write) -> None:
    """Note that the kernel has what was written; desired may have moved on since."""
    known = desired.sets.get(write.set_id)
    if known is None:
        return
    if write.rewritten:
        known.shape = desired.shape(write.set_id)
        known.note_actual(write.added)
    else:
        known.note_written(write.added, write.deleted)
    if known.in_sync:
        desired.dirty.discard(write.set_id)


def describe_write(desired: DesiredSets, write: Write) -> Change:
    name = desired.name(write.set_id)
    if write.rewritten:
        return Change("+", name, f"{count_rows(write.added)} members")
    return Change("~", name, f"+{count_rows(write.added)} -{count_rows(write.deleted)} members")


def is_temporary(name: str) -> bool:
    """Tell whether a set is one that is filled to be swapped in, or was left behind by a crash then."""
    return name.startswith(tuple(f"cali{family}t" for family in Family)) and name[6:].isdigit()
