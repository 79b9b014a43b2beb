"""What users install: contents of sdist and wheel, a clean environment, a third party's plugin, no compiler."""

import json
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import calico_engine

ROOT = Path(__file__).resolve().parents[2]
PACKAGE_ROOTS = ("core", *(f"plugins/{family.name}" for family in (ROOT / "plugins").iterdir()))


def published_files(source: Path) -> set[str]:
    """Return what a wheel must hold of the packages: every module, marker and profile."""
    wanted: set[str] = set()
    for root in PACKAGE_ROOTS:
        for path in (source / root).rglob("*"):
            if path.suffix in {".py", ".pyi", ".toml"} or path.name == "py.typed":
                wanted.add(str(path.relative_to(source / root)))
    return wanted


def run_python(python: Path, code: str, cwd: Path) -> str:
    done = subprocess.run([python, "-I", "-c", code], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_wheel_serves_every_later_python(wheel: Path) -> None:
    assert wheel.name.startswith(f"calico_engine-{calico_engine.__version__}-cp311-abi3-linux_")


def test_wheel_holds_the_packages_whole_and_nothing_else(wheel: Path, source: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}

    assert published_files(source) <= names
    assert "calico_engine/_fastpath.abi3.so" in names
    assert {name.split("/")[0].partition("_")[0] for name in names} == {"calico"}


def test_wheel_carries_the_licence(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (licence,) = [name for name in archive.namelist() if name.endswith("/LICENSE")]

    assert b"Apache License" in archive.read(licence)


def test_sdist_holds_what_a_build_needs(sdist: Path, source: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}

    native = {str(path.relative_to(source)) for path in (source / "native").rglob("*.[ch]")}
    assert native <= names
    assert {"native/build_fastpath.py", "setup.py", "constraints.txt", "CHANGELOG.md"} <= names
    assert not [name for name in names if name.endswith((".so", ".o", ".pyc"))]


def test_clean_environment_has_all_dependencies(clean_python: Path, tmp_path: Path) -> None:
    done = subprocess.run([clean_python, "-m", "pip", "check"], cwd=tmp_path, capture_output=True, text=True)

    assert done.returncode == 0, done.stdout


def test_every_installed_module_imports_without_warnings(
    clean_python: Path, wheel: Path, tmp_path: Path
) -> None:
    modules = sorted(
        name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for name in zipfile.ZipFile(wheel).namelist()
        if name.endswith(".py")
        and not name.startswith("calico_engine/testing/")  # needs the dev extra
        and not name.endswith("__main__.py")
    )
    code = f"""
import importlib, warnings
warnings.simplefilter("error", SyntaxWarning)
warnings.simplefilter("error", DeprecationWarning)
for name in {modules!r}:
    importlib.import_module(name)
"""

    run_python(clean_python, code, tmp_path)


def test_clean_environment_uses_the_c_fast_path(clean_python: Path, tmp_path: Path) -> None:
    code = "from calico_engine import fastpath; print(fastpath.backend())"

    assert run_python(clean_python, code, tmp_path) == "native"


def test_built_in_and_third_party_plugins_are_listed_alike(clean_python: Path, tmp_path: Path) -> None:
    document = tomllib.loads((ROOT / "pyproject.toml").read_text())
    declared = {
        (group.removeprefix("calico_engine."), name)
        for group, points in document["project"]["entry-points"].items()
        for name in points
    }
    code = """
import json
from calico_engine.plugin import installed
print(json.dumps([[info.family, info.name] for info in installed()]))
"""

    listed = {(family, name) for family, name in json.loads(run_python(clean_python, code, tmp_path))}

    assert listed == declared | {("dataplane", "hello")}


def test_third_party_plugin_is_made_by_its_hook(clean_python: Path, tmp_path: Path) -> None:
    code = f"""
import asyncio
from calico_engine.plugin import PluginContext, PluginRegistry, decode_options
from calico_engine.settings import FelixSettings
registry = PluginRegistry()
context = PluginContext(
    name="hello", node="n1", settings=FelixSettings(), run_dir={str(tmp_path)!r},
    options=decode_options("hello", {{}}, registry.config_type("dataplane", "hello")),
    request_apply=print, notify=print,
)
dataplane = registry.make_dataplane("hello", context)
print(asyncio.run(dataplane.apply()).plugin, dataplane.render().strip())
"""

    assert run_python(clean_python, code, tmp_path) == "hello {}"


def test_profile_of_the_third_party_plugin_is_found_by_name(clean_python: Path, tmp_path: Path) -> None:
    code = """
from calico_engine.engine.profile import load_profile
profile = load_profile("hello")
print(profile.source, *profile.dataplane)
"""

    assert run_python(clean_python, code, tmp_path) == "dataplane:hello of calico-engine-hello hello"


def test_third_party_plugin_passes_its_own_tests(clean_python: Path, source: Path) -> None:
    example = source / "examples" / "calico-engine-hello"

    done = subprocess.run(
        [clean_python, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=example,
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stdout + done.stderr


def test_without_a_compiler_the_pure_fast_path_takes_over(source: Path, tmp_path: Path) -> None:
    env = {"CC": "/nonexistent/cc", "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    out = str(tmp_path / "out")
    build = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", out, str(source)]
    built = subprocess.run(build, env=env, cwd=tmp_path, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = Path(out).iterdir()
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = f"""
import sys
sys.path.insert(0, {str(tmp_path / "site")!r})
from calico_engine import fastpath
print(fastpath.__file__, fastpath.backend(), fastpath.sort_rows(b"ba", 1))
"""

    # -S: this interpreter's editable install would answer for the extension that the wheel lacks.
    isolated = [sys.executable, "-I", "-S", "-c", code]
    printed = subprocess.run(isolated, capture_output=True, text=True, check=True).stdout.strip()

    assert printed == f"{tmp_path / 'site' / 'calico_engine/fastpath/__init__.py'} pure b'ab'"


@pytest.mark.parametrize("name", ["constraints.txt", "pyproject.toml"])
def test_no_registry_is_named(name: str) -> None:
    assert "://" not in (ROOT / name).read_text()
