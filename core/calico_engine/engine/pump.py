"""Carries updates from the datastore to the graph: one pending Update per key, so that a slow graph costs no memory.

A datastore whose watch ends or raises is made anew after a back-off. What the new watch does not mention any more once
it is in sync has been deleted meanwhile, and is told so; until then the graph keeps what it had.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from calico_engine.errors import CalicoEngineError, PluginContractError
from calico_engine.model.resource import ResourceKey
from calico_engine.plugin.protocols import Datastore, SyncStatus, Update

log = logging.getLogger(__name__)

MakeDatastore = Callable[[], Datastore]
OnFailure = Callable[[str, Exception], None]

_WATCH_OK_S = 60.0  # a watch that lasted so long starts the back-off anew


class Generation(msgspec.Struct, frozen=True):
    """All that was pending at one moment. `status`, if any, is to be told after the updates."""

    updates: tuple[Update, ...]
    status: SyncStatus | None


class Pending:
    """At most one Update per key, in the order the keys first came, and the last status after them."""

    def __init__(self) -> None:
        self._updates: dict[ResourceKey, Update] = {}
        self._status: SyncStatus | None = None
        self._woken = asyncio.Event()

    def add(self, updates: Sequence[Update]) -> None:
        for update in updates:
            self._updates[update.key] = update
        if updates:
            self._woken.set()

    def add_status(self, status: SyncStatus) -> None:
        self._status = status
        self._woken.set()

    def wake(self) -> None:
        """Have `take` return even if there is nothing."""
        self._woken.set()

    def __len__(self) -> int:
        return len(self._updates)

    async def take(self) -> Generation:
        """Wait until there is something, and take it all."""
        await self._woken.wait()
        self._woken.clear()
        generation = Generation(tuple(self._updates.values()), self._status)
        self._updates, self._status = {}, None
        return generation


class Pump:
    """Watches the datastore for ever. `datastore` is the one being watched, None while there is none."""

    def __init__(
        self,
        make: MakeDatastore,
        pending: Pending,
        on_failure: OnFailure,
        *,
        retry_initial_s: float = 0.5,
        retry_max_s: float = 30.0,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._make = make
        self._pending = pending
        self._on_failure = on_failure
        self._retry_initial_s = retry_initial_s
        self._retry_max_s = retry_max_s
        self._sleep = sleep
        self._known: set[ResourceKey] = set()
        self.datastore: Datastore | None = None
        self.status: SyncStatus | None = None
        self.restarts = 0

    def start(self) -> None:
        """Make the first datastore. Raises: ConfigError and the like; one that is only away is tried again by `run`."""
        try:
            self.datastore = self._make()
        except CalicoEngineError as error:
            if not error.retryable:
                raise
            self._on_failure("make", error)

    async def run(self) -> None:
        """Watch what `start` made, and what is made after it, for ever."""
        delay_s = self._retry_initial_s
        loop = asyncio.get_running_loop()
        while True:
            if self.datastore is not None:
                started_s = loop.time()
                error = await self._watch(self.datastore)
                if loop.time() - started_s > _WATCH_OK_S:
                    delay_s = self._retry_initial_s
                self._on_failure("watch", error)
                await self._discard()
                self._tell(SyncStatus.WAIT_FOR_DATASTORE)
            await self._sleep(delay_s)
            delay_s = min(delay_s * 2, self._retry_max_s)
            self.restarts += 1
            try:
                self.datastore = self._make()
            except CalicoEngineError as error:
                self._on_failure("make", error)

    async def _watch(self, datastore: Datastore) -> Exception:
        """Follow one watch to its end, and return why it ended."""
        seen: set[ResourceKey] = set()
        complete = False
        try:
            async for item in datastore.watch():
                if isinstance(item, SyncStatus):
                    if item is SyncStatus.IN_SYNC and not complete:
                        complete = True
                        self._forget_unmentioned(seen)
                    self._tell(item)
                    continue
                self._pending.add(item)
                for update in item:
                    if not complete:
                        seen.add(update.key)
                    (
                        self._known.discard
                        if update.resource is None and not update.error
                        else self._known.add
                    )(update.key)
        except Exception as error:  # noqa: BLE001  # isolation: a crash of the datastore plugin restarts it
            return error
        return PluginContractError("the datastore's watch ended; it must go on for ever")

    def _forget_unmentioned(self, seen: set[ResourceKey]) -> None:
        gone = self._known - seen
        self._known &= seen
        self._pending.add([Update(key, None) for key in sorted(gone)])

    def _tell(self, status: SyncStatus) -> None:
        self.status = status
        self._pending.add_status(status)

    async def _discard(self) -> None:
        datastore, self.datastore = self.datastore, None
        if datastore is None:
            return
        try:
            async with asyncio.timeout(5):
                await datastore.close()
        except Exception as error:  # noqa: BLE001  # it failed already: closing is a courtesy
            log.debug("closing the failed datastore: %s", error)
