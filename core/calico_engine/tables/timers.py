"""When to read the kernel's tables back.

Pure: time comes in through the clock. After a write the kernel is looked at again after the post-write interval, then
after twice that and so on, because another program's read-modify-write may have undone it; and every refresh interval.
Source: felix/iptables/table.go, Apply.
"""

from __future__ import annotations

from collections.abc import Callable

#: Felix's smallest post-write interval.
_MIN_POST_WRITE_S = 0.05
#: Between two read-backs that foreign changes ask for, so that a busy neighbour costs us a fifth of a CPU at most.
_MIN_FOREIGN_CHANGE_S = 0.05
_READ_TIMES_APART = 5


class ResyncTimer:
    """Tells when a read-back is due. `is_trusted` says that what we remember was right when last looked at."""

    def __init__(self, clock: Callable[[], float], *, refresh_s: float, post_write_s: float = 0.0) -> None:
        """A 0 switches that way of looking off."""
        self._clock = clock
        self.is_trusted = False
        self._last_read_s = float("-inf")
        self._expired = True
        self._foreign_due_s: float | None = None
        self._foreign_apart_s = _MIN_FOREIGN_CHANGE_S
        self._post_write_due_s: float | None = None
        self._post_write_step_s = 0.0
        self._refresh_s = 0.0
        self._post_write_s = 0.0
        self.configure(refresh_s=refresh_s, post_write_s=post_write_s)

    def configure(self, *, refresh_s: float, post_write_s: float = 0.0) -> None:
        self._refresh_s = max(refresh_s, 0.0)
        self._post_write_s = max(post_write_s, _MIN_POST_WRITE_S) if post_write_s > 0 else 0.0

    def expire(self) -> None:
        """Make a read-back due at once."""
        self._expired = True

    def note_foreign_change(self) -> None:
        """Make a read-back due soon: at once, unless there was one just now."""
        self._foreign_due_s = max(self._clock(), self._last_read_s + self._foreign_apart_s)

    def note_read(self) -> None:
        now_s = self._clock()
        self._last_read_s = now_s
        self._expired = False
        self._foreign_due_s = None
        if self._post_write_due_s is not None and now_s >= self._post_write_due_s:
            self._post_write_step_s *= 2
            # Past the refresh interval the refresh does the looking.
            longest_s = self._refresh_s or 3600.0
            self._post_write_due_s = (
                now_s + self._post_write_step_s if self._post_write_step_s < longest_s else None
            )

    def note_write(self) -> None:
        if self._post_write_s:
            self._post_write_step_s = self._post_write_s
            self._post_write_due_s = self._clock() + self._post_write_s

    def note_read_took(self, duration_s: float) -> None:
        self._foreign_apart_s = max(_MIN_FOREIGN_CHANGE_S, _READ_TIMES_APART * duration_s)

    def is_due(self) -> bool:
        due_s = self.due_in_s()
        return due_s is not None and due_s <= 0

    def due_in_s(self) -> float | None:
        """Return how long until the next read-back, 0 when one is due; None when nothing asks for one."""
        if self._expired:
            return 0.0
        times = [self._foreign_due_s, self._post_write_due_s]
        if self._refresh_s:
            times.append(self._last_read_s + self._refresh_s)
        known = [time_s for time_s in times if time_s is not None]
        return max(min(known) - self._clock(), 0.0) if known else None
