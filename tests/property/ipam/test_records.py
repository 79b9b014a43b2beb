"""Records survive being written and read; a block stays sound whatever is done to it."""

from ipaddress import IPv4Network, IPv6Network

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from calico_engine.errors import AddressTakenError, StaleReleaseError
from calico_engine.ipam.block import (
    Holder,
    Moment,
    ReleaseRequest,
    allocate,
    assign,
    assigned_addresses,
    free_count,
    is_empty,
    new_block,
    release,
    release_by_handle,
)
from calico_engine.ipam.check import Snapshot, check
from calico_engine.ipam.codec import (
    Era,
    decode_affinity,
    decode_block,
    decode_config,
    decode_handle,
    encode_affinity,
    encode_block,
    encode_config,
    encode_handle,
)
from calico_engine.ipam.keys import AffinityKey
from calico_engine.ipam.pools import BlockMap, read_pools, walk_blocks, walk_existing
from calico_engine.ipam.records import (
    AffinityOwner,
    AffinityState,
    AllocationAttribute,
    AllocationBlock,
    BlockAffinity,
    IPAMConfig,
    IPAMHandle,
)
from calico_engine.ipam.reserved import ReservedSet
from calico_engine.testing.builders import make_pool

TEXT = st.text(max_size=12)
MAPS = st.dictionaries(TEXT, TEXT, max_size=3)
TIMES = st.none() | st.just("2026-01-02T03:04:05Z")
EXTRA = st.dictionaries(
    st.sampled_from(["later", "newField"]),
    st.sampled_from([msgspec.Raw(text) for text in (b"1", b'{"a":[null,1.50]}', b'"x"')]),
    max_size=2,
)
NUMBERS = st.integers(0, 2**63)
ATTRIBUTES = st.builds(
    AllocationAttribute,
    handle_id=st.none() | TEXT,
    active_owner=st.none() | st.dictionaries(TEXT, TEXT, min_size=1, max_size=3),
    alternate_owner=st.none() | st.dictionaries(TEXT, TEXT, min_size=1, max_size=2),
    released_at=TIMES,
    extra=EXTRA,
)
BLOCKS = st.builds(
    AllocationBlock,
    cidr=st.sampled_from([IPv4Network("10.0.0.0/30"), IPv6Network("fd00::4/126")]),
    affinity=st.none() | st.sampled_from(["host:node1", "virtual:load-balancer", "odd:thing"]),
    affinity_claim_time=TIMES,
    allocations=st.tuples(*[st.none() | st.integers(0, 3)] * 4),
    unallocated=st.lists(st.integers(0, 3), max_size=4).map(tuple),
    attributes=st.lists(ATTRIBUTES, max_size=4).map(tuple),
    sequence_number=NUMBERS,
    sequence_numbers=st.dictionaries(st.integers(0, 63), NUMBERS, max_size=4),
    deleted=st.booleans(),
    strict_affinity=st.none() | st.booleans(),
    extra=EXTRA,
)


@given(block=BLOCKS)
def test_v3_blocks_come_back_as_they_were(block: AllocationBlock) -> None:
    data = encode_block(block, Era.V3)

    assert decode_block(data) == block
    assert encode_block(decode_block(data), Era.V3) == data


@given(block=BLOCKS)
def test_v1_blocks_come_back_without_what_v1_lacks(block: AllocationBlock) -> None:
    attributes = tuple(
        replace(attribute, alternate_owner=None, released_at=None) for attribute in block.attributes
    )
    kept = replace(block, attributes=attributes)

    assert decode_block(encode_block(kept, Era.V1)) == replace(
        kept,
        affinity_claim_time=None,
        sequence_number=0,
        sequence_numbers={},
        deleted=False,
        strict_affinity=bool(block.strict_affinity),
    )


@given(state=st.sampled_from(list(AffinityState)), deleted=st.booleans(), extra=EXTRA)
def test_affinities_come_back(state: AffinityState, deleted: bool, extra: dict[str, msgspec.Raw]) -> None:
    affinity = BlockAffinity(state=state, deleted=deleted, extra=extra)

    assert decode_affinity(encode_affinity(affinity, Era.V3)) == affinity


@given(
    block=st.dictionaries(TEXT, st.integers(1, 64), max_size=4), extra=EXTRA, era=st.sampled_from(list(Era))
)
def test_handles_come_back(block: dict[str, int], extra: dict[str, msgspec.Raw], era: Era) -> None:
    handle = IPAMHandle(block=block, extra=extra)

    assert decode_handle(encode_handle(handle, era)) == handle


