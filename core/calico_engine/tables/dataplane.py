"""The Dataplane protocol for everything that programs chains: when to compile, read back, write and retry.

What a tool spells and how it talks to the kernel is in its TableBackend, one a family. Nothing is written before the
first batch with in_sync. One transaction a family and apply carries all chains that differ; chains nothing leads to go
in prune. The kernel is read back at first, after a failure, when told of a foreign change, and by timers.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import TypedDict

import msgspec

from calico_engine.errors import KernelError
from calico_engine.kernel.time_slice import TimeSlice
from calico_engine.messages import Batch
from calico_engine.plugin.protocols import ApplyResult, Change, Notification, PluginContext
from calico_engine.ruleset.ir import ChainKey
from calico_engine.ruleset.marks import allocate_marks
from calico_engine.ruleset.state import DesiredState, PolicyForm
from calico_engine.settings import FelixSettings, Layout
from calico_engine.tables.backend import TableBackend, TableDelta
from calico_engine.tables.family import FamilyTables
from calico_engine.tables.status import EndpointStatuses, table_errors
from calico_engine.tables.timers import ResyncTimer

log = logging.getLogger(__name__)

_ATTEMPTS = 4
_BACKOFF_S = 0.02
_MAX_CLOSED_PER_APPLY = 50
_STUBBORN_RETRY_S = 30.0
#: Fewer chains than this are spelled faster than a thread is woken.
_INLINE_RENDER_CHAINS = 100
_INLINE_RENDER_ELEMENTS = 2000


class _Intervals(TypedDict):
    refresh_s: float
    post_write_s: float


def _intervals(settings: FelixSettings) -> _Intervals:
    return {
        "refresh_s": settings.iptables_refresh_interval_s,
        "post_write_s": settings.iptables_post_write_check_interval_s,
    }


class TableDataplane:
    """Enforces policy by chains and rules, in both families alike."""

    def __init__(
        self,
        context: PluginContext,
        backends: Sequence[TableBackend],
        *,
        clock: Callable[[], float] = time.monotonic,
        form: PolicyForm | None = None,
    ) -> None:
        """form: the backends have the native layout, whatever is set, with policies in this form."""
        self._context = context
        self._clock = clock
        self._state = DesiredState(context.settings, form)
        self._families = [FamilyTables(self._state, backend) for backend in backends]
        self._statuses = EndpointStatuses(self._state, self._families)
        self._timers = {
            family.backend.family: ResyncTimer(clock, **_intervals(context.settings))
            for family in self._families
        }
        self._watching = False
        self._leftovers_cleaned = False
        self._known_errors: dict[str, str] = {}
        self._stubborn_until_s = 0.0

    # Desired state

    def on_batch(self, batch: Batch, /) -> None:
        touched = self._state.apply(batch)
        self._statuses.touch(touched)
        for family in self._families:
            if touched.settings:
                family.backend.configure(self._state.settings)
                self._timers[family.backend.family].configure(**_intervals(self._state.settings))
            family.compiler.touch(touched)
            if family.sets is not None:
                family.sets.touch(touched.sets)

    def invalidate(self, reason: str, /) -> None:
        log.debug("tables to be read back: %s", reason)
        for timer in self._timers.values():
            timer.expire()

    async def _compile(self) -> None:
        """Compile what is dirty, in slices that leave the event loop room."""
        time_slice = TimeSlice()
        for family in self._families:
            for _ in family.compile_steps():
                if time_slice.is_over:
                    await time_slice.give_way()

    def _compile_now(self) -> None:
        for family in self._families:
            for _ in family.compile_steps():
                pass

    # Writing

    async def apply(self) -> ApplyResult:
        if not self._state.in_sync:
            return ApplyResult(plugin=self._context.name)
        self._watch()
        await self._compile()
        changes: list[Change] = []
        # One after the other: the kernel takes one transaction at a time, so that side by side gains nothing.
        refused: list[KernelError] = []
        for family in self._families:
            try:
                written = await self._apply_family(family)
            except KernelError as error:
                refused.append(error)
                continue
            if written:
                family.measure()
            changes += written
        self._report_errors()
        if refused:
            raise refused[0]
        return ApplyResult(
            plugin=self._context.name,
            writes=len(changes),
            changes=tuple(changes),
            endpoint_status=self._statuses.current(),
            resync_after_s=self._resync_after_s(),
        )

    async def _apply_family(self, family: FamilyTables) -> list[Change]:
        """Write what differs; return what that was. Raises: KernelError after several attempts.

        A chain that the kernel does not take is closed, so that it keeps no other from being written.
        """
        if self._timers[family.backend.family].is_due():
            family.release_quarantined()
        failures = 0
        closed = 0
        while True:
            try:
                return await self._write(family)
            except KernelError as error:
                failures += 1
                version = family.backend.family
                log.warning("tables of ipv%s not written, attempt %d: %s", version, failures, error)
                if not error.retryable:
                    raise
                suspects = family.closable(family.updates())
                culprits = family.culprits(error) if failures > 1 else frozenset()
                if culprits and culprits <= set(suspects) and closed < _MAX_CLOSED_PER_APPLY:
                    family.quarantine(culprits, str(error))
                    closed += len(culprits)
                    failures = 1
                elif failures >= _ATTEMPTS:
                    if culprits or not suspects:
                        raise
                    return await self._isolate(family, suspects, error)
                await asyncio.sleep(_BACKOFF_S * 2**failures)

    async def _isolate(
        self, family: FamilyTables, suspects: Sequence[ChainKey], error: KernelError
    ) -> list[Change]:
        """Find the chains that make the kernel refuse without saying which: close all, open again by halves.

        Raises: the error, when closing them does not help.
        """
        family.quarantine(suspects, str(error))
        try:
            changes = await self._write(family)
        except KernelError:
            family.release(suspects)
            raise error from None
        groups = [suspects]
        while groups:
            group = groups.pop()
            family.release(group)
            try:
                changes += await self._write(family)
            except KernelError as refusal:
                family.quarantine(group, str(refusal))
                middle = len(group) // 2
                groups += [half for half in (group[:middle], group[middle:]) if 0 < len(half) < len(group)]
        return changes

    async def _write(self, family: FamilyTables) -> list[Change]:
        """Read back if that is due, and write what differs. Raises: KernelError; the next write reads back."""
        if self._timers[family.backend.family].is_due():
            await self._read_back(family)
        delta = family.updates()
        if not delta:
            return []
        changes = family.changes(delta)
        await self._commit(family, delta)
        self._timers[family.backend.family].note_write()
        return changes

    async def _commit(self, family: FamilyTables, delta: TableDelta) -> None:
        if len(delta.chains) > _INLINE_RENDER_CHAINS or delta.element_count > _INLINE_RENDER_ELEMENTS:
            transaction = await asyncio.to_thread(family.backend.render, delta)
        else:
            transaction = family.backend.render(delta)
        try:
            await family.backend.commit(transaction)
        except BaseException:
            # Cut off in the middle, too: whether it happened, only the kernel knows.
            timer = self._timers[family.backend.family]
            timer.expire()
            timer.is_trusted = False
            raise
        family.note_committed(delta)
        log.info(
            "tables written: ipv%s chains=%d hooks=%d elements=%d deletions=%d bytes=%d",
            family.backend.family,
            len(delta.chains),
            len(delta.hooks),
            delta.element_count,
            len(delta.deletions) + len(delta.set_deletions),
            len(transaction),
        )

    async def _read_back(self, family: FamilyTables) -> None:
        timer = self._timers[family.backend.family]
        timer.note_read()
        started_s = self._clock()
        try:
            actual = await family.backend.read_back()
        except BaseException:
            timer.expire()
            raise
        timer.note_read_took(self._clock() - started_s)
        drifted = family.take_actual(actual)
        if drifted and timer.is_trusted:
            shown = ", ".join(drifted[:5]) + (f" and {len(drifted) - 5} more" if len(drifted) > 5 else "")
            log.warning("somebody else changed our chains, repairing: ipv%s %s", family.backend.family, shown)
            self._context.notify(
                Notification(
                    plugin=self._context.name,
                    kind="drift",
                    message=f"ipv{family.backend.family}: somebody else changed {shown}; repaired",
                )
            )
        timer.is_trusted = True

    async def prune(self) -> ApplyResult:
        changes: list[Change] = []
        if not self._state.in_sync or self._clock() < self._stubborn_until_s:
            return ApplyResult(plugin=self._context.name)
        await self._clean_leftovers()
        for family in reversed(self._families):
            delta = family.deletions()
            if not delta:
                continue
            removed = family.changes(delta)
            try:
                await self._commit(family, delta)
            except KernelError as error:
                self._stubborn_until_s = self._clock() + _STUBBORN_RETRY_S
                message = f"chains nothing of ours leads to were not deleted, will retry: {error}"
                log.warning("%s", message)
                self._context.notify(Notification(plugin=self._context.name, kind="warning", message=message))
            else:
                self._timers[family.backend.family].note_write()
                changes += removed
        return ApplyResult(
            plugin=self._context.name,
            writes=len(changes),
            changes=tuple(changes),
            resync_after_s=self._resync_after_s(),
        )

    async def _clean_leftovers(self) -> None:
        """Once, and only now that what replaces them is in place."""
        if self._leftovers_cleaned or not all(timer.is_trusted for timer in self._timers.values()):
            return
        self._leftovers_cleaned = True
        for family in self._families:
            count = await family.backend.clean_leftovers()
            if count:
                log.warning(
                    "removed %d objects of ours where we no longer write: ipv%s", count, family.backend.family
                )

    def _resync_after_s(self) -> float | None:
        due = [timer.due_in_s() for timer in self._timers.values()]
        known = [seconds for seconds in due if seconds is not None]
        return min(known) if known else None

    # Watching

    def _watch(self) -> None:
        if self._watching:
            return
        self._watching = True
        for family in self._families:
            timer = self._timers[family.backend.family]

            def changed(reason: str, timer: ResyncTimer = timer) -> None:
                timer.note_foreign_change()
                self._context.request_apply(reason)

            family.backend.watch(changed)

    def _report_errors(self) -> None:
        """Tell each new thing that is closed because it cannot be programmed, and each that is well again."""
        errors = table_errors(self._families)
        for name, reason in errors.items():
            if self._known_errors.get(name) != reason:
                message = f"{name}: {reason}"
                log.error("closed: %s", message)
                self._context.notify(Notification(plugin=self._context.name, kind="warning", message=message))
        for name in self._known_errors.keys() - errors.keys():
            log.info("no longer closed: %s", name)
        self._known_errors = errors

    # For people

    async def plan(self) -> Sequence[Change]:
        self._compile_now()
        changes: list[Change] = []
        for family in self._families:
            changes += family.plan(await family.backend.read_back())
        return changes

    @property
    def problems(self) -> dict[str, str]:
        """What is closed because it cannot be programmed: object -> why."""
        return dict(self._known_errors)

    @property
    def mark_bits(self) -> int:
        """All bits of the packet mark that our rules use, for a switch to another dataplane."""
        settings = self._state.settings
        if any(family.backend.limits.has_verdict_maps for family in self._families):
            settings = msgspec.structs.replace(settings, layout=Layout.NATIVE)
        return allocate_marks(settings).bits

    def render(self) -> str:
        self._compile_now()
        return "".join(family.backend.render_save(family.everything()) for family in self._families)

    async def cleanup(self) -> int:
        self.invalidate("cleaned up")
        return sum([await family.backend.clean() for family in self._families])

    async def close(self) -> None:
        for family in self._families:
            family.backend.close()
