"""A rule whose set is not there: one that allows matches nothing, one that denies matches at least as much."""

import msgspec
import pytest

from calico_engine.messages import ActiveRule, PortRange
from calico_engine.model.policy import Action
from calico_engine.ruleset.compile_policy import compile_policy
from calico_engine.ruleset.ir import Family
from calico_engine.ruleset.references import referenced_sets
from calico_engine.settings import FelixSettings
from calico_engine.tables.missing_sets import all_sets, close_rules
from calico_engine.testing.messages import make_policy_update

PORTS = (PortRange(80, 80),)
LOOKUPS = [
    {"src_sets": ("s:gone",)},
    {"dst_sets": ("s:here", "s:gone")},
    {"not_src_sets": ("s:gone",)},
    {"not_dst_sets": ("s:gone",)},
    {"protocol": 6, "src_named_port_sets": ("s:gone",), "src_ports": PORTS},
    {"protocol": 6, "dst_named_port_sets": ("s:here", "s:gone"), "dst_ports": PORTS},
    {"protocol": 6, "not_src_named_port_sets": ("s:gone",)},
    {"protocol": 6, "not_dst_named_port_sets": ("s:gone",)},
    {"dst_ip_port_sets": ("s:gone",)},
]


def rule(action: Action, fields: dict[str, object]) -> ActiveRule:
    return msgspec.convert({"action": action, **fields}, ActiveRule)


@pytest.mark.parametrize("fields", LOOKUPS)
@pytest.mark.parametrize("family", Family)
@pytest.mark.parametrize("action", [Action.ALLOW, Action.PASS, Action.LOG])
def test_rule_that_lets_through_is_left_out(
    action: Action, family: Family, fields: dict[str, object]
) -> None:
    update = make_policy_update(inbound=[rule(action, fields)])

    closed = close_rules(update, {"s:gone"}, family)

    compiled = compile_policy(closed, FelixSettings(), family)
    nothing = compile_policy(make_policy_update(inbound=[]), FelixSettings(), family)
    assert [len(rules) for rules in compiled.values()] == [len(rules) for rules in nothing.values()]
    assert len(closed.inbound) == 1


@pytest.mark.parametrize("fields", LOOKUPS)
@pytest.mark.parametrize("family", Family)
def test_rule_that_denies_loses_what_cannot_be_evaluated(family: Family, fields: dict[str, object]) -> None:
    update = make_policy_update(inbound=[rule(Action.DENY, fields)])

    closed = close_rules(update, {"s:gone"}, family)

    found = set()
    for rules in compile_policy(closed, FelixSettings(), family).values():
        found |= referenced_sets(rules)
    assert found <= {"s:here"}
    assert closed.inbound[0].protocol == fields.get("protocol")
    if "src_ports" in fields or "dst_ports" in fields:
        # Numeric and named ports are alternatives: what is left of them would deny less.
        assert (closed.inbound[0].src_ports, closed.inbound[0].dst_ports) == ((), ())
        assert all_sets(closed) == frozenset()


def test_rules_without_the_set_stay_as_they_are() -> None:
    update = make_policy_update(inbound=[rule(Action.ALLOW, {"src_sets": ["s:here"]}), rule(Action.DENY, {})])

    assert close_rules(update, {"s:gone"}, Family.V4) == update
