"""How full pools and blocks are.

Pure. `in_use` and `reserved` overlap in addresses that were given out before they were reserved, so only `available`
says how many can still be given out.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from calico_engine.ipam.block import free_count
from calico_engine.ipam.pools import Pool
from calico_engine.ipam.records import AllocationBlock, Cidr
from calico_engine.ipam.reserved import ReservedSet


class BlockUtilisation(msgspec.Struct, frozen=True):
    cidr: Cidr
    affinity: str | None
    capacity: int
    in_use: int
    reserved: int
    available: int


class PoolUtilisation(msgspec.Struct, frozen=True):
    """Counts are over the whole pool, with what is in no block yet. The blocks of no pool come under the name "",
    with `cidr` None and sums over the blocks alone."""

    name: str
    cidr: Cidr | None
    capacity: int
    in_use: int
    reserved: int
    available: int
    blocks: tuple[BlockUtilisation, ...]


def utilisation(
    pools: Sequence[Pool], blocks: Sequence[AllocationBlock], reserved: ReservedSet
) -> tuple[PoolUtilisation, ...]:
    """Return one entry a pool, and one more if there are blocks in no pool."""
    left = sorted(blocks, key=lambda block: (block.cidr.version, block.cidr.network_address))
    found = []
    for pool in pools:
        inside = [block for block in left if block.cidr.network_address in pool.cidr]
        left = [block for block in left if block.cidr.network_address not in pool.cidr]
        parts = tuple(_of_block(block, reserved) for block in inside)
        outside_blocks = pool.cidr.num_addresses - sum(part.capacity for part in parts)
        reserved_count = reserved.reserved_count(pool.cidr)
        reserved_outside = reserved_count - sum(part.reserved for part in parts)
        found.append(
            PoolUtilisation(
                name=pool.name,
                cidr=pool.cidr,
                capacity=pool.cidr.num_addresses,
                in_use=sum(part.in_use for part in parts),
                reserved=reserved_count,
                available=sum(part.available for part in parts) + outside_blocks - reserved_outside,
                blocks=parts,
            )
        )
    if left:
        parts = tuple(_of_block(block, reserved) for block in left)
        found.append(
            PoolUtilisation(
                name="",
                cidr=None,
                capacity=sum(part.capacity for part in parts),
                in_use=sum(part.in_use for part in parts),
                reserved=sum(part.reserved for part in parts),
                available=sum(part.available for part in parts),
                blocks=parts,
            )
        )
    return tuple(found)


def _of_block(block: AllocationBlock, reserved: ReservedSet) -> BlockUtilisation:
    return BlockUtilisation(
        cidr=block.cidr,
        affinity=block.affinity,
        capacity=block.cidr.num_addresses,
        in_use=block.cidr.num_addresses - len(block.unallocated),
        reserved=reserved.reserved_count(block.cidr),
        available=free_count(block, reserved),
    )
