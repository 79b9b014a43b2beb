"""The native layout: what is there only when it is needed, and what endpoints share."""

import pytest
from msgspec.structs import replace

from calico_engine.messages import (
    ActiveRule,
    ConfigUpdate,
    IPSetDelta,
    Message,
    NodeUpdate,
    PoolEncap,
    PoolUpdate,
    SetKind,
    VtepUpdate,
)
from calico_engine.model.endpoint import IPNAT
from calico_engine.model.policy import Action
from calico_engine.ruleset.interpret import Packet, Path, Verdict, interpret
from calico_engine.ruleset.ir import (
    CellVerdict,
    ChainKey,
    Classify,
    DispatchByInterface,
    Family,
    Goto,
    Hook,
    Jump,
    Layer,
    MarkIs,
    Masquerade,
    NetIn,
    NoTrack,
    PortIn,
    Return,
    Rule,
    Ruleset,
    SetMark,
    SourceAssigned,
)
from calico_engine.ruleset.lower import lower
from calico_engine.ruleset.state import DesiredState, PolicyForm
from calico_engine.ruleset.verify import verify
from calico_engine.ruleset.world import compile_world
from calico_engine.settings import DenyAction, FelixSettings, Layout
from calico_engine.testing.messages import (
    ALLOW,
    DENY,
    LOG,
    make_batch,
    make_host_update,
    make_interface,
    make_policy_update,
    make_profile_update,
    make_set,
    make_tier,
    make_workload_update,
    policy_key,
    ports,
)

WEB = ActiveRule(action=Action.ALLOW, protocol=6, dst_ports=ports(80, 443), src_sets=("s:web",))
FROM_PORT = ActiveRule(action=Action.ALLOW, protocol=6, src_ports=ports(53))
PAIR = (
    make_set("s:web", "10.0.0.1", "10.1.0.0/16", "fd00::1"),
    make_policy_update("web", inbound=[WEB]),
)


def compile_native(
    *messages: Message,
    form: PolicyForm = PolicyForm.CLASSIFIED,
    family: Family = Family.V4,
    settings: FelixSettings | None = None,
) -> Ruleset:
    """Compile and lower, and see that what comes of it is well formed."""
    state = DesiredState(settings, form)
    state.apply(make_batch(*messages))
    ruleset = lower(compile_world(state, state.settings, family), state.settings)
    assert verify(ruleset) == ()
    return ruleset


def all_rules(ruleset: Ruleset) -> list[Rule]:
    return [rule for rules in (*ruleset.chains.values(), *ruleset.hooks.values()) for rule in rules]


def chain_names(ruleset: Ruleset, prefix: str = "cali-") -> list[str]:
    return [key.name for key in ruleset.chains if key.name.startswith(prefix)]


def targets(ruleset: Ruleset, chain: str) -> dict[str, str]:
    first = ruleset.chains[ChainKey(Layer.FILTER, chain)][0]
    assert isinstance(first.op, DispatchByInterface)
    return dict(first.op.targets)


def classify_of(ruleset: Ruleset, chain: str) -> Classify:
    found = [
        rule.op for rule in ruleset.chains[ChainKey(Layer.FILTER, chain)] if isinstance(rule.op, Classify)
    ]
    assert len(found) == 1
    return found[0]


# What is not needed is not there


@pytest.mark.parametrize("family", Family)
def test_workloads_alone_take_two_base_chains_and_no_mark(family: Family) -> None:
    ruleset = compile_native(*PAIR, make_workload_update(tiers=[make_tier("web")]), family=family)

    assert set(ruleset.hooks) == {(Layer.FILTER, Hook.INPUT), (Layer.FILTER, Hook.FORWARD)}
    assert ruleset.appends == {}
    assert not any(isinstance(rule.op, SetMark) for rule in all_rules(ruleset))
    assert not any(isinstance(match, MarkIs) for rule in all_rules(ruleset) for match in rule.matches)
    assert {key.layer for key in ruleset.chains} == {Layer.FILTER}


def test_a_host_endpoint_brings_its_chains_and_failsafes() -> None:
    without = compile_native(*PAIR, make_workload_update())
    with_host = compile_native(*PAIR, make_workload_update(), make_host_update(), make_interface("eth0"))

    new = set(with_host.hooks) - set(without.hooks)
    assert new == {
        (Layer.RAW, Hook.PREROUTING),
        (Layer.RAW, Hook.OUTPUT),
        (Layer.MANGLE, Hook.PREROUTING),
        (Layer.MANGLE, Hook.POSTROUTING),
        (Layer.FILTER, Hook.OUTPUT),
    }
    assert chain_names(without, "cali-failsafe") == []
    assert chain_names(with_host, "cali-failsafe") != []


