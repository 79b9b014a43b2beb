"""The graph is fed in slices, so that health and timers have their turn."""

import asyncio
import time
from collections.abc import Sequence

from calico_engine.engine.graph_runner import SLICE_UPDATES, GraphRunner
from calico_engine.engine.metrics import EngineMetrics
from calico_engine.engine.pump import Pending
from calico_engine.messages import Batch
from calico_engine.plugin.protocols import SyncStatus, Update
from calico_engine.testing.fakes import PassThroughGraph

from .conftest import make_node


class SlowGraph(PassThroughGraph):
    """Takes its time for every update; remembers the size of every slice."""

    def __init__(self, per_update_s: float) -> None:
        super().__init__("node-a")
        self.per_update_s = per_update_s
        self.slices: list[int] = []

    def on_updates(self, updates: Sequence[Update], /) -> None:
        self.slices.append(len(updates))
        super().on_updates(updates)
        end_s = time.perf_counter() + self.per_update_s * len(updates)
        while time.perf_counter() < end_s:
            pass


async def feed(graph: SlowGraph, count: int, metrics: EngineMetrics | None = None) -> tuple[list[Batch], int]:
    """Feed that many updates; return the batches, and how often another task had its turn meanwhile."""
    pending = Pending()
    batches: list[Batch] = []
    done = asyncio.Event()
    turns = 0

    def on_batch(batch: Batch | None) -> None:
        if batch is not None:
            batches.append(batch)
        done.set()

    runner = GraphRunner(
        graph,
        pending,
        on_batch=on_batch,
        publish=lambda _: None,
        metrics=metrics or EngineMetrics(process_metrics=False),
    )
    pending.add([Update(make_node(f"n{i}").key, make_node(f"n{i}")) for i in range(count)])
    pending.add_status(SyncStatus.IN_SYNC)
    task = asyncio.get_running_loop().create_task(runner.run())
    while not done.is_set():
        turns += 1
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return batches, turns


async def test_a_big_load_is_one_batch_of_many_slices() -> None:
    graph = SlowGraph(0)

    batches, turns = await feed(graph, 2500)

    assert max(graph.slices) <= SLICE_UPDATES
    assert sum(graph.slices) == 2500
    assert turns >= len(graph.slices)
    assert [len(batch.messages) for batch in batches] == [2500]
    assert batches[0].in_sync


async def test_the_graphs_time_covers_flushes() -> None:
    class SlowFlush(SlowGraph):
        def flush(self) -> Batch | None:
            time.sleep(0.05)
            return super().flush()

    metrics = EngineMetrics(process_metrics=False)

    await feed(SlowFlush(0), 1, metrics)

    (total,) = [line for line in metrics.render().splitlines() if "update_time_seconds_sum" in line]
    assert float(total.split()[1]) >= 0.05


async def test_no_slice_takes_more_than_20_ms() -> None:
    graph = SlowGraph(0.0005)

    await feed(graph, 2000)

    # 40 updates of half a millisecond are 20 ms.
    assert max(graph.slices) <= 40


async def test_slices_shrink_while_they_take_too_long() -> None:
    graph = SlowGraph(0.003)

    await feed(graph, 100)

    assert graph.slices[0] > 10
    assert set(graph.slices[1:]) == {10}


async def test_slices_of_quick_updates_grow() -> None:
    graph = SlowGraph(0)

    await feed(graph, 4 * SLICE_UPDATES)

    assert graph.slices[0] < 100
    assert len(graph.slices) < 40
