"""What the nftables plugin leaves in the kernel, what it costs to change, and what becomes of disturbances."""

import asyncio
import contextlib
import errno
import json
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.kernel.dataplane.conftest import NFTABLES

from calico_engine.errors import KernelError
from calico_engine.kernel import nfnetlink
from calico_engine.messages import IPSetDelta, IPSetUpdate, PortRange, SetKind, WorkloadEndpointRemove
from calico_engine.model.policy import Action
from calico_engine.plugin.protocols import EndpointStatus
from calico_engine.ruleset.state import PolicyForm
from calico_engine_nftables.config import NftablesConfig, OwnTable
from calico_engine_nftables.expressions import rule_bytes
from calico_engine_nftables.plugin import make_dataplane

pytestmark = pytest.mark.kernel(tools=("nft",), features=("veth", "nftables"))

NEWCHAIN, NEWRULE, DELRULE, NEWSET, NEWSETELEM, DELSETELEM, NEWGEN = 3, 6, 8, 9, 12, 14, 15
ELEMENTS = 3
OFF = {"iptables_refresh_interval_s": 0.0, "iptables_post_write_check_interval_s": 0.0}


def one_endpoint(rig: Any, name: str = "web", *members: str) -> list[Any]:
    policy = rig.policy(f"p-{name}", [rig.rule(src_sets=("s:peers",))], [rig.rule()])
    found = frozenset(members or {"10.0.0.1", "10.1.0.0/16", "fd00::1", "fd01::/64"})
    return [
        IPSetUpdate(set_id="s:peers", kind=SetKind.NET, members=found),
        policy,
        rig.endpoint(name).update([policy.policy], [policy.policy]),
    ]


class Monitor:
    """Counts what the kernel tells of changes to nftables: messages by kind, elements in those that carry any."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
        self._socket.bind((0, 0))
        self._socket.setsockopt(270, 1, 7)
        self._socket.setblocking(False)

    def counts(self) -> dict[int, int]:
        found: dict[int, int] = {}
        with contextlib.suppress(BlockingIOError):
            while True:
                data = self._socket.recv(1 << 18)
                at = 0
                while at < len(data):
                    length, kind = struct.unpack_from("=IH", data, at)
                    kind &= 0xFF
                    if kind != NEWGEN:
                        found[kind] = found.get(kind, 0) + 1
                    at += (length + 3) & ~3
        return found

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=list(NFTABLES))
def variant(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def flaky(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Callable[[bytes], bytes | OSError]]]:
    """Queue what becomes of the next transactions: the kernel's answer, or what reading it raises."""
    queue: list[Callable[[bytes], bytes | OSError]] = []
    opened = nfnetlink._open_socket

    class FlakySocket(socket.socket):
        answer: bytes | OSError | None = None

        def send(self, data: Any, *flags: int) -> int:
            kind = struct.unpack_from("=H", data, 4)[0]
            if kind == 16 and queue:  # NFNL_MSG_BATCH_BEGIN
                self.answer = queue.pop(0)(bytes(data))
                if isinstance(self.answer, bytes):
                    return len(data)
            return super().send(data, *flags)

        def recv(self, size: int, *flags: int) -> bytes:
            answer, self.answer = self.answer, None
            if isinstance(answer, OSError):
                raise answer
            return answer if answer is not None else super().recv(size, *flags)

    def open_flaky() -> socket.socket:
        real = opened()
        return FlakySocket(real.family, real.type, real.proto, real.detach())

    monkeypatch.setattr(nfnetlink, "_open_socket", open_flaky)
    yield queue
    assert queue == []


def refused(number: int, index: int = 0) -> Callable[[bytes], bytes]:
    """Return what makes the kernel's answer that it refuses a message of a transaction."""

    def answer(batch: bytes) -> bytes:
        at = 0
        for _ in range(index + 1):
            at += (struct.unpack_from("=I", batch, at)[0] + 3) & ~3
        header = batch[at : at + 16]
        sequence = struct.unpack_from("=I", header, 8)[0]
        return struct.pack("=IHHIIi", 36, 2, 0x100, sequence, 0, -number) + header

    return answer


