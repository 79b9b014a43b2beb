"""Verification, the interpreter's own rules, and the state the compiler works on."""

import pytest

from calico_engine.messages import (
    ActivePolicyRemove,
    ActiveProfileRemove,
    ConfigUpdate,
    HostEndpointRemove,
    InterfaceRemove,
    IPSetDelta,
    IPSetRemove,
    NodeRemove,
    NodeUpdate,
    PoolEncap,
    PoolRemove,
    PoolUpdate,
    RouteKind,
    RouteRemove,
    RouteUpdate,
    SetKind,
    VtepRemove,
    VtepUpdate,
    WorkloadEndpointRemove,
)
from calico_engine.ruleset.interpret import Packet, Path, Verdict, interpret
from calico_engine.ruleset.ir import (
    Accept,
    ChainKey,
    DispatchByInterface,
    Dnat,
    Drop,
    Family,
    Goto,
    Hook,
    InterfaceIs,
    Jump,
    Layer,
    MarkIs,
    Masquerade,
    NetIn,
    NoTrack,
    Op,
    PortIn,
    Reject,
    Return,
    Rule,
    Ruleset,
    SetData,
    SetLookup,
    SetMark,
    Side,
)
from calico_engine.ruleset.state import DesiredState
from calico_engine.ruleset.verify import verify, verify_chain
from calico_engine.settings import FelixSettings, Layout
from calico_engine.testing.messages import (
    make_batch,
    make_host_update,
    make_interface,
    make_policy_update,
    make_profile_update,
    make_set,
    make_state,
    make_workload_update,
    ports,
)

HOOK = (Layer.FILTER, Hook.FORWARD)
PACKET = Packet(
    src="192.0.2.1", dst="10.65.0.1", protocol=6, dst_port=80, in_interface="eth0", out_interface="cali1"
)


def ruleset(hook: list[Rule], *sets: SetData, **chains: list[Rule]) -> Ruleset:
    """A filter FORWARD hook and chains, named cali-NAME."""
    return Ruleset(
        family=Family.V4,
        hooks={HOOK: tuple(hook)},
        chains={ChainKey(Layer.FILTER, f"cali-{name}"): tuple(rules) for name, rules in chains.items()},
        sets={data.set_id: data for data in sets},
    )


def do(op: Op) -> Rule:
    return Rule((), op)


def test_a_jump_returns_and_a_goto_does_not() -> None:
    jumping = ruleset([do(Jump("cali-a")), do(Drop())], a=[do(Return()), do(Accept())])
    going = ruleset([do(Goto("cali-a")), do(Drop())], a=[do(Return()), do(Accept())])
    nested = ruleset([do(Jump("cali-a")), do(Drop())], a=[do(Goto("cali-b")), do(Accept())], b=[])

    assert interpret(jumping, PACKET, Path.FORWARD).verdict is Verdict.DROP
    assert interpret(going, PACKET, Path.FORWARD).verdict is Verdict.ACCEPT
    assert interpret(nested, PACKET, Path.FORWARD).verdict is Verdict.DROP


def test_a_dispatch_falls_through_when_it_lists_no_such_interface() -> None:
    to_cali1 = DispatchByInterface("out", (("cali1", "cali-a"),))
    to_cali2 = DispatchByInterface("out", (("cali2", "cali-a"),))

    assert (
        interpret(ruleset([do(to_cali1), do(Accept())], a=[do(Drop())]), PACKET, Path.FORWARD).allowed
        is False
    )
    assert (
        interpret(ruleset([do(to_cali2), do(Accept())], a=[do(Drop())]), PACKET, Path.FORWARD).allowed is True
    )


def test_marks_are_masked() -> None:
    rules = [do(SetMark(0x0F, 0xFF)), Rule((MarkIs(0xF0F, 0xFFF),), Drop())]
    marked = Packet(src="192.0.2.1", dst="10.65.0.1", protocol=6, mark=0xFA5)

    assert interpret(ruleset(rules), marked, Path.FORWARD).verdict is Verdict.DROP


def test_sets_hold_addresses_nets_and_ports() -> None:
    sets = (
        SetData("net", SetKind.NET, frozenset({"10.1.0.0/16", "10.65.0.1"})),
        SetData("port", SetKind.IP_PORT, frozenset({"10.65.0.1,tcp:80"})),
    )

    def dropped(match: SetLookup) -> bool:
        return not interpret(ruleset([Rule((match,), Drop())], *sets), PACKET, Path.FORWARD).allowed

    assert dropped(SetLookup(Side.DST, "net"))
    assert not dropped(SetLookup(Side.SRC, "net"))
    assert dropped(SetLookup(Side.DST, "port", SetKind.IP_PORT))
    assert dropped(SetLookup(Side.SRC, "port", SetKind.IP_PORT, negate=True))


def test_a_packet_that_meets_a_missing_chain_is_an_error_and_not_a_verdict() -> None:
    with pytest.raises(LookupError, match="cali-missing of filter"):
        interpret(ruleset([do(Jump("cali-missing"))]), PACKET, Path.FORWARD)


