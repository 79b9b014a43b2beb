"""Messages that make and remove tables, chains, rules and sets.

Pure. One function, one message; a transaction is messages back to back (kernel.nfnetlink). Deleting what is not there
is refused by the kernel, and making what is there is no error, as with `nft add`.
"""

from __future__ import annotations

from collections.abc import Sequence

from calico_engine.fastpath import assemble_rules
from calico_engine.ruleset.ir import Family, Hook, Layer
from calico_engine.tables.backend import KeyPart, SetShape, ValueKind
from calico_engine_nftables.wire import (
    ADDRESS_BYTES,
    NLM_F_APPEND,
    NLM_F_CREATE,
    Kind,
    comment,
    comment_data,
    host_number,
    message,
    nested,
    number,
    text,
)
from calico_engine_nftables.wire import attribute as binary

TABLE_NAME = 1
CHAIN_NAME, CHAIN_HOOK, CHAIN_POLICY, CHAIN_TYPE, CHAIN_USERDATA = 3, 4, 5, 7, 12
RULE_CHAIN, RULE_HANDLE, RULE_EXPRESSIONS, RULE_USERDATA = 2, 3, 4, 7
SET_NAME, SET_FLAGS, SET_KEY_TYPE, SET_KEY_LEN = 2, 3, 4, 5
SET_DATA_TYPE, SET_DATA_LEN, SET_DESC, SET_ID, SET_USERDATA = 6, 7, 9, 10, 13
SET_EXPRESSION = 17
TABLE_FLAGS, TABLE_USERDATA = 2, 6
#: 5.12+: nobody but the socket that made a table may change it. 6.9+: it stays when that socket is closed.
FLAG_OWNER, FLAG_PERSIST = 0x2, 0x4
#: How many elements there are, where the kernel is new enough to tell.
SET_COUNT = 20
FLAG_INTERVAL, FLAG_MAP, FLAG_CONCAT = 0x4, 0x8, 0x80
TYPE_VERDICT = 0xFFFFFF00
TYPE_MARK = 19
#: Bits for each part in the type of a key of several.
TYPE_BITS = 6

# User data of a set: by which nft prints numbers the right way round. libnftnl/udata.h, nftables' mnl.c.
_KEY_ORDER, _DATA_ORDER, USERDATA_COMMENT = 0, 1, 7
_ORDER_NONE, _ORDER_HOST, _ORDER_NETWORK = 0, 1, 2

HOOK_NUMBERS = {
    Hook.PREROUTING: 0,
    Hook.INPUT: 1,
    Hook.FORWARD: 2,
    Hook.OUTPUT: 3,
    Hook.POSTROUTING: 4,
}
_NAT_SOURCE = (Hook.INPUT, Hook.POSTROUTING)
_PRIORITIES = {Layer.RAW: -300, Layer.MANGLE: -150, Layer.FILTER: 0}


def new_table(family: Family, table: str, *, flags: int = 0, note: str = "") -> bytes:
    """Make a table. With flags, one that is there must have them, or be an orphan that gets an owner by them."""
    body = text(TABLE_NAME, table) + (number(TABLE_FLAGS, flags) if flags else b"")
    body += comment(TABLE_USERDATA, note)
    return message(Kind.NEWTABLE, NLM_F_CREATE, family, body)


def delete_table(family: Family, table: str) -> bytes:
    """Delete a table with all that is in it."""
    return message(Kind.DELTABLE, 0, family, text(TABLE_NAME, table))


def new_chain(family: Family, table: str, chain: str, *, note: str = "") -> bytes:
    body = text(TABLE_NAME, table) + text(CHAIN_NAME, chain) + comment(CHAIN_USERDATA, note)
    return message(Kind.NEWCHAIN, NLM_F_CREATE, family, body)


def new_base_chain(family: Family, table: str, chain: str, layer: Layer, hook: Hook) -> bytes:
    """Make a chain that the kernel calls; its policy is to accept, which says "no objection" and no more."""
    kind, number_of_hook, priority = base_chain_kind(layer, hook)
    body = text(TABLE_NAME, table) + text(CHAIN_NAME, chain)
    body += nested(CHAIN_HOOK, number(1, number_of_hook), number(2, priority)) + text(CHAIN_TYPE, kind)
    return message(Kind.NEWCHAIN, NLM_F_CREATE, family, body)


def base_chain_kind(layer: Layer, hook: Hook) -> tuple[str, int, int]:
    """Return type, hook number and priority of the chain for what iptables has in a table's built-in chain."""
    if layer is Layer.NAT:
        return "nat", HOOK_NUMBERS[hook], 100 if hook in _NAT_SOURCE else -100
    # A change of mark in OUTPUT chooses the route again.
    reroutes = layer is Layer.MANGLE and hook is Hook.OUTPUT
    return "route" if reroutes else "filter", HOOK_NUMBERS[hook], _PRIORITIES[layer]


def delete_chain(family: Family, table: str, chain: str) -> bytes:
    """Delete a chain that is empty by then and that nothing leads to."""
    return message(Kind.DELCHAIN, 0, family, text(TABLE_NAME, table) + text(CHAIN_NAME, chain))


def new_rule(family: Family, table: str, chain: str, expressions: bytes, *, note: str = "") -> bytes:
    """Append a rule. `expressions` as expressions.rule_bytes gives them."""
    body = text(TABLE_NAME, table) + text(RULE_CHAIN, chain)
    body += nested(RULE_EXPRESSIONS, expressions) + comment(RULE_USERDATA, note)
    return message(Kind.NEWRULE, NLM_F_CREATE | NLM_F_APPEND, family, body)


