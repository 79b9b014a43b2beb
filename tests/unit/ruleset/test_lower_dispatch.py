"""Dispatch by interface as a tree of chains."""

from calico_engine.ruleset.compile_dispatch import compile_workload_dispatch
from calico_engine.ruleset.ir import Family
from calico_engine.ruleset.lower import lower_chains
from calico_engine.settings import FelixSettings, Layout
from calico_engine_iptables.words import fragments


def dispatch(*interfaces: str) -> dict[str, list[str]]:
    """Return the lowered from-workload chains in words."""
    chains = lower_chains(compile_workload_dispatch(interfaces, FelixSettings()), FelixSettings(), Family.V4)
    return {
        key.name.removeprefix("cali-from-wl-dispatch"): [
            fragments(rule, Family.V4, Layout.V3) for rule in rules
        ]
        for key, rules in chains.items()
        if key.name.startswith("cali-from-wl-dispatch")
    }


UNKNOWN = '-m comment --comment "Unknown interface" --jump DROP'


def test_nothing_known_drops_all() -> None:
    assert dispatch() == {"": [UNKNOWN]}


def test_one_name_per_next_character_stays_in_the_root() -> None:
    assert dispatch("cali2", "cali1", "cali1") == {
        "": [
            "--in-interface cali1 --goto cali-fw-cali1",
            "--in-interface cali2 --goto cali-fw-cali2",
            UNKNOWN,
        ]
    }


def test_several_names_with_one_next_character_share_a_child_that_ends_as_the_root_does() -> None:
    assert dispatch("cali1a", "cali1b", "cali2") == {
        "": [
            "--in-interface cali1+ --goto cali-from-wl-dispatch-1",
            "--in-interface cali2 --goto cali-fw-cali2",
            UNKNOWN,
        ],
        "-1": [
            "--in-interface cali1a --goto cali-fw-cali1a",
            "--in-interface cali1b --goto cali-fw-cali1b",
            UNKNOWN,
        ],
    }


def test_a_name_that_begins_others_is_no_prefix_of_theirs() -> None:
    assert dispatch("cali1", "cali12", "cali13") == {
        "": [
            "--in-interface cali1 --goto cali-fw-cali1",
            "--in-interface cali12 --goto cali-fw-cali12",
            "--in-interface cali13 --goto cali-fw-cali13",
            UNKNOWN,
        ]
    }
