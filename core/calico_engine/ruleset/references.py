"""Which chains and sets rules refer to; what stands in for one that is missing.

Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from calico_engine.ruleset import names
from calico_engine.ruleset.ir import (
    ChainKey,
    Classify,
    Continue,
    DispatchByInterface,
    Drop,
    Goto,
    Hook,
    Jump,
    Layer,
    Origin,
    PortOrNamedPort,
    Rule,
    SetLookup,
)


def referenced_chains(rules: Iterable[Rule]) -> set[str]:
    """Return names of chains (of the same layer) these rules jump, go or dispatch to."""
    found: set[str] = set()
    for rule in rules:
        match rule.op:
            case Jump(chain=chain) | Goto(chain=chain):
                found.add(chain)
            case DispatchByInterface(targets=targets):
                found.update(chain for _, chain in targets)
            case Classify(linear=linear) if linear:
                found.add(linear)
            case _:
                pass
    return found


def referenced_sets(rules: Iterable[Rule]) -> set[str]:
    """Return ids of the sets these rules look up."""
    found: set[str] = set()
    for rule in rules:
        for match in rule.matches:
            if isinstance(match, SetLookup):
                found.add(match.set_id)
            elif isinstance(match, PortOrNamedPort):
                found.update(match.set_ids)
    return found


def reachable(
    chains: Mapping[ChainKey, tuple[Rule, ...]], *hooks: Mapping[tuple[Layer, Hook], tuple[Rule, ...]]
) -> set[ChainKey]:
    """Return the chains a packet can get to from the hooks, those that are referred to and missing included."""
    found: set[ChainKey] = set()
    pending = [
        ChainKey(layer, name)
        for hooked in hooks
        for (layer, _), rules in hooked.items()
        for name in referenced_chains(rules)
    ]
    while pending:
        key = pending.pop()
        if key not in found:
            found.add(key)
            pending += [ChainKey(key.layer, name) for name in referenced_chains(chains.get(key, ()))]
    return found


def stub_rules(key: ChainKey) -> tuple[Rule, ...]:
    """Return what stands in for a chain that is referred to and absent.

    A profile that does not exist allows nothing, which is no rule; in place of anything else packets are dropped.
    """
    origin = Origin(note="missing chain")
    if key.name.startswith((names.PROFILE_INBOUND, names.PROFILE_OUTBOUND)):
        return (Rule((), Continue(), ("Profile does not exist",), origin),)
    return (Rule((), Drop(), ("Missing chain",), origin),)
