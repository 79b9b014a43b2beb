"""What the kernel says it has: dumps of tables, chains, rules, sets and elements.

Pure. Bytes in are as they come from the netlink socket and are not trusted to be ours: what is foreign or not
understood is kept apart ("" for a comment, None for a shape), never taken for something of ours.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from itertools import zip_longest

import msgspec

from calico_engine.fastpath import parse_element_dump, parse_rule_dump
from calico_engine.fastpath.nft_messages import ELEMENT_ROW_TAIL, RULE_ROW
from calico_engine.ruleset.ir import Family
from calico_engine.tables.backend import CATCH_ALL, ActualSet, Element, KeyPart, SetShape, ValueKind
from calico_engine_nftables import elements as wire_elements
from calico_engine_nftables import messages as m
from calico_engine_nftables.wire import (
    HEADER_BYTES,
    NF_FAMILIES,
    NLM_F_DUMP,
    SUBSYSTEM,
    Kind,
    message,
    read_attributes,
    read_comment,
    read_text,
    text,
)

_HEADER = struct.Struct("=IHHII")
_PARTS = {7: KeyPart.ADDRESS, 8: KeyPart.ADDRESS, 41: KeyPart.INTERFACE, 12: KeyPart.PROTOCOL,
          13: KeyPart.PORT, m.TYPE_MARK: KeyPart.NUMBER}  # fmt: skip
#: A hash table with fewer elements than this has not grown yet.
_SMALLEST_HASH = 32
_FLAGS_WE_MAKE = m.FLAG_INTERVAL | m.FLAG_MAP | m.FLAG_CONCAT


class ActualChain(msgspec.Struct, frozen=True, gc=False):
    """`hook` is the number of the kernel's hook, None for a chain that only rules lead to; `policy` 1 is to accept."""

    name: str
    handle: int
    hook: int | None = None
    priority: int = 0
    kind: str = ""
    policy: int = 1


class ActualRule(msgspec.Struct, frozen=True, gc=False):
    """`comment` is "" where there is none, or it is nobody's text."""

    chain: str
    handle: int
    comment: str


class ActualSetHead(msgspec.Struct, frozen=True, gc=False):
    """A set without its elements; shape None for one that we never make.

    `count` of elements without a catch-all; None where the kernel does not tell, and for ranges. `is_counting`: each
    element has a counter.
    """

    name: str
    shape: SetShape | None
    comment: str = ""
    count: int | None = None
    is_counting: bool = False


def tables_request(family: Family) -> bytes:
    return message(Kind.GETTABLE, NLM_F_DUMP, family, b"")


def chains_request(family: Family) -> bytes:
    """Ask for the chains of all tables of the family: the kernel has no narrower question."""
    return message(Kind.GETCHAIN, NLM_F_DUMP, family, b"")


def rules_request(family: Family, table: str) -> bytes:
    return message(Kind.GETRULE, NLM_F_DUMP, family, text(m.TABLE_NAME, table))


def sets_request(family: Family, table: str) -> bytes:
    return message(Kind.GETSET, NLM_F_DUMP, family, text(m.TABLE_NAME, table))


def elements_request(family: Family, table: str, name: str) -> bytes:
    """Ask for the elements of a set. The kernel answers ENOENT when it is not there."""
    return message(Kind.GETSETELEM, NLM_F_DUMP, family, text(m.TABLE_NAME, table) + text(m.SET_NAME, name))


def parse_tables(dump: bytes, family: Family) -> list[str]:
    return [read_text(found.get(m.TABLE_NAME, b"")) for found in _bodies(dump, Kind.NEWTABLE, family)]


def parse_table_flags(dump: bytes, family: Family) -> dict[str, int]:
    """Return the tables of a family, each with its flags."""
    return {
        read_text(found.get(m.TABLE_NAME, b"")): int.from_bytes(found.get(m.TABLE_FLAGS, b""), "big")
        for found in _bodies(dump, Kind.NEWTABLE, family)
    }


def parse_chains(dump: bytes, family: Family, table: str) -> list[ActualChain]:
    return [
        _chain(found)
        for found in _bodies(dump, Kind.NEWCHAIN, family)
        if read_text(found.get(m.TABLE_NAME, b"")) == table
    ]


