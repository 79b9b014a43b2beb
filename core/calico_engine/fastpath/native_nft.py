"""nftables' messages through the C extension; same contract as nft_messages.py, function by function.

Pure. Importing this module fails with ImportError where the extension was not built.
"""

from array import array
from collections.abc import Sequence
from itertools import accumulate

from calico_engine._fastpath import ffi, lib
from calico_engine.fastpath import nft_messages as pure
from calico_engine.fastpath.pure import check_rows

_EINVAL = 22


def number_messages(messages: bytearray, first: int) -> tuple[int, int]:
    """Number the messages of a batch in place; return how many, and where the last but one is. Raises: ValueError."""
    counts = ffi.new("size_t[2]")
    code = lib.ce_number_messages(_view(messages), len(messages), first & 0xFFFFFFFF, counts)
    _check(code, pure.BAD_MESSAGES)
    return counts[0], counts[1]


def encode_set_elements(
    head: bytes, rows: bytes, packed_size: int, key_size: int, swaps: int, tails: Sequence[bytes]
) -> bytes:
    """Return messages back to back that carry the rows as elements of a set. Raises: ValueError."""
    pure.check_head(head)
    pure.check_key(key_size)
    if packed_size < key_size:
        raise ValueError(f"packed_size must be at least {key_size} (key_size), got {packed_size}")
    n_rows = check_rows("rows", rows, packed_size + 4)
    longest = pure.ELEMENT_OVERHEAD + ((key_size + 3) & ~3) + max(map(len, tails), default=0)
    # All messages but the last have no room for one more of the longest.
    n_messages = min(n_rows, n_rows * longest // max(pure.LARGEST_ELEMENTS - longest, 1) + 1)
    messages = bytearray(n_rows * longest + n_messages * (len(head) + 4))
    written = ffi.new("size_t *")
    code = lib.ce_encode_set_elements(
        *(_view(head), len(head), _view(rows), n_rows, packed_size, key_size, swaps),
        *(_view(b"".join(tails)), _ends(tails), len(tails), _view(messages), len(messages), written),
    )
    _check(code, pure.BAD_ELEMENTS)
    return bytes(memoryview(messages)[: written[0]])


def assemble_rules(head: bytes, expressions: Sequence[bytes], user_data: Sequence[bytes]) -> bytes:
    """Return one message a rule, back to back. Raises: ValueError."""
    pure.check_head(head)
    pure.check_pairs(expressions, user_data)
    bodies, notes = b"".join(expressions), b"".join(user_data)
    messages = bytearray(len(bodies) + len(notes) + len(expressions) * (len(head) + 16))
    written = ffi.new("size_t *")
    code = lib.ce_assemble_rules(
        *(_view(head), len(head), _view(bodies), _ends(expressions), _view(notes), _ends(user_data)),
        *(len(expressions), _view(messages), len(messages), written),
    )
    _check(code, pure.BAD_RULES)
    return bytes(memoryview(messages)[: written[0]])


def parse_element_dump(dump: bytes, key_size: int, swaps: int) -> bytes:
    """Return the elements in a dump of one set as rows. Raises: ValueError."""
    pure.check_key(key_size)
    row_size = 2 * key_size + pure.ELEMENT_ROW_TAIL.size
    n_rows_max = len(dump) // pure.SMALLEST_ELEMENT
    rows = bytearray(n_rows_max * row_size)
    n_rows = ffi.new("size_t *")
    code = lib.ce_parse_element_dump(_view(dump), len(dump), key_size, swaps, _view(rows), n_rows_max, n_rows)
    _check(code, pure.BAD_ELEMENT_DUMP)
    return bytes(memoryview(rows)[: n_rows[0] * row_size])


def parse_rule_dump(dump: bytes) -> bytes:
    """Return the rules in a dump as rows. Raises: ValueError."""
    n_rows_max = len(dump) // pure.SMALLEST_RULE
    rows = bytearray(n_rows_max * pure.RULE_ROW.size)
    n_rows = ffi.new("size_t *")
    code = lib.ce_parse_rule_dump(_view(dump), len(dump), _view(rows), n_rows_max, n_rows)
    _check(code, pure.BAD_RULE_DUMP)
    return bytes(memoryview(rows)[: n_rows[0] * pure.RULE_ROW.size])


def _view(buffer: bytes | bytearray) -> object:
    return ffi.from_buffer("uint8_t[]", buffer)


def _ends(parts: Sequence[bytes]) -> object:
    """Return where each of several parts ends when they are back to back."""
    return ffi.from_buffer("uint32_t[]", array("I", accumulate(map(len, parts))))


def _check(code: int, problem: str) -> None:
    """Turn a C return code into the exception of the pure twin."""
    if code == -_EINVAL:
        raise ValueError(problem)
    if code != 0:
        raise OverflowError(f"fast path: buffer too long (code {code})")
