"""Which items match which selectors, by way of classes of items that no selector can tell apart.

Items (endpoints, network sets) have own labels and inherit those of their parents (profiles; own labels win,
then the first parent). An item's labels are *projected* onto what the current selectors look at: labels nobody
asks for are left out, values nobody mentions become one OTHER value. Items with equal projections form a class;
a selector is evaluated once per class, never per item. A quarter of a million endpoints under a thousand
policies usually make some tens of classes.

Contract: put, drop, set_parent, add_query and remove_query only note what changed; `flush` brings the classes
up to date. `on_move(item, before, after)` is called just before an item changes class, also for new (before
None) and gone ones (after None), but not where a new query splits a class: that changes no earlier match. New
queries take part from the flush on.
Invariant: a class's labels are true of each of its items; OTHER stands for a value that no selector mentioned
when the item was projected. Classes may be finer than needed after selectors went.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Generic, TypeAlias

from calico_engine.calc.label_atoms import TrackedLabel, collect_atoms
from calico_engine.calc.label_classes import (
    DEAD,
    OTHER,
    UNCLASSED,
    Family,
    Item,
    LabelClass,
    Pairs,
    Query,
    QueryBuckets,
    User,
)
from calico_engine.model.resource import ResourceKey
from calico_engine.selector import Selector

OnMove: TypeAlias = Callable[[Item, LabelClass[User] | None, LabelClass[User] | None], None]


class LabelIndex(Generic[User]):
    """Items by key, queries by canonical selector, and the classes between them."""

    def __init__(self, on_move: OnMove[User]) -> None:
        self.items: dict[ResourceKey, Item] = {}
        self.queries: dict[str, Query[User]] = {}
        self.classes: dict[int, LabelClass[User]] = {}
        self.touched: set[Query[User]] = set()
        self._on_move = on_move
        self._class_by_key: dict[tuple[Pairs, Pairs], LabelClass[User]] = {}
        self._next_number = 0
        self._tracked: dict[str, TrackedLabel] = {}
        self._families: dict[tuple[str, ...], Family] = {}
        self._families_of_parent: dict[str, dict[tuple[str, ...], Family]] = {}
        self._parent_labels: dict[str, Mapping[str, str]] = {}
        self._new_items: list[Item] = []
        self._gone_items: list[Item] = []
        self._dirty_parents: set[str] = set()
        self._new_queries: dict[str, Query[User]] = {}
        self._buckets: QueryBuckets[User] = QueryBuckets()
        self._classes_with: dict[tuple[str, str], dict[int, LabelClass[User]]] = {}

    # -- noting changes ------------------------------------------------------------------------------------------

    def put(
        self,
        key: ResourceKey,
        labels: Mapping[str, str],
        parents: tuple[str, ...] = (),
        members: tuple[str, ...] = (),
        ports: tuple[tuple[str, str, int], ...] = (),
        node: str = "",
    ) -> Item | None:
        """Enter or replace an item; return what it replaces."""
        family = self._families.get(parents) or self._make_family(parents)
        item = Item(key, labels, family, members, ports, node)
        # One look-up for the many that are new: hashing keys is what this costs.
        old = self.items.setdefault(key, item)
        if old is not item:
            same = old.labels == labels and old.family is family
            if same and old.members == members and old.ports == ports and old.node == node:
                return old
            self.items[key] = item
            family.count += 1
            self._forget(old)
            self._new_items.append(item)
            return old
        family.count += 1
        self._new_items.append(item)
        return None

    def drop(self, key: ResourceKey) -> Item | None:
        """Take an item out; return it if it was there."""
        old = self.items.pop(key, None)
        if old is not None:
            self._forget(old)
        return old

    def set_parent(self, parent: str, labels: Mapping[str, str] | None) -> None:
        """Give a parent its labels; None when the parent is gone."""
        if labels:
            if self._parent_labels.get(parent) == labels:
                return
            self._parent_labels[parent] = labels
        elif self._parent_labels.pop(parent, None) is None:
            return
        if parent in self._families_of_parent:
            self._dirty_parents.add(parent)

    def add_query(self, selector: Selector, user: User) -> Query[User]:
        """Let a user take part in a selector's matches; the selector is evaluated at the next flush."""
        query = self.queries.get(selector.canonical)
        if query is None:
            query = Query(selector)
            self.queries[selector.canonical] = query
            self._new_queries[selector.canonical] = query
        query.users[user] = None
        return query

    def remove_query(self, selector: Selector, user: User) -> None:
        """Take a user off; the selector is forgotten at once with its last user."""
        query = self.queries[selector.canonical]
        del query.users[user]
        if query.users:
            return
        del self.queries[selector.canonical]
        self.touched.discard(query)
        if self._new_queries.pop(selector.canonical, None) is not None:
            return
        for each in query.classes.values():
            each.matched.discard(query)
        self._buckets.remove(query)
        for label, atoms in collect_atoms(selector.ast).items():
            tracked = self._tracked[label]
            tracked.remove(atoms)
            if not tracked.users:
                del self._tracked[label]
                self._forget_projections()

    # -- bringing up to date -------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Make classes and matches true for the current items, parents and queries."""
        self._track_new_queries()
        for item in self._refresh_families():
            if item.class_number >= 0:
                self._reclass(item)
        self._evaluate_new_queries()
        for item in self._new_items:
            if item.class_number == UNCLASSED:
                self._enter(item)
        for item in self._gone_items:
            self._leave(item)
        self._new_items.clear()
        self._gone_items.clear()

    def take_touched(self) -> set[Query[User]]:
        """Return the queries whose classes changed since the last call."""
        touched, self.touched = self.touched, set()
        return touched

    def matches(self, key: ResourceKey) -> Iterable[Query[User]]:
        """Return the queries that an item matches, as of the last flush."""
        return self.classes[self.items[key].class_number].matched

    def _forget(self, item: Item) -> None:
        """Drop an item that may or may not have a class yet."""
        family = item.family
        family.count -= 1
        if family.count == 0:
            del self._families[family.parents]
            for parent in set(family.parents):
                del self._families_of_parent[parent][family.parents]
                if not self._families_of_parent[parent]:
                    del self._families_of_parent[parent]
        if item.class_number == UNCLASSED:
            item.class_number = DEAD
        else:
            self._gone_items.append(item)

    def _make_family(self, parents: tuple[str, ...]) -> Family:
        family = Family(parents)
        self._families[parents] = family
        for parent in parents:
            self._families_of_parent.setdefault(parent, {})[parents] = family
        self._refresh_family(family)
        return family

    def _refresh_family(self, family: Family) -> None:
        family.labels = {}
        for parent in reversed(family.parents):
            family.labels.update(self._parent_labels.get(parent, {}))
        family.projection = None

    def _refresh_families(self) -> list[Item]:
        """Return the items whose inherited labels changed."""
        changed: set[Family] = set()
        for parent in self._dirty_parents:
            for family in self._families_of_parent.get(parent, {}).values():
                self._refresh_family(family)
                changed.add(family)
        self._dirty_parents.clear()
        # Comparing projections would not do: an item may be in a class made when more labels were tracked.
        return [item for item in self.items.values() if item.family in changed] if changed else []

    # -- projections ---------------------------------------------------------------------------------------------

    def _project(self, labels: Mapping[str, str]) -> Pairs:
        tracked = self._tracked
        pairs: list[tuple[str, str]] = []
        if len(labels) <= len(tracked):
            for label, value in labels.items():
                if (asked := tracked.get(label)) is not None:
                    pairs.append((label, value if value in asked.values or asked.whole else OTHER))
        else:
            for label, asked in tracked.items():
                if (found := labels.get(label)) is not None:
                    pairs.append((label, found if found in asked.values or asked.whole else OTHER))
        if len(pairs) > 1:
            pairs.sort()
        return tuple(pairs)

    def _projection(self, family: Family) -> Pairs:
        if family.projection is None:
            family.projection = self._project(family.labels)
        return family.projection

    def _forget_projections(self) -> None:
        for family in self._families.values():
            family.projection = None

    def _track_new_queries(self) -> None:
        """Let projections show what new queries ask for, and split the classes that this tells apart."""
        new_labels: set[str] = set()
        new_values: dict[str, set[str]] = {}
        newly_whole: set[str] = set()
        for query in self._new_queries.values():
            for label, atoms in collect_atoms(query.selector.ast).items():
                tracked = self._tracked.get(label)
                if tracked is None:
                    tracked = self._tracked[label] = TrackedLabel()
                    new_labels.add(label)
                added, whole = tracked.add(atoms)
                if added:
                    new_values.setdefault(label, set()).update(added)
                if whole:
                    newly_whole.add(label)
        if not (new_labels or new_values or newly_whole):
            return
        self._forget_projections()
        asked = sorted(new_labels | new_values.keys() | newly_whole)
        for label in new_labels:
            inherited = any(label in family.labels for family in self._families.values())
            for each in list(self.classes.values()):
                found = [item for item in each.items if label in item.labels]
                if inherited:
                    found += [
                        item
                        for item in each.items
                        if label not in item.labels and label in item.family.labels
                    ]
                self._split(each, found, asked)
        for label in (new_values.keys() | newly_whole) - new_labels:
            wanted = None if label in newly_whole else new_values[label]
            for each in list(self._classes_with.get((label, OTHER), {}).values()):
                found = [item for item in each.items if wanted is None or _value(item, label) in wanted]
                self._split(each, found, asked)

    def _split(self, each: LabelClass[User], items: list[Item], asked: list[str]) -> None:
        """Move some of a class's items to where their projections belong now.

        They only differ in the labels asked for in this round, so one of each kind is projected. No match of a
        query that was there before can change by this: nobody is told.
        """
        kinds: dict[object, list[Item]] = {}
        for item in items:
            own = item.labels
            kind = (item.family, *[own.get(label) for label in asked])
            kinds.setdefault(kind, []).append(item)
        for alike in kinds.values():
            after = self._class_for(alike[0])
            if after is not each:
                each.items.difference_update(alike)
                after.items.update(alike)
                for item in alike:
                    item.class_number = after.number
        if items and not each.items:
            self._drop_class(each)

    # -- classes -------------------------------------------------------------------------------------------------

    def _class_for(self, item: Item) -> LabelClass[User]:
        family = item.family
        inherited = family.projection
        if inherited is None:
            inherited = self._projection(family)
        key = (self._project(item.labels), inherited)
        found = self._class_by_key.get(key)
        return found if found is not None else self._make_class(key)

    def _enter(self, item: Item) -> None:
        each = self._class_for(item)
        self._on_move(item, None, each)
        item.class_number = each.number
        each.items.add(item)

    def _leave(self, item: Item) -> None:
        each = self.classes[item.class_number]
        self._on_move(item, each, None)
        each.items.discard(item)
        if not each.items:
            self._drop_class(each)

    def _reclass(self, item: Item) -> None:
        before = self.classes[item.class_number]
        after = self._class_for(item)
        if after is before:
            return
        self._on_move(item, before, after)
        before.items.discard(item)
        after.items.add(item)
        item.class_number = after.number
        if not before.items:
            self._drop_class(before)

    def _make_class(self, key: tuple[Pairs, Pairs]) -> LabelClass[User]:
        each: LabelClass[User] = LabelClass(self._next_number, key)
        self._next_number += 1
        self.classes[each.number] = each
        self._class_by_key[key] = each
        labels = each.labels
        for pair in labels.items():
            self._classes_with.setdefault(pair, {})[each.number] = each
        for bucket in self._buckets.candidates(labels):
            for query in bucket:
                if query.predicate(labels):
                    self._match(query, each)
        return each

    def _drop_class(self, each: LabelClass[User]) -> None:
        del self.classes[each.number]
        del self._class_by_key[each.key]
        for pair in each.labels.items():
            others = self._classes_with[pair]
            del others[each.number]
            if not others:
                del self._classes_with[pair]
        for query in each.matched:
            del query.classes[each.number]
            self.touched.add(query)

    def _match(self, query: Query[User], each: LabelClass[User]) -> None:
        query.classes[each.number] = each
        each.matched.add(query)
        self.touched.add(query)

    def _candidate_classes(self, query: Query[User]) -> Iterable[LabelClass[User]]:
        demands = query.selector.restrictions
        if demands.impossible:
            return ()
        best: list[dict[int, LabelClass[User]]] | None = None
        for label, demand in demands.labels.items():
            if demand.values is not None:
                found = [self._classes_with.get((label, value), {}) for value in demand.values]
                if best is None or sum(map(len, found)) < sum(map(len, best)):
                    best = found
        if best is None:
            return self.classes.values()
        return [each for found in best for each in found.values()]

    def _evaluate_new_queries(self) -> None:
        for query in self._new_queries.values():
            for each in self._candidate_classes(query):
                if query.predicate(each.labels):
                    self._match(query, each)
            self._buckets.add(query)
            # Also when nothing matches: whoever asked waits for an answer.
            self.touched.add(query)
        self._new_queries.clear()


def _value(item: Item, label: str) -> str | None:
    value = item.labels.get(label)
    return item.family.labels.get(label) if value is None else value
