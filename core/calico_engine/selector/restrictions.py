"""What a selector demands of labels, as far as an index can use it to prune.

Contract: sound, not complete. Whatever the selector matches satisfies the restrictions; something that
satisfies them need not match. A label without a restriction may be anything.
Source of the idea: libcalico-go/lib/selector/parser/ast.go (LabelRestrictions); here negation is carried
inward, so that `!(a != 'x' || b != 'y')` prunes like `a == 'x' && b == 'y'`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import assert_never

import msgspec

from calico_engine.selector.ast import (
    All,
    And,
    Contains,
    EndsWith,
    Equal,
    Global,
    Has,
    In,
    Node,
    Not,
    NotEqual,
    NotIn,
    Or,
    StartsWith,
)


class LabelRestriction(msgspec.Struct, frozen=True, gc=False):
    """Demands on one label; `values` None means any value will do."""

    must_be_present: bool = False
    must_be_absent: bool = False
    values: frozenset[str] | None = None

    @property
    def impossible(self) -> bool:
        """No label can satisfy this."""
        return self.must_be_present and (self.must_be_absent or (self.values is not None and not self.values))


class Restrictions(msgspec.Struct, frozen=True, gc=False):
    """Demands per label, all of which must hold; `impossible` when no item can ever match."""

    labels: Mapping[str, LabelRestriction] = {}
    impossible: bool = False


ANYTHING = Restrictions()
IMPOSSIBLE = Restrictions(impossible=True)


def resolve_restrictions(node: Node) -> Restrictions:
    """Return what every item matched by this selector has in common."""
    return _resolve(node, negated=False)


def _resolve(node: Node, *, negated: bool) -> Restrictions:
    match node:
        case Equal(label, value):
            return ANYTHING if negated else _one_of(label, (value,))
        case NotEqual(label, value):
            return _one_of(label, (value,)) if negated else ANYTHING
        case In(label, values):
            return ANYTHING if negated else _one_of(label, values)
        case NotIn(label, values):
            return _one_of(label, values) if negated else ANYTHING
        case Contains(label) | StartsWith(label) | EndsWith(label):
            return ANYTHING if negated else Restrictions({label: LabelRestriction(must_be_present=True)})
        case Has(label):
            return Restrictions(
                {label: LabelRestriction(must_be_present=not negated, must_be_absent=negated)}
            )
        case All() | Global():
            return IMPOSSIBLE if negated else ANYTHING
        case Not(operand):
            return _resolve(operand, negated=not negated)
        case And(operands) | Or(operands):
            parts = [_resolve(operand, negated=negated) for operand in operands]
            # De Morgan: a negated And is an Or of negations, and the other way round.
            return _every(parts) if isinstance(node, And) is not negated else _some(parts)
        case _:
            assert_never(node)


def _one_of(label: str, values: Sequence[str]) -> Restrictions:
    if not values:
        return IMPOSSIBLE
    return Restrictions({label: LabelRestriction(must_be_present=True, values=frozenset(values))})


def _every(parts: Sequence[Restrictions]) -> Restrictions:
    """Combine demands that must all hold."""
    labels: dict[str, LabelRestriction] = {}
    for part in parts:
        if part.impossible:
            return IMPOSSIBLE
        for label, demand in part.labels.items():
            known = labels.get(label)
            both = demand if known is None else _both(known, demand)
            if both.impossible:
                return IMPOSSIBLE
            labels[label] = both
    return Restrictions(labels)


def _some(parts: Sequence[Restrictions]) -> Restrictions:
    """Combine demands of which one must hold: only what all possible parts share is left."""
    possible = [part for part in parts if not part.impossible]
    if not possible:
        return IMPOSSIBLE
    labels = dict(possible[0].labels)
    for part in possible[1:]:
        for label in list(labels):
            other = part.labels.get(label)
            either = None if other is None else _either(labels[label], other)
            if either is None:
                del labels[label]
            else:
                labels[label] = either
    return Restrictions(labels)


def _both(left: LabelRestriction, right: LabelRestriction) -> LabelRestriction:
    values = left.values
    if right.values is not None:
        values = right.values if values is None else values & right.values
    return LabelRestriction(
        must_be_present=left.must_be_present or right.must_be_present,
        must_be_absent=left.must_be_absent or right.must_be_absent,
        values=values,
    )


def _either(left: LabelRestriction, right: LabelRestriction) -> LabelRestriction | None:
    """Return the weaker of two possible demands, None when together they demand nothing."""
    if left.must_be_absent and right.must_be_absent:
        return left
    if not (left.must_be_present and right.must_be_present):
        return None
    if left.values is None or right.values is None:
        return LabelRestriction(must_be_present=True)
    return LabelRestriction(must_be_present=True, values=left.values | right.values)
