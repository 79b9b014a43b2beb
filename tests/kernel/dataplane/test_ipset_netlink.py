"""Sets written by netlink, read back with the ipset program; and the other way about."""

import asyncio
import errno
import resource
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from calico_engine.errors import KernelError, KernelUnsupportedError
from calico_engine.fastpath import SET_ROW_SIZE, sort_rows
from calico_engine.kernel.ipset import IpsetSocket, run_ipset
from calico_engine.kernel.ipset_errors import IpsetError
from calico_engine.kernel.ipset_messages import NLM_F_ACK, NLM_F_REQUEST, Command, message_head
from calico_engine.kernel.set_rows import pack_members, unpack_members

pytestmark = pytest.mark.kernel(tools=("ipset",), features=("ipset",))

MEMBERS = {
    ("hash:net", "inet"): ["10.0.0.1", "10.1.0.0/16", "0.0.0.0/1", "10.2.3.4/31"],
    ("hash:net", "inet6"): ["fd00::1", "fd00:1::/64", "8000::/1", "::ffff:1.2.3.4"],
    ("hash:ip,port", "inet"): ["10.0.0.1,tcp:80", "10.0.0.1,udp:80", "10.0.0.2,sctp:65535"],
    ("hash:ip,port", "inet6"): ["fd00::1,tcp:80", "fd00::1,udp:53", "fd00::2,sctp:0"],
}


@pytest.fixture
def ipset() -> Iterator[IpsetSocket]:
    opened = IpsetSocket()

    yield opened

    opened.close()


def addresses(count: int, *, network: int = 10) -> list[str]:
    return [f"{network}.{i >> 16}.{i >> 8 & 255}.{i & 255}" for i in range(count)]


def saved(node: Any, name: str) -> set[str]:
    """Return a set's members as the ipset program prints them. Only inside `run`."""
    lines = node.sh("ipset", "save", name).splitlines()
    return {line.split(" ", 2)[2] for line in lines if line.startswith("add ")}


def in_node(node: Any, scenario: Callable[[], None]) -> None:
    node.namespace.run(scenario)


def refusal(request: Callable[[], object]) -> KernelError:
    with pytest.raises(KernelError) as raised:
        request()
    return raised.value


@pytest.mark.parametrize(("kind", "family"), MEMBERS)
def test_members_are_what_the_program_then_lists(
    node: Any, ipset: IpsetSocket, kind: str, family: str
) -> None:
    def scenario() -> None:
        members = MEMBERS[kind, family]
        ipset.create("s", kind, family, hashsize=64, maxelem=1000)
        ipset.add("s", pack_members(members))
        after_add = saved(node, "s")
        back = ipset.members("s")
        ipset.delete("s", pack_members(members[:2]))

        assert after_add == set(members)
        assert set(unpack_members(back)) == set(members)
        assert sort_rows(back, SET_ROW_SIZE) == sort_rows(pack_members(members), SET_ROW_SIZE)
        assert saved(node, "s") == set(members[2:])

    in_node(node, scenario)


def test_what_the_program_made_is_read(node: Any, ipset: IpsetSocket) -> None:
    def scenario() -> None:
        node.sh("ipset", "create", "n", "hash:net", "family", "inet6", "maxelem", "77", "hashsize", "128")
        node.sh("ipset", "add", "n", "fd00::/8")
        node.sh("ipset", "add", "n", "fd00:5::/32", "nomatch")
        node.sh("ipset", "create", "t", "hash:ip", "timeout", "300", "counters", "comment")
        node.sh("ipset", "add", "t", "10.0.0.9", "comment", "whose it is")
        node.sh("ipset", "create", "l", "list:set")

        headers = {header.name: header for header in ipset.headers()}
        assert (headers["n"].type, headers["n"].family, headers["n"].maxelem) == ("hash:net", "inet6", 77)
        assert (headers["n"].hashsize, headers["n"].elements, headers["n"].references) == (128, 2, 0)
        assert {name: header.type for name, header in headers.items()} == {
            "n": "hash:net",
            "t": "hash:ip",
            "l": "list:set",
        }
        assert set(unpack_members(ipset.members("n"))) == {"fd00::/8", "fd00:5::/32 nomatch"}
        assert unpack_members(ipset.members("t")) == ["10.0.0.9"]

    in_node(node, scenario)


