"""Claim blocks for hosts and give them back.

A claim has two phases, for a block and its affinity are two records: the affinity is written as pending, the block is
made, the affinity is confirmed. Giving back goes the other way: pendingDeletion, block gone or without affinity,
affinity gone. Whoever finds a claim half done finishes it or clears it away; the block's own `affinity` decides.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from msgspec.structs import replace

from calico_engine.errors import (
    BlockMalformedError,
    BlockNotEmptyError,
    BlockTakenError,
    ConflictError,
    IpamContendedError,
    IpamError,
    NotFoundError,
)
from calico_engine.ipam.block import Moment, assigned_addresses, collect, free_count, is_empty, new_block
from calico_engine.ipam.handles import write_block
from calico_engine.ipam.keys import AffinityKey, BlockKey, Stored
from calico_engine.ipam.pools import BlockMap, Pool, walk_blocks
from calico_engine.ipam.records import AffinityOwner, AffinityState, AllocationBlock, BlockAffinity, Cidr
from calico_engine.ipam.reserved import ReservedSet
from calico_engine.ipam.retry import RETRIES, back_off
from calico_engine.ipam.store import Clock, IpamStore
from calico_engine.ipam.times import age_s

log = logging.getLogger(__name__)

# A block that was claimed less than this ago is not taken from its host, empty as it may be: it is about to be used.
EMPTY_BLOCK_MIN_RECLAIM_AGE_S = 60


class Claims:
    """Reads and changes blocks' affinities."""

    def __init__(self, store: IpamStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def affine_blocks(self, owner: AffinityOwner, version: int) -> list[Cidr]:
        """Return the CIDRs an owner has an affinity to, confirmed or not."""
        return [
            stored.key.cidr
            for stored in await self._store.list_affinities(owner)
            if isinstance(stored.key, AffinityKey) and stored.key.cidr.version == version
        ]

    async def affinities(self, owner: AffinityOwner | None) -> list[AffinityKey]:
        """Return all affinities of an owner or of all: those on record, and those that only blocks tell of."""
        keys = [
            stored.key
            for stored in await self._store.list_affinities(owner)
            if isinstance(stored.key, AffinityKey)
        ]
        for stored in await self._store.list_blocks():
            named = stored.value.owner
            if named is not None and owner in (None, named):
                keys.append(AffinityKey(named, stored.value.cidr))
        return list(dict.fromkeys(keys))

    async def find_block(self, cidr: Cidr) -> Stored[AllocationBlock] | None:
        try:
            return await self._store.get(BlockKey(cidr))
        except NotFoundError:
            return None

    async def usable_block(
        self, owner: AffinityOwner, pools: Sequence[Pool], reserved: ReservedSet, cooldown_s: int
    ) -> Cidr | None:
        """Return a block that isn't there yet, or is the owner's and has room; None when the pools are used up.

        The last resort is an empty block of somebody else, which is taken from them.
        """
        moment = Moment(self._clock.now_ns(), cooldown_s)
        listed = {stored.value.cidr: stored.value for stored in await self._store.list_blocks()}
        there = BlockMap(listed)
        empty: list[AllocationBlock] = []
        for pool in pools:
            for cidr in walk_blocks(pool, owner, reserved, moment.now_ns):
                if cidr not in listed:
                    if there.overlapped(cidr):
                        continue
                    return cidr
                try:
                    block = collect(listed[cidr], moment)
                except BlockMalformedError as error:
                    log.warning("block passed over: %s", error)
                    continue
                if free_count(block, reserved):
                    if block.affinity == str(owner):
                        return cidr
                    if is_empty(block):
                        empty.append(block)
        for block in empty:
            if await self._reclaim(block, moment):
                return block.cidr
        return None

    async def _reclaim(self, block: AllocationBlock, moment: Moment) -> bool:
        """Take an empty block from its owner. False when it is too young, or in use by now."""
        claimed = block.affinity_claim_time
        if claimed is not None and age_s(claimed, moment.now_ns) < EMPTY_BLOCK_MIN_RECLAIM_AGE_S:
            return False
        owner = block.owner
        if owner is None:
            return False
        try:
            await self.release(
                owner, block.cidr, moment.cooldown_s, must_be_empty=True, at_sequence=block.sequence_number
            )
        except (IpamError, ConflictError, NotFoundError) as error:
            log.info("empty block not reclaimed: %s owner=%s: %s", block.cidr, owner, error)
            return False
        log.info("empty block reclaimed: %s owner=%s", block.cidr, owner)
        return True

    async def claim(self, owner: AffinityOwner, cidr: Cidr) -> Stored[AllocationBlock]:
        """Return the block, made and claimed for the owner if it isn't yet. Raises: BlockTakenError."""
        for attempt in range(RETRIES):
            try:
                return await self.block_of(await self._pending(owner, cidr))
            except (ConflictError, NotFoundError):
                await back_off(self._clock, attempt)
        raise IpamContendedError(f"claim of block {cidr} for {owner}", RETRIES)

    async def owned_block(self, owner: AffinityOwner, cidr: Cidr) -> Stored[AllocationBlock]:
        """Return the block behind an affinity that was listed. Raises: BlockTakenError, NotFoundError if it is gone."""
        for attempt in range(RETRIES):
            affinity = await self._store.get(AffinityKey(owner, cidr))
            try:
                return await self.block_of(affinity)
            except ConflictError:
                await back_off(self._clock, attempt)
        raise IpamContendedError(f"affinity of {owner} to {cidr}", RETRIES)

    async def _pending(self, owner: AffinityOwner, cidr: Cidr) -> Stored[BlockAffinity]:
        """Return the affinity: new and pending, or as it is when it is confirmed."""
        key = AffinityKey(owner, cidr)
        try:
            return await self._store.create(key, BlockAffinity(state=AffinityState.PENDING))
        except ConflictError:
            stored = await self._store.get(key)
        if stored.value.state.is_confirmed:
            return stored
        return await self._with_state(stored, AffinityState.PENDING)

    async def block_of(self, affinity: Stored[BlockAffinity]) -> Stored[AllocationBlock]:
        """Return the block of an affinity, with both in order; a stale affinity is deleted.

        Raises: BlockTakenError; ConflictError and NotFoundError when somebody changes the same.
        """
        key = affinity.key
        assert isinstance(key, AffinityKey)
        block = await self.find_block(key.cidr)
        if block is None:
            affinity = await self._with_state(affinity, AffinityState.PENDING)
            try:
                block = await self._store.create(
                    BlockKey(key.cidr), new_block(key.cidr, key.owner, self._clock.now_ns())
                )
            except ConflictError:
                block = await self._store.get(BlockKey(key.cidr))
            else:
                log.info("block claimed: %s owner=%s", key.cidr, key.owner)
        if block.value.affinity != str(key.owner):
            await self._store.delete(affinity)
            raise BlockTakenError(str(key.cidr), block.value.affinity or "")
        if affinity.value.state.is_confirmed:
            return block
        # A new revision makes the writes of those fail who still give the block back or take it over.
        affinity = await self._with_state(affinity, AffinityState.PENDING)
        block = await write_block(self._store, block, block.value)
        await self._with_state(affinity, AffinityState.CONFIRMED)
        return block

    async def _with_state(self, stored: Stored[BlockAffinity], state: AffinityState) -> Stored[BlockAffinity]:
        """Write a state, also when it is the same: the new revision fends off others."""
        return await self._store.update(stored.with_value(replace(stored.value, state=state)))

    async def release(
        self,
        owner: AffinityOwner,
        cidr: Cidr,
        cooldown_s: int,
        *,
        must_be_empty: bool,
        at_sequence: int | None = None,
    ) -> None:
        """Give up an affinity. An empty block is deleted, another one stays without affinity.

        Raises: BlockNotEmptyError, BlockTakenError (the stale affinity is gone), NotFoundError for no such affinity,
        ConflictError, also when the block is no longer at `at_sequence`.
        """
        stored = await self.find_block(cidr)
        affinity = await self._affinity_to_release(owner, cidr, stored)
        if stored is None:
            await self._store.delete(affinity)
            return
        block = collect(stored.value, Moment(self._clock.now_ns(), cooldown_s))
        if at_sequence is not None and at_sequence != block.sequence_number:
            raise ConflictError(str(stored.key), str(at_sequence), str(block.sequence_number))
        if block.affinity is not None and block.affinity != str(owner):
            await self._store.delete(affinity)
            raise BlockTakenError(str(cidr), block.affinity)
        if must_be_empty and not is_empty(block):
            raise BlockNotEmptyError(str(cidr), len(assigned_addresses(block)))
        affinity = await self._with_state(affinity, AffinityState.PENDING_DELETION)
        if is_empty(block):
            try:
                await self._store.delete(stored)
            except NotFoundError:
                log.debug("block deleted by somebody else: %s", cidr)
        else:
            await write_block(self._store, stored, replace(block, affinity=None, affinity_claim_time=None))
        try:
            await self._store.delete(affinity)
        except NotFoundError:
            log.debug("affinity deleted by somebody else: %s", affinity.key)
        log.info("affinity released: %s owner=%s", cidr, owner)

    async def _affinity_to_release(
        self, owner: AffinityOwner, cidr: Cidr, block: Stored[AllocationBlock] | None
    ) -> Stored[BlockAffinity]:
        """Return the affinity; made anew when it is gone and the block still names the owner. Raises: NotFoundError."""
        key = AffinityKey(owner, cidr)
        try:
            return await self._store.get(key)
        except NotFoundError:
            if block is None or block.value.affinity != str(owner):
                raise
        return await self._store.create(key, BlockAffinity(state=AffinityState.PENDING_DELETION))

    async def release_persistently(
        self, owner: AffinityOwner, cidr: Cidr, cooldown_s: int, *, must_be_empty: bool
    ) -> None:
        """As `release`, again when others write the same; an affinity that isn't there or not the owner's is done.

        Raises: BlockNotEmptyError.
        """
        for attempt in range(RETRIES):
            try:
                await self.release(owner, cidr, cooldown_s, must_be_empty=must_be_empty)
            except ConflictError:
                await back_off(self._clock, attempt)
            except (BlockTakenError, NotFoundError):
                return
            else:
                return
        raise IpamContendedError(f"release of {owner}'s affinity to {cidr}", RETRIES)
