"""Finding, loading and calling plugins: nothing is imported unasked, nothing wrong is loaded quietly."""

import importlib
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from calico_engine.errors import (
    ConfigError,
    MissingExtraError,
    PluginConflictError,
    PluginContractError,
    PluginError,
    PluginNotFoundError,
)
from calico_engine.plugin import (
    Capability,
    Dataplane,
    PluginContext,
    PluginRegistry,
    decode_options,
    hookimpl,
    installed,
)
from calico_engine.plugin.registry import third_party_profiles
from calico_engine.settings import FelixSettings
from calico_engine.testing.fakes import FakeKernel, RecordingDataplane

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Install a distribution: its module's text and its entry points, as pip would leave them."""
    monkeypatch.syspath_prepend(tmp_path)
    modules: list[str] = []

    def write(distribution: str, module: str, text: str, entry_points: dict[str, str]) -> None:
        (tmp_path / f"{module}.py").write_text(textwrap.dedent(text))
        info = tmp_path / f"{distribution.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        lines = [f"[calico_engine.{family}]\n{name} = {module}\n" for name, family in entry_points.items()]
        (info / "entry_points.txt").write_text("\n".join(lines))
        modules.append(module)
        importlib.invalidate_caches()

    yield write
    for module in modules:
        sys.modules.pop(module, None)


def make_context(name: str = "x") -> PluginContext:
    return PluginContext(
        name=name,
        node="node-a",
        settings=FelixSettings(),
        options={},
        request_apply=lambda reason: None,
        notify=lambda notification: None,
    )


class Good:
    @hookimpl
    def ce_make_dataplane(self, context: PluginContext) -> Dataplane:
        return RecordingDataplane(context, FakeKernel())

    @hookimpl
    def ce_checks(self) -> list[Capability]:
        return [Capability(name="x", ok=True, needed_for="y")]


def test_listing_imports_nothing(install: Install) -> None:
    install("hello", "hello_plugin", "raise RuntimeError('imported')", {"hello": "dataplane"})

    found = {(info.family, info.name): info for info in installed()}

    assert found["dataplane", "hello"].distribution == "hello"
    assert found["dataplane", "hello"].version == "1.0"
    assert not found["dataplane", "hello"].built_in
    assert "hello_plugin" not in sys.modules


def test_built_ins_are_registered_like_anybodys() -> None:
    names = {(info.family, info.name) for info in installed() if info.built_in}

    assert {
        ("datastore", "file"),
        ("dataplane", "ipset"),
        ("dataplane", "iptables"),
        ("routing", "noencap"),
    } <= names


def test_only_the_selected_plugin_is_asked(install: Install) -> None:
    text = """
        from calico_engine.plugin import hookimpl
        @hookimpl
        def ce_config_type():
            raise RuntimeError("not me")
    """
    install("hello", "hello_plugin", text, {"hello": "dataplane"})
    registry = PluginRegistry()
    registry.load("dataplane", "hello")
    registry.register("dataplane", "good", Good())

    assert registry.config_type("dataplane", "good") is None
    assert isinstance(registry.make_dataplane("good", make_context()), RecordingDataplane)


def test_loading_twice_is_loading_once(install: Install) -> None:
    install("hello", "hello_plugin", "", {"hello": "dataplane"})
    registry = PluginRegistry()

    assert registry.load("dataplane", "hello") is registry.load("dataplane", "hello")


def test_one_module_may_serve_two_families(install: Install) -> None:
    text = """
        from calico_engine.plugin import hookimpl
        @hookimpl
        def ce_config_type():
            return dict
    """
    install("hello", "hello_plugin", text, {"hello": "dataplane", "hello2": "routing"})
    registry = PluginRegistry()

    assert registry.config_type("dataplane", "hello") is dict
    assert registry.config_type("routing", "hello2") is dict


def test_two_distributions_with_one_name_are_an_error(install: Install) -> None:
    install("hello", "hello_plugin", "", {"same": "dataplane"})
    install("other", "other_plugin", "", {"same": "dataplane"})

    with pytest.raises(PluginConflictError, match=r"hello.*other"):
        PluginRegistry().load("dataplane", "same")


def test_a_name_is_taken_once() -> None:
    registry = PluginRegistry()
    registry.register("dataplane", "x", Good())

    with pytest.raises(PluginConflictError):
        registry.register("dataplane", "x", Good())


def test_an_unknown_plugin_names_the_nearest_first() -> None:
    with pytest.raises(PluginNotFoundError) as caught:
        PluginRegistry().load("dataplane", "iptable")

    assert caught.value.available[0] == "iptables"


