"""Sets as the kernel has them: one family each, with the fixed sets of pools and hosts."""

from __future__ import annotations

from calico_engine.messages import SetKind
from calico_engine.ruleset.ir import Family, SetData
from calico_engine.ruleset.state import DesiredState
from calico_engine.settings import FelixSettings


def family_members(members: frozenset[str] | set[str], kind: SetKind, family: Family) -> frozenset[str]:
    """Return those members that are of this family."""
    raise NotImplementedError


def compile_sets(state: DesiredState, settings: FelixSettings, family: Family) -> dict[str, SetData]:
    """Return every set by id: those of selectors and services, and the fixed ones."""
    raise NotImplementedError


def compile_fixed_sets(state: DesiredState, settings: FelixSettings, family: Family) -> dict[str, SetData]:
    """Return the sets of pools, of pools to masquerade, of hosts and of VXLAN peers."""
    raise NotImplementedError
