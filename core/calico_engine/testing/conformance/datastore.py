"""The contract of a Datastore as tests: list and watch, compare-and-set between processes, loss and return.

Subclass DatastoreConformance and give it a `harness` fixture. What a store cannot do (be taken away, hold garbage) its
harness says by returning False, and the test skips with that reason.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import multiprocessing
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Protocol

import msgspec
import pytest
import pytest_asyncio

from calico_engine.errors import ConflictError, NotFoundError, UnavailableError
from calico_engine.model import NetworkPolicy, Resource, ResourceKey, encode
from calico_engine.plugin import Datastore, EndpointStatus, StatusReport, SyncStatus
from calico_engine.testing.builders import (
    make_endpoint,
    make_global_network_set,
    make_node,
    make_policy,
    make_profile,
    make_rule,
)
from calico_engine.testing.conformance.watching import WatchView, watching

#: Makes a client of the one store under test. It must pickle, because other processes call it too.
ClientFactory = Callable[[], Datastore]


class DatastoreHarness(Protocol):
    """One store, empty at first, and power over it."""

    #: How long a write may take until a watch tells it.
    settle_s: float

    def factory(self) -> ClientFactory:
        """Return what makes one more client of the store."""
        ...

    async def take_away(self) -> bool:
        """Make the store unreachable for its clients; False when that cannot be done here."""
        ...

    async def bring_back(self) -> None:
        """Undo `take_away`; what was written before is there again."""
        ...

    async def change_while_away(self, put: Sequence[Resource], delete: Sequence[ResourceKey]) -> bool:
        """Change the store behind its clients' backs while it is away; False when that cannot be done here."""
        ...

    async def store_garbage(self, key: ResourceKey) -> bool:
        """Store something under the key that is no valid resource; False when that cannot be done here."""
        ...


def annotate(resource: Resource, **annotations: str) -> Resource:
    """Return the resource with more annotations: a change that is valid for every kind."""
    merged = {**resource.metadata.annotations, **annotations}
    return msgspec.structs.replace(
        resource, metadata=msgspec.structs.replace(resource.metadata, annotations=merged)
    )


def bare(resource: Resource) -> Resource:
    """Return the resource without what a store adds: revision, uid, times."""
    metadata = msgspec.structs.replace(
        resource.metadata, resource_version="", uid="", creation_timestamp=None, generation=None
    )
    return msgspec.structs.replace(resource, metadata=metadata)


def revision(resource: Resource) -> str:
    return resource.metadata.resource_version


async def _count_up(factory: ClientFactory, key: ResourceKey, times: int) -> int:
    """Add to the counter in a resource, read, compare and set; return how often that was lost."""
    store = factory()
    lost = 0
    done = 0
    while done < times:
        found = await store.get(key)
        number = int(found.metadata.annotations["counter"]) + 1
        try:
            await store.put(annotate(found, counter=str(number)), expect_revision=revision(found))
        except ConflictError:
            lost += 1
        else:
            done += 1
    await store.close()
    return lost


async def _create(factory: ClientFactory, resource: Resource) -> bool:
    """Create the resource only if nobody else has; return whether it was us."""
    store = factory()
    try:
        await store.put(resource, expect_revision="")
    except ConflictError:
        return False
    else:
        return True
    finally:
        await store.close()


def count_up(factory: ClientFactory, key: ResourceKey, times: int) -> int:
    return asyncio.run(_count_up(factory, key, times))


def create(factory: ClientFactory, resource: Resource) -> bool:
    return asyncio.run(_create(factory, resource))


def other_processes(count: int) -> concurrent.futures.ProcessPoolExecutor:
    return concurrent.futures.ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn"))


