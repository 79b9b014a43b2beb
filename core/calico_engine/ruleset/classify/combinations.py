"""Combinations of sets: what an address is a member of, each known by a 32-bit number.

Pure. A combination exists once; the way from one to the next by a set more or less is remembered, so that a member
that comes or goes costs a dictionary lookup. A combination's number is a digest of its set ids, so that it is the
same in every process. Two that share a digest are told apart by probing in sorted order: a function of which
combinations are in use, not of who came first.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator

Digest = Callable[[tuple[str, ...]], int]
_NUMBERS = 1 << 32
#: Combinations that nobody uses are kept up to this many, and as many again as are in use.
_SPARE = 4096


def digest_ids(ids: tuple[str, ...]) -> int:
    """Return 32 bits of the digest of a sorted tuple of set ids, at least 1."""
    raw = hashlib.blake2b("\0".join(ids).encode(), digest_size=4).digest()
    return int.from_bytes(raw, "big") or 1


class Combination:
    """The sets that an address is in, sorted. `number` is valid while `uses` is above 0; the empty one's is 0."""

    __slots__ = ("ids", "minus", "number", "plus", "uses")

    def __init__(self, ids: tuple[str, ...]) -> None:
        self.ids = ids
        self.number = 0
        self.uses = 0
        self.plus: dict[str, Combination] = {}
        self.minus: dict[str, Combination] = {}


class Combinations:
    """All combinations of one kind of member, and their numbers."""

    def __init__(self, digest: Digest = digest_ids) -> None:
        self.empty = Combination(())
        self._digest = digest
        self._known: dict[tuple[str, ...], Combination] = {(): self.empty}
        self._used: set[Combination] = set()
        self._owners: dict[int, int] = {}
        self._clashes = 0
        self._probed = False

    def with_set(self, combination: Combination, set_id: str) -> Combination:
        """Return the combination with one set more."""
        found = combination.plus.get(set_id)
        if found is None:
            ids = combination.ids
            place = bisect_left(ids, set_id)
            if place < len(ids) and ids[place] == set_id:
                found = combination
            else:
                found = self._intern((*ids[:place], set_id, *ids[place:]))
            combination.plus[set_id] = found
        return found

    def without_set(self, combination: Combination, set_id: str) -> Combination:
        """Return the combination with one set less."""
        found = combination.minus.get(set_id)
        if found is None:
            ids = combination.ids
            found = (
                self._intern(tuple(other for other in ids if other != set_id))
                if set_id in ids
                else combination
            )
            combination.minus[set_id] = found
        return found

    def with_sets(self, combination: Combination, set_ids: Iterable[str]) -> Combination:
        """Return the combination with several sets more."""
        for set_id in set_ids:
            combination = self.with_set(combination, set_id)
        return combination

    def _intern(self, ids: tuple[str, ...]) -> Combination:
        found = self._known.get(ids)
        if found is None:
            found = self._known[ids] = Combination(ids)
        return found

    def claim(self, combination: Combination) -> None:
        """Count one more use; the first gives it a number, final once `renumber` has been called."""
        combination.uses += 1
        if combination.uses > 1 or combination is self.empty:
            return
        number = combination.number = self._digest(combination.ids)
        self._used.add(combination)
        owners = self._owners[number] = self._owners.get(number, 0) + 1
        self._clashes += owners > 1

    def release(self, combination: Combination) -> None:
        """Count one use less."""
        combination.uses -= 1
        if combination.uses or combination is self.empty:
            return
        self._used.discard(combination)
        number = self._digest(combination.ids)
        owners = self._owners[number] - 1
        if owners:
            self._owners[number] = owners
            self._clashes -= 1
        else:
            del self._owners[number]

    def renumber(self) -> Iterator[tuple[Combination, int]]:
        """Yield each combination in use whose number must change, and the number; the caller sets it.

        Does nothing unless digests clash now or did at the last call.
        """
        if not self._clashes and not self._probed:
            return
        self._probed = self._clashes > 0
        taken: set[int] = set()
        for combination in sorted(self._used, key=lambda entry: entry.ids):
            number = self._digest(combination.ids)
            while number in taken:
                number = number % (_NUMBERS - 1) + 1
            taken.add(number)
            if number != combination.number:
                yield combination, number

    def forget_unused(self) -> None:
        """Drop combinations that nobody uses when they have become many."""
        if len(self._known) <= 2 * len(self._used) + _SPARE:
            return
        kept = {*self._used, self.empty}
        self._known = {combination.ids: combination for combination in kept}
        for combination in kept:
            combination.plus = {}
            combination.minus = {}
