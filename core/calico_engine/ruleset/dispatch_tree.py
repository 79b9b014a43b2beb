"""The tree of chains that workload dispatch is lowered to, kept from one change of the interfaces to the next.

Pure. What it says is what lower_dispatch makes of compile_workload_dispatch; chains whose names stayed as they were are
the same objects as before, so that the work is that of the subtrees that changed (tests/property/ruleset).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from calico_engine.ruleset.actions import Chains
from calico_engine.ruleset.compile_dispatch import unknown_interface, workload_dispatch
from calico_engine.ruleset.ir import ChainKey, DispatchByInterface, Rule
from calico_engine.ruleset.lower_dispatch import common_prefix, lower_group
from calico_engine.settings import FelixSettings

#: Comes after every character that the name of an interface may have.
_LAST = "\U0010ffff"


class _Group:
    """The interfaces of one prefix: what of them is in the root chains, and the chains below."""

    __slots__ = ("below", "root")

    def __init__(self, prefix: str, common: str, members: Sequence[str], tail: tuple[Rule, ...]) -> None:
        self.root: dict[ChainKey, tuple[Rule, ...]] = {}
        self.below: Chains = {}
        for key, rule in workload_dispatch(members).items():
            assert isinstance(rule.op, DispatchByInterface)
            targets = rule.op.targets
            self.root[key], below = lower_group(key, rule, rule.op, targets, prefix, common, tail)
            self.below |= below


class DispatchTree:
    """Both dispatch chains of workloads, with all that hangs on them."""

    def __init__(self) -> None:
        self._names: frozenset[str] = frozenset()
        self._common = ""
        self._tail: tuple[Rule, ...] = ()
        self._groups: dict[str, _Group] = {}

    def compile(self, interfaces: Sequence[str], settings: FelixSettings) -> Chains:
        """Return the chains for these interfaces, which are sorted and may be matched on."""
        names = frozenset(interfaces)
        common = common_prefix(interfaces[0], interfaces[-1]) if interfaces else ""
        tail = (unknown_interface(settings),)
        if common != self._common or tail != self._tail:
            self._names, self._common, self._tail, self._groups = frozenset(), common, tail, {}
        for prefix in sorted({name[: len(common) + 1] for name in names ^ self._names}):
            start = bisect_left(interfaces, prefix)
            # A name that is no longer than what all have in common is no prefix of the others' groups.
            end = start + 1 if prefix == common else bisect_left(interfaces, prefix + _LAST)
            members = [name for name in interfaces[start:end] if name[: len(common) + 1] == prefix]
            if members:
                self._groups[prefix] = _Group(prefix, common, members, tail)
            else:
                self._groups.pop(prefix, None)
        self._names = names
        groups = [self._groups[prefix] for prefix in sorted(self._groups)]
        chains: Chains = {}
        for group in groups:
            chains |= group.below
        for key in workload_dispatch(()):
            chains[key] = (*(rule for group in groups for rule in group.root[key]), *tail)
        return chains
