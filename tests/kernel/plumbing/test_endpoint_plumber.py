"""EndpointPlumber against a real kernel: what `ip` and /proc/sys show afterwards."""

from typing import Any

import pytest

from calico_engine.kernel.plumbing import GRACE_S, EndpointPlumber
from calico_engine.messages import (
    ConfigUpdate,
    InterfaceRemove,
    RouteKind,
    RouteRemove,
    RouteUpdate,
    WorkloadEndpointRemove,
    WorkloadEndpointUpdate,
)
from calico_engine.model.resource import ResourceKey
from calico_engine.plugin.protocols import EndpointStatus
from calico_engine.settings import FelixSettings, Layout

pytestmark = pytest.mark.kernel(features=("veth",))

V4, V6 = "10.65.0.2", "fd00:65::2"


def key(name: str) -> ResourceKey:
    return ResourceKey("WorkloadEndpoint", "default", name)


def endpoint(
    name: str = "a", interface: str = "cali1", *networks: str, mac: str = "", **fields: Any
) -> WorkloadEndpointUpdate:
    return WorkloadEndpointUpdate(
        endpoint=key(name),
        interface_name=interface,
        ip_networks=networks or (f"{V4}/32", f"{V6}/128"),
        mac=mac,
        **fields,
    )


def test_interface_first_gets_routes_of_both_families(node: Any) -> None:
    async def scenario() -> None:
        node.add_veth("cali1")
        plumber = EndpointPlumber(node.context())

        await node.settle(plumber, *await node.interfaces(), endpoint())

        four, six = node.routes(4), node.routes(6)
        assert four[V4] == four[V4] | {"dev": "cali1", "protocol": "boot", "scope": "link", "metric": 1024}
        assert six[V6] == six[V6] | {"dev": "cali1", "protocol": "boot", "metric": 1024}
        await plumber.close()

    node.run(scenario)


def test_second_apply_writes_nothing(node: Any) -> None:
    async def scenario() -> None:
        node.add_veth("cali1")
        plumber = EndpointPlumber(node.context())
        first = await node.settle(plumber, *await node.interfaces(), endpoint(mac="ee:ee:ee:ee:ee:01"))
        assert first > 0

        assert await node.settle(plumber) == 0
        plumber.invalidate("test")
        assert await node.settle(plumber) == 0
        assert list(await plumber.plan()) == []
        await plumber.close()

    node.run(scenario)


def test_parameters_of_a_workload_interface(node: Any) -> None:
    async def scenario() -> None:
        node.add_veth("cali1")
        plumber = EndpointPlumber(node.context())

        await node.settle(plumber, *await node.interfaces(), endpoint())

        assert node.sysctl("net/ipv4/ip_forward") == "1"
        assert node.sysctl("net/ipv6/conf/all/forwarding") == "1"
        expected = {
            "ipv4/conf/cali1/route_localnet": "1",
            "ipv4/conf/cali1/proxy_arp": "1",
            "ipv4/conf/cali1/forwarding": "1",
            "ipv4/conf/cali1/rp_filter": node.sysctl("net/ipv4/conf/default/rp_filter"),
            "ipv4/neigh/cali1/proxy_delay": "0",
            "ipv6/conf/cali1/proxy_ndp": "1",
            "ipv6/conf/cali1/forwarding": "1",
            "ipv6/conf/cali1/accept_ra": "0",
        }
        assert {name: node.sysctl(f"net/{name}") for name in expected} == expected
        await plumber.close()

    node.run(scenario)


def test_a_node_that_forwards_nothing_stays_so(node: Any) -> None:
    async def scenario() -> None:
        names = ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding")
        for name in names:
            node.sh("sh", "-c", f"echo 0 > /proc/sys/{name}")
        plumber = EndpointPlumber(node.context(FelixSettings(ip_forwarding="Disabled")))

        await node.settle(plumber)

        assert [node.sysctl(name) for name in names] == ["0", "0"]
        await plumber.close()

    node.run(scenario)


