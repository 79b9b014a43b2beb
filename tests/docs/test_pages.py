"""docs/operations.md and docs/plugins.md say what the code does."""

import re
import sys
import tomllib
from pathlib import Path

import pytest

from calico_engine import cli
from calico_engine.engine import parse_profile
from calico_engine.engine.metrics import HELP
from calico_engine.engine.parameters import PARAMETERS
from calico_engine.engine.profile import EngineOptions
from calico_engine.plugin import FAMILIES, Dataplane, hookspecs

ROOT = Path(__file__).resolve().parents[2]
OPERATIONS = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
PLUGINS = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")


def test_metrics_are_the_codes() -> None:
    named = set(re.findall(r"`((?:felix|calico_engine)_[a-z_]+)`", OPERATIONS))

    assert named
    assert named <= set(HELP)
    assert {name for name in HELP if name.startswith("calico_engine_")} <= named


def test_settings_are_the_codes() -> None:
    named = set(re.findall(r"`([A-Z][a-z]+(?:[A-Z][a-z]+)+)`", OPERATIONS))
    variables = set(re.findall(r"FELIX_([A-Z]+)=", OPERATIONS))
    known = {parameter.name for parameter in PARAMETERS.values()}

    assert "RouteRefreshInterval" in named
    assert named <= known
    assert variables <= {name.upper() for name in known}
    assert {"stuck_after_failures", "log_format"} <= set(EngineOptions.__struct_fields__)


def test_exit_codes_are_the_codes() -> None:
    table = OPERATIONS.partition("## Exit codes")[2]

    said = {int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)}

    assert said == {value for name, value in vars(cli).items() if name.startswith("EXIT_")}


def test_families_and_hooks_are_the_codes() -> None:
    groups = set(re.findall(r"`calico_engine\.([a-z]+)` \| ", PLUGINS))
    hooks = set(re.findall(r"\bce_[a-z_]+", PLUGINS))

    assert groups == set(FAMILIES)
    assert hooks == {name for name in vars(hookspecs.Hookspecs) if name.startswith("ce_")}


def test_methods_of_a_dataplane_are_the_codes() -> None:
    said = set(re.findall(r"^\| `([a-z_]+)\(", PLUGINS, re.MULTILINE))

    assert said == {name for name in vars(Dataplane) if not name.startswith("_")}


@pytest.mark.parametrize("number", range(len(re.findall("```python\n", PLUGINS))))
def test_python_on_the_page_runs(number: int) -> None:
    source = re.findall(r"```python\n(.*?)```", PLUGINS, re.DOTALL)[number]
    before = set(sys.modules)

    exec(compile(source, "docs/plugins.md", "exec"), {"__name__": "page"})

    # Selecting a plugin must be cheap: the module of hooks alone imports none of the work.
    assert not [name for name in set(sys.modules) - before if name.startswith("calico_engine_hello")]


def test_toml_on_the_page_is_what_it_says() -> None:
    entry, profile = re.findall(r"```toml\n(.*?)```", PLUGINS, re.DOTALL)

    assert tomllib.loads(entry)["project"]["entry-points"] == {
        "calico_engine.dataplane": {"hello": "calico_engine_hello"}
    }
    assert parse_profile(profile, name="page").dataplane == ("ipset", "iptables", "hello")
