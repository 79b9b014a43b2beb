"""The words of rules, kept from when their hashes are made until they are written: spelling is most of the work.

Pure.
"""

from __future__ import annotations

from collections.abc import Sequence

from calico_engine.ruleset.ir import Family, Rule
from calico_engine.settings import Layout
from calico_engine_iptables.words import fragments, hash_words

_MAX_RULES = 50_000


class Spelling:
    """Words by hashes, which say as much: equal hashes are of equal words."""

    def __init__(self, family: Family) -> None:
        self._family = family
        self._words: dict[tuple[str, ...], list[str]] = {}
        self._rule_count = 0

    def hashes(self, chain: str, rules: Sequence[Rule], layout: Layout) -> tuple[str, ...]:
        """Return the hashes of a chain's rules, and keep their words."""
        words = [fragments(rule, self._family, layout) for rule in rules]
        hashes = tuple(hash_words(chain, words))
        if self._rule_count > _MAX_RULES:
            self.forget()
        self._words[hashes] = words
        self._rule_count += len(words)
        return hashes

    def words(self, rules: Sequence[Rule], hashes: tuple[str, ...], layout: Layout) -> list[str]:
        """Return the words of a chain's rules."""
        known = self._words.get(hashes)
        return known if known is not None else [fragments(rule, self._family, layout) for rule in rules]

    def forget(self) -> None:
        """What was to be written has been."""
        self._words = {}
        self._rule_count = 0