def _chain(found: dict[int, bytes]) -> ActualChain:
    name, handle = read_text(found.get(m.CHAIN_NAME, b"")), int.from_bytes(found.get(2, b""), "big")
    if m.CHAIN_HOOK not in found:
        return ActualChain(name, handle)
    hook = dict(read_attributes(found[m.CHAIN_HOOK]))
    return ActualChain(
        name,
        handle,
        hook=int.from_bytes(hook.get(1, b""), "big"),
        priority=int.from_bytes(hook.get(2, b""), "big", signed=True),
        kind=read_text(found.get(m.CHAIN_TYPE, b"")),
        policy=int.from_bytes(found.get(m.CHAIN_POLICY, b"\1"), "big"),
    )


def parse_rules(dump: bytes, family: Family, table: str) -> list[ActualRule]:
    """Return the rules of a table, chain by chain in their order. Raises: ValueError."""
    name = table.encode() + b"\0"
    chains: dict[bytes, str] = {}
    found: list[ActualRule] = []
    for row in RULE_ROW.iter_unpack(parse_rule_dump(dump)):
        handle, table_at, table_bytes, chain_at, chain_bytes, data_at, data_bytes = row
        if dump[table_at : table_at + table_bytes] != name:
            continue
        chain = dump[chain_at : chain_at + chain_bytes]
        if chain not in chains:
            chains[chain] = read_text(chain)
        comment = read_comment(dump[data_at : data_at + data_bytes])
        found.append(ActualRule(chains[chain], handle, comment))
    return found


def parse_sets(dump: bytes, family: Family, table: str) -> list[ActualSetHead]:
    return [
        _set_head(found, family)
        for found in _bodies(dump, Kind.NEWSET, family)
        if read_text(found.get(m.TABLE_NAME, b"")) == table
    ]


def _set_head(found: dict[int, bytes], family: Family) -> ActualSetHead:
    shape, count = _shape(found, family), found.get(m.SET_COUNT)
    return ActualSetHead(
        read_text(found.get(m.SET_NAME, b"")),
        shape,
        read_comment(found.get(m.SET_USERDATA, b""), m.USERDATA_COMMENT),
        None if count is None or shape is None or shape.intervals else int.from_bytes(count, "big"),
        m.SET_EXPRESSION in found,
    )


def is_whole(head: ActualSetHead, elements: Mapping[bytes, Element], before: int | None) -> bool:
    """Tell whether a dump of a set's elements has them all.

    While the kernel moves a set's elements to a larger hash table, in the background and after a transaction that
    added many, a dump of them lacks some and repeats others, and nothing in it says so. Where the kernel does not tell
    how many there should be, it is enough to find as many as `before`, in the dump before.
    """
    if head.count is not None:
        return head.count == len(elements) - (CATCH_ALL in elements)
    never_resized = head.shape is None or head.shape.intervals or len(elements) <= _SMALLEST_HASH
    return never_resized or len(elements) == before


def _shape(found: dict[int, bytes], family: Family) -> SetShape | None:
    """Return the shape that a set of ours with these attributes has; None when we would make it differently."""

    def number(kind: int) -> int:
        return int.from_bytes(found.get(kind, b""), "big")

    flags, key_type, data_type = number(m.SET_FLAGS), number(m.SET_KEY_TYPE), number(m.SET_DATA_TYPE)
    if flags & ~_FLAGS_WE_MAKE:
        return None
    parts: list[KeyPart] = []
    while key_type:
        part = _PARTS.get(key_type & ((1 << m.TYPE_BITS) - 1))
        if part is None:
            return None
        parts.insert(0, part)
        key_type >>= m.TYPE_BITS
    value = ValueKind.NONE
    if flags & m.FLAG_MAP:
        value = ValueKind.VERDICT if data_type == m.TYPE_VERDICT else ValueKind.NUMBER
    shape = SetShape(tuple(parts), value, bool(flags & m.FLAG_INTERVAL))
    if not parts or m.key_type(shape, family) != number(m.SET_KEY_TYPE):
        return None
    if value is ValueKind.NUMBER and (data_type != m.TYPE_MARK or number(m.SET_DATA_LEN) != 4):
        return None
    return shape if m.key_bytes(shape, family) == number(m.SET_KEY_LEN) else None