@pytest.mark.asyncio
class DatastoreConformance:
    """Every test gets an empty store. Subclass and define the fixture `harness`."""

    @pytest.fixture
    def harness(self) -> DatastoreHarness:
        raise NotImplementedError("define a fixture `harness` that returns a DatastoreHarness")

    @pytest_asyncio.fixture
    async def store(self, harness: DatastoreHarness) -> AsyncIterator[Datastore]:
        client = harness.factory()()
        yield client
        await client.close()

    @pytest_asyncio.fixture
    async def other(self, harness: DatastoreHarness) -> AsyncIterator[Datastore]:
        client = harness.factory()()
        yield client
        await client.close()

    @staticmethod
    async def until_says(view: WatchView, harness: DatastoreHarness, *wanted: Resource) -> None:
        """Wait until the watch's view holds exactly these resources."""
        facts = {resource.key: bare(resource) for resource in wanted}
        await view.until(
            lambda: {key: bare(found) for key, found in view.resources.items()} == facts,
            harness.settle_s,
            f"view of exactly {sorted(map(str, facts))}",
        )

    @staticmethod
    async def until_in_sync(view: WatchView, harness: DatastoreHarness) -> None:
        await view.until(lambda: view.in_sync, harness.settle_s, "IN_SYNC")

    # One resource

    async def test_store_keeps_the_protocol(self, store: Datastore) -> None:
        assert isinstance(store, Datastore)

    async def test_get_returns_what_put_returned(self, store: Datastore) -> None:
        policy = make_policy(
            "web", ingress=[make_rule(ports=[80, "1000:2000"], nets=["10.0.0.0/8"])], order=10
        )

        written = await store.put(policy)

        assert revision(written)
        assert bare(written) == bare(policy)
        assert await store.get(policy.key) == written

    async def test_second_client_reads_what_the_first_wrote(self, store: Datastore, other: Datastore) -> None:
        written = await store.put(make_policy("web"))

        assert await other.get(written.key) == written

    async def test_change_gives_a_new_revision(self, store: Datastore) -> None:
        first = await store.put(make_policy("web"))
        second = await store.put(annotate(first, note="changed"))

        assert revision(second) != revision(first)
        assert await store.get(first.key) == second

    async def test_get_of_nothing_raises_not_found(self, store: Datastore) -> None:
        with pytest.raises(NotFoundError):
            await store.get(ResourceKey("NetworkPolicy", "default", "nobody"))

    async def test_delete_removes(self, store: Datastore, other: Datastore) -> None:
        written = await store.put(make_policy("web"))

        await other.delete(written.key)

        with pytest.raises(NotFoundError):
            await store.get(written.key)
        with pytest.raises(NotFoundError):
            await store.delete(written.key)

    async def test_deleted_name_can_be_used_again(self, store: Datastore) -> None:
        await store.put(make_policy("web", order=1))
        await store.delete(make_policy("web").key)

        again = await store.put(make_policy("web", order=2), expect_revision="")

        assert await store.get(again.key) == again

    # Compare and set

    async def test_create_only_if_absent(self, store: Datastore, other: Datastore) -> None:
        first = await store.put(make_policy("web", order=1), expect_revision="")

        with pytest.raises(ConflictError) as caught:
            await other.put(make_policy("web", order=2), expect_revision="")

        assert caught.value.found
        assert await store.get(first.key) == first

    async def test_put_over_a_stale_revision_conflicts(self, store: Datastore, other: Datastore) -> None:
        first = await store.put(make_policy("web"))
        second = await other.put(annotate(first, note="theirs"), expect_revision=revision(first))

        with pytest.raises(ConflictError) as caught:
            await store.put(annotate(first, note="ours"), expect_revision=revision(first))

        assert caught.value.expected == revision(first)
        assert await store.get(first.key) == second

    async def test_put_expecting_something_where_nothing_is_conflicts(self, store: Datastore) -> None:
        first = await store.put(make_policy("web"))
        await store.delete(first.key)

        with pytest.raises(ConflictError):
            await store.put(first, expect_revision=revision(first))

        with pytest.raises(NotFoundError):
            await store.get(first.key)

    async def test_delete_over_a_stale_revision_conflicts(self, store: Datastore) -> None:
        first = await store.put(make_policy("web"))
        second = await store.put(annotate(first, note="changed"))

        with pytest.raises(ConflictError):
            await store.delete(first.key, expect_revision=revision(first))
        await store.delete(first.key, expect_revision=revision(second))

        with pytest.raises(NotFoundError):
            await store.get(first.key)

    async def test_no_update_is_lost_between_processes(
        self, store: Datastore, harness: DatastoreHarness
    ) -> None:
        counter = await store.put(annotate(make_profile("counter"), counter="0"))
        processes, times = 3, 20

        with other_processes(processes) as pool:
            factory = harness.factory()
            runs = [pool.submit(count_up, factory, counter.key, times) for _ in range(processes)]
            await asyncio.gather(*map(asyncio.wrap_future, runs))

        found = await store.get(counter.key)
        assert found.metadata.annotations["counter"] == str(processes * times)

    async def test_one_of_many_creators_wins(self, store: Datastore, harness: DatastoreHarness) -> None:
        processes = 3

        with other_processes(processes) as pool:
            factory = harness.factory()
            runs = [
                pool.submit(create, factory, annotate(make_policy(f"p{number}"), by=str(process)))
                for number in range(8)
                for process in range(processes)
            ]
            won = await asyncio.gather(*map(asyncio.wrap_future, runs))

        assert [sum(won[start : start + processes]) for start in range(0, len(won), processes)] == [1] * 8
        for number in range(8):
            winner = won[number * processes : (number + 1) * processes].index(True)
            found = await store.get(make_policy(f"p{number}").key)
            assert found.metadata.annotations["by"] == str(winner)

    # Many and strange

    async def test_list_is_by_kind_and_namespace(self, store: Datastore) -> None:
        resources = [
            make_policy("web", namespace="prod"),
            make_policy("web", namespace="test"),
            make_policy("db", namespace="prod"),
            make_profile("web"),
            make_node("web"),
        ]
        for resource in resources:
            await store.put(resource)

        everywhere = await store.list("NetworkPolicy")
        prod = await store.list("NetworkPolicy", "prod")

        assert {found.key for found in everywhere} == {resource.key for resource in resources[:3]}
        assert {found.key for found in prod} == {resources[0].key, resources[2].key}
        assert [bare(found) for found in await store.list("Node")] == [resources[4]]
        assert list(await store.list("Tier")) == []

    async def test_list_has_the_revisions_that_get_has(self, store: Datastore) -> None:
        written = [await store.put(make_policy(f"p{number}")) for number in range(3)]

        listed = {found.key: revision(found) for found in await store.list("NetworkPolicy")}

        assert listed == {resource.key: revision(resource) for resource in written}

    async def test_value_of_a_megabyte_comes_back(self, store: Datastore, other: Datastore) -> None:
        nets = [f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}/32" for number in range(65536)]
        big = make_global_network_set("big", nets=nets)
        assert len(encode(big)) > 1024 * 1024

        written = await store.put(big)

        assert bare(await other.get(big.key)) == big
        changed = await store.put(annotate(written, more="x"), expect_revision=revision(written))
        assert await other.get(big.key) == changed

    async def test_text_of_any_script_comes_back(self, store: Datastore, other: Datastore) -> None:
        text = (
            "naïve 网络 🐈‍⬛ \u2028 'single' \"double\" back\\slash\ttab\nline\n\n  indented: {[#&*!|>%@`\x7f"
        )
        odd = annotate(
            make_policy("odd"), **{"example.com/text": text, "n": "null", "b": "true", "d": "2001-01-01"}
        )

        await store.put(odd)

        assert bare(await other.get(odd.key)) == odd

    @pytest.mark.parametrize("name", ["a.b", "a-b", "default.a", "a" * 253, "0", "knp.default.x.y-z"])
    async def test_names_are_told_apart(self, store: Datastore, name: str) -> None:
        names = [name[:-1] + "z", name]

        for order, each in enumerate(names):
            await store.put(make_policy(each, order=order))

        found = {resource.metadata.name for resource in await store.list("NetworkPolicy")}
        assert found == set(names)
        got = await store.get(make_policy(name).key)
        assert isinstance(got, NetworkPolicy)
        assert got.spec.order == 1

    # Watch

    async def test_watch_of_nothing_gets_in_sync(self, store: Datastore, harness: DatastoreHarness) -> None:
        async with watching(store) as view:
            await self.until_in_sync(view, harness)

            assert view.said[0] in {SyncStatus.WAIT_FOR_DATASTORE, SyncStatus.RESYNC}
            assert not view.resources

    async def test_snapshot_comes_before_in_sync(self, store: Datastore, harness: DatastoreHarness) -> None:
        written = [
            await store.put(make_policy("web")),
            await store.put(make_endpoint("web-1", labels={"app": "web"})),
            await store.put(make_global_network_set("office", nets=["192.0.2.0/24", "2001:db8::/64"])),
        ]

        async with watching(store) as view:
            await self.until_in_sync(view, harness)

            assert view.resources == {resource.key: resource for resource in written}

    async def test_watch_tells_every_change(
        self, store: Datastore, other: Datastore, harness: DatastoreHarness
    ) -> None:
        kept = await store.put(make_policy("kept"))
        async with watching(store) as view:
            await self.until_in_sync(view, harness)

            made = await other.put(make_policy("made"))
            await self.until_says(view, harness, kept, made)
            changed = await other.put(annotate(made, note="changed"))
            await self.until_says(view, harness, kept, changed)
            assert view.resources[changed.key] == changed
            await other.delete(kept.key)
            await self.until_says(view, harness, changed)

    async def test_watch_tells_own_writes(self, store: Datastore, harness: DatastoreHarness) -> None:
        async with watching(store) as view:
            await self.until_in_sync(view, harness)

            written = await store.put(make_policy("web"))

            await self.until_says(view, harness, written)

    async def test_two_watches_say_the_same(
        self, store: Datastore, other: Datastore, harness: DatastoreHarness
    ) -> None:
        async with watching(store) as first, watching(store) as second, watching(other) as third:
            for view in (first, second, third):
                await self.until_in_sync(view, harness)

            written = await store.put(make_policy("web"))

            for view in (first, second, third):
                await self.until_says(view, harness, written)

    async def test_watch_that_was_cancelled_can_be_started_anew(
        self, store: Datastore, harness: DatastoreHarness
    ) -> None:
        written = await store.put(make_policy("web"))
        async with watching(store) as view:
            await self.until_in_sync(view, harness)

        async with watching(store) as view:
            await self.until_in_sync(view, harness)

            assert view.resources == {written.key: written}

    async def test_last_word_is_right_after_many_quick_changes(
        self, store: Datastore, other: Datastore, harness: DatastoreHarness
    ) -> None:
        async with watching(store) as view:
            await self.until_in_sync(view, harness)

            for number in range(30):
                await other.put(make_policy("flapping", order=number))
                if number % 3 == 2:
                    await other.delete(make_policy("flapping").key)
            last = await other.put(make_policy("flapping", order=1000))

            await self.until_says(view, harness, last)

    async def test_many_keys(self, store: Datastore, other: Datastore, harness: DatastoreHarness) -> None:
        written = [
            await other.put(make_endpoint(f"pod-{number}", ip=f"10.65.{number // 250}.{number % 250 + 1}"))
            for number in range(300)
        ]

        async with watching(store) as view:
            await self.until_in_sync(view, harness)

            assert view.resources == {resource.key: resource for resource in written}
            for resource in written[::2]:
                await other.delete(resource.key)
            await self.until_says(view, harness, *written[1::2])

    async def test_garbage_is_told_as_absent_with_an_error(
        self, store: Datastore, harness: DatastoreHarness
    ) -> None:
        good = await store.put(make_policy("good"))
        bad = make_policy("bad")
        if not await harness.store_garbage(bad.key):
            pytest.skip("this store cannot be made to hold garbage")

        async with watching(store) as view:
            await self.until_in_sync(view, harness)
            assert view.resources == {good.key: good}
            assert view.errors[bad.key]

            mended = await store.put(bad)
            await self.until_says(view, harness, good, mended)
            assert not view.errors

    async def test_close_ends_a_watch(self, store: Datastore, harness: DatastoreHarness) -> None:
        view = WatchView()
        task = asyncio.create_task(view.follow(store))
        await self.until_in_sync(view, harness)

        await store.close()

        await asyncio.wait_for(task, harness.settle_s)

    async def test_status_reports_are_no_resources(self, store: Datastore, harness: DatastoreHarness) -> None:
        report = StatusReport(
            node="node-1",
            time="2026-01-01T00:00:00Z",
            uptime_s=1.5,
            first_update=True,
            endpoints={"WorkloadEndpoint(default/web-1)": EndpointStatus.UP},
        )
        async with watching(store) as view:
            await self.until_in_sync(view, harness)

            await store.report_status(report)
            await store.report_status(msgspec.structs.replace(report, first_update=False))
            last = await store.put(make_policy("last"))

            await self.until_says(view, harness, last)
            assert set(view.resources) == {last.key}

    # Away and back

    async def _take_away(self, harness: DatastoreHarness) -> None:
        if not await harness.take_away():
            pytest.skip("this store cannot be taken away")

    async def test_store_that_is_away_raises_unavailable(
        self, store: Datastore, harness: DatastoreHarness
    ) -> None:
        written = await store.put(make_policy("web"))
        await self._take_away(harness)

        with pytest.raises(UnavailableError):
            await store.get(ResourceKey("NetworkPolicy", "default", "other"))
        with pytest.raises(UnavailableError):
            await store.list("NetworkPolicy")
        with pytest.raises(UnavailableError):
            await store.put(make_policy("new"))
        with pytest.raises(UnavailableError):
            await store.delete(written.key)
        await harness.bring_back()

        assert await store.get(written.key) == written

    async def test_watch_begun_while_away_catches_up(
        self, store: Datastore, harness: DatastoreHarness
    ) -> None:
        written = await store.put(make_policy("web"))
        await self._take_away(harness)

        async with watching(harness.factory()()) as view:
            await view.until(lambda: bool(view.said), harness.settle_s, "first word")
            assert view.statuses == [SyncStatus.WAIT_FOR_DATASTORE]

            await harness.bring_back()

            await self.until_in_sync(view, harness)
            assert view.resources == {written.key: written}

    async def test_loss_takes_nothing_away_and_return_resyncs(
        self, store: Datastore, other: Datastore, harness: DatastoreHarness
    ) -> None:
        kept = await store.put(make_policy("kept"))
        async with watching(store) as view:
            await self.until_in_sync(view, harness)

            await self._take_away(harness)
            await view.until(lambda: not view.in_sync, harness.settle_s, "word of the loss")
            assert view.resources == {kept.key: kept}
            await harness.bring_back()
            await self.until_in_sync(view, harness)

            assert view.resources == {kept.key: kept}
            assert SyncStatus.RESYNC in view.statuses[2:]
            after = await other.put(make_policy("after"))
            await self.until_says(view, harness, kept, after)

    async def test_watch_resumes_with_what_changed_meanwhile(
        self, store: Datastore, harness: DatastoreHarness
    ) -> None:
        kept = await store.put(make_policy("kept"))
        deleted = await store.put(make_policy("deleted"))
        changed = await store.put(make_policy("changed", order=1))
        async with watching(store) as view:
            await self.until_in_sync(view, harness)
            await self._take_away(harness)
            await view.until(lambda: not view.in_sync, harness.settle_s, "word of the loss")

            new = make_policy("new")
            changed = make_policy("changed", order=2)
            if not await harness.change_while_away([new, changed], [deleted.key]):
                await harness.bring_back()
                pytest.skip("this store cannot be changed while it is away")
            await harness.bring_back()
            await self.until_in_sync(view, harness)

            await self.until_says(view, harness, kept, new, changed)
