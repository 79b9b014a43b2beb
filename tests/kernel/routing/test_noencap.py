"""The routing plugin noencap against a real kernel: what `ip` shows afterwards."""

from typing import Any

import pytest

from calico_engine.messages import (
    InterfaceRemove,
    NodeUpdate,
    PoolEncap,
    RouteKind,
    RouteRemove,
    RouteUpdate,
)
from calico_engine_noencap.plugin import NoEncapRouting

pytestmark = pytest.mark.kernel(features=("veth",))

#: block, next hop, our own address with its mask; by family
FAMILY = {
    4: ("10.65.2.0/26", "192.0.2.2", "192.0.2.1/24"),
    6: ("fd00:65:2::/122", "2001:db8::2", "2001:db8::1/64"),
}
BOTH = pytest.mark.parametrize("family", [4, 6])


def remote(dst: str, next_hop: str, **fields: Any) -> RouteUpdate:
    values: dict[str, Any] = {"kind": RouteKind.REMOTE_BLOCK, "encap": PoolEncap.NONE, "node": "n2", **fields}
    return RouteUpdate(dst=dst, next_hop=next_hop, **values)


def add_fabric(node: Any, name: str = "eth0") -> None:
    node.add_veth(name)
    for _, _, own in FAMILY.values():
        node.sh("ip", "addr", "add", own, "dev", name, *(["nodad"] if ":" in own else []))


@BOTH
def test_block_of_another_node(node: Any, family: int) -> None:
    block, hop, _ = FAMILY[family]

    async def scenario() -> None:
        add_fabric(node)
        plugin = NoEncapRouting(node.context())

        await node.settle(plugin, *await node.interfaces(), remote(block, hop))

        route = node.routes(family, "proto 80")[block]
        assert (route["gateway"], route["dev"], route["flags"]) == (hop, "eth0", [])
        assert node.notifications == []
        await plugin.close()

    node.run(scenario)


@BOTH
def test_second_apply_writes_nothing(node: Any, family: int) -> None:
    block, hop, _ = FAMILY[family]

    async def scenario() -> None:
        add_fabric(node)
        plugin = NoEncapRouting(node.context())
        assert await node.settle(plugin, *await node.interfaces(), remote(block, hop)) == 1

        plugin.invalidate("test")

        assert await node.settle(plugin) == 0
        assert list(await plugin.plan()) == []
        await plugin.close()

    node.run(scenario)


def test_borrowed_address_and_address_without_a_pool(node: Any) -> None:
    async def scenario() -> None:
        add_fabric(node)
        plugin = NoEncapRouting(node.context())
        updates = [
            remote("10.65.1.7/32", "192.0.2.2", kind=RouteKind.REMOTE_WORKLOAD, borrowed=True),
            remote("172.16.1.3/32", "192.0.2.2", kind=RouteKind.REMOTE_WORKLOAD, encap=PoolEncap.NO_POOL),
            remote("192.0.2.2/32", "192.0.2.2", kind=RouteKind.REMOTE_HOST),
            remote("10.65.1.0/26", "", kind=RouteKind.LOCAL_BLOCK),
        ]

        await node.settle(plugin, *await node.interfaces(), *updates)

        assert set(node.routes(4, "proto 80")) == {"10.65.1.7", "172.16.1.3"}
        await plugin.close()

    node.run(scenario)


@BOTH
def test_next_hop_on_no_link_is_told_once_and_not_routed(node: Any, family: int) -> None:
    block = FAMILY[family][0]
    hop = "198.51.100.2" if family == 4 else "2001:db8:9::2"
    router = "192.0.2.254" if family == 4 else "2001:db8::fe"

    async def scenario() -> None:
        add_fabric(node)
        node.sh("ip", f"-{family}", "route", "add", "default", "via", router)
        plugin = NoEncapRouting(node.context())

        await node.settle(plugin, *await node.interfaces(), remote(block, hop))
        plugin.invalidate("test")
        await node.settle(plugin)

        assert node.routes(family, "proto 80") == {}
        assert len(node.notifications) == 1
        assert hop in node.notifications[0].message
        assert block in node.notifications[0].message
        await plugin.close()

    node.run(scenario)


@BOTH
def test_next_hop_that_becomes_reachable(node: Any, family: int) -> None:
    block, hop, _ = FAMILY[family]

    async def scenario() -> None:
        plugin = NoEncapRouting(node.context())
        await node.settle(plugin, *await node.interfaces(), remote(block, hop))
        assert node.routes(family, "proto 80") == {}

        add_fabric(node)
        await node.settle(plugin, *await node.interfaces())

        assert node.routes(family, "proto 80")[block]["gateway"] == hop
        await plugin.close()

    node.run(scenario)


def test_same_subnet_by_the_nodes_word_is_onlink(node: Any) -> None:
    async def scenario() -> None:
        node.add_veth("eth0")
        node.sh("ip", "addr", "add", "192.0.2.1/32", "dev", "eth0")
        plugin = NoEncapRouting(node.context())
        own = NodeUpdate(node="n1", ipv4_address="192.0.2.1", ipv4_network="192.0.2.0/24")

        await node.settle(
            plugin, *await node.interfaces(), own, remote("10.65.2.0/26", "192.0.2.2", same_subnet=True)
        )

        route = node.routes(4, "proto 80")["10.65.2.0/26"]
        assert (route["gateway"], route["dev"], route["flags"]) == ("192.0.2.2", "eth0", ["onlink"])
        await plugin.close()

    node.run(scenario)


