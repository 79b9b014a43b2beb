"""The Selector object and the cache in front of the parser.

Selectors are values: equal when their canonical forms are. What costs time (predicate, unique id,
restrictions) is made on first use and kept, and `parse` gives the same object for the same text while its
cache holds it.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from functools import cached_property, lru_cache

from calico_engine.selector.ast import (
    Node,
    Predicate,
    collect_labels,
    compile_predicate,
    render_canonical,
    rewrite_labels,
)
from calico_engine.selector.parser import parse_tree
from calico_engine.selector.restrictions import Restrictions, resolve_restrictions

_CACHED_TEXT_CHARS = 1024
_CACHED_SELECTORS = 32_768


class Selector:
    """A parsed selector. Immutable; equal and hashed by `canonical`."""

    def __init__(self, ast: Node) -> None:
        self.ast = ast

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Return whether an item with these labels is selected."""
        return self.predicate(labels)

    @cached_property
    def predicate(self) -> Predicate:
        """`matches` as a bare function, for loops."""
        return compile_predicate(self.ast)

    @cached_property
    def canonical(self) -> str:
        """The one text that stands for this selector."""
        return render_canonical(self.ast)

    @cached_property
    def uid(self) -> str:
        """`s:` and 38 characters that name this selector, from which kernel set names are made."""
        digest = hashlib.sha224(b"s:" + self.canonical.encode()).digest()
        return "s:" + base64.urlsafe_b64encode(digest).rstrip(b"=").decode()

    @cached_property
    def labels_used(self) -> frozenset[str]:
        """Names of all labels the selector looks at."""
        return collect_labels(self.ast)

    @cached_property
    def restrictions(self) -> Restrictions:
        """What labels an item must have to be matched at all; for pruning in an index."""
        return resolve_restrictions(self.ast)

    def with_prefix(self, prefix: str) -> Selector:
        """Return the selector that looks at `prefix` + label wherever this one looks at a label."""
        return Selector(rewrite_labels(self.ast, lambda label: prefix + label))

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Selector) and self.canonical == other.canonical)

    def __hash__(self) -> int:
        return hash(self.canonical)

    def __str__(self) -> str:
        return self.canonical

    def __repr__(self) -> str:
        return f"Selector({self.canonical!r})"


def parse(text: str) -> Selector:
    """Return the selector a text stands for; the empty text is all().

    Raises: SelectorSyntaxError with the offset of the first wrong character.
    """
    # Long texts stay out of the cache, so that hostile ones cannot fill memory.
    return _parse_cached(text) if len(text) <= _CACHED_TEXT_CHARS else Selector(parse_tree(text))


@lru_cache(maxsize=_CACHED_SELECTORS)
def _parse_cached(text: str) -> Selector:
    return Selector(parse_tree(text))


ALL = parse("all()")
NOTHING = parse("!all()")
