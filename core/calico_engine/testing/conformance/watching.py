"""Follow a datastore's watch in the background, for tests that wait for what it says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from calico_engine.model import Resource, ResourceKey
from calico_engine.plugin import Datastore, SyncStatus, Update


class WatchView:
    """Everything one watch has said: `said` in order, `resources` as they are by now, `errors` by key."""

    def __init__(self) -> None:
        self.said: list[SyncStatus | Update] = []
        self.resources: dict[ResourceKey, Resource] = {}
        self.errors: dict[ResourceKey, str] = {}
        self.ended: BaseException | None = None
        self._changed = asyncio.Event()

    @property
    def statuses(self) -> list[SyncStatus]:
        return [word for word in self.said if isinstance(word, SyncStatus)]

    @property
    def in_sync(self) -> bool:
        return self.statuses[-1:] == [SyncStatus.IN_SYNC]

    def take(self, update: Update) -> None:
        self.said.append(update)
        self.errors.pop(update.key, None)
        if update.error:
            self.errors[update.key] = update.error
        if update.resource is None or update.error:
            self.resources.pop(update.key, None)
        else:
            self.resources[update.key] = update.resource

    async def follow(self, store: Datastore) -> None:
        """Take in what the store says until it stops saying."""
        try:
            async for word in store.watch():
                if isinstance(word, SyncStatus):
                    self.said.append(word)
                else:
                    for update in word:
                        self.take(update)
                self._changed.set()
        except Exception as error:
            self.ended = error
            raise
        finally:
            self._changed.set()

    async def until(self, condition: Callable[[], bool], timeout_s: float, what: str) -> None:
        """Wait until the condition holds. Raises: AssertionError naming what did not come."""
        try:
            async with asyncio.timeout(timeout_s):
                while not condition():
                    self._changed.clear()
                    if self.ended is not None:
                        raise AssertionError(f"the watch ended with {self.ended!r} before {what}")
                    await self._changed.wait()
        except TimeoutError:
            last = [str(word)[:200] for word in self.said[-5:]]
            raise AssertionError(f"no {what} within {timeout_s:g} s; last said: {last}") from None


@asynccontextmanager
async def watching(store: Datastore) -> AsyncIterator[WatchView]:
    """Follow the store's watch while the block runs."""
    view = WatchView()
    task = asyncio.create_task(view.follow(store))
    try:
        yield view
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
