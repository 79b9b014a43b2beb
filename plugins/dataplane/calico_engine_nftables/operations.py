"""Operations of the IR as nftables' expressions.

Pure. Chains are named as single_table names them: what is jumped to is of the layer of the rule's own chain.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import assert_never

from calico_engine.ruleset.ir import (
    Accept,
    ChainKey,
    Classify,
    Continue,
    DispatchByInterface,
    Dnat,
    Drop,
    Family,
    Goto,
    Jump,
    Log,
    Masquerade,
    Nflog,
    NoTrack,
    Op,
    Reject,
    Return,
    SetMark,
    Snat,
)
from calico_engine.ruleset.names import safe_text
from calico_engine.tables.single_table import chain_name, dispatch_map
from calico_engine_nftables import words
from calico_engine_nftables.lookups import dispatch
from calico_engine_nftables.wire import NF_FAMILIES, Verdict, attribute, host_number, number, text
from calico_engine_nftables.words import MetaKey

_ALL_BITS = 0xFFFFFFFF
#: As iptables keeps them, so that a log reads the same.
_LOG_PREFIX_MAX_CHARS = 27
_NFLOG_PREFIX_MAX_CHARS = 63
_NFLOG_BYTES = 80

_SNAT, _DNAT = 0, 1
_PORTS_GIVEN = 2  # NF_NAT_RANGE_PROTO_SPECIFIED

_UNREACHABLE, _TCP_RESET = 0, 1
#: As iptables' --reject-with names them; "" is the family's default.
_REJECTIONS = {
    Family.V4: {
        "": 3,
        "icmp-net-unreachable": 0,
        "icmp-host-unreachable": 1,
        "icmp-proto-unreachable": 2,
        "icmp-port-unreachable": 3,
        "icmp-net-prohibited": 9,
        "icmp-host-prohibited": 10,
        "icmp-admin-prohibited": 13,
    },
    Family.V6: {
        "": 4,
        "icmp6-no-route": 0,
        "icmp6-adm-prohibited": 1,
        "icmp6-addr-unreachable": 3,
        "icmp6-port-unreachable": 4,
        "icmp6-policy-fail": 5,
        "icmp6-reject-route": 6,
    },
}


def operation(op: Op, key: ChainKey, family: Family) -> bytes:  # noqa: C901  one arm per operation, nothing else
    """Return an operation of a rule in a chain. Raises: ValueError for what nftables has no words for."""
    match op:
        case Accept():
            return words.decide(Verdict.ACCEPT)
        case Drop():
            return words.decide(Verdict.DROP)
        case Return():
            return words.decide(Verdict.RETURN)
        case Jump(chain=chain):
            return words.decide(Verdict.JUMP, chain_name(ChainKey(key.layer, chain)))
        case Goto(chain=chain):
            return words.decide(Verdict.GOTO, chain_name(ChainKey(key.layer, chain)))
        case Reject(with_=with_):
            return _reject(with_, family)
        case SetMark(value=value, mask=mask):
            return _set_mark(value, mask)
        case Log(prefix=prefix, level=level):
            shown = safe_text(prefix, _LOG_PREFIX_MAX_CHARS) + ": "
            return words.expression("log", text(2, shown), number(5, level))
        case Nflog(group=group, prefix=prefix):
            shown = safe_text(prefix, _NFLOG_PREFIX_MAX_CHARS)
            return words.expression(
                "log", attribute(1, group.to_bytes(2, "big")), text(2, shown), number(3, _NFLOG_BYTES)
            )
        case Masquerade(ports=ports):
            return _masquerade(ports)
        case Dnat(address=address):
            return _translate(_DNAT, address, family)
        case Snat(address=address):
            return _translate(_SNAT, address, family)
        case NoTrack():
            return words.NOTRACK
        case Continue():
            return b""
        case DispatchByInterface():
            return dispatch(op, dispatch_map(key))
        case Classify():
            raise ValueError(f"{op}: is several rules, not one")
        case _:
            assert_never(op)


def _reject(with_: str, family: Family) -> bytes:
    if with_ in ("tcp-reset", "tcp-rst"):
        return words.expression("reject", number(1, _TCP_RESET), attribute(2, b"\0"))
    code = _REJECTIONS[family].get(with_)
    if code is None:
        raise ValueError(
            f"reject with {with_}: must be tcp-reset, {', '.join(filter(None, _REJECTIONS[family]))}"
        )
    return words.expression("reject", number(1, _UNREACHABLE), attribute(2, bytes((code,))))


def _set_mark(value: int, mask: int) -> bytes:
    if mask == _ALL_BITS:
        return words.immediate(host_number(value)) + words.set_mark(words.REGISTER)
    changed = words.mask_and_flip(host_number(~mask & _ALL_BITS), host_number(value))
    return words.meta(MetaKey.MARK) + changed + words.set_mark(words.REGISTER)


def _load_ports(ports: str, register: int) -> tuple[bytes, tuple[int, int]]:
    """Load "first-last" or "port" into registers; return them, too. NFT_REG_1 and so on: of 16 bytes each."""
    first, _, last = ports.partition("-")
    loads = words.immediate(int(first).to_bytes(2, "big"), register)
    if not last:
        return loads, (register, register)
    return loads + words.immediate(int(last).to_bytes(2, "big"), register + 1), (register, register + 1)


def _masquerade(ports: str) -> bytes:
    if not ports:
        return words.expression("masq")
    loads, (first, last) = _load_ports(ports, 1)
    return loads + words.expression("masq", number(1, _PORTS_GIVEN), number(2, first), number(3, last))


def _translate(kind: int, target: str, family: Family) -> bytes:
    address, ports = _split_target(target)
    packed = ip_address(address).packed
    loads = words.immediate(packed, 1)
    attributes = [number(1, kind), number(2, NF_FAMILIES[family]), number(3, 1)]
    if ports:
        more, (first, last) = _load_ports(ports, 2)
        loads += more
        attributes += [number(5, first), number(6, last), number(7, _PORTS_GIVEN)]
    return loads + words.expression("nat", *attributes)


def _split_target(target: str) -> tuple[str, str]:
    """Split "address", "address:port" or "[address]:port", and ranges of ports, into address and ports."""
    if target.startswith("["):
        address, _, rest = target[1:].partition("]")
        return address, rest.removeprefix(":")
    if target.count(":") == 1:
        address, _, ports = target.partition(":")
        return address, ports
    return target, ""
