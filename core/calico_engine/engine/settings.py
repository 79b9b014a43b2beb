"""Resolve FelixSettings from every place a parameter can come from.

Highest first; the first place that has a value for a parameter decides:

    1 environment      FELIX_<PARAMETER>, any case
    2 felix.cfg        /etc/calico/felix.cfg, "key = value"; sections are ignored
    3 engine profile   [felix], with --set felix.PARAMETER=value written over it
    4 FelixConfiguration node.<node>
    5 FelixConfiguration default
    6 the defaults in calico_engine.settings

The profile sits below the machine's own files and above the cluster's: it is how this node was deployed. A wrong value
in 1 to 3 stops the start; one in 4 or 5 is reported and the next place below decides. `none` means the parameter's zero
value (an empty list, 0, off); an empty value means that nothing is said here.
"""

from __future__ import annotations

import configparser
import difflib
import logging
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from calico_engine.engine.parameters import BOOTSTRAP, PARAMETERS, Parameter, find_parameter
from calico_engine.errors import ConfigError
from calico_engine.settings import FelixSettings

log = logging.getLogger(__name__)

CONFIG_FILE = Path("/etc/calico/felix.cfg")
NODENAME_FILE = Path("/var/lib/calico/nodename")


class Layer(msgspec.Struct, frozen=True):
    """One place: what it is called in messages, and what it says (parameter's own name -> text)."""

    source: str
    values: dict[str, str]


class SettingsResolver:
    """Holds the local layers; `resolve` puts the datastore's under them.

    `problems` says, after a resolve, which datastore values were refused; `notices` what is accepted but not in effect.
    """

    def __init__(
        self, profile: Mapping[str, object], environ: Mapping[str, str], *, config_file: Path = CONFIG_FILE
    ) -> None:
        """Read and check the local layers. Raises: ConfigError naming parameter, value and what is allowed."""
        self.notices: list[str] = []
        self.problems: tuple[str, ...] = ()
        self._local = (
            self._layer("the environment", _felix_environment(environ)),
            self._layer(str(config_file), _read_config_file(config_file)),
            self._layer("the engine profile", profile),
        )
        self._datastore_notices: set[str] = set()
        for layer in self._local:
            for name, text in layer.values.items():
                _parse(PARAMETERS[name], text, layer.source)

    def is_set_locally(self, name: str) -> bool:
        """Whether environment, file or profile say something about a parameter."""
        return any(layer.values.get(name) for layer in self._local)

    def resolve(self, global_: Mapping[str, object], node: Mapping[str, object]) -> FelixSettings:
        """Return the settings under what the FelixConfigurations `default` and `node.<node>` say. Never raises."""
        problems: list[str] = []
        cluster = (
            self._layer("FelixConfiguration(node)", node, problems),
            self._layer("FelixConfiguration(default)", global_, problems),
        )
        fields: dict[str, object] = {}
        for layer in (*self._local, *cluster):
            for name, text in layer.values.items():
                parameter = PARAMETERS[name]
                if not text or not parameter.field or parameter.field in fields:
                    continue
                try:
                    fields[parameter.field] = _parse(parameter, text, layer.source)
                except ConfigError as error:
                    problems.append(str(error))
        for problem in problems:
            if problem not in self.problems:
                log.warning("setting refused, the next place below decides: %s", problem)
        self.problems = tuple(problems)
        return msgspec.structs.replace(FelixSettings(), **fields)

    def _layer(self, source: str, raw: Mapping[str, object], problems: list[str] | None = None) -> Layer:
        values: dict[str, str] = {}
        for key, value in raw.items():
            parameter = find_parameter(key)
            if parameter is None:
                self._unknown(source, key, problems)
                continue
            values[parameter.name] = as_text(value)
            if not parameter.in_effect and parameter.name not in BOOTSTRAP:
                self._notice(f"{source}: {parameter.name} is accepted but not in effect")
        return Layer(source, values)

    def _unknown(self, source: str, key: str, problems: list[str] | None) -> None:
        near = difflib.get_close_matches(key.lower(), [name.lower() for name in PARAMETERS], n=1)
        known = {name.lower(): name for name in PARAMETERS}
        hint = f"; did you mean {known[near[0]]}?" if near else ""
        text = f"{source}: no parameter {key}{hint}"
        if problems is None:
            self._notice(text)
        else:
            problems.append(text)

    def _notice(self, text: str) -> None:
        if text not in self.notices:
            self.notices.append(text)
            log.warning("%s", text)


