"""What holds of every ruleset: lowering keeps verdicts, compiling is a function of its input, text is harmless."""

import re
from random import Random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calico_engine.messages import ActiveRule, Message, PortRange, SetKind
from calico_engine.model.policy import Action
from calico_engine.model.resource import ResourceKey
from calico_engine.ruleset.digest import rule_hashes
from calico_engine.ruleset.interpret import Interpreter, Packet, Path
from calico_engine.ruleset.ir import CtState, Family
from calico_engine.ruleset.lower import lower
from calico_engine.ruleset.lower_ports import split_ports
from calico_engine.ruleset.marks import allocate_marks
from calico_engine.ruleset.state import DesiredState, PolicyForm
from calico_engine.ruleset.verify import verify
from calico_engine.ruleset.world import compile_world
from calico_engine.settings import DenyAction, FelixSettings, Layout
from calico_engine.testing.messages import (
    make_batch,
    make_host_update,
    make_interface,
    make_policy_update,
    make_profile_update,
    make_set,
    make_state,
    make_tier,
    make_workload_update,
)
from calico_engine_iptables.words import chain_hashes, restore_line, save_line

#: As the profile in force has it; worlds are large, so they get a part.
EXAMPLES = settings.default.max_examples if settings.default else 100

V4 = ("10.0.0.1", "10.0.0.2", "10.0.1.1", "192.0.2.1")
V6 = ("fd00::1", "fd00::2", "fd00:1::1", "2001:db8::1")
V4_NETS = ("10.0.0.0/8", "10.0.0.0/24", "10.0.0.1/32", "192.0.2.0/24", "0.0.0.0/0")
V6_NETS = ("fd00::/16", "fd00::/64", "fd00::1/128", "2001:db8::/32", "::/0")
SETS = ("s:web", "s:db")
PORT_SETS = ("n:http", "n:dns")
PORTS = (22, 53, 80, 443, 8080)
POLICIES = ("p0", "p1", "p2")
SETTINGS = [
    FelixSettings(),
    FelixSettings(layout=Layout.V2),
    FelixSettings(iptables_filter_deny_action=DenyAction.REJECT, iptables_filter_allow_action="RETURN"),
    FelixSettings(layout=Layout.NATIVE),
    FelixSettings(layout=Layout.NATIVE, iptables_filter_deny_action=DenyAction.REJECT),
]

nets = st.lists(st.sampled_from(V4_NETS + V6_NETS), min_size=1, max_size=4, unique=True).map(tuple)
numbers = st.sampled_from(PORTS)
port_ranges = st.tuples(numbers, numbers).map(lambda pair: PortRange(min(pair), max(pair)))
# Up to 40 ports, so that lists of more than one multiport match come up.
port_lists = st.one_of(
    st.just(()),
    st.lists(port_ranges, max_size=3).map(tuple),
    st.lists(st.integers(1, 500).map(lambda n: PortRange(n, n)), min_size=14, max_size=40).map(tuple),
)
set_ids = st.lists(st.sampled_from(SETS), max_size=2, unique=True).map(tuple)
named_ports = st.lists(st.sampled_from(PORT_SETS), max_size=2, unique=True).map(tuple)
actions = st.sampled_from(Action)


NETS = ("src_nets", "dst_nets", "not_src_nets", "not_dst_nets")
PORT_LISTS = ("src_ports", "dst_ports", "not_src_ports", "not_dst_ports")
NAMED_PORTS = (
    "src_named_port_sets",
    "dst_named_port_sets",
    "not_src_named_port_sets",
    "not_dst_named_port_sets",
)
ADDRESS_SETS = ("src_sets", "dst_sets", "not_src_sets", "not_dst_sets")
CRITERIA: dict[str, st.SearchStrategy[object]] = {
    **dict.fromkeys(NETS, nets),
    **dict.fromkeys(ADDRESS_SETS, set_ids),
    "not_protocol": st.sampled_from((6, 17)),
    "ip_version": st.sampled_from((4, 6)),
}
PORT_CRITERIA: dict[str, st.SearchStrategy[object]] = {
    **dict.fromkeys(PORT_LISTS, port_lists),
    **dict.fromkeys(NAMED_PORTS, named_ports),
}
icmp_codes = st.sampled_from((None, 0, 1))


