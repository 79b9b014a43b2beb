"""Cut a selector's text into tokens that know their offset.

Contract: every character of the text belongs to a token or is a space or tab; anything else is a
SelectorSyntaxError. Whether a word is an operator depends on the token before it, because `in` and `contains`
are label names too.
Source: libcalico-go/lib/selector/tokenizer.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import NamedTuple

from calico_engine.errors import SelectorSyntaxError

MAX_SELECTOR_CHARS = 262_144
MAX_LABEL_CHARS = 512
OPERATORS = "==, !=, in, not in, contains, starts with, ends with"


class Kind(Enum):
    """What a token is; the value is how messages call it."""

    LABEL = "a label name"
    STRING = "a quoted string"
    LEFT_BRACE = "{"
    RIGHT_BRACE = "}"
    LEFT_PAREN = "("
    RIGHT_PAREN = ")"
    COMMA = ","
    EQUAL = "=="
    NOT_EQUAL = "!="
    IN = "in"
    NOT_IN = "not in"
    CONTAINS = "contains"
    STARTS_WITH = "starts with"
    ENDS_WITH = "ends with"
    NOT = "!"
    AND = "&&"
    OR = "||"
    HAS = "has()"
    ALL = "all()"
    GLOBAL = "global()"
    END = "the end"


class Token(NamedTuple):
    """One token; `text` is the label name or the string's content, else empty."""

    kind: Kind
    text: str
    offset_chars: int


_NAME = r"[A-Za-z0-9_./-]"
# The group names are those of Kind. `has(`, `all(` and `global(` must touch their parenthesis.
# Every token takes the space behind it along.
_TOKEN = re.compile(
    rf"""
    (?: (?P<LEFT_PAREN>\() | (?P<RIGHT_PAREN>\)) | (?P<LEFT_BRACE>\{{) | (?P<RIGHT_BRACE>\}}) | (?P<COMMA>,)
    | (?P<EQUAL>==) | (?P<NOT_EQUAL>!=) | (?P<NOT>!) | (?P<AND>&&) | (?P<OR>\|\|)
    | "(?P<STRING>[^"]*)" | '(?P<STRING1>[^']*)'
    | has\([ \t]*(?P<HAS>{_NAME}+)[ \t]*\)
    | (?P<ALL>all\([ \t]*\)) | (?P<GLOBAL>global\([ \t]*\))
    | (?P<LABEL>(?!(?:has|all|global)\(){_NAME}+) ) [ \t]*
    """,
    re.VERBOSE,
)
_OPERATOR = re.compile(
    rf"""
    (?: (?P<CONTAINS>contains) | (?P<STARTS_WITH>starts[ \t]*with) | (?P<ENDS_WITH>ends[ \t]*with)
      | (?P<NOT_IN>not[ \t]*in) | (?P<IN>in) ) (?!{_NAME}) [ \t]*
    """,
    re.VERBOSE,
)
_NAME_START = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_./-")
_KINDS = dict(Kind.__members__, STRING1=Kind.STRING)
_WITH_TEXT = frozenset((Kind.LABEL, Kind.STRING, Kind.HAS))
# What was begun, by how it begins, for messages.
_UNFINISHED = (
    ('"', 'the string has no closing "'),
    ("'", "the string has no closing '"),
    ("has(", "has( needs one label name and a closing )"),
    ("all(", "all( needs a closing )"),
    ("global(", "global( needs a closing )"),
    ("=", "expected =="),
    ("&", "expected &&"),
    ("|", "expected ||"),
)


def tokenize(text: str) -> list[Token]:
    """Return the tokens of a selector, ending with one of kind END.

    Raises: SelectorSyntaxError, also for text over MAX_SELECTOR_CHARS or not encodable as UTF-8.
    """
    if len(text) > MAX_SELECTOR_CHARS:
        raise SelectorSyntaxError(
            text, MAX_SELECTOR_CHARS, f"longer than {MAX_SELECTOR_CHARS} characters ({len(text)})"
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise SelectorSyntaxError(text, error.start, "not a Unicode character (lone surrogate)") from None
    tokens: list[Token] = []
    previous = Kind.END
    offset = len(text) - len(text.lstrip(" \t"))
    while offset < len(text):
        pattern = _OPERATOR if previous is Kind.LABEL and text[offset] in _NAME_START else _TOKEN
        found = pattern.match(text, offset)
        if found is None or found.lastgroup is None:
            raise SelectorSyntaxError(text, offset, _explain(text, offset, tokens))
        previous = _KINDS[found.lastgroup]
        value = found[found.lastgroup] if previous in _WITH_TEXT else ""
        if previous is not Kind.STRING and len(value) > MAX_LABEL_CHARS:
            raise SelectorSyntaxError(text, offset, f"label name longer than {MAX_LABEL_CHARS} characters")
        tokens.append(Token(previous, value, offset))
        offset = found.end()
    tokens.append(Token(Kind.END, "", len(text)))
    return tokens


def _explain(text: str, offset: int, tokens: list[Token]) -> str:
    """Say what is wrong where no token matches."""
    if tokens and tokens[-1].kind is Kind.LABEL and text[offset] in _NAME_START:
        return f"expected an operator after label {tokens[-1].text!r}: {OPERATORS}"
    for start, reason in _UNFINISHED:
        if text.startswith(start, offset):
            return reason
    return f"unexpected character {text[offset]!r}"
