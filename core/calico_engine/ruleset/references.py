"""Which chains and sets rules refer to; what stands in for one that is missing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from calico_engine.ruleset.ir import ChainKey, Hook, Layer, Rule


def referenced_chains(rules: Iterable[Rule]) -> set[str]:
    """Return names of chains (of the same layer) these rules jump, go or dispatch to."""
    raise NotImplementedError


def referenced_sets(rules: Iterable[Rule]) -> set[str]:
    """Return ids of the sets these rules look up."""
    raise NotImplementedError


def reachable(
    chains: Mapping[ChainKey, tuple[Rule, ...]], hooks: Mapping[tuple[Layer, Hook], tuple[Rule, ...]]
) -> set[ChainKey]:
    """Return the chains a packet can get to from the hooks, missing ones included."""
    raise NotImplementedError


def stub_rules(key: ChainKey) -> tuple[Rule, ...]:
    """Return what stands in for a chain that is referred to and absent: nothing for a profile, else a drop."""
    raise NotImplementedError
