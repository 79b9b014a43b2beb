"""Verdicts to, from and through nodes with host endpoints."""

import msgspec
import pytest

from calico_engine.evaluation import Direction, Stage, Verdict, evaluate
from calico_engine.model import Action, EntityRule, GlobalNetworkPolicy, Resource, ResourceKey
from calico_engine.settings import EndpointToHostAction, FelixSettings, HostPort
from calico_engine.testing import (
    make_endpoint,
    make_global_policy,
    make_host_endpoint,
    make_node,
    make_profile,
    make_rule,
)

DENY = Action.DENY
OPEN = make_profile("open", ingress=[make_rule()], egress=[make_rule()])
NODES = (make_node("n1", ipv4="192.0.2.1/24"), make_node("n2", ipv4="192.0.2.2/24"))
POD_1 = make_endpoint("p1", ip="10.0.0.1", node="n1", labels={"pod": "1"}, profiles=["open"])
POD_2 = make_endpoint("p2", ip="10.0.0.2", node="n2", labels={"pod": "2"}, profiles=["open"])
NEIGHBOUR = make_endpoint("p3", ip="10.0.0.3", node="n1", labels={"pod": "3"}, profiles=["open"])
NAMED = make_host_endpoint(
    "named", node="n1", interface="eth0", expected_ips=["192.0.2.1"], labels={"host": "n1"}
)
EVERY = make_host_endpoint("every", node="n1", interface="*", labels={"host": "n1"})
OUTSIDE = "198.51.100.1"


def ask(*resources: Resource, settings: FelixSettings | None = None, **flow: object) -> Verdict:
    world = [*NODES, POD_1, POD_2, NEIGHBOUR, OPEN, *resources]
    return evaluate(world, {"dst_port": 80, **flow}, settings=settings)


def policy(name: str = "p", **spec: object) -> GlobalNetworkPolicy:
    return make_global_policy(name, selector="has(host)", **spec)  # type: ignore[arg-type]  # the builder's own arguments


def allow(port: int, **spec: object) -> GlobalNetworkPolicy:
    return policy("p", ingress=[make_rule(ports=[port])], **spec)


def test_a_node_without_host_endpoint_is_not_policed() -> None:
    assert ask(src=OUTSIDE, dst="192.0.2.1").allowed
    assert ask(src="192.0.2.1", dst=OUTSIDE).allowed


def test_a_node_talks_to_itself_through_what_guards_lo() -> None:
    # The host endpoint for all interfaces guards lo as well, as the reference dispatches it.
    loopback = make_host_endpoint("lo", node="n1", interface="lo", labels={"host": "lo"})
    both_ways = policy(ingress=[make_rule(ports=[80])], egress=[make_rule(ports=[80])])

    def passes(*resources: Resource, port: int = 80) -> bool:
        return ask(*resources, src="192.0.2.1", dst="192.0.2.1", dst_port=port).allowed

    assert passes()
    assert passes(NAMED)
    assert not passes(EVERY)
    assert not passes(loopback)
    assert not passes(EVERY, allow(80))
    assert passes(EVERY, both_ways)
    assert not passes(EVERY, both_ways, port=81)


@pytest.mark.parametrize("host", [NAMED, EVERY])
def test_a_host_endpoint_without_policy_denies_all_but_failsafes(host: Resource) -> None:
    assert not ask(host, src=OUTSIDE, dst="192.0.2.1").allowed
    assert not ask(host, src="192.0.2.1", dst=OUTSIDE).allowed

    answer = ask(host, src=OUTSIDE, dst="192.0.2.1", dst_port=22)

    assert answer.allowed
    assert "failsafe" in answer.reason
    assert ask(host, src="192.0.2.1", dst=OUTSIDE, dst_port=53, protocol="UDP").allowed
    assert not ask(host, src=OUTSIDE, dst="192.0.2.1", dst_port=22, protocol="UDP").allowed


def test_failsafes_may_be_limited_to_a_network() -> None:
    settings = FelixSettings(failsafe_inbound_host_ports=(HostPort("tcp", 22, "198.51.100.0/24"),))

    assert ask(NAMED, settings=settings, src=OUTSIDE, dst="192.0.2.1", dst_port=22).allowed
    assert not ask(NAMED, settings=settings, src="203.0.113.1", dst="192.0.2.1", dst_port=22).allowed


