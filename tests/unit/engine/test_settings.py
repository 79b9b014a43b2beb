"""Felix's parameters: forms, layers, and what is said about wrong ones."""

import re
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import calico_engine
from calico_engine.engine import parsing
from calico_engine.engine.parameters import PARAMETERS, find_parameter
from calico_engine.engine.settings import SettingsResolver, as_text, node_name
from calico_engine.errors import ConfigError
from calico_engine.settings import (
    ChainInsertMode,
    EndpointToHostAction,
    FelixSettings,
    HostPort,
    Layout,
)


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    return tmp_path / "felix.cfg"


def resolve(
    config_file: Path,
    *,
    env: Mapping[str, str] | None = None,
    profile: Mapping[str, object] | None = None,
    node: Mapping[str, object] | None = None,
    cluster: Mapping[str, object] | None = None,
) -> FelixSettings:
    return SettingsResolver(profile or {}, env or {}, config_file=config_file).resolve(
        cluster or {}, node or {}
    )


@pytest.mark.parametrize("layer", ["env", "file", "profile", "node", "cluster", "default"])
def test_the_highest_layer_that_speaks_decides(config_file: Path, layer: str) -> None:
    order = ["env", "file", "profile", "node", "cluster", "default"]
    speaking = order[order.index(layer) :]
    if "file" in speaking:
        config_file.write_text("[global]\nLogPrefix = file\n")

    settings = resolve(
        config_file,
        env={"FELIX_LOGPREFIX": "env"} if "env" in speaking else {},
        profile={"LogPrefix": "profile"} if "profile" in speaking else {},
        node={"logPrefix": "node"} if "node" in speaking else {},
        cluster={"logPrefix": "cluster"} if "cluster" in speaking else {},
    )

    assert settings.log_prefix == {"default": "calico-packet"}.get(layer, layer)


@pytest.mark.parametrize(
    ("name", "text", "field", "value"),
    [
        ("FELIX_IPTABLESMARKMASK", "0xff000000", "iptables_mark_mask", 0xFF000000),
        ("felix_iptablesmarkmask", "4278190080", "iptables_mark_mask", 0xFF000000),
        ("FELIX_Ipv6Support", "No", "ipv6_support", False),
        ("FELIX_IPINIPENABLED", "t", "ip_in_ip_enabled", True),
        ("FELIX_IPTABLESREFRESHINTERVAL", "10", "iptables_refresh_interval_s", 10.0),
        ("FELIX_IPTABLESREFRESHINTERVAL", "90s", "iptables_refresh_interval_s", 90.0),
        ("FELIX_IPTABLESREFRESHINTERVAL", "1m30.5s", "iptables_refresh_interval_s", 90.5),
        ("FELIX_IPTABLESREFRESHINTERVAL", "none", "iptables_refresh_interval_s", 0.0),
        ("FELIX_IPTABLESLOCKPROBEINTERVALMILLIS", "75", "iptables_lock_probe_interval_ms", 75),
        ("FELIX_IPTABLESLOCKPROBEINTERVALMILLIS", "1s", "iptables_lock_probe_interval_ms", 1000),
        (
            "FELIX_DEFAULTENDPOINTTOHOSTACTION",
            "accept",
            "default_endpoint_to_host_action",
            EndpointToHostAction.ACCEPT,
        ),
        ("FELIX_CHAININSERTMODE", "Append", "chain_insert_mode", ChainInsertMode.APPEND),
        ("FELIX_LAYOUT", "v2", "layout", Layout.V2),
        ("FELIX_INTERFACEPREFIX", "cali, tap", "interface_prefix", ("cali", "tap")),
        ("FELIX_INTERFACEEXCLUDE", "kube-ipvs0,/^veth.*/", "interface_exclude", ("kube-ipvs0", "/^veth.*/")),
        ("FELIX_IPTABLESBACKEND", "NFT", "iptables_backend", "nft"),
        ("FELIX_FAILSAFEINBOUNDHOSTPORTS", "none", "failsafe_inbound_host_ports", ()),
        (
            "FELIX_FAILSAFEINBOUNDHOSTPORTS",
            "22, UDP:68,tcp:10.1.2.3/8:179,tcp:[fd00::1]:22",
            "failsafe_inbound_host_ports",
            (
                HostPort("tcp", 22),
                HostPort("udp", 68),
                HostPort("tcp", 179, "10.0.0.0/8"),
                HostPort("tcp", 22, "fd00::1/128"),
            ),
        ),
        ("FELIX_NATPORTRANGE", "32768:65535", "nat_port_range", "32768:65535"),
        (
            "FELIX_FEATUREDETECTOVERRIDE",
            "a=true,b=false",
            "feature_detect_override",
            (("a", "true"), ("b", "false")),
        ),
        ("FELIX_LOGSEVERITYSCREEN", "DEBUG", "log_severity_screen", "Debug"),
        ("FELIX_LOGPREFIX", "", "log_prefix", "calico-packet"),
    ],
)
def test_reference_forms_are_understood(
    config_file: Path, name: str, text: str, field: str, value: object
) -> None:
    settings = resolve(config_file, env={name: text})

    assert getattr(settings, field) == value


