"""Verdict tables for lists of policies, and the identities they are keyed by, kept up to date.

Pure. The caller says which sets there are, with their members, and which lists; `settle` brings everything up to date
in small steps, with work in proportion to what changed, and `take_changes` says what became different. Everything is a
function of the present state: sets and lists that came in another order, or in pieces, give the same tables.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping

from calico_engine.ruleset.classify.combinations import Digest, digest_ids
from calico_engine.ruleset.classify.exact import ExactTable, make_exact, update_exact
from calico_engine.ruleset.classify.identities import IdentityIndex
from calico_engine.ruleset.classify.journal import ClassifierChanges, Numbers
from calico_engine.ruleset.classify.pairs import NET_PREFIX, Pair
from calico_engine.ruleset.classify.resolve import PolicyList, resolve_list, used_sets
from calico_engine.ruleset.classify.verdicts import Program, TooManyCellsError
from calico_engine.ruleset.ir import CellVerdict, Family, Goto, Identities, Origin, VerdictTable

#: A list with more cells, or entries in exact keys, is left to its linear chain.
LIMIT_CELLS = 65_536
#: Identities between two chances to pause.
_SLICE = 200


class _List:
    """One list, what was made of it, and the identities its table does not know of yet."""

    __slots__ = ("asked", "come", "gone", "is_linear", "is_whole", "nets", "program", "wanted")

    def __init__(self, wanted: PolicyList) -> None:
        self.wanted = wanted
        self.program: Program | None = None
        #: Sets the rules look up, known or not, and networks they name.
        self.asked: frozenset[str] = used_sets(wanted)
        self.nets: frozenset[str] = frozenset()
        #: Whether the table is of all identities, so that it can be brought up to date; whether it leads to `linear`.
        self.is_whole = False
        self.is_linear = False
        self.come: dict[Pair, None] = {}
        self.gone: dict[Numbers, None] = {}


class Classifier:
    """The identities and verdict tables of one family.

    `tables`, `exact` (the same in exact keys, where that is small enough) and `identities` are live and current once
    `settle` has been run to its end. A table's value is replaced, never changed.
    """

    def __init__(self, family: Family, limit_cells: int = LIMIT_CELLS, digest: Digest = digest_ids) -> None:
        self.family = family
        self.tables: dict[str, VerdictTable] = {}
        self.exact: dict[str, ExactTable] = {}
        self._limit = limit_cells
        self._index = IdentityIndex(family, digest)
        self.identities: Identities = self._index.identities
        self._lists: dict[str, _List] = {}
        #: Which lists ask for a set (known or not), and which tables are made from a set or network.
        self._askers: dict[str, dict[str, None]] = {}
        self._users: dict[str, dict[str, None]] = {}
        self._net_users: Counter[str] = Counter()
        self._unresolved: dict[str, None] = {}
        self._stale: dict[str, None] = {}
        self._oversize: dict[str, str] = {}
        self._round: Iterator[None] | None = None
        #: How often settling has begun: as long as it stays, so does everything that came of it.
        self.rounds = 0
        self._remade: set[str] = set()

    # What the caller says

    def set_members(self, set_id: str, members: Collection[str] | None) -> None:
        """Take all members of a set of addresses and networks; None when the set is gone.

        `members` is kept until the next `settle` and must not change.
        """
        if (members is None) == (set_id in self._index.known):
            self._unresolved.update(self._askers.get(set_id, {}))
        self._index.set_members(set_id, members)

    def change_members(self, set_id: str, added: Collection[str], removed: Collection[str]) -> None:
        """Take members of a set that came and went. Says nothing of a set that is not there."""
        self._index.change_members(set_id, added, removed)

    def set_list(self, table: str, wanted: PolicyList | None) -> None:
        """Take the list that a table is for; None when the table is not needed any more."""
        old = self._lists.get(table)
        if old is not None:
            if old.wanted == wanted:
                return
            _unlink(self._askers, old.asked, table)
            self._unuse(table, old)
            del self._lists[table]
        self._unresolved.pop(table, None)
        self._stale.pop(table, None)
        if wanted is None:
            self._drop(table)
            return
        new = self._lists[table] = _List(wanted)
        for set_id in new.asked:
            self._askers.setdefault(set_id, {})[table] = None
        self._unresolved[table] = None

    # Settling

    @property
    def is_current(self) -> bool:
        """Whether `settle` has nothing to do."""
        return not (self._round or self._unresolved or self._stale or self._index.is_dirty)

    def settle(self) -> Iterator[None]:
        """Bring everything up to date, a small step a turn. Breaking off is fine: the next call goes on from there."""
        while not self.is_current:
            if self._round is None:
                self.rounds += 1
                self._round = self._settle_once()
            yield from _on(self._round)
            self._round = None

    def _settle_once(self) -> Iterator[None]:
        while self._unresolved:
            self._resolve(next(iter(self._unresolved)))
            yield
        if self._index.is_dirty:
            yield from self._index.settle()
            yield from self._spread()
        while self._stale and not self._unresolved and not self._index.is_dirty:
            yield from self._compute(next(iter(self._stale)))
            yield

    def _resolve(self, table: str) -> None:
        del self._unresolved[table]
        entry = self._lists[table]
        self._unuse(table, entry)
        steps = resolve_list(entry.wanted, self.family, self._index.known)
        entry.program = program = Program(steps, self._limit)
        for set_id in program.set_ids:
            self._users.setdefault(set_id, {})[table] = None
        entry.nets = frozenset(set_id for set_id in program.set_ids if set_id.startswith(NET_PREFIX))
        for net_id in entry.nets:
            self._net_users[net_id] += 1
            if self._net_users[net_id] == 1:
                self._index.set_net(net_id, net_id.removeprefix(NET_PREFIX))
        entry.is_whole = False
        self._stale[table] = None

    def _unuse(self, table: str, entry: _List) -> None:
        """Take back what a list's last resolution asked of the index."""
        if entry.program is None:
            return
        _unlink(self._users, entry.program.set_ids, table)
        for net_id in entry.nets:
            self._net_users[net_id] -= 1
            if not self._net_users[net_id]:
                del self._net_users[net_id]
                self._index.set_net(net_id, None)
        entry.program = None
        entry.nets = frozenset()

    def _spread(self) -> Iterator[None]:
        """Tell the lists which identities came and went."""
        pairs = self._index.pairs
        born, dead, renumbered = pairs.born, pairs.dead, pairs.renumbered
        pairs.born, pairs.dead, pairs.renumbered = [], [], False
        for done, pair in enumerate(dead, 1):
            for entry in self._entries_of(pair):
                entry.gone[pair.numbers] = None
            if not done % _SLICE:
                yield
        for done, pair in enumerate(born, 1):
            for entry in self._entries_of(pair):
                entry.come[pair] = None
            if not done % _SLICE:
                yield
        if renumbered:
            for table, entry in self._lists.items():
                entry.is_whole = False
                self._stale[table] = None

    def _entries_of(self, pair: Pair) -> list[_List]:
        """Return the lists whose tables a pair is to be added to or removed from; others are made as a whole."""
        tables: dict[str, None] = {}
        for set_id in pair.set_ids:
            tables.update(self._users.get(set_id, {}))
        self._stale.update(tables)
        return [entry for table in tables if (entry := self._lists[table]).is_whole]

    def _compute(self, table: str) -> Iterator[None]:
        """Bring one table up to date."""
        entry = self._lists[table]
        program = entry.program
        assert program is not None
        come, entry.come = [pair for pair in entry.come if pair.slot >= 0], {}
        gone, entry.gone = entry.gone, {}
        old = self.tables.get(table) if entry.is_whole else None
        pairs = self._index.pairs
        entry.is_whole = False
        new: VerdictTable | None = None
        reason = f"more than {self._limit} entries"
        try:
            if old is None:
                new = program.compute(pairs.bitmap, pairs.numbers_at)
            else:
                new = program.update(old, gone, come, pairs.bitmap, pairs.numbers_at)
        except TooManyCellsError as error:
            reason = str(error)
        yield
        if self._lists.get(table) is not entry or entry.program is not program:
            # Something else is wanted by now, and will be computed in its turn.
            return
        exact: ExactTable | None = None
        if new is not None and new is old:
            exact = self.exact[table]
        elif new is not None and old is None:
            exact = make_exact(new, self._limit)
        elif new is not None:
            touched = {*gone, *(pair.numbers for pair in come)}
            exact = update_exact(self.exact[table], new, self._limit, touched)
        self._keep(table, entry, None if new is None or exact is None else (new, exact), reason)

    def _keep(
        self, table: str, entry: _List, made: tuple[VerdictTable, ExactTable] | None, reason: str
    ) -> None:
        """Take over what was made of a list, or leave it to its linear chain if it is too large."""
        self._stale.pop(table, None)
        entry.is_whole = made is not None
        if made is None:
            self._oversize[table] = reason
            made = _linear_alone(entry.wanted, reason)
        else:
            self._oversize.pop(table, None)
        new, exact = made
        old = self.tables.get(table)
        if new is not old:
            entry.is_linear = _leads_to(exact, Goto(entry.wanted.linear))
        if new is not old and new != old:
            self.tables[table] = new
            self.exact[table] = exact
            self._note(table)

    def _drop(self, table: str) -> None:
        self._oversize.pop(table, None)
        if self.tables.pop(table, None) is not None:
            del self.exact[table]
            self._note(table)

    def _note(self, table: str) -> None:
        self._index.journal.note_table(table)
        self._remade.add(table)

    # What came of it

    def oversize(self) -> Mapping[str, str]:
        """Return the tables that are linear as a whole, and why."""
        return dict(self._oversize)

    def needs_linear(self, table: str) -> bool:
        """Tell whether any verdict of a table leads to its list's linear chain."""
        entry = self._lists.get(table)
        return entry is not None and entry.is_linear

    def exists(self, numbers: Numbers) -> bool:
        """Tell whether any address has this identity."""
        return self._index.pairs.exists(numbers)

    def take_changes(self) -> ClassifierChanges:
        """Return what changed since the last call, and forget it. Only once settled."""
        assert self.is_current, "changes are complete only once settle has been run to its end"
        return self._index.journal.take(self.identities, self._is_member)

    def take_remade(self) -> set[str]:
        """Return the tables that changed, came or went since the last call; `take_changes` tells of them apart."""
        remade, self._remade = self._remade, set()
        return remade

    def _is_member(self, set_id: str, numbers: Numbers) -> bool:
        return set_id in self._index.known and self._index.pairs.has_pair(set_id, numbers)


def _linear_alone(wanted: PolicyList, reason: str) -> tuple[VerdictTable, ExactTable]:
    verdict = CellVerdict(Goto(wanted.linear), Origin(note=f"walked policy by policy: {reason}"))
    return VerdictTable((), {}, {0: verdict}), ExactTable({}, {}, {}, {}, {}, verdict)


def _leads_to(table: ExactTable, op: Goto) -> bool:
    maps = (table.ports, table.protocols, table.identities, table.world_ports, table.world, {0: table.rest})
    verdicts = {id(verdict): verdict for entries in maps for verdict in entries.values()}
    return any(verdict.op == op for verdict in verdicts.values())


def _unlink(users: dict[str, dict[str, None]], set_ids: Collection[str], table: str) -> None:
    for set_id in set_ids:
        tables = users[set_id]
        del tables[table]
        if not tables:
            del users[set_id]


def _on(steps: Iterator[None]) -> Iterator[None]:
    """Go on with steps without ending them when the caller breaks off."""
    for _ in steps:
        yield
