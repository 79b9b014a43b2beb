"""What the ipset plugin leaves in the kernel, read back with the ipset program."""

import asyncio
import time
from typing import Any

import pytest

from calico_engine.messages import (
    IPSetDelta,
    IPSetRemove,
    IPSetUpdate,
    NodeUpdate,
    PoolEncap,
    PoolRemove,
    PoolUpdate,
    SetKind,
)

pytestmark = pytest.mark.kernel(tools=("ipset",), features=("ipset",))


@pytest.fixture
def variant() -> str:
    """Sets are the same whatever iptables there is: the rig needs one of them."""
    return "nft"


def net_set(*members: str, set_id: str = "s:a") -> IPSetUpdate:
    return IPSetUpdate(set_id=set_id, kind=SetKind.NET, members=frozenset(members))


def delta(added: tuple[str, ...] = (), removed: tuple[str, ...] = (), set_id: str = "s:a") -> IPSetDelta:
    return IPSetDelta(set_id=set_id, added=frozenset(added), removed=frozenset(removed))


async def settle(rig: Any, *messages: Any) -> int:
    """Hand messages to the ipset plugin alone; return the number of writes."""
    rig.ipset.on_batch(rig.node.batch(*messages))
    return int((await rig.ipset.apply()).writes + (await rig.ipset.prune()).writes)


def test_members_go_to_the_set_of_their_family(rig: Any) -> None:
    async def scenario() -> None:
        named = IPSetUpdate(
            set_id="n:http",
            kind=SetKind.IP_PORT,
            members=frozenset({"10.0.0.1,tcp:80", "fd00::1,udp:53", "10.0.0.2,sctp:9"}),
        )
        await settle(
            rig, net_set("10.0.0.1", "10.1.0.0/16", "fd00::1", "fd00:1::/64", "::ffff:1.2.3.4"), named
        )

        sets = rig.sets()
        assert sets["cali40s:a"] == {"10.0.0.1", "10.1.0.0/16"}
        assert sets["cali60s:a"] == {"fd00::1", "fd00:1::/64", "::ffff:1.2.3.4"}
        assert sets["cali40n:http"] == {"10.0.0.1,tcp:80", "10.0.0.2,sctp:9"}
        assert sets["cali60n:http"] == {"fd00::1,udp:53"}
        assert await settle(rig) == 0
        rig.ipset.invalidate("test")
        assert await settle(rig) == 0

    rig.run(scenario)


def test_everything_is_written_as_its_two_halves(rig: Any) -> None:
    async def scenario() -> None:
        await settle(rig, net_set("0.0.0.0/0", "0.0.0.0/1", "::/0"))
        all_of_it = rig.sets()
        await settle(rig, delta(removed=("0.0.0.0/0", "::/0")))

        assert all_of_it["cali40s:a"] == {"0.0.0.0/1", "128.0.0.0/1"}
        assert all_of_it["cali60s:a"] == {"::/1", "8000::/1"}
        assert (rig.sets()["cali40s:a"], rig.sets()["cali60s:a"]) == ({"0.0.0.0/1"}, set())

    rig.run(scenario)


def test_changes_and_removal_follow(rig: Any) -> None:
    async def scenario() -> None:
        await settle(rig, net_set("10.0.0.1", "10.0.0.2"))
        await settle(rig, delta(("10.0.0.3", "fd00::3"), ("10.0.0.1", "10.9.9.9")))
        after_delta = rig.sets()
        await settle(rig, net_set("10.0.0.7"))
        after_update = rig.sets()
        await settle(rig, IPSetRemove(set_id="s:a"))

        assert after_delta["cali40s:a"] == {"10.0.0.2", "10.0.0.3"}
        assert after_delta["cali60s:a"] == {"fd00::3"}
        assert (after_update["cali40s:a"], after_update["cali60s:a"]) == ({"10.0.0.7"}, set())
        assert not any("s:a" in name for name in rig.sets())

    rig.run(scenario)


def test_pools_and_hosts_are_sets_too(rig: Any) -> None:
    async def scenario() -> None:
        pools = [
            PoolUpdate(cidr="10.65.0.0/16", nat_outgoing=True, encap=PoolEncap.IPIP),
            PoolUpdate(cidr="10.66.0.0/16", nat_outgoing=False, encap=PoolEncap.NONE),
            PoolUpdate(cidr="fd00:65::/64", nat_outgoing=True, encap=PoolEncap.NONE),
        ]
        await settle(rig, *pools, NodeUpdate(node="n2", ipv4_address="192.0.2.2"))
        sets = rig.sets()
        await settle(rig, PoolRemove(cidr="10.65.0.0/16"))

        assert sets["cali40network-ip-pools"] == {"10.65.0.0/16", "10.66.0.0/16"}
        assert sets["cali40masq-ipam-pools"] == {"10.65.0.0/16"}
        assert sets["cali60masq-ipam-pools"] == {"fd00:65::/64"}
        assert sets["cali40all-hosts-net"] == {"192.0.2.2"}
        left = rig.sets()
        assert left["cali40masq-ipam-pools"] == set()
        assert "cali40all-hosts-net" not in left

    rig.run(scenario)