@st.composite
def rules(draw: st.DrawFn) -> ActiveRule:
    """A rule as validation lets it through: ports with a protocol that has them, ICMP with its own.

    It has a few criteria only: one with all of them would never match.
    """
    protocol = draw(st.sampled_from((None, None, 1, 6, 6, 17, 58)))
    choice = CRITERIA | PORT_CRITERIA if protocol in (6, 17) else CRITERIA
    fields = {name: draw(choice[name]) for name in draw(st.sets(st.sampled_from(sorted(choice)), max_size=3))}
    if protocol in (1, 58) and draw(st.booleans()):
        prefix = draw(st.sampled_from(("", "not_")))
        fields |= {
            f"{prefix}icmp_type": draw(st.sampled_from((0, 8, 128))),
            f"{prefix}icmp_code": draw(icmp_codes),
        }
    return msgspec.convert({"action": draw(actions), "protocol": protocol} | fields, ActiveRule)


rule_lists = st.lists(rules(), max_size=3)
members = st.sets(st.sampled_from(V4 + V6 + V4_NETS[:4] + V6_NETS[:4]))
port_members = st.sets(
    st.builds("{},{}:{}".format, st.sampled_from(V4 + V6), st.sampled_from(("tcp", "udp")), numbers)
)


@st.composite
def worlds(draw: st.DrawFn) -> list[Message]:
    """Two workloads, a host endpoint on eth0 and one for the rest, policies in two tiers, two profiles, sets."""
    policies = [
        make_policy_update(
            name,
            inbound=draw(rule_lists),
            outbound=draw(rule_lists),
            selector=draw(st.sampled_from(("all()", "app == 'web'"))),
        )
        for name in POLICIES
    ]
    untracked = make_policy_update(
        "untracked", inbound=draw(rule_lists), outbound=draw(rule_lists), untracked=True
    )
    pre_dnat = make_policy_update("pre-dnat", inbound=draw(rule_lists), pre_dnat=True)
    profiles = [
        make_profile_update(n, inbound=draw(rule_lists), outbound=draw(rule_lists)) for n in ("a", "b")
    ]
    tiers = [
        make_tier(
            tier=tier,
            ingress=draw(st.lists(st.sampled_from(POLICIES), unique=True)),
            egress=draw(st.lists(st.sampled_from(POLICIES), unique=True)),
            default_action=draw(st.sampled_from((Action.DENY, Action.PASS))),
        )
        for tier in ("first", "default")
    ]
    chosen = st.lists(st.sampled_from(("a", "b", "missing")), unique=True)
    return [
        *(make_set(set_id, *draw(members)) for set_id in SETS),
        *(make_set(set_id, *draw(port_members), kind=SetKind.IP_PORT) for set_id in PORT_SETS),
        *policies,
        untracked,
        pre_dnat,
        *profiles,
        make_workload_update("w1", interface="cali1", tiers=tiers, profiles=draw(chosen)),
        make_workload_update("w2", interface="cali2", tiers=tiers[:1], profiles=draw(chosen)),
        make_host_update(
            tiers=tiers,
            forward=draw(st.sampled_from(([], tiers))),
            untracked=draw(st.sampled_from(([], [make_tier("untracked")]))),
            pre_dnat=draw(st.sampled_from(([], [make_tier(ingress=["pre-dnat"])]))),
            profiles=draw(chosen),
        ),
        *draw(st.sampled_from(([], [make_host_update("rest", interface="*", tiers=tiers)]))),
        make_interface("eth0", "192.0.2.1"),
    ]


