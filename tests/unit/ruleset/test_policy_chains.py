"""The rules of policies and profiles, in iptables' words."""

import pytest

from calico_engine.messages import ActiveRule
from calico_engine.model.policy import Action
from calico_engine.ruleset.compile_policy import compile_policy, compile_profile
from calico_engine.ruleset.ir import ChainKey, Drop, Family, Layer
from calico_engine.ruleset.lower import lower_rules
from calico_engine.settings import DenyAction, FelixSettings, Layout
from calico_engine.testing.messages import (
    ALLOW,
    DENY,
    LOG,
    PASS,
    make_policy_update,
    make_profile_update,
    ports,
)
from calico_engine_iptables.words import fragments

PREFIX = '-m comment --comment "GlobalNetworkPolicy web ingress" '


def words(
    *rules: ActiveRule,
    family: Family = Family.V4,
    settings: FelixSettings | None = None,
    layer: Layer = Layer.FILTER,
) -> list[str]:
    """Return the ingress chain of a policy with these rules, without the comment of its first rule."""
    felix = settings or FelixSettings()
    chains = compile_policy(make_policy_update(inbound=rules), felix, family)
    key = next(key for key in chains if key.layer is layer and key.name.startswith("cali-pi-"))
    lowered = lower_rules(chains[key], felix, family)
    lines = [fragments(rule, family, felix.layout) for rule in lowered]
    if felix.layout is Layout.V3:
        assert lines[0].startswith(PREFIX.rstrip())
        lines[0] = lines[0].removeprefix(PREFIX.rstrip()).lstrip()
    return lines


def test_allow_marks_and_returns_unless_it_is_last() -> None:
    assert words(ALLOW, ALLOW) == [
        "--jump MARK --set-mark 0x10000/0x10000",
        "-m mark --mark 0x10000/0x10000 --jump RETURN",
        "--jump MARK --set-mark 0x10000/0x10000",
    ]


def test_pass_sets_its_own_bit() -> None:
    assert words(PASS) == ["--jump MARK --set-mark 0x20000/0x20000"]


def test_deny_drops_on_the_spot() -> None:
    assert words(DENY) == [
        "--jump MARK --set-mark 0x40000/0x40000",
        "-m mark --mark 0x40000/0x40000 --jump DROP",
    ]
    assert words(DENY, settings=FelixSettings(layout=Layout.V2)) == ["--jump DROP"]


def test_deny_rejects_where_configured_and_where_the_kernel_can() -> None:
    settings = FelixSettings(iptables_filter_deny_action=DenyAction.REJECT)

    assert words(DENY, settings=settings)[1].endswith("--jump REJECT")
    assert words(DENY, settings=settings, layer=Layer.MANGLE)[1].endswith("--jump DROP")


def test_log_goes_on_to_the_next_rule() -> None:
    assert words(LOG, DENY)[0] == '--jump LOG --log-prefix "calico-packet: " --log-level 5'


def test_a_log_prefix_names_what_logs_and_is_cut_to_what_the_kernel_keeps() -> None:
    assert words(LOG, settings=FelixSettings(log_prefix="%t %k %n %p"))[0] == (
        '--jump LOG --log-prefix "default gnp web web: " --log-level 5'
    )
    long = words(LOG, settings=FelixSettings(log_prefix="p" * 80))[0]
    assert f'"{"p" * 27}: "' in long


def test_every_criterion_has_its_place() -> None:
    rule = ActiveRule(
        action=Action.ALLOW,
        protocol=6,
        src_nets=("10.0.0.0/8",),
        src_sets=("s:a",),
        src_ports=ports(1000),
        dst_nets=("10.1.0.0/16",),
        dst_sets=("s:b",),
        dst_ip_port_sets=("svc:x",),
        dst_ports=ports(80, (90, 99)),
        not_src_sets=("s:c",),
        not_dst_ports=ports(95),
        not_dst_named_port_sets=("n:p",),
    )

    expected = (
        "-p tcp --source 10.0.0.0/8 -m set --match-set cali40s:a src -m multiport --source-ports 1000"
        " --destination 10.1.0.0/16 -m set --match-set cali40s:b dst -m set --match-set cali40svc:x dst,dst"
        " -m multiport --destination-ports 80,90:99 -m set ! --match-set cali40s:c src"
        " -m multiport ! --destination-ports 95 -m set ! --match-set cali40n:p dst,dst"
        " --jump MARK --set-mark 0x10000/0x10000"
    )

    assert words(rule) == [expected]


