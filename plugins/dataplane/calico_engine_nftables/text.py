"""A table in nft's words, for people: what `calico-engine render` prints.

Pure. What nft has no words for is said in a word of our own: `saddr identity` is the pair of numbers that the maps
cali-hosts and cali-nets have for the address. The kernel gets expressions, not this text.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from typing import assert_never

from calico_engine.messages import PortRange, SetKind
from calico_engine.ruleset.ir import (
    Accept,
    AddrTypeIs,
    ChainKey,
    Classify,
    Continue,
    CtStateIn,
    CtStatusDnat,
    DispatchByInterface,
    Dnat,
    Drop,
    Family,
    Goto,
    IcmpIs,
    InterfaceAssigned,
    InterfaceIs,
    Jump,
    Level,
    Log,
    MarkIs,
    Masquerade,
    Match,
    NetIn,
    NetInAny,
    Nflog,
    NoTrack,
    Op,
    PortIn,
    PortOrNamedPort,
    ProtocolIs,
    Reject,
    Return,
    RpfFailed,
    Rule,
    SetLookup,
    SetMark,
    Side,
    Snat,
    SourceAssigned,
)
from calico_engine.tables.backend import (
    CATCH_ALL,
    Element,
    KeyPart,
    SetShape,
    SetWrite,
    TableDelta,
    ValueKind,
)
from calico_engine.tables.single_table import (
    INTERFACES_SET,
    SOURCES_SET,
    chain_name,
    dispatch_map,
    level_map,
    members_set,
)

_PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp", 33: "dccp", 58: "ipv6-icmp", 132: "sctp", 136: "udplite"}
_ADDRESS = {Side.SRC: "saddr", Side.DST: "daddr"}
_PORT = {Side.SRC: "sport", Side.DST: "dport"}
_TYPES = {
    KeyPart.INTERFACE: "ifname",
    KeyPart.PROTOCOL: "inet_proto",
    KeyPart.PORT: "inet_service",
    KeyPart.NUMBER: "mark",
}
_LEVEL_KEYS = {
    Level.PORTS: "{identity} . meta l4proto . th dport",
    Level.PROTOCOLS: "{identity} . meta l4proto",
    Level.IDENTITIES: "{identity}",
    Level.WORLD_PORTS: "meta l4proto . th dport",
    Level.WORLD: "meta l4proto",
}
_TABLES = {Family.V4: "ip", Family.V6: "ip6"}


def table_text(family: Family, table: str, delta: TableDelta) -> str:
    """Return a table that holds this and nothing else."""
    lines = [f"table {_TABLES[family]} {table} {{"]
    for change in delta.sets:
        lines += _set_lines(change, family)
    for hook in delta.hooks:
        lines += [
            f"\tchain {chain_name(hook.key)} {{",
            f"\t\t# hook {hook.key.name.lower()}, layer {hook.key.layer}",
        ]
        lines += _rule_lines(hook.key, (*hook.placed, *hook.appended), family)
        lines.append("\t}")
    for write in delta.chains:
        lines.append(f"\tchain {chain_name(write.key)} {{")
        lines += _rule_lines(write.key, write.rules, family)
        lines.append("\t}")
    return "\n".join([*lines, "}"]) + "\n"


def _set_lines(change: SetWrite, family: Family) -> Iterator[str]:
    shape = change.shape
    kind = "set" if shape.value is ValueKind.NONE else "map"
    address = "ipv6_addr" if family is Family.V6 else "ipv4_addr"
    key = " . ".join(address if part is KeyPart.ADDRESS else _TYPES[part] for part in shape.key)
    value = {ValueKind.NONE: "", ValueKind.NUMBER: " : mark", ValueKind.VERDICT: " : verdict"}[shape.value]
    yield f"\t{kind} {change.name} {{"
    yield f"\t\ttype {key}{value}"
    if shape.intervals:
        yield "\t\tflags interval"
    if change.added:
        elements = [_element(key, element, shape, family) for key, element in sorted(change.added.items())]
        yield f"\t\telements = {{ {elements[0]}" + (" }" if len(elements) == 1 else ",")
        for position, element in enumerate(elements[1:], 2):
            yield f"\t\t\t     {element}" + (" }" if position == len(elements) else ",")
    yield "\t}"


def _element(key: bytes, element: Element, shape: SetShape, family: Family) -> str:
    if key == CATCH_ALL:
        words = "*"
    elif shape.intervals:
        half = len(key) // 2
        words = f"{_key(key[:half], shape, family)}-{_key(key[half:], shape, family)}"
    else:
        words = _key(key, shape, family)
    if element.comment:
        words += f' comment "{element.comment}"'
    if shape.value is ValueKind.NUMBER:
        words += f" : 0x{element.value.hex()}"
    elif shape.value is ValueKind.VERDICT:
        words += f" : {element.value.decode()}"
    return words


def _key(key: bytes, shape: SetShape, family: Family) -> str:
    words = []
    at = 0
    for part in shape.key:
        match part:
            case KeyPart.ADDRESS:
                v6 = family is Family.V6
                size = 16 if v6 else 4
                words.append(socket.inet_ntop(socket.AF_INET6 if v6 else socket.AF_INET, key[at : at + size]))
            case KeyPart.INTERFACE:
                size = 16
                words.append(f'"{key[at : at + size].rstrip(bytes(1)).decode()}"')
            case KeyPart.PROTOCOL:
                size = 4
                words.append(_PROTOCOLS.get(key[at], str(key[at])))
            case KeyPart.PORT:
                size = 4
                words.append(str(int.from_bytes(key[at : at + 2], "big")))
            case KeyPart.NUMBER:
                size = 4
                words.append(f"0x{key[at : at + 4].hex()}")
            case _:
                assert_never(part)
        at += size
    return " . ".join(words)


def _rule_lines(key: ChainKey, rules: Sequence[Rule], family: Family) -> Iterator[str]:
    for rule in rules:
        matches = [_match(match, family) for match in rule.matches]
        comment = f' comment "{", ".join(rule.comments)}"' if rule.comments else ""
        for op in _op(rule.op, key, family):
            yield f"\t\t{' '.join([*matches, op]).strip()}{comment}"


def _not(negate: bool) -> str:  # noqa: FBT001  it is the datum, not a switch
    return "!= " if negate else ""


def _ip(family: Family) -> str:
    return _TABLES[family]


def _ports(ports: Sequence[PortRange]) -> str:
    words = [str(p.first) if p.first == p.last else f"{p.first}-{p.last}" for p in ports]
    return words[0] if len(words) == 1 else f"{{ {', '.join(words)} }}"


def _match(match: Match, family: Family) -> str:  # noqa: C901  one arm per match, nothing else
    match match:
        case ProtocolIs(number=number, negate=negate):
            return f"meta l4proto {_not(negate)}{_PROTOCOLS.get(number, number)}"
        case NetIn(side=side, cidr=cidr, negate=negate):
            return f"{_ip(family)} {_ADDRESS[side]} {_not(negate)}{cidr}"
        case NetInAny(side=side, cidrs=cidrs, negate=negate):
            return f"{_ip(family)} {_ADDRESS[side]} {_not(negate)}{{ {', '.join(cidrs)} }}"
        case PortIn(side=side, ports=ports, negate=negate):
            return f"th {_PORT[side]} {_not(negate)}{_ports(ports)}"
        case SetLookup():
            return _lookup(match, family)
        case PortOrNamedPort(side=side, ports=ports, set_ids=set_ids):
            terms = [f"th {_PORT[side]} {_ports(ports)}"] if ports else []
            terms += [_lookup(SetLookup(side, set_id, SetKind.IP_PORT), family) for set_id in set_ids]
            return f"( {' or '.join(terms)} )"
        case InterfaceIs(direction=direction, name=name, negate=negate):
            star = f"{name[:-1]}*" if name.endswith("+") else name
            return f'{"iifname" if direction == "in" else "oifname"} {_not(negate)}"{star}"'
        case CtStateIn(states=states, negate=negate):
            return f"ct state {_not(negate)}{','.join(state.lower() for state in states)}"
        case CtStatusDnat(negate=negate):
            return f"ct status {_not(negate)}dnat"
        case MarkIs(value=value, mask=mask, negate=negate):
            return f"meta mark & {mask:#x} {'!=' if negate else '=='} {value:#x}"
        case IcmpIs(type=kind, code=code, negate=negate):
            word = "icmpv6" if family is Family.V6 else "icmp"
            both = f"{kind}" if code is None else f"{kind} {word} code {code}"
            return f"{word} type {_not(negate)}{both}"
        case AddrTypeIs(side=side, type=kind, limit_iface_out=limit, negate=negate):
            return f"fib {_ADDRESS[side]}{' . oif' if limit else ''} type {_not(negate)}{kind.lower()}"
        case RpfFailed():
            return "fib saddr . mark . iif oif 0"
        case InterfaceAssigned(direction=direction, negate=negate):
            word = "iifname" if direction == "in" else "oifname"
            return f"{word} {_not(negate)}@{INTERFACES_SET}"
        case SourceAssigned(negate=negate):
            return f"iifname . {_ip(family)} saddr {_not(negate)}@{SOURCES_SET}"
        case _:
            assert_never(match)


def _lookup(match: SetLookup, family: Family) -> str:
    name = f"{_not(match.negate)}@{members_set(match.set_id)}"
    address = f"{_ip(family)} {_ADDRESS[match.side]}"
    if match.kind is SetKind.NET:
        return f"{address} identity {name}"
    return f"{address} . meta l4proto . th {_PORT[match.side]} {name}"


def _op(op: Op, key: ChainKey, family: Family) -> Sequence[str]:  # noqa: C901  one arm per operation, nothing else
    match op:
        case Accept():
            return ("accept",)
        case Drop():
            return ("drop",)
        case Reject(with_=with_):
            return (f"reject with {with_}" if with_ else "reject",)
        case Return():
            return ("return",)
        case Jump(chain=chain):
            return (f"jump {chain_name(ChainKey(key.layer, chain))}",)
        case Goto(chain=chain):
            return (f"goto {chain_name(ChainKey(key.layer, chain))}",)
        case SetMark(value=value, mask=mask):
            return (f"meta mark set meta mark & {~mask & 0xFFFFFFFF:#x} | {value:#x}",)
        case Log(prefix=prefix, level=level):
            return (f'log prefix "{prefix}: " level {level}',)
        case Nflog(group=group, prefix=prefix):
            return (f'log prefix "{prefix}" group {group}',)
        case Masquerade(ports=ports):
            return (f"masquerade to :{ports}" if ports else "masquerade",)
        case Dnat(address=address):
            return (f"dnat to {address}",)
        case Snat(address=address):
            return (f"snat to {address}",)
        case NoTrack():
            return ("notrack",)
        case Continue():
            return ("continue",)
        case DispatchByInterface(direction=direction):
            return (f"{'iifname' if direction == 'in' else 'oifname'} vmap @{dispatch_map(key)}",)
        case Classify(table=table, side=side, levels=levels):
            identity = f"{_ip(family)} {_ADDRESS[side]} identity"
            return [
                f"{_LEVEL_KEYS[level].format(identity=identity)} vmap @{level_map(table, level)}"
                for level in levels
            ]
        case _:
            assert_never(op)
