"""What becomes of workloads' packets: the compiled ruleset, both layouts, run through the interpreter."""

import pytest

from calico_engine.messages import ActiveRule, Message
from calico_engine.model.policy import Action
from calico_engine.model.resource import ResourceKey
from calico_engine.ruleset.interpret import Outcome, Packet, Path, Verdict, interpret
from calico_engine.ruleset.ir import ChainKey, CtState, Family, Layer
from calico_engine.ruleset.lower import lower
from calico_engine.ruleset.verify import verify
from calico_engine.ruleset.world import compile_world
from calico_engine.settings import DenyAction, EndpointToHostAction, FelixSettings, Layout
from calico_engine.testing.messages import (
    ALLOW,
    DENY,
    LOG,
    PASS,
    make_policy_update,
    make_profile_update,
    make_state,
    make_tier,
    make_workload_update,
    policy_key,
    ports,
)

V2 = FelixSettings(layout=Layout.V2)
V3 = FelixSettings()
NATIVE = FelixSettings(layout=Layout.NATIVE)
LAYOUTS = pytest.mark.parametrize("settings", [V3, V2, NATIVE], ids=["v3", "v2", "native"])
MODERN = pytest.mark.parametrize("settings", [V3, NATIVE], ids=["v3", "native"])
WEB = ActiveRule(action=Action.ALLOW, protocol=6, dst_ports=ports(80))
OPEN = make_profile_update("open", inbound=[ALLOW], outbound=[ALLOW])


def send(
    settings: FelixSettings,
    *messages: Message,
    path: Path = Path.FORWARD,
    into: str = "eth0",
    out: str = "cali1",
    port: int = 80,
    protocol: int = 6,
    family: Family = Family.V4,
    ct_state: CtState = CtState.NEW,
    icmp_type: int = 0,
    spoofed: bool = False,
    src_port: int = 40000,
) -> Outcome:
    """Run a packet, to cali1 from outside unless told otherwise, through the lowered ruleset."""
    ruleset = lower(compile_world(make_state(*messages), settings, family), settings)
    assert verify(ruleset) == ()
    v4 = family is Family.V4
    packet = Packet(
        src="192.0.2.1" if v4 else "2001:db8::1",
        dst="10.65.0.1" if v4 else "fd00::1",
        protocol=protocol,
        src_port=src_port,
        dst_port=port,
        in_interface="" if path is Path.FROM_HOST else into,
        out_interface="" if path is Path.TO_HOST else out,
        ct_state=ct_state,
        icmp_type=icmp_type,
        spoofed=spoofed,
    )
    return interpret(ruleset, packet, path)


def why(outcome: Outcome) -> str:
    """Return what the rule that decided says of itself."""
    assert outcome.decided
    rule = outcome.decided.rule
    assert rule.origin
    return " ".join(rule.comments) or rule.origin.note or str(rule.origin.owner)


@LAYOUTS
def test_an_endpoint_without_policy_and_profile_gets_nothing(settings: FelixSettings) -> None:
    assert not send(settings, make_workload_update()).allowed


@LAYOUTS
def test_a_profile_allows_where_there_is_no_policy(settings: FelixSettings) -> None:
    assert send(settings, OPEN, make_workload_update(profiles=["open"])).allowed


@LAYOUTS
def test_a_policy_that_does_not_match_keeps_the_profile_from_being_asked(settings: FelixSettings) -> None:
    endpoint = make_workload_update(tiers=[make_tier("web")], profiles=["open"])
    policy = make_policy_update(inbound=[WEB])

    assert send(settings, policy, OPEN, endpoint, port=80).allowed
    outcome = send(settings, policy, OPEN, endpoint, port=81)

    assert outcome.verdict is Verdict.DROP
    assert any(
        words in why(outcome) for words in ("if no policies passed packet", "no policy passed the packet")
    )


@LAYOUTS
def test_a_direction_without_policies_falls_to_the_profile(settings: FelixSettings) -> None:
    endpoint = make_workload_update(tiers=[make_tier(egress=["web"])], profiles=["open"])

    assert send(settings, make_policy_update(), OPEN, endpoint).allowed


@LAYOUTS
def test_policies_are_asked_in_order_and_the_first_verdict_stands(settings: FelixSettings) -> None:
    deny, allow = (
        make_policy_update("deny", inbound=[LOG, DENY]),
        make_policy_update("allow", inbound=[ALLOW]),
    )

    first_deny = send(settings, deny, allow, make_workload_update(tiers=[make_tier("deny", "allow")]))
    first_allow = send(settings, deny, allow, make_workload_update(tiers=[make_tier("allow", "deny")]))

    assert not first_deny.allowed
    assert first_allow.allowed
    assert first_deny.decided
    origin = first_deny.decided.rule.origin
    assert origin
    assert (origin.owner, origin.direction, origin.index) == (policy_key("deny"), "ingress", 1)


