"""The whole engine over in-memory plugins: what reaches the kernels, and when."""

import asyncio

import pytest

from calico_engine.engine.events import (
    ApplyFinished,
    BatchReady,
    DriftDetected,
    EngineStarted,
    EngineStopping,
    PluginFailed,
    ResourceRejected,
    SyncStatusChanged,
)
from calico_engine.engine.profile import EngineOptions
from calico_engine.errors import (
    ConfigError,
    DataplaneStuckError,
    KernelUnsupportedError,
    UnavailableError,
)
from calico_engine.messages import Batch, ConfigUpdate, NodeUpdate
from calico_engine.model.resource import ResourceKey
from calico_engine.plugin.protocols import ApplyResult, SyncStatus, Update

from .conftest import Rig, make_node, message_name


async def test_a_resource_reaches_every_kernel_and_leaves_it_again(rig: Rig) -> None:
    await rig.start()

    await rig.put(make_node("a"))

    assert {name: rig.kernel(name) for name in rig.fakes.kernels} == {
        name: {message_name("a")} for name in rig.fakes.kernels
    }
    await rig.fakes.datastore.delete(ResourceKey("Node", "", "a"))
    await rig.until(lambda: not any(rig.kernel(name) for name in rig.fakes.kernels))


async def test_nothing_is_written_before_the_datastore_is_in_sync(rig: Rig) -> None:
    rig.fakes.hold_sync = True
    engine = rig.begin()
    await rig.until(lambda: bool(rig.fakes.datastores) and rig.fakes.datastore.watched)
    rig.fakes.datastore.say([Update(make_node("a").key, make_node("a"))])
    engine.request_apply("test")
    await rig.until(lambda: engine.pump is not None and engine.pump.status is SyncStatus.RESYNC)
    for _ in range(20):
        await asyncio.sleep(0)

    assert rig.fakes.journal == []
    assert not engine.is_ready()
    with pytest.raises(UnavailableError):
        await engine.apply_now()

    rig.fakes.datastore.say(SyncStatus.IN_SYNC)
    await engine.wait_applied(5)

    assert rig.kernel("rules") == {message_name("a")}


async def test_applies_in_order_and_prunes_in_reverse(rig: Rig) -> None:
    await rig.start()

    assert rig.fakes.journal[:6] == [
        "sets.apply", "rules.apply", "routes.apply", "routes.prune", "rules.prune", "sets.prune",
    ]  # fmt: skip


async def test_an_empty_datastore_brings_settings_and_in_sync(rig: Rig) -> None:
    await rig.start()

    (batch,) = rig.fakes.dataplane("rules").batches

    assert batch.in_sync
    assert [type(message) for message in batch.messages] == [ConfigUpdate]


async def test_a_failing_apply_is_retried_and_later_plugins_wait(rig: Rig) -> None:
    rig.fakes.kernels["sets"].refuse(2)

    await rig.start()

    assert rig.fakes.journal[:3] == ["sets.apply", "sets.apply", "sets.apply"]
    assert [e.plugin for e in rig.events if isinstance(e, PluginFailed)] == ["dataplane:sets"] * 2
    assert "ConfigUpdate" in rig.fakes.kernels["routes"].names()


async def test_a_failing_route_holds_up_nothing_else(rig: Rig) -> None:
    await rig.start()
    rig.fakes.kernels["routes"].refuse(1000)

    await rig.fakes.datastore.put(make_node("a"))
    await rig.until(lambda: rig.kernel("rules") == {message_name("a")})

    assert rig.kernel("routes") == set()
    states = {member.name: member.state for member in rig.engine.status().plugins}
    assert (states["rules"], states["routes"]) == ("ok", "failing")
    assert not rig.engine.is_ready()


async def test_nothing_is_pruned_that_a_failing_plugin_may_refer_to(rig: Rig) -> None:
    rig.fakes.contents[make_node("a").key] = make_node("a")
    await rig.start(rig.fakes.profile(EngineOptions(plumbing=False, link_monitor=False, retry_initial_s=60)))
    rig.fakes.kernels["rules"].refuse(1)

    await rig.fakes.datastore.delete(ResourceKey("Node", "", "a"))
    await rig.fakes.datastore.put(make_node("b"))
    await rig.until(lambda: any(isinstance(event, PluginFailed) for event in rig.events))
    await rig.until(lambda: rig.engine.applier is not None and rig.engine.applier.idle)

    assert message_name("a") in rig.kernel("sets")
    assert message_name("a") in rig.kernel("rules")


