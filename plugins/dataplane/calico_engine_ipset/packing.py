"""Members as a message brings them, to the rows of both families. Pure.

hash:net takes no /0: it stands for its two halves, which may be members of their own. So what these are made of is kept
as text; all else is rows.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Set
from itertools import islice
from queue import SimpleQueue

import msgspec

from calico_engine.fastpath import SET_ROW_SIZE, set_messages
from calico_engine.kernel.set_rows import pack_members, unpack_members
from calico_engine.ruleset.ir import Family
from calico_engine_ipset.row_set import count_rows, merged_rows, normal_rows, split_rows

_HALVES = {"0.0.0.0/0": ("0.0.0.0/1", "128.0.0.0/1"), "::/0": ("::/1", "8000::/1")}
_SPECIAL = frozenset({*_HALVES, *(half for halves in _HALVES.values() for half in halves)})
#: So many members are text for a millisecond, during which nothing else runs.
_AT_ONCE = 20_000
#: And so many at first, as somebody may wait for them.
_FIRST = 4_000


class PackedMembers(msgspec.Struct, frozen=True):
    """Rows by family, sorted, each once, and the special members of both families."""

    rows: dict[Family, bytes]
    special: frozenset[str]

    def all_rows(self, family: Family) -> bytes:
        """Return all rows of a family, sorted; the buffer itself where nothing is special."""
        if not self.special:
            return self.rows[family]
        return merged_rows(self.rows[family], normal_rows(b"".join(special_rows(self.special, family))), b"")


_NOTHING = PackedMembers({Family.V4: b"", Family.V6: b""}, frozenset())


def pack_all(members: Set[str]) -> PackedMembers:
    """Return members as rows; a thread that does this leaves the others their turns.

    Raises: ValueError naming what is no member.
    """
    return Packing(members).run() if members else _NOTHING


class Packing:
    """Members on their way to rows. Another thread may take each piece as soon as it is there."""

    def __init__(self, members: Set[str]) -> None:
        self.special = frozenset(_SPECIAL & members)
        #: How many rows there will be, or a few more.
        self.count = len(members) + len(self.special)
        self._members = members - self.special if self.special else members
        self._pieces: SimpleQueue[dict[Family, bytes] | None] = SimpleQueue()

    def run(self) -> PackedMembers:
        """Return all members. Raises: ValueError naming what is no member; the pieces before it were given out."""
        parts: list[bytes] = []
        try:
            if self.special:
                self._pieces.put({family: b"".join(special_rows(self.special, family)) for family in Family})
            for members in _slices(self._members):
                parts.append(pack_members(members))
                self._pieces.put(_by_family(parts[-1]))
        finally:
            self._pieces.put(None)
        return PackedMembers(_split_families(normal_rows(b"".join(parts))), self.special)

    def pieces(self, family: Family) -> Iterator[bytes]:
        """Yield the rows of one family as `run` makes them, to one taker, who waits for them."""
        while (piece := self._pieces.get()) is not None:
            yield piece[family]


def _by_family(rows: bytes) -> dict[Family, bytes]:
    """Return rows by family, in any order; mostly there is one, and nothing to do."""
    families = rows[::SET_ROW_SIZE]
    if families.count(4) == len(families):
        return {Family.V4: rows, Family.V6: b""}
    return _split_families(normal_rows(rows))


def _split_families(rows: bytes) -> dict[Family, bytes]:
    """Return sorted rows by family. Raises: ValueError for an exception of a set."""
    if rows and rows[-SET_ROW_SIZE] & set_messages.NOMATCH:
        raise ValueError(f"member {unpack_members(rows[-SET_ROW_SIZE:])[0]!r}: exceptions are not supported")
    # A row begins with its family: all of IPv6 comes behind all of IPv4.
    cut = SET_ROW_SIZE * bisect_left(range(count_rows(rows)), 6, key=lambda i: rows[i * SET_ROW_SIZE])
    return {Family.V4: rows[:cut], Family.V6: rows[cut:]}


def first_family(members: Iterable[str]) -> Family:
    """Return the family of the first member: of most sets, that of nearly all."""
    return Family.V6 if ":" in next(iter(members)).partition(",")[0] else Family.V4


def _slices(members: Iterable[str]) -> Iterator[list[str]]:
    rest = iter(members)
    count = _FIRST
    while piece := list(islice(rest, count)):
        yield piece
        count = _AT_ONCE


def special_rows(special: Iterable[str], family: Family) -> frozenset[bytes]:
    """Return the rows that special members of a family stand for."""
    v6 = family is Family.V6
    halves = [half for member in special if (":" in member) is v6 for half in _HALVES.get(member, (member,))]
    return frozenset(split_rows(pack_members(halves)))