def test_exception_of_a_set_is_deleted_and_replaced_by_its_row(node: Any, ipset: IpsetSocket) -> None:
    def scenario() -> None:
        node.sh("ipset", "create", "n", "hash:net")
        node.sh("ipset", "add", "n", "10.0.0.0/8", "nomatch")

        ipset.delete("n", ipset.members("n"))
        ipset.add("n", pack_members(["10.0.0.0/8"]))

        assert saved(node, "n") == {"10.0.0.0/8"}

    in_node(node, scenario)


def test_a_hundred_thousand_members_and_changes_of_single_ones(node: Any, ipset: IpsetSocket) -> None:
    def scenario() -> None:
        members = addresses(100_000)
        ipset.create("s", "hash:net", "inet", hashsize=131072, maxelem=200_000)
        ipset.add("s", pack_members(members))
        ipset.add("s", pack_members(["11.0.0.1"]))
        ipset.delete("s", pack_members(["10.0.0.7"]))

        expected = {*members, "11.0.0.1"} - {"10.0.0.7"}
        assert saved(node, "s") == expected
        assert set(unpack_members(ipset.members("s"))) == expected
        assert ipset.headers()[0].elements == 100_000
        assert ipset.headers()[0].hashsize == 131072  # it never grew

    in_node(node, scenario)


def test_repeated_requests_are_no_errors(node: Any, ipset: IpsetSocket) -> None:
    def scenario() -> None:
        for _ in range(2):
            ipset.create("s", "hash:net", "inet", hashsize=64, maxelem=10)
        for _ in range(2):
            ipset.add("s", pack_members(["10.0.0.1", "10.0.0.1"]))
        after_add = saved(node, "s")
        for _ in range(2):
            ipset.delete("s", pack_members(["10.0.0.1", "10.0.0.2"]))

        emptied = saved(node, "s")
        for _ in range(2):
            ipset.destroy("s")

        assert after_add == {"10.0.0.1"}
        assert emptied == set()
        assert ipset.headers() == []

    in_node(node, scenario)


def test_set_in_use_is_swapped_but_not_destroyed(node: Any, ipset: IpsetSocket) -> None:
    def scenario() -> None:
        ipset.create("s", "hash:net", "inet", hashsize=64, maxelem=10)
        ipset.add("s", pack_members(["10.0.0.1"]))
        node.sh("iptables-nft", "-A", "INPUT", "-m", "set", "--match-set", "s", "src", "-j", "DROP")
        ipset.create("new", "hash:net", "inet", hashsize=64, maxelem=20)
        ipset.add("new", pack_members(["10.0.0.2"]))

        busy = refusal(lambda: ipset.destroy("s"))
        ipset.swap("new", "s")
        ipset.destroy("new")

        assert busy.errno == IpsetError.BUSY
        assert "destroy s" in str(busy)
        assert "rules" in str(busy)
        assert saved(node, "s") == {"10.0.0.2"}
        assert node.sh("ipset", "list", "-name").split() == ["s"]
        assert next(header for header in ipset.headers() if header.name == "s").references == 1

    in_node(node, scenario)


def test_full_set_names_the_member_that_did_not_fit(node: Any, ipset: IpsetSocket) -> None:
    def scenario() -> None:
        ipset.create("s", "hash:net", "inet", hashsize=4096, maxelem=2500)

        full = refusal(lambda: ipset.add("s", pack_members(addresses(5000))))

        assert full.errno == IpsetError.HASH_FULL
        # The kernel counts by region of the hash, so that a few more than maxelem may fit.
        fitted = addresses(5000).index(full.line)
        assert fitted >= 2500
        assert "add s" in str(full)
        assert "max_ipset_size" in str(full)
        # So does one behind it, here and there, in the messages that were sent with this one.
        found = saved(node, "s")
        assert found >= set(addresses(fitted))
        assert full.line not in found

    in_node(node, scenario)


