"""Builds the distributions once, from a copy of what git would publish, and installs them as a user does."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = Path("examples") / "calico-engine-hello"


def run(*argv: str | Path, cwd: Path, env: dict[str, str] | None = None) -> str:
    """Return stdout of a command that must succeed, away from the checkout's own packages."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run(
        [str(arg) for arg in argv], cwd=cwd, env={**clean, **(env or {})}, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{argv}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout's files without anything built, so no stale build can slip in."""
    tree = tmp_path_factory.mktemp("source")
    listing = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT)
    for name in filter(None, listing.split("\0")):
        if (ROOT / name).is_file():  # a file just deleted is still listed
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tree / name)
    return tree


@pytest.fixture(scope="session")
def sdist(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sdist")
    run(sys.executable, "-m", "build", "--no-isolation", "--sdist", "--outdir", out, source, cwd=out)
    (path,) = out.iterdir()
    return path


@pytest.fixture(scope="session")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the sdist: what MANIFEST.in forgets is missing here too."""
    work = tmp_path_factory.mktemp("wheel")
    shutil.unpack_archive(sdist, work)
    (tree,) = work.iterdir()
    run(sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", work / "out", tree, cwd=work)
    (path,) = (work / "out").iterdir()
    return path


@pytest.fixture(scope="session")
def clean_python(source: Path, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a new environment that holds the wheel and the third-party plugin."""
    venv = tmp_path_factory.mktemp("clean") / "venv"
    run(sys.executable, "-m", "venv", venv, cwd=venv.parent)
    python = venv / "bin" / "python"
    wanted = (wheel, source / EXAMPLE, "pytest")
    constraints = source / "constraints.txt"
    run(python, "-m", "pip", "install", "--quiet", "-c", constraints, *wanted, cwd=venv.parent)
    return python
