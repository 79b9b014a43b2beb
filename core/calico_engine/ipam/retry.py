"""How often a lost compare-and-set is tried again, and how long to wait before."""

from __future__ import annotations

from calico_engine.ipam.store import Clock

RETRIES = 100  # as the reference's datastoreRetries
_FIRST_S = 0.001
_LONGEST_S = 0.1


async def back_off(clock: Clock, attempt: int) -> None:
    """Wait a random time that may be longer with each attempt, so that clients get out of each other's way."""
    await clock.sleep(clock.chance() * min(_FIRST_S * 2 ** min(attempt, 16), _LONGEST_S))
