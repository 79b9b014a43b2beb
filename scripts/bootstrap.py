"""Set up a checkout: system packages, the private virtualenv in .venv, the package with its dev tools.

Standard library only, safe to call again: a stamp in .venv says what it was built from, and nothing
happens while that is unchanged. As root on Debian missing system packages are installed; anyone else
is told what to install, and set-up goes on without it. pip's own configuration and the proxies of
the environment are honoured.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
STAMP = VENV / "calico-engine.stamp"
CONSTRAINTS = ROOT / "constraints.txt"
SYSTEM_PACKAGES = (
    "conntrack",
    "gcc",
    "ipset",
    "iproute2",
    "iptables",
    "iputils-ping",
    "kmod",
    "libc6-dev",
    "nftables",
    "procps",
    "tcpdump",
    "util-linux",
)
# Needed only by Debian's own interpreter: one built elsewhere brings its headers and venv along.
PYTHON_PACKAGES = ("python3-dev", "python3-venv")
DERIVED = (
    *(".venv", ".tox", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis", ".import_linter_cache"),
    *("build", "dist", "native/build", "bench/out"),
)


def say(text: str) -> None:
    print(f"bootstrap: {text}", flush=True)


def run(argv: list[str], *, env: dict[str, str] | None = None) -> None:
    """Run a command; on failure print what it said and exit with its code."""
    done = subprocess.run(
        argv, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    if done.returncode != 0:
        sys.stderr.write(done.stdout)
        say(f"failed with exit code {done.returncode}: {shlex.join(argv)}")
        sys.exit(1)


def is_debian() -> bool:
    return shutil.which("dpkg-query") is not None and shutil.which("apt-get") is not None


def missing_system_packages() -> list[str]:
    """Return the wanted Debian packages that are not installed, sorted; empty elsewhere."""
    wanted = set(SYSTEM_PACKAGES)
    if Path(sys.executable).resolve().is_relative_to("/usr/bin"):
        wanted.update(PYTHON_PACKAGES)
    done = subprocess.run(
        ["dpkg-query", "--show", "--showformat=${Package} ${db:Status-Status}\n", *sorted(wanted)],
        text=True,
        capture_output=True,
        check=False,  # it fails when one is unknown, which is the very thing asked
    )
    present = {line.split()[0] for line in done.stdout.splitlines() if line.endswith(" installed")}
    return sorted(wanted - present)


def install_system_packages() -> None:
    """Install what is missing where that is possible, and say what is missing where it is not."""
    if not is_debian():
        say(f"not Debian: see that these are installed: {' '.join(SYSTEM_PACKAGES)}")
        return
    missing = missing_system_packages()
    if not missing:
        return
    if os.geteuid() != 0:
        say(f"missing system packages; as root: apt-get install {' '.join(missing)}")
        return
    say(f"installing system packages: {' '.join(missing)}")
    env = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
    install = ["apt-get", "install", "--yes", "-qq", "--no-install-recommends", *missing]
    first = subprocess.run(install, env=env, capture_output=True, check=False)
    if first.returncode != 0:
        run(["apt-get", "update", "-qq"], env=env)
        run(install, env=env)


def source_digest() -> str:
    """Digest of everything the installed environment depends on."""
    digest = hashlib.sha256(f"{sys.version} {sys.executable} {ROOT}".encode())
    paths = [ROOT / "pyproject.toml", ROOT / "setup.py", CONSTRAINTS]
    paths += sorted(path for path in (ROOT / "native").rglob("*") if path.suffix in {".c", ".h", ".py"})
    for path in paths:
        digest.update(str(path.relative_to(ROOT)).encode())
        digest.update(path.read_bytes())
    # An editable install maps top-level packages one by one, so a new one needs a new install.
    for package in sorted([*ROOT.glob("core/*"), *ROOT.glob("plugins/*/*")]):
        if (package / "__init__.py").exists():
            digest.update(f"{package.relative_to(ROOT)}\n".encode())
    return digest.hexdigest()


def python_line() -> str:
    return f"{sys.version.split()[0]} {sys.executable}"


def read_stamp() -> list[str]:
    return STAMP.read_text(encoding="utf-8").splitlines() if STAMP.exists() else []


@contextmanager
def exclusive() -> Iterator[None]:
    """Hold the checkout's set-up lock, so that two calls do not build one .venv at once."""
    with (ROOT / "scripts" / "bootstrap.py").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def build_venv() -> None:
    """Create .venv or bring it up to date with pyproject.toml and constraints.txt."""
    wanted = [python_line(), source_digest()]
    stamp = read_stamp()
    if stamp == wanted:
        return
    if stamp[:1] != wanted[:1]:
        say(f"creating {VENV.name} with Python {python_line()}")
        run([sys.executable, "-m", "venv", "--clear", str(VENV)])
    say("installing calico-engine and its development tools (a minute the first time)")
    run(
        [
            *(str(VENV / "bin" / "python"), "-m", "pip", "install", "--quiet"),
            *("--disable-pip-version-check", "--constraint", str(CONSTRAINTS)),
            *("--editable", f"{ROOT}[dev]"),
        ]
    )
    STAMP.write_text("\n".join(wanted) + "\n", encoding="utf-8")
    backend = subprocess.run(
        [str(VENV / "bin" / "python"), "-c", "from calico_engine import fastpath as f; print(f.backend())"],
        text=True,
        capture_output=True,
        check=False,
    )
    say(f"ready; fast path: {backend.stdout.strip() or 'failed to load: ' + backend.stderr.strip()}")


