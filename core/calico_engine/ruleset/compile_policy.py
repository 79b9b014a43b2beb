"""A policy's or profile's rules as table rules, one chain per direction and layer."""

from __future__ import annotations

from calico_engine.messages import ActivePolicyUpdate, ActiveProfileUpdate
from calico_engine.ruleset.ir import ChainKey, Family, Rule
from calico_engine.settings import FelixSettings

Chains = dict[ChainKey, tuple[Rule, ...]]


def compile_policy(update: ActivePolicyUpdate, settings: FelixSettings, family: Family) -> Chains:
    """Return both directions' chains in every layer a policy of this kind may be jumped to from.

    Untracked: raw. Before DNAT: mangle. Others: filter and, for host endpoints, mangle. Chains nobody refers to
    need not be programmed: see references.reachable.
    """
    raise NotImplementedError


def compile_profile(update: ActiveProfileUpdate, settings: FelixSettings, family: Family) -> Chains:
    """Return both directions' chains, in filter and, for host endpoints, mangle."""
    raise NotImplementedError
