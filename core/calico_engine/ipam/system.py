"""The machine's clock and chance, for IPAM outside of tests."""

from __future__ import annotations

import asyncio
import random
import time


class SystemClock:
    """What `ipam.store.Clock` asks for."""

    def now_ns(self) -> int:
        return time.time_ns()

    def chance(self) -> float:
        return random.random()  # noqa: S311  # spreads retries, hides nothing

    async def sleep(self, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
