"""Chains by what makes them: several parts may make one and the same chain, which stays as long as any does.

Pure. A chain that must not go to the kernel is kept closed.
"""

from __future__ import annotations

from collections.abc import Mapping

from calico_engine.ruleset.ir import ChainKey, Drop, Family, Layer, Origin, Rule
from calico_engine.ruleset.verify import verify_chain
from calico_engine.tables.use_index import Part

Chains = Mapping[ChainKey, tuple[Rule, ...]]


class ChainStore:
    """The chains of one family. `faulty` are those that were closed."""

    def __init__(self, family: Family) -> None:
        self.chains: dict[ChainKey, tuple[Rule, ...]] = {}
        self.faulty: set[ChainKey] = set()
        self._family = family
        self._changed: set[ChainKey] = set()
        self._made: dict[Part, frozenset[ChainKey]] = {}
        self._makers: dict[ChainKey, set[Part]] = {}

    @property
    def parts(self) -> list[Part]:
        """The parts that make any chain."""
        return list(self._made)

    def makers(self, key: ChainKey) -> frozenset[Part]:
        """Return the parts that make a chain."""
        return frozenset(self._makers.get(key, ()))

    def take_changed(self) -> set[ChainKey]:
        """Return the keys of chains that were made, changed or dropped since the last call."""
        changed, self._changed = self._changed, set()
        return changed

    def replace(self, part: Part, chains: Chains) -> list[str]:
        """Put a part's chains in the place of those it made before; return what is wrong with them."""
        problems: list[str] = []
        before = self._made.get(part, frozenset())
        for key in before - chains.keys():
            makers = self._makers[key]
            makers.discard(part)
            if not makers:
                del self._makers[key], self.chains[key]
                self.faulty.discard(key)
                self._changed.add(key)
        for key, rules in chains.items():
            self._makers.setdefault(key, set()).add(part)
            if key in self.faulty or self.chains.get(key) != rules:
                problems += self._put(key, rules)
        if chains:
            self._made[part] = frozenset(chains)
        else:
            self._made.pop(part, None)
        return problems

    def _put(self, key: ChainKey, rules: tuple[Rule, ...]) -> list[str]:
        """Take over a chain that changed, closed if it must not go to the kernel; return what is wrong with it."""
        faults = verify_chain(key, rules, self._family)
        if faults:
            rules = closed_rules(key, "Not valid")
            self.faulty.add(key)
        else:
            self.faulty.discard(key)
        self.chains[key] = rules
        self._changed.add(key)
        return faults


def closed_rules(key: ChainKey, reason: str) -> tuple[Rule, ...]:
    """Return what a chain holds that must let nothing through. The nat layer may not drop: there it is empty."""
    if key.layer is Layer.NAT:
        return ()
    return (Rule((), Drop(), (reason,), Origin(note=reason)),)
