"""RouteTable against a real kernel: any table, many routes, the kernel's reasons."""

from typing import Any

import pytest

from calico_engine.kernel.routes import Route, RouteTable, RouteType, make_route, route_text

pytestmark = pytest.mark.kernel(features=("veth",))

BOTH = pytest.mark.parametrize("family", [4, 6])


def owns(route: Route) -> bool:
    return route.protocol == 80


def block(family: int, number: int) -> str:
    return f"10.{number >> 8}.{number & 255}.0/24" if family == 4 else f"fd00:{number:x}::/64"


@BOTH
def test_many_routes_in_a_table_of_its_own(node: Any, family: int) -> None:
    async def scenario() -> None:
        table = RouteTable("test", owns, table=1000)
        for number in range(1000):
            table.set_desired(make_route(block(family, number), 80, kind=RouteType.BLACKHOLE))

        written = await table.apply()

        shown = node.ip(f"-{family} route show table 1000")
        assert len(written) == len(shown) == 1000
        assert node.routes(family, "proto 80") == {}
        table.invalidate()
        assert await table.apply() == []
        assert await table.prune() == []
        assert await table.cleanup() == 1000
        assert node.ip(f"-{family} route show table 1000") == []
        await table.close()

    node.run(scenario)


@BOTH
def test_refusal_has_the_kernels_reason_and_the_others_are_written(node: Any, family: int) -> None:
    gateway = "192.0.2.1" if family == 4 else "2001:db8::1"

    async def scenario() -> None:
        table = RouteTable("test", owns)
        bad = make_route(block(family, 1), 80, gateway=gateway)
        table.set_desired(bad)
        table.set_desired(make_route(block(family, 2), 80, kind=RouteType.BLACKHOLE))

        await table.apply()

        assert set(node.routes(family, "proto 80")) == {block(family, 2)}
        assert set(table.refused) == {bad.key}
        assert table.refused[bad.key]
        await table.close()

    node.run(scenario)


def test_second_route_of_ours_to_one_place_is_removed(node: Any) -> None:
    async def scenario() -> None:
        for name, address in (("eth0", "192.0.2.1/24"), ("eth1", "198.51.100.1/24")):
            node.add_veth(name)
            node.sh("ip", "addr", "add", address, "dev", name)
        for gateway in ("192.0.2.2", "198.51.100.2"):
            node.sh("ip", "route", "append", "10.1.0.0/24", "via", gateway, "proto", "80")
        table = RouteTable("test", owns)
        for interface in await node.interfaces():
            table.note_interface(interface)
        table.set_desired(make_route("10.1.0.0/24", 80, interface="eth1", gateway="198.51.100.2"))

        await table.apply()
        await table.prune()

        left = [route["gateway"] for route in node.ip("route show 10.1.0.0/24")]
        assert left == ["198.51.100.2"]
        assert table.in_sync
        await table.close()

    node.run(scenario)


@BOTH
def test_plan_writes_nothing_and_says_everything(node: Any, family: int) -> None:
    async def scenario() -> None:
        node.sh("ip", f"-{family}", "route", "add", "blackhole", block(family, 7), "proto", "80")
        table = RouteTable("test", owns)
        wanted = make_route(block(family, 8), 80, kind=RouteType.BLACKHOLE)
        table.set_desired(wanted)

        changes = await table.plan()

        assert [change.action for change in changes] == ["+", "-"]
        assert changes[0].text == route_text(wanted)
        assert set(node.routes(family, "proto 80")) == {block(family, 7)}
        await table.close()

    node.run(scenario)