def test_damage_by_others_is_mended_and_foreign_sets_are_left_alone(rig: Any) -> None:
    async def scenario() -> None:
        rig.node.sh("ipset", "create", "theirs", "hash:ip")
        rig.node.sh("ipset", "add", "theirs", "192.0.2.1")
        await settle(rig, net_set("10.0.0.1", "10.0.0.2"), net_set("10.0.0.3", set_id="s:b"))
        rig.node.sh("ipset", "del", "cali40s:a", "10.0.0.1")
        rig.node.sh("ipset", "add", "cali40s:a", "10.0.0.9")
        rig.node.sh("ipset", "destroy", "cali40s:b")

        rig.ipset.invalidate("refresh")
        await settle(rig)

        sets = rig.sets()
        assert (sets["cali40s:a"], sets["cali40s:b"]) == ({"10.0.0.1", "10.0.0.2"}, {"10.0.0.3"})
        assert sets["theirs"] == {"192.0.2.1"}
        assert [note.kind for note in rig.node.notifications] == ["drift"]

    rig.run(scenario)


def test_restart_recognises_removes_and_finishes(rig: Any) -> None:
    async def scenario() -> None:
        await settle(rig, net_set("10.0.0.1"), net_set("10.0.0.2", set_id="s:old"))
        rig.node.sh("ipset", "create", "cali4t3", "hash:net")  # as a crash leaves it
        rig.node.sh("ipset", "create", "felix-4-old", "hash:ip")

        rig.make_dataplanes()
        first = await rig.ipset.plan()
        writes = await settle(rig, net_set("10.0.0.1"))

        # The plan came before the batch: nothing was wanted yet.
        assert {change.action for change in first if "s:" in change.where} == {"-"}
        names = {name for name in rig.sets() if "pools" not in name}
        assert names == {"cali40s:a", "cali60s:a"}
        assert writes == 4  # removals alone: s:old of both families, the temporary set, felix's

    rig.run(scenario)


@pytest.mark.parametrize(
    ("clash", "used"),
    [("hash:net maxelem 7", True), ("hash:ip", False), ("hash:net family inet6", False)],
)
def test_set_of_another_shape_is_replaced(rig: Any, clash: str, used: bool) -> None:
    async def scenario() -> None:
        rig.node.sh("ipset", "create", "cali40s:a", *clash.split())
        if used:
            rig.tables(4, "-A INPUT -m set --match-set cali40s:a src -j DROP")

        await settle(rig, net_set("10.0.0.1", "10.0.0.0/24"))

        assert rig.sets()["cali40s:a"] == {"10.0.0.1", "10.0.0.0/24"}
        assert "maxelem 1048576" in rig.node.sh("ipset", "list", "-terse", "cali40s:a")
        assert not any(name.startswith("cali4t") for name in rig.sets())

    rig.run(scenario)


def test_set_that_cannot_be_replaced_is_named_and_holds_up_no_other(rig: Any) -> None:
    async def scenario() -> None:
        rig.node.sh("ipset", "create", "cali40s:a", "hash:ip")
        rig.tables(4, "-A INPUT -m set --match-set cali40s:a src -j DROP")
        rig.ipset.on_batch(rig.node.batch(net_set("10.0.0.1"), net_set("10.0.0.2", set_id="s:b")))

        with pytest.raises(Exception, match="cali40s:a") as raised:
            await rig.ipset.apply()

        assert type(raised.value).__name__ == "KernelError"
        assert rig.sets()["cali40s:b"] == {"10.0.0.2"}
        rig.tables(4, "-F INPUT")
        assert (await rig.ipset.apply()).writes > 0
        assert rig.sets()["cali40s:a"] == {"10.0.0.1"}

    rig.run(scenario)


def test_set_in_use_is_removed_once_it_is_free(rig: Any) -> None:
    async def scenario() -> None:
        await settle(rig, net_set("10.0.0.1"), net_set("10.0.0.2", set_id="s:b"))
        rig.tables(4, "-A INPUT -m set --match-set cali40s:a src -j DROP")
        rig.ipset.on_batch(rig.node.batch(IPSetRemove(set_id="s:a"), IPSetRemove(set_id="s:b")))

        result = await rig.ipset.prune()
        kept = {name for name in rig.sets() if "s:" in name}
        rig.tables(4, "-F INPUT")
        await rig.ipset.cleanup()

        assert kept == {"cali40s:a"}
        assert result.resync_after_s is not None
        assert rig.sets() == {}

    rig.run(scenario)


