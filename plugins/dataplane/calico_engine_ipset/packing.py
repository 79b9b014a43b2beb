"""Members as a message brings them, to the rows of both families. Pure.

hash:net takes no /0: it stands for its two halves, which may be members of their own. So what these are made of is kept
as text; all else is rows.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Set
from itertools import islice

import msgspec

from calico_engine.fastpath import SET_ROW_SIZE, set_messages
from calico_engine.kernel.set_rows import pack_members, unpack_members
from calico_engine.ruleset.ir import Family
from calico_engine_ipset.row_set import count_rows, normal_rows, split_rows

_HALVES = {"0.0.0.0/0": ("0.0.0.0/1", "128.0.0.0/1"), "::/0": ("::/1", "8000::/1")}
_SPECIAL = frozenset({*_HALVES, *(half for halves in _HALVES.values() for half in halves)})
#: So many members are text for a millisecond, during which nothing else runs.
_AT_ONCE = 20_000


class PackedMembers(msgspec.Struct, frozen=True):
    """Rows by family, sorted, each once, and the special members of both families."""

    rows: dict[Family, bytes]
    special: frozenset[str]


_NOTHING = PackedMembers({Family.V4: b"", Family.V6: b""}, frozenset())


def pack_all(members: Set[str]) -> PackedMembers:
    """Return members as rows; a thread that does this leaves the others their turns.

    Raises: ValueError naming what is no member.
    """
    if not members:
        return _NOTHING
    special = frozenset(_SPECIAL & members)
    ordinary = members - special if special else members
    rows = normal_rows(b"".join(map(pack_members, _slices(ordinary))))
    if rows and rows[-SET_ROW_SIZE] & set_messages.NOMATCH:
        raise ValueError(f"member {unpack_members(rows[-SET_ROW_SIZE:])[0]!r}: exceptions are not supported")
    # A row begins with its family: all of IPv6 comes behind all of IPv4.
    cut = SET_ROW_SIZE * bisect_left(range(count_rows(rows)), 6, key=lambda i: rows[i * SET_ROW_SIZE])
    return PackedMembers({Family.V4: rows[:cut], Family.V6: rows[cut:]}, special)


def _slices(members: Iterable[str]) -> Iterator[list[str]]:
    rest = iter(members)
    while piece := list(islice(rest, _AT_ONCE)):
        yield piece


def special_rows(special: Iterable[str], family: Family) -> frozenset[bytes]:
    """Return the rows that special members of a family stand for."""
    v6 = family is Family.V6
    halves = [half for member in special if (":" in member) is v6 for half in _HALVES.get(member, (member,))]
    return frozenset(split_rows(pack_members(halves)))
