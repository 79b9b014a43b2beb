"""Selectors against an independent reading of the grammar, over generated trees, labels and garbage."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calico_engine.errors import SelectorSyntaxError
from calico_engine.selector import Selector, parse

LABELS = st.sampled_from(["a", "b", "in", "not", "x/y.z-_0"])
VALUES = st.sampled_from(["", "x", "xy", "yx", "it's", 'say "hi"', "ü", "line\nbreak"])
SPACES = st.sampled_from(["", " ", "\t ", "  "])
ITEMS = st.dictionaries(LABELS, VALUES, max_size=5)

# A tree here is (text, function of labels): the function is written down beside the text, not read from it.
Tree = tuple[str, Any]


def quote(value: str) -> str:
    return f"'{value}'" if "'" not in value else f'"{value}"'


@st.composite
def leaves(draw: st.DrawFn) -> Tree:
    label, value, s = draw(LABELS), draw(VALUES), draw(SPACES)
    values = draw(st.lists(VALUES, max_size=3))
    braces = "{" + f"{s},".join(s + quote(each) for each in values) + s + "}"
    tree: Tree = draw(
        st.sampled_from(
            [
                (f"{label}{s}=={s}{quote(value)}", lambda item: label in item and item[label] == value),
                (f"{label}{s}!={s}{quote(value)}", lambda item: label not in item or item[label] != value),
                (f"{label} in{s}{braces}", lambda item: label in item and item[label] in values),
                (f"{label} not{s}in{s}{braces}", lambda item: label not in item or item[label] not in values),
                (f"{label} contains{s}{quote(value)}", lambda item: label in item and value in item[label]),
                (
                    f"{label} starts{s}with{s}{quote(value)}",
                    lambda item: label in item and item[label][: len(value)] == value,
                ),
                (
                    f"{label} ends{s}with{s}{quote(value)}",
                    lambda item: (
                        label in item and item[label][len(item[label]) - len(value) :] == value
                        if len(value) <= len(item.get(label, ""))
                        else False
                    ),
                ),
                (f"has({s}{label}{s})", lambda item: label in item),
                (f"all({s})", lambda item: True),
                (f"global({s})", lambda item: True),
            ]
        )
    )

    return tree


def grow(children: st.SearchStrategy[Tree]) -> st.SearchStrategy[Tree]:
    def negate(tree: Tree, space: str) -> Tree:
        return f"!{space}({tree[0]})", lambda item: not tree[1](item)

    def join(trees: list[Tree], operator: str, space: str) -> Tree:
        text = f"{space}{operator}{space}".join(f"({tree[0]})" for tree in trees)
        rule = all if operator == "&&" else any
        return text, lambda item: rule(tree[1](item) for tree in trees)

    return st.one_of(
        st.builds(negate, children, SPACES),
        st.builds(join, st.lists(children, min_size=2, max_size=4), st.sampled_from(["&&", "||"]), SPACES),
    )


def try_parse(text: str) -> tuple[Selector | None, SelectorSyntaxError | None]:
    try:
        return parse(text), None
    except SelectorSyntaxError as error:
        return None, error


TREES = st.recursive(leaves(), grow, max_leaves=12)


@given(TREES, st.lists(ITEMS, min_size=1, max_size=8))
def test_evaluation_equals_the_meaning_written_beside_the_text(
    tree: Tree, items: list[dict[str, str]]
) -> None:
    text, meaning = tree
    selector = parse(text)

    for item in items:
        assert selector.matches(item) is bool(meaning(item)), (text, item)


@given(TREES, st.lists(ITEMS, min_size=1, max_size=8))
def test_canonical_form_is_a_fixed_point_with_the_same_meaning(
    tree: Tree, items: list[dict[str, str]]
) -> None:
    selector = parse(tree[0])

    again = parse(selector.canonical)

    assert again.canonical == selector.canonical
    assert again.ast == selector.ast
    assert again.uid == selector.uid
    assert [again.matches(item) for item in items] == [selector.matches(item) for item in items]


@given(TREES, ITEMS)
def test_whatever_matches_satisfies_the_restrictions(tree: Tree, item: dict[str, str]) -> None:
    selector = parse(tree[0])
    demands = selector.restrictions

    if selector.matches(item):
        assert not demands.impossible
        for label, demand in demands.labels.items():
            assert not (demand.must_be_present and label not in item)
            assert not (demand.must_be_absent and label in item)
            assert demand.values is None or item[label] in demand.values


@given(TREES, ITEMS, LABELS, VALUES)
def test_labels_not_used_do_not_matter(tree: Tree, item: dict[str, str], label: str, value: str) -> None:
    selector = parse(tree[0])

    if label not in selector.labels_used:
        assert selector.matches({**item, label: value}) == selector.matches(item)


@given(
    st.one_of(st.text(), st.text(alphabet="ab'\"{}()!&|= ,\tinhas"), TREES.map(lambda tree: tree[0])),
    st.data(),
)
def test_garbage_parses_or_is_refused_with_an_offset_inside(text: str, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(text)))
    mangled = (
        text[:cut]
        + data.draw(st.sampled_from(["", "(", ")", "'", '"', "!", "&&", "a", " in ", "\x00"]))
        + text[cut:]
    )

    selector, error = try_parse(mangled)

    if error is not None:
        assert 0 <= error.offset_chars <= len(mangled)
        assert error.text == mangled
    else:
        assert selector is not None
        assert parse(selector.canonical) == selector


@given(st.text(alphabet=st.characters(categories=["Cs"]), min_size=1, max_size=3))
def test_lone_surrogates_are_refused(text: str) -> None:
    with pytest.raises(SelectorSyntaxError):
        parse(f"a == '{text}'")
