"""The ipset plugin leaves the same sets behind whichever way it reaches the kernel."""

import asyncio
import errno
import os
import socket
import time
from typing import Any

import msgspec
import pytest

from calico_engine.errors import KernelError
from calico_engine.messages import IPSetDelta, IPSetRemove, IPSetUpdate, SetKind
from calico_engine.settings import FelixSettings
from calico_engine_ipset.config import IpsetConfig, KernelAccess
from calico_engine_ipset.plugin import IpsetDataplane

pytestmark = pytest.mark.kernel(tools=("ipset", "iptables-nft"), features=("ipset", "iptables-nft"))


@pytest.fixture(params=list(KernelAccess))
def access(request: pytest.FixtureRequest) -> KernelAccess:
    return KernelAccess(request.param)


def make(node: Any, access: KernelAccess, **settings: Any) -> IpsetDataplane:
    context = node.context(FelixSettings(**settings))
    return IpsetDataplane(msgspec.structs.replace(context, options=IpsetConfig(kernel_access=access)))


def net_set(*members: str, set_id: str = "s:a") -> IPSetUpdate:
    return IPSetUpdate(set_id=set_id, kind=SetKind.NET, members=frozenset(members))


def delta(added: tuple[str, ...] = (), removed: tuple[str, ...] = ()) -> IPSetDelta:
    return IPSetDelta(set_id="s:a", added=frozenset(added), removed=frozenset(removed))


def addresses(count: int) -> list[str]:
    return [f"10.{i >> 16}.{i >> 8 & 255}.{i & 255}" for i in range(count)]


def sets(node: Any) -> dict[str, set[str]]:
    """Return all sets and their members, as the ipset program prints them."""
    found: dict[str, set[str]] = {}
    for line in node.sh("ipset", "save").splitlines():
        words = line.split(" ", 2)
        if words[0] == "create":
            found[words[1]] = set()
        else:
            found[words[1]].add(words[2])
    return found


def use(node: Any, name: str) -> None:
    """Have a rule match on a set."""
    node.sh("iptables-nft", "-A", "INPUT", "-m", "set", "--match-set", name, "src", "-j", "DROP")


def test_fill_change_and_removal(node: Any, access: KernelAccess) -> None:
    async def scenario() -> None:
        plugin = make(node, access)
        named = IPSetUpdate(
            set_id="n:http", kind=SetKind.IP_PORT, members=frozenset({"10.0.0.1,tcp:80", "fd00::1,udp:53"})
        )
        await node.settle(plugin, net_set("10.0.0.1", "10.1.0.0/16", "::ffff:1.2.3.4", "0.0.0.0/0"), named)
        filled = sets(node)
        await node.settle(plugin, delta(("10.0.0.9",), ("10.0.0.1",)))
        changed = sets(node)
        again = await node.settle(plugin)
        plugin.invalidate("test")
        read_again = await node.settle(plugin)
        await node.settle(plugin, IPSetRemove(set_id="s:a"))

        assert filled["cali40s:a"] == {"10.0.0.1", "10.1.0.0/16", "0.0.0.0/1", "128.0.0.0/1"}
        assert filled["cali60s:a"] == {"::ffff:1.2.3.4"}
        assert (filled["cali40n:http"], filled["cali60n:http"]) == ({"10.0.0.1,tcp:80"}, {"fd00::1,udp:53"})
        assert changed["cali40s:a"] == {"10.0.0.9", "10.1.0.0/16", "0.0.0.0/1", "128.0.0.0/1"}
        assert (again, read_again) == (0, 0)
        assert not any("s:a" in name for name in sets(node))
        await plugin.close()

    node.run(scenario)