def test_layout_v2_checks_the_reverse_path(node: Any) -> None:
    async def scenario() -> None:
        node.add_veth("cali1")
        plumber = EndpointPlumber(node.context(FelixSettings(layout=Layout.V2)))

        await node.settle(plumber, *await node.interfaces(), endpoint())

        assert node.sysctl("net/ipv4/conf/cali1/rp_filter") == "1"
        await plumber.close()

    node.run(scenario)


def test_interface_that_comes_later(node: Any) -> None:
    async def scenario() -> None:
        plumber = EndpointPlumber(node.context())
        plumber.on_batch(node.batch(*await node.interfaces(), endpoint()))
        result = await plumber.apply()
        assert result.endpoint_status == {key("a"): EndpointStatus.DOWN}
        assert V4 not in node.routes(4)

        node.add_veth("cali1")
        plumber.on_batch(node.batch(*await node.interfaces()))
        result = await plumber.apply()

        assert result.endpoint_status == {key("a"): EndpointStatus.UP}
        assert node.routes(4)[V4]["dev"] == "cali1"
        assert node.routes(6)[V6]["dev"] == "cali1"
        assert node.sysctl("net/ipv4/conf/cali1/proxy_arp") == "1"
        await plumber.close()

    node.run(scenario)


def test_interface_that_goes_down_and_up_gets_its_routes_back(node: Any) -> None:
    async def scenario() -> None:
        node.add_veth("cali1")
        plumber = EndpointPlumber(node.context())
        await node.settle(plumber, *await node.interfaces(), endpoint())

        node.sh("ip", "link", "set", "cali1", "down")
        plumber.on_batch(node.batch(*await node.interfaces()))
        down = await plumber.apply()
        node.set_up("cali1")
        plumber.on_batch(node.batch(*await node.interfaces()))
        up = await plumber.apply()

        assert down.endpoint_status == {key("a"): EndpointStatus.DOWN}
        assert up.endpoint_status == {key("a"): EndpointStatus.UP}
        assert V4 in node.routes(4)
        assert V6 in node.routes(6)
        await plumber.close()

    node.run(scenario)


def test_interface_made_anew_under_its_name(node: Any) -> None:
    async def scenario() -> None:
        node.add_veth("cali1")
        plumber = EndpointPlumber(node.context())
        await node.settle(plumber, *await node.interfaces(), endpoint())

        node.sh("ip", "link", "del", "cali1")
        await node.settle(plumber, InterfaceRemove(name="cali1"))
        assert V4 not in node.routes(4)
        node.add_veth("cali1")
        await node.settle(plumber, *await node.interfaces())

        assert node.routes(4)[V4]["dev"] == "cali1"
        assert node.sysctl("net/ipv4/conf/cali1/proxy_arp") == "1"
        await plumber.close()

    node.run(scenario)


def test_interface_that_vanished_before_its_event(node: Any) -> None:
    async def scenario() -> None:
        node.add_veth("cali1")
        plumber = EndpointPlumber(node.context())
        stale = await node.interfaces()
        node.sh("ip", "link", "del", "cali1")

        await node.settle(plumber, *stale, endpoint())

        assert V4 not in node.routes(4)
        await plumber.close()

    node.run(scenario)


def test_removed_endpoint_leaves_nothing(node: Any) -> None:
    async def scenario() -> None:
        node.add_veth("cali1")
        plumber = EndpointPlumber(node.context())
        await node.settle(plumber, *await node.interfaces(), endpoint(mac="ee:ee:ee:ee:ee:01"))

        await node.settle(plumber, WorkloadEndpointRemove(endpoint=key("a")))

        assert V4 not in node.routes(4)
        assert V6 not in node.routes(6)
        assert [entry for entry in node.ip("-4 neigh show dev cali1") if "PERMANENT" in entry["state"]] == []
        await plumber.close()

    node.run(scenario)


