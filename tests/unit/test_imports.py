"""Import rules that .importlinter cannot state: purity, pluggy's place, what plugins may use."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CORE = ROOT / "core" / "calico_engine"
PURE = (
    *("calc", "evaluation", "fastpath", "messages.py", "model"),
    *("reconcile", "ruleset", "selector", "settings.py"),
    *(
        f"ipam/{name}.py"
        for name in (
            *("block", "check", "codec", "go_random", "keys", "pools", "records"),
            *("reserved", "times", "utilisation"),
        )
    ),
)
# Clock, random values, environment and I/O come into pure code as arguments.
IMPURE = {
    *("asyncio", "multiprocessing", "os", "pyroute2", "random", "secrets"),
    *("shutil", "socket", "subprocess", "tempfile", "threading", "time"),
}
CORE_ONLY = {f"calico_engine.{name}" for name in ("calc", "cli", "engine", "lab")}


def imported_modules(tree: ast.Module) -> Iterator[str]:
    """Yield the absolute names a module imports, wherever in it the import stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import on line {node.lineno}: imports are absolute"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def python_files(*tops: Path) -> list[Path]:
    return [path for top in tops for path in sorted([top] if top.is_file() else top.rglob("*.py"))]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


PURE_FILES = python_files(*(CORE / name for name in PURE if (CORE / name).exists()))


@pytest.mark.parametrize("path", PURE_FILES, ids=name_of)
def test_pure_code_imports_nothing_with_effects(path: Path) -> None:
    allowed = {"os"} if path == CORE / "fastpath" / "__init__.py" else set()  # says so in its docstring

    found = {name.split(".")[0] for name in imported_modules(ast.parse(path.read_text()))}

    assert not found & IMPURE - allowed


@pytest.mark.parametrize("path", PURE_FILES, ids=name_of)
def test_pure_code_opens_no_file(path: Path) -> None:
    calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]

    assert not [call.lineno for call in calls if isinstance(call, ast.Name) and call.id == "open"]
    assert not [
        call.lineno
        for call in calls
        if isinstance(call, ast.Attribute) and call.attr in {"read_text", "read_bytes", "write_text"}
    ]


def test_pluggy_is_imported_only_by_the_plugin_package() -> None:
    importers = [
        name_of(path)
        for path in python_files(ROOT / "core", ROOT / "plugins", ROOT / "examples")
        if "pluggy" in imported_modules(ast.parse(path.read_text()))
    ]

    assert importers
    assert all(path.startswith("core/calico_engine/plugin/") for path in importers)


def test_plugins_use_neither_engine_nor_cli_nor_lab_nor_calc() -> None:
    offending = {
        name_of(path): sorted(
            name
            for name in imported_modules(ast.parse(path.read_text()))
            if any(name == core or name.startswith(f"{core}.") for core in CORE_ONLY)
        )
        for path in python_files(ROOT / "plugins", ROOT / "examples")
    }

    assert {path: names for path, names in offending.items() if names} == {}


def plain(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def test_dependencies_are_exactly_what_the_packages_import() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {plain(re.split(r"[^\w.-]", line, maxsplit=1)[0]) for line in project["dependencies"]}
    shipped = [
        path
        for path in python_files(ROOT / "core", ROOT / "plugins")
        if not path.is_relative_to(CORE / "testing")  # may use what the extra `dev` brings
    ]
    owners = packages_distributions()

    tops = {name.split(".")[0] for path in shipped for name in imported_modules(ast.parse(path.read_text()))}
    foreign = {
        top for top in tops if top not in sys.stdlib_module_names and not top.startswith("calico_engine")
    }
    imported = {plain(owner) for top in foreign for owner in owners.get(top, [f"nobody's {top}"])}

    # The compiled fast path imports cffi's back end; no Python file does.
    assert imported | {"cffi"} == declared