def test_set_too_large_is_not_programmed_and_told_of(make_rig: Any) -> None:
    rig = make_rig(max_ipset_size=3)

    async def scenario() -> None:
        await settle(rig, net_set("10.0.0.1", "10.0.0.2", "10.0.0.3", "fd00::1"))
        fits = rig.sets()
        await settle(rig, delta(added=("10.0.0.4",)))
        too_large = rig.sets()
        await settle(rig, delta(removed=("10.0.0.1",)))

        assert len(fits["cali40s:a"]) == 3
        assert "cali40s:a" not in too_large
        assert too_large["cali60s:a"] == {"fd00::1"}
        assert rig.sets()["cali40s:a"] == {"10.0.0.2", "10.0.0.3", "10.0.0.4"}
        assert "max_ipset_size" in rig.node.notifications[0].message

    rig.run(scenario)


def test_rendered_sets_are_what_the_tool_then_prints(rig: Any) -> None:
    async def scenario() -> None:
        await settle(rig, net_set("10.0.0.1", "fd00::1"), net_set(set_id="s:empty"))

        def significant(text: str) -> set[str]:
            return {line.split(" bucketsize")[0] for line in text.splitlines()}

        assert significant(rig.ipset.render()) == significant(rig.node.sh("ipset", "save"))

    rig.run(scenario)


def test_a_hundred_thousand_members_stay_quick(rig: Any) -> None:
    async def scenario() -> None:
        addresses = [f"10.{i >> 16}.{i >> 8 & 255}.{i & 255}" for i in range(100_000)]
        started_s = time.monotonic()
        await settle(rig, net_set(*addresses))
        filled_s = time.monotonic() - started_s

        started_s = time.monotonic()
        for number in range(20):
            await settle(rig, delta((f"10.200.0.{number}",), (addresses[number],)))
        change_s = (time.monotonic() - started_s) / 20

        assert filled_s < 5
        assert change_s < 0.1
        assert len(rig.sets()["cali40s:a"]) == 100_000

    rig.run(scenario)


def test_large_replacement_is_swapped_in_at_one_stroke(rig: Any) -> None:
    async def scenario() -> None:
        # The rule holds the set: it can be swapped, not destroyed.
        await settle(rig, net_set(*(f"10.1.{i >> 8}.{i & 255}" for i in range(5000))))
        rig.tables(4, "-A INPUT -m set --match-set cali40s:a src -j DROP")

        rig.ipset.on_batch(rig.node.batch(net_set(*(f"10.2.{i >> 8}.{i & 255}" for i in range(5000)))))
        changes = (await rig.ipset.apply()).changes

        assert [change.action for change in changes] == ["+"]
        sets = rig.sets()
        assert len(sets["cali40s:a"]) == 5000
        assert "10.2.0.0" in sets["cali40s:a"]
        assert not any(name.startswith("cali4t") for name in sets)

    rig.run(scenario)


def test_set_that_is_released_a_little_later_goes_soon(rig: Any) -> None:
    # iptables-nft lets go of the sets of deleted rules when its transaction has long returned.
    async def scenario() -> None:
        await settle(rig, net_set("10.0.0.1"))
        rig.tables(4, "-A INPUT -m set --match-set cali40s:a src -j DROP")
        rig.ipset.on_batch(rig.node.batch(IPSetRemove(set_id="s:a")))
        await rig.ipset.apply()
        first = await rig.ipset.prune()
        again = await rig.ipset.prune()
        rig.tables(4, "-D INPUT -m set --match-set cali40s:a src -j DROP")

        end_s = time.monotonic() + 3
        while "cali40s:a" in rig.sets() and time.monotonic() < end_s:
            await rig.ipset.prune()
            await asyncio.sleep(0.01)

        assert "cali40s:a" not in rig.sets()
        assert first.resync_after_s is not None
        assert again.resync_after_s is not None
        assert 0 < again.resync_after_s <= first.resync_after_s < 1

    rig.run(scenario)


def test_set_that_stays_in_use_is_tried_ever_less_often(rig: Any) -> None:
    async def scenario() -> None:
        await settle(rig, net_set("10.0.0.1"))
        rig.tables(4, "-A INPUT -m set --match-set cali40s:a src -j DROP")
        rig.ipset.on_batch(rig.node.batch(IPSetRemove(set_id="s:a")))
        await rig.ipset.apply()

        waits = []
        for _ in range(3):
            result = await rig.ipset.prune()
            waits.append(result.resync_after_s)
            await asyncio.sleep(result.resync_after_s)

        assert waits == sorted(waits)
        assert waits[2] >= 4 * waits[0]

    rig.run(scenario)
