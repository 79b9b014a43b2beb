"""Engine profiles: a named choice of plugins and settings, written in TOML.

    description = "manifests from a directory, ipset and iptables, plain routes"
    datastore = "file"
    dataplane = ["ipset", "iptables"]        # applied in this order, removed in reverse
    routing = ["noencap"]

    [engine]                                 # EngineOptions below
    [felix]                                  # Felix parameters under the reference's names
    InterfacePrefix = "cali"
    [options.file]                           # what the plugin's own config type holds
    path = "/etc/calico-engine/manifests"

A profile is looked for by path, in /etc/calico-engine/profiles, in this package, then among other distributions'
`ce_register_profiles`. An unknown key anywhere is an error that names the nearest.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Literal

import msgspec

from calico_engine.engine.parameters import PARAMETERS, find_parameter
from calico_engine.errors import ConfigError
from calico_engine.plugin.context import unknown_key
from calico_engine.plugin.registry import third_party_profiles

SYSTEM_DIRECTORY = Path("/etc/calico-engine/profiles")

FelixValue = str | int | float | bool | list[str]


class EngineOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the engine itself behaves, whatever the plugins."""

    plumbing: bool = True  # run the built-in endpoint plumber: host routes, proxy ARP, sysctls
    link_monitor: bool = True  # follow the kernel's links
    control_socket: bool = True
    state_dir: str = ""  # see directories.state_directory
    apply_burst: int = 10  # applies that may follow each other at once
    apply_refill_per_s: float = 10.0
    apply_timeout_s: float = 90.0
    retry_initial_s: float = 0.1
    retry_max_s: float = 10.0
    stuck_after_failures: int = 10  # failures in a row of one plugin; it is made anew half way
    datastore_retry_max_s: float = 30.0
    log_format: Literal["text", "json"] = "text"


class EngineProfile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one engine is assembled from. `name` and `source` come from where it was found."""

    name: str = ""
    source: str = ""
    description: str = ""
    datastore: str = "file"
    dataplane: tuple[str, ...] = ()
    routing: tuple[str, ...] = ()
    orchestrator: tuple[str, ...] = ()
    extensions: tuple[str, ...] = ()
    engine: EngineOptions = EngineOptions()
    felix: dict[str, FelixValue] = {}
    options: dict[str, dict[str, object]] = {}

    def selected(self) -> tuple[tuple[str, str], ...]:
        """Every (family, name) the profile names, in the order they are made."""
        return (
            ("datastore", self.datastore),
            *(("dataplane", name) for name in self.dataplane),
            *(("routing", name) for name in self.routing),
            *(("orchestrator", name) for name in self.orchestrator),
            *(("extension", name) for name in self.extensions),
        )

    def options_of(self, family: str, name: str) -> dict[str, object]:
        """The plugin's own section. Raises: ConfigError when [options.NAME] could mean two selected plugins."""
        full_name = f"{family}:{name}"
        if full_name in self.options:
            return self.options[full_name]
        if name in self.options and sum(1 for _, other in self.selected() if other == name) > 1:
            raise ConfigError(
                f"profile {self.name}: [options.{name}] could mean more than one plugin",
                key=f"options.{name}",
                hint=f'write [options."{full_name}"]',
            )
        return self.options.get(name, {})


class ProfileInfo(msgspec.Struct, frozen=True, order=True):
    """One line of `calico-engine profiles`. `problem` is set when it cannot be loaded."""

    name: str
    source: str
    description: str = ""
    problem: str = ""


def load_profile(
    reference: str, *, overrides: Sequence[str] = (), system_directory: Path = SYSTEM_DIRECTORY
) -> EngineProfile:
    """Find a profile by path or name and apply `key=value` overrides.

    Raises: ConfigError that says where it was looked for, or which key is wrong and what would be right.
    """
    name, source, text = _find(reference, system_directory)
    document = _parse(text, source)
    for override in overrides:
        _override(document, override)
    return _convert(document, name, source)


def parse_profile(text: str, *, name: str = "", source: str = "") -> EngineProfile:
    """Read a profile from TOML text. Raises: ConfigError."""
    return _convert(_parse(text, source or name or "profile"), name, source)


def list_profiles(system_directory: Path = SYSTEM_DIRECTORY) -> tuple[ProfileInfo, ...]:
    """List every profile that can be named, the first of each name winning."""
    found: dict[str, ProfileInfo] = {}
    texts: list[tuple[str, str, str]] = []
    if system_directory.is_dir():
        texts += [(p.stem, str(p), p.read_text()) for p in sorted(system_directory.glob("*.toml"))]
    texts += [(name, f"package:{name}", text) for name, text in sorted(_packaged().items())]
    brought, problems = third_party_profiles()
    texts += [(name, origin, text) for name, (text, origin) in sorted(brought.items())]
    for name, source, text in texts:
        if name in found:
            continue
        try:
            profile = parse_profile(text, name=name, source=source)
            found[name] = ProfileInfo(name, source, profile.description)
        except ConfigError as error:
            found[name] = ProfileInfo(name, source, problem=str(error))
    for problem in problems:
        found[problem] = ProfileInfo("", "", problem=problem)
    return tuple(sorted(found.values()))


