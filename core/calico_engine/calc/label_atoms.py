"""What a selector looks at, label by label: presence, certain values, or the whole value.

Two label values are the same to every selector when none mentions either and none looks inside: the label index
uses this to treat them alike.
"""

from __future__ import annotations

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


class Atoms(msgspec.Struct):
    """What one selector looks at in one label: the values it mentions, and whether it looks inside any value."""

    values: set[str] = msgspec.field(default_factory=set)
    whole: bool = False


class TrackedLabel:
    """What all current selectors together look at in one label, counted."""

    __slots__ = ("users", "values", "whole")

    def __init__(self) -> None:
        self.users = 0
        self.values: dict[str, int] = {}
        self.whole = 0

    def add(self, atoms: Atoms) -> tuple[set[str], bool]:
        """Count a selector in. Returns the values that are mentioned for the first time, and whether
        looking inside is new."""
        self.users += 1
        added = {value for value in atoms.values if value not in self.values}
        for value in atoms.values:
            self.values[value] = self.values.get(value, 0) + 1
        newly_whole = atoms.whole and not self.whole
        self.whole += atoms.whole
        return added, newly_whole

    def remove(self, atoms: Atoms) -> None:
        """Count a selector out."""
        self.users -= 1
        self.whole -= atoms.whole
        for value in atoms.values:
            if self.values[value] == 1:
                del self.values[value]
            else:
                self.values[value] -= 1


def collect_atoms(node: Node) -> dict[str, Atoms]:
    """Return what a selector looks at, by label name."""
    found: dict[str, Atoms] = {}
    _collect(node, found)
    return found


def _collect(node: Node, found: dict[str, Atoms]) -> None:
    match node:
        case Equal(label, value) | NotEqual(label, value):
            _atoms(found, label).values.add(value)
        case In(label, values) | NotIn(label, values):
            _atoms(found, label).values.update(values)
        case Contains(label) | StartsWith(label) | EndsWith(label):
            _atoms(found, label).whole = True
        case Has(label):
            _atoms(found, label)
        case All() | Global():
            pass
        case Not(operand):
            _collect(operand, found)
        case And(operands) | Or(operands):
            for operand in operands:
                _collect(operand, found)
        case _:
            assert_never(node)


def _atoms(found: dict[str, Atoms], label: str) -> Atoms:
    return found.setdefault(label, Atoms())