@pytest.mark.parametrize("count", [3, 3000])
def test_damage_by_others_is_mended(node: Any, access: KernelAccess, count: int) -> None:
    async def scenario() -> None:
        plugin = make(node, access)
        members = addresses(count)
        await node.settle(plugin, net_set(*members), net_set("10.0.0.3", set_id="s:b"))
        node.sh("ipset", "del", "cali40s:a", members[0])
        node.sh("ipset", "add", "cali40s:a", "11.0.0.9")
        node.sh("ipset", "add", "cali40s:b", "11.0.0.0/8", "nomatch")
        node.sh("ipset", "create", "theirs", "hash:ip")
        node.sh("ipset", "destroy", "cali60s:b")
        plugin.invalidate("test")
        planned = {change.where for change in await plugin.plan()}
        await node.settle(plugin)

        assert planned == {"cali40s:a", "cali40s:b", "cali60s:b"}
        found = sets(node)
        assert found["cali40s:a"] == set(members)
        assert found["cali40s:b"] == {"10.0.0.3"}
        assert found["cali60s:b"] == found["theirs"] == set()
        assert [note.kind for note in node.notifications] == ["drift"]
        plugin.invalidate("test")
        assert await node.settle(plugin) == 0
        await plugin.close()

    node.run(scenario)


def test_replacement_of_a_set_in_use_is_swapped_in(node: Any, access: KernelAccess) -> None:
    async def scenario() -> None:
        plugin = make(node, access)
        await node.settle(plugin, net_set(*addresses(5000)))
        use(node, "cali40s:a")
        await node.settle(plugin, net_set(*(f"11.0.{i >> 8}.{i & 255}" for i in range(5000))))

        found = sets(node)
        assert len(found["cali40s:a"]) == 5000
        assert "11.0.0.0" in found["cali40s:a"]
        assert not any(name.startswith("cali4t") for name in found)
        await plugin.close()

    node.run(scenario)


def test_restart_writes_nothing_and_removes_leftovers(node: Any, access: KernelAccess) -> None:
    async def scenario() -> None:
        first = make(node, access)
        await node.settle(first, net_set(*addresses(2000)))
        await first.close()
        node.sh("ipset", "create", "cali4t3", "hash:net")

        second = make(node, access)
        writes = await node.settle(second, net_set(*addresses(2000)))

        assert writes == 1  # the leftover
        assert "cali4t3" not in sets(node)
        await second.close()

    node.run(scenario)


@pytest.mark.parametrize("clash", ["hash:net maxelem 7", "hash:ip", "hash:net family inet6", "list:set"])
def test_set_of_another_shape_is_replaced(node: Any, access: KernelAccess, clash: str) -> None:
    async def scenario() -> None:
        node.sh("ipset", "create", "cali40s:a", *clash.split())
        plugin = make(node, access)
        await node.settle(plugin, net_set("10.0.0.1"))

        assert sets(node)["cali40s:a"] == {"10.0.0.1"}
        assert "hash:net family inet " in node.sh("ipset", "save", "cali40s:a")
        await plugin.close()

    node.run(scenario)


def test_busy_set_is_named_holds_up_no_other_and_is_kept(node: Any, access: KernelAccess) -> None:
    async def scenario() -> None:
        node.sh("ipset", "create", "cali40s:a", "hash:ip")
        use(node, "cali40s:a")
        plugin = make(node, access)
        plugin.on_batch(node.batch(net_set("10.0.0.1"), net_set("10.0.0.2", set_id="s:b")))
        with pytest.raises(KernelError, match="cali40s:a"):
            await plugin.apply()
        other = sets(node)["cali40s:b"]
        plugin.on_batch(node.batch(IPSetRemove(set_id="s:a"), IPSetRemove(set_id="s:b")))
        result = await plugin.prune()

        assert other == {"10.0.0.2"}
        assert {name for name in sets(node) if "s:" in name} == {"cali40s:a"}
        assert result.resync_after_s is not None
        await plugin.close()

    node.run(scenario)


def test_lost_answer_is_repaired_in_the_same_apply(node: Any) -> None:
    async def scenario() -> None:
        plugin = make(node, KernelAccess.NETLINK)
        await node.settle(plugin, net_set("10.0.0.1"))
        node.sh("ipset", "destroy", "cali40s:a")
        # What the plugin believes is there is not: the kernel refuses the change, the read-back says why.
        await node.settle(plugin, delta(("10.0.0.2",)))

        assert sets(node)["cali40s:a"] == {"10.0.0.1", "10.0.0.2"}
        await plugin.close()

    node.run(scenario)


