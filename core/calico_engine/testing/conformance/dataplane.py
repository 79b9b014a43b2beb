"""The contract of a Dataplane or Routing plugin as tests: idempotent, restartable, clean, and quiet until it is told.

Subclass DataplaneConformance and give it a `harness` fixture. The suite speaks in Messages only: what the kernel then
holds is the plugin's own business, so it is compared with itself: after a restart, another order, a repair, a detour.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import pytest

from calico_engine.errors import KernelError
from calico_engine.messages import (
    ActivePolicyRemove,
    ActiveProfileRemove,
    ActiveRule,
    Batch,
    ConfigUpdate,
    HostEndpointRemove,
    InterfaceUpdate,
    IPSetDelta,
    IPSetRemove,
    Message,
    NodeRemove,
    NodeUpdate,
    PoolEncap,
    PoolRemove,
    PoolUpdate,
    RouteKind,
    RouteRemove,
    RouteUpdate,
    VtepRemove,
    VtepUpdate,
    WorkloadEndpointRemove,
)
from calico_engine.model import Action
from calico_engine.plugin import Dataplane
from calico_engine.settings import FelixSettings
from calico_engine.testing.messages import (
    endpoint_key,
    make_host_update,
    make_interface,
    make_policy_update,
    make_profile_update,
    make_set,
    make_tier,
    make_workload_update,
    policy_key,
    ports,
)

Scenario = Callable[[], Awaitable[None]]


class DataplaneHarness(Protocol):
    """One kernel (or what stands for it), with nothing of ours in it at first, and power over it."""

    def run(self, scenario: Scenario) -> None:
        """Run a scenario to its end where the plugin may work, say in a network namespace."""
        ...

    def make(self) -> Dataplane:
        """Return a new plugin on this kernel, as after a restart. Called within `run`."""
        ...

    def outside(self) -> object:
        """Return what of ours is in the kernel, by other means than the plugin's; compared with ==.

        False in a boolean context when there is nothing. Called within `run`.
        """
        ...

    def disturb(self) -> None:
        """Remove or change something of ours behind the plugin's back. Called within `run`."""
        ...

    def refusing(self) -> AbstractContextManager[None]:
        """Return a context within which the kernel refuses every change. Called within `run`.

        Where that cannot be done a suite sets `test_refused_change_is_an_error_and_done_later = None`.
        """
        ...


def run_here(scenario: Scenario) -> None:
    """Run a scenario in this thread: a harness's `run` when there is nothing to enter."""

    async def main() -> None:
        await scenario()

    asyncio.run(main())


SETTINGS = ConfigUpdate(settings=FelixSettings())
INTERFACES: tuple[Message, ...] = (
    make_interface("cali1", index=1011),
    make_interface("cali2", index=1012),
    make_interface("eth0", "192.0.2.1", "2001:db8::1", index=1002),
)
SET = make_set("s:conformance-web", "10.65.0.1", "10.66.0.0/24", "fd00::1", "fd00:1::/64")
OTHER_SET = make_set("s:conformance-db", "10.65.0.2", "fd00::2")
POLICY = make_policy_update(
    "web",
    inbound=[
        ActiveRule(
            action=Action.ALLOW, protocol=6, src_sets=(SET.set_id,), dst_ports=ports(80, (8000, 8080))
        ),
        ActiveRule(action=Action.DENY, src_nets=("192.0.2.0/24", "2001:db8::/32")),
    ],
    outbound=[ActiveRule(action=Action.ALLOW, dst_sets=(OTHER_SET.set_id,))],
)
OTHER_POLICY = make_policy_update("db", inbound=[ActiveRule(action=Action.ALLOW, not_src_sets=(SET.set_id,))])
PROFILE = make_profile_update("default", inbound=[ActiveRule(action=Action.ALLOW)])
WEB = make_workload_update("web-1", interface="cali1", tiers=[make_tier("web")], profiles=["default"])
DB = make_workload_update(
    "db-1", interface="cali2", networks=("10.65.0.2/32", "fd00::2/128"), tiers=[make_tier("web", "db")]
)
HOST = make_host_update("node-1-eth0", interface="eth0", tiers=[make_tier("db")])
NODES = (
    NodeUpdate(node="node-1", ipv4_address="192.0.2.1/24", ipv6_address="2001:db8::1/64"),
    NodeUpdate(node="node-2", ipv4_address="192.0.2.2/24", ipv6_address="2001:db8::2/64"),
)
POOLS = (
    PoolUpdate(cidr="10.65.0.0/16", nat_outgoing=True, encap=PoolEncap.NONE),
    PoolUpdate(cidr="fd00::/48", nat_outgoing=True, encap=PoolEncap.NONE),
)
ROUTES = (
    RouteUpdate(dst="10.65.0.1/32", kind=RouteKind.LOCAL_WORKLOAD, node="node-1"),
    RouteUpdate(dst="fd00::1/128", kind=RouteKind.LOCAL_WORKLOAD, node="node-1"),
    RouteUpdate(dst="10.65.1.0/26", kind=RouteKind.REMOTE_BLOCK, node="node-2", next_hop="192.0.2.2"),
    RouteUpdate(dst="fd00::1:0/122", kind=RouteKind.REMOTE_BLOCK, node="node-2", next_hop="2001:db8::2"),
)
VTEP = VtepUpdate(node="node-2", parent_ipv4="192.0.2.2", ipv4_address="10.65.1.1", mac="66:00:00:00:00:02")

