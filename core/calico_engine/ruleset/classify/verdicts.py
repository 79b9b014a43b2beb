"""Verdict tables: a list's steps carried out for all identities at once, class by class.

Pure. Identities are bits: a step's members are the AND of its sets' bitmaps, and what a step decides leaves the bitmap
of those still undecided. Slot 0 is the world. A table can be brought up to date for a few identities alone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from calico_engine.ruleset.classify.bitmaps import bits_of
from calico_engine.ruleset.classify.journal import Numbers
from calico_engine.ruleset.classify.pairs import WORLD_SLOT, Pair
from calico_engine.ruleset.classify.resolve import Members, Step, StepKind
from calico_engine.ruleset.classify.services import Service, partition
from calico_engine.ruleset.ir import CellVerdict, VerdictTable

Cells = dict[tuple[int, int, int], CellVerdict]
#: What steps decided, in order: the step's place, and for whom.
_Decisions = list[tuple[int, int]]
_WORLD = 1 << WORLD_SLOT


class TooManyCellsError(Exception):
    """A table would have more cells than allowed."""


class Program:
    """One list's steps, made ready to be carried out over bitmaps."""

    def __init__(self, steps: tuple[Step, ...], limit_cells: int) -> None:
        self._steps = steps
        self._limit = limit_cells
        self._kinds = [step.kind for step in steps]
        services: dict[Service, int] = {}
        places: list[list[int]] = []
        for place, step in enumerate(steps):
            index = services.setdefault(step.service, len(services))
            if index == len(places):
                places.append([])
            places[index].append(place)
        classes = partition(tuple(services))
        self._ranges = classes.ranges
        #: For each class the places of the steps that are about it.
        self._walks = {
            number: sorted(place for index in parts for place in places[index])
            for number, parts in classes.parts.items()
        }
        self._members: dict[Members, int] = {}
        self._members_of = [self._members.setdefault(step.members, len(self._members)) for step in steps]
        #: Verdicts with one op are one number.
        ops: dict[object, int] = {}
        self._ops = [ops.setdefault(step.verdict.op, len(ops)) for step in steps]
        self.set_ids = frozenset(set_id for members in self._members for set_id in members.set_ids)

    def compute(self, bitmap: Callable[[str], int], numbers_at: Callable[[int], Numbers]) -> VerdictTable:
        """Return the table over all identities. Raises: TooManyCellsError."""
        everybody = _WORLD
        for set_id in self.set_ids:
            everybody |= bitmap(set_id)
        world: dict[int, CellVerdict] = {}
        cells: Cells = {}
        self._carry_out(everybody, bitmap, numbers_at, world, cells)
        return VerdictTable(self._ranges, cells, world)

    def update(
        self,
        table: VerdictTable,
        gone: Collection[Numbers],
        come: Collection[Pair],
        bitmap: Callable[[str], int],
        numbers_at: Callable[[int], Numbers],
    ) -> VerdictTable:
        """Return the table with some identities gone and others come, itself if that changes nothing.

        Raises: TooManyCellsError.
        """
        cells = dict(table.cells)
        for host, net in gone:
            for number in self._walks:
                cells.pop((host, net, number), None)
        everybody = _WORLD
        for pair in come:
            everybody |= 1 << pair.slot
        if come:
            self._carry_out(everybody, bitmap, numbers_at, {}, cells)
        touched = {*gone, *(pair.numbers for pair in come)}
        keys = [(*numbers, number) for numbers in touched for number in self._walks]
        if all(cells.get(key) == table.cells.get(key) for key in keys):
            return table
        return VerdictTable(table.services, cells, table.world)

    def _carry_out(
        self,
        everybody: int,
        bitmap: Callable[[str], int],
        numbers_at: Callable[[int], Numbers],
        world: dict[int, CellVerdict],
        cells: Cells,
    ) -> None:
        masks = [_mask(members, everybody, bitmap) for members in self._members]
        matched = [masks[index] for index in self._members_of]
        room = self._limit - len(cells)
        numbers: dict[int, Numbers] = {}
        for number, walk in self._walks.items():
            decisions = self._decide(everybody, walk, matched)
            place = next(place for place, mask in decisions if mask & _WORLD)
            world[number] = self._steps[place].verdict
            op = self._ops[place]
            differing = [(place, mask) for place, mask in decisions if self._ops[place] != op]
            room -= sum(mask.bit_count() for _, mask in differing)
            if room < 0:
                raise TooManyCellsError(f"more than {self._limit} cells")
            for place, mask in differing:
                verdict = self._steps[place].verdict
                for slot in bits_of(mask):
                    pair = numbers.get(slot)
                    if pair is None:
                        pair = numbers[slot] = numbers_at(slot)
                    cells[(*pair, number)] = verdict

    def _decide(self, everybody: int, walk: list[int], matched: list[int]) -> _Decisions:
        """Carry out the steps at the places of a walk; every bit of `everybody` is in one decision."""
        decisions: _Decisions = []
        kinds = self._kinds
        undecided = here = everybody
        for place in walk:
            mask = matched[place] & here
            kind = kinds[place]
            if kind >= StepKind.END_DENY:
                if kind == StepKind.END_DENY and here:
                    undecided ^= here
                    decisions.append((place, here))
                    if not undecided:
                        break
                here = undecided
            elif mask:
                here ^= mask
                if kind == StepKind.DECIDE:
                    undecided ^= mask
                    decisions.append((place, mask))
                    if not undecided:
                        break
        return decisions


def _mask(members: Members, everybody: int, bitmap: Callable[[str], int]) -> int:
    mask = everybody
    for set_id in members.every:
        mask &= bitmap(set_id)
    if members.some:
        some = 0
        for set_id in members.some:
            some |= bitmap(set_id)
        mask &= some
    for set_id in members.none:
        mask &= ~bitmap(set_id)
    return mask
