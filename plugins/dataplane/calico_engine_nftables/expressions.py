"""Rules as nftables' expressions: the kernel's own bytes for rules of the IR.

Pure. One rule of the IR is one or more of the kernel's, or none at all where no packet can match. What repeats from
rule to rule is kept.
"""

from __future__ import annotations

from functools import lru_cache

from calico_engine.ruleset.ir import ChainKey, Classify, Family, Log, Nflog, Op, PortOrNamedPort, Rule
from calico_engine_nftables import words
from calico_engine_nftables.lookups import classify
from calico_engine_nftables.matches import alternatives
from calico_engine_nftables.operations import operation


def rule_bytes(rule: Rule, key: ChainKey, family: Family, *, counter: bool = True) -> tuple[bytes, ...]:
    """Return the kernel's rules for a rule in a chain, each as the value of NFTA_RULE_EXPRESSIONS.

    Raises: ValueError for what nftables has no words for; ruleset.lower with Layout.NATIVE leaves nothing of it.
    """
    if isinstance(rule.op, Log | Nflog) and any(isinstance(match, PortOrNamedPort) for match in rule.matches):
        raise ValueError(f"{rule.op} with named ports: lower the rule first, or a packet is logged twice")
    ends = _ends(rule.op, key, family, counter)
    return tuple([start + end for start in alternatives(rule.matches, family) for end in ends])


@lru_cache(maxsize=1 << 14)
def _ends(op: Op, key: ChainKey, family: Family, counter: bool) -> tuple[bytes, ...]:  # noqa: FBT001  for the cache
    """Return what follows a rule's matches. A counter stands before a lookup, which does not come back."""
    count = words.COUNTER if counter else b""
    ends = classify(op, family) if isinstance(op, Classify) else (operation(op, key, family),)
    return tuple(count + end for end in ends)
