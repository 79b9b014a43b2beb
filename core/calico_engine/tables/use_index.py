"""Who uses what: from objects to the parts of a ruleset that were compiled from them.

Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, TypeVar

from calico_engine.model.resource import ResourceKey

#: What chains are made from: a kind of object, and its key where there is more than one.
Part = tuple[str, ResourceKey | str | None]

K = TypeVar("K", ResourceKey, str, Part)


class UseIndex(Generic[K]):
    """Uses of objects by parts, in both directions."""

    def __init__(self) -> None:
        self._uses: dict[Part, frozenset[K]] = {}
        self._users: dict[K, set[Part]] = {}

    def __contains__(self, key: K) -> bool:
        """Whether anything uses the object."""
        return key in self._users

    def users(self, key: K) -> frozenset[Part]:
        return frozenset(self._users.get(key, ()))

    def move(self, part: Part, used: Iterable[K]) -> frozenset[K]:
        """Note all that a part uses now; return what came into use by that, or went out of it."""
        now = frozenset(used)
        fresh = frozenset(key for key in now if key not in self._users)
        return fresh | self.note(part, now)

    def note(self, part: Part, used: Iterable[K]) -> frozenset[K]:
        """Note all that a part uses now; return what nobody uses any more."""
        now = frozenset(used)
        before = self._uses.get(part, frozenset())
        for key in now - before:
            self._users.setdefault(key, set()).add(part)
        dropped = []
        for key in before - now:
            self._users[key].discard(part)
            if not self._users[key]:
                del self._users[key]
                dropped.append(key)
        if now:
            self._uses[part] = now
        else:
            self._uses.pop(part, None)
        return frozenset(dropped)