def test_address_moves_to_another_interface(node: Any) -> None:
    async def scenario() -> None:
        node.add_veth("cali1")
        node.add_veth("cali2")
        plumber = EndpointPlumber(node.context())
        await node.settle(plumber, *await node.interfaces(), endpoint())

        await node.settle(plumber, endpoint("a", "cali2"))

        assert node.routes(4)[V4]["dev"] == "cali2"
        assert node.routes(6)[V6]["dev"] == "cali2"
        await plumber.close()

    node.run(scenario)


@pytest.mark.parametrize("interface", ["lo", "eth0", ""])
def test_interface_that_is_not_the_workloads_is_left_alone(node: Any, interface: str) -> None:
    async def scenario() -> None:
        node.add_veth("eth0")
        before = node.sysctl("net/ipv4/conf/eth0/proxy_arp"), node.sysctl("net/ipv4/conf/lo/route_localnet")
        plumber = EndpointPlumber(node.context())

        await node.settle(plumber, *await node.interfaces(), endpoint("a", interface))

        assert V4 not in node.routes(4)
        assert V6 not in node.routes(6)
        after = node.sysctl("net/ipv4/conf/eth0/proxy_arp"), node.sysctl("net/ipv4/conf/lo/route_localnet")
        assert after == before
        status = (await plumber.apply()).endpoint_status[key("a")]
        assert status is (EndpointStatus.ERROR if interface else EndpointStatus.DOWN)
        why = f"is not connected: spec.interfaceName {interface} does not begin with InterfacePrefix cali"
        expected = [f"WorkloadEndpoint(default/a) {why}"] if interface else []
        assert list(plumber.problems.values()) == expected

        await node.settle(plumber, endpoint("a", "cali1"))
        assert plumber.problems == {}
        await plumber.close()

    node.run(scenario)


def test_static_neighbour_has_the_endpoints_mac(node: Any) -> None:
    async def scenario() -> None:
        node.add_veth("cali1")
        plumber = EndpointPlumber(node.context())

        await node.settle(plumber, *await node.interfaces(), endpoint(mac="EE:EE:EE:EE:EE:01"))

        entries = {entry["dst"]: entry for entry in node.ip("-4 neigh show dev cali1")}
        assert entries[V4]["lladdr"] == "ee:ee:ee:ee:ee:01"
        assert entries[V4]["state"] == ["PERMANENT"]
        await plumber.close()

    node.run(scenario)


@pytest.mark.parametrize("order", [("a", "b"), ("b", "a")])
def test_two_endpoints_with_one_interface(node: Any, order: tuple[str, str]) -> None:
    async def scenario() -> None:
        node.add_veth("cali1")
        plumber = EndpointPlumber(node.context())
        both = {"a": endpoint("a", "cali1", "10.65.0.2/32"), "b": endpoint("b", "cali1", "10.65.0.3/32")}
        plumber.on_batch(node.batch(*await node.interfaces(), *(both[name] for name in order)))

        result = await plumber.apply()

        assert set(node.routes(4)) == {"10.65.0.2"}
        assert result.endpoint_status == {key("a"): EndpointStatus.UP, key("b"): EndpointStatus.ERROR}
        assert [note.message for note in node.notifications] == [
            f"interface cali1 is claimed by {key('a')} and {key('b')}; {key('a')} has it"
        ]
        await node.settle(plumber, WorkloadEndpointRemove(endpoint=key("a")))
        assert set(node.routes(4)) == {"10.65.0.3"}
        await plumber.close()

    node.run(scenario)


