"""What happens within one block."""

from ipaddress import ip_address, ip_network

import pytest
from msgspec.structs import replace

from calico_engine.errors import AddressTakenError, NotFoundError, StaleReleaseError
from calico_engine.ipam.block import (
    Holder,
    Moment,
    ReleaseRequest,
    allocate,
    assign,
    assigned_addresses,
    assigned_attribute,
    collect,
    free_count,
    is_empty,
    new_block,
    release,
    release_by_handle,
)
from calico_engine.ipam.records import AffinityOwner, AllocationBlock
from calico_engine.ipam.reserved import ReservedSet

NOW_NS = 1_700_000_000_000_000_000
NOW = Moment(NOW_NS)
POD = Holder(handle_id="k8s-pod-network.abc", attributes={"pod": "web-1", "node": "node1"})


def make_block(cidr: str = "10.65.0.0/29") -> AllocationBlock:
    return new_block(ip_network(cidr), AffinityOwner("node1"), NOW_NS)


@pytest.mark.parametrize(("cidr", "first"), [("10.65.0.192/26", "10.65.0.192"), ("fd00::c0/122", "fd00::c0")])
def test_first_address_is_the_first_of_the_block(cidr: str, first: str) -> None:
    _, addresses = allocate(make_block(cidr), 2, POD)

    assert addresses == (ip_address(first), ip_address(first) + 1)


def test_released_address_goes_to_the_end_of_the_queue() -> None:
    block, addresses = allocate(make_block(), 3, POD)

    block = release(block, [ReleaseRequest(addresses[0])], NOW).block
    _, again = allocate(block, 6, POD)

    assert [int(address) & 7 for address in again] == [3, 4, 5, 6, 7, 0]


def test_block_gives_no_more_than_it_has() -> None:
    block, addresses = allocate(make_block(), 20, POD)

    assert len(addresses) == 8
    assert allocate(block, 1, POD)[1] == ()
    assert free_count(block) == 0


def test_reserved_addresses_are_passed_over_but_may_be_asked_for() -> None:
    reserved = ReservedSet([ip_network("10.65.0.0/30")])

    block, addresses = allocate(make_block(), 1, POD, reserved)
    named = assign(block, ip_address("10.65.0.1"), POD)

    assert addresses == (ip_address("10.65.0.4"),)
    assert free_count(block, reserved) == 3
    assert named.unallocated == (0, 2, 3, 5, 6, 7)


def test_equal_holders_share_an_attribute() -> None:
    block, _ = allocate(make_block(), 1, POD)
    block, _ = allocate(block, 1, POD)
    block, _ = allocate(block, 1, Holder(handle_id="other"))

    assert block.allocations[:3] == (0, 0, 1)


def test_assigning_a_taken_address_says_whose_it_is() -> None:
    block = assign(make_block(), ip_address("10.65.0.3"), POD)

    with pytest.raises(AddressTakenError) as caught:
        assign(block, ip_address("10.65.0.3"), Holder())

    assert caught.value.handle == POD.handle_id


def test_release_with_the_number_of_an_earlier_life_releases_nothing() -> None:
    block, (address,) = allocate(make_block(), 1, POD)
    before = block.sequence_numbers[0]
    block = release(block, [ReleaseRequest(address)], NOW).block
    block = assign(replace(block, sequence_number=before + 7), address, POD)

    with pytest.raises(StaleReleaseError):
        release(block, [ReleaseRequest(address, sequence_number=before)], NOW)

    assert release(block, [ReleaseRequest(address, sequence_number=before + 7)], NOW).unallocated == ()


def test_release_under_another_handle_is_refused() -> None:
    block, (address,) = allocate(make_block(), 1, POD)

    with pytest.raises(StaleReleaseError) as caught:
        release(block, [ReleaseRequest(address, handle="other")], NOW)

    assert (caught.value.field, caught.value.found) == ("handle", POD.handle_id)


def test_release_counts_by_handle_and_names_what_was_free() -> None:
    block, (one, two) = allocate(make_block(), 2, POD)

    outcome = release(block, [ReleaseRequest(one), ReleaseRequest(one), ReleaseRequest(two + 1)], NOW)

    assert outcome.count_by_handle == {POD.handle_id: 1}
    assert outcome.unallocated == (two + 1,)
    assert assigned_addresses(outcome.block) == (two,)


def test_release_by_handle_takes_all_of_it_and_nothing_else() -> None:
    block, _ = allocate(make_block(), 2, POD)
    block, (other,) = allocate(block, 1, Holder(handle_id="other"))

    block, count = release_by_handle(block, "k8s-pod-network.abc", NOW)

    assert count == 2
    assert assigned_addresses(block) == (other,)
    assert len(block.attributes) == 1
    assert block.allocations[2] == 0


def test_handle_with_rubbish_behind_a_line_end_is_the_handle_before_it() -> None:
    block, _ = allocate(make_block(), 1, Holder(handle_id="abc\r\neth0"))

    assert release_by_handle(block, "abc", NOW)[1] == 1


def test_released_address_cools_down_before_it_is_free() -> None:
    block, (address,) = allocate(make_block(), 1, POD)
    cooling = Moment(NOW_NS, cooldown_s=30)

    block = release(block, [ReleaseRequest(address)], cooling).block

    assert free_count(block) == 7
    assert assigned_addresses(block) == ()
    assert not is_empty(block)
    with pytest.raises(NotFoundError):
        assigned_attribute(block, address)
    with pytest.raises(AddressTakenError):
        assign(block, address, POD)
    assert collect(block, Moment(NOW_NS + 29_000_000_000, 30)) == block
    cooled = collect(block, Moment(NOW_NS + 31_000_000_000, 30))
    assert cooled.unallocated[-1] == 0
    assert is_empty(cooled)
    assert cooled.attributes == ()


def test_windows_reservations_do_not_make_a_block_used() -> None:
    block = assign(make_block(), ip_address("10.65.0.0"), Holder(handle_id="windows-reserved-IPAM-handle"))

    assert is_empty(block)


def test_address_of_another_block_is_refused() -> None:
    with pytest.raises(ValueError, match="not in block"):
        assign(make_block(), ip_address("10.65.1.0"), POD)
