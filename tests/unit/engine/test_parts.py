"""Bus, metrics, logs, throttle, world, tasks: each by itself."""

import asyncio
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from calico_engine.engine import logs
from calico_engine.engine.applier import Throttle
from calico_engine.engine.bus import EventBus
from calico_engine.engine.events import DriftDetected, Event, PluginFailed, SyncStatusChanged
from calico_engine.engine.member import BackOff
from calico_engine.engine.metrics import EngineMetrics
from calico_engine.engine.run_lock import RunLock
from calico_engine.engine.tasks import TaskSet
from calico_engine.engine.world import World
from calico_engine.errors import ConfigError
from calico_engine.messages import (
    Batch,
    IPSetDelta,
    IPSetRemove,
    IPSetUpdate,
    NodeRemove,
    NodeUpdate,
    RouteKind,
    RouteUpdate,
    SetKind,
)
from calico_engine.plugin import PluginRegistry, SyncStatus, hookimpl
from calico_engine.settings import FelixSettings


class Listening:
    def __init__(self) -> None:
        self.heard: list[str] = []

    @hookimpl
    def ce_drift_detected(self, plugin: str) -> None:
        self.heard.append(plugin)


class Failing:
    @hookimpl
    def ce_drift_detected(self) -> None:
        raise RuntimeError("slip")


def test_a_failing_hook_or_listener_stops_nobody_else(caplog: pytest.LogCaptureFixture) -> None:
    registry = PluginRegistry()
    first, second = Listening(), Listening()
    registry.register("extension", "first", first)
    registry.register("extension", "failing", Failing())
    registry.register("extension", "second", second)
    bus = EventBus(registry)
    heard: list[Event] = []

    def slip(_: Event) -> None:
        raise RuntimeError("slip")

    bus.subscribe(slip)
    bus.subscribe(heard.append)

    event = DriftDetected(plugin="iptables", message="flushed")
    bus.publish(event)

    assert heard == [event]
    assert first.heard == second.heard == ["iptables"]
    assert "extension:failing" in caplog.text


def test_an_event_published_by_a_listener_comes_after_the_one_it_answers() -> None:
    bus = EventBus(PluginRegistry())
    heard: list[str] = []

    def answer(event: Event) -> None:
        if isinstance(event, DriftDetected):
            bus.publish(PluginFailed(plugin="x", phase="apply", error=""))

    bus.subscribe(answer)
    bus.subscribe(lambda event: heard.append(type(event).__name__))
    bus.publish(DriftDetected(plugin="x", message=""))

    assert heard == ["DriftDetected", "PluginFailed"]


def test_nobody_is_told_after_unsubscribing() -> None:
    bus = EventBus(PluginRegistry())
    heard: list[Event] = []
    bus.subscribe(heard.append)()

    bus.publish(SyncStatusChanged(status=SyncStatus.IN_SYNC))

    assert heard == []


def test_every_event_has_a_hook_with_its_fields() -> None:
    from typing import get_args

    from calico_engine.plugin.hookspecs import Hookspecs

    for kind in get_args(Event):
        specification = vars(Hookspecs)[kind.HOOK]
        parameters = specification.__code__.co_varnames[1 : specification.__code__.co_argcount]
        assert kind.__struct_fields__ == parameters


def test_metrics_print_counters_under_their_plain_names() -> None:
    metrics = EngineMetrics(process_metrics=False)
    metrics.count("felix_iptables_restore_calls", 2)
    metrics.gauge("felix_iptables_rules", 12.5, {"table": 'fil"ter\n', "ip_version": "4"})
    for value in (1.0, 2.0, 3.0, 4.0):
        metrics.observe("felix_exec_time_micros", value)

    lines = metrics.render().splitlines()

    assert "# TYPE felix_iptables_restore_calls counter" in lines
    assert "felix_iptables_restore_calls 2" in lines
    assert 'felix_iptables_rules{ip_version="4",table="fil\\"ter\\n"} 12.5' in lines
    assert 'felix_exec_time_micros{quantile="0.5"} 2.0' in lines
    assert 'felix_exec_time_micros{quantile="0.99"} 4.0' in lines
    assert "felix_exec_time_micros_sum 10" in lines
    assert "felix_exec_time_micros_count 4" in lines


def test_metrics_are_what_prometheus_can_read() -> None:
    from prometheus_client.parser import text_string_to_metric_families

    metrics = EngineMetrics()
    metrics.count("felix_ipset_calls", labels={"ip_version": "4"})
    metrics.observe("felix_int_dataplane_apply_time_seconds", 0.25)

    families = {family.name: family for family in text_string_to_metric_families(metrics.render())}

    assert families["felix_int_dataplane_apply_time_seconds"].type == "summary"
    assert families["felix_ipset_calls"].type == "counter"


