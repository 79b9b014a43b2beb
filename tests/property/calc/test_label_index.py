"""The label index against asking every selector about every item, after any sequence of changes."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from calico_engine.calc.label_classes import Item, LabelClass
from calico_engine.calc.label_index import LabelIndex
from calico_engine.model import ResourceKey
from calico_engine.selector import parse

VALUES = st.sampled_from(["x", "y", "z", "xy"])
LABELS = st.fixed_dictionaries({}, optional={"a": VALUES, "b": VALUES, "c": VALUES})
PARENTS = st.lists(st.sampled_from(["p", "q", "r"]), unique=True, max_size=3).map(tuple)
TEXTS = st.sampled_from(
    [
        "all()", "!all()", "has(a)", "!has(a)", "a == 'x'", "a == 'y'", "a == 'z'", "a != 'x'", "a in {'x', 'y'}",
        "a not in {'y', 'z'}", "a contains 'y'", "a starts with 'x'", "b == 'x' && c == 'y'", "b == 'x' || c == 'y'",
        "!(b == 'z' || has(c))", "has(b) && a == 'xy'", "a in {}", "c == 'x' && c == 'y'",
    ]
)  # fmt: skip
NUMBERS = st.integers(0, 5)


@dataclass
class World:
    items: dict[ResourceKey, tuple[dict[str, str], tuple[str, ...]]] = field(default_factory=dict)
    parents: dict[str, dict[str, str]] = field(default_factory=dict)
    texts: set[str] = field(default_factory=set)

    def labels(self, key: ResourceKey) -> dict[str, str]:
        own, parents = self.items[key]
        labels: dict[str, str] = {}
        for parent in reversed(parents):
            labels.update(self.parents.get(parent, {}))
        return {**labels, **own}


CHANGES = st.one_of(
    st.tuples(st.just("put"), NUMBERS, LABELS, PARENTS),
    st.tuples(st.just("drop"), NUMBERS),
    st.tuples(st.just("parent"), st.sampled_from(["p", "q", "r"]), st.one_of(st.none(), LABELS)),
    st.tuples(st.just("add"), TEXTS),
    st.tuples(st.just("remove"), NUMBERS),
)


def change(index: LabelIndex[str], world: World, step: tuple) -> None:  # type: ignore[type-arg]  # one of CHANGES
    match step:
        case "put", number, labels, parents:
            key = ResourceKey("Item", "", str(number))
            world.items[key] = (labels, parents)
            index.put(key, labels, parents)
        case "drop", number:
            key = ResourceKey("Item", "", str(number))
            world.items.pop(key, None)
            index.drop(key)
        case "parent", parent, labels:
            world.parents[parent] = labels or {}
            index.set_parent(parent, labels)
        case "add", text:
            world.texts.add(text)
            index.add_query(parse(text), text)
        case "remove", number:
            for text in sorted(world.texts)[number : number + 1]:
                world.texts.remove(text)
                index.remove_query(parse(text), text)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(CHANGES, st.booleans()), min_size=8, max_size=30))
def test_matches_are_those_of_asking_everybody(steps: list[tuple[tuple, bool]]) -> None:  # type: ignore[type-arg]
    heard: dict[ResourceKey, int] = {}

    def on_move(item: Item, before: LabelClass[str] | None, after: LabelClass[str] | None) -> None:
        assert (item.class_number if before is not None else -1) == (-1 if before is None else before.number)
        heard[item.key] = heard.get(item.key, 0) + (after is not None) - (before is not None)

    index: LabelIndex[str] = LabelIndex(on_move)
    world = World()

    for step, flush in [*steps, (("drop", 0), True)]:
        change(index, world, step)
        if flush:
            index.flush()
            for key in world.items:
                labels = world.labels(key)
                expected = {text for text in world.texts if parse(text).matches(labels)}
                assert {user for query in index.matches(key) for user in query.users} == expected
            assert {key for key, count in heard.items() if count} == world.items.keys()
            assert set(heard.values()) <= {0, 1}


@settings(max_examples=100, deadline=None)
@given(st.lists(CHANGES, max_size=30))
def test_an_emptied_index_holds_nothing(steps: list[tuple]) -> None:  # type: ignore[type-arg]  # of CHANGES
    index: LabelIndex[str] = LabelIndex(lambda item, before, after: None)
    world = World()
    for step in steps:
        change(index, world, step)
        index.flush()

    for key in world.items:
        index.drop(key)
    for text in world.texts:
        index.remove_query(parse(text), text)
    for parent in world.parents:
        index.set_parent(parent, None)
    index.flush()
    index.take_touched()

    left = {
        name: value
        for name, value in vars(index).items()
        if name not in ("_on_move", "_next_number") and value
    }
    assert left == {}
