"""Elements of sets and maps as messages, many a message.

Pure. Keys and values come as tables.backend packs them. Numbers change to the machine's own order, in which the kernel
compares them with its registers. A range of a key of one part is two elements, its first key and the first one after
it; a range of a key of several parts is one element with two keys.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache

from calico_engine.fastpath import encode_set_elements
from calico_engine.fastpath.nft_messages import swap_words
from calico_engine.ruleset.ir import Family
from calico_engine.tables.backend import CATCH_ALL, Element, KeyPart, SetShape, ValueKind
from calico_engine_nftables import words
from calico_engine_nftables.messages import SET_NAME, TABLE_NAME, key_bytes, part_bytes
from calico_engine_nftables.wire import (
    LITTLE_ENDIAN,
    NLM_F_CREATE,
    Kind,
    Verdict,
    attribute,
    comment_data,
    extend,
    host_number,
    message,
    nested,
    number,
    text,
)

KEY, DATA, FLAGS, USERDATA, KEY_END = 1, 2, 3, 6, 10
LIST_ELEMENTS = 3
FLAG_END, FLAG_CATCH_ALL = 1, 2
#: The most that the elements of a message may take: they are one attribute, whose length has 16 bits.
_MESSAGE_MAX_BYTES = 60_000
#: So many are encoded one by one: packing takes longer.
_FEW = 8
#: In the user data of an element: a range that no other element ends. libnftnl/udata.h, nftables' rule.h.
_OPEN_RANGE = bytes((1, 4)) + host_number(1)

_VERDICTS = {b"return": Verdict.RETURN, b"drop": Verdict.DROP, b"accept": Verdict.ACCEPT}
_VERDICTS_WITH_CHAIN = {b"goto": Verdict.GOTO, b"jump": Verdict.JUMP}

Convert = Callable[[bytes], bytes]


def encode_elements(
    family: Family, table: str, name: str, shape: SetShape, elements: Mapping[bytes, Element]
) -> list[bytes]:
    """Return messages that add elements to a set. Raises: ValueError for a key or value of another shape."""
    return _encode(Kind.NEWSETELEM, NLM_F_CREATE, (family, table, name), shape, elements)


def encode_deletions(
    family: Family, table: str, name: str, shape: SetShape, keys: Iterable[bytes]
) -> list[bytes]:
    """Return messages that delete elements of a set; the kernel refuses them all when one is not there."""
    without_values = SetShape(shape.key, ValueKind.NONE, shape.intervals)
    elements = dict.fromkeys(keys, _NOTHING)
    return _encode(Kind.DELSETELEM, 0, (family, table, name), without_values, elements)


_NOTHING = Element()


def _encode(
    kind: Kind, flags: int, place: tuple[Family, str, str], shape: SetShape, elements: Mapping[bytes, Element]
) -> list[bytes]:
    family, table, name = place
    head = message(kind, flags, family, text(TABLE_NAME, table) + text(SET_NAME, name))
    if len(elements) > _FEW and not shape.intervals:
        return _many(head, shape, family, elements)
    return _few(head, _encoded(shape, family, elements))


def _few(head: bytes, elements: Iterable[bytes]) -> list[bytes]:
    messages: list[bytes] = []
    parts: list[bytes] = []
    size = 0
    for element in elements:
        size += len(element)
        if size > _MESSAGE_MAX_BYTES:
            messages.append(extend(head, nested(LIST_ELEMENTS, *parts)))
            parts, size = [], len(element)
        parts.append(element)
    if parts:
        messages.append(extend(head, nested(LIST_ELEMENTS, *parts)))
    return messages


def _many(head: bytes, shape: SetShape, family: Family, elements: Mapping[bytes, Element]) -> list[bytes]:
    """Encode by the fast path, with the few values that elements share packed once."""
    packed_bytes = packed_key_bytes(shape, family)
    tails: list[bytes] = []
    # By identity, as most elements are one of few objects.
    numbers: dict[int, bytes] = {}
    for element in elements.values():
        if id(element) not in numbers:
            numbers[id(element)] = len(tails).to_bytes(4, sys.byteorder)
            tails.append(_tail(shape.value, element))
    catch_all = elements.get(CATCH_ALL)
    rows = [key + numbers[id(element)] for key, element in elements.items()]
    odd = [key for key in elements if len(key) != packed_bytes]
    if odd != ([CATCH_ALL] if catch_all else []):
        raise _bad_key(shape, packed_bytes, next(filter(None, odd)))
    messages = []
    if catch_all is not None:
        rows.remove(numbers[id(catch_all)])
        messages = _few(head, [_catch_all(shape, packed_bytes, CATCH_ALL, catch_all)])
    swaps = number_words(shape, family)
    encoded = encode_set_elements(head, b"".join(rows), packed_bytes, key_bytes(shape, family), swaps, tails)
    return [*messages, encoded]


def _encoded(shape: SetShape, family: Family, elements: Mapping[bytes, Element]) -> Iterator[bytes]:
    packed_bytes = packed_key_bytes(shape, family)
    to_kernel = key_converter(shape, family)
    if shape.intervals:
        yield from _ranges(shape, packed_bytes, to_kernel, elements)
        return
    for key, element in elements.items():
        if len(key) != packed_bytes:
            yield _catch_all(shape, packed_bytes, key, element)
        else:
            start = nested(KEY, attribute(1, to_kernel(key)))
            yield nested(1, start, _tail(shape.value, element))


def _ranges(
    shape: SetShape, packed_bytes: int, to_kernel: Convert, elements: Mapping[bytes, Element]
) -> Iterator[bytes]:
    for key, element in elements.items():
        if len(key) != 2 * packed_bytes:
            yield _catch_all(shape, 2 * packed_bytes, key, element)
            continue
        first, last = to_kernel(key[:packed_bytes]), to_kernel(key[packed_bytes:])
        if len(shape.key) > 1:
            end = nested(KEY_END, attribute(1, last))
            yield nested(1, nested(KEY, attribute(1, first)), end, _tail(shape.value, element))
            continue
        after = int.from_bytes(last, "big") + 1
        is_open = after >> 8 * len(last) != 0
        start = nested(KEY, attribute(1, first))
        yield nested(1, start, _tail(shape.value, element, _OPEN_RANGE if is_open else b""))
        if not is_open:
            end = nested(KEY, attribute(1, after.to_bytes(len(last), "big")))
            yield nested(1, end, number(FLAGS, FLAG_END))


def _catch_all(shape: SetShape, expected_bytes: int, key: bytes, element: Element) -> bytes:
    if key != CATCH_ALL:
        raise ValueError(
            f"key {key.hex()} of a set of {shape.key}: {len(key)} bytes, must be {expected_bytes}"
        )
    return nested(1, _tail(shape.value, element), number(FLAGS, FLAG_CATCH_ALL))


def _bad_key(shape: SetShape, expected_bytes: int, key: bytes) -> ValueError:
    parts = " . ".join(shape.key)
    return ValueError(f"key {key.hex()} of a set of {parts}: {len(key)} bytes, must be {expected_bytes}")


@lru_cache(maxsize=1 << 12)
def _tail(kind: ValueKind, element: Element, more_user_data: bytes = b"") -> bytes:
    """Return an element's value and user data."""
    user_data = comment_data(element.comment) + more_user_data
    return _value(kind, element.value) + (attribute(USERDATA, user_data) if user_data else b"")


