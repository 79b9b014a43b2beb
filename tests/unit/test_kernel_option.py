"""What --kernel does to a test that this machine cannot run: skip it, fail it, or let a listed one pass."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
GUARDED = """
import pytest

@pytest.mark.component("no-such-program")
def test_needs_a_program(): raise AssertionError("must not run")
"""
SKIPS_ITSELF = """
import pytest

@pytest.mark.component()
def test_gives_up(): pytest.skip("cannot be bothered")
"""
RUNS = """
import pytest

@pytest.mark.component("sh")
def test_runs(): pass
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with our conftest and allow-list, and no test yet."""
    shutil.copy(TESTS / "conftest.py", tmp_path)
    (tmp_path / "allowed_missing.toml").write_text("[features]\n[programs]\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n  kernel\n  component\n")
    return tmp_path


def outcome(project: Path, test: str, *options: str, ci: str = "") -> str:
    """Return pytest's lines about the one test."""
    (project / "test_it.py").write_text(test)
    env = dict(os.environ, CI=ci)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-ra", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *options],
        cwd=project,
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.stdout


def test_auto_skips_with_the_reason(project: Path) -> None:
    printed = outcome(project, GUARDED, "--kernel=auto")

    assert "1 skipped" in printed
    assert "no-such-program is not installed" in printed


def test_require_fails_what_is_not_listed(project: Path) -> None:
    printed = outcome(project, GUARDED, "--kernel=require")

    assert "1 failed" in printed or "1 error" in printed
    assert "no-such-program is not installed, and tests/allowed_missing.toml does not list it" in printed


def test_ci_requires(project: Path) -> None:
    assert "does not list it" in outcome(project, GUARDED, ci="true")


def test_require_skips_what_is_listed_and_names_the_rig(project: Path) -> None:
    (project / "allowed_missing.toml").write_text('[features]\n[programs]\nno-such-program = "rig seven"\n')

    printed = outcome(project, GUARDED, "--kernel=require")

    assert "1 skipped" in printed
    assert "covered by rig seven" in printed


@pytest.mark.parametrize(("mode", "result"), [("require", "1 failed"), ("auto", "1 skipped")])
def test_a_test_that_skips_itself_fails_only_where_required(project: Path, mode: str, result: str) -> None:
    printed = outcome(project, SKIPS_ITSELF, f"--kernel={mode}")

    assert result in printed
    assert "cannot be bothered" in printed


@pytest.mark.parametrize(("mode", "result"), [("off", "1 skipped"), ("require", "1 passed")])
def test_what_can_run_runs_unless_off(project: Path, mode: str, result: str) -> None:
    assert result in outcome(project, RUNS, f"--kernel={mode}")


def test_golden_files_are_never_written_in_ci(project: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--update-golden"],
        cwd=project,
        env=dict(os.environ, CI="true"),
        capture_output=True,
        text=True,
    )

    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "not written in CI" in done.stderr