def test_several_nets_on_both_sides_become_blocks() -> None:
    rule = ActiveRule(
        action=Action.ALLOW, src_nets=("10.0.0.0/8", "11.0.0.0/8"), dst_nets=("12.0.0.0/8", "13.0.0.0/8")
    )

    assert words(rule) == [
        "--jump MARK --set-mark 0/0x180000",
        "--source 10.0.0.0/8 --jump MARK --set-mark 0x80000/0x80000",
        "--source 11.0.0.0/8 --jump MARK --set-mark 0x80000/0x80000",
        "--destination 12.0.0.0/8 --jump MARK --set-mark 0x100000/0x100000",
        "--destination 13.0.0.0/8 --jump MARK --set-mark 0x100000/0x100000",
        "-m mark --mark 0/0x100000 --jump MARK --set-mark 0/0x80000",
        "-m mark --mark 0x80000/0x80000 --jump MARK --set-mark 0x10000/0x10000",
    ]


def test_a_net_beside_a_negated_net_takes_a_block() -> None:
    rule = ActiveRule(action=Action.ALLOW, src_nets=("10.0.0.0/8",), not_src_nets=("10.0.0.1/32",))

    assert words(rule) == [
        "--jump MARK --set-mark 0x80000/0x180000",
        "--source 10.0.0.1/32 --jump MARK --set-mark 0/0x80000",
        "--source 10.0.0.0/8 -m mark --mark 0x80000/0x80000 --jump MARK --set-mark 0x10000/0x10000",
    ]


def test_numeric_and_named_ports_are_alternatives() -> None:
    rule = ActiveRule(action=Action.ALLOW, protocol=6, dst_ports=ports(80), dst_named_port_sets=("n:p",))

    assert words(rule) == [
        "--jump MARK --set-mark 0/0x180000",
        "-p tcp -m multiport --destination-ports 80 --jump MARK --set-mark 0x80000/0x80000",
        "-m set --match-set cali40n:p dst,dst --jump MARK --set-mark 0x80000/0x80000",
        "-p tcp -m mark --mark 0x80000/0x80000 --jump MARK --set-mark 0x10000/0x10000",
    ]


def test_forty_ports_take_three_multiport_matches_and_negated_ones_stay_in_one_rule() -> None:
    forty = ports(*range(1, 41))

    positive = words(ActiveRule(action=Action.ALLOW, protocol=17, dst_ports=forty))
    negated = words(ActiveRule(action=Action.ALLOW, protocol=17, not_dst_ports=forty))

    assert [line.count("multiport") for line in positive] == [0, 1, 1, 1, 0]
    assert [line.count("multiport !") for line in negated] == [3]


@pytest.mark.parametrize(
    ("rule", "v4", "v6"),
    [
        (ActiveRule(action=Action.ALLOW, ip_version=4), 1, 0),
        (ActiveRule(action=Action.ALLOW, src_nets=("10.0.0.0/8",)), 1, 0),
        (ActiveRule(action=Action.ALLOW, src_nets=("10.0.0.0/8", "fd00::/8")), 1, 1),
        (
            ActiveRule(action=Action.ALLOW, src_nets=("10.0.0.0/8", "fd00::/8"), dst_nets=("10.0.0.0/8",)),
            1,
            0,
        ),
        (ActiveRule(action=Action.ALLOW, not_dst_nets=("fd00::/8",)), 0, 1),
        (ActiveRule(action=Action.ALLOW, not_src_nets=("0.0.0.0/0", "fd00::/8")), 0, 1),
        (ActiveRule(action=Action.ALLOW, protocol=1, icmp_type=8), 1, 0),
        (ActiveRule(action=Action.ALLOW, protocol=58, icmp_type=128), 0, 1),
    ],
)
def test_a_rule_applies_to_the_families_its_addresses_are_of(rule: ActiveRule, v4: int, v6: int) -> None:
    for family, count in ((Family.V4, v4), (Family.V6, v6)):
        marking = [line for line in words(rule, family=family) if "0x10000/0x10000" in line]
        assert len(marking) == count, family


