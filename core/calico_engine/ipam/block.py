"""Give out and take back the addresses of one block.

Pure: block in, changed block out; who writes it compares and sets. Free ordinals are a queue: addresses are taken from
its front and come back to its end, so that an address rests as long as the block allows. With a cooldown an address
that was released stays allocated, under an attribute that says since when, until `collect` frees it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import msgspec
from msgspec.structs import replace

from calico_engine.errors import AddressTakenError, BlockMalformedError, NotFoundError, StaleReleaseError
from calico_engine.ipam.records import (
    WINDOWS_RESERVED_HANDLE,
    Address,
    AffinityOwner,
    AllocationAttribute,
    AllocationBlock,
    Cidr,
)
from calico_engine.ipam.reserved import NOTHING_RESERVED, ReservedSet
from calico_engine.ipam.times import age_s, render_time


class Holder(msgspec.Struct, frozen=True):
    """What is noted with an address: the handle it is released by, and attributes (pod, namespace, node...)."""

    handle_id: str | None = None
    attributes: Mapping[str, str] = {}


class ReleaseRequest(msgspec.Struct, frozen=True):
    """An address to release; with `handle` or `sequence_number` only if it is still that allocation."""

    address: Address
    handle: str = ""
    sequence_number: int | None = None


class Moment(msgspec.Struct, frozen=True):
    """When something happens, and for how long released addresses cool down."""

    now_ns: int
    cooldown_s: int = 0


class Released(msgspec.Struct, frozen=True):
    """Outcome of a release: the block after it, what was not allocated, and how many addresses each handle lost."""

    block: AllocationBlock
    unallocated: tuple[Address, ...]
    count_by_handle: Mapping[str, int]


def new_block(cidr: Cidr, owner: AffinityOwner, now_ns: int) -> AllocationBlock:
    """Return an empty block. Its sequence starts at the time, so that one made anew goes on above the old one's."""
    return AllocationBlock(
        cidr=cidr,
        affinity=str(owner),
        affinity_claim_time=render_time(now_ns),
        allocations=(None,) * cidr.num_addresses,
        unallocated=tuple(range(cidr.num_addresses)),
        sequence_number=now_ns,
    )


def allocate(
    block: AllocationBlock, count: int, holder: Holder, reserved: ReservedSet = NOTHING_RESERVED
) -> tuple[AllocationBlock, tuple[Address, ...]]:
    """Give out up to `count` addresses from the front of the queue, passing over reserved ones."""
    taken: list[int] = []
    rest: list[int] = []
    for position, ordinal in enumerate(block.unallocated):
        if len(taken) == count:
            rest.extend(block.unallocated[position:])
            break
        (rest if reserved.contains(block.address(ordinal)) else taken).append(ordinal)
    if not taken:
        return block, ()
    return _with_allocated(block, taken, rest, holder), tuple(block.address(ordinal) for ordinal in taken)


def assign(block: AllocationBlock, address: Address, holder: Holder) -> AllocationBlock:
    """Give out one named address, reserved or not. Raises: AddressTakenError, ValueError when it isn't the block's."""
    ordinal = block.ordinal(address)
    index = block.allocations[ordinal]
    if index is not None:
        attribute = block.attributes[index]
        cooling = f"was released at {attribute.released_at} and cools down" if attribute.released_at else ""
        raise AddressTakenError(str(address), handle=attribute.handle, detail=cooling)
    rest = [free for free in block.unallocated if free != ordinal]
    return _with_allocated(block, [ordinal], rest, holder)


def release(block: AllocationBlock, requests: Sequence[ReleaseRequest], moment: Moment) -> Released:
    """Take back addresses: all that are allocated, or none when one request is about another allocation.

    Raises: StaleReleaseError; ValueError for an address that isn't the block's.
    """
    unallocated: list[Address] = []
    ordinals: list[int] = []
    counts: Counter[str] = Counter()
    for request in {request.address: request for request in requests}.values():
        ordinal = block.ordinal(request.address)
        attribute = attribute_of(block, ordinal)
        number = block.sequence_numbers.get(ordinal, 0)
        if request.sequence_number is not None and request.sequence_number != number:
            raise StaleReleaseError(
                str(request.address), "sequence number", str(request.sequence_number), str(number)
            )
        if attribute is None or attribute.released_at is not None:
            unallocated.append(request.address)
            continue
        if request.handle and request.handle != attribute.handle:
            raise StaleReleaseError(str(request.address), "handle", request.handle, attribute.handle)
        ordinals.append(ordinal)
        if attribute.handle:
            counts[attribute.handle] += 1
    return Released(_with_released(block, ordinals, moment), tuple(unallocated), counts)


def release_by_handle(
    block: AllocationBlock, handle: str, moment: Moment, sequence_number: int | None = None
) -> tuple[AllocationBlock, int]:
    """Take back all addresses of a handle; with a sequence number only those given out at it."""
    ordinals = [
        ordinal
        for ordinal in ordinals_of_handle(block, handle)
        if sequence_number is None or sequence_number == block.sequence_numbers.get(ordinal, 0)
    ]
    return _with_released(block, ordinals, moment), len(ordinals)


