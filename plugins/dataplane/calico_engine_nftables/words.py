"""Single expressions of nftables: load, compare, look up, decide.

Pure. Each returns one list element of NFTA_RULE_EXPRESSIONS. Registers are numbered as wire.Register; 1 is the
first of 16 bytes, where nothing else is needed at the same time. Source: include/uapi/linux/netfilter/nf_tables.h.
"""

from __future__ import annotations

from enum import IntEnum

from calico_engine_nftables.wire import Register, Verdict, attribute, host_number, nested, number, text

_LIST_ELEMENT, _NAME, _DATA = 1, 1, 2
#: What most matches use: 16 bytes, the same as R0 to R3.
REGISTER = 1


class MetaKey(IntEnum):
    MARK = 3
    IIFNAME = 6
    OIFNAME = 7
    L4PROTO = 16


class CtKey(IntEnum):
    STATE = 0
    STATUS = 2


class Base(IntEnum):
    NETWORK = 1
    TRANSPORT = 2


class Comparison(IntEnum):
    EQUAL = 0
    UNEQUAL = 1
    AT_MOST = 3
    AT_LEAST = 5


def expression(name: str, *attributes: bytes) -> bytes:
    return nested(_LIST_ELEMENT, text(_NAME, name), nested(_DATA, *attributes))


COUNTER = expression("counter")
NOTRACK = expression("notrack")


def payload(base: Base, offset: int, size: int, register: int = REGISTER) -> bytes:
    """Load bytes of a header; the rule breaks off where the packet is too short."""
    return expression("payload", number(1, register), number(2, base), number(3, offset), number(4, size))


def meta(key: MetaKey, register: int = REGISTER) -> bytes:
    return expression("meta", number(1, register), number(2, key))


def set_mark(register: int) -> bytes:
    return expression("meta", number(2, MetaKey.MARK), number(3, register))


def conntrack(key: CtKey, register: int = REGISTER) -> bytes:
    """Load something of the connection; STATUS breaks the rule off where there is none."""
    return expression("ct", number(1, register), number(2, key))


def route(result: int, flags: int, register: int = REGISTER) -> bytes:
    return expression("fib", number(1, register), number(2, result), number(3, flags))


def compare(how: Comparison, value: bytes, register: int = REGISTER) -> bytes:
    return expression("cmp", number(1, register), number(2, how), nested(3, attribute(1, value)))


def is_(value: bytes, *, negate: bool, register: int = REGISTER) -> bytes:
    return compare(Comparison.UNEQUAL if negate else Comparison.EQUAL, value, register)


def outside(first: bytes, last: bytes, register: int = REGISTER) -> bytes:
    from_data, to_data = nested(3, attribute(1, first)), nested(4, attribute(1, last))
    return expression("range", number(1, register), number(2, 1), from_data, to_data)


def mask_and_flip(mask: bytes, flip: bytes, register: int = REGISTER) -> bytes:
    """register = register & mask ^ flip"""
    return expression(
        "bitwise",
        *(number(1, register), number(2, register), number(3, len(mask))),
        *(nested(4, attribute(1, mask)), nested(5, attribute(1, flip))),
    )


def any_bit(mask: int, *, negate: bool) -> bytes:
    """Whether a loaded number of the kernel's own has any of the bits."""
    return mask_and_flip(host_number(mask), bytes(4)) + is_(bytes(4), negate=not negate)


def immediate(value: bytes, register: int = REGISTER) -> bytes:
    return expression("immediate", number(1, register), nested(2, attribute(1, value)))


def verdict_data(code: Verdict, chain: str = "") -> bytes:
    """Return NFTA_DATA_VERDICT."""
    return nested(2, number(1, code), *([text(2, chain)] if chain else []))


def decide(code: Verdict, chain: str = "") -> bytes:
    return expression("immediate", number(1, Register.VERDICT), nested(2, verdict_data(code, chain)))


def lookup(set_name: str, register: int, *, negate: bool = False) -> bytes:
    """Whether a key is in a set."""
    flags = [number(5, 1)] if negate else []
    return expression("lookup", text(1, set_name), number(2, register), *flags)


def lookup_value(map_name: str, register: int, into: int) -> bytes:
    """Load what a map has for a key; the rule breaks off where it has nothing."""
    return expression("lookup", text(1, map_name), number(2, register), number(3, into))
