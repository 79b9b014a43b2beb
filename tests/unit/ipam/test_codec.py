"""Records as Calico of both eras writes them."""

from ipaddress import ip_network

import pytest

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
from calico_engine.ipam.keys import AffinityKey, BlockKey, ConfigKey, HandleKey, parse_path
from calico_engine.ipam.records import (
    AffinityOwner,
    AffinityState,
    AffinityType,
    AllocationAttribute,
    AllocationBlock,
    BlockAffinity,
    IPAMConfig,
    IPAMHandle,
)

BLOCK = AllocationBlock(
    cidr=ip_network("10.1.0.0/31"),
    affinity="host:node1",
    affinity_claim_time="2026-01-02T03:04:05Z",
    allocations=(0, None),
    unallocated=(1,),
    attributes=(AllocationAttribute(handle_id="h<1>", active_owner={"pod": "a", "node": "n&1"}),),
    sequence_number=12,
    sequence_numbers={0: 11},
)


def test_v3_block_is_written_as_the_newest_calico_writes_it() -> None:
    assert encode_block(BLOCK, Era.V3) == (
        rb'{"cidr":"10.1.0.0/31","affinity":"host:node1","affinity_claim_time":"2026-01-02T03:04:05Z",'
        rb'"allocations":[0,null],"unallocated":[1],'
        rb'"attributes":[{"handle_id":"h\u003c1\u003e","secondary":{"node":"n\u00261","pod":"a"}}],'
        rb'"sequenceNumber":12,"sequenceNumberForAllocation":{"0":11},"deleted":false}'
    )


def test_v1_block_is_written_as_calico_2_writes_it() -> None:
    assert encode_block(BLOCK, Era.V1) == (
        rb'{"cidr":"10.1.0.0/31","affinity":"host:node1","strictAffinity":false,'
        rb'"allocations":[0,null],"unallocated":[1],'
        rb'"attributes":[{"handle_id":"h\u003c1\u003e","secondary":{"node":"n\u00261","pod":"a"}}]}'
    )


def test_v1_attributes_without_handle_are_null() -> None:
    block = AllocationBlock(
        cidr=ip_network("10.1.0.0/32"), allocations=(0,), attributes=(AllocationAttribute(),)
    )

    assert b'"affinity":null' in encode_block(block, Era.V1)
    assert b'"attributes":[{"handle_id":null,"secondary":null}]' in encode_block(block, Era.V1)


def test_v1_refuses_an_address_that_cools_down() -> None:
    cooling = AllocationAttribute(released_at="2026-01-02T03:04:05Z")
    block = AllocationBlock(cidr=ip_network("10.1.0.0/32"), allocations=(0,), attributes=(cooling,))

    with pytest.raises(ValueError, match="ipCooldownSeconds"):
        encode_block(block, Era.V1)


def test_block_of_the_python_allocator_is_read() -> None:
    block = decode_block(
        b'{"cidr":"10.1.0.0/32","hostAffinity":"node1","strict_affinity":true,"allocations":[null],'
        b'"unallocated":[0],"attributes":[],"id":"x"}'
    )

    assert block.owner == AffinityOwner("node1")
    assert block.strict_affinity is True
    assert b'"id":"x"' in encode_block(block, Era.V3)


def test_go_null_lists_are_empty() -> None:
    block = decode_block(
        b'{"cidr":"10.1.0.0/32","affinity":null,"allocations":[null],"unallocated":null,"attributes":null,'
        b'"sequenceNumberForAllocation":null}'
    )

    assert (block.unallocated, block.attributes, block.sequence_numbers) == ((), (), {})


def test_unknown_members_are_written_back_as_they_were() -> None:
    data = (
        b'{"cidr":"10.1.0.0/32","allocations":[0],"unallocated":[],'
        b'"attributes":[{"handle_id":"h","tomorrow":{"b":1, "a":[]}}],"later":1.50}'
    )

    written = encode_block(decode_block(data), Era.V3)

    assert b'"later":1.50' in written
    assert b'"tomorrow":{"b":1, "a":[]}' in written


@pytest.mark.parametrize(
    ("data", "state"),
    [
        (b"", AffinityState.UNSTATED),
        (b"{}", AffinityState.UNSTATED),
        (b'{"state":"pending","deleted":false}', AffinityState.PENDING),
        (b'{"state":"pendingDeletion","deleted":false}', AffinityState.PENDING_DELETION),
    ],
)
def test_affinities_of_both_eras_are_read(data: bytes, state: AffinityState) -> None:
    assert decode_affinity(data).state is state
    assert AffinityState.UNSTATED.is_confirmed


def test_affinity_is_written_by_era() -> None:
    affinity = BlockAffinity(state=AffinityState.CONFIRMED)

    assert encode_affinity(affinity, Era.V3) == b'{"state":"confirmed","deleted":false}'
    assert encode_affinity(affinity, Era.V1) == b""


def test_handle_is_written_by_era() -> None:
    handle = IPAMHandle(block={"10.1.0.64/26": 1, "10.1.0.0/26": 2})

    assert encode_handle(handle, Era.V3) == b'{"block":{"10.1.0.0/26":2,"10.1.0.64/26":1},"deleted":false}'
    assert encode_handle(handle, Era.V1) == b'{"block":{"10.1.0.0/26":2,"10.1.0.64/26":1}}'
    assert decode_handle(b'{"id":"h","block":{"10.1.0.0/26":2}}').block == {"10.1.0.0/26": 2}


def test_config_leaves_out_what_is_false() -> None:
    assert encode_config(IPAMConfig(), Era.V3) == b'{"auto_allocate_blocks":true}'
    assert encode_config(IPAMConfig(strict_affinity=True, max_blocks_per_host=4), Era.V3) == (
        b'{"strict_affinity":true,"auto_allocate_blocks":true,"maxBlocksPerHost":4}'
    )
    assert decode_config(b'{"strict_affinity":true}') == IPAMConfig(
        strict_affinity=True, auto_allocate_blocks=False
    )


@pytest.mark.parametrize(
    ("key", "path"),
    [
        (BlockKey(ip_network("10.1.0.0/26")), "/calico/ipam/v2/assignment/ipv4/block/10.1.0.0-26"),
        (BlockKey(ip_network("fd80::/122")), "/calico/ipam/v2/assignment/ipv6/block/fd80::-122"),
        (
            AffinityKey(AffinityOwner("node1"), ip_network("10.1.0.0/26")),
            "/calico/ipam/v2/host/node1/ipv4/block/10.1.0.0-26",
        ),
        (
            AffinityKey(AffinityOwner("load-balancer", AffinityType.VIRTUAL), ip_network("fd80::/122")),
            "/calico/ipam/v2/virtual/load-balancer/ipv6/block/fd80::-122",
        ),
        (HandleKey("k8s-pod-network.0a1b"), "/calico/ipam/v2/handle/k8s-pod-network.0a1b"),
        (ConfigKey(), "/calico/ipam/v2/config"),
    ],
)
def test_keys_and_paths_name_each_other(key: BlockKey, path: str) -> None:
    assert key.path == path
    assert parse_path(path) == key


@pytest.mark.parametrize(
    "path",
    [
        "/calico/ipam/v2/host/node1",
        "/calico/ipam/v2/assignment/ipv4/block/nonsense",
        "/calico/ipam/v2/handle/",
        "/calico/v1/config/x",
    ],
)
def test_other_paths_are_no_keys(path: str) -> None:
    assert parse_path(path) is None