def test_policy_opens_a_host_endpoint() -> None:
    answer = ask(NAMED, allow(80), src=OUTSIDE, dst="192.0.2.1")

    assert answer.allowed
    assert answer.policy == ResourceKey("GlobalNetworkPolicy", "", "p")
    assert not ask(NAMED, allow(80), src=OUTSIDE, dst="192.0.2.1", dst_port=443).allowed


def test_profiles_open_a_host_endpoint() -> None:
    host = make_host_endpoint("named", node="n1", expected_ips=["192.0.2.1"], profiles=["open"])

    assert ask(host, src=OUTSIDE, dst="192.0.2.1").allowed


def test_the_interfaces_own_host_endpoint_comes_before_the_one_for_all() -> None:
    every = make_host_endpoint("a-every", node="n1", interface="*", profiles=["open"])

    assert not ask(NAMED, every, src=OUTSIDE, dst="192.0.2.1").allowed
    assert ask(NAMED, every, src=OUTSIDE, dst="192.0.2.1", in_interface="eth1").allowed


def test_of_two_host_endpoints_for_one_interface_the_first_name_counts() -> None:
    first = make_host_endpoint("a", node="n1", interface="eth0", profiles=["open"])

    assert ask(NAMED, first, src=OUTSIDE, dst="192.0.2.1", in_interface="eth0").allowed


def test_a_host_endpoint_without_interface_is_found_by_its_address() -> None:
    host = make_host_endpoint("byip", node="n1", interface="", expected_ips=["192.0.2.1"])

    assert not ask(host, src=OUTSIDE, dst="192.0.2.1", in_interface="eth0").allowed


@pytest.mark.parametrize("host", [NAMED, EVERY])
def test_a_node_always_reaches_its_own_workloads(host: Resource) -> None:
    closed = make_global_policy("closed", selector="has(pod)", ingress=[make_rule(DENY)])

    assert ask(host, closed, src="192.0.2.1", dst="10.0.0.1").allowed
    assert not ask(closed, src="192.0.2.1", dst="10.0.0.2").allowed


def test_workloads_to_their_own_node_need_the_configured_action() -> None:
    accept = FelixSettings(default_endpoint_to_host_action=EndpointToHostAction.ACCEPT)
    closed = make_global_policy("closed", selector="has(pod)", egress=[make_rule(DENY)])

    assert not ask(src="10.0.0.1", dst="192.0.2.1").allowed
    assert ask(settings=accept, src="10.0.0.1", dst="192.0.2.1").allowed
    assert ask(NAMED, EVERY, settings=accept, src="10.0.0.1", dst="192.0.2.1").allowed
    assert not ask(closed, settings=accept, src="10.0.0.1", dst="192.0.2.1").allowed
    assert ask(src="10.0.0.1", dst="192.0.2.2").allowed


def test_neighbour_discovery_of_workloads_is_always_served() -> None:
    node = make_node("n1", ipv4="", ipv6="fd00::1/64")
    pod = make_endpoint("p6", ip="fd01::1", node="n1")
    flow: dict[str, object] = {"src": "fd01::1", "dst": "fd00::1", "protocol": "ICMPv6"}

    assert evaluate([node, pod], {**flow, "icmp_type": 135}).allowed
    assert not evaluate([node, pod], {**flow, "icmp_type": 128}).allowed


@pytest.mark.parametrize(
    ("flow", "setting"),
    [
        ({"protocol": "UDP", "dst_port": 4789}, "allow_vxlan_packets_from_workloads"),
        ({"protocol": 4}, "allow_ipip_packets_from_workloads"),
    ],
)
def test_workloads_may_not_encapsulate_unless_told(flow: dict[str, object], setting: str) -> None:
    allowed = msgspec.structs.replace(FelixSettings(), **{setting: True})

    assert not ask(src="10.0.0.1", dst="10.0.0.2", **flow).allowed  # type: ignore[arg-type]  # flow fields
    assert ask(settings=allowed, src="10.0.0.1", dst="10.0.0.2", **flow).allowed


# Forwarding


