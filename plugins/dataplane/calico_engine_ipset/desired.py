"""Which sets there should be, what they are called, and which may differ from the kernel's.

Batches only leave their messages here. Members become rows in `settle`, before an apply: a set of a hundred thousand in
a thread, so that nobody waits for it.
"""

from __future__ import annotations

import asyncio
import contextlib

import msgspec

from calico_engine.kernel.time_slice import TimeSlice
from calico_engine.messages import Batch, IPSetDelta, IPSetRemove, IPSetUpdate, Message, SetKind
from calico_engine.plugin.protocols import PluginContext
from calico_engine.ruleset.compile_sets import compile_fixed_sets
from calico_engine.ruleset.ir import Family
from calico_engine.ruleset.names import set_name
from calico_engine.ruleset.state import DesiredState
from calico_engine.settings import FelixSettings
from calico_engine_ipset.kernel_set import KernelSet, SetShape, wanted_shape
from calico_engine_ipset.packing import PackedMembers, pack_all

#: Fewer members than this are packed faster than a thread is woken.
_INLINE_MEMBERS = 1000

SetId = tuple[Family, str]


class DesiredSets:
    """Sets of both families by id. `dirty` names those that may differ; `refused` those with what is no member."""

    def __init__(self, context: PluginContext) -> None:
        self.families = [Family(str(f)) for f in context.families if f == 4 or context.settings.ipv6_support]
        self.sets: dict[SetId, KernelSet] = {}
        self.dirty: set[SetId] = set()
        self.refused: dict[str, str] = {}
        #: How many sets there are of a family, and whether one has gone since this was last set to False.
        self.counts = dict.fromkeys(self.families, 0)
        self.shrank = False
        self._state = DesiredState(context.settings)
        # What was said of a set and is not yet rows; an update, which says all, comes first.
        self._waiting: dict[str, list[IPSetUpdate | IPSetDelta]] = {}
        self._fixed: set[str] = set()
        self._fixed_dirty = True

    @property
    def in_sync(self) -> bool:
        return self._state.in_sync

    @property
    def settings(self) -> FelixSettings:
        return self._state.settings

    # What batches say

    def take(self, batch: Batch) -> None:
        others: list[Message] = []
        for message in batch.messages:
            match message:
                case IPSetUpdate(set_id=set_id):
                    self._waiting[set_id] = [message]
                case IPSetDelta(set_id=set_id):
                    self._waiting.setdefault(set_id, []).append(message)
                case IPSetRemove(set_id=set_id):
                    self._forget(set_id)
                case _:
                    others.append(message)
        touched = self._state.apply(msgspec.structs.replace(batch, messages=tuple(others)))
        if touched.pools or touched.nodes or touched.vteps or touched.settings:
            self._fixed_dirty = True

    def _forget(self, set_id: str) -> None:
        self._waiting.pop(set_id, None)
        self.refused.pop(set_id, None)
        for family in self.families:
            if self.sets.pop((family, set_id), None) is not None:
                self.counts[family] -= 1
                self.shrank = True
            self.dirty.discard((family, set_id))

    def large_updates(self, count: int) -> list[tuple[str, IPSetUpdate]]:
        """Return, by set id, the updates of more than so many members that are not yet rows."""
        firsts = ((set_id, changes[0]) for set_id, changes in self._waiting.items())
        return [
            (set_id, update)
            for set_id, update in firsts
            if isinstance(update, IPSetUpdate) and len(update.members) > count
        ]

    def take_packed(self, set_id: str, update: IPSetUpdate, packed: PackedMembers) -> bool:
        """Bring one set up to what was said; False when the update is no longer the last."""
        if self._waiting.get(set_id, [None])[0] is not update:
            return False
        self._settle_set(set_id, packed)
        return True

    async def settle(self) -> None:
        """Bring the sets up to what was said, a slice at a time; a large set is packed in a thread."""
        time_slice = TimeSlice()
        for set_id in list(self._waiting):
            changes = self._waiting.get(set_id)
            if changes is None:
                continue
            update, packed = changes[0], None
            if isinstance(update, IPSetUpdate) and len(update.members) > _INLINE_MEMBERS:
                # A member that is none is found again, and reported then.
                with contextlib.suppress(ValueError):
                    packed = await asyncio.to_thread(pack_all, update.members)
            if self._waiting.get(set_id) is changes:
                self._settle_set(set_id, packed)
            if time_slice.is_over:
                await time_slice.give_way()
        self.settle_now()

    def settle_now(self) -> None:
        """Bring the sets up to what was said, here and now."""
        for set_id in list(self._waiting):
            self._settle_set(set_id, None)
        self._compile_fixed()

    def _settle_set(self, set_id: str, packed: PackedMembers | None) -> None:
        """`packed`: the members of the update that comes first, if they are rows already."""
        try:
            for message in self._waiting.pop(set_id):
                if isinstance(message, IPSetUpdate):
                    self._want(set_id, message.kind, packed or pack_all(message.members))
                else:
                    self._change(set_id, pack_all(message.added), pack_all(message.removed))
        except ValueError as error:
            # What the kernel has stays until the next update; the apply fails with this.
            self.refused[set_id] = str(error)

    def _make(self, family: Family, set_id: str, kind: SetKind) -> KernelSet:
        found = self.sets.get((family, set_id))
        if found is None:
            found = self.sets[family, set_id] = KernelSet(kind, family)
            self.counts[family] += 1
        return found

    def _want(self, set_id: str, kind: SetKind, members: PackedMembers) -> None:
        for family in self.families:
            known = self._make(family, set_id, kind)
            known.kind = kind
            known.want(members)
            self.dirty.add((family, set_id))
        self.refused.pop(set_id, None)

    def _change(self, set_id: str, added: PackedMembers, removed: PackedMembers) -> None:
        for family in self.families:
            self._make(family, set_id, SetKind.NET).change(added, removed)
            self.dirty.add((family, set_id))

    def _compile_fixed(self) -> None:
        if not self._fixed_dirty:
            return
        self._fixed_dirty = False
        wanted: set[str] = set()
        for family in self.families:
            for set_id, data in compile_fixed_sets(self._state, self.settings, family).items():
                wanted.add(set_id)
                self._make(family, set_id, data.kind).want(pack_all(data.members))
                self.dirty.add((family, set_id))
        for set_id in self._fixed - wanted:
            self._forget(set_id)
        self._fixed = wanted

    # What a set is in the kernel

    def name(self, set_id: SetId) -> str:
        return set_name(set_id[1], set_id[0], self.settings.layout)

    def shape(self, set_id: SetId) -> SetShape:
        return wanted_shape(self.sets[set_id].kind, set_id[0], self.settings.max_ipset_size)

    def is_oversize(self, set_id: SetId) -> bool:
        return len(self.sets[set_id].desired) > self.settings.max_ipset_size

    def is_ours(self, name: str) -> bool:
        """Tell whether a set is of a family that we manage; the other family's may be another engine's."""
        return not name.startswith("cali") or name[4:5] in {family.value for family in self.families}
