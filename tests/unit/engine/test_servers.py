"""What the engine answers over HTTP: control socket, health, metrics."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from calico_engine.engine.control import SOCKET_NAME
from calico_engine.engine.status import PluginWarning
from calico_engine.plugin.protocols import Change, SyncStatus

from .conftest import Rig, make_node, message_name


@asynccontextmanager
async def control(rig: Rig) -> AsyncIterator[aiohttp.ClientSession]:
    path = rig.run_dir / SOCKET_NAME
    await rig.until(path.exists)
    async with aiohttp.ClientSession("http://engine", connector=aiohttp.UnixConnector(str(path))) as session:
        yield session


async def get(session: aiohttp.ClientSession, path: str) -> tuple[int, Any]:
    async with session.get(path) as response:
        return response.status, await response.json()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def fetch(url: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return response.status, await response.text()


async def test_status_is_everything_about_the_engine(rig: Rig) -> None:
    await rig.start()
    await rig.put(make_node("a"))

    async with control(rig) as session:
        code, status = await get(session, "/status")

    assert code == 200
    assert (status["node"], status["profile"], status["ready"]) == ("node-a", "fakes", True)
    assert status["datastore"] == "in-sync"
    assert [plugin["name"] for plugin in status["plugins"]] == ["sets", "rules", "routes"]


async def test_text_that_is_no_unicode_does_not_take_status_away(rig: Rig) -> None:
    engine = await rig.start()
    engine.warnings.append(PluginWarning(plugin="sets", message="file \udcff: bad", time=""))

    async with control(rig) as session:
        code, status = await get(session, "/status")

    assert code == 200
    assert status["warnings"][0]["message"] == "file ?: bad"


async def test_dumps(rig: Rig) -> None:
    await rig.start()
    await rig.put(make_node("a", "192.0.2.7"))

    async with control(rig) as session:
        _, state = await get(session, "/dump?what=state")
        _, rules = await get(session, "/dump?what=rules")
        _, routes = await get(session, "/dump?what=routes")
        _, sets = await get(session, "/dump?what=sets")
        _, config = await get(session, "/dump?what=config")
        code, error = await get(session, "/dump?what=nonsense")

    messages = {message["message"]: message for message in state["messages"]}
    assert messages["NodeUpdate"]["ipv4_address"] == "192.0.2.7"
    assert message_name("a") in rules["plugins"]["dataplane:rules"]
    assert list(routes["plugins"]) == ["routing:routes"]
    assert sets["sets"] == {}
    assert config["settings"]["log_prefix"] == "calico-packet"
    assert code == 404
    assert "state, rules, sets, routes" in str(error["error"])


async def test_plan_and_apply(rig: Rig) -> None:
    await rig.start()
    await rig.put(make_node("a"))
    rig.fakes.kernels["rules"].objects.pop(message_name("a"))

    async with control(rig) as session:
        _, plan = await get(session, "/plan")
        async with session.post("/apply") as response:
            applied = await response.json()

    assert plan["plugins"]["dataplane:rules"] == [
        {"action": "+", "where": "kernel", "text": message_name("a")}
    ]
    assert sum(result["writes"] for result in applied["results"]) == 1
    assert rig.kernel("rules") == {message_name("a")}


async def test_plan_before_in_sync_is_unavailable(rig: Rig) -> None:
    rig.fakes.hold_sync = True
    rig.begin()

    async with control(rig) as session:
        code, error = await get(session, "/plan")

    assert code == 503
    assert "in sync" in str(error["error"])


async def test_reload_needs_a_profile_to_read(rig: Rig) -> None:
    await rig.start()

    async with control(rig) as session, session.post("/reload") as response:
        assert response.status == 400


async def test_a_socket_left_by_a_killed_engine_is_no_hindrance(rig: Rig) -> None:
    rig.run_dir.mkdir()
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(rig.run_dir / SOCKET_NAME))
    left.close()

    await rig.start()

    async with control(rig) as session:
        code, _ = await get(session, "/status")
    assert code == 200
    await rig.stop()
    assert not (rig.run_dir / SOCKET_NAME).exists()


async def test_a_path_too_long_for_a_socket_is_survived(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rig = Rig(tmp_path / ("d" * 120))

    await rig.start()

    await rig.until(lambda: "no control socket" in caplog.text)
    assert rig.engine.is_ready()
    await rig.stop()


async def test_health_follows_the_engine(rig: Rig) -> None:
    port = free_port()
    rig.fakes.hold_sync = True
    engine = rig.begin(rig.fakes.profile(HealthEnabled="true", HealthHost="127.0.0.1", HealthPort=str(port)))
    await rig.until(lambda: engine.pump is not None and engine.pump.status is SyncStatus.RESYNC)
    await rig.until(lambda: _listens(port))

    before = await fetch(f"http://127.0.0.1:{port}/readiness")
    live = await fetch(f"http://127.0.0.1:{port}/liveness")
    rig.fakes.datastore.say(SyncStatus.IN_SYNC)
    await engine.wait_applied(5)
    after = await fetch(f"http://127.0.0.1:{port}/readiness")

    assert (before[0], live[0], after[0]) == (503, 200, 200)
    assert "int_dataplane" in before[1]


# Dashboards and alarms of Felix ask for these from the first scrape on.
COUNTERS = (
    "felix_calc_graph_output_events",
    "felix_calc_graph_updates_processed",
    "felix_int_dataplane_failures",
    "felix_int_dataplane_messages",
    "felix_ipset_calls",
    "felix_ipset_errors",
    "felix_ipset_lines_executed",
    "felix_iptables_lines_executed",
    "felix_iptables_restore_calls",
    "felix_iptables_restore_errors",
    "felix_iptables_save_calls",
    "felix_iptables_save_errors",
    "felix_log_errors",
    "felix_resyncs_started",
)


async def test_metrics_have_the_references_names(rig: Rig) -> None:
    port = free_port()
    await rig.start(
        rig.fakes.profile(
            PrometheusMetricsEnabled="true",
            PrometheusMetricsHost="127.0.0.1",
            PrometheusMetricsPort=str(port),
        )
    )
    await rig.put(make_node("a"))
    await rig.until(lambda: _listens(port))

    code, text = await fetch(f"http://127.0.0.1:{port}/metrics")

    lines = text.splitlines()
    assert code == 200
    assert "felix_resync_state 2" in lines
    for name in COUNTERS:
        assert any(line.startswith(f"{name} ") for line in lines), name
        assert f"# TYPE {name} counter" in lines
    helps = [line for line in lines if line.startswith("# HELP felix_")]
    assert [line for line in helps if line.split()[2] == line.split()[3]] == []
    assert "felix_cluster_num_hosts 1" in lines
    assert "felix_int_dataplane_failures 0" in lines
    assert "# TYPE felix_calc_graph_update_time_seconds summary" in lines
    assert 'calico_engine_plugin_up{plugin="dataplane:rules"} 1.0' in lines
    assert any(line.startswith('felix_int_dataplane_apply_time_seconds{quantile="0.5"}') for line in lines)
    assert any(line.startswith("process_resident_memory_bytes ") for line in lines)


async def test_a_port_in_use_is_survived(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        await rig.start(rig.fakes.profile(HealthEnabled="true", HealthHost="127.0.0.1", HealthPort=str(port)))
        await rig.until(lambda: "health server cannot listen" in caplog.text)

        assert rig.engine.is_ready()


async def test_an_address_that_is_not_there_does_not_keep_the_others_from_listening(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What "localhost" is where /etc/hosts has ::1 and IPv6 is switched off.
    async def resolve(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        if host != "localhost":
            return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", (host, port))]
        return [(0, 0, 0, "", (address, port)) for address in ("192.0.2.77", "127.0.0.1")]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve)
    port = free_port()

    await rig.start(rig.fakes.profile(HealthEnabled="true", HealthPort=str(port)))

    await rig.until(lambda: _listens(port))


async def test_a_plugin_that_cannot_plan_is_an_answer(rig: Rig) -> None:
    await rig.start()

    async def slip() -> list[Change]:
        raise RuntimeError("slip")

    rig.fakes.dataplane("rules").plan = slip  # type: ignore[method-assign]

    async with control(rig) as session:
        code, error = await get(session, "/plan")

    assert (code, error) == (500, {"error": "RuntimeError: slip"})


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