@pytest.mark.parametrize("order", [("a", "b"), ("b", "a")])
def test_two_endpoints_with_one_address(node: Any, order: tuple[str, str]) -> None:
    async def scenario() -> None:
        node.add_veth("cali1")
        node.add_veth("cali2")
        plumber = EndpointPlumber(node.context())
        both = {"a": endpoint("a", "cali1"), "b": endpoint("b", "cali2")}
        plumber.on_batch(node.batch(*await node.interfaces(), *(both[name] for name in order)))

        result = await plumber.apply()

        assert node.routes(4)[V4]["dev"] == "cali1"
        assert result.endpoint_status == {key("a"): EndpointStatus.UP, key("b"): EndpointStatus.ERROR}
        assert {note.message for note in node.notifications} == {
            f"address {address} is claimed by {key('a')} and {key('b')}; {key('a')} has it"
            for address in (f"{V4}/32", f"{V6}/128")
        }
        node.sh("ip", "link", "set", "cali1", "down")
        await node.settle(plumber, *await node.interfaces())
        assert node.routes(4)[V4]["dev"] == "cali2"
        await plumber.close()

    node.run(scenario)


def test_local_block_is_a_blackhole_but_for_single_addresses(node: Any) -> None:
    async def scenario() -> None:
        plumber = EndpointPlumber(node.context())
        blocks = ("10.65.0.0/26", "10.66.0.9/32", "fd00:65::/122", "fd00:66::9/128")

        await node.settle(
            plumber, *(RouteUpdate(dst=dst, kind=RouteKind.LOCAL_BLOCK, node="n1") for dst in blocks)
        )

        assert {dst: route["type"] for dst, route in node.routes(4, "proto 80").items()} == {
            "10.65.0.0/26": "blackhole"
        }
        assert set(node.routes(6, "proto 80")) == {"fd00:65::/122"}
        await node.settle(plumber, *(RouteRemove(dst=dst) for dst in blocks))
        assert node.routes(4, "proto 80") == {}
        assert node.routes(6, "proto 80") == {}
        await plumber.close()

    node.run(scenario)


def test_stale_routes_of_a_former_run_are_removed_and_nobody_elses(node: Any) -> None:
    async def scenario() -> None:
        node.add_veth("cali1")
        node.add_veth("eth9")
        for words in (
            "route add 10.65.9.9/32 dev cali1 proto 3 metric 1024",  # ours, of a former run
            "route add 10.65.9.8/32 dev cali1 proto static",  # on our interface: RemoveExternalRoutes
            "route add 10.70.0.0/24 dev eth9 proto 3",  # protocol boot, not our interface
            "route add 10.71.0.0/24 dev eth9 proto static",
            "route add blackhole 10.72.0.0/24 proto static",
            "route add blackhole 10.73.0.0/24 proto 80",  # ours
            "-6 route add fd00:65::9 dev cali1 proto 3",
        ):
            node.sh("ip", *words.split())
        plumber = EndpointPlumber(node.context())

        await node.settle(plumber, *await node.interfaces(), endpoint())

        assert set(node.routes(4)) == {V4, "10.70.0.0/24", "10.71.0.0/24", "10.72.0.0/24"}
        assert "fd00:65::9" not in node.routes(6)
        assert any(
            route["dst"] == "fe80::/64" and route["dev"] == "cali1" for route in node.ip("-6 route show")
        )
        await plumber.close()

    node.run(scenario)


def test_external_routes_stay_when_told_so(node: Any) -> None:
    async def scenario() -> None:
        node.add_veth("cali1")
        node.sh("ip", "route", "add", "10.65.9.8/32", "dev", "cali1", "proto", "static")
        plumber = EndpointPlumber(node.context(FelixSettings(remove_external_routes=False)))

        await node.settle(plumber, *await node.interfaces(), endpoint())

        assert set(node.routes(4)) == {V4, "10.65.9.8"}
        await plumber.close()

    node.run(scenario)


def test_new_interfaces_routes_are_left_for_a_while(node: Any) -> None:
    async def scenario() -> None:
        now = [100.0]
        plumber = EndpointPlumber(node.context(), clock=lambda: now[0])
        await node.settle(plumber, *await node.interfaces())
        node.add_veth("cali1")
        node.sh("ip", "route", "add", f"{V4}/32", "dev", "cali1", "scope", "link")

        plumber.invalidate("test")
        await node.settle(plumber, *await node.interfaces())
        assert V4 in node.routes(4)
        now[0] += GRACE_S + 1
        await node.settle(plumber)

        assert V4 not in node.routes(4)
        await plumber.close()

    node.run(scenario)


