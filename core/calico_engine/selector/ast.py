"""The parsed form of a selector, as immutable nodes.

Closed union `Node`; every walk over it ends in assert_never, so that a new node makes the type checker
point at each walk. Nodes are built by the parser only: it keeps Not(Not(x)) and one-operand And/Or from
existing, so that the canonical form parses to the same tree again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias, assert_never

import msgspec

Predicate: TypeAlias = Callable[[Mapping[str, str]], bool]


class Equal(msgspec.Struct, frozen=True, gc=False):
    """`label == 'value'`."""

    label: str
    value: str


class NotEqual(msgspec.Struct, frozen=True, gc=False):
    """`label != 'value'`; true as well where the label is missing."""

    label: str
    value: str


class In(msgspec.Struct, frozen=True, gc=False):
    """`label in {'a', 'b'}`; values sorted, without repeats."""

    label: str
    values: tuple[str, ...]


class NotIn(msgspec.Struct, frozen=True, gc=False):
    """`label not in {'a', 'b'}`; true as well where the label is missing."""

    label: str
    values: tuple[str, ...]


class Contains(msgspec.Struct, frozen=True, gc=False):
    """`label contains 'part'`."""

    label: str
    value: str


class StartsWith(msgspec.Struct, frozen=True, gc=False):
    """`label starts with 'part'`."""

    label: str
    value: str


class EndsWith(msgspec.Struct, frozen=True, gc=False):
    """`label ends with 'part'`."""

    label: str
    value: str


class Has(msgspec.Struct, frozen=True, gc=False):
    """`has(label)`."""

    label: str


class All(msgspec.Struct, frozen=True, gc=False):
    """`all()`, and the empty text."""


class Global(msgspec.Struct, frozen=True, gc=False):
    """`global()`: true for every item; those who select namespaces give it its narrower meaning."""


class Not(msgspec.Struct, frozen=True, gc=False):
    """`!x`; x is never a Not."""

    operand: Node


class And(msgspec.Struct, frozen=True, gc=False):
    """`(x && y && ...)`; two operands or more."""

    operands: tuple[Node, ...]


class Or(msgspec.Struct, frozen=True, gc=False):
    """`(x || y || ...)`; two operands or more."""

    operands: tuple[Node, ...]


Node: TypeAlias = (
    Equal | NotEqual | In | NotIn | Contains | StartsWith | EndsWith | Has | All | Global | Not | And | Or
)


def render_canonical(node: Node) -> str:
    """Return the one text that stands for this tree; unique ids are made from it.

    Source: libcalico-go/lib/selector/parser/ast.go. One difference: the reference prints `!(!x)` as `!!x` but
    reads `!!x` as `x`; here both are `x`, so that the canonical form is a fixed point.
    """
    match node:
        case Equal(label, value):
            return f"{label} == {_quote(value)}"
        case NotEqual(label, value):
            return f"{label} != {_quote(value)}"
        case In(label, values):
            return f"{label} in {{{', '.join(map(_quote, values))}}}"
        case NotIn(label, values):
            return f"{label} not in {{{', '.join(map(_quote, values))}}}"
        case Contains(label, value):
            return f"{label} contains {_quote(value)}"
        case StartsWith(label, value):
            return f"{label} starts with {_quote(value)}"
        case EndsWith(label, value):
            return f"{label} ends with {_quote(value)}"
        case Has(label):
            return f"has({label})"
        case All():
            return "all()"
        case Global():
            return "global()"
        case Not(operand):
            return "!" + render_canonical(operand)
        case And(operands):
            return f"({' && '.join([render_canonical(operand) for operand in operands])})"
        case Or(operands):
            return f"({' || '.join([render_canonical(operand) for operand in operands])})"
        case _:
            assert_never(node)


def _quote(value: str) -> str:
    # There is no escape: a value holds one kind of quote at most.
    return f"'{value}'" if '"' in value else f'"{value}"'


def compile_predicate(node: Node) -> Predicate:
    """Return a function of labels that is true where the selector matches."""
    match node:
        case Equal(label, value):
            return lambda labels: labels.get(label) == value
        case NotEqual(label, value):
            return lambda labels: labels.get(label) != value
        case In(label, values):
            allowed = frozenset(values)
            return lambda labels: labels.get(label) in allowed
        case NotIn(label, values):
            denied = frozenset(values)
            return lambda labels: labels.get(label) not in denied
        case Contains(label, value):
            return lambda labels: (found := labels.get(label)) is not None and value in found
        case StartsWith(label, value):
            return lambda labels: (found := labels.get(label)) is not None and found.startswith(value)
        case EndsWith(label, value):
            return lambda labels: (found := labels.get(label)) is not None and found.endswith(value)
        case Has(label):
            return lambda labels: label in labels
        case All() | Global():
            return lambda labels: True
        case Not(operand):
            inner = compile_predicate(operand)
            return lambda labels: not inner(labels)
        case And(operands):
            return _compile_and([compile_predicate(operand) for operand in operands])
        case Or(operands):
            return _compile_or([compile_predicate(operand) for operand in operands])
        case _:
            assert_never(node)


def _compile_and(parts: list[Predicate]) -> Predicate:
    if len(parts) == 2:
        left, right = parts
        return lambda labels: left(labels) and right(labels)

    def every(labels: Mapping[str, str]) -> bool:
        for part in parts:  # noqa: SIM110  a loop is twice as quick as all() over a generator
            if not part(labels):
                return False
        return True

    return every


def _compile_or(parts: list[Predicate]) -> Predicate:
    if len(parts) == 2:
        left, right = parts
        return lambda labels: left(labels) or right(labels)

    def some(labels: Mapping[str, str]) -> bool:
        for part in parts:  # noqa: SIM110  a loop is twice as quick as any() over a generator
            if part(labels):
                return True
        return False

    return some


def collect_labels(node: Node) -> frozenset[str]:
    """Return the names of all labels the selector looks at."""
    match node:
        case All() | Global():
            return frozenset()
        case Not(operand):
            return collect_labels(operand)
        case And(operands) | Or(operands):
            return frozenset().union(*[collect_labels(operand) for operand in operands])
        case _:
            return frozenset((node.label,))


def rewrite_labels(node: Node, rename: Callable[[str], str]) -> Node:
    """Return the same selector with every label name passed through `rename`."""
    match node:
        case All() | Global():
            return node
        case Not(operand):
            return Not(rewrite_labels(operand, rename))
        case And(operands):
            return And(tuple([rewrite_labels(operand, rename) for operand in operands]))
        case Or(operands):
            return Or(tuple([rewrite_labels(operand, rename) for operand in operands]))
        case _:
            return msgspec.structs.replace(node, label=rename(node.label))
