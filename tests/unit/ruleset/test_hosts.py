"""Host endpoints: which governs which interface, and what becomes of the host's own and of forwarded packets."""

import pytest

from calico_engine.messages import ActiveRule, HostEndpointUpdate, InterfaceUpdate, Message
from calico_engine.model.policy import Action
from calico_engine.ruleset.compile_host import resolve_host_endpoints
from calico_engine.ruleset.interpret import Outcome, Packet, Path, interpret
from calico_engine.ruleset.ir import CtState, Family
from calico_engine.ruleset.lower import lower
from calico_engine.ruleset.verify import verify
from calico_engine.ruleset.world import compile_world
from calico_engine.settings import FelixSettings, HostPort, Layout
from calico_engine.testing.messages import (
    ALLOW,
    DENY,
    make_host_update,
    make_interface,
    make_policy_update,
    make_profile_update,
    make_state,
    make_tier,
    make_workload_update,
    ports,
)

V3 = FelixSettings()
NATIVE = FelixSettings(layout=Layout.NATIVE)
V2 = FelixSettings(layout=Layout.V2)
LAYOUTS = pytest.mark.parametrize("settings", [V3, V2, NATIVE], ids=["v3", "v2", "native"])
MODERN = pytest.mark.parametrize("settings", [V3, NATIVE], ids=["v3", "native"])
WEB = ActiveRule(action=Action.ALLOW, protocol=6, dst_ports=ports(80))
OPEN = make_profile_update("open", inbound=[ALLOW], outbound=[ALLOW])
ETH0 = make_interface("eth0", "192.0.2.9", "2001:db8::9")


def resolve(
    *endpoints: HostEndpointUpdate, interfaces: tuple[InterfaceUpdate, ...] = (ETH0,)
) -> dict[str, str]:
    resolved = resolve_host_endpoints(endpoints, interfaces, V3)
    return {name: endpoint.endpoint.name for name, endpoint in resolved.items()}


def send(
    settings: FelixSettings,
    *messages: Message,
    path: Path = Path.TO_HOST,
    into: str = "eth0",
    out: str = "eth0",
    port: int = 80,
    protocol: int = 6,
    src_port: int = 40000,
    ct_state: CtState = CtState.NEW,
    ct_dnat: bool = False,
) -> Outcome:
    """Run a packet, to this host through eth0 unless told otherwise, through the lowered ruleset."""
    ruleset = lower(compile_world(make_state(ETH0, *messages), settings, Family.V4), settings)
    assert verify(ruleset) == ()
    packet = Packet(
        src="192.0.2.1",
        dst="192.0.2.9",
        protocol=protocol,
        src_port=src_port,
        dst_port=port,
        in_interface="" if path is Path.FROM_HOST else into,
        out_interface="" if path is Path.TO_HOST else out,
        ct_state=ct_state,
        ct_dnat=ct_dnat,
    )
    return interpret(ruleset, packet, path)


def test_a_name_and_an_expected_address_both_claim_an_interface_and_the_first_by_name_wins() -> None:
    by_name, by_address = (
        make_host_update("b"),
        make_host_update("a", interface="", expected_ips=["192.0.2.9"]),
    )

    assert resolve(by_name) == {"eth0": "b"}
    assert resolve(by_name, by_address) == {"eth0": "a"}


def test_a_name_claims_its_interface_before_it_is_there_and_an_address_does_not() -> None:
    assert resolve(make_host_update("a", interface="eth7"), interfaces=()) == {"eth7": "a"}
    assert resolve(make_host_update("a", interface="", expected_ips=["192.0.2.9"]), interfaces=()) == {}


def test_an_address_does_not_count_beside_a_name() -> None:
    assert resolve(make_host_update("a", interface="eth7", expected_ips=["192.0.2.9"])) == {"eth7": "a"}


def test_workload_and_excluded_interfaces_carry_no_host_endpoint() -> None:
    assert (
        resolve(make_host_update("a", interface="cali1"), make_host_update("b", interface="kube-ipvs0")) == {}
    )
    settings = FelixSettings(interface_exclude=("/^dummy/",))
    endpoints = [make_host_update("a", interface="dummy7"), make_host_update("b", interface="kube-ipvs0")]
    assert list(resolve_host_endpoints(endpoints, (), settings)) == ["kube-ipvs0"]