def test_a_ruleset_without_faults_verifies() -> None:
    assert verify(ruleset([do(Jump("cali-a"))], a=[do(Drop())])) == ()


@pytest.mark.parametrize(
    ("faulty", "says"),
    [
        (ruleset([do(Jump("cali-b"))]), "chain cali-b does not exist"),
        (ruleset([Rule((SetLookup(Side.SRC, "s:a"),), Drop())]), "set s:a does not exist"),
        (ruleset([], a=[do(Jump("cali-b"))], b=[do(Goto("cali-a"))]), "leads back to itself"),
    ],
)
def test_dangling_and_circular_references_are_found(faulty: Ruleset, says: str) -> None:
    assert any(says in problem for problem in verify(faulty))


def test_chains_nested_deeper_than_the_kernel_follows_are_found() -> None:
    chains = {f"c{n}": [do(Jump(f"cali-c{n + 1}"))] for n in range(17)} | {"c17": []}

    assert any("nested" in problem for problem in verify(ruleset([], **chains)))


@pytest.mark.parametrize(
    ("layer", "rule"),
    [
        (Layer.RAW, do(Reject())),
        (Layer.FILTER, do(NoTrack())),
        (Layer.FILTER, do(Masquerade())),
        (Layer.NAT, do(Masquerade("1-2 -j X"))),
        (Layer.NAT, do(Dnat("host"))),
        (Layer.FILTER, Rule((NetIn(Side.SRC, "10.0.0.0/8 -j ACCEPT"),), Drop())),
        (Layer.FILTER, Rule((NetIn(Side.SRC, "fd00::/8"),), Drop())),
        (Layer.FILTER, Rule((InterfaceIs("in", "eth0 "),), Drop())),
        (Layer.FILTER, Rule((PortIn(Side.DST, ports(80)),), Drop())),
        (Layer.FILTER, do(DispatchByInterface("in", (("a b", "cali-a"),)))),
    ],
)
def test_what_the_kernel_or_a_tool_would_misread_is_found(layer: Layer, rule: Rule) -> None:
    assert verify_chain(ChainKey(layer, "cali-a"), [rule], Family.V4)


@pytest.mark.parametrize("name", ["cali-a b", "cali-\n", "INPUT", "cali-" + "x" * 24])
def test_a_chain_name_that_is_none_is_found(name: str) -> None:
    assert verify_chain(ChainKey(Layer.FILTER, name), [], Family.V4)


def test_a_batch_and_its_reverse_leave_nothing() -> None:
    state = make_state(
        make_set("s:a", "10.0.0.1"),
        make_policy_update("p"),
        make_profile_update("q"),
        make_workload_update("w"),
        make_host_update("h"),
        RouteUpdate(dst="10.0.0.0/26", kind=RouteKind.LOCAL_BLOCK, node="n"),
        PoolUpdate(cidr="10.0.0.0/16", nat_outgoing=False, encap=PoolEncap.NONE),
        NodeUpdate(node="n"),
        VtepUpdate(node="n"),
        make_interface("eth0"),
    )

    touched = state.apply(
        make_batch(
            IPSetRemove(set_id="s:a"),
            ActivePolicyRemove(policy=make_policy_update("p").policy),
            ActiveProfileRemove(profile="q"),
            WorkloadEndpointRemove(endpoint=make_workload_update("w").endpoint),
            HostEndpointRemove(endpoint=make_host_update("h").endpoint),
            RouteRemove(dst="10.0.0.0/26"),
            PoolRemove(cidr="10.0.0.0/16"),
            NodeRemove(node="n"),
            VtepRemove(node="n"),
            InterfaceRemove(name="eth0"),
            ConfigUpdate(settings=FelixSettings(layout=Layout.V2)),
            revision=2,
        )
    )

    assert {name: value for name, value in vars(state).items() if isinstance(value, dict) and value} == {}
    assert (state.revision, state.in_sync, state.settings.layout) == (2, True, Layout.V2)
    assert (touched.sets, touched.profiles) == ({"s:a"}, {"q"})
    assert touched.policies
    assert touched.workloads
    assert touched.host_endpoints
    assert touched.routes
    assert touched.pools
    assert touched.nodes
    assert touched.vteps
    assert touched.interfaces
    assert touched.settings


def test_set_deltas_change_members_and_removing_what_is_not_there_is_harmless() -> None:
    state = make_state(make_set("s:a", "10.0.0.1", "10.0.0.2"))

    state.apply(
        make_batch(
            IPSetDelta(
                set_id="s:a", added=frozenset({"10.0.0.3"}), removed=frozenset({"10.0.0.1", "10.9.9.9"})
            ),
            IPSetRemove(set_id="s:none"),
        )
    )

    assert state.sets["s:a"].members == {"10.0.0.2", "10.0.0.3"}


def test_in_sync_stays_once_it_was_reached() -> None:
    state = DesiredState()
    assert not state.in_sync

    state.apply(make_batch())

    assert state.in_sync
