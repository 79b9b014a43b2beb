"""Find what is inconsistent or leaked in IPAM's records.

Pure: a snapshot in, findings out, as data, for tools to print and to repair from. The records of a snapshot are not
read in one moment, so what a running client is just about to write is found too; a finding that is there again in the
next check, with nothing of it changed, is one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from enum import StrEnum

import msgspec

from calico_engine.ipam.block import contradictions
from calico_engine.ipam.keys import AffinityKey
from calico_engine.ipam.pools import Pool
from calico_engine.ipam.records import Address, AllocationBlock, BlockAffinity, Cidr, IPAMHandle


class Problem(StrEnum):
    # A block contradicts itself: nobody should write it before somebody has looked.
    BLOCK_MALFORMED = "block-malformed"
    BLOCKS_OVERLAP = "blocks-overlap"
    BLOCK_OUTSIDE_POOLS = "block-outside-pools"
    # The handle can't release the address.
    HANDLE_MISSING = "handle-missing"
    HANDLE_COUNT_LOW = "handle-count-low"
    # What a crash between two writes leaves; releasing by the handle clears it.
    HANDLE_COUNT_HIGH = "handle-count-high"
    # A claim half done; the host's next one or a release finishes it.
    AFFINITY_UNCONFIRMED = "affinity-unconfirmed"
    AFFINITY_WITHOUT_BLOCK = "affinity-without-block"
    AFFINITY_STALE = "affinity-stale"
    BLOCK_WITHOUT_AFFINITY = "block-without-affinity"
    # Given out, and nobody has it; used, and not given out.
    ADDRESS_LEAKED = "address-leaked"
    ADDRESS_NOT_ALLOCATED = "address-not-allocated"


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One problem; the fields that matter to it are set."""

    problem: Problem
    detail: str
    cidr: Cidr | None = None
    address: Address | None = None
    handle: str = ""
    owner: str = ""


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """What is checked. `in_use` are the addresses that endpoints and tunnels have, with who has them; None when
    nobody knows, then leaks are not looked for."""

    blocks: Mapping[Cidr, AllocationBlock]
    affinities: Mapping[AffinityKey, BlockAffinity]
    handles: Mapping[str, IPAMHandle]
    pools: tuple[Pool, ...]
    in_use: Mapping[Address, str] | None = None


def check(snapshot: Snapshot) -> tuple[Finding, ...]:
    """Return all findings, those of blocks first."""
    wrong = {cidr: tuple(contradictions(block)) for cidr, block in snapshot.blocks.items()}
    sound = {cidr: block for cidr, block in snapshot.blocks.items() if not wrong[cidr]}
    return (
        *(
            Finding(problem=Problem.BLOCK_MALFORMED, cidr=cidr, detail=reason)
            for cidr, reasons in wrong.items()
            for reason in reasons
        ),
        *_placement(snapshot),
        *_handles(snapshot, sound),
        *_affinities(snapshot),
        *_addresses(snapshot, sound),
    )


def _placement(snapshot: Snapshot) -> Iterator[Finding]:
    ordered = sorted(
        snapshot.blocks, key=lambda cidr: (cidr.version, int(cidr.network_address), cidr.prefixlen)
    )
    widest: Cidr | None = None
    for cidr in ordered:
        if widest is not None and widest.version == cidr.version and cidr.network_address in widest:
            yield Finding(problem=Problem.BLOCKS_OVERLAP, cidr=cidr, detail=f"lies in block {widest}")
        else:
            widest = cidr
        if not any(cidr.network_address in pool.cidr for pool in snapshot.pools):
            yield Finding(problem=Problem.BLOCK_OUTSIDE_POOLS, cidr=cidr, detail="is in no pool")


def _handles(snapshot: Snapshot, blocks: Mapping[Cidr, AllocationBlock]) -> Iterator[Finding]:
    actual: Counter[tuple[str, str]] = Counter()
    for block in blocks.values():
        for index in block.allocations:
            if index is not None and block.attributes[index].handle:
                actual[block.attributes[index].handle, str(block.cidr)] += 1
    recorded = {
        (name, cidr): count
        for name, handle in snapshot.handles.items()
        for cidr, count in handle.block.items()
    }
    by_text = {str(cidr): cidr for cidr in snapshot.blocks}
    for name, cidr in sorted(actual.keys() | recorded.keys()):
        counted, held = recorded.get((name, cidr), 0), actual[name, cidr]
        if counted == held or (cidr in by_text and by_text[cidr] not in blocks):
            continue
        if counted > held:
            problem = Problem.HANDLE_COUNT_HIGH
        else:
            problem = Problem.HANDLE_COUNT_LOW if counted else Problem.HANDLE_MISSING
        detail = f"handle counts {counted} addresses of block {cidr}, the block holds {held}"
        yield Finding(problem=problem, cidr=by_text.get(cidr), handle=name, detail=detail)
    for name, handle in snapshot.handles.items():
        if not handle.block:
            yield Finding(problem=Problem.HANDLE_COUNT_HIGH, handle=name, detail="handle without any block")


def _affinities(snapshot: Snapshot) -> Iterator[Finding]:
    for key, affinity in snapshot.affinities.items():
        block = snapshot.blocks.get(key.cidr)
        owner = str(key.owner)
        if block is None:
            problem, detail = (
                Problem.AFFINITY_WITHOUT_BLOCK,
                f"affinity is {affinity.state or 'unstated'}, no block",
            )
        elif block.affinity != owner:
            problem, detail = Problem.AFFINITY_STALE, f"block is affine to {block.affinity or 'nobody'}"
        elif not affinity.state.is_confirmed:
            problem, detail = Problem.AFFINITY_UNCONFIRMED, f"affinity is {affinity.state}"
        else:
            continue
        yield Finding(problem=problem, cidr=key.cidr, owner=owner, detail=detail)
    owned = {(str(key.owner), key.cidr) for key in snapshot.affinities}
    for cidr, block in snapshot.blocks.items():
        if block.affinity is not None and (block.affinity, cidr) not in owned:
            detail = "the block's owner has no affinity to it"
            yield Finding(
                problem=Problem.BLOCK_WITHOUT_AFFINITY, cidr=cidr, owner=block.affinity, detail=detail
            )


def _addresses(snapshot: Snapshot, blocks: Mapping[Cidr, AllocationBlock]) -> Iterator[Finding]:
    if snapshot.in_use is None:
        return
    allocated: set[Address] = set()
    for cidr, block in blocks.items():
        for ordinal, index in enumerate(block.allocations):
            if index is None or block.attributes[index].released_at is not None:
                continue
            address = block.address(ordinal)
            allocated.add(address)
            if address not in snapshot.in_use:
                owner = (block.attributes[index].active_owner or {}).get("node", "")
                yield Finding(
                    problem=Problem.ADDRESS_LEAKED,
                    cidr=cidr,
                    address=address,
                    handle=block.attributes[index].handle,
                    owner=owner,
                    detail="given out, but nothing uses it",
                )
    for address, user in snapshot.in_use.items():
        if address not in allocated and any(address in pool.cidr for pool in snapshot.pools):
            detail = f"used by {user}, but not given out"
            yield Finding(problem=Problem.ADDRESS_NOT_ALLOCATED, address=address, owner=user, detail=detail)
