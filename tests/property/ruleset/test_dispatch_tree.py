"""The dispatch tree that is kept equals one that is made anew, and shares with the one before what did not change."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from calico_engine.ruleset.compile_dispatch import compile_workload_dispatch
from calico_engine.ruleset.dispatch_tree import DispatchTree
from calico_engine.ruleset.ir import Family
from calico_engine.ruleset.lower import lower_chains
from calico_engine.settings import DenyAction, FelixSettings

DEFAULT = FelixSettings()
REJECTING = FelixSettings(iptables_filter_deny_action=DenyAction.REJECT)
interface_names = st.one_of(
    st.text("abc", min_size=1, max_size=4),
    st.text("ab", max_size=3).map(lambda text: f"cali{text}"),
)
steps = st.lists(
    st.tuples(st.frozensets(interface_names, max_size=12), st.sampled_from((DEFAULT, DEFAULT, REJECTING))),
    min_size=1,
    max_size=8,
)


@given(steps=steps)
def test_kept_tree_equals_a_new_one(steps: Sequence[tuple[frozenset[str], FelixSettings]]) -> None:
    tree = DispatchTree()
    for names, settings in steps:
        expected = lower_chains(compile_workload_dispatch(names, settings), settings, Family.V4)

        assert tree.compile(sorted(names), settings) == expected


def test_only_the_subtree_of_a_new_interface_is_made_anew() -> None:
    tree = DispatchTree()
    names = [f"cali{number:03x}" for number in range(256)]
    before = tree.compile(names, DEFAULT)

    after = tree.compile(sorted([*names, "cali0555"]), DEFAULT)

    assert before.keys() == after.keys()
    remade = {key.name for key in after if after[key] is not before[key]}
    roots = {"cali-from-wl-dispatch", "cali-to-wl-dispatch"}
    assert remade - roots == {"cali-from-wl-dispatch-5", "cali-to-wl-dispatch-5"}
    assert [after[key] for key in after if key.name in roots] == [
        before[key] for key in before if key.name in roots
    ]
