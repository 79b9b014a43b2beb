"""nftables' messages by the thousand: rules and elements packed and unpacked: the specification of native/src/nft_*.c.

Pure. Both twins raise ValueError with the same text for the same bad input.
Source: include/uapi/linux/netlink.h, netfilter/nf_tables.h.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator, Sequence

from calico_engine.fastpath.pure import check_rows

#: The longest attribute that we make: its length has 16 bits, and padding must not pass them.
LARGEST_ATTRIBUTE = 65_528
#: The most that the elements of one message take.
LARGEST_ELEMENTS = 60_000
#: Of one element beside its key and what follows that.
ELEMENT_OVERHEAD = 12
#: The least that an element takes in a dump (a catch-all of a set), and that a rule takes.
SMALLEST_ELEMENT, SMALLEST_RULE = 12, 20

#: What a row of parse_rule_dump is: handle; then offset and length in the dump of table, chain and user data.
RULE_ROW = struct.Struct("=Q6I")
#: What follows the two keys in a row of parse_element_dump: flags; offset and length of value and user data.
ELEMENT_ROW_TAIL = struct.Struct("=5I")
#: In the flags of a row: the element has no key, and stands for all that are not listed.
CATCH_ALL_FLAG = 2

BAD_MESSAGES = "messages: cut off, or fewer than a begin, one more and an end"
BAD_ELEMENTS = "rows: the number of no tail, or a tail that is no multiple of 4 or too long"
BAD_RULES = "rules: expressions or user data too long for an attribute"
BAD_ELEMENT_DUMP = "dump: cut off, or an element without a key or with one of another size"
BAD_RULE_DUMP = "dump: cut off, or a handle that is none"

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_LENGTH = struct.Struct("=I")
_SEQUENCE_OFFSET = 8
_BODY_OFFSET = 20
_NESTED, _TYPE_MASK = 0x8000, 0x3FFF
_NEWRULE, _NEWSETELEM = 10 << 8 | 6, 10 << 8 | 12
_LIST_ELEMENT, _DATA_VALUE = 1, 1
_SET_ELEMENTS = 3
_KEY, _DATA, _FLAGS, _USERDATA, _KEY_END = 1, 2, 3, 6, 10
_RULE_TABLE, _RULE_CHAIN, _RULE_HANDLE, _RULE_EXPRESSIONS, _RULE_USERDATA = 1, 2, 3, 4, 7


def number_messages(messages: bytearray, first: int) -> tuple[int, int]:
    """Number the messages of a batch in place, from `first` up; return how many, and where the last but one is.

    Each begins at a multiple of 4. Raises: ValueError when one is cut off, or there are fewer than three.
    """
    at, count, end = 0, 0, len(messages)
    previous = last = 0
    while at < end:
        if end - at < _HEADER.size:
            raise ValueError(BAD_MESSAGES)
        (length,) = _LENGTH.unpack_from(messages, at)
        if length < _HEADER.size or length > end - at:
            raise ValueError(BAD_MESSAGES)
        _LENGTH.pack_into(messages, at + _SEQUENCE_OFFSET, (first + count) & 0xFFFFFFFF)
        previous, last = last, at
        count += 1
        at += (length + 3) & ~3
    if count < 3:
        raise ValueError(BAD_MESSAGES)
    return count, previous


def check_head(head: bytes) -> None:
    """Raises: ValueError unless it can begin a message."""
    if len(head) < _BODY_OFFSET or len(head) % 4:
        raise ValueError(f"head: {len(head)} bytes is no multiple of 4 that holds nlmsghdr and nfgenmsg")


def check_key(key_size: int) -> None:
    """Raises: ValueError unless the kernel has such keys (NFT_DATA_VALUE_MAXLEN)."""
    if not 0 < key_size <= 64:
        raise ValueError(f"key_size must be within 1..64, got {key_size}")


def swap_words(key: bytes, swaps: int) -> bytes:
    """Return a key with some of its 4-byte words reversed: bit i of `swaps` is for word i.

    Nothing changes on a big-endian machine, nor in words that the key does not have whole.
    """
    if not swaps or sys.byteorder == "big":
        return key
    words = [key[at : at + 4] for at in range(0, len(key), 4)]
    return b"".join(word[::-1] if swaps >> i & 1 and len(word) == 4 else word for i, word in enumerate(words))


def encode_set_elements(
    head: bytes, rows: bytes, packed_size: int, key_size: int, swaps: int, tails: Sequence[bytes]
) -> bytes:
    """Return messages back to back that carry the rows as elements of a set.

    head: nlmsghdr, nfgenmsg and the attributes before the elements, the same in every message; its length is filled in.
    rows: a key of packed_size bytes, of which the kernel gets key_size with some words swapped, and the number of a
    tail, 4 bytes in the machine's order. tails: what follows the key in the kernel's message, a multiple of 4 bytes.
    Raises: ValueError.
    """
    check_head(head)
    check_key(key_size)
    if packed_size < key_size:
        raise ValueError(f"packed_size must be at least {key_size} (key_size), got {packed_size}")
    check_rows("rows", rows, packed_size + 4)
    element_bytes = ELEMENT_OVERHEAD + ((key_size + 3) & ~3)
    messages: list[bytes] = []
    elements: list[bytes] = []
    size = 0
    for at in range(0, len(rows), packed_size + 4):
        number = int.from_bytes(rows[at + packed_size : at + packed_size + 4], sys.byteorder)
        if number >= len(tails):
            raise ValueError(BAD_ELEMENTS)
        tail = tails[number]
        length = element_bytes + len(tail)
        if len(tail) % 4 or length > LARGEST_ELEMENTS:
            raise ValueError(BAD_ELEMENTS)
        if size + length > LARGEST_ELEMENTS:
            messages.append(_elements_message(head, elements))
            elements, size = [], 0
        key = swap_words(rows[at : at + key_size], swaps)
        value = _attribute(_KEY | _NESTED, _attribute(_DATA_VALUE, key))
        elements.append(_attribute(_LIST_ELEMENT | _NESTED, value + tail))
        size += length
    if elements:
        messages.append(_elements_message(head, elements))
    return b"".join(messages)


def _elements_message(head: bytes, elements: list[bytes]) -> bytes:
    return _message(head, _attribute(_SET_ELEMENTS | _NESTED, b"".join(elements)))


def assemble_rules(head: bytes, expressions: Sequence[bytes], user_data: Sequence[bytes]) -> bytes:
    """Return one message a rule, back to back.

    head: nlmsghdr, nfgenmsg, table and chain; its length is filled in. user_data: one a rule, b"" for none.
    Raises: ValueError.
    """
    check_head(head)
    check_pairs(expressions, user_data)
    messages: list[bytes] = []
    for body, note in zip(expressions, user_data, strict=True):
        if len(body) > LARGEST_ATTRIBUTE - 4 or len(note) > LARGEST_ATTRIBUTE - 4:
            raise ValueError(BAD_RULES)
        rest = _attribute(_RULE_EXPRESSIONS | _NESTED, body)
        messages.append(_message(head, rest + _attribute(_RULE_USERDATA, note) if note else rest))
    return b"".join(messages)


def check_pairs(expressions: Sequence[bytes], user_data: Sequence[bytes]) -> None:
    """Raises: ValueError unless there is one of each for every rule."""
    if len(expressions) != len(user_data):
        raise ValueError(f"rules: {len(expressions)} bodies, but user data for {len(user_data)}")


def parse_element_dump(dump: bytes, key_size: int, swaps: int) -> bytes:
    """Return the elements in a dump of one set as rows: first key, last key, ELEMENT_ROW_TAIL.

    Words of keys are swapped as in swap_words. An element with one key has it twice, one without has zeros and
    CATCH_ALL_FLAG. Offsets are into the dump; length 0 is for what is not there. Raises: ValueError.
    """
    check_key(key_size)
    rows: list[bytes] = []
    for begin, end in _bodies(dump, _NEWSETELEM, BAD_ELEMENT_DUMP):
        for kind, start, stop in _attributes(dump, begin, end, BAD_ELEMENT_DUMP):
            if kind != _SET_ELEMENTS:
                continue
            for _, element, element_end in _attributes(dump, start, stop, BAD_ELEMENT_DUMP):
                rows.append(_element_row(dump, element, element_end, key_size, swaps))
    return b"".join(rows)


def _element_row(dump: bytes, begin: int, end: int, key_size: int, swaps: int) -> bytes:
    key = last = b""
    flags, data, user_data = 0, (0, 0), (0, 0)
    for kind, start, stop in _attributes(dump, begin, end, BAD_ELEMENT_DUMP):
        if kind == _KEY:
            key = _read_key(dump, start, stop, key_size)
        elif kind == _KEY_END:
            last = _read_key(dump, start, stop, key_size)
        elif kind == _DATA:
            data = (start, stop - start)
        elif kind == _USERDATA:
            user_data = (start, stop - start)
        elif kind == _FLAGS:
            if stop - start != 4:
                raise ValueError(BAD_ELEMENT_DUMP)
            flags = int.from_bytes(dump[start:stop], "big")
    if bool(key) is bool(flags & CATCH_ALL_FLAG):
        raise ValueError(BAD_ELEMENT_DUMP)
    key = swap_words(key or bytes(key_size), swaps)
    last = swap_words(last, swaps) if last else key
    return key + last + ELEMENT_ROW_TAIL.pack(flags, *data, *user_data)


def _read_key(dump: bytes, begin: int, end: int, key_size: int) -> bytes:
    """Return the value of NFTA_SET_ELEM_KEY or _KEY_END."""
    key = b""
    for kind, start, stop in _attributes(dump, begin, end, BAD_ELEMENT_DUMP):
        if kind == _DATA_VALUE:
            key = dump[start:stop]
    if len(key) != key_size:
        raise ValueError(BAD_ELEMENT_DUMP)
    return key


def parse_rule_dump(dump: bytes) -> bytes:
    """Return the rules in a dump as rows of RULE_ROW, in the dump's order; length 0 for what is not there.

    Raises: ValueError.
    """
    rows: list[bytes] = []
    for begin, end in _bodies(dump, _NEWRULE, BAD_RULE_DUMP):
        handle, table, chain, user_data = 0, (0, 0), (0, 0), (0, 0)
        for kind, start, stop in _attributes(dump, begin, end, BAD_RULE_DUMP):
            place = (start, stop - start)
            if kind == _RULE_TABLE:
                table = place
            elif kind == _RULE_CHAIN:
                chain = place
            elif kind == _RULE_USERDATA:
                user_data = place
            elif kind == _RULE_HANDLE:
                if stop - start != 8:
                    raise ValueError(BAD_RULE_DUMP)
                handle = int.from_bytes(dump[start:stop], "big")
        rows.append(RULE_ROW.pack(handle, *table, *chain, *user_data))
    return b"".join(rows)


def _message(head: bytes, rest: bytes) -> bytes:
    return _LENGTH.pack(len(head) + len(rest)) + head[4:] + rest


def _attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(4 + len(value), kind) + value + bytes(-len(value) % 4)


def _bodies(dump: bytes, kind: int, problem: str) -> Iterator[tuple[int, int]]:
    """Yield where the attributes of each message of a kind begin and end."""
    at, end = 0, len(dump)
    while at < end:
        if end - at < _HEADER.size:
            raise ValueError(problem)
        length, found, _, _, _ = _HEADER.unpack_from(dump, at)
        if length < _HEADER.size or length > end - at:
            raise ValueError(problem)
        if found == kind:
            if length < _BODY_OFFSET:
                raise ValueError(problem)
            yield at + _BODY_OFFSET, at + length
        at += (length + 3) & ~3


def _attributes(dump: bytes, at: int, end: int, problem: str) -> Iterator[tuple[int, int, int]]:
    """Yield (type, begin, end) of each attribute in a part of a dump."""
    while at < end:
        if end - at < _ATTRIBUTE.size:
            raise ValueError(problem)
        length, kind = _ATTRIBUTE.unpack_from(dump, at)
        if length < _ATTRIBUTE.size or length > end - at:
            raise ValueError(problem)
        yield kind & _TYPE_MASK, at + _ATTRIBUTE.size, at + length
        at += (length + 3) & ~3
