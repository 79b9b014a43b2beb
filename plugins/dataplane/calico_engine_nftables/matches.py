"""Matches of the IR as nftables' expressions.

Pure. There is no "or" in nftables without a set, so a match may be several alternatives, which become rules of their
own. At most one of them holds for a packet, but for those of PortOrNamedPort and of a negated look for a port.
What each means is what iptables' spelling of it means (calico_engine_iptables.words), and what the interpreter does.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_network
from typing import assert_never

from calico_engine.messages import PortRange, SetKind
from calico_engine.ruleset.ir import (
    AddrTypeIs,
    CtState,
    CtStateIn,
    CtStatusDnat,
    Family,
    IcmpIs,
    InterfaceAssigned,
    InterfaceIs,
    MarkIs,
    Match,
    NetIn,
    NetInAny,
    PortIn,
    PortOrNamedPort,
    ProtocolIs,
    RpfFailed,
    SetLookup,
    Side,
    SourceAssigned,
)
from calico_engine_nftables import words
from calico_engine_nftables.lookups import (
    interface_assigned,
    load_address,
    load_port,
    set_lookup,
    source_assigned,
)
from calico_engine_nftables.wire import host_number
from calico_engine_nftables.words import Base, Comparison, CtKey, MetaKey

#: Of one match: each the expressions that break the rule off where they do not hold.
Alternatives = tuple[bytes, ...]

_ALWAYS: Alternatives = (b"",)
_NEVER: Alternatives = ()
_ALL_BITS = 0xFFFFFFFF
_LAST_PORT = 65535
_INTERFACE_BYTES = 16
_STATES = {
    CtState.INVALID: 1,
    CtState.ESTABLISHED: 2,
    CtState.RELATED: 4,
    CtState.NEW: 8,
    CtState.UNTRACKED: 64,
}
#: The states of a packet that has no connection.
_UNCONNECTED = _STATES[CtState.INVALID] | _STATES[CtState.UNTRACKED]
_STATUS_DNAT = 0x20
_ICMP = {Family.V4: 1, Family.V6: 58}
# include/uapi/linux/rtnetlink.h, rtm_type.
_ROUTE_TYPES = {
    "UNSPEC": 0,
    "UNICAST": 1,
    "LOCAL": 2,
    "BROADCAST": 3,
    "ANYCAST": 4,
    "MULTICAST": 5,
    "BLACKHOLE": 6,
    "UNREACHABLE": 7,
    "PROHIBIT": 8,
    "THROW": 9,
    "NAT": 10,
    "XRESOLVE": 11,
}
# enum nft_fib_result, nft_fib_flags
_FIB_OIF, _FIB_TYPE = 1, 3
_BY_SOURCE, _BY_DESTINATION, _WITH_MARK, _BY_IIF, _BY_OIF, _IF_PRESENT = 1, 2, 4, 8, 16, 32


@lru_cache(maxsize=1 << 16)
def match_bytes(match: Match, family: Family) -> Alternatives:  # noqa: C901  one arm per match, nothing else
    """Return the alternatives of a match. Raises: ValueError for what the IR can say and no packet can be."""
    match match:
        case ProtocolIs(number=number, negate=negate):
            return (words.meta(MetaKey.L4PROTO) + words.is_(bytes((number,)), negate=negate),)
        case NetIn(side=side, cidr=cidr, negate=negate):
            return _nets(side, (cidr,), family, negate=negate)
        case NetInAny(side=side, cidrs=cidrs, negate=negate):
            return _nets(side, cidrs, family, negate=negate)
        case PortIn(side=side, ports=ports, negate=negate):
            return _ports(side, ports, negate=negate)
        case SetLookup():
            return set_lookup(match, family)
        case PortOrNamedPort(side=side, ports=ports, set_ids=set_ids):
            sets = (set_lookup(SetLookup(side, set_id, SetKind.IP_PORT), family) for set_id in set_ids)
            return (*_ports(side, ports, negate=False), *itertools.chain.from_iterable(sets))
        case InterfaceIs():
            return _interface(match)
        case CtStateIn(states=states, negate=negate):
            bits = sum({_STATES[state] for state in states})
            return (words.conntrack(CtKey.STATE) + words.any_bit(bits, negate=negate),)
        case CtStatusDnat(negate=negate):
            return _dnat_status(negate=negate)
        case MarkIs(value=value, mask=mask, negate=negate):
            return _mark(value, mask, negate=negate)
        case IcmpIs():
            return _icmp(match, family)
        case AddrTypeIs():
            return _address_type(match)
        case RpfFailed(accept_local=accept_local):
            return _reverse_path(accept_local=accept_local)
        case InterfaceAssigned():
            return (interface_assigned(match),)
        case SourceAssigned(negate=negate):
            return (source_assigned(family, negate=negate),)
        case _:
            assert_never(match)


def _nets(side: Side, cidrs: Sequence[str], family: Family, *, negate: bool) -> Alternatives:
    parsed = (ip_network(cidr, strict=False) for cidr in cidrs)
    own = [net for net in parsed if str(net.version) == family]
    # Disjoint, so that a packet takes one alternative at most.
    nets = list(collapse_addresses(own))  # type: ignore[type-var]  # they are of one version
    if any(net.prefixlen == 0 for net in nets):
        return _NEVER if negate else _ALWAYS
    tests = tuple(_net(side, net, family, negate=negate) for net in nets)
    return (b"".join(tests),) if negate else tests


def _net(side: Side, net: IPv4Network | IPv6Network, family: Family, *, negate: bool) -> bytes:
    address = net.network_address.packed
    test = words.is_(address, negate=negate)
    if net.prefixlen != net.max_prefixlen:
        test = words.mask_and_flip(net.netmask.packed, bytes(len(address))) + test
    return load_address(side, family) + test


def _ports(side: Side, ports: Sequence[PortRange], *, negate: bool) -> Alternatives:
    load = load_port(side)
    tests = tuple(load + _port_range(*ports_range, negate=negate) for ports_range in _disjoint(ports))
    return (b"".join(tests),) if negate else tests


def _disjoint(ports: Sequence[PortRange]) -> list[tuple[int, int]]:
    """Return the ranges in order, those that meet as one."""
    merged: list[tuple[int, int]] = []
    for first, last in sorted((ports_range.first, ports_range.last) for ports_range in ports):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return merged


def _port_range(first: int, last: int, *, negate: bool) -> bytes:
    low, high = first.to_bytes(2, "big"), last.to_bytes(2, "big")
    if first == last:
        return words.is_(low, negate=negate)
    if negate:
        return words.outside(low, high)
    return words.compare(Comparison.AT_LEAST, low) + words.compare(Comparison.AT_MOST, high)


def _interface(match: InterfaceIs) -> Alternatives:
    key = MetaKey.IIFNAME if match.direction == "in" else MetaKey.OIFNAME
    name = match.name.encode()
    if name == b"+":
        return _NEVER if match.negate else _ALWAYS
    value = name[:-1] if name.endswith(b"+") else name.ljust(_INTERFACE_BYTES, b"\0")
    return (words.meta(key) + words.is_(value, negate=match.negate),)


def _dnat_status(*, negate: bool) -> Alternatives:
    status = words.conntrack(CtKey.STATUS) + words.any_bit(_STATUS_DNAT, negate=negate)
    if not negate:
        return (status,)
    # Without a connection there is no status to load, and no translation either.
    return (status, words.conntrack(CtKey.STATE) + words.any_bit(_UNCONNECTED, negate=False))


def _mark(value: int, mask: int, *, negate: bool) -> Alternatives:
    masked = b"" if mask == _ALL_BITS else words.mask_and_flip(host_number(mask), bytes(4))
    return (words.meta(MetaKey.MARK) + masked + words.is_(host_number(value), negate=negate),)


def _icmp(match: IcmpIs, family: Family) -> Alternatives:
    protocol = words.meta(MetaKey.L4PROTO) + words.is_(bytes((_ICMP[family],)), negate=False)

    def is_type(*, negate: bool) -> bytes:
        return words.payload(Base.TRANSPORT, 0, 1) + words.is_(bytes((match.type,)), negate=negate)

    if match.code is None:
        return (protocol + is_type(negate=match.negate),)
    same_type = protocol + is_type(negate=False) + words.payload(Base.TRANSPORT, 1, 1)
    code = bytes((match.code,))
    if not match.negate:
        return (same_type + words.is_(code, negate=False),)
    return (protocol + is_type(negate=True), same_type + words.is_(code, negate=True))


def _address_type(match: AddrTypeIs) -> Alternatives:
    number = _ROUTE_TYPES.get(match.type)
    if number is None:
        raise ValueError(f"address type {match.type}: must be one of {', '.join(_ROUTE_TYPES)}")
    flags = _BY_SOURCE if match.side is Side.SRC else _BY_DESTINATION
    flags |= _BY_OIF if match.limit_iface_out else 0
    return (words.route(_FIB_TYPE, flags) + words.is_(host_number(number), negate=match.negate),)


def _reverse_path(*, accept_local: bool) -> Alternatives:
    flags = _BY_SOURCE | _WITH_MARK | _BY_IIF | _IF_PRESENT
    failed = words.route(_FIB_OIF, flags) + words.is_(bytes(4), negate=False)
    if accept_local:
        local = words.is_(host_number(_ROUTE_TYPES["LOCAL"]), negate=True)
        failed = words.route(_FIB_TYPE, _BY_SOURCE) + local + failed
    return (failed,)


def alternatives(matches: Sequence[Match], family: Family) -> Iterator[bytes]:
    """Yield the expressions of each way in which all matches can hold."""
    if not matches:
        yield b""
    elif len(found := [match_bytes(match, family) for match in matches]) == sum(map(len, found)):
        yield b"".join(part[0] for part in found)
    else:
        yield from map(b"".join, itertools.product(*found))
