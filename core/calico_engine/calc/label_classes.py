"""Items, the classes they fall into, and the selectors asked about them: the parts of the label index.

Contract: see calico_engine.calc.label_index, which owns and changes all of these.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Generic, TypeAlias, TypeVar

import msgspec

from calico_engine.model.resource import ResourceKey
from calico_engine.selector import Selector

# Stands for every value that no selector mentions. None can: selectors refuse lone surrogates.
OTHER = "\ud800"
# Class numbers of items that have none: not yet, and no more before they ever had one.
UNCLASSED = -1
DEAD = -2

Pairs: TypeAlias = tuple[tuple[str, str], ...]
User = TypeVar("User")


class Family:
    """One distinct list of parents, shared by the items that have it."""

    __slots__ = ("count", "labels", "parents", "projection")

    def __init__(self, parents: tuple[str, ...]) -> None:
        self.parents = parents
        self.count = 0
        self.labels: dict[str, str] = {}
        self.projection: Pairs | None = None


class Item(msgspec.Struct, eq=False, gc=False):
    """What the index knows of an endpoint or network set.

    `members` are canonical networks, `ports` (name, protocol, number), `node` where it runs; the index itself does
    not look at them.
    Kept out of cyclic garbage collection: there are very many, and none refers back to a class.
    """

    key: ResourceKey
    labels: Mapping[str, str]
    family: Family
    members: tuple[str, ...] = ()
    ports: tuple[tuple[str, str, int], ...] = ()
    node: str = ""
    class_number: int = UNCLASSED


class Query(Generic[User]):
    """A selector in use, who uses it, and the classes it matches now."""

    __slots__ = ("classes", "predicate", "selector", "users")

    def __init__(self, selector: Selector) -> None:
        self.selector = selector
        self.predicate = selector.predicate
        self.users: dict[User, None] = {}
        self.classes: dict[int, LabelClass[User]] = {}


class LabelClass(Generic[User]):
    """Items that no current selector tells apart, and the queries that match them."""

    __slots__ = ("items", "key", "labels", "matched", "number")

    def __init__(self, number: int, key: tuple[Pairs, Pairs]) -> None:
        self.number = number
        self.key = key
        self.labels: dict[str, str] = dict(key[1])
        self.labels.update(key[0])
        self.items: set[Item] = set()
        self.matched: set[Query[User]] = set()


class QueryBuckets(Generic[User]):
    """Queries by what an item must have to be matched by them at all."""

    def __init__(self) -> None:
        self._by_value: dict[tuple[str, str], dict[Query[User], None]] = {}
        self._by_label: dict[str, dict[Query[User], None]] = {}
        self._by_nothing: dict[Query[User], None] = {}

    def add(self, query: Query[User]) -> None:
        """Enter a query under its most telling restriction; not at all if nothing can match it."""
        label, values = _most_telling(query.selector)
        if values is not None:
            for value in values:
                self._by_value.setdefault((label, value), {})[query] = None
        elif label:
            self._by_label.setdefault(label, {})[query] = None
        elif not query.selector.restrictions.impossible:
            self._by_nothing[query] = None

    def remove(self, query: Query[User]) -> None:
        """Take a query out."""
        label, values = _most_telling(query.selector)
        if values is not None:
            for value in values:
                _discard(self._by_value, (label, value), query)
        elif label:
            _discard(self._by_label, label, query)
        else:
            self._by_nothing.pop(query, None)

    def candidates(self, labels: Mapping[str, str]) -> Iterator[Iterable[Query[User]]]:
        """Yield groups of queries that items with these labels may match."""
        yield self._by_nothing
        for pair in labels.items():
            if (bucket := self._by_value.get(pair)) is not None:
                yield bucket
            if (bucket := self._by_label.get(pair[0])) is not None:
                yield bucket

    def __bool__(self) -> bool:
        return bool(self._by_value or self._by_label or self._by_nothing)


def _most_telling(selector: Selector) -> tuple[str, frozenset[str] | None]:
    """Return the label that must be there and the values it may have; ("", None) if there is no such label."""
    best: tuple[str, frozenset[str] | None] = ("", None)
    if selector.restrictions.impossible:
        return best
    for label, demand in selector.restrictions.labels.items():
        if demand.must_be_present:
            narrower = demand.values is not None and (best[1] is None or len(demand.values) < len(best[1]))
            if narrower or not best[0]:
                best = (label, demand.values)
    return best


Key = TypeVar("Key")


def _discard(buckets: dict[Key, dict[Query[User], None]], key: Key, query: Query[User]) -> None:
    bucket = buckets.get(key)
    if bucket is not None:
        bucket.pop(query, None)
        if not bucket:
            del buckets[key]
