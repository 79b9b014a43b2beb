"""The program as a whole: help, errors, exit codes, and how quickly it starts."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli.conftest import ENVIRONMENT, Program

import calico_engine
from calico_engine.cli.app import COMMANDS


def test_help_names_every_command(program: Program) -> None:
    outcome = program("--help")

    assert outcome.code == 0
    for name in COMMANDS:
        assert re.search(rf"^  {name} ", outcome.out, re.MULTILINE), name


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(program: Program, command: str) -> None:
    outcome = program(command, "--help")

    assert outcome.code == 0
    assert outcome.out.startswith(f"Usage: calico-engine {command}")


@pytest.mark.parametrize("arguments", [["--version"], ["version"]])
def test_version(program: Program, arguments: list[str]) -> None:
    assert calico_engine.__version__ in program(*arguments).out


def test_version_for_machines(program: Program) -> None:
    answer = program("version", "-o", "json").json

    assert set(answer) == {"version", "python", "kernel", "fastpath"}


def test_installed_script_and_module_are_the_same_program(program: Program) -> None:
    script = Path(sys.executable).parent / "calico-engine"

    done = subprocess.run([script, "--help"], text=True, capture_output=True, check=True)

    assert done.stdout == program("--help").out


@pytest.mark.parametrize(
    ("typed", "meant"), [("rnder", "render"), ("Status", "status"), ("profile", "profiles")]
)
def test_unknown_command_names_the_nearest(program: Program, typed: str, meant: str) -> None:
    outcome = program(typed)

    assert outcome.code == 2
    assert outcome.err.splitlines() == [f"error: no command '{typed}'", f"hint: did you mean '{meant}'?"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["render", "--node", "n"], 2, "--manifests"),
        (["plugins", "dataplan"], 2, "there are: datastore"),
        (["status", "--run-dir", "/nonexistent"], 3, "no engine answers on /nonexistent/engine.sock"),
        (["dump", "rules", "--run-dir", "/nonexistent"], 3, "calico-engine run"),
        (["plan", "--run-dir", "/nonexistent"], 3, "no engine answers"),
        (["profiles", "show", "standalon"], 4, "standalone"),
        (["run", "--profile", "/nonexistent/p.toml"], 4, "/nonexistent/p.toml"),
        (["run", "--set", "felix.InterfacePrefx=x"], 4, "did you mean 'InterfacePrefix'?"),
        (["run", "--set", "dataplane=iptable"], 4, "iptables"),
        (["run", "--set", "options.file.pth=/x"], 4, "did you mean 'path'?"),
        (["cleanup"], 2, "--yes"),
    ],
)
def test_error_is_one_line_and_a_hint(program: Program, arguments: list[str], code: int, words: str) -> None:
    outcome = program(*arguments)

    assert outcome.code == code, outcome
    assert outcome.out == ""
    lines = outcome.err.splitlines()
    assert lines[0].startswith("error: ")
    assert words in outcome.err
    assert [line.split(":")[0] for line in lines] in (["error"], ["error", "hint"])


def test_debug_shows_where(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "calico_engine", "--debug", "profiles", "show", "nope"],
        text=True,
        capture_output=True,
    )

    assert done.returncode == 4
    assert "Traceback" in done.stderr
    assert done.stderr.splitlines()[-2].startswith("error: no engine profile named 'nope'")


def test_reader_that_has_seen_enough_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "calico_engine", "profiles", "show", "standalone"],
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(write)

    assert done.stderr == ""
    assert done.returncode == 1


def test_help_imports_little() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "calico_engine", "--help"],
        text=True,
        capture_output=True,
        env=ENVIRONMENT,
        check=True,
    )
    imported = {line.rsplit("|", 1)[1].strip() for line in done.stderr.splitlines() if "|" in line}
    ours = {name for name in imported if name.startswith("calico_engine")}

    assert ours == {"calico_engine", "calico_engine.cli", "calico_engine.cli.app"}
    assert not imported & {"asyncio", "rich", "msgspec", "yaml", "aiohttp", "pluggy", "logging"}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_a_script(program: Program, shell: str) -> None:
    outcome = program("completion", shell)

    assert outcome.code == 0
    assert "_CALICO_ENGINE_COMPLETE" in outcome.out


def test_completion_completes(program: Program) -> None:
    outcome = program(
        env={"_CALICO_ENGINE_COMPLETE": "bash_complete", "COMP_WORDS": "calico-engine pro", "COMP_CWORD": "1"}
    )

    assert outcome.lines == ["plain,profiles"]


def test_tables_are_rich_on_a_terminal_and_plain_in_a_pipe(program: Program) -> None:
    primary, secondary = pty.openpty()
    done = subprocess.Popen(
        [sys.executable, "-m", "calico_engine", "plugins", "datastore"],
        stdout=secondary,
        env={**ENVIRONMENT, "TERM": "xterm", "COLUMNS": "120"},
    )
    os.close(secondary)
    shown = b""
    while True:
        try:
            shown += os.read(primary, 4096)
        except OSError:  # how a terminal says that the other side is closed
            break
    os.close(primary)
    plain = program("plugins", "datastore").lines

    assert done.wait() == 0
    assert "───" in shown.decode()
    assert plain[0].split() == ["FAMILY", "NAME", "FROM", "VERSION", "MODULE"]
    assert plain[1].split()[:2] == ["datastore", "file"]


def test_plugins_for_machines(program: Program) -> None:
    answer = program("plugins", "-o", "json").json

    built_in = {(plugin["family"], plugin["name"]) for plugin in answer if plugin["built_in"]}
    assert {
        ("datastore", "file"),
        ("dataplane", "iptables"),
        ("dataplane", "ipset"),
        ("routing", "noencap"),
    } <= built_in
    assert set(answer[0]) == {"family", "name", "module", "distribution", "version", "built_in", "chosen"}


def test_profiles_are_listed_and_shown(program: Program, tmp_path: Path) -> None:
    listed = program("profiles", "-o", "json").json
    assert "standalone" in [profile["name"] for profile in listed]
    assert program("profiles", "list").lines[0].split() == ["PROFILE", "DESCRIPTION", "FROM"]

    own = tmp_path / "mine.toml"
    own.write_text('dataplane = ["ipset"]\n[options.file]\npath = "/m"\n')
    shown = program("profiles", "show", own, "--set", "felix.LogPrefix=x", "-o", "json").json
    assert (shown["name"], shown["dataplane"]) == ("mine", ["ipset"])
    assert shown["felix"] == {"LogPrefix": "x"}
    assert "options.file.path  /m" in re.sub(" {2,}", "  ", program("profiles", "show", own).out)


def test_check_answers_for_machines(program: Program, tmp_path: Path) -> None:
    outcome = program("check", "--run-dir", tmp_path, "-o", "json")

    assert {"plugin", "name", "ok", "required", "needed_for", "detail", "remedy"} == set(outcome.json[0])
    missing = [fact for fact in outcome.json if fact["required"] and not fact["ok"]]
    assert outcome.code == (1 if missing else 0)
    assert all(fact["remedy"] for fact in missing)
    assert {"python", "root", "fast path in C"} <= {fact["name"] for fact in outcome.json}


def test_check_of_a_profile_asks_its_plugins_only(program: Program, tmp_path: Path) -> None:
    own = tmp_path / "mine.toml"
    own.write_text('dataplane = ["ipset"]\n')

    answer = program("check", "--profile", own, "--run-dir", tmp_path, "-o", "json").json

    assert {fact["plugin"] for fact in answer} == {"engine", "dataplane:ipset"}


def test_check_without_root_says_what_to_do(tmp_path: Path) -> None:
    done = subprocess.run(
        ["unshare", "--user", sys.executable, "-m", "calico_engine", "check", "--run-dir", str(tmp_path)],
        text=True,
        capture_output=True,
        env=ENVIRONMENT,
    )

    assert done.returncode == 1
    root = next(line for line in done.stdout.splitlines() if "  root " in line)
    assert "missing" in root
    assert "run as root" in root