def test_a_host_endpoint_for_all_interfaces_governs_the_rest() -> None:
    assert resolve(
        make_host_update("a"), make_host_update("c", interface="*"), make_host_update("b", interface="*")
    ) == {
        "eth0": "a",
        "*": "b",
    }


@LAYOUTS
@pytest.mark.parametrize("path", [Path.TO_HOST, Path.FROM_HOST])
def test_a_host_without_host_endpoint_is_none_of_our_business(settings: FelixSettings, path: Path) -> None:
    assert send(settings, path=path).allowed


@LAYOUTS
@pytest.mark.parametrize("path", [Path.TO_HOST, Path.FROM_HOST])
def test_a_host_endpoint_closes_its_interface_but_for_policy_profiles_and_failsafes(
    settings: FelixSettings, path: Path
) -> None:
    policy = make_policy_update(inbound=[WEB], outbound=[WEB])

    assert not send(settings, make_host_update(), path=path).allowed
    assert send(settings, OPEN, make_host_update(profiles=["open"]), path=path).allowed
    assert send(settings, policy, make_host_update(tiers=[make_tier("web")]), path=path).allowed
    assert not send(settings, policy, make_host_update(tiers=[make_tier("web")]), path=path, port=81).allowed
    assert send(settings, make_host_update(), path=path, port=179).allowed
    assert send(settings, make_host_update(), path=path, ct_state=CtState.ESTABLISHED).allowed


@LAYOUTS
def test_failsafes_are_of_a_direction_a_protocol_and_a_net(settings: FelixSettings) -> None:
    felix = FelixSettings(
        layout=settings.layout,
        failsafe_inbound_host_ports=(HostPort("tcp", 22), HostPort("udp", 68, "192.0.2.0/24")),
        failsafe_outbound_host_ports=(HostPort("udp", 53, "10.0.0.0/8"), HostPort("udp", 123, "fd00::/8")),
    )

    assert send(felix, make_host_update(), port=22).allowed
    assert not send(felix, make_host_update(), port=22, protocol=17).allowed
    assert send(felix, make_host_update(), port=68, protocol=17).allowed
    assert not send(felix, make_host_update(), port=22, path=Path.FROM_HOST).allowed
    assert not send(felix, make_host_update(), port=53, protocol=17, path=Path.FROM_HOST).allowed
    assert not send(felix, make_host_update(), port=123, protocol=17, path=Path.FROM_HOST).allowed


@MODERN
def test_forwarded_packets_meet_apply_on_forward_policy_alone(settings: FelixSettings) -> None:
    policy = make_policy_update(inbound=[WEB], outbound=[WEB])
    normal = make_host_update(tiers=[make_tier("web")])
    forward = make_host_update(forward=[make_tier("web")])

    assert send(settings, policy, normal, path=Path.FORWARD, out="eth1", port=81).allowed
    assert send(settings, policy, forward, path=Path.FORWARD, out="eth1").allowed
    assert not send(settings, policy, forward, path=Path.FORWARD, out="eth1", port=81).allowed
    assert not send(settings, policy, forward, path=Path.FORWARD, into="eth1", out="eth0", port=81).allowed
    # Failsafes are the host's own, not those of machines behind it.
    assert not send(settings, policy, forward, path=Path.FORWARD, out="eth1", port=22).allowed


def test_v2_applies_normal_policy_to_forwarded_packets() -> None:
    policy = make_policy_update(inbound=[WEB], outbound=[WEB])
    endpoint = make_host_update(tiers=[make_tier("web")])

    assert send(V2, policy, endpoint, path=Path.FORWARD, out="eth1").allowed
    assert not send(V2, policy, endpoint, path=Path.FORWARD, out="eth1", port=81).allowed


@MODERN
def test_between_a_workload_and_a_host_interface_both_policies_apply(settings: FelixSettings) -> None:
    policy = make_policy_update(outbound=[WEB])
    messages = (
        policy,
        OPEN,
        make_workload_update(profiles=["open"]),
        make_host_update(forward=[make_tier("web")]),
    )

    assert send(settings, *messages, path=Path.FORWARD, into="cali1", out="eth0").allowed
    assert not send(settings, *messages, path=Path.FORWARD, into="cali1", out="eth0", port=81).allowed


