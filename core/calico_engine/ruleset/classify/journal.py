"""What became different since somebody last asked, as the smallest change that leads from then to now.

Pure. The first touch of a thing notes what it was; what it is comes from the index when the changes are taken.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import msgspec

from calico_engine.ruleset.ir import Identities

Numbers = tuple[int, int]
Range = tuple[bytes, bytes]
_K = TypeVar("_K", bytes, Range)


class MemberChange(msgspec.Struct, frozen=True, gc=False):
    """Pairs of identity numbers that became members of a set, and that no longer are."""

    added: frozenset[Numbers] = frozenset()
    removed: frozenset[Numbers] = frozenset()


class ClassifierChanges(msgspec.Struct, frozen=True):
    """What leads from the state at the last call to the present one; None: no longer there.

    `members` has an entry for every set that changed, came (perhaps empty) or is gone (see Identities.members).
    `tables` are the verdict tables that changed or are gone.
    """

    hosts: Mapping[bytes, int | None] = {}
    nets: Mapping[Range, int | None] = {}
    members: Mapping[str, MemberChange] = {}
    tables: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.hosts or self.nets or self.members or self.tables)


class Journal:
    """Notes of what things were before they changed."""

    def __init__(self) -> None:
        self._hosts: dict[bytes, int | None] = {}
        self._nets: dict[Range, int | None] = {}
        self._members: dict[str, dict[Numbers, bool]] = {}
        self._tables: set[str] = set()

    def note_host(self, packed: bytes, was: int | None) -> None:
        self._hosts.setdefault(packed, was)

    def note_range(self, span: Range, was: int | None) -> None:
        self._nets.setdefault(span, was)

    def note_set(self, set_id: str) -> None:
        """Note that a set came or is gone."""
        self._members.setdefault(set_id, {})

    def note_member(self, set_id: str, numbers: Numbers, *, was: bool) -> None:
        self._members.setdefault(set_id, {}).setdefault(numbers, was)

    def note_table(self, table: str) -> None:
        self._tables.add(table)

    def take(self, identities: Identities, is_member: Callable[[str, Numbers], bool]) -> ClassifierChanges:
        """Return the changes and forget them."""
        changes = ClassifierChanges(
            _differing(self._hosts, identities.hosts.get),
            _differing(self._nets, identities.nets.get),
            {
                set_id: MemberChange(
                    frozenset(pair for pair, was in touched.items() if not was and is_member(set_id, pair)),
                    frozenset(pair for pair, was in touched.items() if was and not is_member(set_id, pair)),
                )
                for set_id, touched in self._members.items()
            },
            frozenset(self._tables),
        )
        self._hosts, self._nets, self._members, self._tables = {}, {}, {}, set()
        return changes


def _differing(touched: Mapping[_K, int | None], now: Callable[[_K], int | None]) -> dict[_K, int | None]:
    """Return what touched things are now, without those that are again what they were."""
    return {key: number for key, was in touched.items() if (number := now(key)) != was}
