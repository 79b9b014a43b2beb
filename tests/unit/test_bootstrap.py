"""scripts/bootstrap.py: what it would install, when it does anything at all, with stand-ins for apt and dpkg."""

import importlib.util
import os
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def bootstrap() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bootstrap", ROOT / "scripts" / "bootstrap.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is the whole PATH: what is put there is what the machine has."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def put_program(folder: Path, name: str, body: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{body}\n")
    (folder / name).chmod(0o755)


def put_debian(folder: Path, installed: list[str], apt: str = ":") -> Path:
    """Stand in for a Debian with these packages; returns the log of apt-get's arguments."""
    log = folder.parent / "apt.log"
    lines = "\n".join(f"echo '{package} installed'" for package in installed)
    put_program(folder, "dpkg-query", f"{lines}\nexit 1")
    put_program(folder, "apt-get", f'echo "$@" >> {log}\n{apt}')
    return log


def all_but(bootstrap: ModuleType, *missing: str) -> list[str]:
    return sorted({*bootstrap.SYSTEM_PACKAGES, *bootstrap.PYTHON_PACKAGES} - set(missing))


def test_nothing_is_installed_where_nothing_is_missing(bootstrap: ModuleType, programs: Path) -> None:
    log = put_debian(programs, all_but(bootstrap))

    bootstrap.install_system_packages()

    assert not log.exists()


def test_a_removed_package_that_left_its_configuration_is_missing(
    bootstrap: ModuleType, programs: Path
) -> None:
    put_debian(programs, all_but(bootstrap, "ipset"))
    with (programs / "dpkg-query").open("a") as script:
        script.write("echo 'ipset config-files'\n")
    text = (programs / "dpkg-query").read_text().replace("exit 1\n", "")
    (programs / "dpkg-query").write_text(text)

    assert bootstrap.missing_system_packages() == ["ipset"]


def test_root_installs_only_what_is_missing(
    bootstrap: ModuleType, programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    log = put_debian(programs, all_but(bootstrap, "ipset", "tcpdump"))

    bootstrap.install_system_packages()

    (call,) = log.read_text().splitlines()
    assert call.split()[0] == "install"
    assert [word for word in call.split()[1:] if not word.startswith("-")] == ["ipset", "tcpdump"]


def test_package_lists_are_fetched_only_when_installing_fails(
    bootstrap: ModuleType, programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    mark = programs.parent / "lists"
    log = put_debian(
        programs,
        all_but(bootstrap, "ipset"),
        apt=f'case "$1" in update) : > {mark};; *) [ -e {mark} ] || exit 100;; esac',
    )

    bootstrap.install_system_packages()

    assert [line.split()[0] for line in log.read_text().splitlines()] == ["install", "update", "install"]


def test_others_are_told_what_to_install_and_set_up_goes_on(
    bootstrap: ModuleType,
    programs: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    log = put_debian(programs, all_but(bootstrap, "ipset", "tcpdump"))

    bootstrap.install_system_packages()

    assert "as root: apt-get install ipset tcpdump" in capsys.readouterr().out
    assert not log.exists()


def test_elsewhere_than_debian_the_list_is_printed(
    bootstrap: ModuleType, programs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bootstrap.install_system_packages()

    assert "not Debian: see that these are installed: conntrack" in capsys.readouterr().out


@pytest.fixture
def checkout(bootstrap: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout of one package, that `bootstrap` takes for its own."""
    root = tmp_path / "checkout"
    for name in ("pyproject.toml", "setup.py", "constraints.txt", "native/src/a.c", "core/one/__init__.py"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("")
    monkeypatch.setattr(bootstrap, "ROOT", root)
    monkeypatch.setattr(bootstrap, "CONSTRAINTS", root / "constraints.txt")
    return root


@pytest.mark.parametrize(
    ("changed", "rebuilds"),
    [
        ("pyproject.toml", True),
        ("constraints.txt", True),
        ("native/src/a.c", True),
        ("plugins/routing/two/__init__.py", True),
        ("core/one/module.py", False),
        ("README.md", False),
    ],
)
def test_what_makes_the_environment_out_of_date(
    bootstrap: ModuleType, checkout: Path, changed: str, rebuilds: bool
) -> None:
    before = bootstrap.source_digest()

    (checkout / changed).parent.mkdir(parents=True, exist_ok=True)
    (checkout / changed).write_text("new")

    assert (bootstrap.source_digest() != before) == rebuilds