def test_normal_policy_of_a_host_endpoint_leaves_forwarded_packets_alone() -> None:
    deny = policy(ingress=[make_rule(DENY)], egress=[make_rule(DENY)])

    assert ask(NAMED, deny, src=OUTSIDE, dst="10.0.0.1").allowed
    assert ask(NAMED, deny, src="10.0.0.1", dst=OUTSIDE).allowed


def test_apply_on_forward_policy_judges_what_enters_and_leaves() -> None:
    ingress = policy(ingress=[make_rule(DENY)], apply_on_forward=True)
    egress = policy(egress=[make_rule(DENY)], apply_on_forward=True)

    answer = ask(NAMED, ingress, src=OUTSIDE, dst="10.0.0.1")

    assert not answer.allowed
    assert (answer.direction, answer.steps[-1].stage) == (Direction.INGRESS, Stage.FORWARD)
    assert ask(NAMED, ingress, src="10.0.0.1", dst=OUTSIDE).allowed
    assert not ask(NAMED, egress, src="10.0.0.1", dst=OUTSIDE).allowed
    assert ask(NAMED, egress, src=OUTSIDE, dst="10.0.0.1").allowed


def test_apply_on_forward_denies_at_the_end_of_the_tier_without_profiles_or_failsafes() -> None:
    host = make_host_endpoint(
        "named", node="n1", expected_ips=["192.0.2.1"], labels={"host": "n1"}, profiles=["open"]
    )
    only_443 = allow(443, apply_on_forward=True)

    answer = ask(host, only_443, src=OUTSIDE, dst="10.0.0.1", dst_port=22)

    assert not answer.allowed
    assert "end of tier default" in answer.reason
    assert ask(host, only_443, src=OUTSIDE, dst="10.0.0.1", dst_port=443).allowed


def test_an_allow_on_forward_still_needs_the_workloads_policy() -> None:
    closed = make_global_policy("closed", selector="has(pod)", ingress=[make_rule(DENY)])

    assert not ask(NAMED, closed, allow(80, apply_on_forward=True), src=OUTSIDE, dst="10.0.0.1").allowed


def test_the_host_endpoint_for_all_interfaces_judges_traffic_between_local_workloads() -> None:
    deny = policy(ingress=[make_rule(DENY)], apply_on_forward=True)

    assert not ask(EVERY, deny, src="10.0.0.1", dst="10.0.0.3").allowed
    assert ask(NAMED, deny, src="10.0.0.1", dst="10.0.0.3").allowed


def test_flows_between_nodes_meet_both_nodes() -> None:
    second = make_host_endpoint(
        "n2", node="n2", interface="eth0", expected_ips=["192.0.2.2"], labels={"host": "n2"}
    )
    deny = make_global_policy("d", selector="host == 'n2'", ingress=[make_rule(DENY)], apply_on_forward=True)

    assert not ask(NAMED, second, deny, src="10.0.0.1", dst="10.0.0.2").allowed
    assert ask(NAMED, second, deny, src="10.0.0.2", dst="10.0.0.1").allowed


def test_packets_that_only_pass_through_meet_both_interfaces() -> None:
    out = make_host_endpoint("out", node="n1", interface="eth1", labels={"side": "out"})
    deny_out = make_global_policy(
        "o", selector="side == 'out'", egress=[make_rule(DENY)], apply_on_forward=True
    )
    flow: dict[str, object] = {"src": OUTSIDE, "dst": "203.0.113.1", "node": "n1", "in_interface": "eth0"}

    assert ask(NAMED, out, deny_out, out_interface="eth2", **flow).allowed  # type: ignore[arg-type]  # flow fields
    assert not ask(NAMED, out, deny_out, out_interface="eth1", **flow).allowed  # type: ignore[arg-type]  # flow fields


# Untracked and pre-DNAT


def test_untracked_allow_goes_past_normal_policy() -> None:
    untracked = policy("u", ingress=[make_rule(ports=[80])], do_not_track=True)
    deny = policy("d", ingress=[make_rule(DENY)], order=1)

    answer = ask(NAMED, untracked, deny, src=OUTSIDE, dst="192.0.2.1")

    assert answer.allowed
    assert answer.steps[-1].stage is Stage.UNTRACKED
    assert not ask(NAMED, untracked, deny, src=OUTSIDE, dst="192.0.2.1", dst_port=443).allowed


