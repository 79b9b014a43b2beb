"""Selector text to selector: what parses, what it prints as, what it matches, what is refused and where."""

from __future__ import annotations

import pytest

from calico_engine.errors import ResourceError, SelectorSyntaxError
from calico_engine.selector import MAX_LABEL_CHARS, MAX_SELECTOR_CHARS, parse

CANONICAL = {
    "": "all()",
    " \t ": "all()",
    "all( )": "all()",
    "global()": "global()",
    "a=='b'": 'a == "b"',
    """a == 'say "hi"'""": """a == 'say "hi"'""",
    '''a == "it's"''': '''a == "it's"''',
    "a != ''": 'a != ""',
    "has( a/b.c-d_e )": "has(a/b.c-d_e)",
    "! ! has(a)": "has(a)",
    "!(!has(a))": "has(a)",
    "!!!has(a)": "!has(a)",
    "a in {'y','x','y'}": 'a in {"x", "y"}',
    "a in{'x',}": 'a in {"x"}',
    "a in {}": "a in {}",
    "a not in {'x'}": 'a not in {"x"}',
    "a notin {'x'}": 'a not in {"x"}',
    "a contains 'x'": 'a contains "x"',
    "a startswith 'x'": 'a starts with "x"',
    "a ends \t with'x'": 'a ends with "x"',
    "has(a)&&has(b)||has(c)": "((has(a) && has(b)) || has(c))",
    "has(a)&&(has(b)||has(c))": "(has(a) && (has(b) || has(c)))",
    "!has(a) && has(b)": "(!has(a) && has(b))",
    "!(has(a) && has(b))": "!(has(a) && has(b))",
    "((has(a)))": "has(a)",
    "has(a)&&has(b)&&has(c)": "(has(a) && has(b) && has(c))",
    "in == 'x' && contains in {'y'} && has(not)": '(in == "x" && contains in {"y"} && has(not))',
    "all == 'x' || has == 'y' || global == 'z'": '(all == "x" || has == "y" || global == "z")',
}


@pytest.mark.parametrize(("text", "canonical"), CANONICAL.items())
def test_canonical_form(text: str, canonical: str) -> None:
    assert parse(text).canonical == canonical
    assert parse(canonical).canonical == canonical


@pytest.mark.parametrize(
    ("text", "uid_start"),
    [
        ("namespace == 'default'", "s:CEmFgJFwDvohR01JKvOkO8D"),
        ("namespace == 'default' && service == 'frontend'", "s:i357Nlxxj3AMBTQ4WyOllNt"),
    ],
)
def test_uid_is_the_one_in_published_listings(text: str, uid_start: str) -> None:
    uid = parse(text).uid

    assert uid.startswith(uid_start)
    assert len(uid) == 40


MATCHES = [
    ("a == 'x'", {"a": "x"}, True),
    ("a == 'x'", {"a": "y"}, False),
    ("a == 'x'", {}, False),
    ("a == ''", {}, False),
    ("a == ''", {"a": ""}, True),
    ("a != 'x'", {}, True),
    ("a != 'x'", {"a": "x"}, False),
    ("has(a)", {"a": ""}, True),
    ("!has(a)", {"a": ""}, False),
    ("a in {'x', 'y'}", {"a": "y"}, True),
    ("a in {'x', 'y'}", {}, False),
    ("a in {}", {"a": ""}, False),
    ("a not in {'x', 'y'}", {}, True),
    ("a not in {'x', 'y'}", {"a": "y"}, False),
    ("a contains 'bc'", {"a": "abcd"}, True),
    ("a contains ''", {}, False),
    ("a starts with 'ab'", {"a": "abcd"}, True),
    ("a starts with 'b'", {"a": "abcd"}, False),
    ("a starts with ''", {}, False),
    ("a ends with 'cd'", {"a": "abcd"}, True),
    ("a ends with ''", {}, False),
    ("has(a) || has(b) && has(c)", {"a": ""}, True),
    ("(has(a) || has(b)) && has(c)", {"a": ""}, False),
    ("has(a) || has(b) || has(c)", {"c": ""}, True),
    ("has(a) || has(b) || has(c)", {"d": ""}, False),
    ("has(a) && has(b) && has(c)", {"a": "", "b": "", "c": ""}, True),
    ("has(a) && has(b) && has(c)", {"a": "", "c": ""}, False),
    ("all()", {}, True),
    ("!all()", {"a": "x"}, False),
    ("global()", {}, True),
]


@pytest.mark.parametrize(("text", "labels", "expected"), MATCHES)
def test_matches(text: str, labels: dict[str, str], expected: bool) -> None:
    assert parse(text).matches(labels) is expected


