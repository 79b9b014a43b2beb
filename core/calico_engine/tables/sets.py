"""Which named sets one family's table needs, what they should hold, and how to get the kernel there.

Pure. For backends whose table has named sets and maps (Limits.has_named_sets). A set is wanted as long as a chain that
is programmed looks into it; what it holds comes from the classifier and the compiler, element by element, so that a
pod that comes costs one element and no walk over the others.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Protocol

from calico_engine.plugin.protocols import Change
from calico_engine.ruleset.classify import Classifier, ClassifierChanges, ExactTable
from calico_engine.ruleset.ir import (
    ChainKey,
    Family,
    Level,
    Rule,
)
from calico_engine.tables import set_content as content
from calico_engine.tables.backend import ActualSet, Element, SetWrite
from calico_engine.tables.named_set import NamedSet, SetContent
from calico_engine.tables.set_needs import (
    WITH_IDENTITY,
    DispatchNeed,
    IdentitiesNeed,
    InterfacesNeed,
    IPPortsNeed,
    LevelNeed,
    Need,
    PairsNeed,
    SmallNeed,
    SourcesNeed,
    find_needs,
)
from calico_engine.tables.single_table import (
    HOSTS_MAP,
    INTERFACES_SET,
    NETS_MAP,
    SOURCES_SET,
    level_map,
    members_set,
)

#: Elements changed in one step.
_STEP = 1000
_END = object()


class SetSource(Protocol):
    """What knows members and identities: the compiler."""

    family: Family

    @property
    def classifier(self) -> Classifier | None: ...

    @property
    def sources(self) -> AbstractSet[tuple[str, str]]:
        """(interface, address) of workloads; another object after each change."""
        ...

    @property
    def interfaces(self) -> AbstractSet[str]:
        """Interfaces of workloads; another object after each change."""
        ...

    def ip_port_members(self, set_id: str, /) -> Collection[str]:
        """Return the members of a set of addresses and ports, of both families."""
        ...


class SetTables:
    """The sets of one family. `note_chain` says what is programmed, `settle_steps` works out what sets that takes."""

    def __init__(self, source: SetSource) -> None:
        self._source = source
        self._sets: dict[str, NamedSet] = {}
        self._needs: dict[str, Need] = {}
        self._needed_by: dict[ChainKey, frozenset[str]] = {}
        self._users: dict[str, set[ChainKey]] = {}
        self._unsettled: dict[str, None] = {}
        self._dirty: set[str] = set()
        # In the kernel, and wanted no more.
        self._unused: set[str] = set()
        # Verdict tables as their maps have them.
        self._tables: dict[str, ExactTable] = {}
        self._sources: AbstractSet[tuple[str, str]] = frozenset()
        self._interfaces: AbstractSet[str] = frozenset()
        # Keys of identities that no address has any more, by set: they go in prune, see `retire`.
        self._stale: dict[str, set[bytes]] = {}
        # What the classifier has told and is being carried over.
        self._feed: Iterator[None] | None = None

    @property
    def element_count(self) -> int:
        return sum(len(named) for named in self._sets.values())

    @property
    def set_count(self) -> int:
        return len(self._needs)

    # What is wanted

    def note_chain(self, key: ChainKey, rules: Sequence[Rule]) -> None:
        """Note what a chain that is programmed looks into; no rules for one that is not."""
        needs = dict(find_needs(key, rules))
        before = self._needed_by.get(key, frozenset())
        names = frozenset(needs)
        for name, need in needs.items():
            if self._needs.get(name) != need:
                self._needs[name] = need
                self._unsettled[name] = None
        for name in names - before:
            self._users.setdefault(name, set()).add(key)
        for name in before - names:
            users = self._users[name]
            users.discard(key)
            if not users:
                del self._users[name], self._needs[name]
                self._unsettled[name] = None
        if names:
            self._needed_by[key] = names
        else:
            self._needed_by.pop(key, None)

    def users(self, name: str) -> frozenset[ChainKey]:
        """Return the programmed chains that look into a set."""
        return frozenset(self._users.get(name, ()))

    def touch(self, set_ids: Iterable[str]) -> None:
        """Note that members of these sets changed. Sets of addresses alone are the classifier's."""
        for set_id in set_ids:
            name = members_set(set_id)
            if isinstance(self._needs.get(name), IPPortsNeed):
                self._unsettled[name] = None

    def settle_steps(self) -> Iterator[None]:
        """Bring what is wanted up to date, in small steps; whoever settles meanwhile, or later, does what is left."""
        classifier = self._source.classifier
        if self._feed is None and classifier is not None and classifier.is_current:
            self._feed = self._take_changes(classifier.take_changes())
        # Not `yield from`, which would end the feed with us: what it has taken must not be lost.
        while self._feed is not None:
            if next(self._feed, _END) is _END:
                self._feed = None
            yield
        if SOURCES_SET in self._needs and self._sources is not self._source.sources:
            self._unsettled[SOURCES_SET] = None
        if INTERFACES_SET in self._needs and self._interfaces is not self._source.interfaces:
            self._unsettled[INTERFACES_SET] = None
        while self._unsettled:
            name = next(iter(self._unsettled))
            need = self._needs.get(name)
            if isinstance(need, IdentitiesNeed):
                yield from self._fill(need)
            else:
                del self._unsettled[name]
                self._settle(name)
            yield

    def _settle(self, name: str) -> None:
        """Want a set from now on, or no longer, or with another content."""
        need = self._needs.get(name)
        if need is None:
            named = self._sets.get(name)
            if named is not None:
                named.unwant()
                self._note_dirty(named)
            return
        assert not isinstance(need, IdentitiesNeed)
        self._stale.pop(name, None)
        self._set(name).want(self._content(need))
        self._note_dirty(self._sets[name])

    def _fill(self, need: IdentitiesNeed) -> Iterator[None]:
        """Want all identities, in steps; from the beginning if they change meanwhile."""
        classifier, name = self._source.classifier, need.name
        assert classifier is not None
        make, shape, comment = _IDENTITIES[name]
        elements: dict[bytes, Element] = {}
        rounds = -1
        while rounds != classifier.rounds:
            rounds, elements = classifier.rounds, {}
            for key, element in make(classifier.identities):
                elements[key] = element
                if len(elements) % _STEP == 0:
                    yield
                    if rounds != classifier.rounds:
                        break
        # Somebody else who settled meanwhile may have done it.
        if name in self._unsettled:
            del self._unsettled[name]
            if self._needs.get(name) == need:
                self._set(name).want(SetContent(shape, elements, comment))
                self._note_dirty(self._sets[name])
            else:
                self._settle(name)

    def _content(self, need: SmallNeed) -> SetContent:
        classifier = self._source.classifier
        if isinstance(need, DispatchNeed):
            return content.dispatch_content(need.key, need.op)
        if isinstance(need, InterfacesNeed):
            self._interfaces = self._source.interfaces
            return content.interfaces_content(self._interfaces)
        if isinstance(need, SourcesNeed):
            self._sources = self._source.sources
            return content.sources_content(self._sources)
        if isinstance(need, IPPortsNeed):
            members = self._source.ip_port_members(need.set_id)
            return content.ip_port_content(members, self._source.family, need.set_id)
        assert classifier is not None
        match need:
            case PairsNeed(set_id=set_id):
                return content.pairs_content(classifier.identities.members.get(set_id, ()), set_id)
            case LevelNeed(table=table, level=level):
                self._tables[table] = classifier.exact[table]
                return content.level_content(classifier.exact[table], level)

    def _take_changes(self, changes: ClassifierChanges) -> Iterator[None]:
        """Carry the classifier's changes over to the sets there are. Those not yet made take everything later."""
        hosts, nets = self._live(HOSTS_MAP), self._live(NETS_MAP)
        if hosts is not None:
            for count, (address, number) in enumerate(changes.hosts.items(), 1):
                hosts.change(address, None if number is None else content.number_element(number))
                if count % _STEP == 0:
                    yield
        if nets is not None:
            for count, ((first, last), number) in enumerate(changes.nets.items(), 1):
                nets.change(first + last, None if number is None else content.number_element(number))
                if count % _STEP == 0:
                    yield
        for set_id, change in changes.members.items():
            pairs = self._live(members_set(set_id))
            if pairs is not None:
                for pair in change.removed:
                    self._change(pairs, content.pair_key(pair), None, of_identity=True)
                for pair in change.added:
                    self._change(pairs, content.pair_key(pair), content.MEMBER, of_identity=True)
                yield
        for table in sorted(changes.tables):
            yield from self._take_table(table)

    def _take_table(self, table: str) -> Iterator[None]:
        before = self._tables.get(table)
        classifier = self._source.classifier
        after = classifier.exact.get(table) if classifier is not None else None
        if before is None:
            return
        if after is None:
            # Whatever asked for it is about to go, too, or is made afresh.
            del self._tables[table]
            return
        self._tables[table] = after
        for level in Level:
            named = self._live(level_map(table, level))
            if named is not None:
                of_identity = level in WITH_IDENTITY
                for key, element in content.level_changes(before, after, level):
                    self._change(named, key, element, of_identity=of_identity)
                yield

    def _change(self, named: NamedSet, key: bytes, element: Element | None, *, of_identity: bool) -> None:
        """Change an element; that of an identity which is no more stays until prune."""
        classifier = self._source.classifier
        is_removed = of_identity and element is None
        if is_removed and classifier is not None and not classifier.exists(content.read_pair(key)):
            self._stale.setdefault(named.name, set()).add(key)
            return
        named.change(key, element)
        if named.name in self._stale:
            self._stale[named.name].discard(key)

    def retire(self) -> tuple[SetWrite, ...]:
        """Return what removes the elements of identities that no address has any more.

        Not in the transaction that takes the identity from its addresses: a packet on its way through a rule may have
        found the old number and would miss the verdict that is keyed by it.
        """
        stale, self._stale = self._stale, {}
        writes = []
        for name, keys in stale.items():
            named = self._sets.get(name)
            if named is None or not named.wanted:
                continue
            if not named.present or named.is_dirty:
                # Apply has not come through: prune has to wait for it.
                self._stale[name] = keys
                continue
            for key in keys:
                named.change(key, None)
            write = named.write()
            if write.removed:
                writes.append(write)
                self._note_dirty(named)
        return tuple(writes)

    def _live(self, name: str) -> NamedSet | None:
        """Return a set to change, None when it is not wanted or is about to be filled anew."""
        named = self._sets.get(name)
        if named is None or not named.wanted or name in self._unsettled:
            return None
        self._dirty.add(name)
        return named

    def _set(self, name: str) -> NamedSet:
        return self._sets.setdefault(name, NamedSet(name))

    def _note_dirty(self, named: NamedSet) -> None:
        self._dirty.add(named.name)
        if named.present and not named.wanted:
            self._unused.add(named.name)
        else:
            self._unused.discard(named.name)
        if not named.wanted and not named.present:
            self._sets.pop(named.name, None)

    # The difference

    def writes(self) -> tuple[SetWrite, ...]:
        """Return what makes every wanted set what it should be."""
        found = [self._sets[name] for name in sorted(self._dirty) if name in self._sets]
        self._dirty = {named.name for named in found if named.is_dirty}
        return tuple(named.write() for named in found if named.is_dirty)

    def remade(self) -> frozenset[ChainKey]:
        """Return the chains to be written again because a set they look into has to be made afresh."""
        found: set[ChainKey] = set()
        for name in self._dirty:
            named = self._sets.get(name)
            if named is not None and named.wanted and named.is_foreign:
                found |= self._users.get(name, set())
        return frozenset(found)

    def deletions(self) -> tuple[str, ...]:
        """Return the sets of the kernel's table that nothing looks into."""
        return tuple(sorted(self._unused))

    def everything(self) -> tuple[SetWrite, ...]:
        """Return all sets as wanted, for printing."""
        return tuple(named.everything() for _, named in sorted(self._sets.items()) if named.wanted)

    def note_committed(self, writes: Iterable[SetWrite], deleted: Iterable[str]) -> None:
        for write in writes:
            named = self._set(write.name)
            named.note_written(write)
            self._note_dirty(named)
        for name in deleted:
            named = self._set(name)
            named.note_deleted()
            self._note_dirty(named)

    def take_actual(self, actual: Mapping[str, ActualSet]) -> list[str]:
        """Note what a read-back found; return the names of sets that somebody else changed."""
        drifted = []
        for name in sorted(self._sets.keys() | actual.keys()):
            named = self._set(name)
            if named.take_actual(actual.get(name)):
                drifted.append(f"set {name}")
            self._note_dirty(named)
        return drifted

    def changes(self, writes: Iterable[SetWrite], deleted: Iterable[str], version: str) -> list[Change]:
        """Say what happens to sets in lines for people."""
        lines = [
            Change("+", f"{version} set {write.name}", f"{len(write.added)} elements")
            if write.create
            else Change("~", f"{version} set {write.name}", f"+{len(write.added)} -{len(write.removed)}")
            for write in writes
        ]
        return lines + [Change("-", f"{version} set {name}", "nothing looks into it") for name in deleted]

    def plan(self, actual: Mapping[str, ActualSet], version: str) -> list[Change]:
        """Say what would change a kernel with these sets; keeps nothing of it."""
        compared = (named.compare(actual.get(name)) for name, named in sorted(self._sets.items()))
        writes = [write for write in compared if write is not None]
        unused = [name for name in sorted(actual) if name not in self._needs]
        return self.changes(writes, unused, version)


_IDENTITIES = {
    HOSTS_MAP: (content.host_elements, content.HOSTS, "address to host identity"),
    NETS_MAP: (content.net_elements, content.NETS, "address to network identity"),
}
