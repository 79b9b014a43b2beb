"""nftables' messages: C equals the specification, and what is encoded is what a dump of it gives back."""

import struct
import sys
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from calico_engine.fastpath import nft_messages as pure

native = pytest.importorskip("calico_engine.fastpath.native_nft", exc_type=ImportError)

NEWRULE, NEWSETELEM = 10 << 8 | 6, 10 << 8 | 12
KEY_SIZES = [1, 2, 4, 8, 12, 16, 24, 64]


def make_head(kind: int, *attributes: tuple[int, bytes]) -> bytes:
    """Return nlmsghdr, nfgenmsg and attributes."""
    body = b"".join(
        struct.pack("=HH", 4 + len(value), number) + value + bytes(-len(value) % 4)
        for number, value in attributes
    )
    return struct.pack("=IHHII", 0, kind, 1, 7, 0) + bytes([2, 0, 0, 0]) + body


ELEMENTS_HEAD = make_head(NEWSETELEM, (1, b"calico\0"), (2, b"cali-hosts\0"))
RULES_HEAD = make_head(NEWRULE, (1, b"calico\0"), (2, b"cali-FORWARD\0"))


def outcome(function: Callable[..., object], *args: object) -> object:
    try:
        return function(*args)
    except ValueError as error:
        return str(error)


def attribute(number: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), number) + value + bytes(-len(value) % 4)


def number(value: int) -> bytes:
    return value.to_bytes(4, sys.byteorder)


@st.composite
def element_batches(draw: st.DrawFn) -> tuple[bytes, int, int, int, list[bytes]]:
    """Draw arguments of encode_set_elements after head; the tails are attributes of elements."""
    key_size = draw(st.sampled_from(KEY_SIZES))
    packed_size = (key_size + 3) & ~3
    values = st.binary(max_size=30).map(lambda value: attribute(2, value))
    notes = st.binary(max_size=30).map(lambda value: attribute(6, value))
    tails = draw(
        st.lists(st.one_of(st.just(b""), values, st.tuples(values, notes).map(b"".join)), min_size=1)
    )
    keys = st.binary(min_size=packed_size, max_size=packed_size)
    numbers = st.integers(0, len(tails) - 1).map(number)
    rows = draw(st.lists(st.tuples(keys, numbers).map(b"".join), max_size=30))
    return b"".join(rows), packed_size, key_size, draw(st.integers(0, 2**16 - 1)), tails


@st.composite
def element_dumps(draw: st.DrawFn) -> tuple[bytes, int, int]:
    """Draw a dump as the kernel makes it, perhaps damaged, with key size and swaps."""
    rows, packed_size, key_size, swaps, tails = draw(element_batches())
    catch_all = attribute(1, attribute(2, b"abcd") + attribute(3, bytes([0, 0, 0, 2])))
    interval = attribute(
        1,
        attribute(1, attribute(1, bytes(key_size)))
        + attribute(10, attribute(1, b"\xff" * key_size))
        + attribute(3, bytes(4)),
    )
    more = draw(st.sampled_from([b"", catch_all, interval, catch_all + interval]))
    dump = pure.encode_set_elements(ELEMENTS_HEAD, rows, packed_size, key_size, swaps, tails)
    message = ELEMENTS_HEAD + attribute(3, more)
    dump += number(len(message)) + message[4:]
    return damage(draw, dump), key_size, swaps


@st.composite
def rule_dumps(draw: st.DrawFn) -> bytes:
    """Draw a dump of rules with handles, perhaps damaged."""
    bodies = draw(st.lists(st.binary(max_size=40), max_size=8))
    notes = [draw(st.binary(max_size=40)) for _ in bodies]
    handle = attribute(3, draw(st.integers(0, 2**64 - 1)).to_bytes(8, "big"))
    return damage(draw, pure.assemble_rules(RULES_HEAD + handle, bodies, notes))


def damage(draw: st.DrawFn, dump: bytes) -> bytes:
    if not dump or draw(st.booleans()):
        return dump
    damaged = bytearray(dump)
    for _ in range(draw(st.integers(0, 4))):
        place = draw(st.integers(0, len(damaged) - 1))
        damaged[place] = draw(st.sampled_from([0, 1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 64, 128, 255]))
    return bytes(damaged[: draw(st.integers(0, len(damaged)))] if draw(st.booleans()) else damaged)


@given(element_batches())
def test_elements_are_encoded_alike(batch: tuple[bytes, int, int, int, list[bytes]]) -> None:
    assert native.encode_set_elements(ELEMENTS_HEAD, *batch) == pure.encode_set_elements(
        ELEMENTS_HEAD, *batch
    )


@given(element_batches())
def test_what_is_encoded_is_read_back(batch: tuple[bytes, int, int, int, list[bytes]]) -> None:
    rows, packed_size, key_size, swaps, _ = batch

    found = native.parse_element_dump(native.encode_set_elements(ELEMENTS_HEAD, *batch), key_size, swaps)

    size = 2 * key_size + pure.ELEMENT_ROW_TAIL.size
    keys = [found[at : at + key_size] for at in range(0, len(found), size)]
    assert keys == [rows[at : at + key_size] for at in range(0, len(rows), packed_size + 4)]


