"""One set of one family: the members it should have against those it has.

Pure. Only the differences are kept beside the desired members, so that a change costs O(change) and a set of 100 000
members is held once. What the kernel has is always (desired - missing) | extra.
"""

from __future__ import annotations

import socket
from collections.abc import Collection, Iterable

import msgspec

from calico_engine.messages import SetKind
from calico_engine.ruleset.ir import Family

# hash:net takes no /0: it stands for its two halves.
_HALVES = {"0.0.0.0/0": ("0.0.0.0/1", "128.0.0.0/1"), "::/0": ("::/1", "8000::/1")}
_SPECIAL = frozenset({*_HALVES, *(half for halves in _HALVES.values() for half in halves)})

#: The kernel makes sets with this many buckets if not told otherwise; growing costs a wait for all readers.
_MIN_HASHSIZE = 1024
_MAX_HASHSIZE = 1 << 20
#: A change of more than this share of a set is written as a new set and swapped in.
_REWRITE_SHARE = 0.5
_REWRITE_MIN_CHANGES = 1000


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


def of_family(members: Collection[str], kind: SetKind, family: Family) -> Iterable[str]:
    """Return the members of one family; a ':' in the address marks IPv6."""
    v6 = family is Family.V6
    if kind is SetKind.NET:
        return (member for member in members if (":" in member) is v6)
    return (member for member in members if (":" in member.partition(",")[0]) is v6)


def kernel_spelling(member: str) -> str:
    """Return a member as the ipset program prints it: an IPv4 address embedded in IPv6 is dotted."""
    if not member.startswith("::") or len(member) < 7:
        return member
    address, slash, length = member.partition("/")
    address, comma, port = address.partition(",")
    return (
        socket.inet_ntop(socket.AF_INET6, socket.inet_pton(socket.AF_INET6, address))
        + slash
        + length
        + comma
        + port
    )


class KernelSet:
    """Desired members, and by how much the kernel's differ. `shape` is None while the kernel has no such set."""

    def __init__(self, kind: SetKind, family: Family) -> None:
        self.kind = kind
        self.family = family
        self.desired: set[str] = set()
        self.missing: set[str] = set()
        self.extra: set[str] = set()
        self.shape: SetShape | None = None
        self._special: set[str] = set()
        # Counts the changes of desired, so that a comparison made meanwhile is known to be late.
        self.generation = 0
        self._rows: tuple[int, bytes] | None = None

    @property
    def rows(self) -> bytes | None:
        """The desired members as sorted rows, if they were packed since the last change."""
        return self._rows[1] if self._rows is not None and self._rows[0] == self.generation else None

    @property
    def in_sync(self) -> bool:
        return not self.missing and not self.extra

    @property
    def is_rewrite_cheaper(self) -> bool:
        changes = len(self.missing) + len(self.extra)
        return changes > _REWRITE_MIN_CHANGES and changes > _REWRITE_SHARE * len(self.desired)

    # Desired

    def want(self, members: Collection[str]) -> None:
        """Replace all desired members; those of the other family are left out."""
        wanted = {kernel_spelling(member) for member in of_family(members, self.kind, self.family)}
        self._special = wanted & _SPECIAL
        wanted = (wanted - _SPECIAL) | self._special_members()
        actual = self.actual()
        self.generation += 1
        self.desired = wanted
        self.note_actual(actual)

    def change(self, added: Collection[str], removed: Collection[str]) -> None:
        """Add and remove desired members; what is there already, or not there, is harmless."""
        for member in of_family(removed, self.kind, self.family):
            self._remove(kernel_spelling(member))
        for member in of_family(added, self.kind, self.family):
            self._add(kernel_spelling(member))

    def _add(self, member: str) -> None:
        if member in _SPECIAL:
            self._change_special(self._special | {member})
        else:
            self._want_one(member)

    def _remove(self, member: str) -> None:
        if member in _SPECIAL:
            self._change_special(self._special - {member})
        else:
            self._unwant_one(member)

    def _special_members(self) -> set[str]:
        return {half for member in self._special for half in _HALVES.get(member, (member,))}

    def _change_special(self, special: set[str]) -> None:
        before = self._special_members()
        self._special = special
        after = self._special_members()
        for member in before - after:
            self._unwant_one(member)
        for member in after - before:
            self._want_one(member)

    def _want_one(self, member: str) -> None:
        if member not in self.desired:
            self.generation += 1
            self.desired.add(member)
            if member in self.extra:
                self.extra.discard(member)
            else:
                self.missing.add(member)

    def _unwant_one(self, member: str) -> None:
        if member in self.desired:
            self.generation += 1
            self.desired.discard(member)
            if member in self.missing:
                self.missing.discard(member)
            else:
                self.extra.add(member)

    # Actual

    def actual(self) -> set[str]:
        return (self.desired - self.missing) | self.extra

    def note_actual(self, members: Collection[str]) -> None:
        """Note exactly which members the kernel's set has."""
        present = members if isinstance(members, set | frozenset) else set(members)
        self.missing = self.desired - present
        self.extra = set(present - self.desired)

    def note_difference(self, rows: bytes, missing: Collection[str], extra: Collection[str]) -> None:
        """Note by which members the kernel's set differs from the desired ones, which are these sorted rows."""
        self._rows = (self.generation, rows)
        self.missing = set(missing)
        self.extra = set(extra)

    def note_absent(self) -> None:
        self.shape = None
        self.note_actual(set())

    def note_written(self, added: Iterable[str], deleted: Iterable[str]) -> None:
        """Note that these were added to and deleted from the kernel's set; desired may have moved on since."""
        for member in deleted:
            if member in self.desired:
                self.missing.add(member)
            else:
                self.extra.discard(member)
        for member in added:
            if member in self.desired:
                self.missing.discard(member)
            else:
                self.extra.add(member)
