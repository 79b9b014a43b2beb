"""Packets through a node that only the dataplane plugins programmed: what policy says is what happens."""

from typing import Any

import pytest
from tests.kernel.dataplane.conftest import EVERY_VARIANT

from calico_engine.messages import (
    ActivePolicyRemove,
    ActiveProfileUpdate,
    IPSetDelta,
    IPSetRemove,
    IPSetUpdate,
    PortRange,
    SetKind,
    TierPolicies,
    WorkloadEndpointRemove,
)
from calico_engine.model.policy import Action
from calico_engine.plugin.protocols import EndpointStatus

pytestmark = [
    pytest.mark.kernel(
        tools=("iptables-legacy", "iptables-nft", "ipset", "nft"),
        features=("veth", "ipset", "iptables-legacy", "iptables-nft"),
    ),
    pytest.mark.parametrize("variant", EVERY_VARIANT, indirect=True),
]

VERSIONS = (4, 6)
ICMP = {4: 1, 6: 58}


def members(*pods: Any) -> frozenset[str]:
    return frozenset(address for pod in pods for address in pod.addresses.values())


def make_world(rig: Any) -> Any:
    """Return (web, client, policy "all"): the client may do everything, web has no policy yet."""
    web, client = rig.add_pod("web"), rig.add_pod("client")
    everything = rig.policy("all", [rig.rule()], [rig.rule()])
    rig.hear(everything, client.update(ingress=[everything.policy], egress=[everything.policy]))
    return web, client


def test_allowed_port_is_open_and_all_else_is_dropped(rig: Any) -> None:
    async def scenario() -> None:
        web, client = make_world(rig)
        port = rig.policy("web", [rig.rule(protocol=6, dst_ports=(PortRange(80, 80), PortRange(90, 95)))])

        await rig.settle(port, web.update(ingress=[port.policy]))

        for version in VERSIONS:
            assert rig.tcp(client, web, version, 80)
            assert rig.tcp(client, web, version, 95)
            assert not rig.tcp(client, web, version, 81)
            assert not rig.udp(client, web, version, 80)
            assert not rig.ping(client, web, version)

    rig.run(scenario)


def test_protocols_are_told_apart(rig: Any) -> None:
    async def scenario() -> None:
        web, client = make_world(rig)
        udp = rig.policy("udp", [rig.rule(protocol=17, dst_ports=(PortRange(53, 53),))])
        echo = rig.policy("echo", [rig.rule(protocol=ICMP[v], icmp_type=t) for v, t in ((4, 8), (6, 128))])

        await rig.settle(udp, echo, web.update(ingress=[udp.policy, echo.policy]))

        for version in VERSIONS:
            assert rig.udp(client, web, version, 53)
            assert rig.ping(client, web, version)
            assert not rig.tcp(client, web, version, 53)

    rig.run(scenario)


def test_earlier_deny_makes_a_later_allow_dead(rig: Any) -> None:
    async def scenario() -> None:
        web, client = make_world(rig)
        deny = rig.policy("deny", [rig.rule(Action.DENY)])
        allow = rig.policy("allow", [rig.rule()])

        await rig.settle(deny, allow, web.update(ingress=[deny.policy, allow.policy]))
        denied = [rig.tcp(client, web, version, 80) for version in VERSIONS]
        await rig.settle(web.update(ingress=[allow.policy, deny.policy]))
        allowed = [rig.tcp(client, web, version, 80) for version in VERSIONS]

        assert (denied, allowed) == ([False, False], [True, True])

    rig.run(scenario)


def test_pass_skips_the_rest_of_the_tier(rig: Any) -> None:
    async def scenario() -> None:
        web, client = make_world(rig)
        pass_80 = rig.policy("pass", [rig.rule(Action.PASS, protocol=6, dst_ports=(PortRange(80, 80),))])
        deny = rig.policy("deny", [rig.rule(Action.DENY)])
        allow = rig.policy("allow", [rig.rule()])
        first = TierPolicies(tier="first", default_action=Action.DENY, ingress=(pass_80.policy, deny.policy))
        second = TierPolicies(tier="second", default_action=Action.DENY, ingress=(allow.policy,))

        await rig.settle(pass_80, deny, allow, web.update(tiers=(first, second)))

        for version in VERSIONS:
            assert rig.tcp(client, web, version, 80)
            assert not rig.tcp(client, web, version, 81)

    rig.run(scenario)