@given(
    config=st.builds(
        IPAMConfig,
        strict_affinity=st.booleans(),
        auto_allocate_blocks=st.booleans(),
        max_blocks_per_host=st.integers(0, 100),
        kubevirt_vm_address_persistence=st.none() | st.just("Disabled"),
        ip_cooldown_seconds=st.integers(0, 100),
        extra=EXTRA,
    )
)
def test_configurations_come_back(config: IPAMConfig) -> None:
    assert decode_config(encode_config(config, Era.V3)) == config


ACTIONS = st.tuples(
    st.sampled_from(["allocate", "assign", "release", "handle"]), st.integers(0, 7), st.booleans()
)


@given(actions=st.lists(ACTIONS, max_size=30), cooldown_s=st.sampled_from([0, 5]))
def test_block_stays_sound_and_counts_every_address_once(
    actions: list[tuple[str, int, bool]], cooldown_s: int
) -> None:
    cidr = IPv4Network("10.65.0.0/29")
    block = new_block(cidr, AffinityOwner("node1"), 1)
    held: dict[int, str] = {}
    for number, (action, ordinal, other) in enumerate(actions):
        handle = "b" if other else "a"
        address = cidr[ordinal]
        moment = Moment(number * 2_000_000_000, cooldown_s)
        match action:
            case "allocate":
                block, addresses = allocate(block, ordinal, Holder(handle_id=handle))
                assert not {block.ordinal(given) for given in addresses} & held.keys()
                held |= {block.ordinal(given): handle for given in addresses}
            case "assign":
                try:
                    block = assign(block, address, Holder(handle_id=handle))
                    held[ordinal] = handle
                except AddressTakenError:
                    assert ordinal in held or cooldown_s
            case "release":
                try:
                    outcome = release(block, [ReleaseRequest(address, handle=handle)], moment)
                except StaleReleaseError:
                    assert held[ordinal] != handle
                else:
                    block = outcome.block
                    held.pop(ordinal, None)
            case _:
                block, count = release_by_handle(block, handle, moment)
                assert count == sum(name == handle for name in held.values())
                held = {mine: name for mine, name in held.items() if name != handle}

        assert {block.ordinal(address) for address in assigned_addresses(block)} == held.keys()
        assert cooldown_s or free_count(block) == 8 - len(held)
        assert cooldown_s or is_empty(block) == (not held)
        pools = read_pools([make_pool(cidr="10.65.0.0/24")])
        affinities = {AffinityKey(AffinityOwner("node1"), cidr): BlockAffinity()}
        findings = check(Snapshot(blocks={cidr: block}, affinities=affinities, handles={}, pools=pools))
        assert {finding.handle for finding in findings} == set(held.values())


NETS = st.builds(
    lambda first, bits: IPv4Network((0x0A000000 + first, bits), strict=False),
    st.integers(0, 255),
    st.integers(24, 32),
)


@given(reserved=st.lists(NETS, max_size=6), cidr=NETS)
def test_reserved_set_is_a_set_of_addresses(reserved: list[IPv4Network], cidr: IPv4Network) -> None:
    addresses = {address for net in reserved for address in net}
    found = ReservedSet(reserved)

    assert found.reserved_count(cidr) == len(addresses & set(cidr))
    assert (found.enclosing(cidr) is not None) == (addresses >= set(cidr))
    assert [found.contains(address) for address in cidr] == [address in addresses for address in cidr]


@given(blocks=st.lists(NETS, max_size=6), candidate=NETS)
def test_block_map_finds_blocks_of_another_size(blocks: list[IPv4Network], candidate: IPv4Network) -> None:
    expected = any(block.overlaps(candidate) and block != candidate for block in blocks)

    assert BlockMap(blocks).overlapped(candidate) == expected


@given(host=TEXT, reserved=st.lists(NETS, max_size=4), bits=st.integers(24, 32))
def test_walk_comes_to_every_block_once(host: str, reserved: list[IPv4Network], bits: int) -> None:
    (pool,) = read_pools([make_pool(cidr="10.0.0.0/24", block_size=bits)])
    closed = ReservedSet(reserved)
    owner = AffinityOwner(host)

    walked = list(walk_blocks(pool, owner, closed, 12345))

    open_blocks = {cidr for cidr in pool.cidr.subnets(new_prefix=bits) if closed.enclosing(cidr) is None}
    assert len(walked) == len(open_blocks)
    assert set(walked) == open_blocks
    assert walk_existing(pool, owner, sorted(open_blocks), 12345) == walked


def test_reservation_of_half_an_ipv6_pool_is_passed_in_one_leap() -> None:
    (pool,) = read_pools([make_pool(cidr="fd00::/32")])
    low, high = IPv6Network("fd00::/33"), IPv6Network("fd00:0:8000::/33")

    for half, other in ((low, high), (high, low)):
        first = next(walk_blocks(pool, AffinityOwner("node1"), ReservedSet([half]), 0))
        assert first.network_address in other