@given(element_batches(), st.binary(max_size=40), st.integers(-1, 70), st.integers(-1, 70))
@example((number(1), 0, 0, 0, [b""]), ELEMENTS_HEAD, 4, 4)
@example((bytes(4) + number(0), 0, 0, 0, [b"abc"]), ELEMENTS_HEAD, 4, 4)
@example((bytes(4) + number(0), 0, 0, 0, [bytes(60_000)]), ELEMENTS_HEAD, 4, 4)
@example((bytes(4) + number(1), 0, 0, 0, [b""]), ELEMENTS_HEAD, 4, 4)
def test_bad_elements_are_refused_alike(
    batch: tuple[bytes, int, int, int, list[bytes]], head: bytes, packed_size: int, key_size: int
) -> None:
    arguments = (batch[0], packed_size, key_size, batch[3], batch[4])

    for begin in (head, ELEMENTS_HEAD):
        expected = outcome(pure.encode_set_elements, begin, *arguments)
        assert outcome(native.encode_set_elements, begin, *arguments) == expected


def test_no_attribute_grows_past_its_16_bit_length() -> None:
    tails = [attribute(6, bytes(253)), b"", attribute(6, bytes(59_900))]
    rows = b"".join(number(i) + number(i % 3 % (1 + i % 2)) for i in range(5000)) + bytes(4) + number(2)

    messages = native.encode_set_elements(ELEMENTS_HEAD, rows, 4, 4, 0, tails)

    assert messages == pure.encode_set_elements(ELEMENTS_HEAD, rows, 4, 4, 0, tails)
    at, lengths = 0, []
    while at < len(messages):
        (length,) = struct.unpack_from("=I", messages, at)
        lengths.append(length)
        at += length
    assert len(lengths) > 1
    assert max(lengths) <= len(ELEMENTS_HEAD) + 4 + pure.LARGEST_ELEMENTS


@given(element_dumps())
def test_dumps_of_elements_are_read_or_refused_alike(case: tuple[bytes, int, int]) -> None:
    assert outcome(native.parse_element_dump, *case) == outcome(pure.parse_element_dump, *case)


@given(rule_dumps())
def test_dumps_of_rules_are_read_or_refused_alike(dump: bytes) -> None:
    assert outcome(native.parse_rule_dump, dump) == outcome(pure.parse_rule_dump, dump)


@given(st.binary(max_size=120), st.sampled_from([0, 1, 4, 65]))
def test_any_bytes_are_read_or_refused_alike(dump: bytes, key_size: int) -> None:
    for kind in (NEWRULE, NEWSETELEM):
        message = struct.pack("=IHHII", 16 + len(dump), kind, 0, 0, 0) + dump
        assert outcome(native.parse_rule_dump, message) == outcome(pure.parse_rule_dump, message)
        expected = outcome(pure.parse_element_dump, message, key_size, 1)
        assert outcome(native.parse_element_dump, message, key_size, 1) == expected


@given(st.lists(st.tuples(st.binary(max_size=50), st.binary(max_size=50))))
def test_rules_are_assembled_alike(rules: list[tuple[bytes, bytes]]) -> None:
    bodies, notes = [body for body, _ in rules], [note for _, note in rules]

    messages = native.assemble_rules(RULES_HEAD, bodies, notes)

    assert messages == pure.assemble_rules(RULES_HEAD, bodies, notes)
    rows = [pure.RULE_ROW.unpack(row) for row in chunks(native.parse_rule_dump(messages), 32)]
    assert [messages[row[5] : row[5] + row[6]] for row in rows] == notes
    assert all(messages[row[3] : row[3] + row[4]] == b"cali-FORWARD\0" for row in rows)


@pytest.mark.parametrize(
    ("head", "bodies", "notes"),
    [
        (bytes(19), [], []),
        (RULES_HEAD + b"x", [], []),
        (RULES_HEAD, [b""], []),
        (RULES_HEAD, [bytes(65_525)], [b""]),
        (RULES_HEAD, [b""], [bytes(65_525)]),
    ],
)
def test_bad_rules_are_refused_alike(head: bytes, bodies: list[bytes], notes: list[bytes]) -> None:
    expected = outcome(pure.assemble_rules, head, bodies, notes)

    assert isinstance(expected, str)
    assert outcome(native.assemble_rules, head, bodies, notes) == expected


@given(st.lists(st.binary(max_size=30), max_size=8), st.integers(0, 2**32 - 1), st.binary(max_size=6))
def test_messages_are_numbered_alike(bodies: list[bytes], first: int, rest: bytes) -> None:
    messages = b"".join(
        struct.pack("=IHHII", 16 + len(body), 1, 2, 3, 4) + body + bytes(-len(body) % 4) for body in bodies
    )
    for buffer in (bytearray(messages), bytearray(messages + rest)):
        by_c, by_python = buffer, bytearray(buffer)

        results = (
            outcome(native.number_messages, by_c, first),
            outcome(pure.number_messages, by_python, first),
        )

        assert results[0] == results[1]
        assert by_c == by_python or isinstance(results[0], str)


def test_a_batch_is_numbered_and_its_last_message_but_one_found() -> None:
    batch = bytearray(RULES_HEAD[:16] * 3)
    for at in (0, 16, 32):
        struct.pack_into("=I", batch, at, 16)

    assert native.number_messages(batch, 2**32 - 1) == (3, 16)
    assert [struct.unpack_from("=I", batch, at + 8)[0] for at in (0, 16, 32)] == [2**32 - 1, 0, 1]


def chunks(rows: bytes, size: int) -> list[bytes]:
    return [rows[at : at + size] for at in range(0, len(rows), size)]