def test_nat_comes_with_what_needs_it() -> None:
    pool = PoolUpdate(cidr="10.0.0.0/8", nat_outgoing=True, encap=PoolEncap.NONE)
    nats = (IPNAT(internal_ip="10.65.0.1", external_ip="192.0.2.9"),)
    floating = make_workload_update(nats=nats)

    masquerading = compile_native(pool)
    translating = compile_native(floating, settings=FelixSettings(floating_ips="Enabled"))

    assert [hook for hook in masquerading.hooks if hook[0] is Layer.NAT] == [(Layer.NAT, Hook.POSTROUTING)]
    assert {hook for hook in translating.hooks if hook[0] is Layer.NAT} == {
        (Layer.NAT, Hook.PREROUTING),
        (Layer.NAT, Hook.OUTPUT),
        (Layer.NAT, Hook.POSTROUTING),
    }
    assert not any(layer is Layer.NAT for layer, _ in compile_native(floating).hooks)


def test_pools_make_identities_only_where_rules_ask_for_them() -> None:
    quiet = compile_native(PoolUpdate(cidr="10.0.0.0/8", nat_outgoing=False, encap=PoolEncap.NONE))
    asked = compile_native(PoolUpdate(cidr="10.0.0.0/8", nat_outgoing=True, encap=PoolEncap.NONE))

    assert quiet.identities is not None
    assert asked.identities is not None
    assert dict(quiet.identities.nets) == {}
    assert len(dict(asked.identities.nets)) == 1


def test_tunnels_bring_their_rules_and_the_hosts_they_trust() -> None:
    ruleset = compile_native(
        PoolUpdate(cidr="10.1.0.0/16", nat_outgoing=False, encap=PoolEncap.VXLAN),
        NodeUpdate(node="n", ipv4_address="192.0.2.9", ipv6_address=""),
        VtepUpdate(node="n", parent_ipv4="192.0.2.9", parent_ipv6=""),
    )

    assert any(isinstance(rule.op, NoTrack) for rule in ruleset.hooks[(Layer.RAW, Hook.PREROUTING)])
    assert any(isinstance(rule.op, Masquerade) for rule in ruleset.hooks[(Layer.NAT, Hook.POSTROUTING)])
    assert ruleset.identities is not None
    assert list(ruleset.identities.members["all-vxlan-net"]) != []


def test_spoofed_source_prefixes_are_asked_for_only_where_there_are_any() -> None:
    settings = FelixSettings(workload_source_spoofing="Any")
    usual = compile_native(make_workload_update(), settings=settings)
    lax = compile_native(make_workload_update(allow_spoofed=["192.0.2.0/24"]), settings=settings)

    def skipped(ruleset: Ruleset) -> list[str]:
        rules = ruleset.chains[ChainKey(Layer.FILTER, "cali-anti-spoof")]
        return [match.cidr for rule in rules for match in rule.matches if isinstance(match, NetIn)]

    assert skipped(usual) == []
    assert skipped(lax) == ["192.0.2.0/24"]


@pytest.mark.parametrize("family", Family)
def test_the_source_is_judged_before_a_known_connection_goes_on(family: Family) -> None:
    ruleset = compile_native(*PAIR, make_workload_update(), family=family)

    forward, into = (ruleset.hooks[(Layer.FILTER, hook)] for hook in (Hook.FORWARD, Hook.INPUT))
    assert into[0].op == Jump("cali-anti-spoof")
    assert SourceAssigned() in forward[0].matches
    assert forward[1].op == Jump("cali-anti-spoof")


# What endpoints share


def test_endpoints_with_the_same_policies_share_one_list_for_each_direction() -> None:
    tiers = [make_tier("web")]
    one = compile_native(*PAIR, make_workload_update("a", interface="cali1", tiers=tiers))
    two = compile_native(
        *PAIR,
        make_workload_update("a", interface="cali1", tiers=tiers),
        make_workload_update("b", interface="cali2", tiers=tiers),
    )

    dispatch = {"cali-from-wl-dispatch", "cali-to-wl-dispatch"}
    assert {key: rules for key, rules in one.chains.items() if key.name not in dispatch} == {
        key: rules for key, rules in two.chains.items() if key.name not in dispatch
    }
    assert one.verdict_tables == two.verdict_tables
    assert len(set(targets(two, "cali-to-wl-dispatch").values())) == 1
    assert targets(two, "cali-to-wl-dispatch")["cali1"].startswith("cali-li-")
    assert targets(two, "cali-from-wl-dispatch")["cali2"].startswith("cali-lo-")


