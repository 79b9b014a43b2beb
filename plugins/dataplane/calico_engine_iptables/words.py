"""Rules in iptables' words.

Pure. Three spellings of one rule: the long one that the hash covers (Felix's, so that hashes agree), the same as a
line for iptables-restore, and the one iptables-save prints back.
"""

from __future__ import annotations

from collections.abc import Sequence

from calico_engine.ruleset.ir import Family, Rule
from calico_engine.settings import Layout


def fragments(rule: Rule, family: Family, layout: Layout) -> str:
    """Return comments, matches and operation in the long spelling, without chain and hash."""
    raise NotImplementedError


def chain_hashes(chain: str, rules: Sequence[Rule], family: Family, layout: Layout) -> list[str]:
    """Return each rule's hash, in order. `chain` is the kernel's chain for rules of a hook."""
    raise NotImplementedError


def restore_line(chain: str, rule: Rule, rule_hash: str, family: Family, layout: Layout) -> str:
    """Return `-A chain -m comment --comment "cali:hash" ...` for iptables-restore, without a newline."""
    raise NotImplementedError


def save_line(chain: str, rule: Rule, rule_hash: str, family: Family, layout: Layout) -> str:
    """Return the rule as iptables-save prints it."""
    raise NotImplementedError
