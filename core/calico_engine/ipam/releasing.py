"""Take addresses and blocks back."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import groupby

import msgspec

from calico_engine.errors import (
    BlockNotEmptyError,
    CalicoEngineError,
    ConflictError,
    IpamContendedError,
    NotFoundError,
)
from calico_engine.ipam.block import (
    Moment,
    ReleaseRequest,
    collect,
    is_empty,
    ordinals_of_handle,
    release,
    release_by_handle,
)
from calico_engine.ipam.handles import write_block
from calico_engine.ipam.inspection import Inspection
from calico_engine.ipam.keys import AffinityKey, HandleKey, Stored
from calico_engine.ipam.pools import pool_of, read_pools
from calico_engine.ipam.records import (
    Address,
    AffinityOwner,
    AffinityType,
    AllocationBlock,
    Cidr,
    IPAMConfig,
    IPAMHandle,
    clean_handle,
    parse_cidr,
)
from calico_engine.ipam.retry import RETRIES, back_off

log = logging.getLogger(__name__)


class ReleaseOutcome(msgspec.Struct, frozen=True):
    """Which addresses were released, and which were not allocated in the first place."""

    released: tuple[Address, ...] = ()
    unallocated: tuple[Address, ...] = ()


class Releasing(Inspection):
    """The part of `IpamClient` that takes back."""

    async def release_addresses(self, requests: Sequence[ReleaseRequest]) -> ReleaseOutcome:
        """Release addresses, block by block.

        Raises: StaleReleaseError when one is another allocation by now; blocks before that one are released.
        """
        requests = [
            msgspec.structs.replace(request, handle=clean_handle(request.handle)) for request in requests
        ]
        config = await self.config()
        blocks = await self._blocks_of([request.address for request in requests])
        unallocated = [request.address for request in requests if request.address not in blocks]
        known = sorted(
            (request for request in requests if request.address in blocks),
            key=lambda request: _order(blocks[request.address].value.cidr),
        )
        released: list[Address] = []
        for _, group in groupby(known, key=lambda request: _order(blocks[request.address].value.cidr)):
            members = list(group)
            cidr = blocks[members[0].address].value.cidr
            absent = await self._release_from_block(cidr, members, config)
            unallocated += absent
            released += [request.address for request in members if request.address not in absent]
        return ReleaseOutcome(tuple(dict.fromkeys(released)), tuple(dict.fromkeys(unallocated)))

    async def release_by_handle(self, handle_id: str) -> tuple[Address, ...]:
        """Release all addresses of a handle and return them; afterwards the handle is gone, whatever it counted.

        Raises: NotFoundError for no such handle.
        """
        handle_id = clean_handle(handle_id)
        handle: Stored[IPAMHandle] | None = await self._store.get(HandleKey(handle_id))
        config = await self.config()
        released: list[Address] = []
        for attempt in range(RETRIES):
            try:
                while handle is not None and handle.value.block:
                    cidr = parse_cidr(next(iter(handle.value.block)))
                    released += await self._release_handle_in_block(handle_id, cidr, config)
                    handle = await self._handles.write_count(handle, cidr, 0)
                if handle is not None:
                    await self._store.delete(handle)
            except ConflictError:
                await back_off(self._clock, attempt)
                handle = await self._handles.find(handle_id)
            except NotFoundError:
                return tuple(released)
            else:
                return tuple(released)
        raise IpamContendedError(str(HandleKey(handle_id)), RETRIES)

    async def release_host_affinities(self, owner: AffinityOwner, *, must_be_empty: bool) -> tuple[Cidr, ...]:
        """Give up all blocks of a host; return those that were kept because they are in use and had to be empty."""
        config = await self.config()
        kept: list[Cidr] = []
        for key in await self._claims.affinities(owner):
            kept += await self._release_affinity(key, config, must_be_empty=must_be_empty)
        return tuple(kept)

    async def release_affinities_within(
        self, cidr: Cidr, owner: AffinityOwner | None = None, *, must_be_empty: bool
    ) -> tuple[Cidr, ...]:
        """Give up all blocks within a CIDR, of one host or of all; return those that were kept as in use."""
        config = await self.config()
        kept: list[Cidr] = []
        for key in await self._claims.affinities(owner):
            if key.cidr.version == cidr.version and key.cidr.overlaps(cidr):
                kept += await self._release_affinity(key, config, must_be_empty=must_be_empty)
        return tuple(kept)

    async def release_empty_blocks(self, owner: AffinityOwner) -> tuple[Cidr, ...]:
        """Give back a host's empty blocks but for one block of each family that it keeps; return those given back."""
        config = await self.config()
        given_back: list[Cidr] = []
        for version in (4, 6):
            empty: list[Cidr] = []
            left = 0
            for cidr in await self._claims.affine_blocks(owner, version):
                stored = await self._claims.find_block(cidr)
                if stored is None or stored.value.affinity != str(owner):
                    continue
                left += 1
                if is_empty(collect(stored.value, self._moment(config))):
                    empty.append(cidr)
            for cidr in empty:
                if left <= 1:
                    break
                if not await self._release_affinity(AffinityKey(owner, cidr), config, must_be_empty=True):
                    given_back.append(cidr)
                    left -= 1
        return tuple(given_back)

    async def _release_affinity(
        self, key: AffinityKey, config: IPAMConfig, *, must_be_empty: bool
    ) -> tuple[Cidr, ...]:
        """Give up one block; return its CIDR when it is in use and has to be empty."""
        try:
            await self._claims.release_persistently(
                key.owner, key.cidr, config.ip_cooldown_seconds, must_be_empty=must_be_empty
            )
        except BlockNotEmptyError:
            return (key.cidr,)
        return ()

    async def _release_from_block(
        self, cidr: Cidr, requests: Sequence[ReleaseRequest], config: IPAMConfig
    ) -> tuple[Address, ...]:
        """Release addresses of one block; return those that were not allocated. Raises: StaleReleaseError."""
        for attempt in range(RETRIES):
            stored = await self._claims.find_block(cidr)
            if stored is None:
                return tuple(request.address for request in requests)
            moment = self._moment(config)
            outcome = release(collect(stored.value, moment), requests, moment)
            if len(outcome.unallocated) == len({request.address for request in requests}):
                return outcome.unallocated
            # Read between block and block: see the contract of `handles`.
            handles = {name: await self._handles.find(name) for name in outcome.count_by_handle}
            try:
                await self._write_released(stored, outcome.block)
            except ConflictError:
                await back_off(self._clock, attempt)
                continue
            for name, handle in handles.items():
                await self._lower(name, handle, outcome.block)
            await self._drop_stray_affinity(outcome.block, moment)
            return outcome.unallocated
        raise IpamContendedError(f"release of addresses of block {cidr}", RETRIES)

    async def _release_handle_in_block(
        self, handle_id: str, cidr: Cidr, config: IPAMConfig
    ) -> tuple[Address, ...]:
        """Release a handle's addresses of one block. The block is written even if there are none: a client that has
        raised the handle's count for an address it is about to take must notice."""
        for attempt in range(RETRIES):
            stored = await self._claims.find_block(cidr)
            if stored is None:
                return ()
            moment = self._moment(config)
            before = collect(stored.value, moment)
            addresses = tuple(before.address(ordinal) for ordinal in ordinals_of_handle(before, handle_id))
            block, _ = release_by_handle(before, handle_id, moment)
            try:
                await self._write_released(stored, block)
            except ConflictError:
                await back_off(self._clock, attempt)
                continue
            await self._drop_stray_affinity(block, moment)
            return addresses
        raise IpamContendedError(f"release of handle {handle_id} in block {cidr}", RETRIES)

    async def _write_released(self, stored: Stored[AllocationBlock], block: AllocationBlock) -> None:
        """Write a block after a release; one that is empty and nobody's is deleted. Raises: ConflictError."""
        if block.affinity is not None or not is_empty(block):
            await write_block(self._store, stored, block)
            return
        try:
            await self._store.delete(stored)
        except NotFoundError as gone:
            raise ConflictError(str(stored.key), stored.revision, "") from gone

    async def _lower(self, name: str, handle: Stored[IPAMHandle] | None, block: AllocationBlock) -> None:
        """Set a handle's count to what is left in a block just written; the handle was read before that."""
        if handle is None or str(block.cidr) not in handle.value.block:
            return
        try:
            await self._handles.write_count(handle, block.cidr, len(ordinals_of_handle(block, name)))
        except ConflictError:
            await self._handles.settle(name, block.cidr)

    async def _drop_stray_affinity(self, block: AllocationBlock, moment: Moment) -> None:
        """Give an empty block back when its pool no longer selects its host; what was released stays released."""
        owner = block.owner
        if owner is None or owner.type is not AffinityType.HOST or not is_empty(block):
            return
        try:
            pools = [pool for pool in read_pools(await self._cluster.pools()) if not pool.disabled]
            pool = pool_of(pools, block.cidr.network_address)
            if pool is None or not pool.node_selector:
                return
            if not pool.selects_node(await self._cluster.node_labels(owner.name)):
                await self._claims.release(owner, block.cidr, moment.cooldown_s, must_be_empty=True)
        except CalicoEngineError as error:
            log.info("affinity kept for now: %s owner=%s: %s", block.cidr, owner, error)


def _order(cidr: Cidr) -> tuple[int, int, int]:
    return cidr.version, int(cidr.network_address), cidr.prefixlen