async def test_a_failing_prune_is_retried_and_never_stops_the_engine(rig: Rig) -> None:
    await rig.start()
    await rig.put(make_node("a"))
    rig.fakes.kernels["rules"].refuse(15)

    await rig.fakes.datastore.delete(ResourceKey("Node", "", "a"))
    await rig.until(lambda: rig.kernel("sets") == set())

    failed = [(event.plugin, event.phase) for event in rig.events if isinstance(event, PluginFailed)]
    assert failed == [("dataplane:rules", "prune")] * 15
    assert rig.kernel("rules") == set()
    assert not rig.task.done()


async def test_a_plugin_that_never_recovers_stops_the_engine_loudly(rig: Rig) -> None:
    rig.fakes.kernels["rules"].refuse(1000)
    rig.begin()

    with pytest.raises(DataplaneStuckError, match="dataplane:rules: failed 10 times in a row"):
        await asyncio.wait_for(rig.task, 10)

    assert len(rig.fakes.made["rules"]) == 2, "it was made anew half way"
    assert rig.kernel("routes") == set(), "no route before policy"


async def test_a_plugin_that_cannot_is_not_asked_ten_times(rig: Rig) -> None:
    rig.fakes.kernels["rules"].refuse(1000, KernelUnsupportedError("xt_set", hint="load xt_set"))
    rig.begin()

    with pytest.raises(DataplaneStuckError, match=r"3 times in a row.*xt_set"):
        await asyncio.wait_for(rig.task, 10)


async def test_a_plugin_that_loses_a_batch_is_made_anew_and_told_everything(rig: Rig) -> None:
    await rig.start()
    await rig.put(make_node("a"))
    rig.fakes.dataplane("rules").fail_on_batch = RuntimeError("slip")

    await rig.put(make_node("b"))

    assert rig.kernel("rules") == {message_name("a"), message_name("b")}
    assert len(rig.fakes.made["rules"]) == 2
    assert rig.fakes.made["rules"][0].closed
    assert len(rig.fakes.made["sets"]) == 1


async def test_drift_is_repaired_at_once(rig: Rig) -> None:
    await rig.start()
    await rig.put(make_node("a"))

    rig.fakes.dataplane("rules").drift(message_name("a"))
    await rig.until(lambda: rig.kernel("rules") == {message_name("a")})

    assert [event.plugin for event in rig.events if isinstance(event, DriftDetected)] == ["rules"]
    assert rig.engine.metrics.value("calico_engine_drift_detected") == 1


async def test_silent_drift_is_repaired_by_the_refresh_timer(rig: Rig) -> None:
    await rig.start(rig.fakes.profile(IptablesRefreshInterval="0.05"))
    await rig.put(make_node("a"))

    rig.fakes.kernels["rules"].objects.clear()

    await rig.until(lambda: rig.kernel("rules") == {message_name("a")})
    assert "refresh timer" in rig.fakes.dataplane("rules").invalidations


async def test_one_plugins_short_interval_does_not_put_off_anothers(rig: Rig) -> None:
    profile = rig.fakes.profile(
        IptablesRefreshInterval="0.02", IpsetsRefreshInterval="0.02", RouteRefreshInterval="0.3"
    )
    await rig.start(profile)

    await rig.until(lambda: "refresh timer" in rig.fakes.dataplane("rules").invalidations)
    await rig.until(lambda: "refresh timer" in rig.fakes.dataplane("routes").invalidations, timeout_s=3)


async def test_a_plugins_own_resync_time_is_kept(rig: Rig) -> None:
    await rig.start()
    rig.fakes.dataplane("sets").resync_after_s = 0.02
    await rig.put(make_node("a"))

    rig.fakes.kernels["sets"].objects.clear()

    await rig.until(lambda: rig.kernel("sets") == {message_name("a")})


async def test_an_apply_without_changes_writes_nothing(rig: Rig) -> None:
    await rig.start()
    await rig.put(make_node("a"))
    before = {name: kernel.writes for name, kernel in rig.fakes.kernels.items()}

    results = await rig.engine.apply_now()

    assert sum(result.writes for result in results) == 0
    assert {name: kernel.writes for name, kernel in rig.fakes.kernels.items()} == before


async def test_a_crashed_datastore_is_restarted_and_what_went_meanwhile_goes(rig: Rig) -> None:
    await rig.start(
        rig.fakes.profile(EngineOptions(plumbing=False, link_monitor=False, datastore_retry_max_s=0.01))
    )
    await rig.put(make_node("a"), make_node("b"))
    first = rig.fakes.datastore
    del rig.fakes.contents[make_node("a").key]

    first.say(RuntimeError("crash"))
    await rig.until(lambda: rig.kernel("rules") == {message_name("b")})

    assert first.closed
    assert len(rig.fakes.datastores) == 2