SETS = (SET, OTHER_SET)
POLICIES = (POLICY, OTHER_POLICY, PROFILE)
ENDPOINTS = (WEB, DB, HOST)
NETWORK = (*NODES, *POOLS, *ROUTES, VTEP)

#: Everything that the suite says of a node, what is referred to first.
WORLD: tuple[Message, ...] = (SETTINGS, *INTERFACES, *SETS, *POLICIES, *ENDPOINTS, *NETWORK)
#: The same without one endpoint, its policy, a set's member and the other node.
LESS: tuple[Message, ...] = (
    SETTINGS,
    *INTERFACES,
    make_set(SET.set_id, "10.65.0.1", "fd00::1"),
    OTHER_SET,
    POLICY,
    PROFILE,
    WEB,
    NODES[0],
    *POOLS,
    *ROUTES[:2],
)
#: From WORLD to LESS.
REMOVALS: tuple[Message, ...] = (
    WorkloadEndpointRemove(endpoint=endpoint_key("db-1")),
    HostEndpointRemove(endpoint=HOST.endpoint),
    ActivePolicyRemove(policy=policy_key("db")),
    IPSetDelta(set_id=SET.set_id, added=frozenset(), removed=frozenset({"10.66.0.0/24", "fd00:1::/64"})),
    RouteRemove(dst=ROUTES[2].dst),
    RouteRemove(dst=ROUTES[3].dst),
    VtepRemove(node="node-2"),
    NodeRemove(node="node-2"),
)
#: From LESS to nothing but settings and interfaces.
LAST_REMOVALS: tuple[Message, ...] = (
    WorkloadEndpointRemove(endpoint=WEB.endpoint),
    ActivePolicyRemove(policy=policy_key("web")),
    ActiveProfileRemove(profile="default"),
    IPSetRemove(set_id=SET.set_id),
    IPSetRemove(set_id=OTHER_SET.set_id),
    *(RouteRemove(dst=route.dst) for route in ROUTES[:2]),
    *(PoolRemove(cidr=pool.cidr) for pool in POOLS),
    NodeRemove(node="node-1"),
)


class Driver:
    """A plugin under test, and the revision it has been told."""

    def __init__(self, plugin: Dataplane) -> None:
        self.plugin = plugin
        self._revisions = itertools.count(1)

    def tell(self, *messages: Message, in_sync: bool = True) -> None:
        self.plugin.on_batch(Batch(revision=next(self._revisions), in_sync=in_sync, messages=messages))

    async def settle(self, *messages: Message) -> int:
        """Tell, apply and prune, as the engine does; return the number of writes."""
        if messages:
            self.tell(*messages)
        applied = await self.plugin.apply()
        pruned = await self.plugin.prune()
        return applied.writes + pruned.writes


