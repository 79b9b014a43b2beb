"""The fast path in pure Python: the specification that native/src/*.c is held against.

Pure. A row is row_size bytes, a sortable key then a value digest; a buffer is rows back to back.
Both twins raise ValueError with the same text for the same bad input, checked before any work.
"""

from collections.abc import Sequence
from itertools import pairwise

ADDRESS_SIZES = (4, 16)


def check_rows(name: str, rows: bytes, row_size: int) -> int:
    """Return how many rows the buffer holds.

    Raises: ValueError when row_size is not positive, or the length no multiple of it.
    """
    if row_size <= 0:
        raise ValueError(f"row_size must be positive, got {row_size}")
    if len(rows) % row_size:
        raise ValueError(f"{name}: {len(rows)} bytes is no multiple of row_size {row_size}")
    return len(rows) // row_size


def check_key_size(key_size: int, row_size: int) -> None:
    """Raises: ValueError unless the key is inside the row and not empty."""
    if not 0 < key_size <= row_size:
        raise ValueError(f"key_size must be within 1..{row_size} (row_size), got {key_size}")


def check_address_size(address_size: int) -> None:
    """Raises: ValueError unless it is IPv4's or IPv6's."""
    if address_size not in ADDRESS_SIZES:
        raise ValueError(f"address_size must be 4 (IPv4) or 16 (IPv6), got {address_size}")


def sort_rows(rows: bytes, row_size: int) -> bytes:
    """Return the rows in ascending byte order; equal rows stay, none is dropped."""
    check_rows("rows", rows, row_size)
    return b"".join(sorted(_split(rows, row_size)))


def sort_unique_rows(rows: bytes, row_size: int) -> bytes:
    """Return the rows in ascending byte order, each once."""
    check_rows("rows", rows, row_size)
    return b"".join(sorted(set(_split(rows, row_size))))


def diff_rows(
    desired: bytes, actual: bytes, key_size: int, row_size: int
) -> tuple[Sequence[int], Sequence[int], Sequence[int]]:
    """Return what turns actual into desired: (added, changed, removed), ascending row indexes.

    added and changed index into desired, removed into actual. changed: same key, other digest.
    Raises: ValueError unless both buffers are sorted with no key twice.
    """
    check_rows("desired", desired, row_size)
    check_rows("actual", actual, row_size)
    check_key_size(key_size, row_size)
    want = _rows_by_key(desired, key_size, row_size)
    have = _rows_by_key(actual, key_size, row_size)
    added = [i for i, key in enumerate(want) if key not in have]
    changed = [i for i, (key, row) in enumerate(want.items()) if key in have and have[key] != row]
    removed = [i for i, key in enumerate(have) if key not in want]
    return added, changed, removed


def longest_prefix(prefixes: bytes, addresses: bytes, address_size: int) -> Sequence[int]:
    """Return for each address the row index of the longest prefix that covers it, or -1.

    prefixes: rows of address_size + 1 bytes (network address, length in bits), sorted, host bits
    zero, none twice. addresses: back to back, address_size bytes each.
    Raises: ValueError unless the prefixes are so.
    """
    check_address_size(address_size)
    check_rows("prefixes", prefixes, address_size + 1)
    check_rows("addresses", addresses, address_size)
    index: dict[tuple[int, int], int] = {}
    previous = b""
    for i, row in enumerate(_split(prefixes, address_size + 1)):
        network, length_bits = int.from_bytes(row[:-1], "big"), row[-1]
        host_bits = address_size * 8 - length_bits
        if host_bits < 0 or network & ((1 << host_bits) - 1) or row <= previous:
            raise ValueError("prefixes: not sorted, one twice, too long, or with host bits set")
        index[network >> host_bits, length_bits] = i
        previous = row
    lengths_bits = sorted({length_bits for _, length_bits in index}, reverse=True)
    found: list[int] = []
    for packed in _split(addresses, address_size):
        address = int.from_bytes(packed, "big")
        hits = (index.get((address >> (address_size * 8 - n), n), -1) for n in lengths_bits)
        found.append(next((i for i in hits if i >= 0), -1))
    return found


def subtract_rows(rows: bytes, others: bytes, row_size: int) -> bytes:
    """Return the rows that others does not have, in their order, each once.

    Raises: ValueError unless both buffers are sorted; a row may be there twice.
    """
    check_rows("rows", rows, row_size)
    check_rows("others", others, row_size)
    split, split_others = _split(rows, row_size), _split(others, row_size)
    if any(a > b for some in (split, split_others) for a, b in pairwise(some)):
        raise ValueError("rows or others: not sorted")
    present = set(split_others)
    return b"".join(row for row in dict.fromkeys(split) if row not in present)


def _split(rows: bytes, row_size: int) -> list[bytes]:
    return [rows[i : i + row_size] for i in range(0, len(rows), row_size)]


def _rows_by_key(rows: bytes, key_size: int, row_size: int) -> dict[bytes, bytes]:
    """Return key -> row in buffer order. Raises: ValueError unless keys ascend strictly."""
    split = _split(rows, row_size)
    keys = [row[:key_size] for row in split]
    if any(a >= b for a, b in pairwise(keys)):
        raise ValueError("desired or actual: rows not sorted, or a key twice")
    return dict(zip(keys, split, strict=True))
