"""Addresses as text, many at once."""

from ipaddress import ip_address

import pytest

from calico_engine.ruleset.classify.nets import pack_addresses
from calico_engine.ruleset.ir import Family


@pytest.mark.parametrize(
    ("family", "addresses"),
    [
        (Family.V4, []),
        (Family.V4, ["10.0.0.1", "0.0.0.0", "255.255.255.255"]),
        (Family.V6, ["fd00::1", "::", "::ffff:192.0.2.1"]),
        (Family.V6, ["fd00::1", "fe80::1%eth0"]),
    ],
    ids=["none", "v4", "v6", "with-zone"],
)
def test_addresses_are_their_bytes_in_order(family: Family, addresses: list[str]) -> None:
    assert pack_addresses(addresses, family) == [ip_address(text).packed for text in addresses]


def test_leading_zeros_are_taken() -> None:
    assert pack_addresses(["10.0.0.2", "010.0.0.1"], Family.V4) == [b"\n\0\0\2", b"\n\0\0\1"]


@pytest.mark.parametrize(
    ("family", "text"),
    [
        (Family.V4, "10.0.0"),
        (Family.V4, "10.0.0.256"),
        (Family.V4, "10.0.0.1,tcp:80"),
        (Family.V4, "10.0.0.1 nomatch"),
        (Family.V4, ""),
        (Family.V4, "10.0.0.1\n10.0.0.2"),
        (Family.V6, "fd00::/64,tcp:80"),
        (Family.V6, "fd00:::1"),
    ],
)
def test_what_is_no_address_is_an_error(family: Family, text: str) -> None:
    good = "10.0.0.9" if family is Family.V4 else "fd00::9"

    for addresses in ([text], [good, text]):
        with pytest.raises(ValueError):
            pack_addresses(addresses, family)