def _packaged() -> dict[str, str]:
    folder = resources.files("calico_engine.profiles")
    return {
        entry.name.removesuffix(".toml"): entry.read_text()
        for entry in folder.iterdir()
        if entry.name.endswith(".toml")
    }


def _find(reference: str, system_directory: Path) -> tuple[str, str, str]:
    """Return (name, source, text) of the first place that knows the profile."""
    if "/" in reference or reference.endswith(".toml"):
        path = Path(reference)
        try:
            return path.stem, str(path), path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"profile {reference}: {error}", key="profile", hint="give a readable TOML file"
            ) from error
    system = system_directory / f"{reference}.toml"
    if system.is_file():
        return reference, str(system), system.read_text()
    packaged = _packaged()
    if reference in packaged:
        return reference, f"package:{reference}", packaged[reference]
    brought, problems = third_party_profiles()
    if reference in brought:
        text, origin = brought[reference]
        return reference, origin, text
    known = sorted({*packaged, *brought, *(p.stem for p in system_directory.glob("*.toml"))})
    nearest = unknown_key("profiles", reference, known)
    looked = f"looked in {system_directory}, in the package and in installed plugins"
    raise ConfigError(
        f"no engine profile named {reference!r}; {looked}" + "".join(f"; {p}" for p in problems),
        key="profile",
        hint=nearest.hint,
    )


def _parse(text: str, source: str) -> dict[str, object]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"profile {source}: not TOML: {error}", key="profile") from error


def _convert(document: Mapping[str, object], name: str, source: str) -> EngineProfile:
    where = f"profile {name or source}"
    fields = [f for f in EngineProfile.__struct_fields__ if f not in ("name", "source")]
    _known_keys(where, document, fields)
    engine = document.get("engine")
    if isinstance(engine, Mapping):
        _known_keys(f"{where}: [engine]", engine, EngineOptions.__struct_fields__, "engine.")
    try:
        profile = msgspec.convert({**document, "name": name, "source": source}, EngineProfile)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}: {error}", key="profile") from error
    _known_parameters(where, profile.felix)
    for family in ("dataplane", "routing", "orchestrator", "extensions"):
        chosen: tuple[str, ...] = getattr(profile, family)
        if len(set(chosen)) != len(chosen):
            raise ConfigError(f"{where}: {family} names a plugin twice: {', '.join(chosen)}", key=family)
    return profile


def _known_keys(where: str, section: Mapping[str, object], known: Sequence[str], prefix: str = "") -> None:
    for key in section:
        if key not in known:
            nearest = unknown_key(where, key, known)
            raise ConfigError(f"{where}: unknown key {key!r}", key=f"{prefix}{key}", hint=nearest.hint)


def _known_parameters(where: str, felix: Mapping[str, object]) -> None:
    for key in felix:
        if find_parameter(key) is None:
            raise unknown_key(f"{where}: [felix]", key, list(PARAMETERS))


def _override(document: dict[str, object], assignment: str) -> None:
    """Apply one `key=value` of --set; a value that reads as TOML is taken as such, else as text."""
    key, equals, text = assignment.partition("=")
    key = key.strip()
    if not equals or not key:
        raise ConfigError(f"--set {assignment!r}: not an assignment", key=key, hint="write --set key=value")
    path = _split_key(key)
    section = document
    for part in path[:-1]:
        inner = section.setdefault(part, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"--set {assignment!r}: {part!r} is a value, not a section", key=key)
        section = inner
    if path[0] == "felix":
        if len(path) != 2:
            raise ConfigError(
                f"--set {assignment!r}: no such key", key=key, hint="write --set felix.Parameter=value"
            )
        for other in [k for k in section if k.lower() == path[1].lower()]:
            del section[other]
        section[path[1]] = text
    elif (
        len(path) == 1
        and path[0] in ("dataplane", "routing", "orchestrator", "extensions")
        and "[" not in text
    ):
        section[path[0]] = [name.strip() for name in text.split(",") if name.strip()]
    else:
        section[path[-1]] = _value(text)


def _split_key(key: str) -> list[str]:
    """Split at dots outside of double quotes: options."routing:x".y has three parts."""
    parts, current, quoted = [], "", False
    for char in key:
        if char == '"':
            quoted = not quoted
        elif char == "." and not quoted:
            parts.append(current)
            current = ""
        else:
            current += char
    return [*parts, current]


def _value(text: str) -> object:
    try:
        return tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        return text
