"""Everything for one family in one call: what render, tests and the interpreter work on."""

from __future__ import annotations

from calico_engine.ruleset.ir import Family, Ruleset
from calico_engine.ruleset.state import DesiredState
from calico_engine.settings import FelixSettings


def compile_world(state: DesiredState, settings: FelixSettings, family: Family) -> Ruleset:
    """Return all chains, hooks and sets of one family, not yet lowered to any backend."""
    raise NotImplementedError