def collect(block: AllocationBlock, moment: Moment) -> AllocationBlock:
    """Free the addresses that have cooled down and drop attributes that nobody refers to.

    The same block when there are none. Every change of a block begins here. Raises: BlockMalformedError.
    """
    reason = next(contradictions(block), None)
    if reason is not None:
        raise BlockMalformedError(str(block.cidr), reason)
    cooled = {
        index
        for index, attribute in enumerate(block.attributes)
        if attribute.released_at is not None
        and (moment.cooldown_s <= 0 or age_s(attribute.released_at, moment.now_ns) > moment.cooldown_s)
    }
    freed = [ordinal for ordinal, index in enumerate(block.allocations) if index in cooled]
    used = sorted({index for index in block.allocations if index is not None} - cooled)
    if not freed and len(used) == len(block.attributes):
        return block
    renumbered = {old: new for new, old in enumerate(used)}
    return replace(
        block,
        allocations=tuple(None if index is None else renumbered.get(index) for index in block.allocations),
        unallocated=(*block.unallocated, *freed),
        attributes=tuple(block.attributes[index] for index in used),
        sequence_numbers={o: n for o, n in block.sequence_numbers.items() if o not in set(freed)},
    )


def contradictions(block: AllocationBlock) -> Iterator[str]:
    """Yield what is wrong with a block in itself."""
    if len(block.allocations) != block.cidr.num_addresses:
        yield f"{len(block.allocations)} allocations for {block.cidr.num_addresses} addresses"
        return
    taken = {index for index in block.allocations if index is not None}
    if strange := {index for index in taken if not 0 <= index < len(block.attributes)}:
        yield f"allocations refer to attributes {sorted(strange)} of {len(block.attributes)}"
    free = {ordinal for ordinal, index in enumerate(block.allocations) if index is None}
    if len(set(block.unallocated)) != len(block.unallocated):
        yield "an ordinal is in the queue of free ones twice"
    if allocated := set(block.unallocated) - free:
        yield f"allocated ordinals {sorted(allocated)} are in the queue of free ones"
    if lost := free - set(block.unallocated):
        yield f"free ordinals {sorted(lost)} are not in the queue"


def attribute_of(block: AllocationBlock, ordinal: int) -> AllocationAttribute | None:
    """Return what is noted with an ordinal, None when it is free."""
    index = block.allocations[ordinal]
    return None if index is None else block.attributes[index]


def assigned_attribute(block: AllocationBlock, address: Address) -> AllocationAttribute:
    """Return what is noted with an address. Raises: NotFoundError when it is free or cools down."""
    attribute = attribute_of(block, block.ordinal(address))
    if attribute is None or attribute.released_at is not None:
        raise NotFoundError(f"an assignment of {address}")
    return attribute


def ordinals_of_handle(block: AllocationBlock, handle: str) -> list[int]:
    wanted = {
        index
        for index, attribute in enumerate(block.attributes)
        if attribute.handle_id is not None and attribute.handle == handle
    }
    return [ordinal for ordinal, index in enumerate(block.allocations) if index in wanted]


def assigned_addresses(block: AllocationBlock) -> tuple[Address, ...]:
    """Return the addresses that are in use; those that cool down are not."""
    return tuple(
        block.address(ordinal)
        for ordinal, index in enumerate(block.allocations)
        if index is not None and block.attributes[index].released_at is None
    )


def free_count(block: AllocationBlock, reserved: ReservedSet = NOTHING_RESERVED) -> int:
    """Return how many addresses `allocate` could give out."""
    if not reserved.reserved_count(block.cidr):
        return len(block.unallocated)
    return sum(not reserved.contains(block.address(ordinal)) for ordinal in block.unallocated)


def is_empty(block: AllocationBlock) -> bool:
    """Return whether nobody has an address of the block; what cools down still counts as had."""
    return all(
        block.attributes[index].handle.lower() == WINDOWS_RESERVED_HANDLE
        for index in block.allocations
        if index is not None
    )


def _with_allocated(
    block: AllocationBlock, ordinals: Sequence[int], rest: Sequence[int], holder: Holder
) -> AllocationBlock:
    attribute = AllocationAttribute(handle_id=holder.handle_id, active_owner=dict(holder.attributes))
    attributes = block.attributes
    found = next((index for index, known in enumerate(attributes) if _same_holder(known, attribute)), None)
    if found is None:
        found = len(attributes)
        attributes = (*attributes, attribute)
    allocations = list(block.allocations)
    for ordinal in ordinals:
        allocations[ordinal] = found
    return replace(
        block,
        allocations=tuple(allocations),
        unallocated=tuple(rest),
        attributes=attributes,
        sequence_numbers=block.sequence_numbers | dict.fromkeys(ordinals, block.sequence_number),
    )


def _same_holder(known: AllocationAttribute, wanted: AllocationAttribute) -> bool:
    return (
        known.handle_id == wanted.handle_id
        and (known.active_owner or {}) == wanted.active_owner
        and not (known.alternate_owner or known.released_at or known.extra)
    )


def _with_released(block: AllocationBlock, ordinals: Sequence[int], moment: Moment) -> AllocationBlock:
    """Put ordinals under an attribute that says when they were released, then free what has cooled down."""
    if not ordinals:
        return block
    allocations = list(block.allocations)
    for ordinal in ordinals:
        allocations[ordinal] = len(block.attributes)
    cooling = AllocationAttribute(released_at=render_time(moment.now_ns))
    changed = replace(
        block,
        allocations=tuple(allocations),
        attributes=(*block.attributes, cooling),
        sequence_numbers=block.sequence_numbers | dict.fromkeys(ordinals, block.sequence_number),
    )
    return collect(changed, moment)