def lost(batch: bytes) -> OSError:
    return OSError(errno.ENOBUFS, "overrun")


def test_listing_is_whole_and_says_why(rig: Any) -> None:
    async def scenario() -> None:
        await rig.settle(*one_endpoint(rig))

        listing = rig.node.sh("nft", "list", "ruleset")
        as_json = json.loads(rig.node.sh("nft", "-j", "list", "ruleset"))["nftables"]

        assert "GlobalNetworkPolicy p-web" in listing
        assert "WorkloadEndpoint default/web" in listing
        rules = [entry["rule"] for entry in as_json if "rule" in entry]
        assert len(rules) > 20
        assert all(rule["comment"].startswith("cali:") for rule in rules)
        assert {entry["table"]["family"] for entry in as_json if "table" in entry} == {"ip", "ip6"}

    rig.run(scenario)


def test_pod_that_comes_is_one_element_in_each_map_that_knows_it(rig: Any) -> None:
    async def scenario() -> None:
        await rig.settle(*one_endpoint(rig, "web", "10.0.0.1", "10.0.0.2", "fd00::1"))
        monitor = Monitor()

        await rig.settle(
            IPSetDelta(set_id="s:peers", added=frozenset({"10.0.0.3", "fd00::3"}), removed=frozenset())
        )
        came = monitor.counts()
        await rig.settle(
            IPSetDelta(set_id="s:peers", added=frozenset(), removed=frozenset({"10.0.0.3", "fd00::3"}))
        )
        gone = monitor.counts()
        monitor.close()

        # One a family: the address's identity is known, so nothing else changes. The table's own message is none.
        assert came == {NEWSETELEM: 2}
        assert gone == {DELSETELEM: 2}

    rig.run(scenario)


def test_endpoint_that_comes_with_known_policies_is_four_elements_a_family(rig: Any) -> None:
    async def scenario() -> None:
        messages = one_endpoint(rig)
        await rig.settle(*messages)
        policy = messages[1].policy
        other = rig.endpoint("other").update([policy], [policy])
        monitor = Monitor()

        await rig.settle(other)
        came = monitor.counts()
        await rig.settle(WorkloadEndpointRemove(endpoint=other.endpoint))
        gone = monitor.counts()
        monitor.close()

        # In both directions and both families; and its address, which needs no look at the routes.
        assert set(came) == {NEWSETELEM}
        assert set(gone) == {DELSETELEM}
        assert came[NEWSETELEM] <= 8
        assert gone[DELSETELEM] == came[NEWSETELEM]

    rig.run(scenario)


