"""Switching over the control socket, and the command that does it."""

import asyncio
import contextlib
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from calico_engine.cli.app import run_program
from calico_engine.cli.inspect import status
from calico_engine.cli.switch import switch
from calico_engine.engine.choice import Choice, ChoiceFile
from calico_engine.engine.control import SOCKET_NAME
from calico_engine.engine.run_lock import RunLock

from .conftest import Rig
from .test_servers import control, get


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    made = Rig(tmp_path / "run")
    made.fakes.add_dataplane("other")
    yield made
    await made.stop()


async def call(rig: Rig, *arguments: str) -> tuple[int, str]:
    """Run `calico-engine switch` in a thread, as another process would; returns the exit code and its words."""
    await rig.until((rig.run_dir / SOCKET_NAME).exists)

    def run() -> tuple[int, str]:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            code = run_program(["switch", "--run-dir", str(rig.run_dir), *arguments])
        return code, printed.getvalue()

    return await asyncio.to_thread(run)


async def test_the_command_tells_each_step_and_how_it_ended(rig: Rig) -> None:
    await rig.start()

    code, said = await call(rig, "--dataplane", "other")

    assert code == 0, said
    lines = said.splitlines()
    assert lines.pop(1).startswith("programmed for the first time in 0.")
    assert lines == [
        "programming beside sets, rules: other",
        "verified: the kernel is as it should be, and no endpoint worse off",
        "in force: other",
        "removed 1 objects: dataplane:rules",
        "removed 1 objects: dataplane:sets",
        "switched from sets, rules to other",
    ]


async def test_the_command_for_machines(rig: Rig) -> None:
    await rig.start()

    code, said = await call(rig, "--dataplane", "other", "-o", "json")

    answer = json.loads(said)["switch"]
    assert code == 0
    assert (answer["before"], answer["after"], answer["phase"]) == (["sets", "rules"], ["other"], "done")
    assert (answer["error"], answer["trouble"]) == ("", "")


async def test_a_failed_switch_is_exit_code_one_and_the_reason(rig: Rig) -> None:
    await rig.start()
    rig.fakes.kernels["other"].refuse(11)

    code, said = await call(rig, "--dataplane", "other")

    assert code == 1
    assert "error: " in said
    assert "no luck" in said
    assert "sets, rules stays in force" in said


async def test_a_wrong_wish_is_exit_code_one_and_the_reason(rig: Rig) -> None:
    await rig.start()

    code, said = await call(rig, "--dataplane", "nosuch")

    assert code == 1
    assert "no dataplane plugin named 'nosuch'" in said


async def test_what_is_in_force_is_said(rig: Rig) -> None:
    await rig.start()

    assert await call(rig, "--dataplane", "sets,rules") == (0, "sets, rules is in force already\n")


async def test_a_dry_run_says_what_would_be_done(rig: Rig) -> None:
    await rig.start()

    code, said = await call(rig, "--dataplane", "other", "--dry-run")

    assert code == 0
    assert said.splitlines()[0] == "would program 1 objects: dataplane:other"
    assert rig.fakes.kernels["other"].writes == 0


async def test_forgetting_asks_the_running_engine(rig: Rig) -> None:
    await rig.start()
    await call(rig, "--dataplane", "other")

    code, said = await call(rig, "--forget")

    assert (code, said) == (
        0,
        "forgotten: the next start comes up with sets, rules, as the profile says\n",
    )
    assert ChoiceFile(rig.run_dir).read() == Choice(discard=("other",))


async def test_status_shows_what_is_in_force(rig: Rig) -> None:
    await rig.start()
    await call(rig, "--dataplane", "other")

    async with control(rig) as session:
        _, answer = await get(session, "/status")
    shown = await asyncio.to_thread(
        CliRunner().invoke, status, ["--run-dir", str(rig.run_dir)], standalone_mode=False
    )

    assert answer["dataplane"] == ["other"]
    assert answer["switch"]["phase"] == "done"
    assert any(line.split() == ["dataplane:", "other"] for line in shown.output.splitlines()), shown.output
    assert "was chosen by `switch`, the profile says sets, rules" in shown.output


@pytest.mark.parametrize(
    ("path", "code", "words"),
    [
        ("/switch?dataplane=other&timeout_s=none", 400, "timeout_s"),
        ("/switch?dataplane=other&timeout_s=-1", 400, "timeout_s"),
        ("/switch?dataplane=", 400, "once each"),
        ("/switch", 400, "once each"),
        ("/switch?dataplane=nosuch", 409, "nosuch"),
    ],
)
async def test_wrong_requests_are_refused(rig: Rig, path: str, code: int, words: str) -> None:
    await rig.start()

    async with control(rig) as session, session.post(path) as response:
        answer: Any = await response.json()

    assert response.status == code
    assert words in answer["error"]


async def test_a_second_switch_is_a_conflict(rig: Rig) -> None:
    await rig.start()
    rig.fakes.kernels["other"].refuse(1000)

    async with control(rig) as session:
        async with session.post("/switch?dataplane=other&timeout_s=0.2") as first:
            assert first.status == 200
        async with session.post("/switch?dataplane=other") as second:
            assert second.status == 409
            assert "under way" in (await second.json())["error"]
        rig.fakes.kernels["other"].refusals.clear()
        await rig.until(
            lambda: rig.engine.switcher.status is not None and rig.engine.switcher.status.phase.is_last
        )


# Without an engine


def test_without_an_engine_there_is_nothing_to_switch(tmp_path: Path) -> None:
    result = CliRunner().invoke(switch, ["--dataplane", "nftables", "--run-dir", str(tmp_path)])

    assert "no engine answers" in str(result.exception)


def test_forgetting_works_without_an_engine(tmp_path: Path) -> None:
    ChoiceFile(tmp_path).write(Choice(chosen=("nftables",), discard=("iptables",)))

    result = CliRunner().invoke(switch, ["--forget", "--run-dir", str(tmp_path)])

    assert result.exception is None
    assert "comes up with the profile's dataplane" in result.output
    assert ChoiceFile(tmp_path).read() == Choice(discard=("nftables", "iptables"))


def test_forgetting_is_refused_while_an_engine_starts(tmp_path: Path) -> None:
    ChoiceFile(tmp_path).write(Choice(chosen=("nftables",)))
    lock = RunLock(tmp_path)
    lock.acquire()
    try:
        result = CliRunner().invoke(switch, ["--forget", "--run-dir", str(tmp_path)])
    finally:
        lock.release()

    assert "another engine" in str(result.exception)
    assert ChoiceFile(tmp_path).read() == Choice(chosen=("nftables",))


@pytest.mark.parametrize("arguments", [[], ["--dataplane", "nftables", "--forget"]])
def test_one_wish_at_a_time(arguments: list[str], tmp_path: Path) -> None:
    result = CliRunner().invoke(switch, [*arguments, "--run-dir", str(tmp_path)])

    assert result.exit_code == 2
    assert "either --dataplane NAME or --forget" in result.output
