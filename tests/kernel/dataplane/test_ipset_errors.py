"""The ipset plugin meets the errors that the kernel really gives, and ends with the right sets."""

import asyncio
import errno
import logging
import os
import socket
import threading
from typing import Any

import pytest

from calico_engine.errors import KernelError
from calico_engine.kernel import ipset_messages as wire
from calico_engine.kernel.ipset import IpsetSocket
from calico_engine.kernel.set_rows import pack_members
from calico_engine.messages import IPSetDelta, IPSetRemove, IPSetUpdate, SetKind
from calico_engine.settings import FelixSettings
from calico_engine_ipset.netlink_tool import NetlinkTool
from calico_engine_ipset.plugin import IpsetDataplane

pytestmark = pytest.mark.kernel(tools=("ipset", "iptables-nft"), features=("ipset", "iptables-nft"))


def make(node: Any, **settings: Any) -> IpsetDataplane:
    return IpsetDataplane(node.context(FelixSettings(**settings)))


def net_set(*members: str, set_id: str = "s:a") -> IPSetUpdate:
    return IPSetUpdate(set_id=set_id, kind=SetKind.NET, members=frozenset(members))


def delta(*added: str) -> IPSetDelta:
    return IPSetDelta(set_id="s:a", added=frozenset(added), removed=frozenset())


def addresses(count: int, network: int = 10) -> list[str]:
    return [f"{network}.{i >> 16}.{i >> 8 & 255}.{i & 255}" for i in range(count)]


def members(node: Any, name: str = "cali40s:a") -> set[str]:
    """Return a set's members as the ipset program prints them. Only inside `run`."""
    lines = node.sh("ipset", "save", name).splitlines()
    return {line.split(" ", 2)[2] for line in lines if line.startswith("add ")}


def use(node: Any, name: str = "cali40s:a") -> None:
    """Have a rule match on a set."""
    node.sh("iptables-nft", "-A", "INPUT", "-m", "set", "--match-set", name, "src", "-j", "DROP")


def socket_of(plugin: IpsetDataplane) -> socket.socket:
    tool = plugin._tool
    assert isinstance(tool, NetlinkTool)
    opened = tool._ipset._socket
    assert opened is not None
    return opened


class Reader:
    """Somebody who lists a set, and takes his time: until he is done the kernel keeps it as it is."""

    def __init__(self, name: str) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
        body = wire.byte(wire.Attribute.PROTOCOL, 6) + wire.text(wire.Attribute.SETNAME, name)
        flags = wire.NLM_F_REQUEST | wire.NLM_F_DUMP
        self._socket.send(wire.message_head(wire.Command.LIST, flags, 1, len(body)) + body)
        self._socket.recv(1 << 16)

    def stop(self) -> None:
        self._socket.close()


@pytest.mark.parametrize(
    ("clash", "used"),
    [
        ("hash:ip", False),
        ("hash:net maxelem 7", False),
        ("hash:net maxelem 7", True),
        ("hash:net family inet6", False),
    ],
)
def test_set_that_somebody_made_meanwhile_is_replaced(
    node: Any, caplog: pytest.LogCaptureFixture, clash: str, used: bool
) -> None:
    async def scenario() -> None:
        plugin = make(node)
        await node.settle(plugin, net_set("10.0.0.1", set_id="s:b"))
        node.sh("ipset", "create", "cali40s:a", *clash.split())
        if used:
            use(node)
        # The plugin thinks that there is none.
        await node.settle(plugin, net_set("10.0.0.1", "10.1.0.0/16"))

        assert "create cali40s:a hash:net family inet: a set of this name exists" in caplog.text
        assert members(node) == {"10.0.0.1", "10.1.0.0/16"}
        assert "hash:net family inet " in node.sh("ipset", "save", "cali40s:a")
        await plugin.close()

    node.run(scenario)