DAMAGE = {
    "everything": ("nft", "flush", "ruleset"),
    "table": ("nft", "delete", "table", "ip", "calico"),
    "rules": ("nft", "flush", "chain", "ip", "calico", "cali-from-wl-dispatch"),
    "element": ("nft", "delete", "element", "ip", "calico", "cali-hosts", "{ 10.0.0.1 }"),
    "added element": ("nft", "add", "element", "ip", "calico", "cali-hosts", "{ 10.0.0.9 : 0x1 }"),
    "ranges": ("nft", "flush", "map", "ip", "calico", "cali-nets"),
    "accept": ("nft", "insert", "rule", "ip", "calico", "filter-FORWARD", "accept"),
    "policy": ("nft", "chain ip calico filter-FORWARD { policy drop; }"),
    "chain": ("nft", "add chain ip calico more { type filter hook forward priority -400; policy drop; }"),
    "set": ("nft", "add set ip calico theirs { type ipv4_addr; }"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_told_by_the_kernel_and_mended_without_timers(
    make_rig: Any, wait: Any, damage: str
) -> None:
    rig = make_rig(**OFF)

    async def scenario() -> None:
        await rig.settle(*one_endpoint(rig))
        await asyncio.sleep(0)
        assert rig.requests == []
        before = rig.saved()
        rig.node.sh(*DAMAGE[damage])
        assert rig.saved() != before

        end_s = time.monotonic() + 5.0
        while rig.saved() != before:
            # As the engine does: at each request, and when a look that was put off is due. No timer asks for one.
            await wait(lambda: bool(rig.requests))
            due_s = (await rig.settle())[1].resync_after_s
            assert time.monotonic() < end_s
            await asyncio.sleep(due_s or 0.001)

        assert "drift" in [note.kind for note in rig.node.notifications]

    rig.run(scenario)


def test_changes_to_what_is_not_ours_wake_nobody(rig: Any, wait: Any) -> None:
    async def scenario() -> None:
        await rig.settle(*one_endpoint(rig))
        rig.node.sh("nft", "add table ip theirs; add chain ip theirs c; add table inet calico")

        # What comes last is heard last.
        rig.node.sh("nft", "flush", "chain", "ip6", "calico", "filter-FORWARD")
        await wait(lambda: bool(rig.requests))

        assert rig.requests == ["table calico was changed"]

    rig.run(scenario)


def test_own_changes_wake_nobody(rig: Any, wait: Any) -> None:
    async def scenario() -> None:
        await rig.settle(*one_endpoint(rig))
        for number in range(20):
            await rig.settle(*one_endpoint(rig, f"w{number}"))
            await asyncio.sleep(0)

        rig.node.sh("nft", "delete", "table", "ip6", "calico")
        await wait(lambda: bool(rig.requests))

        assert rig.requests == ["table calico was changed"]

    rig.run(scenario)


def test_set_of_another_shape_is_replaced(rig: Any) -> None:
    """As after an update to a version that keys a map differently."""

    async def scenario() -> None:
        messages = one_endpoint(rig)
        await rig.settle(*messages)
        before = rig.saved()
        await rig.rules.close()
        rig.node.sh("nft", "flush ruleset")
        rig.node.sh(
            "nft",
            'add table ip calico { comment "calico-engine; changes by others are undone"; };'
            "add map ip calico cali-hosts { type ipv4_addr . ipv4_addr : mark; };"
            "add chain ip calico filter-FORWARD { type filter hook forward priority 50; };"
            "add rule ip calico filter-FORWARD meta mark set ip saddr . ip daddr map @cali-hosts;"
            "add chain ip calico cali-from-wl-dispatch { type filter hook input priority 50; }",
        )

        rig.make_dataplanes()
        await rig.settle(*messages)

        assert rig.saved() == before
        assert await rig.writes() == 0

    rig.run(scenario)


@pytest.mark.parametrize("number", [errno.ENOMEM, errno.EBUSY, errno.EINTR, errno.ENFILE])
def test_refused_transaction_is_tried_again_and_nothing_is_lost(rig: Any, flaky: Any, number: int) -> None:
    async def scenario() -> None:
        await rig.settle(*one_endpoint(rig))
        before = rig.saved()
        more = one_endpoint(rig, "more")
        flaky.append(refused(number, index=1))

        await rig.settle(*more)

        assert "calimore" in "".join(rig.saved()[4])
        await rig.settle(WorkloadEndpointRemove(endpoint=rig.endpoint("more").key))
        assert rig.saved() == before
        assert await rig.writes() == 0

    rig.run(scenario)


def test_answer_that_is_lost_leads_to_a_look_and_not_to_a_second_write(rig: Any, flaky: Any) -> None:
    async def scenario() -> None:
        await rig.settle(*one_endpoint(rig))
        flaky.append(lost)

        await rig.settle(*one_endpoint(rig, "more"))

        assert "calimore" in "".join(rig.saved()[4])
        assert rig.node.notifications == []
        rig.rules.invalidate("test")
        assert await rig.writes() == 0

    rig.run(scenario)


def test_what_the_kernel_refuses_is_closed_and_names_its_policy(rig: Any, monkeypatch: Any) -> None:
    """A real refusal: expressions that the kernel does not know, in one policy's rules."""

    def misspell(rule: Any, key: Any, family: Any, **options: Any) -> tuple[bytes, ...]:
        found = rule_bytes(rule, key, family, **options)
        owner = rule.origin.owner if rule.origin else None
        return tuple(one.replace(b"payload", b"qayload") for one in found) if owner == bad.policy else found

    bad = rig.policy("bad", [rig.rule(protocol=6, src_ports=(PortRange(80, 80),))])
    good = rig.policy("good", [rig.rule()])
    monkeypatch.setattr("calico_engine_nftables.transaction.rule_bytes", misspell)

    async def scenario() -> None:
        results = await rig.settle(
            bad,
            good,
            rig.endpoint("a").link(),
            rig.endpoint("b").link(),
            rig.endpoint("a").update([bad.policy]),
            rig.endpoint("b").update([good.policy]),
        )

        assert results[1].endpoint_status == {
            rig.endpoint("a").key: EndpointStatus.ERROR,
            rig.endpoint("b").key: EndpointStatus.UP,
        }
        listing = rig.node.sh("nft", "list", "chain", "ip", "calico", "cali-pi-gnp/bad")
        assert "refused by the kernel" in listing
        assert "drop" in listing
        notes = [note.message for note in rig.node.notifications]
        assert len(notes) == 2
        assert all("chain cali-pi-gnp/bad: cali:" in note for note in notes)
        assert all("GlobalNetworkPolicy bad ingress rule 0" in note for note in notes)
        monkeypatch.undo()
        rig.rules.invalidate("refresh")
        again = await rig.settle()
        assert again[1].endpoint_status[rig.endpoint("a").key] is EndpointStatus.UP

    rig.run(scenario)


def test_cleanup_removes_our_tables_and_nothing_else(rig: Any) -> None:
    async def scenario() -> None:
        rig.node.sh("nft", "add table ip theirs; add chain ip theirs cali-mine; add table inet calico")
        theirs = rig.node.ruleset()
        await rig.settle(*one_endpoint(rig))
        await rig.rules.close()

        rig.make_dataplanes()
        count = await rig.rules.cleanup()

        assert count > 20
        assert rig.node.ruleset() == theirs
        assert await rig.rules.cleanup() == 0

    rig.run(scenario)


def needs_owned_tables(rig: Any) -> None:
    """Skip where the kernel has none that persist."""
    release = tuple(int(part) for part in os.uname().release.split(".")[:2])
    if release < (6, 9):
        pytest.skip("owned tables persist from Linux 6.9 on")
    rig.more_options = {"own_table": OwnTable.AUTO}


def test_table_that_is_owned_is_out_of_reach_for_others(rig: Any) -> None:
    needs_owned_tables(rig)

    async def scenario() -> None:
        messages = one_endpoint(rig)
        await rig.settle(*messages)
        await rig.rules.close()
        rig.make_dataplanes()
        # What was not owned is replaced by what is, in one transaction.
        assert await rig.writes(*messages) > 0
        before = rig.saved()

        rig.node.sh("nft", "flush", "ruleset")
        refused_ = [
            rig.node.sh(*DAMAGE[damage], check=False) for damage in ("table", "rules", "accept", "set")
        ]

        assert refused_ == [""] * 4
        assert rig.saved() == before
        assert "flags owner" in before[4]
        assert await rig.writes() == 0
        with pytest.raises(KernelError, match="stop it first"):
            await make_dataplane(rig.context("nftables")).cleanup()
        assert rig.saved() == before

    rig.run(scenario)


def test_owned_table_is_taken_over_from_an_engine_that_is_gone(rig: Any) -> None:
    needs_owned_tables(rig)

    async def scenario() -> None:
        messages = one_endpoint(rig)
        rig.make_dataplanes()
        await rig.settle(*messages)
        before = rig.saved()
        await rig.rules.close()
        orphaned = rig.saved()

        rig.make_dataplanes()
        writes = await rig.writes(*messages)
        await rig.settle(*one_endpoint(rig, "more"))
        rig.node.sh("nft", "flush", "ruleset")

        assert writes == 0
        assert "flags owner" not in orphaned[4]
        assert "calimore" in "".join(rig.saved()[4])
        await rig.settle(WorkloadEndpointRemove(endpoint=rig.endpoint("more").key))
        assert rig.saved() == before
        await rig.rules.close()
        assert await make_dataplane(rig.context("nftables")).cleanup() > 20
        assert rig.saved() == {4: [], 6: []}

    rig.run(scenario)


def test_verdicts_are_counted_where_asked_for(rig: Any) -> None:
    async def scenario() -> None:
        messages = one_endpoint(rig)
        await rig.settle(*messages)
        before = rig.saved()
        await rig.rules.close()
        rig.more_options = {"element_counters": True}

        rig.make_dataplanes()
        await rig.settle(*messages)

        listing = rig.node.sh("nft", "list", "map", "ip", "calico", "cali-from-wl-dispatch")
        assert "counter packets 0 bytes 0" in listing
        assert await rig.writes() == 0
        rig.rules.invalidate("test")
        assert await rig.writes() == 0
        await rig.rules.close()
        rig.more_options = {}
        rig.make_dataplanes()
        await rig.settle(*messages)
        assert rig.saved() == before

    rig.run(scenario)


def test_change_of_form_keeps_what_is_common(rig: Any) -> None:
    async def scenario() -> None:
        messages = one_endpoint(rig)
        await rig.settle(*messages)
        before = rig.saved()
        await rig.rules.close()
        other = {PolicyForm.CLASSIFIED: PolicyForm.LINEAR, PolicyForm.LINEAR: PolicyForm.CLASSIFIED}
        context = rig.context("nftables")
        options = NftablesConfig(form=other[rig.options.form])

        changed = make_dataplane(type(context)(**{**_fields(context), "options": options}))
        await rig.node.settle(changed, *messages)
        between = rig.saved()
        await changed.close()
        rig.make_dataplanes()
        await rig.settle(*messages)

        assert between != before
        assert rig.saved() == before

    rig.run(scenario)


def _fields(context: Any) -> dict[str, Any]:
    return {name: getattr(context, name) for name in context.__struct_fields__}


@contextlib.contextmanager
def flood(source: Any, target: Any, version: int = 4) -> Iterator[Callable[[], int]]:
    """Send datagrams all the time; yields what says how many came through."""
    server, client = (pod.socket(version, socket.SOCK_DGRAM) for pod in (target, source))
    address = (target.addresses[version], 7000)
    server.bind(address)
    server.setblocking(False)
    ended = threading.Event()

    def send() -> None:
        while not ended.is_set():
            client.sendto(b"x", address)

    def arrived() -> int:
        count = 0
        with contextlib.suppress(BlockingIOError):
            while server.recv(8):
                count += 1
        return count

    sender = threading.Thread(target=send)
    sender.start()
    try:
        yield arrived
    finally:
        ended.set()
        sender.join()
        server.close()
        client.close()


@pytest.mark.parametrize("variant", ["nftables"], indirect=True)
def test_no_packet_slips_through_while_identities_change(rig: Any) -> None:
    """The client is denied by one set or the other, whichever it is in; everybody else is allowed.

    One look decides. A walk asks set after set, and who moves between two of them may be missed by both, as with ipset.
    """

    async def scenario() -> None:
        web, client = rig.add_pod("web"), rig.add_pod("client")
        deny = [rig.rule(Action.DENY, src_sets=(set_id,)) for set_id in ("s:a", "s:b")]
        policy = rig.policy("deny", [*deny, rig.rule()], [rig.rule()])
        address = frozenset({client.addresses[4]})
        await rig.settle(
            IPSetUpdate(set_id="s:a", kind=SetKind.NET, members=address),
            IPSetUpdate(set_id="s:b", kind=SetKind.NET, members=frozenset()),
            policy,
            web.update([policy.policy], [policy.policy]),
            client.update([], [policy.policy]),
        )

        with flood(client, web) as arrived:
            end_s = time.monotonic() + 2.0
            here, there = "s:a", "s:b"
            while time.monotonic() < end_s:
                await rig.settle(
                    IPSetDelta(set_id=there, added=address, removed=frozenset()),
                    IPSetDelta(set_id=here, added=frozenset(), removed=address),
                )
                here, there = there, here
                assert arrived() == 0
            await rig.settle(IPSetDelta(set_id=here, added=frozenset(), removed=address))
            await asyncio.sleep(0.05)

            assert arrived() > 0

    rig.run(scenario)