@lru_cache(maxsize=1 << 16)
def _value(kind: ValueKind, value: bytes) -> bytes:
    if kind is ValueKind.NONE:
        return b""
    if kind is ValueKind.NUMBER:
        if len(value) != 4:
            raise ValueError(f"value {value.hex()}: {len(value)} bytes, a number has 4")
        return nested(DATA, attribute(1, host_number(int.from_bytes(value, "big"))))
    code = _VERDICTS.get(value)
    if code is not None:
        return nested(DATA, words.verdict_data(code))
    verb, _, chain = value.partition(b" ")
    code = _VERDICTS_WITH_CHAIN.get(verb)
    if code is None or not chain:
        raise ValueError(f"verdict {value!r}: must be return, drop, accept, goto CHAIN or jump CHAIN")
    return nested(DATA, words.verdict_data(code, chain.decode()))


def read_value(kind: ValueKind, data: dict[int, bytes], verdict: dict[int, bytes]) -> bytes:
    """Return a value as the backend packs it, of NFTA_DATA_VALUE or NFTA_VERDICT_CODE and _CHAIN.

    Raises: ValueError for one that we never make.
    """
    if kind is ValueKind.NONE:
        return b""
    if kind is ValueKind.NUMBER:
        return swap_number(data[1])
    code = int.from_bytes(verdict[1], "big", signed=True)
    chain = verdict.get(2, b"").split(b"\0", 1)[0]
    for words_, number_ in (_VERDICTS_WITH_CHAIN if chain else _VERDICTS).items():
        if number_ == code:
            return words_ + b" " + chain if chain else words_
    raise ValueError(f"verdict {code}")


def swap_number(value: bytes) -> bytes:
    return value[::-1] if LITTLE_ENDIAN else value


def packed_key_bytes(shape: SetShape, family: Family) -> int:
    """Return the bytes of a key as the backend packs it."""
    return sum((part_bytes(part, family) + 3) & ~3 for part in shape.key)


def number_words(shape: SetShape, family: Family) -> int:
    """Return which words of a key are numbers, as bits: the kernel has them in the machine's own order."""
    words_, word = 0, 0
    for part in shape.key:
        words_ |= (part is KeyPart.NUMBER) << word
        word += (part_bytes(part, family) + 3) // 4
    return words_


def key_converter(shape: SetShape, family: Family) -> Convert:
    """Return what turns a packed key into the kernel's."""
    length, swaps = key_bytes(shape, family), number_words(shape, family)
    return lambda key: swap_words(key[:length], swaps)
