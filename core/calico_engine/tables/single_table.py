"""Names within one table that holds everything: chains of all layers, and the sets and maps they look into.

Pure. iptables has a table a layer; in nftables one table of ours has all of them, so that one transaction reaches it.
"""

from __future__ import annotations

import re

from calico_engine.ruleset.ir import ChainKey, Hook, Layer, Level, Origin
from calico_engine.ruleset.names import safe_text, shorten

#: Address -> the number of its host identity, and of its network identity.
HOSTS_MAP = "cali-hosts"
NETS_MAP = "cali-nets"
#: Interface and address of every endpoint.
SOURCES_SET = "cali-sources"
INTERFACES_SET = "cali-interfaces"
_SET_PREFIX = "cali-s-"
#: The kernel takes 255 bytes; what nft can read back in is letters, digits and these.
_NAME_MAX_CHARS = 127
_SAFE_NAME = re.compile(r"[A-Za-z0-9_./-]+", re.ASCII)
#: nft keeps comments of rules and elements to 128 bytes with the NUL.
COMMENT_MAX_CHARS = 120

_LAYERS = {f"{layer}-": layer for layer in Layer}
_HOOKS = frozenset(hook.value for hook in Hook)


def chain_name(key: ChainKey) -> str:
    """Return the chain's name: its own in the filter layer, `raw-cali-...` in others, `filter-FORWARD` for hooks."""
    if key.layer is Layer.FILTER and key.name not in _HOOKS:
        return key.name
    return f"{key.layer}-{key.name}"


def chain_key(name: str) -> ChainKey:
    """Return what chain_name made this name of; a name of somebody else's gives a key that makes it again."""
    prefix, dash, rest = name.partition("-")
    layer = _LAYERS.get(prefix + dash)
    if layer is None or (layer is Layer.FILTER and rest not in _HOOKS):
        return ChainKey(Layer.FILTER, name)
    return ChainKey(layer, rest)


def dispatch_map(key: ChainKey) -> str:
    """Return the name of the map by which a chain dispatches; a chain has one at most."""
    return chain_name(key)


def level_map(table: str, level: Level) -> str:
    """Return the name of one level of a verdict table."""
    return f"{table}-{level}"


def members_set(set_id: str) -> str:
    """Return the name of the set behind a selector, named port or service."""
    ident = set_id.replace(":", "/")
    if _SAFE_NAME.fullmatch(ident) and len(ident) + len(_SET_PREFIX) <= _NAME_MAX_CHARS:
        return _SET_PREFIX + ident
    return shorten(_SET_PREFIX, f"{set_id} ", _NAME_MAX_CHARS)


def origin_text(origin: Origin | None) -> str:
    """Say in a comment why something is there: `NetworkPolicy default/web inbound rule 2`."""
    if origin is None:
        return ""
    if origin.owner is None:
        return safe_text(origin.note, COMMENT_MAX_CHARS)
    owner = origin.owner
    name = f"{owner.namespace}/{owner.name}" if owner.namespace else owner.name
    rule = f" rule {origin.index}" if origin.index >= 0 else ""
    words = f"{owner.kind} {name} {origin.direction}{rule} {origin.note}"
    return safe_text(words.strip(), COMMENT_MAX_CHARS)