def test_an_unknown_family_is_an_error() -> None:
    with pytest.raises(PluginNotFoundError):
        PluginRegistry().load("dateplane", "iptables")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("@hookimpl\nasync def ce_make_dataplane(context): ...", "coroutine"),
        ("@hookimpl\nasync def ce_checks():\n    yield 1", "coroutine"),
        ("@hookimpl(wrapper=True)\ndef ce_checks():\n    return (yield)", "wrapper"),
        ("@hookimpl\ndef ce_make_dataplan(context): ...", "did you mean ce_make_dataplane"),
        ("@hookimpl\ndef ce_make_dataplane(contxt): ...", "contxt"),
        ("def ce_make_dataplane(context): ...", "put @hookimpl above it"),
    ],
)
def test_hooks_that_could_not_work_are_refused_at_load(install: Install, body: str, reason: str) -> None:
    install(
        "hello",
        "hello_plugin",
        f"from calico_engine.plugin import hookimpl\n{body}\n",
        {"hello": "dataplane"},
    )
    registry = PluginRegistry()

    with pytest.raises(PluginContractError, match=reason):
        registry.load("dataplane", "hello")


def test_a_class_is_no_plugin() -> None:
    with pytest.raises(PluginContractError, match="instance"):
        PluginRegistry().register("dataplane", "x", Good)


def test_what_is_made_must_have_every_method() -> None:
    class Half:
        @hookimpl
        def ce_make_dataplane(self) -> object:
            return object()

    registry = PluginRegistry()
    registry.register("dataplane", "half", Half())

    with pytest.raises(PluginContractError, match="object lacks on_batch, invalidate, apply"):
        registry.make_dataplane("half", make_context())


def test_a_plugin_without_the_make_hook_is_named() -> None:
    class Nothing:
        pass

    registry = PluginRegistry()
    registry.register("routing", "nothing", Nothing())

    with pytest.raises(PluginContractError, match="ce_make_routing"):
        registry.make_routing("nothing", make_context())


def test_checks_come_from_the_plugin() -> None:
    registry = PluginRegistry()
    registry.register("dataplane", "good", Good())

    assert [capability.name for capability in registry.checks("dataplane", "good")] == ["x"]


def test_a_third_partys_missing_module_is_named(install: Install) -> None:
    install("hello", "hello_plugin", "import no_such_module", {"hello": "dataplane"})

    with pytest.raises(PluginError, match=r"no_such_module.*reinstall hello 1\.0"):
        PluginRegistry().load("dataplane", "hello")


def test_a_built_ins_missing_module_names_the_extra(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("hello", "hello_plugin", "import no_such_module", {"hello": "dataplane"})
    monkeypatch.setattr("calico_engine.plugin.registry.OWN_DISTRIBUTION", "hello")

    with pytest.raises(MissingExtraError, match=r"calico-engine\[hello\]"):
        PluginRegistry().load("dataplane", "hello")


def test_third_party_profiles_are_found_and_broken_plugins_named(install: Install) -> None:
    text = """
        from calico_engine.plugin import hookimpl
        @hookimpl
        def ce_register_profiles():
            return {"hello-profile": 'dataplane = ["hello"]'}
    """
    install("hello", "hello_plugin", text, {"hello": "dataplane"})
    install("broken", "broken_plugin", "raise RuntimeError('at import')", {"broken": "routing"})

    profiles, problems = third_party_profiles()

    assert profiles["hello-profile"] == ('dataplane = ["hello"]', "dataplane:hello of hello")
    assert problems == ["routing:broken of broken: at import"]


def test_a_profile_is_found_in_a_third_partys_plugin(install: Install, tmp_path: Path) -> None:
    from calico_engine.engine import load_profile

    text = """
        from calico_engine.plugin import hookimpl
        @hookimpl
        def ce_register_profiles():
            return {"hello-profile": 'dataplane = ["hello"]'}
    """
    install("hello", "hello_plugin", text, {"hello": "dataplane"})

    profile = load_profile("hello-profile", system_directory=tmp_path)

    assert profile.dataplane == ("hello",)
    assert profile.source == "dataplane:hello of hello"


class Options(msgspec.Struct, frozen=True):
    directory: str = "/etc"
    poll_interval_s: float = 1.0


def test_options_become_the_plugins_type() -> None:
    assert decode_options("file", {"directory": "/x", "poll_interval_s": "5"}, Options) == Options("/x", 5.0)
    assert decode_options("file", {"anything": 1}, None) == {"anything": 1}


@pytest.mark.parametrize(
    ("options", "reason"),
    [({"direktory": "/x"}, "did you mean 'directory'"), ({"poll_interval_s": "soon"}, "poll_interval_s")],
)
def test_wrong_options_are_named(options: dict[str, object], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        decode_options("file", options, Options)


def test_a_config_type_must_be_a_struct() -> None:
    with pytest.raises(PluginContractError, match=r"msgspec\.Struct"):
        decode_options("file", {}, dict)