@pytest.mark.parametrize("number", [errno.EPROTONOSUPPORT, errno.EACCES])
def test_without_netlink_the_program_is_used(
    node: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    """A kernel without nfnetlink refuses the socket itself; so does a security module."""
    real = socket.socket

    def refuse(family: int = -1, kind: int = -1, protocol: int = -1, fileno: int | None = None) -> Any:
        if family == socket.AF_NETLINK and protocol == 12:
            raise OSError(number, os.strerror(number))
        return real(family, kind, protocol, fileno)

    async def scenario() -> None:
        monkeypatch.setattr("calico_engine.kernel.ipset.socket.socket", refuse)
        plugin = make(node, KernelAccess.NETLINK)
        await node.settle(plugin, net_set("10.0.0.1"))

        assert sets(node)["cali40s:a"] == {"10.0.0.1"}
        assert "go through the ipset program" in caplog.text
        await plugin.close()

    node.run(scenario)


@pytest.mark.parametrize("v6", [0, 4, 30_000])
def test_large_set_is_filled_in_both_families(node: Any, access: KernelAccess, v6: int) -> None:
    async def scenario() -> None:
        plugin = make(node, access)
        await node.settle(plugin, net_set("10.0.0.1", set_id="s:b"))
        sixes = [f"fd00::{i:x}" for i in range(1, v6 + 1)]
        update = net_set(*addresses(25_000), *sixes, "0.0.0.0/0")
        plugin.on_batch(node.batch(update, delta(("11.0.0.1",), ("10.0.0.7",))))
        first = await plugin.apply()
        found = sets(node)
        again = await node.settle(plugin)
        plugin.invalidate("test")
        read_again = await node.settle(plugin)

        wanted = {*addresses(25_000), "0.0.0.0/1", "128.0.0.0/1", "11.0.0.1"} - {"10.0.0.7"}
        assert found["cali40s:a"] == wanted
        assert found["cali60s:a"] == set(sixes)
        assert {change.where for change in first.changes} == {"cali40s:a", "cali60s:a"}
        assert (again, read_again) == (0, 0)
        assert not node.notifications
        await plugin.close()

    node.run(scenario)


class Heartbeat:
    """Wants every turn of the event loop, and keeps the longest time that something else took of its thread."""

    def __init__(self) -> None:
        self.longest_s = 0.0
        self._task = asyncio.create_task(self._beat())

    async def _beat(self) -> None:
        while True:
            before_s = time.thread_time()
            await asyncio.sleep(0)
            self.longest_s = max(self.longest_s, time.thread_time() - before_s)

    def stop(self) -> float:
        self._task.cancel()
        return self.longest_s


def test_filling_a_set_with_a_hundred_thousand_members_leaves_the_loop_free(node: Any) -> None:
    async def scenario() -> None:
        plugin = make(node, KernelAccess.NETLINK)
        update, other = net_set(*addresses(100_000)), net_set(*addresses(50_000), "11.0.0.0/8")
        heart = Heartbeat()
        await asyncio.sleep(0)
        for message in (update, other, update):
            plugin.on_batch(node.batch(message))
            await plugin.apply()
        longest_s = heart.stop()

        assert len(sets(node)["cali40s:a"]) == 100_000
        assert longest_s < 0.02
        await plugin.close()

    node.run(scenario)


def test_reading_back_a_hundred_thousand_members_leaves_the_loop_free(node: Any) -> None:
    async def scenario() -> None:
        plugin = make(node, KernelAccess.NETLINK)
        await node.settle(plugin, net_set(*addresses(100_000)))
        node.sh("ipset", "del", "cali40s:a", "10.0.0.5")
        plugin.invalidate("test")
        heart = Heartbeat()
        await asyncio.sleep(0)
        result = await plugin.apply()
        longest_s = heart.stop()

        assert [(change.action, change.text) for change in result.changes] == [("~", "+1 -0 members")]
        assert len(sets(node)["cali40s:a"]) == 100_000
        assert longest_s < 0.02
        await plugin.close()

    node.run(scenario)
