"""Tokens to tree, by recursive descent.

    or-expression   = and-expression { "||" and-expression }
    and-expression  = operation { "&&" operation }
    operation       = { "!" } ( label op value | has(label) | all() | global() | "(" or-expression ")" )

Contract: an empty text is all(). Only parentheses nest, and no deeper than MAX_DEPTH, so that neither this
parser nor any later walk over the tree comes near the interpreter's recursion limit.
Source: libcalico-go/lib/selector/parser.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from calico_engine.errors import SelectorSyntaxError
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
from calico_engine.selector.tokenizer import MAX_LABEL_CHARS, OPERATORS, Kind, Token, tokenize

MAX_DEPTH = 100

_STRING_OPERATORS: dict[Kind, Callable[[str, str], Node]] = {
    Kind.EQUAL: Equal,
    Kind.NOT_EQUAL: NotEqual,
    Kind.CONTAINS: Contains,
    Kind.STARTS_WITH: StartsWith,
    Kind.ENDS_WITH: EndsWith,
}
_SET_OPERATORS: dict[Kind, Callable[[str, tuple[str, ...]], Node]] = {Kind.IN: In, Kind.NOT_IN: NotIn}


# Most selectors of a large cluster are one comparison: read here in a tenth of the time.
_COMPARISON = re.compile(r"([A-Za-z0-9_./-]+) *== *(?:'([^']*)'|\"([^\"]*)\")", re.ASCII)


def parse_tree(text: str) -> Node:
    """Return the tree of a selector's text.

    Raises: SelectorSyntaxError, pointing at the first token that cannot stand where it is.
    """
    if text.isascii() and len(text) < MAX_LABEL_CHARS and (found := _COMPARISON.fullmatch(text)):
        label, single, double = found.groups()
        return Equal(label, double if single is None else single)
    return _Parser(text).parse()


class _Parser:
    """One pass over one text's tokens."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = tokenize(text)
        self._next = 0
        self._depth = 0

    def parse(self) -> Node:
        if self._tokens[0].kind is Kind.END:
            return All()
        node = self._or_expression()
        token = self._tokens[self._next]
        if token.kind is not Kind.END:
            raise self._error(token, f"expected && or || or the end, found {token.kind.value}")
        return node

    def _or_expression(self) -> Node:
        operands = [self._and_expression()]
        while self._take_if(Kind.OR):
            operands.append(self._and_expression())
        return operands[0] if len(operands) == 1 else Or(tuple(operands))

    def _and_expression(self) -> Node:
        operands = [self._operation()]
        while self._take_if(Kind.AND):
            operands.append(self._operation())
        return operands[0] if len(operands) == 1 else And(tuple(operands))

    def _operation(self) -> Node:
        negated = False
        while self._take_if(Kind.NOT):
            negated = not negated
        node = self._positive_operation()
        if not negated:
            return node
        return node.operand if isinstance(node, Not) else Not(node)

    def _positive_operation(self) -> Node:
        token = self._take()
        match token.kind:
            case Kind.HAS:
                return Has(token.text)
            case Kind.ALL:
                return All()
            case Kind.GLOBAL:
                return Global()
            case Kind.LABEL:
                return self._comparison(token.text)
            case Kind.LEFT_PAREN:
                return self._group(token)
            case _:
                raise self._error(
                    token, f"expected a label name, has(), all(), global(), ! or (, found {token.kind.value}"
                )

    def _group(self, opening: Token) -> Node:
        if self._depth == MAX_DEPTH:
            raise self._error(opening, f"parentheses nest deeper than {MAX_DEPTH}")
        self._depth += 1
        node = self._or_expression()
        self._depth -= 1
        self._expect(Kind.RIGHT_PAREN)
        return node

    def _comparison(self, label: str) -> Node:
        operator = self._take()
        if (compare := _STRING_OPERATORS.get(operator.kind)) is not None:
            return compare(label, self._expect(Kind.STRING).text)
        if (choose := _SET_OPERATORS.get(operator.kind)) is not None:
            return choose(label, self._set())
        raise self._error(operator, f"expected an operator after label {label!r}: {OPERATORS}")

    def _set(self) -> tuple[str, ...]:
        """Read `{'a', 'b'}`; may be empty, may end with a comma."""
        values: set[str] = set()
        self._expect(Kind.LEFT_BRACE)
        while self._tokens[self._next].kind is Kind.STRING:
            values.add(self._take().text)
            if not self._take_if(Kind.COMMA):
                break
        self._expect(Kind.RIGHT_BRACE)
        return tuple(sorted(values))

    def _take(self) -> Token:
        token = self._tokens[self._next]
        if token.kind is not Kind.END:
            self._next += 1
        return token

    def _take_if(self, kind: Kind) -> bool:
        if self._tokens[self._next].kind is not kind:
            return False
        self._next += 1
        return True

    def _expect(self, kind: Kind) -> Token:
        token = self._take()
        if token.kind is not kind:
            raise self._error(token, f"expected {kind.value}, found {token.kind.value}")
        return token

    def _error(self, token: Token, reason: str) -> SelectorSyntaxError:
        return SelectorSyntaxError(self._text, token.offset_chars, reason)
