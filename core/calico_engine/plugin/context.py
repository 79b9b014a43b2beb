"""Makes what a plugin is given: its options, decoded into the type it asked for."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

import msgspec

from calico_engine.errors import ConfigError, PluginContractError


def decode_options(plugin: str, options: Mapping[str, object], config_type: type | None) -> object:
    """Return the plugin's section of the profile as its config type, or as a dict when it has none.

    Raises: ConfigError naming the key, what is allowed and, for an unknown key, the nearest known one.
    """
    if config_type is None:
        return dict(options)
    if not issubclass(config_type, msgspec.Struct):
        raise PluginContractError(f"{plugin}: ce_config_type must name a msgspec.Struct, not {config_type!r}")
    fields = msgspec.structs.fields(config_type)
    known = [field.encode_name for field in fields]
    for key in options:
        if key not in known:
            raise unknown_key(f"options of {plugin}", key, known)
    try:
        return msgspec.convert(options, config_type, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigError(f"options of {plugin}: {error}", key=plugin) from error


def unknown_key(where: str, key: str, known: Sequence[str]) -> ConfigError:
    """The error for a key nobody reads: names the nearest one that exists, else all."""
    lowered = {name.lower(): name for name in known}
    near = difflib.get_close_matches(key.lower(), list(lowered), n=1, cutoff=0.5)
    hint = f"did you mean {lowered[near[0]]!r}?" if near else f"known: {', '.join(sorted(known)) or 'none'}"
    return ConfigError(f"{where}: unknown key {key!r}", key=key, hint=hint)
