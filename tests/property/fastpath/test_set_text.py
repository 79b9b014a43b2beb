"""Members of kernel sets as text: C equals the specification, whatever the text."""

import ipaddress
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from calico_engine.fastpath import SET_ROW_SIZE, set_text

native = pytest.importorskip("calico_engine.fastpath.native", exc_type=ImportError)

#: What addresses, and what looks like one, are made of.
PIECES = (
    *("0", "1", "9", "10", "099", "255", "256", "32", "128", "129", "33", "f", "F", "fd00", "abcd", "12345"),
    *(
        "g",
        ".",
        ":",
        "::",
        "/",
        ",",
        " ",
        "tcp",
        "udp",
        "udplite",
        "icmpv6",
        "http",
        "nomatch",
        "%",
        "-",
        "é",
    ),
)
ADDRESSES = (
    *("10.0.0.1", "255.255.255.255", "::", "fd00::1", "1:2:3:4:5:6:7:8", "::ffff:1.2.3.4", "1::", "::8"),
)


def outcome(function: Callable[[bytes], object], text: bytes) -> object:
    try:
        return function(text)
    except ValueError as error:
        return str(error)


lines = st.one_of(
    st.ip_addresses().map(str),
    st.builds(
        "{}/{}".format, st.one_of(st.ip_addresses().map(str), st.sampled_from(ADDRESSES)), st.integers(0, 130)
    ),
    st.builds(
        "{},{}:{}{}".format,
        st.sampled_from(ADDRESSES),
        st.sampled_from([*set_text.PROTOCOLS, "0", "6", "255", "256", "http", ""]),
        st.integers(0, 70000),
        st.sampled_from(["", " nomatch", " ", " timeout 3"]),
    ),
    st.lists(st.sampled_from(PIECES), max_size=18).map("".join),
    st.tuples(st.sampled_from(ADDRESSES), st.lists(st.sampled_from(PIECES), max_size=4).map("".join)).map(
        "".join
    ),
)


@given(st.lists(lines, max_size=8).map("\n".join))
@example("")
@example("\n")
@example("10.0.0.1\n")
@example("1:2:3:4:5:6:7::")
@example("1:2:3:4::5:6:7:8")
@example("1:2:3:4:5:6:7:8:9")
@example("::1.2.3.4.5")
@example("1:2:3:4:5:6:1.2.3.4")
@example("1:2:3:4:5:6:7:1.2.3.4")
@example("1:2:3:4:5::1.2.3.4")
@example("1.2.3.4::")
@example("10.0.0.1,00006:00080")
@example("10.0.0.1/00032")
@example("10.0.0.1/000032")
@example("10.0.0.1,tcp:80,tcp:80")
@example("10.0.0.1\0")
@example("²0.0.0.1")
def test_both_give_the_same_rows_or_name_the_same_member(text: str) -> None:
    packed = text.encode()

    assert outcome(native.pack_set_members, packed) == outcome(set_text.pack_set_members, packed)


@given(st.binary(max_size=60))
def test_both_treat_any_bytes_alike(text: bytes) -> None:
    assert outcome(native.pack_set_members, text) == outcome(set_text.pack_set_members, text)


@given(st.lists(st.ip_addresses(), max_size=20))
def test_addresses_are_as_another_library_packs_them(
    addresses: list[ipaddress.IPv4Address | ipaddress.IPv6Address],
) -> None:
    rows = native.pack_set_members("\n".join(map(str, addresses)).encode())

    assert [rows[i + 2 : i + 2 + len(address.packed)] for i, address in zip(
        range(0, len(rows), SET_ROW_SIZE), addresses, strict=True
    )] == [address.packed for address in addresses]  # fmt: skip


@given(st.ip_addresses(), st.integers(1, 128))
def test_bits_after_a_prefix_are_zero(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address, length: int
) -> None:
    length = min(length, address.max_prefixlen)
    network = ipaddress.ip_network(f"{address}/{length}", strict=False)

    row = native.pack_set_members(f"{address}/{length}".encode())

    assert row[2:18] == network.network_address.packed.ljust(16, b"\0")
    assert row[1] == length
