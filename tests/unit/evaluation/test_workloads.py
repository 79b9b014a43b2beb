"""Verdicts between workloads and the outside: tiers, policies, profiles, and which rule decided."""

from pathlib import Path

import pytest

import calico_engine
from calico_engine.evaluation import Direction, StepAction, Verdict, evaluate
from calico_engine.model import Action, EntityRule, PolicyType, Resource, ResourceKey, Rule
from calico_engine.model.policy import (
    ServiceAccountMatch,
    StagedGlobalNetworkPolicy,
    StagedGlobalNetworkPolicySpec,
)
from calico_engine.model.resource import Metadata
from calico_engine.testing import (
    make_endpoint,
    make_global_policy,
    make_policy,
    make_profile,
    make_rule,
    make_tier,
)

ALLOW, DENY, PASS, LOG = Action.ALLOW, Action.DENY, Action.PASS, Action.LOG
OPEN = make_profile("open", ingress=[make_rule()], egress=[make_rule()])
A = make_endpoint("a", ip="10.0.0.1", labels={"app": "a"}, profiles=["open"])
B = make_endpoint("b", ip="10.0.0.2", labels={"app": "b"}, profiles=["open"])
FLOW: dict[str, object] = {"src": "10.0.0.1", "dst": "10.0.0.2", "dst_port": 80}


def verdict(*resources: Resource, **changes: object) -> Verdict:
    return evaluate([A, B, OPEN, *resources], {**FLOW, **changes})


def deny_all(selector: str = "app == 'b'") -> Resource:
    return make_global_policy("deny", selector=selector, ingress=[make_rule(DENY)])


def test_profiles_decide_where_no_policy_applies() -> None:
    answer = verdict()

    assert answer.allowed
    assert answer.policy == ResourceKey("Profile", "", "open")
    assert (answer.rule_index, answer.direction) == (0, Direction.INGRESS)
    assert [(step.direction, step.action) for step in answer.steps] == [
        (Direction.EGRESS, StepAction.ALLOW),
        (Direction.INGRESS, StepAction.ALLOW),
    ]


def test_without_policy_and_profile_everything_is_denied() -> None:
    closed = make_endpoint("b", ip="10.0.0.2", profiles=["missing"])

    answer = evaluate([A, closed, OPEN], FLOW)

    assert not answer.allowed
    assert answer.policy is None
    assert "no policy and no profile allows it" in answer.reason


def test_a_policy_that_applies_shuts_profiles_out() -> None:
    answer = verdict(make_global_policy(selector="app == 'b'", ingress=[make_rule(ports=[443])]))

    assert not answer.allowed
    assert "end of tier default" in answer.reason


def test_deny_wins_over_later_allow() -> None:
    answer = verdict(make_global_policy(ingress=[make_rule(DENY), make_rule()], selector="app == 'b'"))

    assert not answer.allowed
    assert (answer.policy, answer.rule_index) == (ResourceKey("GlobalNetworkPolicy", "", "policy-1"), 0)


def test_egress_of_the_source_comes_before_ingress_of_the_destination() -> None:
    answer = verdict(make_global_policy("out", selector="app == 'a'", egress=[make_rule(DENY)]), deny_all())

    assert (answer.direction, answer.policy) == (
        Direction.EGRESS,
        ResourceKey("GlobalNetworkPolicy", "", "out"),
    )


def test_log_lets_the_next_rule_decide() -> None:
    answer = verdict(make_global_policy(selector="app == 'b'", ingress=[make_rule(LOG), make_rule()]))

    assert answer.allowed
    assert [step.action for step in answer.steps if step.direction is Direction.INGRESS] == [
        StepAction.LOG,
        StepAction.ALLOW,
    ]


def test_lower_order_is_tried_first_and_none_last() -> None:
    allow = make_global_policy(
        "allow", selector="all()", ingress=[make_rule()], egress=[make_rule()], order=10
    )

    assert verdict(deny_all(), allow).allowed
    assert not verdict(make_global_policy("z", ingress=[make_rule(DENY)], order=5), allow).allowed


def test_equal_orders_are_tried_by_name() -> None:
    deny = make_global_policy("b", selector="app == 'b'", ingress=[make_rule(DENY)], order=1)
    allow = make_global_policy("a", selector="app == 'b'", ingress=[make_rule()], order=1)

    assert verdict(deny, allow).allowed


def test_pass_skips_the_rest_of_the_tier() -> None:
    first = make_global_policy("a", selector="app == 'b'", ingress=[make_rule(PASS)], order=1)
    second = make_global_policy("b", selector="app == 'b'", ingress=[make_rule(DENY)], order=2)

    answer = verdict(first, second)

    assert answer.allowed
    assert answer.policy == ResourceKey("Profile", "", "open")


