"""When sets that rules still refer to are tried again. Pure: time comes in.

Soon at first, as the kernel may only be late: iptables-nft returns before the sets of rules it deleted are let go. Then
ever less often: the rules may be somebody else's.
"""

from __future__ import annotations

from collections.abc import Sequence

_SOON_S = 0.1
_LONGEST_S = 10.0


class BusyRetry:
    """Waits longer each time that it is the same sets."""

    def __init__(self) -> None:
        self.wait_s = _SOON_S
        self._until_s = 0.0
        self._busy: list[str] = []

    def remaining_s(self, now_s: float) -> float:
        """Return how long to leave them alone yet; not above 0 when it is time."""
        return self._until_s - now_s

    def note_busy(self, names: Sequence[str], now_s: float) -> None:
        self.wait_s = min(2 * self.wait_s, _LONGEST_S) if list(names) == self._busy else _SOON_S
        self._busy = list(names)
        self._until_s = now_s + self.wait_s