@pytest.mark.parametrize("place", [0, 1, 1999, 2000, 9000, 24_998, 24_999])
def test_member_refused_among_many_is_named(node: Any, ipset: IpsetSocket, place: int) -> None:
    def scenario() -> None:
        members = addresses(24_999)
        members.insert(place, "fd00::1")
        ipset.create("s", "hash:net", "inet", hashsize=32768, maxelem=30_000)

        error = refusal(lambda: ipset.add("s", pack_members(members)))
        ipset.add("s", pack_members(["11.0.0.1"]))

        assert (error.line, error.errno) == ("fd00::1", IpsetError.PROTOCOL)
        assert saved(node, "s") >= {*members[:place], "11.0.0.1"}

    in_node(node, scenario)


@pytest.mark.parametrize(
    ("request_of", "number", "words"),
    [
        (lambda k: k.create("s", "hash:net", "inet", hashsize=64, maxelem=11), errno.EEXIST, "create s"),
        (lambda k: k.create("s", "hash:ip,port", "inet", hashsize=64, maxelem=10), errno.EEXIST, "create s"),
        (lambda k: k.add("absent", pack_members(["10.0.0.1"])), errno.ENOENT, "add absent"),
        (lambda k: k.delete("absent", pack_members(["10.0.0.1"])), errno.ENOENT, "del absent"),
        (lambda k: k.members("absent"), errno.ENOENT, "list absent"),
        (lambda k: k.swap("s", "absent"), IpsetError.EXIST_SETNAME2, "swap s absent"),
        (lambda k: k.swap("s", "six"), IpsetError.TYPE_MISMATCH, "swap s six"),
        (lambda k: k.add("s", pack_members(["10.0.0.1", "fd00::1"])), IpsetError.PROTOCOL, "fd00::1"),
        (lambda k: k.add("ports", pack_members(["10.0.0.1"])), IpsetError.PROTOCOL, "10.0.0.1"),
        (lambda k: k.create("n" * 32, "hash:net", "inet", hashsize=64, maxelem=1), 0, "31 bytes"),
    ],
)
def test_refusals_say_what_failed_on_which_set(
    node: Any, ipset: IpsetSocket, request_of: Callable[[IpsetSocket], object], number: int, words: str
) -> None:
    def scenario() -> None:
        ipset.create("s", "hash:net", "inet", hashsize=64, maxelem=10)
        ipset.create("six", "hash:net", "inet6", hashsize=64, maxelem=10)
        ipset.create("ports", "hash:ip,port", "inet", hashsize=64, maxelem=10)

        error = refusal(lambda: request_of(ipset))

        assert error.errno == number
        assert words in str(error)
        # The next request is not confused by what is left of this one's answer.
        ipset.add("s", pack_members(["10.0.0.5"]))
        assert "10.0.0.5" in saved(node, "s")
        assert {header.name for header in ipset.headers()} == {"s", "six", "ports"}

    in_node(node, scenario)


def test_unknown_set_type_is_not_supported(node: Any, ipset: IpsetSocket) -> None:
    def scenario() -> None:
        with pytest.raises(KernelUnsupportedError, match="hash:nothing"):
            ipset.create("s", "hash:nothing", "inet", hashsize=64, maxelem=10)

        assert ipset.protocol in (6, 7)

    in_node(node, scenario)


@pytest.mark.parametrize("family", ["inet", "inet6"])
def test_members_beyond_one_attribute_go_in_several_messages(
    node: Any, ipset: IpsetSocket, family: str
) -> None:
    def scenario() -> None:
        v4 = [f"{address},tcp:{port}" for address in addresses(2100) for port in (80, 443)]
        v6 = [f"fd00::{i:x},tcp:{port}" for i in range(1, 2101) for port in (80, 443)]
        members = v4 if family == "inet" else v6
        ipset.create("s", "hash:ip,port", family, hashsize=8192, maxelem=10_000)

        ipset.add("s", pack_members(members))

        assert saved(node, "s") == set(members)

    in_node(node, scenario)