@LAYOUTS
def test_pass_goes_to_the_next_tier_and_from_the_last_to_profiles(settings: FelixSettings) -> None:
    passing = make_policy_update("pass", inbound=[PASS], tier="first")
    never = make_policy_update("never", inbound=[DENY], tier="first")
    web = make_policy_update("web", inbound=[WEB, PASS])
    first = make_tier("pass", "never", tier="first")
    endpoint = make_workload_update(tiers=[first, make_tier("web")], profiles=["open"])

    outcome = send(settings, passing, never, web, OPEN, endpoint, port=81)

    assert outcome.allowed
    assert [step.rule.op for step in outcome.trace if step.chain.endswith("never")] == []
    owners = {step.rule.origin.owner for step in outcome.trace if step.rule.origin}
    assert ResourceKey("Profile", "", "open") in owners


@LAYOUTS
def test_a_tier_may_end_in_pass(settings: FelixSettings) -> None:
    tier = make_tier("web", default_action=Action.PASS)

    assert send(
        settings, make_policy_update(), OPEN, make_workload_update(tiers=[tier], profiles=["open"])
    ).allowed


@LAYOUTS
def test_a_profile_that_does_not_exist_allows_nothing_and_hinders_nothing(settings: FelixSettings) -> None:
    assert not send(settings, make_workload_update(profiles=["missing"])).allowed
    assert send(settings, OPEN, make_workload_update(profiles=["missing", "open"])).allowed


@LAYOUTS
def test_a_policy_that_is_not_there_drops(settings: FelixSettings) -> None:
    outcome = send(settings, OPEN, make_workload_update(tiers=[make_tier("missing")], profiles=["open"]))

    assert outcome.verdict is Verdict.DROP
    assert why(outcome) in ("Missing chain", "GlobalNetworkPolicy(missing)")


@LAYOUTS
@pytest.mark.parametrize("path", [Path.FORWARD, Path.TO_HOST])
def test_an_unknown_workload_interface_is_dropped(settings: FelixSettings, path: Path) -> None:
    outcome = send(
        settings, OPEN, make_workload_update(profiles=["open"]), into="cali999", out="eth0", path=path
    )

    assert outcome.decided
    assert outcome.decided.rule.comments == ("Unknown interface",)


@LAYOUTS
def test_an_endpoint_with_a_hostile_interface_name_is_unknown(settings: FelixSettings) -> None:
    endpoint = make_workload_update(interface="cali1 -j ACCEPT", profiles=["open"])

    assert not send(settings, OPEN, endpoint, out="cali1 -j ACCEPT").allowed


@LAYOUTS
def test_between_two_endpoints_of_one_node_both_must_allow(settings: FelixSettings) -> None:
    egress_only = make_profile_update("egress", outbound=[ALLOW])
    one = make_workload_update("one", interface="cali1", profiles=["open"])

    open_too = make_workload_update("two", interface="cali2", profiles=["open"])

    assert send(settings, OPEN, one, open_too, into="cali2").allowed
    two = make_workload_update("two", interface="cali2", profiles=["egress"])
    assert send(settings, OPEN, egress_only, one, two, into="cali2", out="cali1").allowed
    assert not send(settings, OPEN, egress_only, one, two, into="cali1", out="cali2").allowed


@LAYOUTS
def test_established_goes_on_and_invalid_does_not(settings: FelixSettings) -> None:
    closed, opened = make_workload_update(), make_workload_update(profiles=["open"])

    assert send(settings, closed, ct_state=CtState.ESTABLISHED).allowed
    assert not send(settings, OPEN, opened, ct_state=CtState.INVALID).allowed


@LAYOUTS
def test_invalid_is_judged_by_policy_where_the_check_is_off(settings: FelixSettings) -> None:
    lax = FelixSettings(layout=settings.layout, disable_conntrack_invalid_check=True)

    assert send(lax, OPEN, make_workload_update(profiles=["open"]), ct_state=CtState.INVALID).allowed


@LAYOUTS
@pytest.mark.parametrize(
    ("action", "policy_allows", "allowed"),
    [
        (EndpointToHostAction.ACCEPT, True, True),
        (EndpointToHostAction.RETURN, True, True),
        (EndpointToHostAction.DROP, True, False),
        (EndpointToHostAction.ACCEPT, False, False),
    ],
)
def test_workload_to_host(
    settings: FelixSettings, action: EndpointToHostAction, policy_allows: bool, allowed: bool
) -> None:
    felix = FelixSettings(layout=settings.layout, default_endpoint_to_host_action=action)
    endpoint = make_workload_update(profiles=["open"] if policy_allows else [])

    assert send(felix, OPEN, endpoint, path=Path.TO_HOST, into="cali1").allowed is allowed


@LAYOUTS
def test_neighbour_discovery_reaches_the_host_whatever_policy_says(settings: FelixSettings) -> None:
    def to_host(icmp_type: int) -> bool:
        outcome = send(
            settings,
            make_workload_update(),
            path=Path.TO_HOST,
            into="cali1",
            family=Family.V6,
            protocol=58,
            icmp_type=icmp_type,
        )
        return outcome.allowed

    assert [icmp_type for icmp_type in range(128, 140) if to_host(icmp_type)] == [
        130,
        131,
        132,
        133,
        135,
        136,
    ]


