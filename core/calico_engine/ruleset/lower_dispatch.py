"""Dispatch by interface as a shallow tree of chains, for backends without verdict maps.

Pure. Names are grouped by the character after their common prefix; a group of several gets a chain of its own.
Source: felix/rules/dispatch.go (buildSingleDispatchChainTree).
"""

from __future__ import annotations

from collections.abc import Sequence

from calico_engine.ruleset.actions import Chains
from calico_engine.ruleset.ir import ChainKey, DispatchByInterface, Goto, InterfaceIs, Jump, Rule


def lower_dispatch(key: ChainKey, rules: tuple[Rule, ...]) -> Chains:
    """Return the chain without DispatchByInterface, and the child chains that takes.

    A packet that is sent to a child does not come back, so each child ends with the rules after the dispatch.
    """
    for position, rule in enumerate(rules):
        if isinstance(rule.op, DispatchByInterface):
            rest = lower_dispatch(key, rules[position + 1 :])
            return _tree(key, rules[:position], rule, rule.op, rest)
    return {key: rules}


def _tree(
    key: ChainKey, before: tuple[Rule, ...], rule: Rule, op: DispatchByInterface, rest: Chains
) -> Chains:
    tail = rest[key]
    targets = sorted(op.targets)
    common = common_prefix(targets[0][0], targets[-1][0]) if targets else ""
    groups: dict[str, list[tuple[str, str]]] = {}
    for name, chain in targets:
        groups.setdefault(name[: len(common) + 1], []).append((name, chain))
    root: list[Rule] = []
    chains: Chains = dict(rest)
    for prefix, members in groups.items():
        steps, children = lower_group(key, rule, op, members, prefix, common, tail)
        root += steps
        chains |= children
    chains[key] = (*before, *root, *tail)
    return chains


def lower_group(
    key: ChainKey,
    rule: Rule,
    op: DispatchByInterface,
    members: Sequence[tuple[str, str]],
    prefix: str,
    common: str,
    tail: tuple[Rule, ...],
) -> tuple[tuple[Rule, ...], Chains]:
    """Return what a group of targets takes in the chain itself, and its own chain where it has one.

    prefix: what the group's names begin with, one character more than what all names have in common.
    """
    steps = tuple(_step(rule, op, name, chain) for name, chain in members)
    if len(members) == 1:
        return steps, {}
    child = ChainKey(key.layer, f"{key.name}-{prefix[len(common) :]}")
    match = InterfaceIs(op.direction, f"{prefix}+")
    lead = Rule((*rule.matches, match), Goto(child.name), rule.comments, rule.origin)
    return (lead,), {child: (*steps, *tail)}


def _step(rule: Rule, op: DispatchByInterface, name: str, chain: str) -> Rule:
    target = Goto(chain) if op.goto else Jump(chain)
    return Rule((*rule.matches, InterfaceIs(op.direction, name)), target, rule.comments, rule.origin)


def common_prefix(first: str, last: str) -> str:
    """Return the common prefix of a sorted list, given its ends."""
    for position, (one, other) in enumerate(zip(first, last, strict=False)):
        if one != other:
            return first[:position]
    return first[: min(len(first), len(last))]