async def test_a_lost_datastore_leaves_the_dataplane(rig: Rig) -> None:
    await rig.start()
    await rig.put(make_node("a"))

    rig.fakes.datastore.say(SyncStatus.WAIT_FOR_DATASTORE)
    await rig.until(lambda: rig.engine.status().datastore is SyncStatus.WAIT_FOR_DATASTORE)
    await rig.engine.apply_now()

    assert rig.kernel("rules") == {message_name("a")}
    assert rig.engine.is_ready()


async def test_rejected_resources_are_named_until_they_are_right(rig: Rig) -> None:
    await rig.start()

    await rig.fakes.datastore.put(make_node("bad"))
    broken = ResourceKey("Node", "", "broken")
    rig.fakes.datastore.say([Update(broken, None, error="line 3: no colon")])
    await rig.put(make_node("a"))

    assert rig.engine.status().rejected == {
        "Node(bad)": "metadata.name: must not be bad",
        "Node(broken)": "line 3: no colon",
    }
    assert rig.kernel("rules") == {message_name("a")}
    assert [event.name for event in rig.events if isinstance(event, ResourceRejected)] == [
        "Node(broken)",
        "Node(bad)",
    ]

    rig.fakes.datastore.say([Update(broken, None)])
    await rig.fakes.datastore.delete(ResourceKey("Node", "", "bad"))
    await rig.until(lambda: not rig.engine.status().rejected)


async def test_a_resource_the_graph_chokes_on_stops_nothing(rig: Rig) -> None:
    rig.fakes.contents |= {node.key: node for node in (make_node("a"), make_node("choke"), make_node("b"))}

    await rig.start()

    assert rig.kernel("rules") == {message_name("a"), message_name("b")}
    assert rig.engine.status().rejected == {
        "Node(choke)": "cannot be processed: RuntimeError: no way to process this"
    }


async def test_a_kernel_without_ipv6_is_said_and_done_without(rig: Rig) -> None:
    rig.families = (4,)

    engine = await rig.start()

    assert rig.fakes.dataplane("rules").context.families == (4,)
    assert engine.status().notices == ("this kernel has no IPv6: Ipv6Support is not in effect",)


async def test_plugins_are_made_anew_when_the_families_change(rig: Rig) -> None:
    engine = await rig.start(rig.fakes.profile(Ipv6Support="true"))
    await rig.put(make_node("a"))

    engine.reload(rig.fakes.profile(Ipv6Support="false"))
    await rig.until(lambda: all(len(made) == 2 for made in rig.fakes.made.values()))
    await engine.wait_applied(5)

    assert rig.fakes.dataplane("rules").context.families == (4,)
    assert rig.kernel("rules") == {message_name("a")}


async def test_an_apply_under_way_ends_before_the_engine_does(rig: Rig) -> None:
    await rig.start()
    entered, go_on, ended = asyncio.Event(), asyncio.Event(), []
    plugin = rig.fakes.dataplane("rules")

    async def slow() -> ApplyResult:
        entered.set()
        await go_on.wait()
        ended.append(True)
        return ApplyResult(plugin="rules")

    plugin.apply = slow  # type: ignore[method-assign]
    rig.engine.request_apply("test")
    await entered.wait()

    rig.engine.request_stop()
    await rig.until(lambda: any(isinstance(event, EngineStopping) for event in rig.events))
    go_on.set()
    await rig.task

    assert ended == [True]


async def test_a_batch_that_comes_within_a_pass_waits_for_its_end(rig: Rig) -> None:
    # Rules told of it now would be written before the sets they look up.
    await rig.start()
    entered, go_on = asyncio.Event(), asyncio.Event()
    sets, rules = rig.fakes.dataplane("sets"), rig.fakes.dataplane("rules")
    apply, seen = sets.apply, []

    async def slow() -> ApplyResult:
        result = await apply()
        if not entered.is_set():
            entered.set()
            await go_on.wait()
            seen.append(len(rules.batches))
        return result

    sets.apply = slow  # type: ignore[method-assign]
    rig.engine.request_apply("test")
    await entered.wait()
    before = len(rules.batches)
    assert rig.engine.applier is not None

    rig.engine.applier.on_batch(
        Batch(revision=9, in_sync=True, messages=(NodeUpdate(node="late", ipv4_address="192.0.2.9"),))
    )
    go_on.set()
    await rig.engine.wait_applied(5)

    assert seen == [before]
    assert len(rules.batches) == before + 1
    assert "NodeUpdate:late" in {name for kernel in rig.fakes.kernels.values() for name in kernel.names()}


async def test_waiting_for_an_engine_that_stops_is_told_so(rig: Rig) -> None:
    rig.fakes.hold_sync = True
    engine = rig.begin()
    waiter = asyncio.get_running_loop().create_task(engine.wait_applied(5))
    await rig.until(lambda: bool(rig.fakes.datastores))

    engine.request_stop()

    with pytest.raises(UnavailableError, match="stopped before"):
        await waiter


