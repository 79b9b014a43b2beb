"""TableDataplane over a kernel in memory: when it writes, reads back, retries and gives up."""

import asyncio
from typing import Any

import pytest

from calico_engine.errors import ConfigError, KernelError
from calico_engine.messages import ActivePolicyRemove, Batch, ConfigUpdate, WorkloadEndpointRemove
from calico_engine.plugin.protocols import Dataplane, EndpointStatus
from calico_engine.ruleset.ir import ChainKey, Family, Layer
from calico_engine.settings import FelixSettings
from calico_engine.testing.messages import (
    ALLOW,
    DENY,
    endpoint_key,
    make_host_update,
    make_interface,
    make_policy_update,
    make_tier,
    make_workload_update,
)

POLICY = make_policy_update("web", inbound=[ALLOW], outbound=[ALLOW])
ENDPOINT = make_workload_update(tiers=[make_tier("web")])
WORLD = (POLICY, ENDPOINT, make_interface("cali1"))
CHAIN = "cali-pi-gnp/web"


async def test_is_a_dataplane(bench: Any) -> None:
    assert isinstance(bench.dataplane, Dataplane)


async def test_nothing_is_read_or_written_before_in_sync(bench: Any) -> None:
    bench.dataplane.on_batch(Batch(revision=1, in_sync=False, messages=WORLD))

    result = await bench.settle()

    assert (result.writes, bench.v4.reads, bench.v4.commits) == (0, 0, 0)


async def test_one_transaction_a_family_and_none_for_nothing(bench: Any) -> None:
    first = await bench.settle(*WORLD)
    again = await bench.settle()
    same = await bench.settle(*WORLD)

    assert first.writes > 0
    assert (again.writes, same.writes) == (0, 0)
    assert [backend.commits for backend in bench.backends.values()] == [1, 1]
    assert [backend.reads for backend in bench.backends.values()] == [1, 1]


async def test_only_what_changed_is_written(bench: Any) -> None:
    await bench.settle(*WORLD)

    result = await bench.settle(make_policy_update("web", inbound=[DENY], outbound=[ALLOW]))

    assert {change.where for change in result.changes} == {f"ipv{f} filter/{CHAIN}" for f in (4, 6)}
    assert {change.action for change in result.changes} == {"~"}


async def test_counts_of_chains_and_rules_are_those_of_the_kernel(bench: Any) -> None:
    longer = make_policy_update("web", inbound=[DENY, ALLOW, ALLOW], outbound=[ALLOW])
    gone = (WorkloadEndpointRemove(endpoint=ENDPOINT.endpoint), ActivePolicyRemove(policy=POLICY.policy))

    for messages in (WORLD, (longer,), (POLICY,), gone, WORLD):
        await bench.settle(*messages)

        for backend in bench.backends.values():
            held: dict[Layer, tuple[int, int]] = {}
            for key, hashes in backend.chains.items():
                chains, rules = held.get(key.layer, (0, 0))
                held[key.layer] = (chains + 1, rules + len(hashes))
            assert backend.measured == held


async def test_restart_over_the_same_kernel_writes_nothing(bench: Any) -> None:
    await bench.settle(*WORLD)
    before = dict(bench.v4.chains)

    bench.restart()
    result = await bench.settle(*WORLD)

    assert (result.writes, bench.v4.chains) == (0, before)
    assert bench.notes == []


async def test_removal_leaves_the_static_chains_alone(bench: Any) -> None:
    await bench.settle(make_interface("cali1"))
    static = bench.names()
    await bench.settle(*WORLD)

    await bench.settle(
        WorkloadEndpointRemove(endpoint=ENDPOINT.endpoint), ActivePolicyRemove(policy=POLICY.policy)
    )

    assert bench.names() == static


async def test_apply_deletes_nothing_prune_does(bench: Any) -> None:
    await bench.settle(*WORLD)
    bench.dataplane.on_batch(
        Batch(revision=2, in_sync=True, messages=(WorkloadEndpointRemove(endpoint=ENDPOINT.endpoint),))
    )

    await bench.dataplane.apply()
    after_apply = bench.names()
    pruned = await bench.dataplane.prune()

    assert CHAIN in after_apply
    assert CHAIN not in bench.names()
    assert {change.action for change in pruned.changes} == {"-"}


async def test_policy_that_is_not_there_is_a_stub_that_drops(bench: Any) -> None:
    result = await bench.settle(ENDPOINT, make_interface("cali1"))

    assert len(bench.v4.chains[ChainKey(Layer.FILTER, CHAIN)]) == 1
    assert result.endpoint_status == {ENDPOINT.endpoint: EndpointStatus.ERROR}


async def test_failure_is_raised_with_both_families_tried_and_all_kept_dirty(bench: Any) -> None:
    bench.v4.broken = True

    with pytest.raises(KernelError, match="no kernel"):
        await bench.settle(*WORLD)
    v6 = bench.names(bench.backends[Family.V6])
    bench.v4.broken = False
    reads = bench.v4.reads
    await bench.settle()

    assert CHAIN in v6
    assert CHAIN in bench.names()
    assert bench.v4.reads == reads + 1


