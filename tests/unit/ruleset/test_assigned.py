"""Addresses that belong to one workload interface alone."""

from calico_engine.ruleset.assigned import AssignedSources
from calico_engine.ruleset.ir import Family


def test_an_endpoint_has_the_single_addresses_of_its_family() -> None:
    sources = AssignedSources(Family.V4)

    sources.assign("cali1", ["10.0.0.1/32", "10.0.1.0/24", "fd00::1/128"])

    assert sources.pairs == {("cali1", "10.0.0.1")}


def test_an_address_that_two_interfaces_claim_is_neithers_until_one_lets_go() -> None:
    sources = AssignedSources(Family.V6)

    sources.assign("cali1", ["fd00::1/128"])
    sources.assign("cali2", ["fd00::1/128", "fd00::2/128"])
    while_moving = sources.pairs
    sources.assign("cali1", [])

    assert while_moving == {("cali2", "fd00::2")}
    assert sources.pairs == {("cali2", "fd00::1"), ("cali2", "fd00::2")}


def test_the_pairs_are_another_object_after_a_change_alone() -> None:
    sources = AssignedSources(Family.V4)
    sources.assign("cali1", ["10.0.0.1/32"])

    before = sources.pairs
    sources.assign("cali1", ["10.0.0.1/32"])
    same = sources.pairs
    sources.assign("cali1", ["10.0.0.2/32"])

    assert same is before
    assert sources.pairs is not before


def test_an_interface_is_there_for_as_long_as_an_endpoint_has_it() -> None:
    sources = AssignedSources(Family.V4)

    sources.assign("cali1", ["fd00::1/128"])
    there = sources.interfaces
    sources.assign("cali1", [])
    still = sources.interfaces
    sources.assign("cali1", None)

    assert there == {"cali1"}
    assert still is there
    assert sources.interfaces == frozenset()
