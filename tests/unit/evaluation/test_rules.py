"""Whether one rule matches: every criterion, positive and negated, in both families."""

import pytest

from calico_engine.evaluation import evaluate
from calico_engine.model import Action, EndpointPort, EntityRule, ICMPFields, Resource, Rule
from calico_engine.model.policy import ServiceMatch
from calico_engine.testing import (
    make_endpoint,
    make_global_network_set,
    make_global_policy,
    make_host_endpoint,
    make_network_set,
    make_policy,
    make_profile,
    make_rule,
)

OPEN = make_profile("open", ingress=[make_rule()], egress=[make_rule()])
HTTP = (EndpointPort(name="http", protocol="TCP", port=8080),)
A = make_endpoint("a", ip=["10.0.0.1", "fd00::1"], labels={"app": "a"}, profiles=["open"])
B = make_endpoint("b", ip=["10.0.0.2", "fd00::2"], labels={"app": "b"}, profiles=["open"], ports=HTTP)


def matches(
    rule: Rule, *resources: Resource, src: str = "10.0.0.1", dst: str = "10.0.0.2", **flow: object
) -> bool:
    """Return whether a rule of a policy on B lets a packet in."""
    policy = make_global_policy(selector="app == 'b'", ingress=[rule])
    return evaluate(
        [A, B, OPEN, policy, *resources], {"src": src, "dst": dst, "dst_port": 80, **flow}
    ).allowed


def from_(**criteria: object) -> Rule:
    return Rule(action=Action.ALLOW, source=EntityRule(**criteria))  # type: ignore[arg-type]  # names are checked at run time


def to(protocol: str | None = "TCP", **criteria: object) -> Rule:
    return Rule(action=Action.ALLOW, protocol=protocol, destination=EntityRule(**criteria))  # type: ignore[arg-type]  # as above


@pytest.mark.parametrize(
    ("rule", "flow", "expected"),
    [
        (make_rule(protocol="TCP"), {"protocol": "tcp"}, True),
        (make_rule(protocol=6), {"protocol": "TCP"}, True),
        (make_rule(protocol="UDP"), {"protocol": "TCP"}, False),
        (make_rule(not_protocol="TCP"), {"protocol": "TCP"}, False),
        (make_rule(not_protocol="TCP"), {"protocol": 47}, True),
        (make_rule(protocol="ICMP"), {"protocol": "ICMP"}, True),
        (make_rule(protocol="ICMP", icmp=ICMPFields(type=8)), {"protocol": "ICMP"}, True),
        (make_rule(protocol="ICMP", icmp=ICMPFields(type=8)), {"protocol": "ICMP", "icmp_type": 0}, False),
        (
            make_rule(protocol="ICMP", icmp=ICMPFields(type=3, code=1)),
            {"protocol": "ICMP", "icmp_type": 3},
            False,
        ),
        (
            make_rule(protocol="ICMP", icmp=ICMPFields(type=3, code=1)),
            {"protocol": "ICMP", "icmp_type": 3, "icmp_code": 1},
            True,
        ),
        (
            Rule(action=Action.ALLOW, protocol="ICMP", not_icmp=ICMPFields(type=8)),
            {"protocol": "ICMP"},
            False,
        ),
        (Rule(action=Action.ALLOW, protocol="ICMP", not_icmp=ICMPFields(type=0)), {"protocol": "ICMP"}, True),
        (to(ports=(80,)), {}, True),
        (to(ports=("70:80",)), {}, True),
        (to(ports=("81:90", 79)), {}, False),
        (to(not_ports=(80,)), {}, False),
        (to(not_ports=(81,)), {}, True),
        (to(ports=("1:100",), not_ports=("80:90",)), {}, False),
        (
            Rule(action=Action.ALLOW, protocol="TCP", source=EntityRule(ports=(1000,))),
            {"src_port": 1000},
            True,
        ),
        (Rule(action=Action.ALLOW, protocol="TCP", source=EntityRule(ports=(1000,))), {}, False),
        (to("SCTP", ports=(80,)), {"protocol": "SCTP"}, True),
    ],
)
def test_protocols_and_ports(rule: Rule, flow: dict[str, object], expected: bool) -> None:
    assert matches(rule, **flow) is expected  # type: ignore[arg-type]  # no resource among them


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (from_(nets=("10.0.0.0/24",)), True),
        (from_(nets=("10.0.0.1/32", "192.0.2.0/24")), True),
        (from_(nets=("10.0.1.0/24",)), False),
        (from_(not_nets=("10.0.0.0/24",)), False),
        (from_(not_nets=("10.0.1.0/24",)), True),
        (from_(nets=("10.0.0.0/8",), not_nets=("10.0.0.1/32",)), False),
        (from_(nets=("10.0.0.0/8",), selector="app == 'a'"), True),
        (from_(nets=("10.0.0.0/8",), selector="app == 'x'"), False),
        (to(None, nets=("10.0.0.2/32",)), True),
        (to(None, selector="app == 'b'"), True),
        (to(None, not_selector="app == 'b'"), False),
    ],
)
def test_networks_and_selectors(rule: Rule, expected: bool) -> None:
    assert matches(rule) is expected