def test_route_removed_by_somebody_else_is_put_back(node: Any, wait: Any) -> None:
    async def scenario() -> None:
        node.add_veth("cali1")
        plumber = EndpointPlumber(node.context())
        await node.settle(plumber, *await node.interfaces(), endpoint())
        node.requests.clear()

        node.sh("ip", "route", "del", V4)
        await wait(lambda: bool(node.requests))
        await node.settle(plumber)

        assert V4 in node.routes(4)
        assert any(V4 in reason for reason in node.requests)
        assert [note.kind for note in node.notifications] == ["drift"]
        await plumber.close()

    node.run(scenario)


def test_route_changed_by_somebody_else_is_put_right(node: Any, wait: Any) -> None:
    async def scenario() -> None:
        node.add_veth("cali1")
        node.add_veth("cali2")
        plumber = EndpointPlumber(node.context())
        await node.settle(plumber, *await node.interfaces(), endpoint())
        node.requests.clear()

        node.sh("ip", "route", "replace", V4, "dev", "cali2", "proto", "3", "metric", "1024", "scope", "link")
        await wait(lambda: bool(node.requests))
        await node.settle(plumber)

        assert node.routes(4)[V4]["dev"] == "cali1"
        assert [note.kind for note in node.notifications] == ["drift"]
        await plumber.close()

    node.run(scenario)


def test_interface_that_goes_is_no_drift(node: Any, wait: Any) -> None:
    async def scenario() -> None:
        node.add_veth("cali1")
        plumber = EndpointPlumber(node.context())
        await node.settle(plumber, *await node.interfaces(), endpoint())
        node.requests.clear()

        # The kernel tells of the IPv6 routes that go with it.
        node.sh("ip", "link", "del", "cali1")
        await wait(lambda: bool(node.requests))
        await node.settle(plumber, InterfaceRemove(name="cali1"))
        node.add_veth("cali1")
        await node.settle(plumber, *await node.interfaces())

        assert V6 in node.routes(6)
        assert node.notifications == []
        await plumber.close()

    node.run(scenario)


def test_plan_names_what_somebody_else_changed(node: Any) -> None:
    async def scenario() -> None:
        node.add_veth("cali1")
        plumber = EndpointPlumber(node.context())
        await node.settle(plumber, *await node.interfaces(), endpoint())

        node.sh("ip", "route", "del", V4)
        node.sh("sh", "-c", "echo 0 > /proc/sys/net/ipv4/conf/cali1/proxy_arp")
        changes = [(change.action, change.text) for change in await plumber.plan()]

        assert ("~", "net/ipv4/conf/cali1/proxy_arp = 1") in changes
        assert ("+", f"{V4}/32 dev cali1 proto 3 scope link metric 1024") in changes
        assert len(changes) == 2
        assert V4 not in node.routes(4)
        await plumber.close()

    node.run(scenario)


def test_our_own_writes_are_no_drift(node: Any, wait: Any) -> None:
    async def scenario() -> None:
        node.add_veth("cali1")
        plumber = EndpointPlumber(node.context())
        await node.settle(plumber, *await node.interfaces(), endpoint())
        await node.settle(plumber, WorkloadEndpointRemove(endpoint=key("a")))
        await node.settle(plumber, endpoint("b"))

        # A drift made on purpose comes after the news of our own writes: it must be the only one.
        node.sh("ip", "route", "del", V4)
        await wait(lambda: bool(node.requests))

        assert len(node.requests) == 1
        await plumber.close()

    node.run(scenario)


