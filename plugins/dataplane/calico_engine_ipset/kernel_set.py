"""One set of one family: the members it should have against those it has.

Pure. Members are rows throughout (fastpath.set_messages). Only the differences are kept beside the desired members, so
that a change costs O(change) and a set of 100 000 members is held once. What the kernel has is always
(desired - missing) + extra.
"""

from __future__ import annotations

import msgspec

from calico_engine.messages import SetKind
from calico_engine.ruleset.ir import Family
from calico_engine_ipset.packing import PackedMembers, special_rows
from calico_engine_ipset.row_set import RowSet, count_rows, left_rows, merged_rows, split_rows

#: The kernel makes sets with this many buckets if not told otherwise; growing costs a wait for all readers.
_MIN_HASHSIZE = 1024
_MAX_HASHSIZE = 1 << 20
#: A change of more than this share of a set is written as a new set and swapped in.
_REWRITE_SHARE = 0.5
_REWRITE_MIN_CHANGES = 1000
#: More rows than this are changed as buffers.
_FEW_ROWS = 1000


class SetShape(msgspec.Struct, frozen=True, gc=False):
    """What of a set cannot be changed once it is made."""

    type: str
    family: str
    maxelem: int


def wanted_shape(kind: SetKind, family: Family, maxelem: int) -> SetShape:
    return SetShape(f"hash:{kind}", "inet6" if family is Family.V6 else "inet", maxelem)


def hashsize_for(count: int) -> int:
    """Return the number of buckets with which a set of this many members never has to grow: a power of two."""
    return min(max(_MIN_HASHSIZE, 1 << max(count - 1, 0).bit_length()), _MAX_HASHSIZE)


class Difference(msgspec.Struct, frozen=True):
    """The desired rows, and by which rows the kernel's differ from them; all sorted."""

    desired: bytes
    missing: bytes
    extra: bytes


def compare(desired: bytes, actual: bytes) -> Difference:
    """Compare two buffers of sorted rows."""
    if desired == actual:
        return Difference(desired, b"", b"")
    return Difference(desired, left_rows(desired, actual), left_rows(actual, desired))


class KernelSet:
    """Desired members, and by how much the kernel's differ. `shape` is None while the kernel has no such set."""

    def __init__(self, kind: SetKind, family: Family) -> None:
        self.kind = kind
        self.family = family
        self.desired = RowSet()
        self.missing = RowSet()
        self.extra = RowSet()
        self.shape: SetShape | None = None
        self._special: frozenset[str] = frozenset()
        # Counts the changes of desired, so that a comparison made meanwhile is known to be late.
        self.generation = 0

    @property
    def in_sync(self) -> bool:
        return not self.missing and not self.extra

    @property
    def is_rewrite_cheaper(self) -> bool:
        changes = len(self.missing) + len(self.extra)
        return changes > _REWRITE_MIN_CHANGES and changes > _REWRITE_SHARE * len(self.desired)

    # Desired

    def want(self, members: PackedMembers) -> None:
        """Replace all desired members; those of the other family are left out."""
        self._special = members.special
        self._replace(members.all_rows(self.family))

    def change(self, added: PackedMembers, removed: PackedMembers) -> None:
        """Add and remove desired members; what is there already, or not there, is harmless."""
        gone, come = removed.rows[self.family], added.rows[self.family]
        if count_rows(gone) + count_rows(come) > _FEW_ROWS:
            self._replace(merged_rows(self.desired.rows(), come, gone))
        else:
            for row in split_rows(gone):
                self._unwant(row)
            for row in split_rows(come):
                self._want(row)
        if added.special or removed.special:
            self._change_special((self._special - removed.special) | added.special)

    def _replace(self, rows: bytes) -> None:
        actual = self.actual()
        self.generation += 1
        self.desired = RowSet(rows)
        self.note_actual(actual)

    def _change_special(self, special: frozenset[str]) -> None:
        before = special_rows(self._special, self.family)
        self._special = special
        after = special_rows(special, self.family)
        for row in before - after:
            self._unwant(row)
        for row in after - before:
            self._want(row)

    def _want(self, row: bytes) -> None:
        if row not in self.desired:
            self.generation += 1
            self.desired.add(row)
            if row in self.extra:
                self.extra.discard(row)
            else:
                self.missing.add(row)

    def _unwant(self, row: bytes) -> None:
        if row in self.desired:
            self.generation += 1
            self.desired.discard(row)
            if row in self.missing:
                self.missing.discard(row)
            else:
                self.extra.add(row)

    # Actual

    def actual(self) -> bytes:
        """Return what the kernel has, sorted."""
        return merged_rows(self.desired.rows(), self.extra.rows(), self.missing.rows())

    def note_actual(self, rows: bytes) -> None:
        """Note exactly which members the kernel's set has; the rows are sorted, each once."""
        self.note_difference(compare(self.desired.rows(), rows))

    def note_difference(self, difference: Difference) -> None:
        """Note by which members the kernel's set differs from the desired ones."""
        self.desired = RowSet(difference.desired)
        self.missing = RowSet(difference.missing)
        self.extra = RowSet(difference.extra)

    def note_absent(self) -> None:
        self.shape = None
        self.note_actual(b"")

    def note_written(self, added: bytes, deleted: bytes) -> None:
        """Note that these were added to and deleted from the kernel's set; desired may have moved on since."""
        if count_rows(added) + count_rows(deleted) > _FEW_ROWS:
            self.note_actual(merged_rows(self.actual(), added, deleted))
            return
        for row in split_rows(deleted):
            if row in self.desired:
                self.missing.add(row)
            else:
                self.extra.discard(row)
        for row in split_rows(added):
            if row in self.desired:
                self.missing.discard(row)
            else:
                self.extra.add(row)
