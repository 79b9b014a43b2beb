"""Canonical text of addresses and networks."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calico_engine.calc.nets import canonical_hosts, canonical_members


@pytest.mark.parametrize(
    ("nets", "members"),
    [
        ((), ()),
        (("10.0.0.1",), ("10.0.0.1",)),
        (("10.0.0.1/32", "10.0.0.1", "10.0.0.2/32"), ("10.0.0.1", "10.0.0.2")),
        (("10.0.0.7/24",), ("10.0.0.0/24",)),
        (("FD00:0::0001", "fd00::1/128"), ("fd00::1",)),
        (("fd00::1/64",), ("fd00::/64",)),
        (("0.0.0.0/0", "::/0"), ("0.0.0.0/1", "128.0.0.0/1", "::/1", "8000::/1")),
    ],
)
def test_members(nets: tuple[str, ...], members: tuple[str, ...]) -> None:
    assert canonical_members(nets) == members


@pytest.mark.parametrize(
    "text", ["", "10.0.0", "10.0.0.256", "10.0.0.01", "10.0.0.1/33", "10.0.0.1 10.0.0.2", "x"]
)
def test_what_is_no_network_is_refused(text: str) -> None:
    for nets in ((text,), ("10.0.0.1", text)):
        with pytest.raises(ValueError, match=r".*"):
            canonical_members(nets)
        with pytest.raises(ValueError, match=r".*"):
            canonical_hosts(nets)


def test_hosts_drop_any_mask() -> None:
    assert canonical_hosts(("10.0.0.7/24", "10.0.0.7", "FD00::1/64")) == ("10.0.0.7", "fd00::1")


@given(st.lists(st.tuples(st.integers(0, 2**32 - 1), st.sampled_from([0, 1, 24, 31, 32, None])), max_size=5))
def test_members_cover_what_the_networks_cover(nets: list[tuple[int, int | None]]) -> None:
    texts = [str(IPv4Address(n)) + ("" if length is None else f"/{length}") for n, length in nets]

    members = [ip_network(member) for member in canonical_members(texts)]

    def covered(networks: list[IPv4Network]) -> set[tuple[int, int]]:
        halves = [half for net in networks for half in (net.subnets() if net.prefixlen == 0 else (net,))]
        return {(int(net.network_address), net.prefixlen) for net in halves}

    assert len(members) == len(set(members))
    assert covered([IPv4Network(m) for m in members]) == covered(
        [IPv4Network(t, strict=False) for t in texts]
    )
