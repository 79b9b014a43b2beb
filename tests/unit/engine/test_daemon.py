"""Signals: SIGTERM leaves the dataplane, SIGHUP reads the profile again."""

import asyncio
import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from calico_engine.engine import Engine, EngineProfile
from calico_engine.engine.daemon import make_engine, run_daemon
from calico_engine.errors import ConfigError, PluginNotFoundError
from calico_engine.testing.fakes import PassThroughGraph

from .conftest import Rig, make_node, message_name


@pytest.fixture(autouse=True)
def _keep_logging() -> Iterator[None]:
    root = logging.getLogger()
    level, before = root.level, list(root.handlers)
    yield
    for handler in [handler for handler in root.handlers if handler not in before]:
        root.removeHandler(handler)
        handler.close()
    root.setLevel(level)


async def start(rig: Rig, load: list[EngineProfile | ConfigError]) -> Engine:
    """Run a daemon whose profile is the first of `load`, and then, each time it is read again, the next."""

    def read() -> EngineProfile:
        following = load.pop(0)
        if isinstance(following, ConfigError):
            raise following
        return following

    rig.engine = Engine(
        read(),
        "node-a",
        run_dir=rig.run_dir,
        environ={},
        registry=rig.fakes.registry,
        config_file=rig.run_dir / "felix.cfg",
        make_graph=PassThroughGraph,
        load_profile=read,
    )
    rig.task = asyncio.get_running_loop().create_task(run_daemon(rig.engine))
    await rig.engine.wait_applied(5)
    return rig.engine


async def test_sigterm_stops_and_leaves_the_dataplane(rig: Rig) -> None:
    await start(rig, [rig.fakes.profile()])
    await rig.put(make_node("a"))

    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(rig.task, 5)

    assert rig.kernel("rules") == {message_name("a")}


async def test_sighup_takes_a_changed_profile_over(rig: Rig) -> None:
    engine = await start(rig, [rig.fakes.profile(LogPrefix="one"), rig.fakes.profile(LogPrefix="two")])

    os.kill(os.getpid(), signal.SIGHUP)

    await rig.until(lambda: engine.settings.log_prefix == "two")


async def test_sighup_with_a_broken_profile_changes_nothing(
    rig: Rig, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = await start(rig, [rig.fakes.profile(LogPrefix="one"), ConfigError("profile x: not TOML")])

    os.kill(os.getpid(), signal.SIGHUP)
    said = ""
    while "not taken over" not in said:
        await asyncio.sleep(0)
        said += capsys.readouterr().err

    assert "profile x: not TOML" in said
    assert engine.settings.log_prefix == "one"
    assert engine.is_ready()


def test_an_engine_is_made_from_a_profiles_name(tmp_path: Path) -> None:
    engine = make_engine(
        "policy-only", overrides=["felix.LogPrefix=x"], node="n", run_dir=tmp_path, environ={}
    )

    assert (engine.node, engine.profile_name, engine.settings.log_prefix) == ("n", "policy-only", "x")


@pytest.mark.parametrize(
    ("override", "error"),
    [
        ("dataplane=iptable", PluginNotFoundError),
        ("felix.IptablesMarkMask=0x1", ConfigError),
        ("options.file.pth=/x", ConfigError),
        ("options.nobody.x=1", ConfigError),
    ],
)
def test_what_is_wrong_is_known_before_anything_starts(
    tmp_path: Path, override: str, error: type[Exception]
) -> None:
    with pytest.raises(error):
        make_engine("policy-only", overrides=[override], node="n", run_dir=tmp_path, environ={})

    assert list(tmp_path.iterdir()) == []