def new_rules(
    family: Family, table: str, chain: str, expressions: Sequence[bytes], notes: Sequence[str]
) -> bytes:
    """Append rules to a chain: new_rule for many, back to back. One note a rule."""
    head = message(
        Kind.NEWRULE,
        NLM_F_CREATE | NLM_F_APPEND,
        family,
        text(TABLE_NAME, table) + text(RULE_CHAIN, chain),
    )
    return assemble_rules(head, expressions, [comment_data(note) for note in notes])


def flush_chain(family: Family, table: str, chain: str) -> bytes:
    """Delete all rules of a chain; no error when it has none."""
    return message(Kind.DELRULE, 0, family, text(TABLE_NAME, table) + text(RULE_CHAIN, chain))


def delete_rule(family: Family, table: str, chain: str, handle: int) -> bytes:
    body = text(TABLE_NAME, table) + text(RULE_CHAIN, chain)
    body += binary(RULE_HANDLE, handle.to_bytes(8, "big"))
    return message(Kind.DELRULE, 0, family, body)


def new_set(
    family: Family,
    table: str,
    name: str,
    shape: SetShape,
    *,
    size: int = 0,
    counters: bool = False,
    note: str = "",
) -> bytes:
    """Make a set or map. `size` is a hard limit, for which the kernel picks a table of that size; 0 for any number.

    The fixed table of a limited set is searched a little faster; an element beyond the limit is refused with ENFILE.
    With `counters` every element counts what was found by it.
    """
    flags = (FLAG_INTERVAL if shape.intervals else 0) | (0 if shape.value is ValueKind.NONE else FLAG_MAP)
    several = len(shape.key) > 1
    description = number(1, size) if size else b""
    if several and shape.intervals:
        flags |= FLAG_CONCAT
        lengths = (part_bytes(part, family) for part in shape.key)
        description += nested(2, *(nested(1, number(1, length)) for length in lengths))
    body = text(TABLE_NAME, table) + text(SET_NAME, name) + number(SET_FLAGS, flags)
    body += number(SET_KEY_TYPE, key_type(shape, family)) + number(SET_KEY_LEN, key_bytes(shape, family))
    if shape.value is ValueKind.NUMBER:
        body += number(SET_DATA_TYPE, TYPE_MARK) + number(SET_DATA_LEN, 4)
    elif shape.value is ValueKind.VERDICT:
        body += number(SET_DATA_TYPE, TYPE_VERDICT)
    if description:
        body += nested(SET_DESC, description)
    # Rules name the set they look into, so that one id does for all sets of a transaction.
    if counters:
        body += nested(SET_EXPRESSION, text(1, "counter"))
    body += number(SET_ID, 1) + binary(SET_USERDATA, _set_userdata(shape, note))
    return message(Kind.NEWSET, NLM_F_CREATE, family, body)


def delete_set(family: Family, table: str, name: str) -> bytes:
    """Delete a set that no rule looks into by then."""
    return message(Kind.DELSET, 0, family, text(TABLE_NAME, table) + text(SET_NAME, name))


def flush_set(family: Family, table: str, name: str) -> bytes:
    """Delete all elements of a set; no error when it has none."""
    return message(Kind.DELSETELEM, 0, family, text(TABLE_NAME, table) + text(SET_NAME, name))


def part_bytes(part: KeyPart, family: Family) -> int:
    """Return how many bytes of a part count, without padding."""
    match part:
        case KeyPart.ADDRESS:
            return ADDRESS_BYTES[family]
        case KeyPart.INTERFACE:
            return 16
        case KeyPart.PROTOCOL:
            return 1
        case KeyPart.PORT:
            return 2
        case KeyPart.NUMBER:
            return 4


def key_bytes(shape: SetShape, family: Family) -> int:
    """Return the bytes of a key in the kernel: parts are padded where there are several."""
    if len(shape.key) == 1:
        return part_bytes(shape.key[0], family)
    return sum((part_bytes(part, family) + 3) & ~3 for part in shape.key)


def part_type(part: KeyPart, family: Family) -> int:
    """Return nft's number for the type of a part."""
    match part:
        case KeyPart.ADDRESS:
            return 7 if family is Family.V4 else 8
        case KeyPart.INTERFACE:
            return 41
        case KeyPart.PROTOCOL:
            return 12
        case KeyPart.PORT:
            return 13
        case KeyPart.NUMBER:
            return TYPE_MARK


def key_type(shape: SetShape, family: Family) -> int:
    """Return nft's number for the type of a key: 6 bits a part, the first part highest."""
    found = 0
    for part in shape.key:
        found = found << TYPE_BITS | part_type(part, family)
    return found


def _set_userdata(shape: SetShape, note: str) -> bytes:
    host_order = (KeyPart.NUMBER, KeyPart.INTERFACE)
    if len(shape.key) > 1:
        key_order = _ORDER_NONE
    else:
        key_order = _ORDER_HOST if shape.key[0] in host_order else _ORDER_NETWORK
    data_order = _ORDER_HOST if shape.value is ValueKind.NUMBER else _ORDER_NONE
    return (
        _order(_KEY_ORDER, key_order) + _order(_DATA_ORDER, data_order) + comment_data(note, USERDATA_COMMENT)
    )


def _order(kind: int, order: int) -> bytes:
    # nft writes and reads it in the machine's own order.
    return bytes((kind, 4)) + host_number(order)
