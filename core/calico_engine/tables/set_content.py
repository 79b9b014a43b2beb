"""What the sets and maps of a table hold, packed: identities, levels of verdict tables, dispatch, members.

Pure. Keys and values are as backend.SetShape says. Interned: thousands of elements share a few values.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import lru_cache
from ipaddress import ip_address
from typing import TypeVar, assert_never

from calico_engine.fastpath import SET_ROW_SIZE
from calico_engine.kernel.set_rows import pack_members
from calico_engine.ruleset.classify import ExactTable
from calico_engine.ruleset.ir import (
    CellVerdict,
    ChainKey,
    DispatchByInterface,
    Drop,
    Family,
    Goto,
    Identities,
    Level,
    Return,
)
from calico_engine.ruleset.names import safe_text
from calico_engine.tables.backend import CATCH_ALL, Element, KeyPart, SetShape, ValueKind
from calico_engine.tables.named_set import SetContent
from calico_engine.tables.single_table import COMMENT_MAX_CHARS, chain_name, origin_text

K = TypeVar("K")

_INTERFACE_BYTES = 16
#: What is in a set without values.
MEMBER = Element()

HOSTS = SetShape((KeyPart.ADDRESS,), ValueKind.NUMBER)
NETS = SetShape((KeyPart.ADDRESS,), ValueKind.NUMBER, intervals=True)
DISPATCH = SetShape((KeyPart.INTERFACE,), ValueKind.VERDICT)
INTERFACES = SetShape((KeyPart.INTERFACE,))
SOURCES = SetShape((KeyPart.INTERFACE, KeyPart.ADDRESS))
PAIRS = SetShape((KeyPart.NUMBER, KeyPart.NUMBER))
IP_PORTS = SetShape((KeyPart.ADDRESS, KeyPart.PROTOCOL, KeyPart.PORT))

_PAIR = (KeyPart.NUMBER, KeyPart.NUMBER)
LEVELS = {
    Level.PORTS: SetShape((*_PAIR, KeyPart.PROTOCOL, KeyPart.PORT), ValueKind.VERDICT),
    Level.PROTOCOLS: SetShape((*_PAIR, KeyPart.PROTOCOL), ValueKind.VERDICT),
    Level.IDENTITIES: SetShape(_PAIR, ValueKind.VERDICT),
    Level.WORLD_PORTS: SetShape((KeyPart.PROTOCOL, KeyPart.PORT), ValueKind.VERDICT),
    Level.WORLD: SetShape((KeyPart.PROTOCOL,), ValueKind.VERDICT),
}


@lru_cache(maxsize=1 << 17)
def _number(number: int) -> bytes:
    return number.to_bytes(4, "big")


@lru_cache(maxsize=1 << 16)
def number_element(number: int) -> Element:
    return Element(_number(number))


def pair_key(pair: tuple[int, int]) -> bytes:
    return _number(pair[0]) + _number(pair[1])


def read_pair(key: bytes) -> tuple[int, int]:
    """Return the identity that a key begins with."""
    return int.from_bytes(key[:4], "big"), int.from_bytes(key[4:8], "big")


@lru_cache(maxsize=256)
def _protocol(number: int) -> bytes:
    return bytes((number, 0, 0, 0))


def _port(number: int) -> bytes:
    return number.to_bytes(2, "big") + b"\0\0"


@lru_cache(maxsize=1 << 16)
def verdict_element(verdict: CellVerdict) -> Element:
    """Return a verdict as the value of an element, with the rule that decided it for a comment."""
    match verdict.op:
        case Return():
            value = b"return"
        case Drop():
            value = b"drop"
        case Goto(chain=chain):
            value = f"goto {chain}".encode()
        case _:
            assert_never(verdict.op)
    return Element(value, origin_text(verdict.origin))


def host_elements(identities: Identities) -> Iterator[tuple[bytes, Element]]:
    yield CATCH_ALL, number_element(0)
    hosts = identities.hosts
    for address in hosts:
        yield address, number_element(hosts[address])


def net_elements(identities: Identities) -> Iterator[tuple[bytes, Element]]:
    yield CATCH_ALL, number_element(0)
    for (first, last), number in identities.nets.items():
        yield first + last, number_element(number)


def pairs_content(pairs: Iterable[tuple[int, int]], comment: str) -> SetContent:
    return SetContent(PAIRS, {pair_key(pair): MEMBER for pair in pairs}, comment)


def ip_port_content(members: Collection[str], family: Family, comment: str) -> SetContent:
    """Return the members of this family of a set of addresses and ports."""
    v6 = family is Family.V6
    own = [member for member in members if (":" in member.partition(",")[0]) is v6]
    rows = pack_members(own)
    end = 18 if v6 else 6
    elements = {
        rows[at + 2 : at + end] + _protocol(rows[at + 18]) + rows[at + 19 : at + 21] + b"\0\0": MEMBER
        for at in range(0, len(rows), SET_ROW_SIZE)
    }
    return SetContent(IP_PORTS, elements, comment)


def interfaces_content(names: Iterable[str]) -> SetContent:
    elements = {name.encode().ljust(_INTERFACE_BYTES, b"\0"): MEMBER for name in names}
    return SetContent(INTERFACES, elements, "of workload endpoints")


def sources_content(pairs: Iterable[tuple[str, str]]) -> SetContent:
    elements = {
        name.encode().ljust(_INTERFACE_BYTES, b"\0") + ip_address(address).packed: MEMBER
        for name, address in pairs
    }
    return SetContent(SOURCES, elements, "whose source needs no look at the routes")


def dispatch_content(key: ChainKey, op: DispatchByInterface) -> SetContent:
    """Return the map of a chain that dispatches: interface -> verdict, with whose interface it is for a comment."""
    verb = b"goto " if op.goto else b"jump "
    comments = op.comments or ("",) * len(op.targets)
    elements = {
        name.encode().ljust(_INTERFACE_BYTES, b"\0"): _target(verb, ChainKey(key.layer, chain), comment)
        for (name, chain), comment in zip(op.targets, comments, strict=True)
    }
    return SetContent(DISPATCH, elements, f"{op.direction} interface to chain")


@lru_cache(maxsize=1 << 14)
def _target(verb: bytes, key: ChainKey, comment: str) -> Element:
    words = comment.replace("(", " ").replace(")", "")
    return Element(verb + chain_name(key).encode(), safe_text(words, COMMENT_MAX_CHARS))


def level_content(table: ExactTable, level: Level) -> SetContent:
    """Return all of one level of a verdict table."""
    return SetContent(
        LEVELS[level], {key: element for key, element in level_changes(_EMPTY, table, level) if element}
    )


def level_changes(
    before: ExactTable, after: ExactTable, level: Level
) -> Iterator[tuple[bytes, Element | None]]:
    """Yield what one level has by key now, where that is not what it had: None for no longer listed."""
    match level:
        case Level.PORTS:
            yield from _changes(before.ports, after.ports, _pack_ports)
        case Level.PROTOCOLS:
            yield from _changes(before.protocols, after.protocols, _pack_protocols)
        case Level.IDENTITIES:
            yield from _changes(before.identities, after.identities, pair_key)
        case Level.WORLD_PORTS:
            yield from _changes(before.world_ports, after.world_ports, _pack_service)
        case Level.WORLD:
            yield from _changes(before.world, after.world, _protocol)
            if before is _EMPTY or before.rest != after.rest:
                yield CATCH_ALL, verdict_element(after.rest)


def _changes(
    before: Mapping[K, CellVerdict], after: Mapping[K, CellVerdict], pack: Callable[[K], bytes]
) -> Iterator[tuple[bytes, Element | None]]:
    if before is after:
        return
    for key in before:
        if key not in after:
            yield pack(key), None
    for key, verdict in after.items():
        if before.get(key) != verdict:
            yield pack(key), verdict_element(verdict)


def _pack_ports(key: tuple[int, int, int, int]) -> bytes:
    host, net, protocol, port = key
    return _number(host) + _number(net) + _protocol(protocol) + _port(port)


def _pack_protocols(key: tuple[int, int, int]) -> bytes:
    host, net, protocol = key
    return _number(host) + _number(net) + _protocol(protocol)


def _pack_service(key: tuple[int, int]) -> bytes:
    return _protocol(key[0]) + _port(key[1])


_EMPTY = ExactTable({}, {}, {}, {}, {}, CellVerdict(Drop()))
