"""Classes of protocol and port."""

from calico_engine.messages import PortRange
from calico_engine.ruleset.classify.services import EVERYTHING, Service, partition, ports_left
from calico_engine.ruleset.ir import ServiceRange


def test_without_services_everything_is_of_class_0() -> None:
    assert partition([EVERYTHING]).ranges == ()
    assert partition([EVERYTHING]).parts == {0: (0,)}


def test_a_port_is_a_class_and_the_rest_of_its_protocol_is_of_class_0() -> None:
    classes = partition([Service(6, None, ((80, 80),)), EVERYTHING])

    assert classes.ranges == (ServiceRange(6, 80, 80, 6 << 16 | 80),)
    assert classes.parts == {0: (1,), 6 << 16 | 80: (0, 1)}


def test_ranges_that_the_same_services_have_are_one_class() -> None:
    classes = partition([Service(6, None, ((80, 80), (443, 443))), Service(17, None, ((53, 53),))])

    assert classes.ranges == (
        ServiceRange(6, 80, 80, 6 << 16 | 80),
        ServiceRange(6, 443, 443, 6 << 16 | 80),
        ServiceRange(17, 53, 53, 17 << 16 | 53),
    )


def test_neighbouring_ranges_of_one_class_are_one_range() -> None:
    classes = partition([Service(6, None, ((80, 81), (82, 90)))])

    assert classes.ranges == (ServiceRange(6, 80, 90, 6 << 16 | 80),)


def test_overlapping_services_are_cut_where_they_differ() -> None:
    classes = partition([Service(6, None, ((0, 100),)), Service(6, None, ((50, 65535),))])

    assert [(entry.first, entry.last) for entry in classes.ranges] == [(0, 49), (50, 100), (101, 65535)]
    assert [classes.parts[entry.number] for entry in classes.ranges] == [(0,), (0, 1), (1,)]


def test_all_but_a_protocol_makes_that_protocol_a_class() -> None:
    classes = partition([Service(None, 6)])

    assert classes.ranges == (ServiceRange(6, 0, 65535, 6 << 16),)
    assert classes.parts == {0: (0,), 6 << 16: ()}


def test_a_protocol_without_ports_is_one_class_whatever_its_packets_have_there() -> None:
    classes = partition([Service(1), Service(0)])

    assert [(entry.protocol, entry.first, entry.last) for entry in classes.ranges] == [
        (0, 0, 65535),
        (1, 0, 65535),
    ]
    assert 0 not in {entry.number for entry in classes.ranges}


def test_ports_left_are_those_asked_for_without_those_excluded() -> None:
    assert ports_left((PortRange(80, 90),), ()) == ((80, 90),)
    assert ports_left((PortRange(80, 90), PortRange(85, 100)), (PortRange(82, 83),)) == ((80, 81), (84, 100))
    assert ports_left((), (PortRange(0, 79), PortRange(81, 65535))) == ((80, 80),)
    assert ports_left((PortRange(80, 80),), (PortRange(80, 80),)) == ()