def test_pass_goes_on_to_the_next_tier() -> None:
    tier = make_tier("security", order=1)
    first = make_global_policy("a", tier="security", selector="app == 'b'", ingress=[make_rule(PASS)])

    assert not verdict(tier, first, deny_all()).allowed
    assert verdict(tier, first).allowed


def test_a_tier_denies_at_its_end_unless_it_passes() -> None:
    policy = make_global_policy("a", tier="security", selector="app == 'b'", ingress=[make_rule(ports=[443])])

    assert not verdict(make_tier("security", order=1), policy).allowed
    assert verdict(make_tier("security", order=1, default_action=PASS), policy).allowed


def test_tiers_go_by_order_then_name() -> None:
    allow = make_global_policy("allow", tier="t2", selector="app == 'b'", ingress=[make_rule()])
    deny = make_global_policy("deny", tier="t1", selector="app == 'b'", ingress=[make_rule(DENY)])

    assert not verdict(make_tier("t1", order=1), make_tier("t2", order=1), allow, deny).allowed
    assert verdict(make_tier("t1", order=2), make_tier("t2", order=1), allow, deny).allowed
    assert verdict(make_tier("t1", order=None), make_tier("t2", order=1), allow, deny).allowed


def test_policies_of_a_missing_tier_come_last_and_then_deny() -> None:
    policy = make_global_policy("a", tier="gone", selector="app == 'b'", ingress=[make_rule(ports=[443])])
    default = make_global_policy("d", selector="app == 'b'", ingress=[make_rule(PASS)])

    answer = verdict(policy, default)

    assert not answer.allowed
    assert "end of tier gone" in answer.reason


@pytest.mark.parametrize(
    ("types", "ingress", "egress", "enforced"),
    [
        ((), False, False, {Direction.INGRESS}),
        ((), True, False, {Direction.INGRESS}),
        ((), False, True, {Direction.EGRESS}),
        ((), True, True, {Direction.INGRESS, Direction.EGRESS}),
        ((PolicyType.EGRESS,), True, False, {Direction.EGRESS}),
        ((PolicyType.INGRESS, PolicyType.EGRESS), False, False, {Direction.INGRESS, Direction.EGRESS}),
    ],
)
def test_types_default_to_the_directions_that_have_rules(
    types: tuple[PolicyType, ...], ingress: bool, egress: bool, enforced: set[Direction]
) -> None:
    nothing = make_rule(protocol=200)
    policy = make_global_policy(
        selector="app == 'b'", types=types, ingress=[nothing] * ingress, egress=[nothing] * egress
    )

    denied = {Direction.INGRESS} if not verdict(policy).allowed else set()
    denied |= {Direction.EGRESS} if not verdict(policy, src="10.0.0.2", dst="10.0.0.1").allowed else set()

    assert denied == enforced


def test_staged_policies_decide_nothing() -> None:
    staged = StagedGlobalNetworkPolicy(
        metadata=Metadata(name="s"),
        spec=StagedGlobalNetworkPolicySpec(ingress=(make_rule(DENY),), selector="all()"),
    )

    assert verdict(staged).allowed


def test_pass_in_a_profile_tries_the_next_profile() -> None:
    passing = make_profile("passing", ingress=[make_rule(PASS), make_rule(DENY)])
    target = make_endpoint("b", ip="10.0.0.2", profiles=["passing", "open"])

    assert evaluate([A, target, OPEN, passing], FLOW).allowed


def test_outside_addresses_have_no_policy_of_their_own() -> None:
    assert verdict(src="192.0.2.1").allowed
    assert verdict(dst="192.0.2.1").allowed
    assert not verdict(deny_all(), src="192.0.2.1").allowed


def test_two_addresses_outside_meet_no_policy() -> None:
    answer = verdict(src="192.0.2.1", dst="192.0.2.2")

    assert answer.allowed
    assert answer.reason == "no endpoint with policy is on the way"


def test_a_workload_always_reaches_itself() -> None:
    assert verdict(deny_all(), src="10.0.0.2").allowed


def test_ends_may_be_named() -> None:
    assert verdict(src="default/a", dst="b").allowed
    with pytest.raises(ValueError, match="neither an IP address nor the name"):
        verdict(src="nobody")


@pytest.mark.parametrize(
    "flow", [{"src_prt": 1}, {"dst_port": 65536}, {"protocol": "foo"}, {"src": "fd00::1"}]
)
def test_flows_that_make_no_sense_are_value_errors(flow: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"flow|protocol|is not one of"):
        verdict(**flow)


def test_manifests_are_accepted_as_text() -> None:
    policy = """
apiVersion: v1
kind: policy
metadata: {name: closed}
spec:
  selector: app == 'b'
  ingress:
  - action: deny
"""
    answer = calico_engine.evaluate([A, B, OPEN, policy], FLOW)

    assert not answer.allowed