@LAYOUTS
def test_untracked_policy_decides_before_conntrack_and_normal_policy(settings: FelixSettings) -> None:
    untracked = make_policy_update("fast", inbound=[WEB], outbound=[WEB], untracked=True)
    endpoint = make_host_update(untracked=[make_tier("fast")])

    outcome = send(settings, untracked, endpoint)

    assert outcome.allowed
    assert outcome.packet.ct_state is CtState.UNTRACKED
    assert send(settings, untracked, endpoint, path=Path.FROM_HOST).allowed
    assert not send(settings, untracked, endpoint, port=81).allowed


@LAYOUTS
def test_untracked_deny_drops_and_no_match_goes_on(settings: FelixSettings) -> None:
    deny = make_policy_update(
        "fast", inbound=[ActiveRule(action=Action.DENY, protocol=6, dst_ports=ports(80))], untracked=True
    )
    endpoint = make_host_update(untracked=[make_tier("fast")], profiles=["open"])

    assert not send(settings, deny, OPEN, endpoint).allowed
    outcome = send(settings, deny, OPEN, endpoint, port=81)
    assert outcome.allowed
    assert outcome.packet.ct_state is CtState.NEW


@MODERN
def test_answers_from_failsafe_ports_stay_tracked(settings: FelixSettings) -> None:
    untracked = make_policy_update("fast", inbound=[ALLOW], outbound=[ALLOW], untracked=True)
    endpoint = make_host_update(untracked=[make_tier("fast")])

    answer = send(
        settings,
        untracked,
        endpoint,
        path=Path.FROM_HOST,
        src_port=22,
        port=50000,
        ct_state=CtState.ESTABLISHED,
    )

    assert answer.allowed
    assert answer.packet.ct_state is CtState.ESTABLISHED


@MODERN
def test_pre_dnat_policy_decides_for_local_and_forwarded_packets_alike(settings: FelixSettings) -> None:
    rules = [ActiveRule(action=Action.DENY, protocol=6, dst_ports=ports(31000)), WEB]
    policy = make_policy_update("early", inbound=rules, pre_dnat=True)
    endpoint = make_host_update(pre_dnat=[make_tier(ingress=["early"])])

    assert send(settings, policy, endpoint).allowed
    assert not send(settings, policy, endpoint, port=31000).allowed
    assert not send(settings, policy, endpoint, port=31000, path=Path.FORWARD, out="eth1").allowed
    # What it does not decide, normal policy does: none, so the endpoint is closed.
    assert not send(settings, policy, endpoint, port=81).allowed


def test_v2_lets_pre_dnat_policy_deny() -> None:
    policy = make_policy_update("early", inbound=[DENY], pre_dnat=True)
    endpoint = make_host_update(pre_dnat=[make_tier(ingress=["early"])], profiles=["open"])

    assert not send(V2, policy, OPEN, endpoint).allowed


@MODERN
def test_the_endpoint_for_all_interfaces_governs_those_without_one(settings: FelixSettings) -> None:
    policy = make_policy_update(inbound=[WEB], outbound=[WEB])
    rest = make_host_update("rest", interface="*", tiers=[make_tier("web")], untracked=[make_tier("web")])
    eth0 = make_host_update("eth0", profiles=["open"])

    for path in (Path.TO_HOST, Path.FROM_HOST):
        assert send(settings, policy, OPEN, rest, eth0, path=path, into="eth1", out="eth1").allowed
        assert not send(
            settings, policy, OPEN, rest, eth0, path=path, into="eth1", out="eth1", port=81
        ).allowed
        assert send(settings, policy, OPEN, rest, eth0, path=path, port=81).allowed


@pytest.mark.parametrize("dnat", [False, True])
@MODERN
def test_translated_packets_of_the_host_are_judged_once(settings: FelixSettings, dnat: bool) -> None:
    policy = make_policy_update(outbound=[WEB])
    endpoint = make_host_update(tiers=[make_tier("web")])

    assert send(settings, policy, endpoint, path=Path.FROM_HOST, ct_dnat=dnat).allowed
    assert not send(settings, policy, endpoint, path=Path.FROM_HOST, port=81, ct_dnat=dnat).allowed


@MODERN
def test_translated_packets_to_a_local_workload_skip_the_endpoint_for_all_interfaces(
    settings: FelixSettings,
) -> None:
    rest = make_host_update("rest", interface="*")

    assert send(
        settings, rest, make_workload_update(), path=Path.FROM_HOST, out="cali1", ct_dnat=True
    ).allowed