def test_openstack_workloads_get_dhcp_dns_and_metadata_from_the_host() -> None:
    felix = FelixSettings(interface_prefix=("tap",), metadata_addr="10.65.0.1", metadata_port=8775)
    endpoint = make_workload_update(interface="tap1")

    def to_host(protocol: int, port: int, src_port: int = 40000) -> bool:
        outcome = send(
            felix, endpoint, path=Path.TO_HOST, into="tap1", protocol=protocol, port=port, src_port=src_port
        )
        return outcome.allowed

    assert to_host(17, 67, 68)
    assert to_host(17, 53)
    assert to_host(6, 8775)
    assert not to_host(6, 53)
    assert not to_host(17, 67, 69)


@MODERN
def test_the_host_may_always_talk_to_its_workloads(settings: FelixSettings) -> None:
    assert send(settings, make_workload_update(), path=Path.FROM_HOST).allowed


@MODERN
def test_spoofed_packets_are_dropped_unless_their_prefix_is_allowed(settings: FelixSettings) -> None:
    felix = FelixSettings(workload_source_spoofing="Any")
    strict = make_workload_update(profiles=["open"])
    lax = make_workload_update(profiles=["open"], allow_spoofed=["192.0.2.0/24", "2001:db8::/32"])

    assert not send(felix, OPEN, strict, into="cali1", out="eth0", spoofed=True).allowed
    assert send(felix, OPEN, lax, into="cali1", out="eth0", spoofed=True).allowed
    assert send(felix, OPEN, lax, into="cali1", out="eth0", spoofed=True, family=Family.V6).allowed
    # The annotation alone is not enough: the node must let it count.
    assert not send(settings, OPEN, lax, into="cali1", out="eth0", spoofed=True).allowed


@MODERN
def test_workloads_may_not_wrap_packets_themselves_unless_allowed_to(settings: FelixSettings) -> None:
    felix = FelixSettings(allow_vxlan_packets_from_workloads=True, allow_ipip_packets_from_workloads=True)
    endpoint = make_workload_update(profiles=["open"])

    for protocol, port in ((17, 4789), (4, 0)):
        assert not send(
            settings, OPEN, endpoint, into="cali1", out="eth0", protocol=protocol, port=port
        ).allowed
        assert send(felix, OPEN, endpoint, into="cali1", out="eth0", protocol=protocol, port=port).allowed


def test_denied_packets_are_rejected_where_configured() -> None:
    felix = FelixSettings(iptables_filter_deny_action=DenyAction.REJECT)

    assert send(felix, make_workload_update()).verdict is Verdict.REJECT


def test_several_interface_prefixes_are_all_governed() -> None:
    felix = FelixSettings(interface_prefix=("cali", "tap"))

    assert not send(felix, out="tap9").allowed
    assert not send(felix, out="cali9").allowed
    assert send(felix, out="eth1").allowed


def test_policies_of_one_selector_share_a_chain_between_endpoints() -> None:
    policies = [
        make_policy_update(f"p{n}", inbound=[PASS if n < 6 else ALLOW], selector="all()") for n in range(8)
    ]
    tier = make_tier(*(policy.policy.name for policy in policies))
    endpoints = [make_workload_update(f"w{n}", interface=f"cali{n}", tiers=[tier]) for n in range(2)]
    ruleset = compile_world(make_state(*policies, *endpoints), V3, Family.V4)

    groups = {key for key in ruleset.chains if key.name.startswith("cali-gi-")}
    jumps = [
        [
            step.op
            for step in ruleset.chains[ChainKey(Layer.FILTER, f"cali-tw-cali{n}")]
            if str(step.op).count("-gi-")
        ]
        for n in range(2)
    ]

    assert len(groups) == 1
    assert jumps[0] == jumps[1]
    assert len(jumps[0]) == 1


@pytest.mark.parametrize("deciding", range(12))
@MODERN
def test_in_a_group_the_first_policy_with_a_verdict_decides(settings: FelixSettings, deciding: int) -> None:
    policies = [
        make_policy_update(
            f"p{n:02}", inbound=[] if n < deciding else [ALLOW] if n == deciding else [DENY], selector="all()"
        )
        for n in range(12)
    ]
    tier = make_tier(*(policy.policy.name for policy in policies))

    assert send(settings, *policies, make_workload_update(tiers=[tier])).allowed


@MODERN
def test_of_two_endpoints_with_one_interface_the_first_by_key_governs(settings: FelixSettings) -> None:
    opened = make_workload_update("a", profiles=["open"])
    closed = make_workload_update("b")

    assert send(settings, OPEN, opened, closed).allowed
    assert not send(
        settings, OPEN, make_workload_update("a"), make_workload_update("b", profiles=["open"])
    ).allowed
