"""What is read from the kernel is what the ip program shows."""

from typing import Any

import pytest

from calico_engine.kernel.netlink import Netlink

pytestmark = pytest.mark.kernel


def test_links_and_addresses_are_those_that_ip_shows(node: Any) -> None:
    async def scenario() -> None:
        for number in range(40):
            node.add_veth(f"cali{number}", up=number % 2 == 0)
        node.sh("ip", "address", "add", "192.0.2.1/24", "peer", "192.0.2.9/24", "dev", "cali0")
        node.sh("ip", "address", "add", "2001:db8::1/64", "dev", "cali0", "nodad")
        netlink = Netlink()

        links = {link.index: link for link in await netlink.links()}
        addresses = set(await netlink.addresses())

        shown = node.ip("address show")
        assert len(links) == 81
        assert {(i["ifindex"], i["ifname"], i["address"]) for i in shown} == {
            (link.index, link.name, link.mac) for link in links.values()
        }
        assert {i["ifindex"] for i in shown if "LOWER_UP" in i["flags"]} == {
            link.index for link in links.values() if link.up
        }
        local = {(i["ifindex"], a["local"]) for i in shown for a in i["addr_info"]}
        assert addresses == local
        assert {(links[index].name, address) for index, address in addresses} >= {
            ("cali0", "192.0.2.1"),
            ("cali0", "2001:db8::1"),
        }
        await netlink.close()

    node.run(scenario)


def test_routes_of_every_form_are_read(node: Any) -> None:
    async def scenario() -> None:
        node.add_veth("cali0")
        node.sh("ip", "address", "add", "192.0.2.1/24", "dev", "cali0")
        node.sh("ip", "-6", "address", "add", "2001:db8::1/64", "dev", "cali0", "nodad")
        node.sh("ip", "route", "add", "default", "via", "192.0.2.2", "proto", "80", "metric", "7")
        node.sh("ip", "route", "add", "10.1.0.0/16", "via", "198.51.100.1", "dev", "cali0", "onlink")
        hops = ["nexthop", "via", "192.0.2.2", "nexthop", "via", "192.0.2.3", "nexthop", "via", "192.0.2.4"]
        node.sh("ip", "route", "add", "10.2.0.0/16", *hops)
        node.sh("ip", "route", "add", "blackhole", "10.3.0.0/16", "proto", "80")
        node.sh("ip", "route", "add", "10.4.0.1/32", "dev", "cali0", "src", "192.0.2.1")
        node.sh("ip", "route", "add", "10.5.0.0/16", "dev", "cali0", "table", "1000")
        node.sh("ip", "-6", "route", "add", "2001:db8:1::/64", "via", "2001:db8::2", "metric", "9")
        node.sh("ip", "-6", "route", "add", "blackhole", "2001:db8:2::/64")
        netlink = Netlink()
        index = next(link.index for link in await netlink.links() if link.name == "cali0")

        four = {route.dst: route for route in await netlink.routes(4, 254)}
        six = {route.dst: route for route in await netlink.routes(6, 254)}
        other = await netlink.routes(4, 1000)

        default = four["0.0.0.0/0"]
        assert (default.gateway, default.oif, default.protocol, default.priority) == (
            "192.0.2.2",
            index,
            80,
            7,
        )
        assert four["10.1.0.0/16"].onlink
        assert four["10.2.0.0/16"].paths == 3
        assert (four["10.3.0.0/16"].kind, four["10.3.0.0/16"].oif) == (6, 0)
        assert four["10.4.0.1/32"].src == "192.0.2.1"
        assert "10.5.0.0/16" not in four
        assert [(route.dst, route.table) for route in other] == [("10.5.0.0/16", 1000)]
        assert (six["2001:db8:1::/64"].gateway, six["2001:db8:1::/64"].priority) == ("2001:db8::2", 9)
        assert (six["2001:db8:2::/64"].kind, six["2001:db8:2::/64"].oif) == (6, 0)
        await netlink.close()

    node.run(scenario)


def test_neighbours_that_stay_are_read(node: Any) -> None:
    async def scenario() -> None:
        node.add_veth("cali0")
        mac = "02:00:00:00:00:07"
        node.sh("ip", "neigh", "add", "192.0.2.7", "lladdr", mac, "dev", "cali0", "nud", "permanent")
        node.sh("ip", "neigh", "add", "192.0.2.8", "lladdr", mac, "dev", "cali0", "nud", "stale")
        netlink = Netlink()

        found = await netlink.permanent_neighbours()

        assert [(neighbour.address, neighbour.mac) for neighbour in found] == [("192.0.2.7", mac)]
        await netlink.close()

    node.run(scenario)
