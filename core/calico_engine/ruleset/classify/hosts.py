"""Listed addresses in order, to find those within a network that changed.

Pure. The order is made when it is first asked for and kept from then on. Addresses that are gone stay in it until
there are too many of them.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Collection

#: So many new addresses are put into their places one by one; more are sorted in together.
_FEW = 64


class HostList:
    """The addresses of `hosts` in order, and some that are no longer there."""

    def __init__(self, hosts: Collection[bytes]) -> None:
        self._hosts = hosts
        self._order: list[bytes] | None = None
        self._fresh: list[bytes] = []

    def add(self, packed: bytes) -> None:
        """Note a new address."""
        if self._order is not None:
            self._fresh.append(packed)

    def between(self, first: bytes, last: bytes) -> list[bytes]:
        """Return the addresses from first to last, both included, in order."""
        order = self._current()
        found = order[bisect_left(order, first) : bisect_right(order, last)]
        return [packed for packed in found if packed in self._hosts]

    def _current(self) -> list[bytes]:
        order = self._order
        if order is None or len(order) + len(self._fresh) > 2 * len(self._hosts) + _FEW:
            order = self._order = sorted(self._hosts)
        elif len(self._fresh) <= _FEW:
            for packed in self._fresh:
                insort(order, packed)
        else:
            order += self._fresh
            order.sort()
        self._fresh = []
        return order