def as_text(value: object) -> str:
    """Return a value of TOML or JSON in the text form that parameters are parsed from."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return ""
    if isinstance(value, (list, tuple)):
        return ",".join(as_text(item) for item in value) if value else "none"
    if isinstance(value, Mapping):
        return _mapping_text(value)
    return str(value).strip()


def _mapping_text(value: Mapping[str, object]) -> str:
    """A failsafe port of FelixConfiguration as protocol:net:port; any other mapping as key=value pairs."""
    if "port" in value:
        net = str(value.get("net") or "")
        parts = [
            str(value.get("protocol") or "tcp").lower(),
            f"[{net}]" if ":" in net else net,
            str(value["port"]),
        ]
        return ":".join(part for part in parts if part)
    return ",".join(f"{key}={as_text(inner)}" for key, inner in value.items())


def _parse(parameter: Parameter, text: str, source: str) -> object:
    if not text:
        return None
    if text.lower() == "none":
        if not parameter.can_be_none:
            raise ConfigError(
                f"{source}: {parameter.name} = {text!r}", key=parameter.name, hint="none is not allowed here"
            )
        return parameter.zero
    try:
        return parameter.parse(text)
    except ValueError as error:
        raise ConfigError(
            f"{source}: {parameter.name} = {text!r}", key=parameter.name, hint=str(error)
        ) from error


def _felix_environment(environ: Mapping[str, str]) -> dict[str, str]:
    return {key[6:]: value for key, value in environ.items() if key.upper().startswith("FELIX_")}


def _read_config_file(path: Path) -> dict[str, str]:
    """Read an ini file whose sections do not matter. Raises: ConfigError."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}", key=str(path), hint="make it readable or remove it") from error
    parser = configparser.ConfigParser(
        interpolation=None,
        strict=False,
        default_section="\0",
        inline_comment_prefixes=("#", ";"),
        allow_no_value=False,
    )
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # documented way to keep the case of keys
    try:
        parser.read_string("[top]\n" + text, source=str(path))
    except configparser.Error as error:
        raise ConfigError(f"{path}: {error}", key=str(path), hint='write "key = value" lines') from error
    return dict(_ini_items(parser))


def _ini_items(parser: configparser.ConfigParser) -> Iterator[tuple[str, str]]:
    for section in parser.sections():
        for key, value in parser.items(section):
            unquoted = (
                value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'`" else value
            )
            yield key, unquoted


def node_name(environ: Mapping[str, str], *, nodename_file: Path = NODENAME_FILE) -> str:
    """Return this node's name as calico/node finds it.

    NODENAME, FELIX_FELIXHOSTNAME, the file calico/node leaves, HOSTNAME, then the host's own name in lower case.
    Raises: ConfigError when the name could not name a node.
    """
    lowered = {key.upper(): value for key, value in environ.items()}
    name = lowered.get("NODENAME", "").strip() or lowered.get("FELIX_FELIXHOSTNAME", "").strip()
    if not name and nodename_file.is_file():
        name = nodename_file.read_text().strip()
    name = name or lowered.get("HOSTNAME", "").strip() or socket.gethostname().lower()
    if not name or len(name) > 253 or any(not (char.isalnum() or char in "._-") for char in name):
        raise ConfigError(
            f"node name {name!r}", key="NODENAME", hint="letters, digits, dots and dashes; set NODENAME"
        )
    return name