def test_set_remade_with_another_family_is_not_swapped_but_replaced(
    node: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        plugin = make(node)
        await node.settle(plugin, net_set(*addresses(3000)))
        node.sh("ipset", "destroy", "cali40s:a")
        node.sh("ipset", "create", "cali40s:a", "hash:net", "family", "inet6")
        # Other members throughout: a new set is swapped in.
        await node.settle(plugin, net_set(*addresses(3000, 11)))

        assert "the sets are of different types or families" in caplog.text
        assert members(node) == set(addresses(3000, 11))
        assert "cali4t" not in node.sh("ipset", "list", "-name")
        await plugin.close()

    node.run(scenario)


def test_set_that_others_filled_up_gets_room_again(node: Any, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        plugin = make(node, max_ipset_size=3)
        await node.settle(plugin, net_set("10.0.0.1", "10.0.0.2"))
        node.sh("ipset", "add", "cali40s:a", "11.0.0.1")
        await node.settle(plugin, delta("10.0.0.3"))

        assert "the set is full" in caplog.text
        assert members(node) == {"10.0.0.1", "10.0.0.2", "10.0.0.3"}
        await plugin.close()

    node.run(scenario)


def test_member_of_another_type_than_its_set_is_named_and_holds_up_no_other(node: Any) -> None:
    async def scenario() -> None:
        plugin = make(node)
        ports = IPSetUpdate(set_id="n:a", kind=SetKind.IP_PORT, members=frozenset({"10.0.0.1"}))
        plugin.on_batch(node.batch(ports, net_set("10.0.0.1")))
        with pytest.raises(KernelError, match="cali40n:a") as raised:
            await plugin.apply()

        assert raised.value.line == "10.0.0.1"
        assert members(node) == {"10.0.0.1"}
        await plugin.close()

    node.run(scenario)


def test_what_is_no_member_at_all_is_named_and_holds_up_no_other(node: Any) -> None:
    async def scenario() -> None:
        plugin = make(node)
        await node.settle(plugin, net_set("10.0.0.1"))
        plugin.on_batch(node.batch(net_set("10.0.0.1", "host"), net_set("10.0.0.2", set_id="s:b")))
        with pytest.raises(KernelError, match="'host'"):
            await plugin.apply()

        assert (members(node), members(node, "cali40s:b")) == ({"10.0.0.1"}, {"10.0.0.2"})
        await node.settle(plugin, net_set("10.0.0.7"))
        assert members(node) == {"10.0.0.7"}
        await plugin.close()

    node.run(scenario)


@pytest.mark.parametrize("known", [False, True])
def test_what_is_no_member_of_a_large_set_leaves_nothing_of_it_behind(node: Any, known: bool) -> None:
    async def scenario() -> None:
        plugin = make(node)
        await node.settle(plugin, net_set("10.0.0.1", set_id="s:a" if known else "s:b"))
        plugin.on_batch(node.batch(net_set(*addresses(50_000), "host")))
        with pytest.raises(KernelError, match="'host'"):
            await plugin.apply()
        await plugin.prune()

        names = node.sh("ipset", "list", "-name").split()
        assert ("cali40s:a" in names) is known
        if known:
            assert members(node) == {"10.0.0.1"}
        assert not node.notifications
        await plugin.close()

    node.run(scenario)


def test_large_set_that_somebody_made_meanwhile_is_replaced(
    node: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        plugin = make(node)
        await node.settle(plugin, net_set("10.0.0.1", set_id="s:b"))
        node.sh("ipset", "create", "cali40s:a", "hash:ip")
        await node.settle(plugin, net_set(*addresses(50_000)))

        assert "set not filled at once" in caplog.text
        assert members(node) == set(addresses(50_000))
        await plugin.close()

    node.run(scenario)


def test_set_that_somebody_lists_is_swapped_when_he_is_done(node: Any) -> None:
    async def scenario() -> None:
        plugin = make(node)
        await node.settle(plugin, net_set(*addresses(20_000)))
        reader = Reader("cali40s:a")
        plugin.on_batch(node.batch(net_set(*addresses(20_000, 11))))
        with pytest.raises(KernelError, match="lists") as raised:
            await plugin.apply()
        kept = members(node)
        reader.stop()
        await node.settle(plugin)

        assert raised.value.errno == errno.EBUSY
        assert kept == set(addresses(20_000))
        assert members(node) == set(addresses(20_000, 11))
        assert "cali4t" not in node.sh("ipset", "list", "-name")
        await plugin.close()

    node.run(scenario)


def test_listing_that_ends_soon_is_waited_for(node: Any, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        plugin = make(node)
        await node.settle(plugin, net_set(*addresses(20_000)))
        reader = Reader("cali40s:a")
        plugin.on_batch(node.batch(net_set(*addresses(20_000, 11))))
        once = logging.Handler(logging.WARNING)
        once.emit = lambda record: reader.stop()  # type: ignore[method-assign]  # he is done once we were refused
        logging.getLogger("calico_engine_ipset.plugin").addHandler(once)
        await plugin.apply()
        logging.getLogger("calico_engine_ipset.plugin").removeHandler(once)

        assert "somebody lists the set" in caplog.text
        assert members(node) == set(addresses(20_000, 11))
        await plugin.close()

    node.run(scenario)


def test_set_that_somebody_lists_is_destroyed_when_he_is_done(node: Any) -> None:
    async def scenario() -> None:
        plugin = make(node)
        await node.settle(plugin, net_set(*addresses(20_000)))
        reader = Reader("cali40s:a")
        plugin.on_batch(node.batch(IPSetRemove(set_id="s:a")))
        await plugin.apply()
        first = await plugin.prune()
        reader.stop()

        assert first.resync_after_s is not None
        await plugin.cleanup()
        assert node.sh("ipset", "list", "-name") == ""
        await plugin.close()

    node.run(scenario)


@pytest.mark.parametrize("count", [1, 20_000])
def test_socket_that_dies_is_opened_again_in_the_same_apply(
    node: Any, caplog: pytest.LogCaptureFixture, count: int
) -> None:
    async def scenario() -> None:
        plugin = make(node)
        await node.settle(plugin, net_set("10.0.0.1"))
        with open(os.devnull, "rb") as nothing:  # noqa: PTH123  # for its descriptor
            os.dup2(nothing.fileno(), socket_of(plugin).fileno())
        await node.settle(plugin, delta(*addresses(count, 11)))

        assert os.strerror(errno.ENOTSOCK) in caplog.text
        assert members(node) == {"10.0.0.1", *addresses(count, 11)}
        await plugin.close()

    node.run(scenario)


def test_answers_that_are_lost_are_asked_for_again(node: Any) -> None:
    async def scenario() -> None:
        plugin = make(node)
        await node.settle(plugin, net_set(*addresses(5000)))
        overrun(socket_of(plugin))
        await node.settle(plugin, delta("11.0.0.1"))
        overrun(socket_of(plugin))
        plugin.invalidate("test")
        writes = await node.settle(plugin)

        assert writes == 0
        assert members(node) == {*addresses(5000), "11.0.0.1"}
        await plugin.close()

    node.run(scenario)


def overrun(opened: socket.socket) -> None:
    """Have the kernel say more than the socket can hold, so that it drops answers and reports ENOBUFS next."""
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    for _ in range(20):
        opened.send(wire.message_head(wire.Command.PROTOCOL, wire.NLM_F_REQUEST | wire.NLM_F_ACK, 0, 0))


def test_sets_that_come_and_go_while_all_are_read_do_no_harm(node: Any) -> None:
    async def scenario() -> None:
        plugin = make(node)
        await node.settle(plugin, net_set(*addresses(3000)), net_set("10.0.0.1", set_id="s:b"))
        stop = threading.Event()

        def churn() -> None:
            other = IpsetSocket()
            rows = pack_members(addresses(3000, 12))
            while not stop.is_set():
                for name in ("theirs", "cali40s:x"):
                    other.create(name, "hash:net", "inet", hashsize=64, maxelem=10_000)
                    other.add(name, rows)  # the hash grows, again and again
                    # The plugin may be listing it, or have removed it.
                    while not stop.is_set() and not destroyed(other, name):
                        pass
            other.close()

        # A thread has its maker's network namespace.
        thread = threading.Thread(target=churn)
        thread.start()
        for _ in range(20):
            plugin.invalidate("test")
            await plugin.apply()
        stop.set()
        await asyncio.to_thread(thread.join)
        plugin.invalidate("test")
        await node.settle(plugin)

        assert members(node) == set(addresses(3000))
        assert "cali40s:x" not in node.sh("ipset", "list", "-name").split()
        await plugin.close()

    node.run(scenario)


def destroyed(kernel: IpsetSocket, name: str) -> bool:
    try:
        kernel.destroy(name)
    except KernelError:
        return False
    return True