def test_untracked_deny_drops_and_no_match_leaves_it_to_normal_policy() -> None:
    untracked = policy("u", ingress=[make_rule(DENY, ports=[80])], do_not_track=True)

    assert not ask(NAMED, untracked, allow(80), src=OUTSIDE, dst="192.0.2.1").allowed
    assert ask(NAMED, untracked, allow(443), src=OUTSIDE, dst="192.0.2.1", dst_port=443).allowed


def test_untracked_egress() -> None:
    untracked = policy("u", egress=[make_rule(ports=[80])], do_not_track=True)

    assert ask(NAMED, untracked, src="192.0.2.1", dst=OUTSIDE).allowed
    assert not ask(NAMED, untracked, src="192.0.2.1", dst=OUTSIDE, dst_port=443).allowed


def test_untracked_policy_judges_forwarded_packets_where_they_enter() -> None:
    untracked = policy("u", ingress=[make_rule(DENY)], do_not_track=True)

    assert not ask(NAMED, untracked, src=OUTSIDE, dst="10.0.0.1").allowed


def test_untracked_policy_is_not_enforced_on_all_interfaces_or_workloads() -> None:
    untracked = make_global_policy("u", selector="all()", ingress=[make_rule(DENY)], do_not_track=True)

    assert ask(EVERY, untracked, allow(80), src=OUTSIDE, dst="192.0.2.1").allowed
    assert ask(untracked, src="10.0.0.1", dst="10.0.0.2").allowed


def test_failsafes_come_before_untracked_and_pre_dnat_policy() -> None:
    untracked = policy("u", ingress=[make_rule(DENY)], do_not_track=True)
    pre_dnat = policy("d", ingress=[make_rule(DENY)], pre_dnat=True)

    assert ask(NAMED, untracked, pre_dnat, src=OUTSIDE, dst="192.0.2.1", dst_port=22).allowed


@pytest.mark.parametrize("host", [NAMED, EVERY])
def test_pre_dnat_policy_judges_all_that_enters(host: Resource) -> None:
    deny = policy("d", ingress=[make_rule(DENY, ports=[80])], pre_dnat=True)

    answer = ask(host, deny, allow(80), src=OUTSIDE, dst="192.0.2.1")

    assert not answer.allowed
    assert answer.steps[-1].stage is Stage.PRE_DNAT
    assert not ask(host, deny, src=OUTSIDE, dst="10.0.0.1").allowed


def test_pre_dnat_allow_goes_past_normal_and_forward_policy_but_not_the_workloads() -> None:
    open_all = policy("o", ingress=[make_rule()], pre_dnat=True)
    deny = policy("d", ingress=[make_rule(DENY)], apply_on_forward=True)
    closed = make_global_policy("closed", selector="pod == '1'", ingress=[make_rule(DENY)])

    assert ask(NAMED, open_all, deny, src=OUTSIDE, dst="192.0.2.1").allowed
    assert ask(NAMED, open_all, deny, src=OUTSIDE, dst="10.0.0.3").allowed
    assert not ask(NAMED, open_all, deny, closed, src=OUTSIDE, dst="10.0.0.1").allowed


def test_pre_dnat_policy_on_all_interfaces_judges_workloads_too() -> None:
    deny = policy("d", ingress=[make_rule(DENY)], pre_dnat=True)

    assert not ask(EVERY, deny, src="10.0.0.1", dst=OUTSIDE).allowed
    assert ask(NAMED, deny, src="10.0.0.1", dst=OUTSIDE).allowed


def test_selectors_see_host_endpoints_by_their_expected_addresses() -> None:
    only_host = make_global_policy(
        "from-host", selector="pod == '2'", ingress=[make_rule(source=EntityRule(selector="host == 'n1'"))]
    )
    open_host = policy(egress=[make_rule()])

    assert ask(NAMED, only_host, open_host, src="192.0.2.1", dst="10.0.0.2").allowed
    assert not ask(NAMED, only_host, open_host, src=OUTSIDE, dst="10.0.0.2").allowed