@st.composite
def packets(draw: st.DrawFn, family: Family) -> tuple[Packet, Path]:
    addresses = V4 if family is Family.V4 else V6
    path = draw(st.sampled_from(Path))
    interfaces = st.sampled_from(("cali1", "cali2", "cali9", "eth0", "eth1"))
    return Packet(
        src=draw(st.sampled_from(addresses)),
        dst=draw(st.sampled_from(addresses)),
        protocol=draw(st.sampled_from((1, 6, 17, 47, 58))),
        src_port=draw(numbers | st.integers(1, 500)),
        dst_port=draw(numbers | st.integers(1, 500)),
        icmp_type=draw(st.sampled_from((0, 8, 128))),
        icmp_code=draw(st.sampled_from((0, 1))),
        in_interface="" if path is Path.FROM_HOST else draw(interfaces),
        out_interface="" if path is Path.TO_HOST else draw(interfaces),
        ct_state=draw(st.sampled_from((CtState.NEW, CtState.NEW, CtState.ESTABLISHED, CtState.INVALID))),
        mark=draw(st.sampled_from((0, 0xFFFFFFFF))),
        spoofed=draw(st.sampled_from((False, False, True))),
    ), path


@pytest.mark.parametrize("family", Family)
@pytest.mark.parametrize("felix", SETTINGS, ids=("v3", "v2", "reject-return", "native", "native-reject"))
@settings(max_examples=EXAMPLES // 4)
@given(data=st.data())
def test_lowering_keeps_every_verdict(family: Family, felix: FelixSettings, data: st.DataObject) -> None:
    ruleset = compile_world(make_state(*data.draw(worlds())), felix, family)

    lowered = lower(ruleset, felix)

    assert verify(ruleset) == ()
    assert verify(lowered) == ()
    neutral, plain = Interpreter(ruleset), Interpreter(lowered)
    for _ in range(8):
        packet, path = data.draw(packets(family))
        expected, found = neutral.run(packet, path), plain.run(packet, path)
        assert (found.verdict, found.packet.dst) == (expected.verdict, expected.packet.dst)
        assert (found.decided and found.decided.rule.origin) == (
            expected.decided and expected.decided.rule.origin
        )


@pytest.mark.parametrize("family", Family)
@pytest.mark.parametrize("denial", DenyAction)
@settings(max_examples=EXAMPLES // 8)
@given(data=st.data())
def test_native_layout_lets_through_what_v3_does_classified_or_not(
    family: Family, denial: DenyAction, data: st.DataObject
) -> None:
    messages = data.draw(worlds())
    felix = FelixSettings(iptables_filter_deny_action=denial)
    native = FelixSettings(layout=Layout.NATIVE, iptables_filter_deny_action=denial)
    v3 = Interpreter(compile_world(make_state(*messages), felix, family))
    natives = []
    for form in PolicyForm:
        state = DesiredState(form=form)
        state.apply(make_batch(*messages))
        natives.append(Interpreter(compile_world(state, native, family)))

    for _ in range(8):
        packet, path = data.draw(packets(family))
        # A connection goes on by its state alone, also where v3 would ask its endpoint first.
        if packet.ct_state is CtState.ESTABLISHED:
            continue
        # v3 takes a drop bit that was set before for its own; native has none.
        packet = msgspec.structs.replace(packet, mark=packet.mark & ~allocate_marks(felix).drop)
        expected = v3.run(packet, path)
        for found in (interpreter.run(packet, path) for interpreter in natives):
            assert (found.verdict, found.packet.dst) == (expected.verdict, expected.packet.dst)


@given(messages=worlds(), order=st.randoms())
@settings(max_examples=EXAMPLES // 4)
def test_compiling_depends_on_what_there_is_and_not_on_the_order_it_came_in(
    messages: list[Message], order: Random
) -> None:
    shuffled = list(messages)
    order.shuffle(shuffled)

    rulesets = [compile_world(make_state(*m), FelixSettings(), Family.V4) for m in (messages, shuffled)]

    assert rulesets[0] == rulesets[1]
    assert list(rulesets[0].chains) == list(rulesets[1].chains)


hostile = st.text(
    st.sampled_from("\n\r\0\t \"'\\;|$`-j ACCEPTé%/+*!#") | st.characters(), min_size=1, max_size=300
)
WORD = re.compile(r'"[A-Za-z0-9_ @%+=:,./-]*"|[A-Za-z0-9_@%+=:,./!*-]+')


@pytest.mark.parametrize("layout", [Layout.V2, Layout.V3])
@settings(max_examples=EXAMPLES // 2)
@given(
    policy=hostile,
    profile=hostile,
    tier=hostile,
    namespace=hostile,
    interface=hostile,
    set_id=hostile,
    log=hostile,
)
def test_no_name_a_user_chose_ends_a_word_or_a_line(
    layout: Layout,
    policy: str,
    profile: str,
    tier: str,
    namespace: str,
    interface: str,
    set_id: str,
    log: str,
) -> None:
    felix = FelixSettings(layout=layout, log_prefix=log)
    rules_ = (ActiveRule(action=Action.ALLOW, src_sets=(set_id,)), ActiveRule(action=Action.LOG))
    update = make_policy_update(policy, namespace=namespace, tier=tier, inbound=rules_, outbound=rules_)
    tiers = [make_tier(tier=tier, ingress=[policy], egress=[policy])]
    state = make_state(
        make_set(set_id, "10.0.0.1"),
        update,
        make_policy_update(policy, tier=tier, inbound=rules_),
        make_profile_update(profile, inbound=rules_, outbound=rules_),
        make_workload_update(interface="cali1", tiers=tiers, profiles=[profile]),
        make_workload_update("other", interface=interface, tiers=tiers, profiles=[profile]),
        make_host_update(policy, interface=interface, tiers=tiers, profiles=[profile]),
    )

    ruleset = lower(compile_world(state, felix, Family.V4), felix)

    assert verify(ruleset) == ()
    for key, chain in ruleset.chains.items():
        hashes = chain_hashes(key.name, chain, Family.V4, layout)
        for rule, rule_hash in zip(chain, hashes, strict=True):
            for line in (
                restore_line(key.name, rule, rule_hash, Family.V4, layout),
                save_line(key.name, rule, rule_hash, Family.V4, layout),
            ):
                words = WORD.findall(line)
                assert " ".join(words) == line
                assert sum(word in ("--jump", "--goto", "-j", "-g") for word in words) <= 1


texts = st.lists(st.text(max_size=20), min_size=1, max_size=8)


@given(chain=st.text(max_size=28), before=texts, data=st.data())
def test_a_hash_depends_on_its_chain_its_text_and_all_rules_before(
    chain: str, before: list[str], data: st.DataObject
) -> None:
    position = data.draw(st.integers(0, len(before) - 1))
    changed = [*before]
    changed[position] += "x"

    hashes, other = rule_hashes(chain, before), rule_hashes(chain, changed)

    assert hashes[:position] == other[:position]
    assert not set(hashes[position:]) & set(other[position:])
    assert not set(hashes) & set(rule_hashes(chain + "x", before))
    assert len(set(hashes)) == len(hashes)


@given(st.lists(st.tuples(numbers, st.booleans()), max_size=60), st.integers(2, 20))
def test_split_ports_keeps_order_and_fits(drawn: list[tuple[int, bool]], limit_slots: int) -> None:
    ports = [PortRange(first, first + 1 if is_range else first) for first, is_range in drawn]

    groups = split_ports(ports, limit_slots)

    assert [port for group in groups for port in group] == ports
    assert all(groups)
    assert all(sum(1 + (p.first != p.last) for p in group) <= limit_slots for group in groups)


def test_policy_names_that_are_cut_stay_apart() -> None:
    long = "a" * 60
    keys = [ResourceKey("GlobalNetworkPolicy", "", f"{long}{end}") for end in "xy"]
    state = make_state(
        *(make_policy_update(key.name, inbound=[ActiveRule(action=Action.ALLOW)]) for key in keys),
        make_workload_update(tiers=[make_tier(*(key.name for key in keys))]),
    )

    names = {
        key.name for key in compile_world(state, FelixSettings(), Family.V4).chains if "-pi-" in key.name
    }

    assert len(names) == 2
