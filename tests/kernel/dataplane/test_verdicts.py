"""Packets through a node that only the ipset and iptables plugins programmed: what policy says is what happens."""

from typing import Any

import pytest

from calico_engine.messages import PortRange

pytestmark = pytest.mark.kernel(
    tools=("iptables-legacy", "iptables-nft", "ipset"),
    features=("veth", "ipset", "iptables-legacy", "iptables-nft"),
)

VERSIONS = (4, 6)


def test_allowed_port_is_open_and_all_else_is_dropped(rig: Any) -> None:
    async def scenario() -> None:
        web, client = rig.add_pod("web"), rig.add_pod("client")
        port = rig.policy("web", inbound=[rig.rule(protocol=6, dst_ports=(PortRange(80, 80),))])
        everything = rig.policy("all", [rig.rule()], [rig.rule()])

        await rig.settle(
            port,
            everything,
            web.update(ingress=[port.policy]),
            client.update(ingress=[everything.policy], egress=[everything.policy]),
        )

        for version in VERSIONS:
            assert rig.tcp(client, web, version, 80)
            assert not rig.tcp(client, web, version, 81)
            assert not rig.udp(client, web, version, 80)
            assert not rig.ping(client, web, version)

    rig.run(scenario)