def test_foreign_route_in_our_place_is_reported_and_kept(node: Any) -> None:
    async def scenario() -> None:
        node.add_veth("cali1")
        node.add_veth("eth9")
        node.sh("ip", "route", "add", f"{V4}/32", "dev", "eth9", "proto", "static", "metric", "1024")
        plumber = EndpointPlumber(node.context())
        plumber.on_batch(node.batch(*await node.interfaces(), endpoint("a", "cali1", f"{V4}/32")))

        result = await plumber.apply()

        assert node.routes(4)[V4]["dev"] == "eth9"
        assert result.endpoint_status == {key("a"): EndpointStatus.ERROR}
        assert V4 in node.notifications[0].message
        await plumber.close()

    node.run(scenario)


def test_device_route_protocol_and_source(node: Any) -> None:
    async def scenario() -> None:
        node.add_veth("cali1")
        node.sh("ip", "addr", "add", "192.0.2.7/32", "dev", "lo")
        node.sh("ip", "addr", "add", "2001:db8::7/128", "dev", "lo", "nodad")
        plumber = EndpointPlumber(node.context())
        await node.settle(plumber, *await node.interfaces(), endpoint())
        changed = FelixSettings(
            device_route_protocol=80,
            device_route_source_address="192.0.2.7",
            device_route_source_address_ipv6="2001:db8::7",
            ipv4_normal_route_priority=77,
            ipv6_normal_route_priority=88,
        )

        await node.settle(plumber, ConfigUpdate(settings=changed))

        route = node.routes(4)[V4]
        assert route == route | {"protocol": "80", "prefsrc": "192.0.2.7", "metric": 77}
        route = node.routes(6)[V6]
        assert route == route | {"protocol": "80", "prefsrc": "2001:db8::7", "metric": 88}
        await plumber.close()

    node.run(scenario)


def test_cleanup_without_memory(node: Any) -> None:
    async def scenario() -> None:
        node.add_veth("cali1")
        node.sh("ip", "route", "add", "10.71.0.0/24", "dev", "cali1", "proto", "kernel")
        plumber = EndpointPlumber(node.context())
        block = RouteUpdate(dst="10.65.0.0/26", kind=RouteKind.LOCAL_BLOCK, node="n1")
        await node.settle(plumber, *await node.interfaces(), endpoint(mac="ee:ee:ee:ee:ee:01"), block)
        await plumber.close()
        other = EndpointPlumber(node.context())

        removed = await other.cleanup()

        assert removed == 4  # two routes, a blackhole, a neighbour
        assert set(node.routes(4)) == {"10.71.0.0/24"}
        assert node.ip("-4 neigh show dev cali1") == []
        assert await other.cleanup() == 0
        await other.close()

    node.run(scenario)


@pytest.mark.kernel(tools=("conntrack", "iptables-legacy"), features=("veth",))
def test_connections_of_a_removed_address_are_forgotten(node: Any) -> None:
    async def scenario() -> None:
        node.add_veth("cali1")
        entry = "--protonum tcp --timeout 600 --state ESTABLISHED --sport 1000 --dport 80"
        for source, destination in ((V4, "10.9.9.9"), ("10.9.9.9", V4), ("10.9.9.9", "10.9.9.8")):
            node.sh("conntrack", "--create", "--src", source, "--dst", destination, *entry.split())
        plumber = EndpointPlumber(node.context())
        await node.settle(plumber, *await node.interfaces(), endpoint())

        await node.settle(plumber, WorkloadEndpointRemove(endpoint=key("a")))

        left = node.sh("conntrack", "--dump")
        assert V4 not in left
        assert "10.9.9.8" in left
        await plumber.close()

    node.run(scenario)


def test_render_needs_no_kernel(node: Any) -> None:
    plumber = EndpointPlumber(node.context())
    plumber.on_batch(node.batch(endpoint("a", "cali1", f"{V4}/32", mac="ee:ee:ee:ee:ee:01")))

    lines = plumber.render().splitlines()

    assert f"{V4}/32 dev cali1 proto 3 scope link metric 1024" in lines
    assert f"{V4} dev cali1 lladdr ee:ee:ee:ee:ee:01 PERMANENT" in lines
    assert "net/ipv4/conf/cali1/proxy_arp = 1" in lines