def test_a_dispatch_entry_says_which_endpoint_it_is_for() -> None:
    ruleset = compile_native(make_workload_update("a", interface="cali1"))

    op = ruleset.chains[ChainKey(Layer.FILTER, "cali-to-wl-dispatch")][0].op
    assert isinstance(op, DispatchByInterface)
    assert op.comments == ("WorkloadEndpoint(default/a)",)


@pytest.mark.parametrize(
    "other",
    [
        make_workload_update("b", interface="cali2", tiers=[make_tier("other", "web")]),
        make_workload_update("b", interface="cali2", tiers=[make_tier("web", "other")], profiles=["p"]),
        make_workload_update("b", interface="cali2", tiers=[make_tier("web", "other", tier="t")]),
        make_workload_update(
            "b", interface="cali2", tiers=[make_tier("web", "other", default_action=Action.PASS)]
        ),
    ],
    ids=["order", "profiles", "tier", "default-action"],
)
def test_lists_that_differ_in_anything_are_two(other: Message) -> None:
    first = make_workload_update("a", interface="cali1", tiers=[make_tier("web", "other")])

    ruleset = compile_native(*PAIR, make_policy_update("other", inbound=[DENY]), first, other)

    chains = targets(ruleset, "cali-to-wl-dispatch")
    assert chains["cali1"] != chains["cali2"]


def test_the_names_of_lists_fit_and_survive_names_of_any_kind() -> None:
    strange = "\ud800 '\n" * 60

    ruleset = compile_native(make_workload_update(interface="cali1", profiles=[strange]))

    chain = targets(ruleset, "cali-to-wl-dispatch")["cali1"]
    assert len(chain) <= 28


# Classified and linear


def test_a_list_that_fits_is_classified_and_its_policies_are_not_programmed() -> None:
    ruleset = compile_native(*PAIR, make_workload_update(interface="cali1", tiers=[make_tier("web")]))

    op = classify_of(ruleset, targets(ruleset, "cali-to-wl-dispatch")["cali1"])
    assert op.linear == ""
    assert chain_names(ruleset, "cali-ll-") == []
    assert chain_names(ruleset, "cali-pi-") == []


def test_what_does_not_fit_is_walked_policy_by_policy() -> None:
    policy = make_policy_update("odd", inbound=[FROM_PORT])
    endpoint = make_workload_update(interface="cali1", tiers=[make_tier("odd")])

    ruleset = compile_native(policy, endpoint)

    op = classify_of(ruleset, targets(ruleset, "cali-to-wl-dispatch")["cali1"])
    assert op.linear.startswith("cali-ll-")
    assert chain_names(ruleset, "cali-ll-") == [op.linear]
    assert chain_names(ruleset, "cali-pi-") == ["cali-pi-gnp/odd"]


def test_in_linear_form_every_policy_is_walked() -> None:
    endpoint = make_workload_update(interface="cali1", tiers=[make_tier("web")])

    ruleset = compile_native(*PAIR, endpoint, form=PolicyForm.LINEAR)

    assert ruleset.verdict_tables == {}
    chain = ruleset.chains[ChainKey(Layer.FILTER, targets(ruleset, "cali-to-wl-dispatch")["cali1"])]
    assert isinstance(chain[-1].op, Goto)
    assert chain_names(ruleset, "cali-pi-") == ["cali-pi-gnp/web"]


def send(ruleset: Ruleset, **fields: object) -> tuple[Verdict, object, object]:
    """Send a packet to cali1; return the verdict, and the policy and rule that gave it."""
    packet = Packet(
        src=str(fields.get("src", "192.0.2.1")),
        dst="10.65.0.1",
        protocol=6,
        src_port=40000,
        dst_port=80,
        in_interface="eth0",
        out_interface="cali1",
    )
    outcome = interpret(ruleset, packet, Path.FORWARD)
    cells = [
        step for step in outcome.trace if isinstance(step.rule.op, Goto | Return) or step is outcome.decided
    ]
    origin = (outcome.decided or cells[-1]).rule.origin
    assert origin
    return outcome.verdict, origin.owner, origin.index