def test_selector_set_follows_its_members(rig: Any) -> None:
    async def scenario() -> None:
        web, client = make_world(rig)
        peers = rig.policy("peers", [rig.rule(src_sets=("s:peers",))])
        rig.hear(IPSetUpdate(set_id="s:peers", kind=SetKind.NET, members=frozenset()), peers)

        await rig.settle(web.update(ingress=[peers.policy]))
        before = [rig.tcp(client, web, version, 80) for version in VERSIONS]
        await rig.settle(IPSetDelta(set_id="s:peers", added=members(client), removed=frozenset()))
        during = [rig.tcp(client, web, version, 80) for version in VERSIONS]
        await rig.settle(IPSetDelta(set_id="s:peers", added=frozenset(), removed=members(client)))
        after = [rig.udp(client, web, version, 80) for version in VERSIONS]

        assert (before, during, after) == ([False, False], [True, True], [False, False])

    rig.run(scenario)


def test_named_port_set_matches_address_and_port(rig: Any) -> None:
    async def scenario() -> None:
        web, client = make_world(rig)
        named = frozenset(f"{address},tcp:8080" for address in web.addresses.values())
        policy = rig.policy("named", [rig.rule(protocol=6, dst_named_port_sets=("n:http",))])
        rig.hear(IPSetUpdate(set_id="n:http", kind=SetKind.IP_PORT, members=named), policy)

        await rig.settle(web.update(ingress=[policy.policy]))

        for version in VERSIONS:
            assert rig.tcp(client, web, version, 8080)
            assert not rig.tcp(client, web, version, 8081)

    rig.run(scenario)


def test_many_nets_and_ports_in_one_rule(rig: Any) -> None:
    async def scenario() -> None:
        web, client = make_world(rig)
        ports = tuple(PortRange(port, port) for port in range(1000, 1080, 2))
        four = rig.rule(protocol=6, dst_ports=ports, src_nets=("10.1.0.0/16", "10.65.0.0/24"), ip_version=4)
        six = rig.rule(protocol=6, dst_ports=ports, src_nets=("fd01::/64", "fd00:65::/64"), ip_version=6)
        policy = rig.policy("big", [four, six])

        await rig.settle(policy, web.update(ingress=[policy.policy]))

        for version in VERSIONS:
            assert rig.tcp(client, web, version, 1000)
            assert rig.tcp(client, web, version, 1078)
            assert not rig.tcp(client, web, version, 1001)

    rig.run(scenario)


def test_egress_policy_holds_back_the_sender(rig: Any) -> None:
    async def scenario() -> None:
        web, client = make_world(rig)
        allow = rig.policy("allow", [rig.rule()], [rig.rule()])
        only_udp = rig.policy("only-udp", [rig.rule()], [rig.rule(protocol=17)])

        await rig.settle(
            allow, only_udp, web.update([allow.policy], [allow.policy]), client.update([], [only_udp.policy])
        )

        for version in VERSIONS:
            assert rig.udp(client, web, version, 53)
            assert not rig.tcp(client, web, version, 53)

    rig.run(scenario)


def test_profile_decides_where_no_policy_does(rig: Any) -> None:
    async def scenario() -> None:
        web, client = make_world(rig)
        profile = ActiveProfileUpdate(profile="db", inbound=(rig.rule(protocol=6),), outbound=())

        await rig.settle(profile, web.update(tiers=(), profiles=("db",)))

        for version in VERSIONS:
            assert rig.tcp(client, web, version, 80)
            assert not rig.udp(client, web, version, 80)

    rig.run(scenario)


def test_endpoint_without_policy_or_profile_is_closed(rig: Any) -> None:
    async def scenario() -> None:
        web, client = make_world(rig)

        await rig.settle(web.update(tiers=(), profiles=("not-there",)))

        assert not any(rig.tcp(client, web, version, 80) for version in VERSIONS)

    rig.run(scenario)