def test_a_rule_of_the_other_family_does_not_match() -> None:
    v6 = {"src": "fd00::1", "dst": "fd00::2"}

    assert matches(make_rule(ip_version=4))
    assert not matches(make_rule(ip_version=4), **v6)
    assert not matches(from_(nets=("fd00::/64",)))
    assert matches(from_(nets=("fd00::/64",)), **v6)
    assert matches(make_rule(protocol="ICMPv6", icmp=ICMPFields(type=128)), protocol="ICMPv6", **v6)


def test_a_negated_list_of_the_other_family_takes_the_rule_out_too() -> None:
    assert not matches(from_(not_nets=("fd00::/64",)))


def test_nobodys_address_matches_no_selector_but_every_negated_one() -> None:
    assert not matches(from_(selector="!has(app)"), src="192.0.2.1")
    assert matches(from_(not_selector="has(app)"), src="192.0.2.1")
    assert not matches(from_(selector="all()"), src="192.0.2.1")


def test_selector_and_negated_selector_narrow_each_other() -> None:
    rule = from_(selector="has(app)", not_selector="app == 'a'")

    assert not matches(rule)
    assert matches(rule, src="10.0.0.2", dst="10.0.0.2")


def test_network_sets_own_their_addresses() -> None:
    trusted = make_global_network_set("trusted", nets=["192.0.2.0/24"], labels={"role": "partner"})

    assert matches(from_(selector="role == 'partner'"), trusted, src="192.0.2.7")
    assert not matches(from_(selector="role == 'partner'"), trusted, src="192.0.3.7")


def test_of_several_owners_any_may_match() -> None:
    wide = make_global_network_set("wide", nets=["10.0.0.0/8"], labels={"role": "inside"})

    assert matches(from_(selector="role == 'inside'"), wide)
    assert matches(from_(selector="app == 'a'"), wide)
    assert not matches(from_(selector="app == 'a' && role == 'inside'"), wide)


def test_network_sets_of_a_namespace_serve_its_policies_only() -> None:
    mine = make_network_set("s", nets=["192.0.2.0/24"], labels={"role": "x"})
    other = make_network_set("s", namespace="other", nets=["192.0.3.0/24"], labels={"role": "x"})
    policy = make_policy(selector="app == 'b'", ingress=[from_(selector="role == 'x'")])
    world = [B, OPEN, mine, other, policy]

    assert evaluate(world, {"src": "192.0.2.1", "dst": "10.0.0.2"}).allowed
    assert not evaluate(world, {"src": "192.0.3.1", "dst": "10.0.0.2"}).allowed


def test_global_in_a_namespace_selector_means_what_has_no_namespace() -> None:
    partner = make_global_network_set("partner", nets=["192.0.2.0/24"], labels={"role": "x"})
    host = make_host_endpoint(expected_ips=["198.51.100.1"], node="other", profiles=["open"])
    rule = from_(namespace_selector="global()")

    assert matches(rule, partner, src="192.0.2.1")
    assert matches(rule, host, src="198.51.100.1")
    assert not matches(rule)
    assert matches(from_(namespace_selector="all()"))
    assert not matches(from_(namespace_selector="all()"), partner, src="192.0.2.1")


def test_named_ports_belong_to_the_owner_of_the_address() -> None:
    assert matches(to(ports=("http",)), dst_port=8080)
    assert not matches(to(ports=("http",)))
    assert matches(to(ports=("http", 80)))
    assert matches(to(None, ports=("http",)), dst_port=8080)
    assert not matches(to("UDP", ports=("http",)), protocol="UDP", dst_port=8080)
    assert not matches(to(not_ports=("http",)), dst_port=8080)
    assert matches(to(not_ports=("http",)))


def test_named_ports_are_narrowed_by_the_selector() -> None:
    assert matches(to(ports=("http",), selector="app == 'b'"), dst_port=8080)
    assert not matches(to(ports=("http",), selector="app == 'a'"), dst_port=8080)


def test_a_rule_for_a_service_matches_nobody_here() -> None:
    assert not matches(from_(services=ServiceMatch(name="s", namespace="default")))
