"""Members of sets as text and as rows."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calico_engine.fastpath import SET_ROW_SIZE, set_messages
from calico_engine.kernel.set_rows import pack_members, unpack_members


@given(st.lists(st.ip_addresses()))
def test_addresses_come_back(addresses: list[ipaddress.IPv4Address | ipaddress.IPv6Address]) -> None:
    rows = pack_members([str(address) for address in addresses])

    assert len(rows) == len(addresses) * SET_ROW_SIZE
    assert [ipaddress.ip_address(member) for member in unpack_members(rows)] == addresses


@pytest.mark.parametrize(
    "member",
    [
        *("10.0.0.1", "10.0.0.0/8", "0.0.0.0/1", "fd00::1", "fd00::/64", "::ffff:1.2.3.4", "::1,udp:53"),
        *("10.0.0.1,tcp:80", "10.0.0.1,sctp:65535", "10.0.0.1,99:7"),
    ],
)
def test_member_comes_back_as_it_is_spelled(member: str) -> None:
    assert unpack_members(pack_members([member])) == [member]


def test_whole_prefix_is_the_address() -> None:
    assert pack_members(["10.0.0.1/32", "fd00::1/128"]) == pack_members(["10.0.0.1", "fd00::1"])


def test_exception_of_a_set_is_told_apart() -> None:
    row = bytearray(pack_members(["10.0.0.0/8"]))
    row[0] |= set_messages.NOMATCH

    assert unpack_members(bytes(row)) == ["10.0.0.0/8 nomatch"]
    assert pack_members(["10.0.0.0/8 nomatch"]) == bytes(row)


@pytest.mark.parametrize(
    "member",
    [
        *("", "10.0.0", "10.0.0.1/33", "10.0.0.1/0", "fd00::/129", "10.0.0.1,tcp:70000", "10.0.0.1,http:80"),
        *(
            "10.0.0.1,tcp",
            "host",
            "10.0.0.1/",
            "10.0.0.1,999:1",
            "10.0.0.0/8,tcp:80",
            "10.0.0.1,0:80",
            "10.0.0.1 ",
            "10.0.0.1 timeout 3",
            "10.0.0.1\n10.0.0.2",
            "10.0.0.1\n",
        ),
    ],
)
def test_what_is_no_member_is_named(member: str) -> None:
    with pytest.raises(ValueError, match="of a set") as raised:
        pack_members(["10.0.0.1", member])

    assert repr(member) in str(raised.value)


def test_a_set_of_one_empty_member_is_no_empty_set() -> None:
    assert pack_members([]) == b""
    with pytest.raises(ValueError, match="member ''"):
        pack_members([""])
