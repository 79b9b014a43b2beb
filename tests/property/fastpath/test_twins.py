"""The C functions equal their pure-Python specification, on good input and on bad."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calico_engine.fastpath import pure

native = pytest.importorskip("calico_engine.fastpath.native", exc_type=ImportError)


def outcome(function: Callable[..., object], *args: object) -> object:
    """Return what the function gives, or what it raises, in a form to compare."""
    try:
        return function(*args)
    except ValueError as error:
        return str(error)


def normal(result: object) -> object:
    return [list(part) for part in result] if isinstance(result, tuple) else result


@st.composite
def row_buffers(draw: st.DrawFn, row_size: int, key_size: int) -> bytes:
    """Draw mostly valid input (sorted, keys once) over few byte values, so keys often meet."""
    byte = st.sampled_from([0, 1, 127, 128, 255])
    rows = draw(st.lists(st.lists(byte, min_size=row_size, max_size=row_size).map(bytes), max_size=40))
    if draw(st.integers(0, 9)):
        rows = sorted({row[:key_size]: row for row in rows}.values())
    return b"".join(rows)


@given(st.binary(max_size=600), st.integers(-1, 30))
def test_sort_rows(rows: bytes, row_size: int) -> None:
    if row_size > 0:
        rows = rows[: len(rows) // row_size * row_size]

    assert outcome(native.sort_rows, rows, row_size) == outcome(pure.sort_rows, rows, row_size)


@given(
    st.lists(st.binary(min_size=3, max_size=3), min_size=300, max_size=400), st.integers(0, 2), st.booleans()
)
def test_sort_rows_of_which_some_bytes_are_the_same(rows: list[bytes], same: int, low: bool) -> None:
    some = b"".join(
        row[:same] + bytes(9) + bytes(value & 1 if low else value for value in row[same:]) for row in rows
    )

    assert native.sort_rows(some, 12) == pure.sort_rows(some, 12)


@given(st.lists(st.sampled_from([b"ab", b"aa", b"\0\xff", b"c\0"]), max_size=600))
def test_sort_unique_rows(rows: list[bytes]) -> None:
    some = b"".join(rows)

    assert native.sort_unique_rows(some, 2) == pure.sort_unique_rows(some, 2) == b"".join(sorted(set(rows)))


@given(st.data())
def test_subtract_rows(data: st.DataObject) -> None:
    row_size = data.draw(st.integers(1, 4))
    rows, others = (data.draw(row_buffers(row_size, row_size)) for _ in range(2))
    if data.draw(st.booleans()):
        rows = pure.sort_rows(rows + rows[: 3 * row_size], row_size)

    by_c = outcome(native.subtract_rows, rows, others, row_size)

    assert by_c == outcome(pure.subtract_rows, rows, others, row_size)
    if isinstance(by_c, bytes):
        found = [by_c[i : i + row_size] for i in range(0, len(by_c), row_size)]
        assert found == sorted(set(found))


@given(st.data())
def test_diff_rows(data: st.DataObject) -> None:
    key_size = data.draw(st.integers(1, 4))
    row_size = key_size + data.draw(st.integers(0, 3))
    desired = data.draw(row_buffers(row_size, key_size))
    actual = data.draw(row_buffers(row_size, key_size))

    by_c = outcome(native.diff_rows, desired, actual, key_size, row_size)

    assert normal(by_c) == normal(outcome(pure.diff_rows, desired, actual, key_size, row_size))


@given(st.data())
def test_diff_rows_turns_actual_into_desired(data: st.DataObject) -> None:
    desired = pure.sort_rows(data.draw(row_buffers(3, 3)), 3)
    actual = pure.sort_rows(data.draw(row_buffers(3, 3)), 3)
    want = {desired[i : i + 2]: desired[i : i + 3] for i in range(0, len(desired), 3)}
    have = {actual[i : i + 2]: actual[i : i + 3] for i in range(0, len(actual), 3)}
    desired, actual = b"".join(want.values()), b"".join(have.values())

    added, changed, removed = native.diff_rows(desired, actual, 2, 3)
    for i in removed:
        del have[actual[3 * i : 3 * i + 2]]
    for i in (*added, *changed):
        have[desired[3 * i : 3 * i + 2]] = desired[3 * i : 3 * i + 3]

    assert have == want


@given(st.data(), st.sampled_from([4, 16]))
def test_longest_prefix(data: st.DataObject, address_size: int) -> None:
    bits = address_size * 8
    base = data.draw(st.integers(0, 2**bits - 1))
    # Prefixes of one address and its neighbours nest, which random ones would not.
    near = st.integers(0, bits - 1).map(lambda bit: base ^ (1 << bit)) | st.just(base)
    lengths = st.integers(0, bits)
    pairs = data.draw(st.lists(st.tuples(near, lengths), max_size=30))
    rows = {
        (address >> (bits - n) << (bits - n)).to_bytes(address_size, "big") + bytes([n])
        for address, n in pairs
    }
    ordered = sorted(rows) if data.draw(st.integers(0, 9)) else list(rows)
    addresses = b"".join(a.to_bytes(address_size, "big") for a in data.draw(st.lists(near, max_size=10)))

    by_c = outcome(native.longest_prefix, b"".join(ordered), addresses, address_size)

    assert by_c == outcome(pure.longest_prefix, b"".join(ordered), addresses, address_size)


@given(st.binary(max_size=100), st.binary(max_size=64), st.integers(0, 20))
def test_longest_prefix_on_any_bytes(prefixes: bytes, addresses: bytes, address_size: int) -> None:
    by_c = outcome(native.longest_prefix, prefixes, addresses, address_size)

    assert by_c == outcome(pure.longest_prefix, prefixes, addresses, address_size)
