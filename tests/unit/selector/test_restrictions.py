"""What an index may conclude from a selector."""

from __future__ import annotations

import pytest

from calico_engine.selector import LabelRestriction, parse

PRESENT = LabelRestriction(must_be_present=True)
ABSENT = LabelRestriction(must_be_absent=True)


def one_of(*values: str) -> LabelRestriction:
    return LabelRestriction(must_be_present=True, values=frozenset(values))


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("all()", {}),
        ("global()", {}),
        ("a == 'x'", {"a": one_of("x")}),
        ("a != 'x'", {}),
        ("!(a != 'x')", {"a": one_of("x")}),
        ("!(a == 'x')", {}),
        ("a in {'x', 'y'}", {"a": one_of("x", "y")}),
        ("a not in {'x'}", {}),
        ("!(a not in {'x', 'y'})", {"a": one_of("x", "y")}),
        ("has(a)", {"a": PRESENT}),
        ("!has(a)", {"a": ABSENT}),
        ("a contains 'x'", {"a": PRESENT}),
        ("a starts with 'x' && b ends with 'y'", {"a": PRESENT, "b": PRESENT}),
        ("!(a contains 'x')", {}),
        ("a == 'x' && has(b)", {"a": one_of("x"), "b": PRESENT}),
        ("a in {'x', 'y'} && a in {'y', 'z'}", {"a": one_of("y")}),
        ("has(a) && a == 'x'", {"a": one_of("x")}),
        ("a == 'x' || a == 'y'", {"a": one_of("x", "y")}),
        ("a == 'x' || has(a)", {"a": PRESENT}),
        ("a == 'x' || b == 'y'", {}),
        ("a == 'x' && b == 'y' || a == 'z'", {"a": one_of("x", "z")}),
        ("!has(a) || !has(a) && has(b)", {"a": ABSENT}),
        ("!has(a) || has(a)", {}),
        ("!(has(a) || has(b))", {"a": ABSENT, "b": ABSENT}),
        ("!(a != 'x' || b != 'y')", {"a": one_of("x"), "b": one_of("y")}),
        ("!all() || a == 'x'", {"a": one_of("x")}),
        ("a == 'x' && a == 'y' || b == 'z'", {"b": one_of("z")}),
    ],
)
def test_restrictions(text: str, labels: dict[str, LabelRestriction]) -> None:
    found = parse(text).restrictions

    assert found.labels == labels
    assert not found.impossible


@pytest.mark.parametrize(
    "text",
    [
        "!all()",
        "!global()",
        "a in {}",
        "a == 'x' && a == 'y'",
        "has(a) && !has(a)",
        "!all() || a in {}",
        "!all() && has(a)",
        "!(has(a) || !has(a))",
    ],
)
def test_impossible(text: str) -> None:
    assert parse(text).restrictions.impossible