async def test_stopping_leaves_the_dataplane_and_closes_everything(rig: Rig) -> None:
    await rig.start()
    await rig.put(make_node("a"))

    await rig.stop()

    assert rig.kernel("rules") == {message_name("a")}
    assert rig.fakes.dataplane("rules").closed
    assert rig.fakes.datastore.closed


async def test_a_second_engine_on_the_run_directory_is_refused(rig: Rig) -> None:
    await rig.start()
    other = Rig(rig.run_dir)
    other.begin()

    with pytest.raises(ConfigError, match="another engine"):
        await other.task


async def test_the_run_directory_is_free_again_after_a_stop(rig: Rig) -> None:
    await rig.start()
    await rig.stop()

    await rig.start()

    assert rig.engine.is_ready()


async def test_events_come_on_one_timeline(rig: Rig) -> None:
    await rig.start()
    await rig.stop()

    kinds = [type(event) for event in rig.events]
    assert kinds[0] is EngineStarted
    assert kinds[-1] is EngineStopping
    assert kinds.index(BatchReady) < kinds.index(ApplyFinished)
    assert SyncStatus.IN_SYNC in [e.status for e in rig.events if isinstance(e, SyncStatusChanged)]


async def test_a_felix_configuration_changes_settings_while_running(rig: Rig) -> None:
    from calico_engine.model.config import FelixConfiguration
    from calico_engine.model.resource import Metadata

    await rig.start()
    seen: list[str] = []
    rig.engine.on_settings(lambda settings: seen.append(settings.log_prefix))

    await rig.fakes.datastore.put(
        FelixConfiguration(metadata=Metadata(name="default"), spec={"logPrefix": "cluster"})
    )
    await rig.until(lambda: rig.engine.settings.log_prefix == "cluster")
    await rig.until(lambda: _settings_of(rig).log_prefix == "cluster")

    assert seen == ["cluster"]


def _settings_of(rig: Rig):  # type: ignore[no-untyped-def]
    return rig.fakes.dataplane("rules").kernel.objects["ConfigUpdate"].settings  # type: ignore[union-attr]


async def test_reload_takes_over_what_it_can_and_names_the_rest(rig: Rig) -> None:
    import msgspec

    engine = await rig.start(rig.fakes.profile(LogPrefix="before"))
    changed = msgspec.structs.replace(rig.fakes.profile(LogPrefix="after"), dataplane=("rules",))

    refused = engine.reload(changed)
    await rig.until(lambda: _settings_of(rig).log_prefix == "after")

    assert refused == ["dataplane"]
    assert engine.settings.log_prefix == "after"


async def test_a_wrong_profile_is_refused_by_reload_and_nothing_changes(rig: Rig) -> None:
    engine = await rig.start(rig.fakes.profile(LogPrefix="before"))

    with pytest.raises(ConfigError, match="IptablesMarkMask"):
        engine.reload(rig.fakes.profile(IptablesMarkMask="0x1"))

    assert engine.settings.log_prefix == "before"


async def test_plan_says_what_an_apply_would_change(rig: Rig) -> None:
    await rig.start()
    await rig.put(make_node("a"))
    rig.fakes.kernels["rules"].objects.pop(message_name("a"))

    plan = await rig.engine.plan()

    assert {name: [(c.action, c.text) for c in changes] for name, changes in plan.items()} == {
        "dataplane:sets": [],
        "dataplane:rules": [("+", message_name("a"))],
        "routing:routes": [],
    }
    assert message_name("a") not in rig.kernel("rules")


async def test_status_is_reported_to_the_datastore(rig: Rig) -> None:
    await rig.start(rig.fakes.profile(ReportingIntervalSecs="0.02"))

    await rig.until(lambda: len(rig.fakes.datastore.reports) >= 2)

    first, second = rig.fakes.datastore.reports[:2]
    assert (first.node, first.first_update, second.first_update) == ("node-a", True, False)
    assert dict(first.endpoints) == {}


async def test_a_slow_apply_is_a_failure(rig: Rig) -> None:
    options = EngineOptions(plumbing=False, link_monitor=False, apply_timeout_s=0.02, retry_initial_s=0.01)
    rig.begin(rig.fakes.profile(options))
    await rig.until(lambda: bool(rig.fakes.made["rules"]))
    never = asyncio.Event()

    async def hang() -> object:
        return await never.wait()

    rig.fakes.dataplane("rules").apply = hang  # type: ignore[method-assign,assignment]
    rig.engine.request_apply("test")  # the first one may be over

    await rig.until(lambda: any(isinstance(event, PluginFailed) for event in rig.events))

    assert rig.engine.status().plugins[1].error == "apply: did not finish in time"