def test_unknown_interface_is_closed_both_ways(rig: Any) -> None:
    async def scenario() -> None:
        web, client = make_world(rig)
        allow = rig.policy("allow", [rig.rule()], [rig.rule()])

        await rig.settle(allow, web.update([allow.policy], [allow.policy]))
        known = rig.tcp(client, web, 4, 80)
        await rig.settle(WorkloadEndpointRemove(endpoint=web.key))

        assert known
        for version in VERSIONS:
            assert not rig.tcp(client, web, version, 80)
            assert not rig.udp(web, client, version, 80)

    rig.run(scenario)


def test_policy_that_is_not_known_drops(rig: Any) -> None:
    async def scenario() -> None:
        web, client = make_world(rig)
        missing, allow = rig.policy("missing", [rig.rule()]), rig.policy("allow", [rig.rule()])

        results = await rig.settle(allow, web.link(), web.update([missing.policy, allow.policy]))
        closed = [rig.tcp(client, web, version, 80) for version in VERSIONS]
        await rig.settle(missing)
        opened = [rig.tcp(client, web, version, 80) for version in VERSIONS]
        await rig.settle(ActivePolicyRemove(policy=missing.policy))
        again = [rig.udp(client, web, version, 80) for version in VERSIONS]

        assert (closed, opened, again) == ([False, False], [True, True], [False, False])
        assert results[1].endpoint_status[web.key] is EndpointStatus.ERROR

    rig.run(scenario)


@pytest.mark.parametrize("reason", ["unknown", "too large"])
def test_rule_whose_set_is_not_there_lets_nothing_through(make_rig: Any, reason: str) -> None:
    rig = make_rig(max_ipset_size=4)

    async def scenario() -> None:
        web, client = make_world(rig)
        allow_set = rig.policy("set", [rig.rule(src_sets=("s:big",)), rig.rule(protocol=17)])
        deny_set = rig.policy(
            "deny", [rig.rule(Action.DENY, src_sets=("s:big",), dst_ports=(PortRange(7, 7),), protocol=6)]
        )
        allow = rig.policy("allow", [rig.rule()])
        if reason == "too large":
            many = frozenset(
                {*members(client), *(f"10.9.0.{i}" for i in range(9)), *(f"fd09::{i}" for i in range(9))}
            )
            rig.hear(IPSetUpdate(set_id="s:big", kind=SetKind.NET, members=many))

        results = await rig.settle(allow_set, deny_set, allow, web.link(), web.update([allow_set.policy]))
        only_udp = [(rig.tcp(client, web, v, 7), rig.udp(client, web, v, 7)) for v in VERSIONS]
        await rig.settle(web.update([deny_set.policy, allow.policy]))
        denied = [(rig.tcp(client, web, v, 7), rig.tcp(client, web, v, 8)) for v in VERSIONS]

        assert only_udp == [(False, True)] * 2
        assert denied == [(False, True)] * 2
        assert results[1].endpoint_status[web.key] is EndpointStatus.ERROR
        assert any("s:big" in note.message for note in rig.node.notifications)
        await rig.settle(IPSetUpdate(set_id="s:big", kind=SetKind.NET, members=members(client)))
        await rig.settle(web.update([allow_set.policy]))
        assert [rig.tcp(client, web, v, 7) for v in VERSIONS] == [True, True]
        await rig.settle(IPSetRemove(set_id="s:big"))
        assert [rig.tcp(client, web, v, 7) for v in VERSIONS] == [False, False]

    rig.run(scenario)


def test_nothing_is_open_while_a_batch_is_programmed_in_pieces(rig: Any) -> None:
    """Sets, then rules: after any one of the steps a packet that policy denies is dropped."""

    async def scenario() -> None:
        web, client = make_world(rig)
        await rig.settle(web.update(tiers=()))
        policy = rig.policy("not-client", [rig.rule(Action.DENY, src_sets=("s:bad",)), rig.rule()])
        rig.hear(
            IPSetUpdate(set_id="s:bad", kind=SetKind.NET, members=members(client)),
            policy,
            web.update(ingress=[policy.policy]),
        )

        await rig.ipset.apply()
        after_sets = [rig.tcp(client, web, version, 80) for version in VERSIONS]
        await rig.rules.apply()
        after_rules = [rig.tcp(client, web, version, 80) for version in VERSIONS]

        assert (after_sets, after_rules) == ([False, False], [False, False])

    rig.run(scenario)
