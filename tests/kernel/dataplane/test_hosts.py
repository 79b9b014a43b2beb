"""The node itself behind host endpoints, and traffic between pods, node and outside, by packets."""

from typing import Any

import pytest
from tests.kernel.dataplane.conftest import EVERY_VARIANT, NODAD

from calico_engine.messages import (
    HostEndpointRemove,
    HostEndpointUpdate,
    InterfaceUpdate,
    PoolEncap,
    PoolUpdate,
    PortRange,
    TierPolicies,
)
from calico_engine.model.policy import Action
from calico_engine.model.resource import ResourceKey
from calico_engine.plugin.protocols import EndpointStatus
from calico_engine.settings import EndpointToHostAction

pytestmark = [
    pytest.mark.kernel(
        tools=("iptables-legacy", "iptables-nft", "ipset", "nft", "conntrack"),
        features=("veth", "ipset", "iptables-legacy", "iptables-nft"),
    ),
    pytest.mark.parametrize("variant", EVERY_VARIANT, indirect=True),
]

VERSIONS = (4, 6)
ETH0 = InterfaceUpdate(name="eth0", index=2, up=True, addresses=frozenset({"192.0.2.1", "fd02::1"}))


def host(interface: str = "eth0", *, name: str = "hep", expected: tuple[str, ...] = (), **tiers: Any) -> Any:
    return HostEndpointUpdate(
        endpoint=ResourceKey("HostEndpoint", "", name),
        interface_name=interface,
        expected_ips=expected,
        **{kind: (one,) for kind, one in tiers.items()},
    )


def tier(*, ingress: tuple[Any, ...] = (), egress: tuple[Any, ...] = ()) -> TierPolicies:
    return TierPolicies(
        tier="default",
        default_action=Action.DENY,
        ingress=tuple(policy.policy for policy in ingress),
        egress=tuple(policy.policy for policy in egress),
    )


def tcp_port(rig: Any, number: int, action: Action = Action.ALLOW) -> Any:
    return rig.rule(action, protocol=6, dst_ports=(PortRange(number, number),))


def test_host_endpoint_closes_all_but_the_failsafes(rig: Any) -> None:
    async def scenario() -> None:
        outside = rig.add_outside()
        await rig.settle(ETH0)
        before = [rig.tcp(outside, rig.as_host, v, 80) for v in VERSIONS]
        await rig.settle(host())

        assert before == [True, True]
        for version in VERSIONS:
            assert not rig.tcp(outside, rig.as_host, version, 80)
            assert rig.tcp(outside, rig.as_host, version, 22)
            assert not rig.udp(rig.as_host, outside, version, 5000)
            assert rig.udp(rig.as_host, outside, version, 53)
        await rig.settle(HostEndpointRemove(endpoint=host().endpoint))
        assert [rig.tcp(outside, rig.as_host, v, 80) for v in VERSIONS] == [True, True]

    rig.run(scenario)


@pytest.mark.parametrize(
    ("interface", "expected"), [("eth0", ()), ("", ("192.0.2.1",)), ("", ("fd02::1",)), ("*", ())]
)
def test_host_policy_applies_however_the_interface_is_found(
    rig: Any, interface: str, expected: tuple[str, ...]
) -> None:
    async def scenario() -> None:
        outside = rig.add_outside()
        policy = rig.policy("web", [tcp_port(rig, 80)], [rig.rule()])
        endpoint = host(interface, expected=expected, tiers=tier(ingress=(policy,), egress=(policy,)))

        results = await rig.settle(ETH0, policy, endpoint)

        assert results[1].endpoint_status == {endpoint.endpoint: EndpointStatus.UP}
        for version in VERSIONS:
            assert rig.tcp(outside, rig.as_host, version, 80)
            assert not rig.tcp(outside, rig.as_host, version, 81)

    rig.run(scenario)


def test_forwarded_traffic_meets_policy_only_when_it_applies_on_forward(rig: Any) -> None:
    async def scenario() -> None:
        outside, web = rig.add_outside(), rig.add_pod("web")
        allow = rig.policy("allow", [rig.rule()], [rig.rule()])
        forward = rig.policy("forward", [tcp_port(rig, 80)], [rig.rule()])
        rig.hear(ETH0, allow, forward, web.update([allow.policy], [allow.policy]))

        await rig.settle(host())
        without = [(rig.tcp(outside, web, v, 80), rig.tcp(outside, web, v, 81)) for v in VERSIONS]
        await rig.settle(host(forward_tiers=tier(ingress=(forward,), egress=(forward,))))
        applied = [(rig.tcp(outside, web, v, 80), rig.tcp(outside, web, v, 81)) for v in VERSIONS]

        assert without == [(True, True)] * 2
        assert applied == [(True, False)] * 2

    rig.run(scenario)


