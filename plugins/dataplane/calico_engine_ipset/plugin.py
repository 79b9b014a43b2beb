"""The ipset dataplane: the members of selectors, named ports, services and pools as the kernel's ipsets.

A set is filled before a rule can refer to it (this plugin comes before iptables in a profile) and destroyed when none
does any more. A set larger than max_ipset_size is not programmed at all: rules that use it are closed, because a part
of it would let through what a deny rule names. Sets that are not ours are never touched.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

import msgspec

from calico_engine.errors import KernelError
from calico_engine.fastpath import SET_ROW_SIZE
from calico_engine.messages import (
    Batch,
    IPSetDelta,
    IPSetRemove,
    IPSetUpdate,
    Message,
    SetKind,
)
from calico_engine.plugin.protocols import ApplyResult, Change, Notification, PluginContext
from calico_engine.ruleset.compile_sets import compile_fixed_sets
from calico_engine.ruleset.ir import Family
from calico_engine.ruleset.names import set_name, temporary_set_name
from calico_engine.ruleset.state import DesiredState
from calico_engine.tables.timers import ResyncTimer
from calico_engine_ipset.config import IpsetConfig
from calico_engine_ipset.kernel_set import KernelSet, wanted_shape
from calico_engine_ipset.saved import Comparison, RowSet, SavedSet, compare
from calico_engine_ipset.steps import Destroy, Step, change_steps, count_lines, fill_steps, swap_steps
from calico_engine_ipset.text import fill_text
from calico_engine_ipset.tool import SetTool, choose_tool

log = logging.getLogger(__name__)

_ATTEMPTS = 3
_BACKOFF_S = 0.02
#: Fewer members than this are compared faster than a thread is woken.
_INLINE_MEMBERS = 1000
#: Sets that rules refer to are tried again. Soon at first, as the kernel may only be late: iptables-nft returns before
#: the sets of rules it deleted are let go. Then ever less often: the rules may be somebody else's.
_BUSY_RETRY_S = 0.1
_LONGEST_BUSY_RETRY_S = 10.0

SetId = tuple[Family, str]


class _Write(msgspec.Struct):
    """What one transaction does to one set: `rewritten` with all of `added`, or changed."""

    set_id: SetId
    added: tuple[str, ...]
    deleted: tuple[str, ...]
    rewritten: bool


class IpsetDataplane:
    """Keeps the kernel's sets equal to the desired ones, in both families alike."""

    def __init__(self, context: PluginContext, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._context = context
        config = context.options if isinstance(context.options, IpsetConfig) else IpsetConfig()
        self._access = config.kernel_access
        # Found out at first use.
        self._tool: SetTool | None = None
        self._clock = clock
        self._families = [Family(str(f)) for f in context.families if f == 4 or context.settings.ipv6_support]
        self._state = DesiredState(context.settings)
        self._sets: dict[SetId, KernelSet] = {}
        self._dirty: set[SetId] = set()
        self._fixed: set[str] = set()
        self._fixed_dirty = True
        # Names of ours that the kernel has, whether desired or not.
        self._present: set[str] = set()
        self._timer = ResyncTimer(clock, refresh_s=context.settings.ipsets_refresh_interval_s)
        self._busy_until_s = 0.0
        self._busy: list[str] = []
        self._busy_retry_s = _BUSY_RETRY_S
        self._oversize: set[SetId] = set()

    # Desired state

    def on_batch(self, batch: Batch, /) -> None:
        others: list[Message] = []
        for message in batch.messages:
            match message:
                case IPSetUpdate(set_id=set_id, kind=kind, members=members):
                    self._want(set_id, kind, members)
                case IPSetDelta(set_id=set_id, added=added, removed=removed):
                    for family in self._families:
                        self._make(family, set_id, SetKind.NET).change(added, removed)
                        self._dirty.add((family, set_id))
                case IPSetRemove(set_id=set_id):
                    self._forget(set_id)
                case _:
                    others.append(message)
        before = self._state.settings
        touched = self._state.apply(msgspec.structs.replace(batch, messages=tuple(others)))
        if touched.pools or touched.nodes or touched.vteps or touched.settings:
            self._fixed_dirty = True
        settings = self._state.settings
        if settings.layout is not before.layout or settings.max_ipset_size != before.max_ipset_size:
            # Names or shapes change: forget what the kernel has, the read-back finds what still serves.
            self._timer.expire()
        self._timer.configure(refresh_s=settings.ipsets_refresh_interval_s)

    def _make(self, family: Family, set_id: str, kind: SetKind) -> KernelSet:
        found = self._sets.get((family, set_id))
        if found is None:
            found = self._sets[family, set_id] = KernelSet(kind, family)
        return found

    def _want(self, set_id: str, kind: SetKind, members: frozenset[str]) -> None:
        for family in self._families:
            known = self._make(family, set_id, kind)
            known.kind = kind
            known.want(members)
            self._dirty.add((family, set_id))

    def _forget(self, set_id: str) -> None:
        for family in self._families:
            self._sets.pop((family, set_id), None)
            self._dirty.discard((family, set_id))
            self._oversize.discard((family, set_id))

    def _compile_fixed(self) -> None:
        if not self._fixed_dirty:
            return
        self._fixed_dirty = False
        wanted: set[str] = set()
        for family in self._families:
            for set_id, data in compile_fixed_sets(self._state, self._state.settings, family).items():
                wanted.add(set_id)
                known = self._make(family, set_id, data.kind)
                known.want(data.members)
                self._dirty.add((family, set_id))
        for set_id in self._fixed - wanted:
            self._forget(set_id)
        self._fixed = wanted

    def _name(self, set_id: SetId) -> str:
        return set_name(set_id[1], set_id[0], self._state.settings.layout)

    def _is_oversize(self, set_id: SetId) -> bool:
        return len(self._sets[set_id].desired) > self._state.settings.max_ipset_size

    def invalidate(self, reason: str, /) -> None:
        log.debug("sets to be read back: %s", reason)
        self._timer.expire()

    # Writing

    async def apply(self) -> ApplyResult:
        if not self._state.in_sync:
            return ApplyResult(plugin=self._context.name)
        self._compile_fixed()
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
        return ApplyResult(
            plugin=self._context.name,
            writes=len(writes),
            changes=tuple(self._change(write) for write in writes),
            resync_after_s=self._timer.due_in_s(),
        )

    def _pending(self) -> list[_Write]:
        """Return what each dirty set needs; a set too large is left alone and told of."""
        writes: list[_Write] = []
        for set_id in sorted(self._dirty):
            known = self._sets[set_id]
            if self._is_oversize(set_id):
                self._report_oversize(set_id)
                continue
            self._oversize.discard(set_id)
            if known.shape != self._shape(set_id) or known.is_rewrite_cheaper:
                writes.append(_Write(set_id, tuple(known.desired), (), rewritten=True))
            elif not known.in_sync:
                writes.append(_Write(set_id, tuple(known.missing), tuple(known.extra), rewritten=False))
            else:
                self._dirty.discard(set_id)
        return writes

    def _report_oversize(self, set_id: SetId) -> None:
        if set_id in self._oversize:
            return
        self._oversize.add(set_id)
        message = (
            f"set {set_id[1]} has {len(self._sets[set_id].desired)} members of ipv{set_id[0]}, more than "
            f"max_ipset_size {self._state.settings.max_ipset_size}: it is not programmed and rules that use it are "
            "closed; raise max_ipset_size"
        )
        log.error("%s", message)
        self._context.notify(Notification(plugin=self._context.name, kind="warning", message=message))

    def _shape(self, set_id: SetId) -> object:
        return wanted_shape(self._sets[set_id].kind, set_id[0], self._state.settings.max_ipset_size)

    async def _commit(self, writes: Sequence[_Write]) -> None:
        if not writes:
            return
        steps: list[Step] = [Destroy(name) for name in self._temporary_names()]
        for number, write in enumerate(writes):
            steps += self._steps(write, number)
        try:
            await (await self._reach()).run(steps, self._context.metrics)
        except BaseException:
            # Cut off in the middle, too: how far it came, only the kernel knows.
            self._timer.expire()
            self._timer.is_trusted = False
            raise
        for write in writes:
            self._note_written(write)
        self._present -= set(self._temporary_names())
        self._measure()
        log.info("sets written: sets=%d lines=%d", len(writes), count_lines(steps))

    async def _reach(self) -> SetTool:
        if self._tool is None:
            self._tool = await choose_tool(self._access)
        return self._tool

    def _measure(self) -> None:
        metrics = self._context.metrics
        metrics.gauge("felix_ipsets_total", len(self._present))
        for family in self._families:
            count = sum(set_id[0] is family for set_id in self._sets)
            metrics.gauge(
                "felix_ipsets_calico", count, {"ip_version": f"inet{'6' if family is Family.V6 else ''}"}
            )

    def _steps(self, write: _Write, number: int) -> list[Step]:
        name = self._name(write.set_id)
        known = self._sets[write.set_id]
        shape = wanted_shape(known.kind, write.set_id[0], self._state.settings.max_ipset_size)
        if not write.rewritten:
            return change_steps(name, write.added, write.deleted)
        if name not in self._present:
            return fill_steps(name, shape, write.added)
        if known.shape is None or known.shape.type != shape.type or known.shape.family != shape.family:
            # Sets of two types cannot be swapped. In use by a rule, it cannot be destroyed either: then this fails.
            return [Destroy(name), *fill_steps(name, shape, write.added)]
        return swap_steps(name, temporary_set_name(number, write.set_id[0]), shape, write.added)

    def _note_written(self, write: _Write) -> None:
        self._present.add(self._name(write.set_id))
        known = self._sets.get(write.set_id)
        if known is None:
            return
        if write.rewritten:
            known.shape = wanted_shape(known.kind, write.set_id[0], self._state.settings.max_ipset_size)
            known.note_actual(write.added)
        else:
            known.note_written(write.added, write.deleted)
        if known.in_sync:
            self._dirty.discard(write.set_id)

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

    def _change(self, write: _Write) -> Change:
        name = self._name(write.set_id)
        if write.rewritten:
            return Change("+", name, f"{len(write.added)} members")
        return Change("~", name, f"+{len(write.added)} -{len(write.deleted)} members")

    def _temporary_names(self) -> list[str]:
        prefixes = tuple(f"cali{family}t" for family in Family)
        return sorted(name for name in self._present if name.startswith(prefixes) and name[6:].isdigit())

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

    async def _compare(self, found: dict[str, SavedSet]) -> dict[SetId, tuple[int, Comparison | None]]:
        """Return how our sets that came as rows differ, and of which generation of desired members that is true."""
        jobs = [
            (set_id, known.generation, known.rows or tuple(known.desired), saved.rows)
            for set_id, known in self._sets.items()
            if isinstance(saved := found.get(self._name(set_id)), RowSet)
        ]

        def work() -> dict[SetId, tuple[int, Comparison | None]]:
            return {
                set_id: (generation, compare(desired, rows)) for set_id, generation, desired, rows in jobs
            }

        size = sum(len(rows) for *_, rows in jobs) // SET_ROW_SIZE
        size += sum(len(self._sets[set_id].desired) for set_id, *_ in jobs)
        return work() if size <= _INLINE_MEMBERS else await asyncio.to_thread(work)

    def _take_actual(
        self,
        found: dict[str, SavedSet],
        unreadable: frozenset[str],
        compared: dict[SetId, tuple[int, Comparison | None]],
    ) -> list[str]:
        """Note what the kernel has; return the names of sets that are not as we left them."""
        drifted: list[str] = []
        for set_id, known in self._sets.items():
            name = self._name(set_id)
            saved = found.get(name)
            before = (known.shape, len(known.missing), len(known.extra))
            if saved is None:
                known.note_absent()
            else:
                known.shape = saved.shape
                generation, difference = compared.get(set_id, (-1, None))
                if difference is not None and generation == known.generation:
                    known.note_difference(difference.desired_rows, difference.missing, difference.extra)
                else:
                    known.note_actual(saved.members)
            if before != (known.shape, len(known.missing), len(known.extra)):
                drifted.append(name)
            self._dirty.add(set_id)
        self._present = set(found) | unreadable
        return drifted

    # Removing

    def _unwanted(self) -> list[str]:
        wanted = {self._name(set_id) for set_id in self._sets if not self._is_oversize(set_id)}
        return sorted(name for name in self._present - wanted if self._is_ours(name))

    def _is_ours(self, name: str) -> bool:
        """Tell whether a set is of a family that we manage; the other family's may be another engine's."""
        return not name.startswith("cali") or name[4:5] in {family.value for family in self._families}

    async def prune(self) -> ApplyResult:
        unwanted = self._unwanted() if self._state.in_sync else []
        waits_s = self._busy_until_s - self._clock()
        if not unwanted or waits_s > 0:
            return ApplyResult(plugin=self._context.name, resync_after_s=waits_s if unwanted else None)
        destroyed, busy = await (await self._reach()).destroy(unwanted)
        self._present -= set(destroyed)
        for set_id, known in self._sets.items():
            if self._name(set_id) in destroyed:
                known.note_absent()
        if busy:
            self._wait_for(busy)
        return ApplyResult(
            plugin=self._context.name,
            writes=len(destroyed),
            changes=tuple(Change("-", name, "not used any more") for name in destroyed),
            resync_after_s=self._busy_retry_s if busy else self._timer.due_in_s(),
        )

    def _wait_for(self, busy: list[str]) -> None:
        """Leave sets in use alone for a while, longer each time that they are the same."""
        grown_s = min(2 * self._busy_retry_s, _LONGEST_BUSY_RETRY_S)
        self._busy_retry_s = grown_s if busy == self._busy else _BUSY_RETRY_S
        self._busy = busy
        self._busy_until_s = self._clock() + self._busy_retry_s
        log.info("sets still in use, will retry in %.1f s: %s", self._busy_retry_s, " ".join(busy))

    # For people

    async def plan(self) -> Sequence[Change]:
        self._compile_fixed()
        found, unreadable = await (await self._reach()).read_own_sets()
        changes: list[Change] = []
        wanted: set[str] = set()
        for set_id, known in sorted(self._sets.items()):
            name = self._name(set_id)
            wanted.add(name)
            saved = found.get(name)
            if saved is None or saved.shape != self._shape(set_id):
                changes.append(Change("+", name, f"{len(known.desired)} members"))
                continue
            members = set(saved.members)
            added, deleted = len(known.desired - members), len(members - known.desired)
            if added or deleted:
                changes.append(Change("~", name, f"+{added} -{deleted} members"))
        gone = sorted(name for name in (set(found) | unreadable) - wanted if self._is_ours(name))
        return [*changes, *(Change("-", name, "not used any more") for name in gone)]

    def render(self) -> str:
        self._compile_fixed()
        return "".join(
            fill_text(
                self._name(set_id),
                wanted_shape(known.kind, set_id[0], self._state.settings.max_ipset_size),
                sorted(known.desired),
            )
            for set_id, known in sorted(self._sets.items())
            if not self._is_oversize(set_id)
        )

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
