"""One pending Update per key, statuses after the updates they cover, failing datastores."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from calico_engine.engine.pump import Pending, Pump
from calico_engine.errors import ConfigError, UnavailableError
from calico_engine.model.resource import ResourceKey
from calico_engine.plugin.protocols import Datastore, SyncStatus, Update
from calico_engine.testing.fakes import MemoryDatastore

from .conftest import make_node


def update(name: str, address: str = "") -> Update:
    node = make_node(name, address)
    return Update(node.key, node)


async def test_a_slow_reader_gets_one_update_per_key() -> None:
    pending = Pending()
    for number in range(1000):
        pending.add([update("a", str(number)), update(f"n{number % 3}", str(number))])

    generation = await pending.take()

    assert len(generation.updates) == 4
    assert generation.updates[0] == update("a", "999")
    assert generation.status is None


async def test_a_status_is_told_after_the_updates_before_it() -> None:
    pending = Pending()
    pending.add([update("a")])
    pending.add_status(SyncStatus.IN_SYNC)
    pending.add([update("b")])

    first = await pending.take()

    assert {u.key.name for u in first.updates} == {"a", "b"}
    assert first.status is SyncStatus.IN_SYNC


Items = Sequence[Sequence[Update] | SyncStatus]


class Failing(MemoryDatastore):
    """Says these items, then raises."""

    def __init__(self, items: Items) -> None:
        super().__init__()
        self.items = items

    async def watch(self) -> AsyncIterator[Sequence[Update] | SyncStatus]:
        for item in self.items:
            yield item
        raise UnavailableError("gone")


async def drive(*datastores: Datastore | Exception) -> tuple[list[float], list[str], dict[ResourceKey, bool]]:
    """Run a pump over these, one after the other; return its delays, its failures and who is present in the end."""
    left = list(datastores)
    delays: list[float] = []
    failures: list[str] = []
    finished = asyncio.Event()

    def make() -> Datastore:
        following = left.pop(0)
        if isinstance(following, Exception):
            raise following
        return following

    async def sleep(delay_s: float) -> None:
        delays.append(delay_s)
        if not left:
            finished.set()
            await asyncio.Event().wait()

    pending = Pending()
    pump = Pump(
        make, pending, lambda phase, error: failures.append(f"{phase}: {error}"), sleep=sleep, retry_max_s=3
    )
    pump.start()
    task = asyncio.get_running_loop().create_task(pump.run())
    await finished.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    generation = await pending.take()
    return delays, failures, {u.key: u.resource is not None for u in generation.updates}


async def test_what_a_new_watch_does_not_mention_is_deleted_once_it_is_in_sync() -> None:
    full: Items = [SyncStatus.RESYNC, [update("a"), update("b")], SyncStatus.IN_SYNC]
    rest: Items = [SyncStatus.RESYNC, [update("b")], SyncStatus.IN_SYNC]

    _, _, present = await drive(Failing(full), Failing(rest))

    assert present == {update("a").key: False, update("b").key: True}


async def test_a_new_watch_that_never_gets_in_sync_deletes_nothing() -> None:
    full: Items = [SyncStatus.RESYNC, [update("a"), update("b")], SyncStatus.IN_SYNC]

    _, _, present = await drive(Failing(full), Failing([SyncStatus.RESYNC, [update("b")]]))

    assert present == {update("a").key: True, update("b").key: True}


async def test_delays_grow_and_are_capped_also_when_none_can_be_made() -> None:
    delays, failures, _ = await drive(
        Failing([]), UnavailableError("refused"), Failing([]), Failing([]), Failing([])
    )

    assert delays == [0.5, 1.0, 2.0, 3, 3]
    assert failures[:2] == ["watch: gone", "make: refused"]


async def test_a_watch_that_ends_counts_as_a_failure() -> None:
    class Ending(MemoryDatastore):
        async def watch(self) -> AsyncIterator[Sequence[Update] | SyncStatus]:
            yield SyncStatus.RESYNC

    _, failures, _ = await drive(Ending())

    assert failures == ["watch: the datastore's watch ended; it must go on for ever"]


async def test_a_datastore_that_is_away_at_the_start_is_waited_for() -> None:
    snapshot: Items = [SyncStatus.RESYNC, [update("a")], SyncStatus.IN_SYNC]

    delays, failures, present = await drive(UnavailableError("refused"), Failing(snapshot))

    assert delays == [0.5, 1.0]
    assert failures[0] == "make: refused"
    assert present == {update("a").key: True}


async def test_a_datastore_that_can_never_be_made_stops_the_start() -> None:
    with pytest.raises(ConfigError):
        await drive(ConfigError("no such directory"))