async def test_chain_the_kernel_refuses_is_closed_until_it_changes(bench: Any) -> None:
    policy = make_policy_update("web", inbound=[ALLOW, DENY])
    other = make_policy_update("other", inbound=[ALLOW, ALLOW])
    second = make_workload_update("web-2", interface="cali2", tiers=[make_tier("other")])
    links = (make_interface("cali1"), make_interface("cali2"))
    bench.v4.refuse.add(CHAIN)

    result = await bench.settle(policy, other, ENDPOINT, second, *links)

    assert len(bench.v4.chains[ChainKey(Layer.FILTER, CHAIN)]) == 1
    assert "cali-pi-gnp/other" in bench.names()
    assert result.endpoint_status == {
        ENDPOINT.endpoint: EndpointStatus.ERROR,
        second.endpoint: EndpointStatus.UP,
    }
    assert ["GlobalNetworkPolicy(web)" in note.message for note in bench.notes] == [True]
    quiet = await bench.settle()
    assert (quiet.writes, len(bench.notes)) == (0, 1)
    bench.v4.refuse.clear()
    result = await bench.settle(make_policy_update("web", inbound=[DENY, ALLOW]))
    assert result.endpoint_status[ENDPOINT.endpoint] is EndpointStatus.UP
    assert len(bench.v4.chains[ChainKey(Layer.FILTER, CHAIN)]) > 1


async def test_refused_chain_is_tried_again_at_the_next_refresh(make_bench: Any) -> None:
    bench = make_bench(iptables_refresh_interval_s=90.0, iptables_post_write_check_interval_s=0.0)
    bench.v4.refuse.add(CHAIN)
    await bench.settle(make_policy_update("web", inbound=[ALLOW, DENY]), ENDPOINT)
    bench.v4.refuse.clear()

    bench.now_s += 91
    await bench.settle()

    assert len(bench.v4.chains[ChainKey(Layer.FILTER, CHAIN)]) > 1


async def test_chain_held_by_others_is_kept_and_tried_again_later(bench: Any) -> None:
    await bench.settle(*WORLD)
    bench.v4.busy.add(CHAIN)
    await bench.settle(WorkloadEndpointRemove(endpoint=ENDPOINT.endpoint))
    kept = CHAIN in bench.names()
    bench.v4.busy.clear()
    await bench.settle()
    too_soon = CHAIN in bench.names()

    bench.now_s += 31
    await bench.settle()

    assert (kept, too_soon) == (True, True)
    assert CHAIN not in bench.names()
    assert [note.kind for note in bench.notes] == ["warning"]


async def test_drift_is_mended_and_told_of_once(bench: Any) -> None:
    await bench.settle(*WORLD)
    before = dict(bench.v4.chains)
    bench.v4.chains[ChainKey(Layer.FILTER, CHAIN)] = ("x",)
    del bench.v4.chains[ChainKey(Layer.FILTER, "cali-FORWARD")]

    bench.v4.changed("event")
    bench.now_s += 1
    await bench.settle()

    assert bench.v4.chains == before
    assert [note.kind for note in bench.notes] == ["drift"]
    assert bench.requests == ["event"]


async def test_looks_again_after_a_write_at_growing_intervals_and_at_every_refresh(make_bench: Any) -> None:
    bench = make_bench(iptables_refresh_interval_s=100.0, iptables_post_write_check_interval_s=5.0)
    looks = []
    result = await bench.settle(*WORLD)
    start_s = bench.now_s

    while bench.now_s < start_s + 300:
        bench.now_s += result.resync_after_s
        reads = bench.v4.reads
        result = await bench.settle()
        assert bench.v4.reads == reads + 1
        looks.append(bench.now_s - start_s)

    assert looks == [5, 15, 35, 75, 155, 255, 355]


async def test_timers_that_are_off_never_look(make_bench: Any) -> None:
    bench = make_bench(iptables_refresh_interval_s=0.0, iptables_post_write_check_interval_s=0.0)

    result = await bench.settle(*WORLD)

    assert result.resync_after_s is None
    bench.dataplane.invalidate("asked")
    await bench.settle()
    assert bench.v4.reads == 2


async def test_settings_that_cannot_be_leave_the_kernel_as_it_is(bench: Any) -> None:
    await bench.settle(*WORLD)
    before = dict(bench.v4.chains)

    with pytest.raises(ConfigError):
        await bench.settle(ConfigUpdate(settings=FelixSettings(iptables_mark_mask=1)))

    assert bench.v4.chains == before
    await bench.settle(ConfigUpdate(settings=FelixSettings()))
    assert bench.v4.chains == before


async def test_status_of_endpoints(bench: Any) -> None:
    hidden = make_workload_update("z-later", interface="cali1")
    bad_name = make_workload_update("bad", interface="no good")
    no_link = make_workload_update("no-link", interface="cali9")
    host = make_host_update("eth0", interface="eth0")
    lost = make_host_update("lost", interface="", expected_ips=["192.0.2.7"])

    result = await bench.settle(*WORLD, hidden, bad_name, no_link, host, lost, make_interface("eth0"))

    assert result.endpoint_status == {
        ENDPOINT.endpoint: EndpointStatus.UP,
        hidden.endpoint: EndpointStatus.DOWN,
        bad_name.endpoint: EndpointStatus.ERROR,
        no_link.endpoint: EndpointStatus.DOWN,
        host.endpoint: EndpointStatus.UP,
        lost.endpoint: EndpointStatus.ERROR,
    }