@pytest.mark.parametrize("denial", DenyAction)
def test_a_verdict_names_the_rule_that_gave_it(denial: DenyAction) -> None:
    policy = make_policy_update("web", inbound=[WEB, DENY])
    ruleset = compile_native(
        PAIR[0],
        policy,
        make_workload_update(interface="cali1", tiers=[make_tier("web")]),
        settings=FelixSettings(iptables_filter_deny_action=denial),
    )

    refused = Verdict.REJECT if denial is DenyAction.REJECT else Verdict.DROP
    assert send(ruleset, src="10.1.2.3") == (Verdict.ACCEPT, policy_key("web"), 0)
    assert send(ruleset, src="192.0.2.1") == (refused, policy_key("web"), 1)


def test_a_policy_of_the_other_kind_or_missing_lets_nothing_through() -> None:
    endpoint = make_workload_update(interface="cali1", tiers=[make_tier("web")], profiles=["open"])
    opened = make_profile_update("open", inbound=[ALLOW])

    missing = compile_native(opened, endpoint)
    untracked = compile_native(opened, make_policy_update("web", inbound=[ALLOW], untracked=True), endpoint)

    assert send(missing)[0] is Verdict.DROP
    assert send(untracked)[0] is Verdict.DROP


def test_lowered_rules_hold_one_range_of_ports_a_match() -> None:
    named = ActiveRule(
        action=Action.ALLOW,
        protocol=6,
        src_ports=ports(1, 2, (3, 9)),
        not_dst_ports=ports(22, 23),
        src_named_port_sets=("n:a",),
        not_src_nets=("10.0.0.0/24", "10.9.0.0/24"),
    )
    ruleset = compile_native(
        make_set("n:a", "10.0.0.1,tcp:80", kind=SetKind.IP_PORT),
        make_policy_update("odd", inbound=[named, LOG]),
        make_workload_update(tiers=[make_tier("odd")]),
    )

    matches = [match for rule in all_rules(ruleset) for match in rule.matches if isinstance(match, PortIn)]
    assert matches != []
    assert all(len(match.ports) == 1 for match in matches)


def test_a_form_makes_the_layout_native_whatever_the_settings_say() -> None:
    state = DesiredState(FelixSettings(layout=Layout.V2), PolicyForm.LINEAR)

    state.apply(make_batch(ConfigUpdate(settings=FelixSettings(layout=Layout.V3))))

    assert state.settings.layout is Layout.NATIVE
    assert DesiredState(FelixSettings(layout=Layout.V2)).settings.layout is Layout.V2


def test_a_batch_says_which_members_of_a_set_may_have_changed() -> None:
    state = DesiredState()
    state.apply(make_batch(make_set("s:a", "10.0.0.1", "10.0.0.2"), make_set("s:b", "10.0.0.1")))

    touched = state.apply(
        make_batch(
            IPSetDelta(set_id="s:a", added=frozenset({"10.0.0.3"}), removed=frozenset({"10.0.0.1"})),
            IPSetDelta(set_id="s:a", added=frozenset({"10.0.0.1"}), removed=frozenset()),
            make_set("s:b", "10.0.0.2"),
            IPSetDelta(set_id="s:b", added=frozenset({"10.0.0.3"}), removed=frozenset()),
            IPSetDelta(set_id="s:new", added=frozenset({"10.0.0.3"}), removed=frozenset()),
        )
    )

    # Those of the others are to be looked at as a whole.
    assert touched.members == {"s:a": {"10.0.0.3": False, "10.0.0.1": True}}
    assert touched.sets == {"s:a", "s:b", "s:new"}


# What is not well formed


def test_a_verdict_table_that_is_missing_or_leads_nowhere_is_not_well_formed() -> None:
    ruleset = compile_native(*PAIR, make_workload_update(interface="cali1", tiers=[make_tier("web")]))
    name, table = next(iter(ruleset.verdict_tables.items()))
    lost = replace(table, world={0: CellVerdict(Goto("cali-lost"))})

    absent = verify(replace(ruleset, verdict_tables={}))
    dangling = verify(replace(ruleset, verdict_tables={**ruleset.verdict_tables, name: lost}))

    assert len([problem for problem in absent if "does not exist" in problem]) == 2
    assert any("cali-lost" in problem for problem in dangling)
    assert any("without a verdict" in problem for problem in dangling)