def test_untracked_policy_lets_through_without_conntrack(rig: Any) -> None:
    async def scenario() -> None:
        outside = rig.add_outside()
        answers = rig.rule(protocol=6, src_ports=(PortRange(80, 80),))
        policy = rig.policy("untracked", [tcp_port(rig, 80)], [answers], untracked=True)

        await rig.settle(ETH0, policy, host(untracked_tiers=tier(ingress=(policy,), egress=(policy,))))

        for version, family in ((4, "ipv4"), (6, "ipv6")):
            assert rig.tcp(outside, rig.as_host, version, 80)
            assert "dport=80 " not in rig.node.sh("conntrack", "-L", "-f", family)
            assert not rig.tcp(outside, rig.as_host, version, 81)
            assert rig.tcp(outside, rig.as_host, version, 22)
            assert "dport=22 " in rig.node.sh("conntrack", "-L", "-f", family)

    rig.run(scenario)


def test_pre_dnat_policy_denies_before_anything_else_allows(rig: Any) -> None:
    async def scenario() -> None:
        outside, web = rig.add_outside(), rig.add_pod("web")
        allow = rig.policy("allow", [rig.rule()], [rig.rule()])
        before = rig.policy("before", [tcp_port(rig, 80, Action.DENY)], pre_dnat=True)
        rig.hear(ETH0, allow, before, web.update([allow.policy], [allow.policy]))

        await rig.settle(
            host(tiers=tier(ingress=(allow,), egress=(allow,)), pre_dnat_tiers=tier(ingress=(before,)))
        )

        for version in VERSIONS:
            for target in (rig.as_host, web):
                assert not rig.tcp(outside, target, version, 80)
                assert rig.tcp(outside, target, version, 81)

    rig.run(scenario)


@pytest.mark.parametrize("action", [EndpointToHostAction.DROP, EndpointToHostAction.ACCEPT])
def test_pods_reach_the_node_only_where_it_is_set(make_rig: Any, action: EndpointToHostAction) -> None:
    rig = make_rig(default_endpoint_to_host_action=action)

    async def scenario() -> None:
        rig.add_outside()
        web = rig.add_pod("web")
        allow = rig.policy("allow", [rig.rule()], [rig.rule()])

        await rig.settle(ETH0, allow, web.update([allow.policy], [allow.policy]))

        expected = action is EndpointToHostAction.ACCEPT
        assert [rig.tcp(web, rig.as_host, v, 80) for v in VERSIONS] == [expected, expected]

    rig.run(scenario)


def test_outgoing_nat_hides_pods_from_the_outside_alone(rig: Any) -> None:
    async def scenario() -> None:
        outside, web, client = rig.add_outside(), rig.add_pod("web"), rig.add_pod("client")
        allow = rig.policy("allow", [rig.rule()], [rig.rule()])
        rig.hear(ETH0, allow, *(pod.update([allow.policy], [allow.policy]) for pod in (web, client)))
        pools = [
            PoolUpdate(cidr="10.65.0.0/16", nat_outgoing=True, encap=PoolEncap.NONE),
            PoolUpdate(cidr="fd00:65::/64", nat_outgoing=True, encap=PoolEncap.NONE),
        ]

        await rig.settle()
        plain = [rig.udp_source(client, outside, v, 5000) for v in VERSIONS]
        await rig.settle(*pools)

        assert plain == [client.addresses[v] for v in VERSIONS]
        for version in VERSIONS:
            assert rig.udp_source(client, outside, version, 5001) == rig.as_host.addresses[version]
            assert rig.udp_source(client, web, version, 5001) == client.addresses[version]

    rig.run(scenario)


def test_forged_source_address_is_dropped(rig: Any) -> None:
    async def scenario() -> None:
        outside, web = rig.add_outside(), rig.add_pod("web")
        forged = {4: "10.65.0.99", 6: "fd00:65::99"}

        def add_addresses() -> None:
            for version, address in forged.items():
                rig.node.sh("ip", f"-{version}", "address", "add", address, "dev", "lo", *NODAD[version])

        web.namespace.run(add_addresses)
        allow = rig.policy("allow", [rig.rule()], [rig.rule()])

        await rig.settle(ETH0, allow, web.update([allow.policy], [allow.policy]))

        for version in VERSIONS:
            assert rig.udp_source(web, outside, version, 5000) == web.addresses[version]
            assert rig.udp_source(web, outside, version, 5000, sender=forged[version]) == ""

    rig.run(scenario)