@pytest.mark.parametrize("encap", [PoolEncap.IPIP, PoolEncap.VXLAN])
def test_encapsulated_destinations_are_left_alone(node: Any, encap: PoolEncap) -> None:
    async def scenario() -> None:
        add_fabric(node)
        plugin = NoEncapRouting(node.context())
        first, second = (remote(dst, "192.0.2.2", encap=encap) for dst in ("10.65.2.0/26", "10.65.3.0/26"))

        await node.settle(plugin, *await node.interfaces(), first, second)

        assert node.routes(4, "proto 80") == {}
        assert len(node.notifications) == 1
        assert encap.value in node.notifications[0].message
        await node.settle(plugin, remote("10.65.2.0/26", "192.0.2.2"))
        assert set(node.routes(4, "proto 80")) == {"10.65.2.0/26"}
        await plugin.close()

    node.run(scenario)


@BOTH
def test_block_that_moves_goes_and_becomes_local(node: Any, family: int) -> None:
    block, hop, _ = FAMILY[family]
    other = hop[:-1] + "3"

    async def scenario() -> None:
        add_fabric(node)
        plugin = NoEncapRouting(node.context())
        await node.settle(plugin, *await node.interfaces(), remote(block, hop))

        await node.settle(plugin, remote(block, other, node="n3"))
        assert node.routes(family, "proto 80")[block]["gateway"] == other
        await node.settle(plugin, remote(block, "", kind=RouteKind.LOCAL_BLOCK))
        assert node.routes(family, "proto 80") == {}
        await node.settle(plugin, remote(block, hop))
        await node.settle(plugin, RouteRemove(dst=block))

        assert node.routes(family, "proto 80") == {}
        await plugin.close()

    node.run(scenario)


def test_only_our_own_routes_are_removed(node: Any) -> None:
    async def scenario() -> None:
        add_fabric(node)
        node.add_veth("cali1")
        node.add_veth("vxlan.calico", "vpeer")
        for words in (
            "10.80.1.0/24 via 192.0.2.9 proto 80",  # of a former run
            "10.80.2.0/24 via 192.0.2.9 proto static",
            "10.80.3.0/24 via 192.0.2.9 proto bird",
            "blackhole 10.80.4.0/24 proto 80",
            "10.80.5.1/32 dev cali1 proto 80",
            "10.80.6.0/24 via 192.0.2.9 dev vxlan.calico proto 80 onlink",
        ):
            node.sh("ip", "route", "add", *words.split())
        before = set(node.routes(4))
        plugin = NoEncapRouting(node.context())

        await node.settle(plugin, *await node.interfaces(), remote("10.65.2.0/26", "192.0.2.2"))

        assert set(node.routes(4)) == before - {"10.80.1.0/24"} | {"10.65.2.0/26"}
        await plugin.close()
        other = NoEncapRouting(node.context())
        assert await other.cleanup() == 1
        assert set(node.routes(4)) == before - {"10.80.1.0/24"}
        await other.close()

    node.run(scenario)


def test_static_route_in_our_place_is_kept_and_reported(node: Any) -> None:
    async def scenario() -> None:
        add_fabric(node)
        node.sh("ip", "route", "add", "10.65.2.0/26", "via", "192.0.2.9", "proto", "static")
        plugin = NoEncapRouting(node.context())

        await node.settle(plugin, *await node.interfaces(), remote("10.65.2.0/26", "192.0.2.2"))

        assert node.routes(4)["10.65.2.0/26"]["gateway"] == "192.0.2.9"
        assert "10.65.2.0/26" in node.notifications[0].message
        await plugin.close()

    node.run(scenario)


def test_link_that_goes_and_comes_back(node: Any) -> None:
    async def scenario() -> None:
        add_fabric(node)
        plugin = NoEncapRouting(node.context())
        await node.settle(plugin, *await node.interfaces(), remote("10.65.2.0/26", "192.0.2.2"))

        node.sh("ip", "link", "del", "eth0")
        await node.settle(plugin, InterfaceRemove(name="eth0"))
        assert node.routes(4, "proto 80") == {}
        add_fabric(node)
        await node.settle(plugin, *await node.interfaces())

        assert set(node.routes(4, "proto 80")) == {"10.65.2.0/26"}
        await plugin.close()

    node.run(scenario)


def test_a_thousand_routes(node: Any) -> None:
    async def scenario() -> None:
        add_fabric(node)
        plugin = NoEncapRouting(node.context())
        blocks = [f"10.{100 + i // 256}.{i % 256}.0/26" for i in range(1000)]

        writes = await node.settle(
            plugin, *await node.interfaces(), *(remote(dst, "192.0.2.2") for dst in blocks)
        )

        assert writes == 1000
        assert set(node.routes(4, "proto 80")) == set(blocks)
        await plugin.close()

    node.run(scenario)
