"""Names of chains, sets and interfaces; mark bits."""

import pytest

from calico_engine.errors import ConfigError
from calico_engine.model.resource import ResourceKey
from calico_engine.ruleset import names
from calico_engine.ruleset.ir import Family
from calico_engine.ruleset.marks import Marks, allocate_marks
from calico_engine.settings import FelixSettings, Layout


def test_a_name_that_fits_stays_as_it_is() -> None:
    assert names.profile_chain(names.PROFILE_INBOUND, "kns.default") == "cali-pri-kns.default"


def test_a_name_that_is_too_long_becomes_a_hash_of_it() -> None:
    assert (
        names.profile_chain(names.PROFILE_OUTBOUND, "ksa.default.database") == "cali-pro-_Y89UBaIa4_PftWThMl"
    )


def test_a_name_that_fits_exactly_is_hashed_if_it_could_be_taken_for_a_hash() -> None:
    plain, underscored = "a" * 20, "_" + "a" * 19

    assert names.shorten("cali-fw-", plain) == "cali-fw-" + plain
    assert names.shorten("cali-fw-", underscored) != "cali-fw-" + underscored
    assert len(names.shorten("cali-fw-", underscored)) == names.CHAIN_NAME_MAX_CHARS


@pytest.mark.parametrize("name", ["a b", "a\nb", 'a"b', "a;b", "a\\b", "é", "", "\ud800"])
def test_a_name_with_a_character_that_means_something_is_hashed(name: str) -> None:
    found = names.shorten("cali-pi-", name)

    assert found.startswith("cali-pi-_")
    assert name == "" or name not in found


@pytest.mark.parametrize(
    ("kind", "namespace", "v3", "v2"),
    [
        ("GlobalNetworkPolicy", "", "gnp/a", "a"),
        ("NetworkPolicy", "ns", "np/ns/a", "ns/a"),
        ("KubernetesNetworkPolicy", "ns", "knp/ns/a", "ns/knp.default.a"),
    ],
)
def test_policy_ids(kind: str, namespace: str, v3: str, v2: str) -> None:
    key = ResourceKey(kind, namespace, "a")

    assert names.policy_id(key, Layout.V3) == v3
    assert names.policy_id(key, Layout.V2) == v2


def test_set_names_are_cut_to_what_the_kernel_takes() -> None:
    set_id = "s:" + "x" * 38

    assert names.set_name(set_id, Family.V6, Layout.V3) == ("cali60" + set_id)[:31]
    assert names.set_name("masq-ipam-pools", Family.V4, Layout.V3) == "cali40masq-ipam-pools"
    assert names.set_name("all-ipam-pools", Family.V4, Layout.V2) == "cali4-all-ipam-pools"


@pytest.mark.parametrize(
    "name", ["cali40s:abc", "cali4-s:abc", "cali6t1", "felix-4abc", "felix-masq-ipam-pools"]
)
def test_our_sets_are_known_by_name(name: str) -> None:
    assert names.owns_set(name)


@pytest.mark.parametrize("name", ["calico", "KUBE-LOOP-BACK", "cali", "felix"])
def test_other_peoples_sets_are_not_ours(name: str) -> None:
    assert not names.owns_set(name)


def test_the_name_of_a_policy_group_depends_on_all_that_makes_it() -> None:
    one, two = ResourceKey("GlobalNetworkPolicy", "", "a"), ResourceKey("GlobalNetworkPolicy", "", "b")

    group = names.policy_group_chain(names.GROUP_INBOUND, "all()", [one, two])

    assert len(group) == names.CHAIN_NAME_MAX_CHARS
    assert group != names.policy_group_chain(names.GROUP_INBOUND, "all()", [two, one])
    assert group != names.policy_group_chain(names.GROUP_INBOUND, "has(a)", [one, two])
    outbound = names.policy_group_chain(names.GROUP_OUTBOUND, "all()", [one, two])
    assert outbound[len("cali-go-") :] != group[len("cali-gi-") :]


def test_an_interface_name_that_a_rule_would_misread_is_none() -> None:
    assert names.is_interface_name("eth0.100")
    assert not any(
        names.is_interface_name(name) for name in ("", "eth+", "a b", "!", "eth0\n", "x" * 16, "..", "*")
    )


def test_v3_takes_its_bits_from_the_mask_lowest_first() -> None:
    marks = allocate_marks(FelixSettings(iptables_mark_mask=0xFFFF0000))

    assert marks == Marks(0x10000, 0x20000, 0x40000, 0x80000, 0x100000, cleared=0x1B0000)


def test_v2_has_the_bits_the_articles_print() -> None:
    marks = allocate_marks(FelixSettings(layout=Layout.V2))

    assert (marks.accept, marks.pass_, marks.from_workload) == (0x1000000, 0x2000000, 0x4000000)
    assert marks.cleared == 0x7000000


def test_native_takes_its_bits_from_the_other_end_of_the_mask() -> None:
    native = allocate_marks(FelixSettings(layout=Layout.NATIVE, iptables_mark_mask=0xFFFF0000))

    assert native == Marks(0x80000000, 0x40000000, 0, 0x20000000, 0x10000000, cleared=0xF0000000)


def test_a_mask_with_too_few_bits_is_refused() -> None:
    with pytest.raises(ConfigError, match="0xf has 4 bits"):
        allocate_marks(FelixSettings(iptables_mark_mask=0xF))