def parse_elements(dump: bytes, family: Family, shape: SetShape | None) -> ActualSet:
    """Return a set with its elements; with none of them, and no shape, where they are not such as we make."""
    if shape is None:
        return ActualSet(None, {})
    try:
        rows = _element_rows(dump, shape, family)
        if shape.intervals and len(shape.key) == 1:
            return ActualSet(shape, _ranges(rows, m.key_bytes(shape, family)))
        return ActualSet(shape, _keys(rows, shape, family))
    except (KeyError, ValueError):
        return ActualSet(None, {})


#: What the element that ends a range has.
_NOTHING = Element()
#: First key, last key, flags, what it has.
_ElementRow = tuple[bytes, bytes, int, Element]


def _element_rows(dump: bytes, shape: SetShape, family: Family) -> Iterator[_ElementRow]:
    key_bytes, swaps = m.key_bytes(shape, family), wire_elements.number_words(shape, family)
    rows = parse_element_dump(dump, key_bytes, swaps)
    # Thousands of elements share a few values.
    known: dict[tuple[bytes, bytes], Element] = {}
    row = struct.Struct(f"={key_bytes}s{key_bytes}s{ELEMENT_ROW_TAIL.format[1:]}")
    for first, last, flags, data_at, data_bytes, user_at, user_bytes in row.iter_unpack(rows):
        if flags & wire_elements.FLAG_END:
            yield first, last, flags, _NOTHING
            continue
        parts = dump[data_at : data_at + data_bytes], dump[user_at : user_at + user_bytes]
        element = known.get(parts)
        if element is None:
            known[parts] = element = _element(shape.value, *parts)
        yield first, last, flags, element


def _element(kind: ValueKind, value: bytes, user_data: bytes) -> Element:
    data = dict(read_attributes(value))
    verdict = dict(read_attributes(data[2])) if 2 in data else {}
    return Element(wire_elements.read_value(kind, data, verdict), read_comment(user_data))


def _keys(rows: Iterator[_ElementRow], shape: SetShape, family: Family) -> dict[bytes, Element]:
    padding = bytes(wire_elements.packed_key_bytes(shape, family) - m.key_bytes(shape, family))
    found: dict[bytes, Element] = {}
    for first, last, flags, element in rows:
        if flags & wire_elements.FLAG_CATCH_ALL:
            found[CATCH_ALL] = element
        elif shape.intervals:
            found[first + last] = element
        else:
            found[first + padding] = element
    return found


def _ranges(rows: Iterator[_ElementRow], key_bytes: int) -> dict[bytes, Element]:
    """Read ranges of a key of one part: each begins at an element and lasts until the next, or the end of all."""
    found: dict[bytes, Element] = {}
    bounds: list[tuple[int, int, Element | None]] = []
    for first, _, flags, element in rows:
        if flags & wire_elements.FLAG_CATCH_ALL:
            found[CATCH_ALL] = element
            continue
        # The end of one range comes before the start of the next at the same key.
        is_end = bool(flags & wire_elements.FLAG_END)
        bounds.append((int.from_bytes(first, "big"), 0 if is_end else 1, None if is_end else element))
    bounds.sort(key=lambda bound: bound[:2])
    for (begin, _, content), following in zip_longest(bounds, bounds[1:]):
        if content is None:
            continue
        end = (1 << 8 * key_bytes) - 1 if following is None else following[0] - 1
        if end < begin:
            raise ValueError("two ranges begin at one key")
        found[begin.to_bytes(key_bytes, "big") + end.to_bytes(key_bytes, "big")] = content
    return found


def _bodies(dump: bytes, kind: Kind, family: Family) -> Iterator[dict[int, bytes]]:
    """Yield the attributes of each message of a kind. Raises: ValueError when one is cut off."""
    at, end = 0, len(dump)
    while at < end:
        if end - at < _HEADER.size:
            raise ValueError("dump: cut off")
        length, found, _, _, _ = _HEADER.unpack_from(dump, at)
        if length < _HEADER.size or at + length > end:
            raise ValueError("dump: cut off")
        if found == SUBSYSTEM | kind and length >= HEADER_BYTES and dump[at + 16] == NF_FAMILIES[family]:
            yield dict(read_attributes(memoryview(dump)[at + HEADER_BYTES : at + length]))
        at += (length + 3) & ~3
