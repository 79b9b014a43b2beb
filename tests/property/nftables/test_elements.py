"""Elements as messages: the kernel's dump has the same form, so that what is encoded is what is read."""

import contextlib
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from calico_engine.ruleset.ir import Family, Hook, Layer
from calico_engine.tables import set_content as content
from calico_engine.tables.backend import CATCH_ALL, ActualSet, Element, KeyPart, SetShape, ValueKind
from calico_engine_nftables import dump, elements, messages

SHAPES = [
    *(content.HOSTS, content.NETS, content.DISPATCH, content.PAIRS, content.IP_PORTS, content.SOURCES),
    *content.LEVELS.values(),
    SetShape((KeyPart.PROTOCOL, KeyPart.PORT), ValueKind.NUMBER, intervals=True),
    SetShape((KeyPart.NUMBER,), ValueKind.VERDICT),
    SetShape((KeyPart.PORT,)),
]


@st.composite
def keys(draw: st.DrawFn, shape: SetShape, family: Family) -> bytes:
    """Draw a key as the backend packs it, padding zero."""
    parts = []
    for part in shape.key:
        size = messages.part_bytes(part, family)
        parts.append(draw(st.binary(min_size=size, max_size=size)) + bytes(-size % 4))
    return b"".join(parts)


def values(kind: ValueKind) -> st.SearchStrategy[bytes]:
    if kind is ValueKind.NONE:
        return st.just(b"")
    if kind is ValueKind.NUMBER:
        return st.binary(min_size=4, max_size=4)
    return st.sampled_from([b"return", b"drop", b"accept", b"goto cali-li-x", b"jump nat-cali-y"])


@st.composite
def contents(draw: st.DrawFn) -> tuple[Family, SetShape, dict[bytes, Element]]:
    """Draw the elements of a set of any shape; ranges of a key of one part do not meet."""
    family, shape = draw(st.sampled_from(list(Family))), draw(st.sampled_from(SHAPES))
    comments = st.sampled_from(["", "default/web", "x" * 127])
    made = st.builds(Element, values(shape.value), comments)
    if shape.intervals and len(shape.key) == 1:
        bounds = sorted(draw(st.sets(keys(shape, family), max_size=12)))
        found = dict.fromkeys(first + last for first, last in zip(bounds[::2], bounds[1::2], strict=False))
    elif shape.intervals:
        found = dict.fromkeys(
            draw(st.lists(st.tuples(keys(shape, family), keys(shape, family)).map(b"".join), max_size=30))
        )
    else:
        found = dict.fromkeys(draw(st.lists(keys(shape, family), max_size=30)))
    whole = {key: draw(made) for key in found}
    if draw(st.booleans()):
        whole[CATCH_ALL] = draw(made)
    return family, shape, whole


@given(contents())
def test_what_is_encoded_is_read_back(case: tuple[Family, SetShape, dict[bytes, Element]]) -> None:
    family, shape, whole = case

    sent = b"".join(elements.encode_elements(family, "calico", "set", shape, whole))

    assert dump.parse_elements(sent, family, shape) == ActualSet(shape, whole)


@given(contents())
def test_deletions_name_the_same_keys(case: tuple[Family, SetShape, dict[bytes, Element]]) -> None:
    family, shape, whole = case
    bare = SetShape(shape.key, ValueKind.NONE, shape.intervals)

    removed = elements.encode_deletions(family, "calico", "set", shape, whole)
    added = elements.encode_elements(family, "calico", "set", bare, dict.fromkeys(whole, Element()))

    # Type and flags of the header differ, the rest does not.
    assert [message[8:] for message in removed] == [message[8:] for message in added]


@given(contents())
def test_few_and_many_are_encoded_alike(
    case: tuple[Family, SetShape, dict[bytes, Element]],
) -> None:
    family, shape, whole = case
    one_by_one = [
        body
        for key, element in whole.items()
        for body in elements.encode_elements(family, "calico", "set", shape, {key: element})
    ]

    together = b"".join(elements.encode_elements(family, "calico", "set", shape, whole))

    assert dump.parse_elements(together, family, shape) == dump.parse_elements(
        b"".join(one_by_one), family, shape
    )


@given(st.sampled_from(SHAPES), st.sampled_from(list(Family)))
def test_a_set_is_known_by_its_shape(shape: SetShape, family: Family) -> None:
    made = messages.new_set(family, "calico", "set", shape, note="why")

    # The kernel tells the length of verdicts, too.
    (head,) = dump.parse_sets(made, family, "calico")

    assert (head.name, head.shape, head.comment) == ("set", shape, "why")


PARSERS: list[Callable[[bytes], object]] = [
    lambda data: dump.parse_tables(data, Family.V4),
    lambda data: dump.parse_chains(data, Family.V4, "calico"),
    lambda data: dump.parse_rules(data, Family.V4, "calico"),
    lambda data: dump.parse_sets(data, Family.V4, "calico"),
    *(lambda data, shape=shape: dump.parse_elements(data, Family.V4, shape) for shape in SHAPES),
]


@given(data=st.data())
def test_hostile_dumps_are_refused_and_nothing_else(data: st.DataObject) -> None:
    parse = data.draw(st.sampled_from(PARSERS))
    family, shape, whole = data.draw(contents())
    good = b"".join(
        [
            messages.new_table(Family.V4, "calico"),
            messages.new_base_chain(Family.V4, "calico", "filter-FORWARD", Layer.FILTER, Hook.FORWARD),
            messages.new_rule(Family.V4, "calico", "filter-FORWARD", b"", note="cali:x"),
            messages.new_set(Family.V4, "calico", "set", shape, note="why"),
            *elements.encode_elements(family, "calico", "set", shape, whole),
        ]
    )
    damaged = bytearray(good)
    for _ in range(data.draw(st.integers(0, 5))):
        if damaged:
            place = data.draw(st.integers(0, len(damaged) - 1))
            damaged[place] = data.draw(st.sampled_from([0, 1, 2, 3, 4, 8, 10, 64, 128, 255]))
    raw = bytes(damaged) + data.draw(st.binary(max_size=40))

    # Anything but ValueError is a failure.
    with contextlib.suppress(ValueError):
        parse(raw)
