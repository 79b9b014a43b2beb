"""The fast path through the C extension; same contract as pure.py and set_messages.py, function by function.

Pure. Importing this module fails with ImportError where the extension was not built.
"""

from collections.abc import Sequence

from calico_engine._fastpath import ffi, lib
from calico_engine.fastpath import set_messages, set_text
from calico_engine.fastpath.pure import check_address_size, check_key_size, check_rows
from calico_engine.fastpath.set_messages import SET_ROW_SIZE

_EINVAL, _ENOSPC = 22, 28


def sort_rows(rows: bytes, row_size: int) -> bytes:
    """Return the rows in ascending byte order; equal rows stay, none is dropped."""
    n_rows = check_rows("rows", rows, row_size)
    ordered = bytearray(rows)
    scratch = bytearray(len(rows))
    _check(lib.ce_sort_rows(_view(ordered), _view(scratch), n_rows, row_size), "rows")
    return bytes(ordered)


def sort_unique_rows(rows: bytes, row_size: int) -> bytes:
    """Return the rows in ascending byte order, each once."""
    n_rows = check_rows("rows", rows, row_size)
    ordered = bytearray(rows)
    scratch = bytearray(len(rows))
    n_left = ffi.new("size_t *")
    _check(lib.ce_sort_rows(_view(ordered), _view(scratch), n_rows, row_size), "rows")
    _check(lib.ce_unique_rows(_view(ordered), n_rows, row_size, n_left), "rows")
    return bytes(ordered) if n_left[0] == n_rows else bytes(ordered[: n_left[0] * row_size])


def diff_rows(
    desired: bytes, actual: bytes, key_size: int, row_size: int
) -> tuple[Sequence[int], Sequence[int], Sequence[int]]:
    """Return what turns actual into desired: (added, changed, removed), ascending row indexes.

    added and changed index into desired, removed into actual. changed: same key, other digest.
    Raises: ValueError unless both buffers are sorted with no key twice.
    """
    n_desired = check_rows("desired", desired, row_size)
    n_actual = check_rows("actual", actual, row_size)
    check_key_size(key_size, row_size)
    added = ffi.new("uint32_t[]", n_desired)
    changed = ffi.new("uint32_t[]", n_desired)
    removed = ffi.new("uint32_t[]", n_actual)
    counts = ffi.new("size_t[3]")
    code = lib.ce_diff_rows(
        *(_view(desired), n_desired, _view(actual), n_actual, key_size, row_size),
        *(added, changed, removed, counts),
    )
    _check(code, "desired or actual: rows not sorted, or a key twice")
    return list(added[0 : counts[0]]), list(changed[0 : counts[1]]), list(removed[0 : counts[2]])


def subtract_rows(rows: bytes, others: bytes, row_size: int) -> bytes:
    """Return the rows that others does not have, in their order, each once.

    Raises: ValueError unless both buffers are sorted; a row may be there twice.
    """
    n_rows = check_rows("rows", rows, row_size)
    n_others = check_rows("others", others, row_size)
    left = bytearray(len(rows))
    n_left = ffi.new("size_t *")
    code = lib.ce_subtract_rows(_view(rows), n_rows, _view(others), n_others, row_size, _view(left), n_left)
    _check(code, "rows or others: not sorted")
    return bytes(memoryview(left)[: n_left[0] * row_size])


def longest_prefix(prefixes: bytes, addresses: bytes, address_size: int) -> Sequence[int]:
    """Return for each address the row index of the longest prefix that covers it, or -1.

    prefixes: rows of address_size + 1 bytes (network address, length in bits), sorted, host bits
    zero, none twice. addresses: back to back, address_size bytes each.
    Raises: ValueError unless the prefixes are so.
    """
    check_address_size(address_size)
    n_prefixes = check_rows("prefixes", prefixes, address_size + 1)
    n_addresses = check_rows("addresses", addresses, address_size)
    rows = ffi.new("int32_t[]", n_addresses)
    code = lib.ce_longest_prefix(
        *(_view(prefixes), n_prefixes, _view(addresses), n_addresses, address_size, rows)
    )
    _check(code, "prefixes: not sorted, one twice, too long, or with host bits set")
    return list(rows)


def encode_set_members(head: bytes, rows: bytes, per_message: int) -> tuple[bytes, Sequence[int]]:
    """Return messages back to back that carry the rows as members, and after how many rows each of them ends.

    Raises: ValueError for a row that is none.
    """
    n_rows = check_rows("rows", rows, SET_ROW_SIZE)
    set_messages.check_head(head)
    set_messages.check_per_message(per_message)
    fewest = min(per_message, set_messages.LARGEST_ADT // set_messages.LARGEST_MEMBER)
    most_messages = -(-n_rows // fewest)
    messages = bytearray(n_rows * set_messages.LARGEST_MEMBER + most_messages * (len(head) + 4))
    ends = ffi.new("uint32_t[]", most_messages)
    counts = ffi.new("size_t[2]")
    code = lib.ce_encode_set_members(
        *(_view(head), len(head), _view(rows), n_rows, min(per_message, n_rows or 1)),
        *(_view(messages), len(messages), ends, most_messages, counts),
    )
    _check(code, set_messages.BAD_ROWS)
    return bytes(memoryview(messages)[: counts[0]]), list(ends[0 : counts[1]])


def parse_set_dump(dump: bytes) -> bytes:
    """Return the members in a dump of one set as rows, in the dump's order.

    Raises: ValueError when a message or attribute is cut off, or a member is no row.
    """
    n_rows_max = len(dump) // set_messages.SMALLEST_MEMBER
    rows = bytearray(n_rows_max * SET_ROW_SIZE)
    n_rows = ffi.new("size_t *")
    code = lib.ce_parse_set_dump(_view(dump), len(dump), _view(rows), n_rows_max, n_rows)
    _check(code, set_messages.BAD_DUMP)
    return bytes(memoryview(rows)[: n_rows[0] * SET_ROW_SIZE])


def pack_set_members(text: bytes) -> bytes:
    """Return the members, a newline between them, as rows in their order; bits after a prefix are zero.

    Raises: ValueError naming the first that is no member.
    """
    # An IPv4 address takes 8 bytes with its newline, and the shortest member of all 3.
    code, rows, count, last = _pack(text, len(text) // 8 + 1)
    if code == -_ENOSPC:
        code, rows, count, last = _pack(text, len(text) // 3 + 1)
    if code == -_EINVAL:
        raise ValueError(set_text.bad_member(text[last:].partition(b"\n")[0]))
    _check(code, "text")
    return bytes(memoryview(rows)[: count * SET_ROW_SIZE])


def _pack(text: bytes, n_rows_max: int) -> tuple[int, bytearray, int, int]:
    """Return the code, the buffer, how many rows are in it and where the last member begins."""
    rows = bytearray(n_rows_max * SET_ROW_SIZE)
    counts = ffi.new("size_t[2]")
    code = lib.ce_pack_set_members(_view(text), len(text), _view(rows), n_rows_max, counts)
    return code, rows, counts[0], counts[1]


def _view(buffer: bytes | bytearray) -> object:
    return ffi.from_buffer("uint8_t[]", buffer)


def _check(code: int, problem: str) -> None:
    """Turn a C return code into the exception of the pure twin."""
    if code == -_EINVAL:
        raise ValueError(problem)
    if code != 0:
        raise OverflowError(f"fast path: buffer too long (code {code})")