def test_icmp_is_spelled_per_family() -> None:
    ping = ActiveRule(action=Action.ALLOW, protocol=1, icmp_type=8, icmp_code=0)
    not_ping = ActiveRule(action=Action.ALLOW, protocol=58, not_icmp_type=128)

    assert words(ping)[0].startswith("-p icmp -m icmp --icmp-type 8/0 ")
    assert words(not_ping, family=Family.V6)[0].startswith("-p icmpv6 -m icmp6 ! --icmpv6-type 128 ")


def test_ports_without_a_protocol_that_has_them_allow_nothing_and_deny_all() -> None:
    assert words(ActiveRule(action=Action.ALLOW, protocol=47, dst_ports=ports(80))) == [""]
    assert (
        words(ActiveRule(action=Action.DENY, dst_ports=ports(80)))[0]
        == "--jump MARK --set-mark 0x40000/0x40000"
    )


def test_an_empty_chain_says_in_its_comment_whose_it_is() -> None:
    chains = compile_profile(make_profile_update("p"), FelixSettings(), Family.V4)

    lines = [fragments(rule, Family.V4, Layout.V3) for rule in chains[ChainKey(Layer.FILTER, "cali-pri-p")]]

    assert lines == ['-m comment --comment "Profile p ingress"']


def test_policies_are_programmed_where_they_can_be_reached_from() -> None:
    settings = FelixSettings()

    def layers(untracked: bool, pre_dnat: bool) -> set[Layer]:
        update = make_policy_update(untracked=untracked, pre_dnat=pre_dnat, inbound=[DENY])
        chains = compile_policy(update, settings, Family.V4)
        assert all(isinstance(rules[-1].op, Drop) for key, rules in chains.items() if "-pi-" in key.name)
        return {key.layer for key in chains}

    assert layers(untracked=True, pre_dnat=False) == {Layer.RAW}
    assert layers(untracked=False, pre_dnat=True) == {Layer.MANGLE}
    assert layers(untracked=False, pre_dnat=False) == {Layer.FILTER, Layer.MANGLE}


def test_every_rule_says_which_policy_rule_it_comes_from() -> None:
    rules = (ActiveRule(action=Action.ALLOW, src_nets=("10.0.0.0/8", "11.0.0.0/8")), DENY)
    update = make_policy_update(inbound=rules)

    chains = compile_policy(update, FelixSettings(), Family.V4)

    origins = [rule.origin for rule in chains[ChainKey(Layer.FILTER, "cali-pi-gnp/web")]]
    assert {(o.owner, o.direction) for o in origins if o} == {(update.policy, "ingress")}
    assert [o.index for o in origins if o] == [0, 0, 1, 1]


def test_a_third_block_does_not_pass_because_the_second_did() -> None:
    rule = ActiveRule(
        action=Action.ALLOW,
        protocol=6,
        dst_ports=ports(*range(1, 21)),
        src_nets=("10.0.0.0/8", "11.0.0.0/8"),
        dst_nets=("12.0.0.0/8", "13.0.0.0/8"),
    )

    lines = words(rule)

    assert lines.count("--jump MARK --set-mark 0/0x100000") == 1
    assert lines.index("--jump MARK --set-mark 0/0x100000") < lines.index(
        "--destination 12.0.0.0/8 --jump MARK --set-mark 0x100000/0x100000"
    )


def test_a_protocol_beside_another_negated_one_is_one_criterion_as_iptables_takes_but_one() -> None:
    tcp_not_gre = ActiveRule(action=Action.DENY, protocol=6, not_protocol=47)
    tcp_not_tcp = ActiveRule(action=Action.DENY, protocol=6, not_protocol=6)

    assert words(tcp_not_gre)[0] == "-p tcp --jump MARK --set-mark 0x40000/0x40000"
    assert not any("--jump DROP" in line for line in words(tcp_not_tcp))


@pytest.mark.parametrize("layout", list(Layout))
def test_a_profile_s_pass_ends_it_by_no_bit_that_a_tier_may_have_left_set(layout: Layout) -> None:
    pings = ActiveRule(action=Action.PASS, protocol=1)
    settings = FelixSettings(layout=layout)

    chains = compile_profile(make_profile_update(inbound=[pings, DENY]), settings, Family.V4)

    first = chains[ChainKey(Layer.FILTER, "cali-pri-default")][0]
    assert fragments(first, Family.V4, layout).endswith("-p icmp --jump RETURN")
