"""Keep the counts of handles at or above what their blocks hold.

A handle says in which blocks its addresses are; what it does not name can't be released by it. So its count is raised
before the block is written and lowered after: a crash in between leaves a count too high, never one too low.

Lowering must not take away a count that another client has just raised for an address it is about to write. Clients
read the block, then raise the count, then write the block. Whoever lowers a count therefore reads the handle, writes
the block, and then writes the handle over what it read: a count raised before makes the other's block write fail, one
raised after makes ours of the handle fail.
"""

from __future__ import annotations

import logging

from msgspec.structs import replace

from calico_engine.errors import ConflictError, IpamContendedError, NotFoundError
from calico_engine.ipam.block import ordinals_of_handle
from calico_engine.ipam.keys import BlockKey, HandleKey, Stored
from calico_engine.ipam.records import AllocationBlock, Cidr, IPAMHandle
from calico_engine.ipam.retry import RETRIES, back_off
from calico_engine.ipam.store import Clock, IpamStore

log = logging.getLogger(__name__)


async def write_block(
    store: IpamStore, stored: Stored[AllocationBlock], block: AllocationBlock
) -> Stored[AllocationBlock]:
    """Write a block over what was read; each write counts its sequence number up. Raises: ConflictError."""
    return await store.update(stored.with_value(replace(block, sequence_number=block.sequence_number + 1)))


class Handles:
    """Reads and changes handles."""

    def __init__(self, store: IpamStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def raise_count(self, handle_id: str, cidr: Cidr, count: int) -> Stored[IPAMHandle]:
        """Add to what a handle has in a block; makes the handle when there is none."""
        key = HandleKey(handle_id)
        for attempt in range(RETRIES):
            try:
                stored = await self.find(handle_id)
                if stored is None:
                    return await self._store.create(key, IPAMHandle(block={str(cidr): count}))
                recorded = stored.value.block.get(str(cidr), 0)
                return await self._store.update(
                    stored.with_value(_with_count(stored.value, cidr, recorded + count))
                )
            except ConflictError:
                await back_off(self._clock, attempt)
        raise IpamContendedError(str(key), RETRIES)

    async def find(self, handle_id: str) -> Stored[IPAMHandle] | None:
        try:
            return await self._store.get(HandleKey(handle_id))
        except NotFoundError:
            return None

    async def write_count(
        self, stored: Stored[IPAMHandle], cidr: Cidr, count: int
    ) -> Stored[IPAMHandle] | None:
        """Set what a handle has in a block; None when the handle has nothing left and is deleted.

        Raises: ConflictError, also when the handle is gone.
        """
        handle = _with_count(stored.value, cidr, count)
        if handle.block:
            return stored if handle == stored.value else await self._store.update(stored.with_value(handle))
        try:
            await self._store.delete(stored)
        except NotFoundError as gone:
            raise ConflictError(str(stored.key), stored.revision, "") from gone
        return None

    async def settle(self, handle_id: str, cidr: Cidr) -> None:
        """Set a handle's count for a block to what the block holds, safe against clients that are raising it."""
        for attempt in range(RETRIES):
            handle = await self.find(handle_id)
            if handle is None or str(cidr) not in handle.value.block:
                return
            try:
                await self._set_to_held(handle, handle_id, cidr)
            except ConflictError:
                await back_off(self._clock, attempt)
            else:
                return
        raise IpamContendedError(str(HandleKey(handle_id)), RETRIES)

    async def _set_to_held(self, handle: Stored[IPAMHandle], handle_id: str, cidr: Cidr) -> None:
        """Write the block, then the count. Raises: ConflictError."""
        try:
            block = await self._store.get(BlockKey(cidr))
        except NotFoundError:
            # Whoever read the block before it went can't write it any more.
            await self.write_count(handle, cidr, 0)
            return
        count = len(ordinals_of_handle(block.value, handle_id))
        if count != handle.value.block[str(cidr)]:
            await write_block(self._store, block, block.value)
            await self.write_count(handle, cidr, count)


class Cover:
    """One client's raised count for addresses of one block, from the first attempt to write the block to the last."""

    def __init__(self, handles: Handles, store: IpamStore, handle_id: str | None, cidr: Cidr) -> None:
        self._handles = handles
        self._store = store
        self._handle_id = handle_id
        self._cidr = cidr
        self._stored: Stored[IPAMHandle] | None = None
        self._count = 0
        self._excess = False

    async def raise_to(self, count: int) -> None:
        """See that `count` addresses are covered. Call it after reading the block and before writing it, each time."""
        if not self._handle_id:
            return
        if self._stored is not None:
            recorded = self._stored.value.block[str(self._cidr)]
            handle = _with_count(self._stored.value, self._cidr, recorded + count - self._count)
            try:
                # Written even if nothing changes: who lowers the count at this moment must notice us.
                self._stored = await self._store.update(self._stored.with_value(handle))
            except ConflictError:
                self._excess = True
            else:
                self._count = count
                return
        self._stored = await self._handles.raise_count(self._handle_id, self._cidr, count)
        self._count = count

    async def keep(self) -> None:
        """The block was written: only what is certainly too much goes."""
        if self._excess and self._handle_id:
            await self._handles.settle(self._handle_id, self._cidr)

    async def drop(self) -> None:
        """The block was not and won't be written."""
        if self._stored is None or not self._handle_id:
            return
        if not self._excess:
            left = self._stored.value.block[str(self._cidr)] - self._count
            try:
                await self._handles.write_count(self._stored, self._cidr, left)
            except ConflictError:
                log.debug("handle changed by somebody else: %s", self._handle_id)
            else:
                return
        await self._handles.settle(self._handle_id, self._cidr)


def _with_count(handle: IPAMHandle, cidr: Cidr, count: int) -> IPAMHandle:
    block = {name: number for name, number in handle.block.items() if name != str(cidr)}
    return replace(handle, block=block | {str(cidr): count} if count > 0 else block)
