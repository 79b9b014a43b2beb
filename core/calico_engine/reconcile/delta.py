"""Track desired against actual objects, and say what turns one into the other.

Pure. Every driver of kernel objects keeps one DeltaTracker. Only keys that may differ are visited, so a
pending Delta costs O(dirty) whatever the table holds; the full comparison runs in replace_desired and
replace_actual, that is at start-up, after a resync and for drift. The Delta depends on current state
alone, not on the order of the calls that led to it.
"""

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Generic, Never, Protocol, TypeVar

import msgspec


class Orderable(Protocol):
    """What a key, or the order function's value for it, must be: comparable with its like."""

    def __lt__(self, other: Never, /) -> bool: ...
    def __hash__(self) -> int: ...


K = TypeVar("K", bound=Orderable)
V = TypeVar("V")


class Delta(msgspec.Struct, Generic[K, V], frozen=True):
    """What a commit has to do, each part in key order.

    add: (key, desired); change: (key, actual, desired); delete: (key, actual).
    revision: the tracker's state this was made from; DeltaTracker.applied needs it.
    """

    add: tuple[tuple[K, V], ...] = ()
    change: tuple[tuple[K, V, V], ...] = ()
    delete: tuple[tuple[K, V], ...] = ()
    revision: int = 0

    def __bool__(self) -> bool:
        return bool(self.add or self.change or self.delete)

    def __len__(self) -> int:
        return len(self.add) + len(self.change) + len(self.delete)


class DeltaTracker(Generic[K, V]):
    """Desired and actual values by key, with the set of keys where they may differ.

    A commit that fails changes nothing here, so its keys stay pending. Values compare by `==`.
    """

    def __init__(self, order: Callable[[K], Orderable] | None = None) -> None:
        """order: what to sort keys by where they do not compare with each other (v4 with v6)."""
        self._order = order
        self._desired: dict[K, V] = {}
        self._actual: dict[K, V] = {}
        self._dirty: set[K] = set()
        # Keys to write even if equal, with the revision that asked for it.
        self._marked: dict[K, int] = {}
        self._revision = 0

    @property
    def desired(self) -> Mapping[K, V]:
        """The desired values; a live view, not to be kept across calls."""
        return MappingProxyType(self._desired)

    @property
    def actual(self) -> Mapping[K, V]:
        """The values as last read or written; a live view, not to be kept across calls."""
        return MappingProxyType(self._actual)

    @property
    def in_sync(self) -> bool:
        """Whether pending() would be empty."""
        return not self._dirty

    @property
    def dirty_count(self) -> int:
        """How many keys pending() would name."""
        return len(self._dirty)

    def set_desired(self, key: K, value: V) -> None:
        """Want the key to have this value."""
        self._desired[key] = value
        self._refresh(key)

    def delete_desired(self, key: K) -> None:
        """Want the key to be absent; no error when it already is."""
        self._desired.pop(key, None)
        self._refresh(key)

    def replace_desired(self, values: Mapping[K, V]) -> None:
        """Want exactly these values."""
        self._desired = dict(values)
        self._refresh_all()

    def set_actual(self, key: K, value: V) -> None:
        """Note that the key was found to have this value."""
        self._actual[key] = value
        self._marked.pop(key, None)
        self._refresh(key)

    def replace_actual(self, values: Mapping[K, V]) -> None:
        """Note that a full read-back found exactly these values; marks are answered by it."""
        self._actual = dict(values)
        self._marked.clear()
        self._refresh_all()

    def forget(self, key: K) -> None:
        """Note that the key was found to be absent; no error when it was not known."""
        self._actual.pop(key, None)
        self._marked.pop(key, None)
        self._refresh(key)

    def mark_dirty(self, keys: Iterable[K]) -> None:
        """Have the next Delta write these keys although desired and actual look equal.

        For a driver that learns that something else touched an object, but not what it did.
        """
        self._revision += 1
        for key in keys:
            self._marked[key] = self._revision
            self._refresh(key)

    def pending(self) -> Delta[K, V]:
        """Return what turns actual into desired. Reads only: call applied() once it is committed."""
        add: list[tuple[K, V]] = []
        change: list[tuple[K, V, V]] = []
        delete: list[tuple[K, V]] = []
        for key in self._in_order(self._dirty):
            if key not in self._desired:
                delete.append((key, self._actual[key]))
            elif key not in self._actual:
                add.append((key, self._desired[key]))
            else:
                change.append((key, self._actual[key], self._desired[key]))
        return Delta(tuple(add), tuple(change), tuple(delete), self._revision)

    def applied(self, delta: Delta[K, V]) -> None:
        """Note that the delta, or the part of it given here, is now the actual state.

        Desired may have moved on since pending(); what then still differs stays pending. So does a
        key marked since.
        """
        for key, value in delta.add:
            self._note_written(key, value, delta.revision)
        for key, _, value in delta.change:
            self._note_written(key, value, delta.revision)
        for key, _ in delta.delete:
            self._actual.pop(key, None)
            self._unmark(key, delta.revision)
            self._refresh(key)

    def _note_written(self, key: K, value: V, revision: int) -> None:
        self._actual[key] = value
        self._unmark(key, revision)
        self._refresh(key)

    def _unmark(self, key: K, revision: int) -> None:
        if self._marked.get(key, revision + 1) <= revision:
            del self._marked[key]

    def _refresh(self, key: K) -> None:
        """Keep: key is dirty exactly when pending() must name it; no mark without an object."""
        wanted, present = key in self._desired, key in self._actual
        if not wanted and not present:
            self._marked.pop(key, None)
            self._dirty.discard(key)
        elif wanted and present and key not in self._marked and self._desired[key] == self._actual[key]:
            self._dirty.discard(key)
        else:
            self._dirty.add(key)

    def _refresh_all(self) -> None:
        desired, actual = self._desired, self._actual
        # Two loops instead of _refresh by key: this runs over whole tables.
        self._dirty = {key for key, value in desired.items() if key not in actual or actual[key] != value}
        self._dirty.update(key for key in actual if key not in desired)
        self._marked = {key: n for key, n in self._marked.items() if key in desired or key in actual}
        self._dirty.update(self._marked)

    def _in_order(self, keys: set[K]) -> list[K]:
        return sorted(keys) if self._order is None else sorted(keys, key=self._order)