BAD = [
    ("a", 1, "expected an operator"),
    ("a b", 2, "expected an operator after label 'a'"),
    ("a inside {'x'}", 2, "expected an operator"),
    ("a = 'x'", 2, "expected =="),
    ("a == x", 5, "expected a quoted string"),
    ("a == 'x", 5, "no closing '"),
    ('a == "x', 5, 'no closing "'),
    ("a in 'x'", 5, "expected {"),
    ("a in {x}", 6, "expected }"),
    ("a in {'x' 'y'}", 10, "expected }"),
    ("a in {'x'", 9, "expected }"),
    ("a contains {'x'}", 11, "expected a quoted string"),
    ("a == 'x' &", 9, "expected &&"),
    ("a == 'x' | b == 'y'", 9, "expected ||"),
    ("a == 'x' &&", 11, "found the end"),
    ("&& a == 'x'", 0, "found &&"),
    ("a == 'x' b == 'y'", 9, "expected && or ||"),
    ("(a == 'x'", 9, "expected )"),
    ("a == 'x')", 8, "expected && or ||"),
    ("()", 1, "found )"),
    ("!", 1, "found the end"),
    ("has()", 0, "has( needs"),
    ("has (a)", 4, "expected an operator"),
    ("has(a", 0, "has( needs"),
    ("all(x)", 0, "all( needs"),
    ("global(", 0, "global( needs"),
    ("a == 'x'\n", 8, "unexpected character '\\n'"),
    ("ä == 'x'", 0, "unexpected character"),
    ("a$b == 'x'", 1, "unexpected character '$'"),
    ("'a' == 'x'", 0, "found a quoted string"),
    ("a == '\ud800'", 6, "surrogate"),
    ("x" * (MAX_LABEL_CHARS + 1) + " == 'x'", 0, "longer than 512"),
    ("has(" + "x" * (MAX_LABEL_CHARS + 1) + ")", 0, "longer than 512"),
]


@pytest.mark.parametrize(("text", "offset", "reason"), BAD, ids=[repr(text[:30]) for text, _, _ in BAD])
def test_bad_text_is_refused_with_its_place(text: str, offset: int, reason: str) -> None:
    with pytest.raises(SelectorSyntaxError) as caught:
        parse(text)

    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, ResourceError)
    assert caught.value.text == text
    assert caught.value.offset_chars == offset
    assert reason in caught.value.reason


def test_label_of_full_length_is_accepted() -> None:
    label = "x" * MAX_LABEL_CHARS

    assert parse(f"has({label})").matches({label: ""})


@pytest.mark.parametrize("opening", ["(", "!(", "has(a) && (has(b) || ", "!(has(a) && "])
def test_deep_nesting_is_refused_before_the_stack_ends(opening: str) -> None:
    text = opening * 5000 + "has(x)" + ")" * 5000

    with pytest.raises(SelectorSyntaxError, match="nest deeper than 100"):
        parse(text)


def test_deepest_allowed_nesting_works_in_every_walk() -> None:
    selector = parse("!(has(a) && (has(b) || " * 50 + "has(x)" + "))" * 50)

    assert parse(selector.canonical) == selector
    assert selector.labels_used == {"a", "b", "x"}
    assert selector.matches({}) is True
    assert selector.restrictions is not None
    assert selector.with_prefix("p.").labels_used == {"p.a", "p.b", "p.x"}


@pytest.mark.parametrize(
    "text", ["a" * 1_000_000, "(" * 1_000_000, "!" * 1_000_000, "a == '" + "x" * 1_000_000]
)
def test_a_megabyte_is_refused(text: str) -> None:
    with pytest.raises(SelectorSyntaxError, match="longer than") as caught:
        parse(text)

    assert caught.value.offset_chars == MAX_SELECTOR_CHARS


def test_a_long_flat_selector_is_fine() -> None:
    selector = parse(" || ".join(f"a == 'v{number}'" for number in range(10_000)))

    assert selector.matches({"a": "v9999"})
    assert not selector.matches({"a": "v10000"})


def test_same_text_gives_the_same_object_and_same_meaning_text_an_equal_one() -> None:
    assert parse("has(a)") is parse("has(a)")
    assert parse("a=='b'") == parse("a == 'b'")
    assert len({parse("a=='b'"), parse("a == 'b'")}) == 1
    assert parse("has(a)") != parse("has(b)")


def test_labels_used() -> None:
    assert parse("a == 'x' && !has(b) || c in {} && all() || d not in {'x'}").labels_used == {
        "a",
        "b",
        "c",
        "d",
    }


def test_with_prefix_renames_every_label() -> None:
    selector = parse("a == 'x' && !(has(b) || c not in {'y'}) && all()").with_prefix("pcns.")

    assert selector.canonical == '(pcns.a == "x" && !(has(pcns.b) || pcns.c not in {"y"}) && all())'