class DataplaneConformance:
    """Every test gets a kernel with nothing of ours. Subclass and define the fixture `harness`."""

    #: Whether the plugin has something to program for WORLD. A routing plugin may have nothing for one node alone.
    programs_something = True

    @pytest.fixture
    def harness(self) -> DataplaneHarness:
        raise NotImplementedError("define a fixture `harness` that returns a DataplaneHarness")

    def make(self, harness: DataplaneHarness) -> Dataplane:
        """Return a new plugin, which `run` will close."""
        plugin = harness.make()
        self.__dict__.setdefault("made", []).append(plugin)
        return plugin

    def run(self, harness: DataplaneHarness, scenario: Scenario) -> None:
        """Run a scenario where the plugin may work, and close every plugin that it made."""

        async def run_and_close() -> None:
            try:
                await scenario()
            finally:
                for plugin in self.__dict__.pop("made", []):
                    await plugin.close()

        harness.run(run_and_close)

    def reference(self, harness: DataplaneHarness, messages: Sequence[Message]) -> object:
        """Return what the kernel holds when a plugin is told just this, on the harness's still empty kernel."""
        seen: list[object] = []

        async def scenario() -> None:
            driver = Driver(self.make(harness))
            await driver.settle(*messages)
            seen.append(harness.outside())
            await driver.plugin.cleanup()

        self.run(harness, scenario)
        return seen[0]

    # Quiet until told

    def test_plugin_keeps_the_protocol(self, harness: DataplaneHarness) -> None:
        async def scenario() -> None:
            assert isinstance(self.make(harness), Dataplane)

        self.run(harness, scenario)

    def test_nothing_is_written_before_apply(self, harness: DataplaneHarness) -> None:
        async def scenario() -> None:
            driver = Driver(self.make(harness))
            driver.tell(*WORLD[:5], in_sync=False)
            driver.tell(*WORLD)
            driver.plugin.invalidate("test")

            assert not harness.outside()

        self.run(harness, scenario)

    def test_render_and_plan_write_nothing(self, harness: DataplaneHarness) -> None:
        async def scenario() -> None:
            driver = Driver(self.make(harness))
            driver.tell(*WORLD)

            text = driver.plugin.render()
            changes = await driver.plugin.plan()

            assert not harness.outside()
            assert driver.plugin.render() == text
            if self.programs_something:
                assert text
                assert {change.action for change in changes} >= {"+"}

        self.run(harness, scenario)

    def test_plugin_without_any_word_applies(self, harness: DataplaneHarness) -> None:
        async def scenario() -> None:
            driver = Driver(self.make(harness))

            assert isinstance(driver.plugin.render(), str)
            await driver.settle(SETTINGS)
            assert await driver.settle() == 0

        self.run(harness, scenario)

    # Idempotent

    def test_second_apply_writes_nothing(self, harness: DataplaneHarness) -> None:
        async def scenario() -> None:
            driver = Driver(self.make(harness))
            first = await driver.settle(*WORLD)
            there = harness.outside()

            assert await driver.settle() == 0
            assert harness.outside() == there
            assert bool(first) == bool(there) or not self.programs_something
            assert not list(await driver.plugin.plan())

        self.run(harness, scenario)

    def test_saying_the_same_again_writes_nothing(self, harness: DataplaneHarness) -> None:
        async def scenario() -> None:
            driver = Driver(self.make(harness))
            await driver.settle(*WORLD)

            assert await driver.settle(*WORLD) == 0

        self.run(harness, scenario)

    def test_restart_writes_nothing(self, harness: DataplaneHarness) -> None:
        async def scenario() -> None:
            first = Driver(self.make(harness))
            await first.settle(*WORLD)
            there = harness.outside()
            await first.plugin.close()
            assert harness.outside() == there

            assert await Driver(self.make(harness)).settle(*WORLD) == 0
            assert harness.outside() == there

        self.run(harness, scenario)

    def test_reading_back_finds_nothing_to_do(self, harness: DataplaneHarness) -> None:
        async def scenario() -> None:
            driver = Driver(self.make(harness))
            await driver.settle(*WORLD)

            driver.plugin.invalidate("test")

            assert await driver.settle() == 0

        self.run(harness, scenario)

    # A function of the present

    def test_state_does_not_depend_on_what_was_before(self, harness: DataplaneHarness) -> None:
        wanted = self.reference(harness, LESS)

        async def scenario() -> None:
            driver = Driver(self.make(harness))
            await driver.settle(*WORLD)
            await driver.settle(*REMOVALS)

            assert harness.outside() == wanted
            assert not list(await driver.plugin.plan())

        self.run(harness, scenario)

    def test_state_does_not_depend_on_how_it_was_told(self, harness: DataplaneHarness) -> None:
        wanted = self.reference(harness, WORLD)

        async def scenario() -> None:
            driver = Driver(self.make(harness))
            for message in WORLD:
                await driver.settle(message)

            assert harness.outside() == wanted

        self.run(harness, scenario)

    def test_network_may_come_in_any_order(self, harness: DataplaneHarness) -> None:
        wanted = self.reference(harness, WORLD)

        async def scenario() -> None:
            driver = Driver(self.make(harness))
            await driver.settle(SETTINGS, *SETS, *POLICIES, *ENDPOINTS)
            for message in reversed((*INTERFACES, *NETWORK)):
                await driver.settle(message)

            assert harness.outside() == wanted

        self.run(harness, scenario)

    def test_what_came_and_went_leaves_nothing(self, harness: DataplaneHarness) -> None:
        wanted = self.reference(harness, (SETTINGS, *INTERFACES))

        async def scenario() -> None:
            driver = Driver(self.make(harness))
            await driver.settle(*WORLD)
            await driver.settle(*REMOVALS, *LAST_REMOVALS)

            assert harness.outside() == wanted

        self.run(harness, scenario)

    def test_what_changed_while_nobody_ran_is_found(self, harness: DataplaneHarness) -> None:
        wanted = self.reference(harness, LESS)

        async def scenario() -> None:
            await Driver(self.make(harness)).settle(*WORLD)

            await Driver(self.make(harness)).settle(*LESS)

            assert harness.outside() == wanted

        self.run(harness, scenario)

    # Repair

    def test_disturbance_is_seen_and_repaired(self, harness: DataplaneHarness) -> None:
        async def scenario() -> None:
            driver = Driver(self.make(harness))
            await driver.settle(*WORLD)
            there = harness.outside()
            harness.disturb()
            assert harness.outside() != there

            assert list(await driver.plugin.plan())
            driver.plugin.invalidate("test")
            assert await driver.settle() > 0

            assert harness.outside() == there
            assert not list(await driver.plugin.plan())

        self.run(harness, scenario)

    def test_refused_change_is_an_error_and_done_later(self, harness: DataplaneHarness) -> None:
        wanted = self.reference(harness, WORLD)

        async def scenario() -> None:
            driver = Driver(self.make(harness))
            driver.tell(*WORLD)
            with harness.refusing(), pytest.raises(KernelError):
                await driver.plugin.apply()

            await driver.settle()

            assert harness.outside() == wanted

        self.run(harness, scenario)

    # Clean

    def test_cleanup_removes_everything_of_ours(self, harness: DataplaneHarness) -> None:
        async def scenario() -> None:
            driver = Driver(self.make(harness))
            await driver.settle(*WORLD)
            assert bool(harness.outside()) or not self.programs_something

            assert bool(await driver.plugin.cleanup()) or not self.programs_something

            assert not harness.outside()
            assert await driver.plugin.cleanup() == 0

        self.run(harness, scenario)

    def test_cleanup_needs_no_memory(self, harness: DataplaneHarness) -> None:
        async def scenario() -> None:
            await Driver(self.make(harness)).settle(*WORLD)

            await self.make(harness).cleanup()

            assert not harness.outside()

        self.run(harness, scenario)

    def test_apply_after_cleanup_programs_everything_again(self, harness: DataplaneHarness) -> None:
        async def scenario() -> None:
            driver = Driver(self.make(harness))
            await driver.settle(*WORLD)
            there = harness.outside()
            await driver.plugin.cleanup()

            driver.plugin.invalidate("cleaned up")
            await driver.settle()

            assert harness.outside() == there

        self.run(harness, scenario)

    # What it says

    def test_results_name_local_endpoints_only(self, harness: DataplaneHarness) -> None:
        async def scenario() -> None:
            driver = Driver(self.make(harness))
            driver.tell(*WORLD)

            result = await driver.plugin.apply()

            assert set(result.endpoint_status) <= {endpoint.endpoint for endpoint in ENDPOINTS}
            assert result.resync_after_s is None or result.resync_after_s >= 0

        self.run(harness, scenario)

    def test_endpoint_whose_interface_goes_and_comes(self, harness: DataplaneHarness) -> None:
        async def scenario() -> None:
            driver = Driver(self.make(harness))
            await driver.settle(*WORLD)
            there = harness.outside()

            await driver.settle(make_interface("cali1", index=1011, up=False))
            await driver.settle(InterfaceUpdate(name="cali1", index=1011, up=True))

            assert harness.outside() == there

        self.run(harness, scenario)
