"""What a table tool cannot say in one rule, said in several: many nets, more than 15 ports, dispatch by interface.

Pure. For the native layout that is nftables without anonymous sets: ports one range a match, and maps for dispatch.
The verdict of a lowered ruleset is that of the ruleset it was made from (tests/property/ruleset).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from calico_engine.ruleset.actions import Chains
from calico_engine.ruleset.ir import (
    ChainKey,
    Family,
    Hook,
    Layer,
    NetIn,
    NetInAny,
    PortIn,
    PortOrNamedPort,
    Rule,
    Ruleset,
)
from calico_engine.ruleset.lower_blocks import (
    MAX_EXPRESSIONS,
    NativeRuleLowering,
    RuleLowering,
    count_expressions,
)
from calico_engine.ruleset.lower_dispatch import lower_dispatch
from calico_engine.ruleset.lower_ports import MULTIPORT_SLOTS
from calico_engine.ruleset.marks import allocate_marks
from calico_engine.settings import FelixSettings, Layout

#: So many fit into a rule of nftables whatever they are.
_FEW_MATCHES = 8


def lower_rules(rules: Sequence[Rule], settings: FelixSettings, family: Family) -> tuple[Rule, ...]:
    """Rewrite one chain's rules to what the layout's tool can express, but for DispatchByInterface."""
    native = settings.layout is Layout.NATIVE
    needs_lowering = _needs_native_lowering if native else _needs_lowering
    if not any(map(needs_lowering, rules)):
        return tuple(rules)
    marks = allocate_marks(settings)
    lowering = NativeRuleLowering if native else RuleLowering
    lowered: list[Rule] = []
    for rule in rules:
        if needs_lowering(rule):
            lowered += lowering(rule, marks).lower()
        else:
            lowered.append(rule)
    return tuple(lowered)


def _needs_lowering(rule: Rule) -> bool:
    """Tell at once, for most rules, that iptables can say them as they are; may say yes where it need not."""
    nets = 0
    for match in rule.matches:
        kind = type(match)
        if kind is NetInAny or kind is PortOrNamedPort:
            return True
        if kind is NetIn:
            nets += 1
        elif isinstance(match, PortIn) and 2 * len(match.ports) > MULTIPORT_SLOTS:
            return True
    return nets > 1


def _needs_native_lowering(rule: Rule) -> bool:
    """Tell whether nftables takes more than one rule, or more than one match, for a match of this rule."""
    return any(
        isinstance(match, NetInAny | PortOrNamedPort) or (isinstance(match, PortIn) and len(match.ports) > 1)
        for match in rule.matches
    ) or (len(rule.matches) > _FEW_MATCHES and count_expressions(rule.matches) > MAX_EXPRESSIONS)


def lower_chains(
    chains: Mapping[ChainKey, tuple[Rule, ...]], settings: FelixSettings, family: Family
) -> Chains:
    """Rewrite chains to what the tool can express; without verdict maps a dispatch becomes a tree of chains."""
    native = settings.layout is Layout.NATIVE
    lowered: Chains = {}
    done: dict[int, tuple[Rule, ...]] = {}
    for key, rules in chains.items():
        # Two layers' chains may be one and the same object.
        before = done.get(id(rules))
        if before is not None:
            lowered[key] = before
            continue
        tree = {key: rules} if native else lower_dispatch(key, rules)
        for name, tree_rules in tree.items():
            lowered[name] = lower_rules(tree_rules, settings, family)
        if len(tree) == 1:
            done[id(rules)] = lowered[key]
    return lowered


def lower(ruleset: Ruleset, settings: FelixSettings) -> Ruleset:
    """Rewrite a whole ruleset to what the layout's tool can express."""

    def lower_hooks(
        hooks: Mapping[tuple[Layer, Hook], tuple[Rule, ...]],
    ) -> dict[tuple[Layer, Hook], tuple[Rule, ...]]:
        return {hook: lower_rules(rules, settings, ruleset.family) for hook, rules in hooks.items()}

    return Ruleset(
        family=ruleset.family,
        chains=lower_chains(ruleset.chains, settings, ruleset.family),
        hooks=lower_hooks(ruleset.hooks),
        appends=lower_hooks(ruleset.appends),
        sets=ruleset.sets,
        verdict_tables=ruleset.verdict_tables,
        identities=ruleset.identities,
        sources=ruleset.sources,
        interfaces=ruleset.interfaces,
    )
