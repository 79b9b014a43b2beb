"""One spelling for addresses, networks, ports, protocols, AS numbers and MACs."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calico_engine.model import (
    PortRange,
    canonical_address,
    canonical_network,
    canonical_port,
    canonical_protocol,
    parse_as_number,
    parse_port,
    protocol_number,
)
from calico_engine.model.canonical import (
    canonical_interface_address,
    canonical_mac,
    is_plain_host,
    mask_network,
)


@pytest.mark.parametrize(
    ("text", "network"),
    [
        ("172.16.1.1", "172.16.1.1/32"),
        ("172.16.1.1/32", "172.16.1.1/32"),
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("FD00:0:0::1", "fd00::1/128"),
        ("fd00::/64", "fd00::/64"),
        ("::ffff:10.0.0.1", "::ffff:a00:1/128"),
    ],
)
def test_networks_get_a_mask_and_their_shortest_form(text: str, network: str) -> None:
    assert canonical_network(text) == network


@pytest.mark.parametrize(
    "text",
    ["", "10.0.0", "10.0.0.256", "010.0.0.1", "10.0.0.1/33", "10.0.0.1/255.0.0.0", "10.0.0.1/08", "fd00::g",
     "fe80::1%eth0",
     "10.0.0.1 ", "10.0.0.1\n", "a", "1", "٣.0.0.1", "10.0.0.0/-1"],
)  # fmt: skip
def test_what_is_no_network_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is neither an IP address nor a CIDR"):
        canonical_network(text)


def test_host_bits_are_refused_with_the_right_network() -> None:
    with pytest.raises(
        ValueError, match=r"10\.1\.2\.3/8 has bits set to the right of its mask; write 10\.0\.0\.0/8"
    ):
        canonical_network("10.1.2.3/8")


@given(st.integers(0, 2**32 - 1), st.integers(0, 33), st.booleans())
def test_the_short_way_for_ipv4_is_the_librarys(number: int, length: int, masked: bool) -> None:
    if masked and length <= 32:
        number &= ~(0xFFFFFFFF >> length)
    text = f"{ipaddress.IPv4Address(number)}/{length}"
    try:
        expected = str(ipaddress.ip_network(text))
        loose = expected
    except ValueError:
        expected = ""
        loose = str(ipaddress.ip_network(text, strict=False)) if length <= 32 else ""

    for function, wanted in ((canonical_network, expected), (mask_network, loose)):
        try:
            found = function(text)
        except ValueError:
            found = ""
        assert found == wanted


def test_masking_clears_host_bits() -> None:
    assert mask_network("10.1.2.3/8") == "10.0.0.0/8"
    assert mask_network("10.1.2.3") == "10.1.2.3/32"


def test_plain_host_is_an_ipv4_address_with_its_mask() -> None:
    assert is_plain_host("10.0.0.1/32")
    assert not is_plain_host("10.0.0.1")
    assert not is_plain_host("10.0.0.1/31")


def test_addresses_carry_no_mask() -> None:
    assert canonical_address("FD00::0:1") == "fd00::1"
    with pytest.raises(ValueError, match="is not an IP address"):
        canonical_address("10.0.0.1/32")


def test_interface_addresses_keep_their_host_bits() -> None:
    assert canonical_interface_address("10.244.0.1/24") == "10.244.0.1/24"
    assert canonical_interface_address("10.244.0.1") == "10.244.0.1/32"


@pytest.mark.parametrize(
    ("port", "parsed"),
    [
        (80, PortRange(80, 80)),
        ("80", PortRange(80, 80)),
        ("80:90", PortRange(80, 90)),
        (1, PortRange(1, 1)),
        (65535, PortRange(65535, 65535)),
        ("http", "http"),
        ("http-8080", "http-8080"),
    ],
)
def test_ports_are_ranges_or_names(port: int | str, parsed: PortRange | str) -> None:
    assert parse_port(port) == parsed


@pytest.mark.parametrize(
    "port", [0, -1, 65536, "0", "65536", "90:80", "1:65536", "", "a b", "80:", "80\n", "x" * 129, "99999999"]
)
def test_what_is_no_port_is_refused(port: int | str) -> None:
    with pytest.raises(ValueError, match="port"):
        parse_port(port)


def test_a_range_of_one_is_that_port() -> None:
    assert canonical_port("80:80") == 80


@pytest.mark.parametrize(
    ("protocol", "number"), [("tcp", 6), ("TCP", 6), ("ICMPv6", 58), ("udplite", 136), (47, 47), ("47", 47)]
)
def test_protocols_by_name_in_any_case_and_number(protocol: int | str, number: int) -> None:
    assert protocol_number(protocol) == number


@pytest.mark.parametrize("protocol", [0, 256, -1, "foo", "", "0", "256", "tcp "])
def test_what_is_no_protocol_is_refused(protocol: int | str) -> None:
    with pytest.raises(ValueError, match=r"protocol number|is not one of TCP"):
        canonical_protocol(protocol)


@pytest.mark.parametrize(
    ("written", "number"), [(64512, 64512), ("64512", 64512), ("1.10", 65546), ("65535.65535", 4294967295)]
)
def test_as_numbers_plain_and_dotted(written: int | str, number: int) -> None:
    assert parse_as_number(written) == number


@pytest.mark.parametrize(
    "written", [-1, 2**32, "", ".", "1.", "1.2.3", "65536.1", "1.65536", "x", "4294967296"]
)
def test_what_is_no_as_number_is_refused(written: int | str) -> None:
    with pytest.raises(ValueError, match="AS number"):
        parse_as_number(written)


def test_macs_are_lower_case_with_colons() -> None:
    assert canonical_mac("EE-EE-EE-EE-EE-0A") == "ee:ee:ee:ee:ee:0a"
    with pytest.raises(ValueError, match="is not a MAC address"):
        canonical_mac("ee:ee:ee:ee:ee")