def test_throttle_lets_a_burst_through_and_then_spaces() -> None:
    throttle = Throttle(burst=3, refill_per_s=10, now_s=0.0)

    waits = [throttle.wait_s(0.0) for _ in range(5)]

    assert waits == pytest.approx([0, 0, 0, 0.1, 0.2])
    assert throttle.wait_s(10.0) == 0


def test_back_off_doubles_up_to_its_limit() -> None:
    back_off = BackOff(0.1, 1.0)

    delays = []
    for _ in range(6):
        back_off.failed(0.0)
        delays.append(back_off.retry_at_s)

    assert delays == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.0, 1.0])
    back_off.succeeded()
    assert not back_off.holds_back(0.0)


def test_world_snapshot_is_what_the_batches_left() -> None:
    world = World()
    members = frozenset({"10.0.0.1"})
    world.apply(
        Batch(
            revision=1,
            in_sync=True,
            messages=(
                NodeUpdate(node="a"),
                NodeUpdate(node="b"),
                RouteUpdate(dst="10.0.0.1/32", kind=RouteKind.LOCAL_WORKLOAD, node="a"),
                IPSetUpdate(set_id="s", kind=SetKind.NET, members=members),
                IPSetUpdate(set_id="t", kind=SetKind.NET, members=members),
            ),
        )
    )
    world.apply(
        Batch(
            revision=2,
            in_sync=True,
            messages=(
                IPSetDelta(set_id="s", added=frozenset({"10.0.0.2"}), removed=members),
                IPSetRemove(set_id="t"),
                NodeRemove(node="b"),
            ),
        )
    )

    snapshot = world.snapshot()

    assert (snapshot.revision, snapshot.in_sync) == (2, True)
    assert snapshot.messages == (
        IPSetUpdate(set_id="s", kind=SetKind.NET, members=frozenset({"10.0.0.2"})),
        NodeUpdate(node="a"),
        RouteUpdate(dst="10.0.0.1/32", kind=RouteKind.LOCAL_WORKLOAD, node="a"),
    )


def test_the_run_lock_has_one_holder(tmp_path: Path) -> None:
    first, second = RunLock(tmp_path), RunLock(tmp_path)
    first.acquire()

    with pytest.raises(ConfigError, match=r"process [0-9]+"):
        second.acquire()

    first.release()
    second.acquire()
    second.release()


async def test_a_failing_task_is_reported() -> None:
    failures: list[str] = []
    done = asyncio.Event()

    def report(name: str, error: BaseException) -> None:
        failures.append(f"{name}: {error}")
        done.set()

    async def fail() -> None:
        raise RuntimeError("slip")

    TaskSet(report).start("work", fail())
    await asyncio.wait_for(done.wait(), 5)

    assert failures == ["work: slip"]


async def test_cancelled_tasks_have_ended() -> None:
    tasks = TaskSet(lambda name, error: None)
    task = tasks.start("wait", _wait_for_ever())

    await tasks.cancel_all()

    assert task.cancelled()


async def _wait_for_ever() -> None:
    await asyncio.Event().wait()


@pytest.fixture
def _restore_logging() -> Iterator[None]:
    root = logging.getLogger()
    level = root.level
    yield
    logs.configure(FelixSettings(log_severity_screen="none"))
    for handler in [handler for handler in root.handlers if handler.get_name() == "calico-engine"]:
        root.removeHandler(handler)
        handler.close()
    root.setLevel(level)


@pytest.mark.usefixtures("_restore_logging")
def test_json_logs_are_one_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(FelixSettings(), log_format="json")

    logging.getLogger("calico_engine.test").warning("policy active: %s", "line\nbreak")

    entry = json.loads(capsys.readouterr().err)
    assert (entry["level"], entry["message"]) == ("WARNING", "policy active: line\nbreak")


@pytest.mark.usefixtures("_restore_logging")
def test_text_logs_keep_a_hostile_name_on_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(FelixSettings())

    logging.getLogger("calico_engine.test").warning("policy: %s", "a\n2026 [INFO] \u2028forged\x1b[2J\r")

    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("policy: a\\n2026 [INFO] \\u2028forged\\x1b[2J\\r")


@pytest.mark.usefixtures("_restore_logging")
def test_records_lost_on_a_full_disk_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(msgspec.structs.replace(FelixSettings(), log_file_path="/dev/full"), to_file=True)
    before = logs.lost_records()

    logging.getLogger("calico_engine.test").warning("lost")

    assert logs.lost_records() == before + 1
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.usefixtures("_restore_logging")
def test_severity_and_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "log" / "felix.log"
    settings = msgspec.structs.replace(
        FelixSettings(), log_severity_screen="Error", log_severity_file="Debug", log_file_path=str(path)
    )
    logs.configure(settings, to_file=True)

    logging.getLogger("calico_engine.test").debug("detail")

    assert "detail" in path.read_text()
    assert capsys.readouterr().err == ""