@pytest.mark.parametrize(
    ("name", "text", "allowed"),
    [
        ("IptablesMarkMask", "0x1", "at least 2"),
        ("IptablesMarkMask", "red", "0xffff0000"),
        ("Layout", "native", "allowed: v2, v3"),
        ("IptablesMarkMask", "0x1ffffffff", "32 bits"),
        ("IptablesMarkMask", "none", "none is not allowed"),
        ("Ipv6Support", "maybe", "true, yes"),
        ("HealthPort", "70000", "0 to 65535"),
        ("RouteRefreshInterval", "-1", "90s"),
        ("RouteRefreshInterval", "90 parsecs", "90s"),
        ("RouteRefreshInterval", "nan", "90s"),
        ("DefaultEndpointToHostAction", "PERHAPS", "DROP, RETURN, ACCEPT"),
        ("FailsafeInboundHostPorts", "tcp:ssh", "PROTOCOL:PORT"),
        ("FailsafeInboundHostPorts", "icmp:1", "tcp or udp"),
        ("FailsafeInboundHostPorts", "tcp:fd00::1:22", "in []"),
        ("FailsafeInboundHostPorts", "tcp:99999", "PORT"),
        ("InterfacePrefix", "this-prefix-is-much-too-long", "1 to 15"),
        ("InterfacePrefix", "cali -j ACCEPT", "1 to 15"),
        ("InterfaceExclude", "/(/", "regular expression"),
        ("LogPrefix", "a\nb", "control characters"),
        ("DeviceRouteSourceAddress", "fd00::1", "IPv4"),
        ("NATPortRange", "10:1", "FIRST:LAST"),
        ("ChainInsertMode", "prepend", "insert, append"),
    ],
)
def test_a_wrong_value_stops_the_start_and_says_what_is_allowed(
    config_file: Path, name: str, text: str, allowed: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(config_file, env={f"FELIX_{name.upper()}": text})

    assert caught.value.key == name
    assert f"{name} = {text!r}" in str(caught.value)
    assert "the environment" in str(caught.value)
    assert allowed in caught.value.hint


def test_a_wrong_value_in_the_datastore_is_reported_and_the_next_place_decides(config_file: Path) -> None:
    resolver = SettingsResolver({}, {}, config_file=config_file)

    settings = resolver.resolve(
        {"logPrefix": "cluster", "iptablesMarkMask": "0x1"}, {"ipv6Support": "perhaps"}
    )

    assert settings.log_prefix == "cluster"
    assert settings.ipv6_support is True
    assert settings.iptables_mark_mask == FelixSettings().iptables_mark_mask
    assert [problem.split(" = ")[0] for problem in resolver.problems] == [
        "FelixConfiguration(node): Ipv6Support",
        "FelixConfiguration(default): IptablesMarkMask",
    ]
    resolver.resolve({}, {})
    assert resolver.problems == ()


def test_felix_configuration_as_json_data(config_file: Path) -> None:
    settings = resolve(
        config_file,
        cluster={
            "ipipEnabled": True,
            "ipipMTU": 1400,
            "reportingInterval": "1m0s",
            "iptablesLockProbeInterval": "20ms",
            "failsafeInboundHostPorts": [{"protocol": "TCP", "port": 22, "net": "fd00::/8"}, {"port": 80}],
            "failsafeOutboundHostPorts": [],
            "interfacePrefix": "cali",
            "featureDetectOverride": "x=true",
        },
    )

    assert settings.ip_in_ip_enabled is True
    assert settings.ip_in_ip_mtu == 1400
    assert settings.reporting_interval_s == 60.0
    assert settings.iptables_lock_probe_interval_ms == 20
    assert settings.failsafe_inbound_host_ports == (HostPort("tcp", 22, "fd00::/8"), HostPort("tcp", 80))
    assert settings.failsafe_outbound_host_ports == ()


def test_parameters_not_in_effect_are_accepted_and_named_once(config_file: Path) -> None:
    resolver = SettingsResolver({}, {"FELIX_WIREGUARDENABLED": "true"}, config_file=config_file)
    resolver.resolve({"bpfEnabled": True}, {})
    resolver.resolve({"bpfEnabled": True}, {})

    assert resolver.notices == [
        "the environment: WireguardEnabled is accepted but not in effect",
        "FelixConfiguration(default): BPFEnabled is accepted but not in effect",
    ]


def test_an_unknown_variable_is_named_with_its_nearest(config_file: Path) -> None:
    resolver = SettingsResolver({}, {"FELIX_IPTABLESREFRESHINTERVALL": "1"}, config_file=config_file)

    (notice,) = resolver.notices

    assert notice.endswith("did you mean IptablesRefreshInterval?")


def test_config_file_forms(config_file: Path) -> None:
    config_file.write_text(
        '# a comment\nLogPrefix = "quoted"\n[global]\nMetadataPort=1\n'
        "[other]\nHealthPort = 9 ; inline\nmetadataport = 2\n"
    )

    settings = resolve(config_file)

    assert (settings.log_prefix, settings.metadata_port, settings.health_port) == ("quoted", 2, 9)


@pytest.mark.parametrize("text", ["just words\n", "[unclosed\n"])
def test_a_broken_config_file_is_named(config_file: Path, text: str) -> None:
    config_file.write_text(text)

    with pytest.raises(ConfigError, match=r"felix\.cfg"):
        resolve(config_file)


def test_every_parameter_in_effect_sets_a_field_that_exists() -> None:
    fields = set(FelixSettings.__struct_fields__)

    assert {p.field for p in PARAMETERS.values() if p.in_effect} <= fields


def test_a_parameter_is_in_effect_when_something_built_in_uses_it() -> None:
    root = Path(calico_engine.__file__).parent
    plugins = [Path(entry.load().__file__).parent for entry in _built_in_plugins()]
    sources = [path for folder in (root, *plugins) for path in folder.rglob("*.py")]
    aside = {root / "settings.py", root / "engine" / "parameters.py"}
    text = "\n".join(
        path.read_text() for path in sources if path not in aside and root / "testing" not in path.parents
    )
    read = {name for name in FelixSettings.__struct_fields__ if re.search(rf"\.{name}\b", text)}

    assert {p.field for p in PARAMETERS.values() if p.in_effect} == read - {"openstack_metadata"}


def _built_in_plugins() -> list[EntryPoint]:
    groups = ("datastore", "dataplane", "routing")
    found = [entry for group in groups for entry in entry_points(group=f"calico_engine.{group}")]
    return [entry for entry in found if entry.dist is not None and entry.dist.name == "calico-engine"]


def test_a_parameter_for_plugins_of_others_reaches_them_and_is_named(config_file: Path) -> None:
    resolver = SettingsResolver({"VXLANVNI": "77"}, {}, config_file=config_file)

    assert resolver.resolve({}, {}).vxlan_vni == 77
    assert resolver.notices == ["the engine profile: VXLANVNI is accepted but not in effect"]


def test_every_setting_can_be_set() -> None:
    settable = {p.field for p in PARAMETERS.values()}

    assert set(FelixSettings.__struct_fields__) - settable == {"openstack_metadata"}


@pytest.mark.parametrize("name", sorted(PARAMETERS))
def test_names_are_found_in_any_case(name: str) -> None:
    assert find_parameter(name.upper()) is PARAMETERS[name]
    assert find_parameter(name[0].lower() + name[1:]) is PARAMETERS[name]


@given(st.text(max_size=40))
def test_no_text_breaks_a_parser_otherwise_than_by_value_error(text: str) -> None:
    for parameter in PARAMETERS.values():
        with suppress(ValueError):
            parameter.parse(text)


@given(st.floats(min_value=0, max_value=1e6, allow_nan=False))
def test_seconds_round_trip(seconds: float) -> None:
    assert parsing.parse_seconds(as_text(seconds)) == seconds


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"NODENAME": "n1", "FELIX_FELIXHOSTNAME": "n2", "HOSTNAME": "n4"}, "n1"),
        ({"FELIX_FELIXHOSTNAME": "n2", "HOSTNAME": "n4"}, "n2"),
        ({"HOSTNAME": "n4"}, "n3"),
    ],
)
def test_node_name_order(tmp_path: Path, environ: dict[str, str], expected: str) -> None:
    (tmp_path / "nodename").write_text("n3\n")

    assert node_name(environ, nodename_file=tmp_path / "nodename") == expected


def test_hostname_comes_after_the_file(tmp_path: Path) -> None:
    assert node_name({"HOSTNAME": "n4"}, nodename_file=tmp_path / "absent") == "n4"


def test_a_hostile_node_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="NODENAME"):
        node_name({"NODENAME": "a/../b"}, nodename_file=tmp_path / "absent")
