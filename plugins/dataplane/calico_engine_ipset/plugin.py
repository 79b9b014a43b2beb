"""The ipset dataplane: the members of selectors, named ports, services and pools as the kernel's ipsets.

A set is filled before a rule can refer to it (this plugin comes before iptables in a profile) and destroyed when none
does any more. A set larger than max_ipset_size is not programmed at all: rules that use it are closed, because a part
of it would let through what a deny rule names. Sets that are not ours are never touched.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence

from calico_engine.errors import KernelError
from calico_engine.fastpath import SET_ROW_SIZE
from calico_engine.messages import Batch, SetKind
from calico_engine.plugin.protocols import ApplyResult, Change, Notification, PluginContext
from calico_engine.ruleset.ir import Family
from calico_engine.tables.timers import ResyncTimer
from calico_engine_ipset.busy import BusyRetry
from calico_engine_ipset.config import IpsetConfig
from calico_engine_ipset.desired import DesiredSets, SetId
from calico_engine_ipset.kernel_set import Difference, compare, wanted_shape
from calico_engine_ipset.packing import PackedMembers, Packing, first_family
from calico_engine_ipset.report import plan_changes, render_sets
from calico_engine_ipset.saved_set import SavedSet
from calico_engine_ipset.steps import AddPieces, Create, Destroy, Step, count_lines
from calico_engine_ipset.tool import SetTool, choose_tool
from calico_engine_ipset.writes import (
    Write,
    describe_write,
    find_write,
    is_temporary,
    note_written,
    write_steps,
)

log = logging.getLogger(__name__)

_ATTEMPTS = 3
_BACKOFF_S = 0.02
#: More members than this are worth filling in while they are being packed.
_LARGE_MEMBERS = 20_000
#: Fewer members than this are compared faster than a thread is woken.
_INLINE_MEMBERS = 1000


class IpsetDataplane:
    """Keeps the kernel's sets equal to the desired ones, in both families alike."""

    def __init__(self, context: PluginContext, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._context = context
        config = context.options if isinstance(context.options, IpsetConfig) else IpsetConfig()
        self._access = config.kernel_access
        # Found out at first use.
        self._tool: SetTool | None = None
        self._clock = clock
        self._desired = DesiredSets(context)
        # Names of ours that the kernel has, whether desired or not, and those that a crash left behind.
        self._present: set[str] = set()
        self._leftovers: list[str] = []
        # Whether some of them may be wanted no more.
        self._prune_due = True
        self._timer = ResyncTimer(clock, refresh_s=context.settings.ipsets_refresh_interval_s)
        self._busy = BusyRetry()
        # Told of already.
        self._oversize: set[SetId] = set()

    def on_batch(self, batch: Batch, /) -> None:
        before = self._desired.settings
        self._desired.take(batch)
        settings = self._desired.settings
        if settings.layout is not before.layout or settings.max_ipset_size != before.max_ipset_size:
            # Names or shapes change: forget what the kernel has, the read-back finds what still serves.
            self._timer.expire()
        self._timer.configure(refresh_s=settings.ipsets_refresh_interval_s)

    def invalidate(self, reason: str, /) -> None:
        log.debug("sets to be read back: %s", reason)
        self._timer.expire()

    # Writing

    async def apply(self) -> ApplyResult:
        if not self._desired.in_sync:
            return ApplyResult(plugin=self._context.name)
        early = await self._fill_early()
        await self._desired.settle()
        failures = 0
        while True:
            if self._timer.is_due():
                await self._read_back()
            writes = self._pending()
            try:
                await self._commit(writes)
            except KernelError as error:
                failures += 1
                log.warning("sets not written, attempt %d: %s", failures, error)
                if not error.retryable:
                    raise
                if failures >= _ATTEMPTS:
                    await self._commit_one_by_one()
                    break
                await asyncio.sleep(_BACKOFF_S * 2**failures)
            else:
                break
        for set_id, problem in self._desired.refused.items():
            raise KernelError(f"ipset {set_id}", problem)
        return ApplyResult(
            plugin=self._context.name,
            writes=len(early) + len(writes),
            changes=tuple(describe_write(self._desired, write) for write in (*early, *writes)),
            resync_after_s=self._timer.due_in_s(),
        )

    async def _fill_early(self) -> list[Write]:
        """Fill large sets that the kernel does not have while their members still become rows: both take their time.

        What does not come to its end here is done in the ordinary way, after a read-back.
        """
        writes: list[Write] = []
        for set_id, update in self._desired.large_updates(_LARGE_MEMBERS):
            if self._timer.is_due():
                break
            place = (first_family(update.members), set_id)
            if place[0] not in self._desired.families or self._desired.name(place) in self._present:
                continue
            if len(update.members) > self._desired.settings.max_ipset_size:
                continue
            packed = await self._fill(place, update.kind, Packing(update.members))
            if packed is not None and self._desired.take_packed(set_id, update, packed):
                writes.append(Write(place, packed.all_rows(place[0]), b"", rewritten=True))
                self._note_written(writes[-1])
                log.info("set filled: %s members=%d", self._desired.name(place), len(update.members))
            else:
                self._timer.expire()
                self._timer.is_trusted = False
        return writes

    async def _fill(self, place: SetId, kind: SetKind, packing: Packing) -> PackedMembers | None:
        """Make and fill a set of one family; return the members of both, None when it did not come to its end."""
        name = self._desired.name(place)
        shape = wanted_shape(kind, place[0], self._desired.settings.max_ipset_size)
        packed = asyncio.get_running_loop().run_in_executor(None, packing.run)
        # Whether or not somebody waits for it to the end.
        packed.add_done_callback(lambda done: done.cancelled() or done.exception())
        try:
            await self._run(
                [
                    Create(name, shape, packing.count),
                    AddPieces(name, packing.pieces(place[0]), packing.count),
                ]
            )
            return await packed
        except (KernelError, ValueError) as error:
            log.warning("set not filled at once: %s", error)
            return None

    def _pending(self) -> list[Write]:
        """Return what each dirty set needs; a set too large is left alone and told of."""
        self._oversize = {set_id for set_id in self._oversize if set_id in self._desired.sets}
        writes: list[Write] = []
        for set_id in sorted(self._desired.dirty):
            if self._desired.is_oversize(set_id):
                self._report_oversize(set_id)
                self._prune_due = True
                continue
            self._oversize.discard(set_id)
            write = find_write(self._desired, set_id)
            if write is None:
                self._desired.dirty.discard(set_id)
            else:
                writes.append(write)
        return writes

    def _report_oversize(self, set_id: SetId) -> None:
        if set_id in self._oversize:
            return
        self._oversize.add(set_id)
        message = (
            f"set {set_id[1]} has {len(self._desired.sets[set_id].desired)} members of ipv{set_id[0]}, more than "
            f"max_ipset_size {self._desired.settings.max_ipset_size}: it is not programmed and rules that use it are "
            "closed; raise max_ipset_size"
        )
        log.error("%s", message)
        self._context.notify(Notification(plugin=self._context.name, kind="warning", message=message))

    async def _commit(self, writes: Sequence[Write]) -> None:
        if not writes:
            return
        steps: list[Step] = [Destroy(name) for name in self._leftovers]
        for number, write in enumerate(writes):
            steps += write_steps(self._desired, write, number, self._present)
        await self._run(steps)
        for write in writes:
            self._note_written(write)
        self._present.difference_update(self._leftovers)
        self._leftovers = []
        self._measure()
        log.info("sets written: sets=%d lines=%d", len(writes), count_lines(steps))

    async def _run(self, steps: Sequence[Step]) -> None:
        try:
            await (await self._reach()).run(steps, self._context.metrics)
        except BaseException:
            # Cut off in the middle, too: how far it came, only the kernel knows.
            self._timer.expire()
            self._timer.is_trusted = False
            raise

    def _note_written(self, write: Write) -> None:
        self._present.add(self._desired.name(write.set_id))
        note_written(self._desired, write)

    async def _reach(self) -> SetTool:
        if self._tool is None:
            self._tool = await choose_tool(self._access)
        return self._tool

    def _measure(self) -> None:
        metrics = self._context.metrics
        metrics.gauge("felix_ipsets_total", len(self._present))
        for family in self._desired.families:
            version = "inet6" if family is Family.V6 else "inet"
            metrics.gauge("felix_ipsets_calico", self._desired.counts[family], {"ip_version": version})

    async def _commit_one_by_one(self) -> None:
        """Write each set alone, so that one the kernel does not take holds up no other. Raises: KernelError."""
        await self._read_back()
        refused: list[KernelError] = []
        for write in self._pending():
            try:
                await self._commit([write])
            except KernelError as error:
                refused.append(error)
        if refused:
            raise refused[0]

    async def _read_back(self) -> None:
        self._timer.note_read()
        try:
            found, unreadable = await (await self._reach()).read_own_sets()
            compared = await self._compare(found)
        except BaseException:
            self._timer.expire()
            raise
        drifted = self._take_actual(found, unreadable, compared)
        if drifted and self._timer.is_trusted:
            message = f"somebody else changed our sets, repairing: {', '.join(drifted[:5])}"
            log.warning("%s", message)
            self._context.notify(Notification(plugin=self._context.name, kind="drift", message=message))
        self._timer.is_trusted = True

    async def _compare(self, found: Mapping[str, SavedSet]) -> dict[SetId, tuple[int, Difference]]:
        """Return how our sets differ from what was found, and of which generation of desired members that is true."""
        jobs = [
            (set_id, known.generation, known.desired.copy(), saved.rows)
            for set_id, known in self._desired.sets.items()
            if (saved := found.get(self._desired.name(set_id)))
        ]

        def work() -> dict[SetId, tuple[int, Difference]]:
            return {
                set_id: (generation, compare(desired.rows(), rows))
                for set_id, generation, desired, rows in jobs
            }

        size = sum(len(desired) + len(rows) // SET_ROW_SIZE for _, _, desired, rows in jobs)
        return work() if size <= _INLINE_MEMBERS else await asyncio.to_thread(work)

    def _take_actual(
        self,
        found: Mapping[str, SavedSet],
        unreadable: frozenset[str],
        compared: Mapping[SetId, tuple[int, Difference]],
    ) -> list[str]:
        """Note what the kernel has; return the names of sets that are not as we left them."""
        drifted: list[str] = []
        for set_id, known in self._desired.sets.items():
            name = self._desired.name(set_id)
            saved = found.get(name)
            before = (known.shape, len(known.missing), len(known.extra))
            if saved is None:
                known.note_absent()
            else:
                known.shape = saved.shape
                generation, difference = compared.get(set_id, (-1, None))
                if difference is not None and generation == known.generation:
                    known.note_difference(difference)
                else:
                    known.note_actual(saved.rows)
            if before != (known.shape, len(known.missing), len(known.extra)):
                drifted.append(name)
            self._desired.dirty.add(set_id)
        self._present = set(found) | unreadable
        self._leftovers = sorted(filter(is_temporary, self._present))
        self._prune_due = True
        return drifted

    # Removing

    def _unwanted(self) -> list[str]:
        desired = self._desired
        wanted = {desired.name(set_id) for set_id in desired.sets if not desired.is_oversize(set_id)}
        return sorted(name for name in self._present - wanted if desired.is_ours(name))

    async def prune(self) -> ApplyResult:
        await self._desired.settle()
        self._prune_due = self._prune_due or self._desired.shrank
        self._desired.shrank = False
        unwanted = self._unwanted() if self._desired.in_sync and self._prune_due else []
        waits_s = self._busy.remaining_s(self._clock())
        if not unwanted or waits_s > 0:
            self._prune_due = bool(unwanted) or not self._desired.in_sync
            return ApplyResult(plugin=self._context.name, resync_after_s=waits_s if unwanted else None)
        destroyed, busy = await (await self._reach()).destroy(unwanted)
        self._present.difference_update(destroyed)
        self._leftovers = [name for name in self._leftovers if name in self._present]
        self._prune_due = bool(busy)
        for set_id, known in self._desired.sets.items():
            if self._desired.name(set_id) in destroyed:
                known.note_absent()
        if busy:
            self._busy.note_busy(busy, self._clock())
            log.info("sets still in use, will retry in %.1f s: %s", self._busy.wait_s, " ".join(busy))
        return ApplyResult(
            plugin=self._context.name,
            writes=len(destroyed),
            changes=tuple(Change("-", name, "not used any more") for name in destroyed),
            resync_after_s=self._busy.wait_s if busy else self._timer.due_in_s(),
        )

    # For people

    async def plan(self) -> Sequence[Change]:
        await self._desired.settle()
        found, unreadable = await (await self._reach()).read_own_sets()
        return plan_changes(self._desired, found, unreadable)

    def render(self) -> str:
        self._desired.settle_now()
        return render_sets(self._desired)

    async def cleanup(self) -> int:
        self._timer.expire()
        tool = await self._reach()
        destroyed, busy = await tool.destroy(await tool.own_names())
        self._present.clear()
        if busy:
            raise KernelError(
                "ipset destroy",
                f"{', '.join(busy)} are in use by rules; remove those rules (iptables-save shows them) and repeat",
            )
        return len(destroyed)

    async def close(self) -> None:
        if self._tool is not None:
            self._tool.close()