def test_the_tenant_example_of_the_article_comes_out_as_it_tells() -> None:
    article = (Path(__file__).parents[2] / "golden" / "articles" / "002.txt").read_text()
    endpoints = article.split("endpoints.yaml\n")[1].split("创建:")[0]
    policy = next(part for part in article.split("\n\n") if "name: namespace-default" in part)
    frontend, database = "172.16.1.1", "172.16.1.3"
    deny_first = policy.replace("  ingress:\n", "  ingress:\n  - action: deny\n", 1)

    opened = calico_engine.evaluate([endpoints, policy], {"src": frontend, "dst": database, "dst_port": 3306})
    closed = calico_engine.evaluate(
        [endpoints, deny_first], {"src": frontend, "dst": database, "dst_port": 3306}
    )

    assert opened.allowed
    assert not closed.allowed
    assert (closed.policy, closed.rule_index) == (
        ResourceKey("GlobalNetworkPolicy", "", "namespace-default"),
        0,
    )


def test_namespaced_policy_applies_in_its_namespace_only() -> None:
    other = make_endpoint("c", ip="10.0.0.3", namespace="other", profiles=["open"])
    policy = make_policy(namespace="other", ingress=[make_rule(DENY)])

    assert verdict(policy, other).allowed
    assert not verdict(policy, other, dst="10.0.0.3").allowed


def allow_from(entity: EntityRule) -> Rule:
    return make_rule(source=entity)


def test_selector_in_a_namespaced_policy_stays_in_its_namespace() -> None:
    stranger = make_endpoint("s", ip="10.0.0.9", namespace="other", labels={"app": "a"}, profiles=["open"])
    policy = make_policy(selector="app == 'b'", ingress=[allow_from(EntityRule(selector="app == 'a'"))])

    assert verdict(policy, stranger).allowed
    assert not verdict(policy, stranger, src="10.0.0.9").allowed


def test_namespace_selector_goes_by_labels_of_the_namespaces_profile() -> None:
    profile = make_profile("kns.other", egress=[make_rule()], labels_to_apply={"pcns.team": "x"})
    stranger = make_endpoint("s", ip="10.0.0.9", namespace="other", profiles=["kns.other"])
    liar = make_endpoint("l", ip="10.0.0.8", namespace="liar", labels={"pcns.team": "x"}, profiles=["open"])
    policy = make_policy(
        selector="app == 'b'", ingress=[allow_from(EntityRule(namespace_selector="team == 'x'"))]
    )

    assert verdict(policy, profile, stranger, src="10.0.0.9").allowed
    assert not verdict(policy, profile, liar, src="10.0.0.8").allowed
    assert not verdict(policy, profile).allowed


def test_service_accounts_by_name_and_label() -> None:
    profile = make_profile("ksa.default.web", labels_to_apply={"pcsa.role": "x"})
    labels = {"projectcalico.org/serviceaccount": "web"}
    client = make_endpoint("s", ip="10.0.0.9", labels=labels, profiles=["open", "ksa.default.web"])
    by_name = make_policy("n", selector="app == 'b'", ingress=[allow_from(_accounts(names=("web",)))])
    by_label = make_policy(
        "l", selector="app == 'b'", ingress=[allow_from(_accounts(selector="role == 'x'"))]
    )

    for policy in (by_name, by_label):
        assert verdict(policy, profile, client, src="10.0.0.9").allowed
        assert not verdict(policy, profile).allowed


def _accounts(names: tuple[str, ...] = (), selector: str = "") -> EntityRule:
    return EntityRule(service_accounts=ServiceAccountMatch(names=names, selector=selector))


def test_global_policy_by_namespace_and_service_account() -> None:
    profile = make_profile("kns.default", labels_to_apply={"pcns.team": "x"})
    target = make_endpoint("b", ip="10.0.0.2", profiles=["open", "kns.default"])
    deny = make_global_policy(selector="", namespace_selector="team == 'x'", ingress=[make_rule(DENY)])

    assert not evaluate([A, target, OPEN, profile, deny], FLOW).allowed
    assert verdict(deny, profile).allowed


def test_labels_of_profiles_are_inherited_and_own_ones_win() -> None:
    profile = make_profile("p", labels_to_apply={"app": "x", "tier": "y"}, ingress=[make_rule()])
    target = make_endpoint("b", ip="10.0.0.2", labels={"app": "b"}, profiles=["p"])

    assert evaluate([A, target, OPEN, profile, deny_all("app == 'x'")], FLOW).allowed
    assert not evaluate([A, target, OPEN, profile, deny_all("tier == 'y' && app == 'b'")], FLOW).allowed
