"""Members of kernel sets: C equals the specification, and what is encoded is what a dump of it gives back."""

import struct
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from calico_engine.fastpath import SET_ROW_SIZE, set_messages

native = pytest.importorskip("calico_engine.fastpath.native", exc_type=ImportError)

#: nlmsghdr of an IPSET_CMD_LIST message with sequence number 2^32 - 2, nfgenmsg, one attribute.
HEAD = (
    struct.pack("=IHHII", 0, 6 << 8 | 7, 0, 2**32 - 2, 0) + bytes([2, 0, 0, 0]) + struct.pack("=HHI", 8, 9, 0)
)


def outcome(function: Callable[..., object], *args: object) -> object:
    try:
        return function(*args)
    except ValueError as error:
        return str(error)


@st.composite
def good_rows(draw: st.DrawFn) -> bytes:
    """Draw rows of either family and type, exceptions included."""
    return b"".join(draw(st.lists(good_row(), max_size=30)))


@st.composite
def good_row(draw: st.DrawFn) -> bytes:
    family, size = draw(st.sampled_from([(4, 4), (6, 16)]))
    family |= draw(st.sampled_from([0, 0, 0, set_messages.NOMATCH]))
    address = draw(st.binary(min_size=size, max_size=size)).ljust(16, b"\0")
    if draw(st.booleans()):
        ports = draw(st.tuples(st.integers(1, 255), st.integers(0, 65535)))
        return bytes([family, size * 8]) + address + struct.pack(">BH", *ports)
    return bytes([family, draw(st.integers(1, size * 8))]) + address + bytes(3)


@st.composite
def damaged_dumps(draw: st.DrawFn) -> bytes:
    """Draw the dump of some rows with a few bytes overwritten, and perhaps its end cut off."""
    dump = bytearray(set_messages.encode_set_members(HEAD, draw(good_rows()), draw(st.integers(1, 9)))[0])
    if not dump:
        return b""
    for _ in range(draw(st.integers(0, 4))):
        dump[draw(st.integers(0, len(dump) - 1))] = draw(
            st.sampled_from([0, 1, 3, 4, 5, 7, 8, 9, 33, 64, 128, 255])
        )
    return bytes(dump[: draw(st.integers(0, len(dump)))] if draw(st.booleans()) else dump)


@given(good_rows(), st.integers(1, 9))
def test_what_is_encoded_is_read_back(rows: bytes, per_message: int) -> None:
    messages, ends = native.encode_set_members(HEAD, rows, per_message)

    assert (messages, list(ends)) == set_messages.encode_set_members(HEAD, rows, per_message)
    assert native.parse_set_dump(messages) == rows
    assert set_messages.parse_set_dump(messages) == rows
    assert list(ends[-1:]) == ([len(rows) // SET_ROW_SIZE] if rows else [])


@given(st.binary(max_size=100), st.binary(max_size=80), st.integers(-1, 4))
@example(HEAD, bytes([5, 32]).ljust(SET_ROW_SIZE, b"\0"), 1)
@example(HEAD, bytes([4, 0]).ljust(SET_ROW_SIZE, b"\0"), 1)
@example(HEAD, bytes([4, 33]).ljust(SET_ROW_SIZE, b"\0"), 1)
@example(HEAD, bytes([4, 24]).ljust(18, b"\0") + b"\6\0\1", 1)
def test_bad_input_to_the_encoder_is_refused_alike(head: bytes, rows: bytes, per_message: int) -> None:
    rows = rows[: len(rows) // SET_ROW_SIZE * SET_ROW_SIZE] or rows

    by_c = outcome(native.encode_set_members, head, rows, per_message)

    assert by_c == outcome(set_messages.encode_set_members, head, rows, per_message)


@given(damaged_dumps())
def test_damaged_dumps_are_read_or_refused_alike(dump: bytes) -> None:
    assert outcome(native.parse_set_dump, dump) == outcome(set_messages.parse_set_dump, dump)


@given(st.binary(max_size=120))
def test_any_bytes_are_read_or_refused_alike(dump: bytes) -> None:
    message = struct.pack("=IHHII", 16 + len(dump), 6 << 8 | 7, 0, 0, 0) + dump

    assert outcome(native.parse_set_dump, message) == outcome(set_messages.parse_set_dump, message)
    assert outcome(native.parse_set_dump, dump) == outcome(set_messages.parse_set_dump, dump)


@given(good_row())
def test_one_member_is_the_same_alone(row: bytes) -> None:
    messages, _ = set_messages.encode_set_members(HEAD, row, 1)

    assert set_messages.encode_member(row) == messages[len(HEAD) + 4 :]


@pytest.mark.parametrize("row", [b"", bytes(21), bytes([4, 33]) + bytes(19), bytes([4, 32]) + bytes(20)])
def test_one_member_that_is_none_is_refused(row: bytes) -> None:
    with pytest.raises(ValueError, match="rows: a family"):
        set_messages.encode_member(row)


@pytest.mark.parametrize("family", [4, 6])
def test_attribute_never_grows_past_its_16_bit_length(family: int) -> None:
    rows = (
        (bytes([family, 31]) + bytes(19)) * 3999
        + bytes([family, 32 if family == 4 else 128])
        + bytes(16)
        + b"\6\0\1"
    )

    messages, ends = native.encode_set_members(HEAD, rows, 4000)

    assert (messages, list(ends)) == set_messages.encode_set_members(HEAD, rows, 4000)
    assert len(ends) > 1
    assert ends[-1] == 4000
    assert native.parse_set_dump(messages) == rows


def test_messages_count_their_sequence_numbers_up() -> None:
    rows = (bytes([4, 32]) + bytes(19)) * 3

    messages, ends = native.encode_set_members(HEAD, rows, 1)

    size = len(messages) // 3
    assert list(ends) == [1, 2, 3]
    assert [struct.unpack_from("=I", messages, i * size + 8)[0] for i in range(3)] == [
        2**32 - 2,
        2**32 - 1,
        0,
    ]