def refresh_constraints() -> None:
    """Rewrite constraints.txt with the newest versions that pyproject.toml allows."""
    scratch = ROOT / "build" / "constraints-venv"
    python = str(scratch / "bin" / "python")
    say("resolving the newest versions (a minute)")
    run([sys.executable, "-m", "venv", "--clear", str(scratch)])
    run([python, "-m", "pip", "install", "--quiet", "--upgrade", "pip", "setuptools"])
    run([python, "-m", "pip", "install", "--quiet", f"{ROOT}[dev,bench]"])
    done = subprocess.run(
        [python, "-m", "pip", "freeze", "--all"], text=True, capture_output=True, check=True
    )
    pins = [
        line
        for line in done.stdout.splitlines()
        if "==" in line and not line.startswith(("pip==", "calico-engine"))
    ]
    header = [line for line in CONSTRAINTS.read_text(encoding="utf-8").splitlines() if line[:1] == "#"]
    CONSTRAINTS.write_text("\n".join([*header, *sorted(pins, key=str.lower)]) + "\n", encoding="utf-8")
    shutil.rmtree(scratch)
    say(f"wrote {len(pins)} versions to {CONSTRAINTS.name}")


def clean() -> None:
    """Remove everything that set-up, builds and test runs leave in the checkout."""
    for name in DERIVED:
        shutil.rmtree(ROOT / name, ignore_errors=True)
    for pattern in ("core/calico_engine/_fastpath.*.so", "core/*.egg-info", "*.egg-info"):
        for path in ROOT.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for top in ("core", "plugins", "tests", "native", "bench", "examples", "scripts"):
        for path in list((ROOT / top).rglob("__pycache__")):
            shutil.rmtree(path)


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bootstrap", description=__doc__)
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--clean", action="store_true", help="remove .venv, builds and caches")
    choice.add_argument(
        "--refresh-constraints", action="store_true", help="rewrite constraints.txt with newest versions"
    )
    choice.add_argument("--no-system", action="store_true", help="leave system packages alone")
    options = parser.parse_args()
    with exclusive():
        if options.clean:
            clean()
        elif options.refresh_constraints:
            refresh_constraints()
        else:
            if not options.no_system:
                install_system_packages()
            build_venv()


if __name__ == "__main__":
    main()
