"""Feeds the calculation graph in slices and hands on the Batches it makes."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import msgspec

from calico_engine.engine.events import Event, ResourceRejected, SyncStatusChanged
from calico_engine.engine.metrics import EngineMetrics
from calico_engine.engine.pump import Pending
from calico_engine.errors import ValidationError
from calico_engine.messages import Batch
from calico_engine.plugin.protocols import SyncStatus, Update
from calico_engine.settings import FelixSettings

log = logging.getLogger(__name__)

SLICE_UPDATES = 1000
SLICE_S = 0.010
_FIRST_SLICE_UPDATES = 20
# A flush after more updates than this runs in a thread, so that health and timers go on meanwhile.
_FLUSH_IN_THREAD_UPDATES = 1000

_RESYNC_STATE = {SyncStatus.WAIT_FOR_DATASTORE: 0, SyncStatus.RESYNC: 1, SyncStatus.IN_SYNC: 2}

ConfigResolver = Callable[[Mapping[str, str], Mapping[str, str]], FelixSettings]


class Graph(Protocol):
    """What the engine needs of calc.CalcGraph."""

    @property
    def stats(self) -> msgspec.Struct:
        """Sizes, named as the reference's metrics without their prefix."""
        ...

    @property
    def rejected(self) -> Sequence[ValidationError]:
        """Resources found wrong since the last flush."""
        ...

    def on_updates(self, updates: Sequence[Update], /) -> None: ...

    def on_status(self, status: SyncStatus, /) -> None: ...

    def reconfigure(self) -> None:
        """Resolve settings anew at the next flush."""
        ...

    def flush(self) -> Batch | None: ...


class GraphRunner:
    """The one task that touches the graph. `rejected` is what is wrong now: resource -> why.

    `complete` is true once a whole snapshot of the datastore has been fed.
    """

    def __init__(
        self,
        graph: Graph,
        pending: Pending,
        *,
        on_batch: Callable[[Batch | None], None],
        publish: Callable[[Event], None],
        metrics: EngineMetrics,
    ) -> None:
        """on_batch is called after every flush, with None when it changed nothing."""
        self._graph = graph
        self._pending = pending
        self._on_batch = on_batch
        self._publish = publish
        self._metrics = metrics
        # Few at first: how long they take shows soon.
        self._slice_updates = _FIRST_SLICE_UPDATES
        self._unflushed = 0
        self.complete = False
        self.status = SyncStatus.WAIT_FOR_DATASTORE
        self.rejected: dict[str, str] = {}
        self.busy_since_s: float | None = None

    def reconfigure(self) -> None:
        """Have settings resolved anew, soon."""
        self._graph.reconfigure()
        self._pending.wake()

    async def run(self) -> None:
        """Feed the graph for ever."""
        loop = asyncio.get_running_loop()
        while True:
            generation = await self._pending.take()
            self.busy_since_s = loop.time()
            await self._feed(generation.updates)
            if generation.status is not None:
                self._graph.on_status(generation.status)
                self.complete = self.complete or generation.status is SyncStatus.IN_SYNC
            if self.complete:
                await self._flush()
            self.busy_since_s = None
            if generation.status is not None and generation.status is not self.status:
                self.status = generation.status
                log.info("datastore: %s", self.status)
                self._metrics.gauge("felix_resync_state", _RESYNC_STATE[self.status])
                if self.status is SyncStatus.RESYNC:
                    self._metrics.count("felix_resyncs_started")
                self._publish(SyncStatusChanged(status=self.status))

    async def _feed(self, updates: Sequence[Update]) -> None:
        loop = asyncio.get_running_loop()
        start = 0
        while start < len(updates):
            piece = updates[start : start + self._slice_updates]
            start += len(piece)
            began_s = loop.time()
            self._note_errors(piece)
            self._tell(piece)
            took_s = loop.time() - began_s
            self._metrics.observe("felix_calc_graph_update_time_seconds", took_s)
            self._metrics.count("felix_calc_graph_updates_processed", len(piece))
            if took_s > SLICE_S:
                self._slice_updates = max(10, self._slice_updates // 2)
            elif took_s < SLICE_S / 4 and len(piece) == self._slice_updates:
                self._slice_updates = min(SLICE_UPDATES, self._slice_updates * 2)
            await asyncio.sleep(0)
        self._unflushed += len(updates)

    def _tell(self, piece: Sequence[Update]) -> None:
        """Tell the graph; a resource that it chokes on is treated as absent, like any other that is wrong."""
        try:
            self._graph.on_updates(piece)
        except Exception:
            log.exception("the graph failed on one of %d updates, telling them one by one", len(piece))
        else:
            return
        for update in piece:
            try:
                self._graph.on_updates([update])
            except Exception as error:  # noqa: BLE001  # one resource must not stop the node
                self._reject(str(update.key), f"cannot be processed: {type(error).__name__}: {error}", update)
                self._graph.on_updates([Update(update.key, None)])

    async def _flush(self) -> None:
        began_s = time.perf_counter()
        if self._unflushed > _FLUSH_IN_THREAD_UPDATES:
            batch = await asyncio.to_thread(self._graph.flush)
        else:
            batch = self._graph.flush()
        self._metrics.observe("felix_calc_graph_update_time_seconds", time.perf_counter() - began_s)
        self._unflushed = 0
        for error in self._graph.rejected:
            self._reject(error.key, f"{error.path}: {error.reason}" if error.path else error.reason)
        for name, value in msgspec.structs.asdict(self._graph.stats).items():
            self._metrics.gauge(f"felix_{name}", value)
        self._metrics.gauge("calico_engine_resources_rejected", len(self.rejected))
        if batch is not None:
            self._metrics.count("felix_calc_graph_output_events", len(batch.messages))
        self._on_batch(batch)

    def _note_errors(self, updates: Sequence[Update]) -> None:
        for update in updates:
            name = str(update.key)
            self.rejected.pop(name, None)
            if update.error:
                self._reject(name, update.error, update)

    def _reject(self, name: str, error: str, update: Update | None = None) -> None:
        if self.rejected.get(name) == error:
            return
        self.rejected[name] = error
        log.warning("resource refused, treated as absent: %s: %s", name, error)
        self._publish(ResourceRejected(key=update.key if update else None, name=name, error=error))
