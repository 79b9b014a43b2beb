"""What iptables cannot say in one rule, said in several: many nets, more than 15 ports, dispatch by interface."""

from __future__ import annotations

from collections.abc import Sequence

from calico_engine.ruleset.ir import ChainKey, Family, Rule, Ruleset
from calico_engine.settings import FelixSettings


def lower_rules(rules: Sequence[Rule], settings: FelixSettings, family: Family) -> tuple[Rule, ...]:
    """Rewrite one chain's rules to what iptables can express, but for DispatchByInterface."""
    raise NotImplementedError


def lower_chains(
    chains: dict[ChainKey, tuple[Rule, ...]], settings: FelixSettings, family: Family
) -> dict[ChainKey, tuple[Rule, ...]]:
    """Rewrite chains to what iptables can express; a dispatch becomes a tree of chains."""
    raise NotImplementedError


def lower(ruleset: Ruleset, settings: FelixSettings) -> Ruleset:
    """Rewrite a whole ruleset to what iptables can express."""
    raise NotImplementedError
