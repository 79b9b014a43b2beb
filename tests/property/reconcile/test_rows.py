"""Rows keep order and identity of the objects they stand for."""

from ipaddress import IPv4Network, IPv6Network, ip_network

from hypothesis import given
from hypothesis import strategies as st

from calico_engine.reconcile import KeyDiff, diff_keys, pack_name, pack_network, pack_rows

NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)
TABLES = st.dictionaries(st.binary(min_size=3, max_size=3), st.binary(max_size=3), max_size=20)
NETWORKS = st.one_of(
    st.builds(
        lambda address, n: ip_network((address, n), strict=False),
        st.integers(0, 2**32 - 1),
        st.integers(0, 32),
    ),
    st.builds(
        lambda address, n: IPv6Network((address, n), strict=False),
        st.integers(0, 2**128 - 1),
        st.integers(0, 128),
    ),
)


@given(st.lists(NAMES, min_size=2))
def test_names_sort_as_their_keys(names: list[str]) -> None:
    by_key = sorted(names, key=lambda name: pack_name(name, 32))

    assert by_key == sorted(names, key=str.encode)


@given(NETWORKS, NETWORKS)
def test_networks_share_a_key_only_with_themselves(
    left: IPv4Network | IPv6Network, right: IPv4Network | IPv6Network
) -> None:
    assert (pack_network(left) == pack_network(right)) == (left == right)


@given(TABLES, TABLES)
def test_diff_names_exactly_the_keys_that_differ(
    desired: dict[bytes, bytes], actual: dict[bytes, bytes]
) -> None:
    diff = diff_keys(pack_rows(desired, 3), pack_rows(actual, 3), 3)

    assert diff == KeyDiff(
        tuple(sorted(desired.keys() - actual.keys())),
        tuple(sorted(key for key in desired.keys() & actual.keys() if desired[key] != actual[key])),
        tuple(sorted(actual.keys() - desired.keys())),
    )