def test_lost_answers_are_asked_for_again(node: Any, ipset: IpsetSocket) -> None:
    def scenario() -> None:
        ipset.create("s", "hash:net", "inet", hashsize=8192, maxelem=10_000)
        overrun(ipset)
        ipset.add("s", pack_members(addresses(5000)))
        after_add = saved(node, "s")
        overrun(ipset)
        back = ipset.members("s")
        overrun(ipset)
        ipset.delete("s", pack_members(["10.0.0.1"]))

        assert after_add == set(addresses(5000))
        assert set(unpack_members(back)) == after_add
        assert len(ipset.members("s")) == 4999 * SET_ROW_SIZE

    in_node(node, scenario)


def test_swap_whose_answer_is_lost_is_not_done_twice(node: Any, ipset: IpsetSocket) -> None:
    def scenario() -> None:
        for name, member in (("a", "10.0.0.1"), ("b", "10.0.0.2")):
            ipset.create(name, "hash:net", "inet", hashsize=64, maxelem=10)
            ipset.add(name, pack_members([member]))
        overrun(ipset)

        error = refusal(lambda: ipset.swap("a", "b"))

        assert error.errno == errno.ENOBUFS
        assert saved(node, "a") == {"10.0.0.2"}

    in_node(node, scenario)


def overrun(ipset: IpsetSocket) -> None:
    """Have the kernel say more than the socket can hold, so that it drops answers and reports ENOBUFS next."""
    opened = ipset._socket
    assert opened is not None
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    for _ in range(20):
        opened.send(message_head(Command.PROTOCOL, NLM_F_REQUEST | NLM_F_ACK, 0, 0))


def test_large_work_leaves_the_event_loop_free(node: Any, ipset: IpsetSocket) -> None:
    async def scenario() -> None:
        rows = pack_members(addresses(100_000))
        longest_s = 0.0

        async def beat() -> None:
            nonlocal longest_s
            while True:
                before_s = time.thread_time()
                await asyncio.sleep(0)
                longest_s = max(longest_s, time.thread_time() - before_s)

        def work(kernel: IpsetSocket) -> None:
            kernel.create("s", "hash:net", "inet", hashsize=131072, maxelem=100_000)
            kernel.add("s", rows)

        beats = asyncio.create_task(beat())
        await run_ipset(ipset, work, 100_000)
        back = await run_ipset(ipset, lambda kernel: kernel.members("s"), 100_000)
        beats.cancel()

        assert sort_rows(back, SET_ROW_SIZE) == sort_rows(rows, SET_ROW_SIZE)
        assert longest_s < 0.02

    node.run(scenario)


def test_cancelled_work_ends_soon_and_the_next_is_done_in_full(node: Any, ipset: IpsetSocket) -> None:
    async def scenario() -> None:
        rows = pack_members(addresses(200_000))
        await run_ipset(
            ipset,
            lambda kernel: kernel.create("s", "hash:net", "inet", hashsize=1 << 18, maxelem=300_000),
            0,
        )
        task = asyncio.create_task(run_ipset(ipset, lambda kernel: kernel.add("s", rows), 200_000))
        while not ipset.lock.locked():
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        await run_ipset(ipset, lambda kernel: kernel.add("s", pack_members(["11.0.0.1"])), 1)

        members = set(unpack_members(ipset.members("s")))
        assert "11.0.0.1" in members
        assert len(members) < 200_000

    node.run(scenario)


def test_socket_stays_in_the_namespace_that_opened_it(node: Any, ipset: IpsetSocket) -> None:
    in_node(node, ipset.open)

    ipset.create("ce-here", "hash:net", "inet", hashsize=64, maxelem=10)

    assert node.command("ipset", "list", "-name").split() == ["ce-here"]


def test_without_descriptors_the_error_says_so(node: Any, ipset: IpsetSocket) -> None:
    def scenario() -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
        try:
            error = refusal(ipset.open)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

        assert "Too many open files" in str(error)
        assert error.retryable
        ipset.open()
        assert ipset.protocol

    in_node(node, scenario)