async def test_endpoint_whose_rival_goes_takes_the_interface_over(bench: Any) -> None:
    rival = make_workload_update("a-first", interface="cali1", tiers=[make_tier("other")])
    await bench.settle(*WORLD, rival)
    shadowed = CHAIN in bench.names()

    await bench.settle(WorkloadEndpointRemove(endpoint=endpoint_key("a-first")))

    assert not shadowed
    assert CHAIN in bench.names()


async def test_plan_says_what_apply_would_do_and_does_nothing(bench: Any) -> None:
    await bench.settle(*WORLD)
    bench.dataplane.on_batch(
        Batch(revision=2, in_sync=True, messages=(make_policy_update("web", inbound=[DENY]),))
    )
    del bench.v4.chains[ChainKey(Layer.FILTER, "cali-INPUT")]
    before = dict(bench.v4.chains)

    plan = await bench.dataplane.plan()

    assert bench.v4.chains == before
    lines = {(change.action, change.where) for change in plan if "ipv4" in change.where}
    assert ("+", "ipv4 filter/cali-INPUT") in lines
    assert ("~", f"ipv4 filter/{CHAIN}") in lines
    bench.dataplane.invalidate("apply it")
    applied = await bench.settle()
    assert {(change.action, change.where) for change in applied.changes} == {
        (c.action, c.where) for c in plan
    }


async def test_render_needs_no_kernel(bench: Any) -> None:
    bench.dataplane.on_batch(Batch(revision=1, in_sync=False, messages=WORLD))

    text = bench.dataplane.render()

    assert f"filter {CHAIN}" in text
    assert (bench.v4.reads, bench.v4.commits) == (0, 0)


async def test_cleanup_counts_what_it_removes(bench: Any) -> None:
    await bench.settle(*WORLD)
    count = sum(len(backend.chains) for backend in bench.backends.values())

    assert await bench.dataplane.cleanup() == count
    assert bench.names() == set()


@pytest.mark.parametrize("render_at_turn", [0, 2])
async def test_event_loop_has_room_while_much_is_compiled(bench: Any, render_at_turn: int) -> None:
    """And somebody who renders in the middle of it does no harm."""
    endpoints = [
        make_workload_update(f"w{i}", interface=f"cali{i}", tiers=[make_tier("web")]) for i in range(300)
    ]
    bench.dataplane.on_batch(Batch(revision=1, in_sync=True, messages=(POLICY, *endpoints)))
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            if turns == render_at_turn:
                bench.dataplane.render()
            await asyncio.sleep(0)

    counter = asyncio.create_task(count_turns())
    await bench.dataplane.apply()
    counter.cancel()

    assert turns > (render_at_turn or 5)
    assert {f"cali-tw-cali{i}" for i in range(300)} <= bench.names()
    assert (await bench.settle()).writes == 0


async def test_apply_that_is_cut_off_is_not_trusted(bench: Any) -> None:
    bench.v4.hang.clear()
    bench.dataplane.on_batch(Batch(revision=1, in_sync=True, messages=WORLD))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await bench.dataplane.apply()
    half_done = CHAIN in bench.names()
    bench.v4.hang.set()

    await bench.settle()

    assert half_done
    assert bench.v4.reads == 2
    assert bench.v4.hooks
    assert (await bench.settle()).writes == 0


async def test_chains_refused_without_a_name_are_found_and_closed(bench: Any) -> None:
    names = [f"p{i}" for i in range(9)]
    policies = [make_policy_update(name, inbound=[ALLOW, DENY]) for name in names]
    endpoint = make_workload_update(tiers=[make_tier(*names)])
    bench.v4.silent = True
    bench.v4.refuse = {"cali-pi-gnp/p2", "cali-pi-gnp/p7"}

    await bench.settle(*policies, endpoint)

    sizes = {name: len(bench.v4.chains[ChainKey(Layer.FILTER, f"cali-pi-gnp/{name}")]) for name in names}
    assert {name for name, size in sizes.items() if size == 1} == {"p2", "p7"}
    assert len([note for note in bench.notes if "refused by the kernel" in note.message]) == 2
    assert (await bench.settle()).writes == 0


@pytest.mark.parametrize("silent", [False, True])
async def test_static_chain_is_never_closed(bench: Any, *, silent: bool) -> None:
    """It would cut the node off."""
    bench.v4.silent = silent
    bench.v4.refuse = {"cali-INPUT"}

    with pytest.raises(KernelError, match="refused"):
        await bench.settle(*WORLD)

    assert ChainKey(Layer.FILTER, "cali-INPUT") not in bench.v4.chains
    bench.v4.refuse.clear()
    await bench.settle()
    assert len(bench.v4.chains[ChainKey(Layer.FILTER, "cali-INPUT")]) > 1
    assert CHAIN in bench.names()
