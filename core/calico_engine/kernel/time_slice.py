"""Work in slices: no piece of work keeps the event loop from its other tasks for long."""

from __future__ import annotations

import asyncio
import time

SLICE_S = 0.005


class TimeSlice:
    """Begins when it is made; `if time_slice.is_over: await time_slice.give_way()` in every loop over many."""

    def __init__(self, slice_s: float = SLICE_S) -> None:
        self._slice_s = slice_s
        self._until_s = time.perf_counter() + slice_s

    @property
    def is_over(self) -> bool:
        return time.perf_counter() > self._until_s

    async def give_way(self) -> None:
        """Let everything else that is ready run once, and begin anew."""
        await asyncio.sleep(0)
        self._until_s = time.perf_counter() + self._slice_s
