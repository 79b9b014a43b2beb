"""`calico-engine demo`, run as its users run it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.component("ip", "iptables", "ipset", "conntrack"), pytest.mark.timeout(120)]

FRONTENDS = ("slave1-frontend1", "slave1-frontend2")
DATABASE = "slave2-database"
PODS = (*FRONTENDS, DATABASE)
PAIRS = {(src, dst) for src in PODS for dst in PODS if src != dst}
TO_FRONTENDS = {(src, dst, port) for src, dst in PAIRS if dst != DATABASE for port in (3306, 8080)}


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "CALICO_ENGINE_LAB_DIR": str(tmp_path / "labs"), "COLUMNS": "200"}


def start(environ: dict[str, str], *arguments: str) -> subprocess.Popen[str]:
    # Whoever runs the tests in the background ignores SIGINT, and so would a program that inherits it.
    return subprocess.Popen(
        ["env", "--default-signal=INT", sys.executable, "-m", "calico_engine.cli", "demo", *arguments],
        env=environ,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def labs(environ: dict[str, str]) -> list[Path]:
    base = Path(environ["CALICO_ENGINE_LAB_DIR"])
    return sorted(base.iterdir()) if base.exists() else []


def wait_for_lab(process: subprocess.Popen[str], environ: dict[str, str]) -> Path:
    """Return the lab's directory once its engines are being started."""
    end = time.monotonic() + 30
    while True:
        assert time.monotonic() < end
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        started = [lab for lab in labs(environ) if list(lab.glob("places/*/engine.log"))]
        if started:
            return started[0]
        time.sleep(0.01)


def holder_of(lab: Path) -> int:
    return int(json.loads((lab / "lock").read_text())["inner"])


def test_each_step_opens_what_it_says_and_names_who_denied(environ: dict[str, str]) -> None:
    started_s = time.monotonic()
    process = start(environ, "-o", "json")
    output, errors = process.communicate()
    assert process.returncode == 0, errors

    answer = json.loads(output)

    opened = [
        {(p["source"], p["destination"], p["port"]) for p in step["probes"] if p["result"] == "open"}
        for step in answer["steps"]
    ]
    every = {(src, dst, port) for src, dst in PAIRS for port in (3306, 8080)}
    wanted = TO_FRONTENDS | {(frontend, DATABASE, 3306) for frontend in FRONTENDS}
    assert opened == [every, set(), TO_FRONTENDS, wanted]
    deciders = [
        {(p["decided_by"], p["direction"], p["rule_index"]) for p in step["probes"] if p["result"] != "open"}
        for step in answer["steps"]
    ]
    assert deciders == [
        set(),
        {("GlobalNetworkPolicy(namespace-default)", "ingress", 0)},
        {("Profile(profile-database)", "ingress", 0)},
        {("Profile(profile-database)", "ingress", 1)},
    ]
    assert all({p["result"] for p in step["probes"]} <= {"open", "denied"} for step in answer["steps"])
    assert answer["as_told"]
    assert time.monotonic() - started_s < 60
    assert labs(environ) == []


def test_page_for_people(environ: dict[str, str]) -> None:
    process = start(environ)
    output, errors = process.communicate()

    assert process.returncode == 0, errors
    for words in (
        "2. allow from namespace == 'default'   <- never reached",
        "policy namespace-default, ingress rule 1",
        "profile profile-database, ingress rule 2",
        # The rule of the article's node, with the hash that is printed there, read back from this kernel.
        '-A cali-pi-namespace-default -m comment --comment "cali:K4jTheFcVvdYaw0q" -j DROP',
        "All 48 connections went as told",
    ):
        assert words in output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_demo_leaves_nothing(environ: dict[str, str], number: signal.Signals) -> None:
    process = start(environ)
    wait_for_lab(process, environ)

    process.send_signal(number)
    process.communicate(timeout=30)

    assert process.returncode == 130
    assert labs(environ) == []


def test_killed_demo_takes_its_lab_along_and_the_next_one_removes_its_files(environ: dict[str, str]) -> None:
    process = start(environ)
    lab = wait_for_lab(process, environ)
    descriptor = os.pidfd_open(holder_of(lab))

    process.kill()
    process.communicate()
    end = time.monotonic() + 10
    while _is_alive(descriptor):
        assert time.monotonic() < end
        time.sleep(0.01)
    os.close(descriptor)

    assert labs(environ) == [lab]
    other = start(environ, "-o", "json")
    other.communicate()
    assert other.returncode == 0
    assert labs(environ) == []


def _is_alive(descriptor: int) -> bool:
    try:
        signal.pidfd_send_signal(descriptor, 0)
    except ProcessLookupError:
        return False
    return True
