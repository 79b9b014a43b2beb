"""From dumps of our table to ActualTables: what is ours by its hash, and what stands in our way.

Pure. The table is ours alone: a rule in it without a hash of ours, and a base chain of another kind than we make, are
drift. Both are told by hashes that no rule of ours has.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache

import msgspec

from calico_engine.ruleset.ir import ChainKey, Family, Hook, Layer
from calico_engine.tables.backend import ActualSet, ActualTables, HookRule
from calico_engine.tables.single_table import chain_key
from calico_engine_nftables.dump import ActualChain, ActualRule, parse_chains
from calico_engine_nftables.messages import new_base_chain
from calico_engine_nftables.transaction import HASH_CHARS, HASH_PREFIX, Present

_HASH = re.compile(rf"{HASH_PREFIX}([A-Za-z0-9_-]{{{HASH_CHARS}}})(?:;|$)")
_HOOKS = frozenset(hook.value for hook in Hook)
#: In the place of a hash: somebody else's rule, a base chain that is not as we make it, one that is empty.
FOREIGN, ALIEN, EMPTY = "foreign rule", "foreign chain", "no rules"


def actual_tables(
    chains: Iterable[ActualChain], rules: Iterable[ActualRule], sets: Mapping[str, ActualSet]
) -> tuple[ActualTables, Present]:
    """Return what a table holds."""
    hashes: dict[str, list[str]] = {chain.name: [] for chain in chains}
    for rule in rules:
        found = _HASH.match(rule.comment)
        hashes.setdefault(rule.chain, []).append(found[1] if found else FOREIGN)
    present = Present(chains=set(hashes), sets=set(sets))
    own: dict[ChainKey, tuple[str, ...]] = {}
    hooks: dict[ChainKey, tuple[HookRule, ...]] = {}
    for chain in chains:
        key, found_hashes = chain_key(chain.name), hashes[chain.name]
        is_hook = key.name in _HOOKS
        if not _is_as_made(chain, key, is_hook=is_hook):
            present.alien.add(chain.name)
            found_hashes = [ALIEN]
        if is_hook:
            hooks[key] = tuple(HookRule(digest) for digest in found_hashes or [EMPTY])
        else:
            own[key] = tuple(found_hashes)
    return ActualTables(chains=own, hooks=hooks, sets=sets), present


def _is_as_made(chain: ActualChain, key: ChainKey, *, is_hook: bool) -> bool:
    if not is_hook:
        return chain.hook is None
    made = _made_as(key.layer, Hook(key.name))
    return msgspec.structs.replace(made, name=chain.name, handle=chain.handle) == chain


@cache
def _made_as(layer: Layer, hook: Hook) -> ActualChain:
    """Return a base chain of ours: what the message that makes it says."""
    message = new_base_chain(Family.V4, "table", "chain", layer, hook)
    (made,) = parse_chains(message, Family.V4, "table")
    return made
