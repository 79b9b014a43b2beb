"""Looks into the table's sets and maps: identity pairs, addresses with ports, verdicts.

Pure. A key of several parts is loaded into registers one after the other. nft cannot list a lookup whose key comes
straight out of another lookup (1.0.6 and later abort), so identities reach their registers through the packet's mark,
which is put back before anything else sees it. Whatever may break a rule off is loaded before the mark is touched.
"""

from __future__ import annotations

from calico_engine.messages import SetKind
from calico_engine.ruleset.ir import (
    Classify,
    DispatchByInterface,
    Family,
    InterfaceAssigned,
    Level,
    SetLookup,
    Side,
)
from calico_engine.tables.single_table import (
    HOSTS_MAP,
    INTERFACES_SET,
    NETS_MAP,
    SOURCES_SET,
    level_map,
    members_set,
)
from calico_engine_nftables import words
from calico_engine_nftables.wire import ADDRESS_BYTES, Register

#: Bytes from the start of the IP header.
_ADDRESS_OFFSET = {
    (Family.V4, Side.SRC): 12,
    (Family.V4, Side.DST): 16,
    (Family.V6, Side.SRC): 8,
    (Family.V6, Side.DST): 24,
}
_PORT_OFFSET = {Side.SRC: 0, Side.DST: 2}
#: Those whose header begins with two ports.
PORT_PROTOCOLS = (6, 17, 33, 132, 136)

_WITH_IDENTITY = {Level.PORTS, Level.PROTOCOLS, Level.IDENTITIES}
_WITH_PORT = {Level.PORTS, Level.WORLD_PORTS}
_WITH_PROTOCOL = _WITH_PORT | {Level.PROTOCOLS, Level.WORLD}


def load_address(side: Side, family: Family, register: int = words.REGISTER) -> bytes:
    offset = _ADDRESS_OFFSET[family, side]
    return words.payload(words.Base.NETWORK, offset, ADDRESS_BYTES[family], register)


def load_port(side: Side, register: int = words.REGISTER) -> bytes:
    return words.payload(words.Base.TRANSPORT, _PORT_OFFSET[side], 2, register)


def has_no_ports() -> bytes:
    protocols = (words.is_(bytes((number,)), negate=True) for number in PORT_PROTOCOLS)
    return words.meta(words.MetaKey.L4PROTO) + b"".join(protocols)


def classify(op: Classify, family: Family) -> tuple[bytes, ...]:
    """Return one rule's end a level: the key, and the lookup that decides where there is an entry."""
    return tuple(_level(op.table, op.side, level, family) for level in op.levels)


def _level(table: str, side: Side, level: Level, family: Family) -> bytes:
    key = Register.R1
    service = Register.R3 if level in _WITH_IDENTITY else key
    loads = []
    if level in _WITH_PROTOCOL:
        loads.append(words.meta(words.MetaKey.L4PROTO, service))
    if level in _WITH_PORT:
        loads.append(load_port(Side.DST, service + 1))
    if level in _WITH_IDENTITY:
        loads.append(_load_identities(side, family))
    loads.append(words.lookup_value(level_map(table, level), key, Register.VERDICT))
    return b"".join(loads)


def _load_identities(side: Side, family: Family) -> bytes:
    """Load the identity pair of an address into R1 and R2. Uses R0, R6 and from R8 on; breaks nothing off."""
    mark = words.MetaKey.MARK
    return b"".join(
        (
            words.meta(mark, Register.R0),
            load_address(side, family, Register.R8),
            words.lookup_value(HOSTS_MAP, Register.R8, Register.R6),
            words.set_mark(Register.R6),
            words.meta(mark, Register.R1),
            words.lookup_value(NETS_MAP, Register.R8, Register.R6),
            words.set_mark(Register.R6),
            words.meta(mark, Register.R2),
            words.set_mark(Register.R0),
        )
    )


def set_lookup(match: SetLookup, family: Family) -> tuple[bytes, ...]:
    """Return alternatives: a negated look for a port also holds for what has none."""
    name = members_set(match.set_id)
    if match.kind is SetKind.NET:
        pair = words.lookup(name, Register.R1, negate=match.negate)
        return (_load_identities(match.side, family) + pair,)
    protocol = Register.R0 + ADDRESS_BYTES[family] // 4
    key = load_address(match.side, family, Register.R0)
    key += words.meta(words.MetaKey.L4PROTO, protocol) + load_port(match.side, protocol + 1)
    found = key + words.lookup(name, Register.R0, negate=match.negate)
    return (found, has_no_ports()) if match.negate else (found,)


def source_assigned(family: Family, *, negate: bool) -> bytes:
    key = words.meta(words.MetaKey.IIFNAME, Register.R0) + load_address(Side.SRC, family, Register.R4)
    return key + words.lookup(SOURCES_SET, Register.R0, negate=negate)


def interface_assigned(match: InterfaceAssigned) -> bytes:
    key = words.MetaKey.IIFNAME if match.direction == "in" else words.MetaKey.OIFNAME
    return words.meta(key, Register.R0) + words.lookup(INTERFACES_SET, Register.R0, negate=match.negate)


def dispatch(op: DispatchByInterface, map_name: str) -> bytes:
    key = words.MetaKey.IIFNAME if op.direction == "in" else words.MetaKey.OIFNAME
    return words.meta(key) + words.lookup_value(map_name, words.REGISTER, Register.VERDICT)
