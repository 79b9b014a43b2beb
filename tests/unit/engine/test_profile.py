"""Engine profiles: where they are found, what they may say, how --set changes them."""

from pathlib import Path

import pytest

from calico_engine.engine.environment import apply_environment
from calico_engine.engine.profile import EngineProfile, list_profiles, load_profile, parse_profile
from calico_engine.errors import ConfigError
from calico_engine.plugin import installed


def test_packaged_profiles_load_and_name_installed_plugins(tmp_path: Path) -> None:
    known = {(info.family, info.name) for info in installed()}

    profiles = list_profiles(tmp_path)

    assert {"standalone", "policy-only"} <= {info.name for info in profiles}
    for info in profiles:
        assert info.problem == ""
        assert set(load_profile(info.name, system_directory=tmp_path).selected()) <= known


def test_standalone_is_what_the_documentation_says() -> None:
    profile = load_profile("standalone")

    assert (profile.datastore, profile.dataplane, profile.routing) == (
        "file",
        ("ipset", "iptables"),
        ("noencap",),
    )
    assert profile.engine.plumbing


def test_policy_only_connects_nothing() -> None:
    profile = load_profile("policy-only")

    assert (profile.routing, profile.engine.plumbing) == ((), False)


def test_the_system_directory_wins_over_the_package(tmp_path: Path) -> None:
    (tmp_path / "standalone.toml").write_text('description = "mine"\ndataplane = ["ipset"]\n')

    profile = load_profile("standalone", system_directory=tmp_path)

    assert (profile.description, profile.dataplane) == ("mine", ("ipset",))
    assert profile.source == str(tmp_path / "standalone.toml")


def test_a_path_is_read_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "p.toml"
    path.write_text('routing = ["noencap"]\n[felix]\nLogPrefix = "x"\n[options.file]\ndirectory = "/m"\n')

    profile = load_profile(
        str(path), overrides=["felix.logprefix=y", "options.file.poll=true", "engine.plumbing=false"]
    )

    assert profile.name == "p"
    assert profile.felix == {"logprefix": "y"}
    assert profile.options == {"file": {"directory": "/m", "poll": True}}
    assert not profile.engine.plumbing


def test_lists_are_set_with_commas() -> None:
    profile = load_profile("standalone", overrides=["dataplane=ipset, iptables", "routing="])

    assert (profile.dataplane, profile.routing) == (("ipset", "iptables"), ())


@pytest.mark.parametrize(
    ("text", "key", "hint"),
    [
        ('dataplan = ["ipset"]', "dataplan", "'dataplane'"),
        ("[engine]\nplumbin = true", "engine.plumbin", "'plumbing'"),
        ("[felix]\nIptablesRefreshIntervall = 1", "IptablesRefreshIntervall", "'IptablesRefreshInterval'"),
        ("[felixx]\nA = 1", "felixx", "'felix'"),
    ],
)
def test_an_unknown_key_is_an_error_that_names_the_nearest(text: str, key: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_profile(text, name="p")

    assert caught.value.key == key
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    "text",
    ["dataplane = 3", "= x", '[engine]\napply_burst = "many"', 'dataplane = ["ipset", "ipset"]', "felix = 1"],
)
def test_a_wrong_profile_is_a_config_error(text: str) -> None:
    with pytest.raises(ConfigError, match="p"):
        parse_profile(text, name="p")


@pytest.mark.parametrize(
    "override", ["nonsense", "=x", "felix=x", "felix.a.b=1", "datastore.x=1", "engin.plumbing=false"]
)
def test_a_wrong_override_is_a_config_error(override: str) -> None:
    with pytest.raises(ConfigError):
        load_profile("standalone", overrides=[override])


def test_an_unknown_profile_says_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_profile("standalon", system_directory=tmp_path)

    assert "'standalone'" in caught.value.hint
    assert str(tmp_path) in str(caught.value)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(ConfigError, match=r"/no/such\.toml"):
        load_profile("/no/such.toml")


def test_a_broken_profile_is_listed_with_its_problem(tmp_path: Path) -> None:
    (tmp_path / "broken.toml").write_text("= x")

    problems = {info.name: info.problem for info in list_profiles(tmp_path)}

    assert "not TOML" in problems["broken"]
    assert problems["standalone"] == ""


def test_options_that_could_mean_two_plugins_are_refused() -> None:
    profile = EngineProfile(datastore="k", orchestrator=("k",), options={"k": {"a": 1}})
    exact = EngineProfile(datastore="k", orchestrator=("k",), options={"datastore:k": {"a": 1}})

    with pytest.raises(ConfigError, match="more than one"):
        profile.options_of("datastore", "k")
    assert exact.options_of("datastore", "k") == {"a": 1}
    assert exact.options_of("orchestrator", "k") == {}


def test_environment_of_calico_node() -> None:
    profile = load_profile("standalone")

    assert apply_environment(profile, {"CALICO_NETWORKING_BACKEND": "none"}).routing == ()
    assert apply_environment(profile, {"CALICO_NETWORKING_BACKEND": "bird"}).routing == ("noencap",)
    assert apply_environment(profile, {"DATASTORE_TYPE": "etcdv3"}).datastore == "etcd3"
    assert apply_environment(profile, {"FELIX_DATASTORETYPE": "kubernetes"}).datastore == "kubernetes"
    assert apply_environment(profile, {}) == profile
    with pytest.raises(ConfigError, match="DATASTORE_TYPE"):
        apply_environment(profile, {"DATASTORE_TYPE": "zookeeper"})
    with pytest.raises(ConfigError, match="CALICO_NETWORKING_BACKEND"):
        apply_environment(profile, {"CALICO_NETWORKING_BACKEND": "carrier-pigeon"})
