"""The words of nftables' netlink messages: attributes, types, and where each belongs.

Pure. Numbers are big-endian on the wire, but for what the kernel compares with its own registers (marks, states).
Source: include/uapi/linux/netfilter/nf_tables.h, nfnetlink.h; libnftnl's udata.h for user data.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator
from enum import IntEnum

from calico_engine.ruleset.ir import Family

SUBSYSTEM = 10 << 8
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 0x1, 0x4, 0x300
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE, NLM_F_APPEND = 0x100, 0x200, 0x400, 0x800
NF_FAMILIES = {Family.V4: 2, Family.V6: 10}
ADDRESS_BYTES = {Family.V4: 4, Family.V6: 16}
#: A comment of a rule, chain, set or element: nft reads back at most 128 bytes with the NUL.
COMMENT_MAX_BYTES = 127
LITTLE_ENDIAN = sys.byteorder == "little"

_NESTED = 0x8000
_TYPE_MASK = 0x3FFF
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_FAMILY_HEADER = struct.Struct("=BBH")
_NUMBER = struct.Struct("=HH4s")
HEADER_BYTES = _HEADER.size + _FAMILY_HEADER.size


class Kind(IntEnum):
    """enum nf_tables_msg_types"""

    NEWTABLE = 0
    GETTABLE = 1
    DELTABLE = 2
    NEWCHAIN = 3
    GETCHAIN = 4
    DELCHAIN = 5
    NEWRULE = 6
    GETRULE = 7
    DELRULE = 8
    NEWSET = 9
    GETSET = 10
    DELSET = 11
    NEWSETELEM = 12
    GETSETELEM = 13
    DELSETELEM = 14


class Verdict(IntEnum):
    """Codes of NFTA_VERDICT_CODE."""

    DROP = 0
    ACCEPT = 1
    JUMP = -3
    GOTO = -4
    RETURN = -5


class Register(IntEnum):
    """16 registers of 4 bytes; wider values take those that follow, too. VERDICT ends the rule."""

    VERDICT = 0
    R0 = 8
    R1 = 9
    R2 = 10
    R3 = 11
    R4 = 12
    R5 = 13
    R6 = 14
    R8 = 16


def attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(4 + len(value), kind) + value + bytes(-len(value) % 4)


def nested(kind: int, *values: bytes) -> bytes:
    value = b"".join(values)
    return _ATTRIBUTE.pack(4 + len(value), kind | _NESTED) + value


def number(kind: int, value: int) -> bytes:
    return _NUMBER.pack(8, kind, (value & 0xFFFFFFFF).to_bytes(4, "big"))


def text(kind: int, value: str) -> bytes:
    return attribute(kind, value.encode() + b"\0")


def host_number(value: int) -> bytes:
    """Return 4 bytes as the kernel holds a number of its own, such as a mark."""
    return value.to_bytes(4, sys.byteorder)


def message(kind: Kind, flags: int, family: Family, body: bytes) -> bytes:
    """Return one message; its sequence number is filled in when it is sent."""
    header = _HEADER.pack(HEADER_BYTES + len(body), SUBSYSTEM | kind, NLM_F_REQUEST | flags, 0, 0)
    return header + _FAMILY_HEADER.pack(NF_FAMILIES[family], 0, 0) + body


def extend(head: bytes, rest: bytes) -> bytes:
    """Return a message with more after it, its length filled in."""
    return (len(head) + len(rest)).to_bytes(4, sys.byteorder) + head[4:] + rest


_COMMENT_HEADS = [bytes((0, length + 1)) for length in range(COMMENT_MAX_BYTES + 1)]


def comment_data(note: str, kind: int = 0) -> bytes:
    """Return a comment as one entry of user data; b"" for none."""
    if not note:
        return b""
    value = note.encode(errors="replace")[:COMMENT_MAX_BYTES]
    head = _COMMENT_HEADS[len(value)]
    return (head if kind == 0 else bytes((kind, head[1]))) + value + b"\0"


def comment(kind: int, note: str) -> bytes:
    """Return the attribute with user data that is a comment and nothing else; b"" for none."""
    return attribute(kind, comment_data(note)) if note else b""


def read_user_data(user_data: bytes, kind: int) -> bytes | None:
    """Return one entry of user data; None when it is not there."""
    at = 0
    while at + 2 <= len(user_data):
        found, length = user_data[at], user_data[at + 1]
        if found == kind and at + 2 + length <= len(user_data):
            return user_data[at + 2 : at + 2 + length]
        at += 2 + length
    return None


def read_comment(user_data: bytes, kind: int = 0) -> str:
    """Return the comment in user data, "" for none."""
    value = read_user_data(user_data, kind)
    return "" if value is None else read_text(value)


def read_attributes(data: bytes | memoryview) -> Iterator[tuple[int, bytes]]:
    """Yield (type, value); stops where the data is cut off."""
    at, end = 0, len(data)
    while at + 4 <= end:
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < 4 or at + length > end:
            return
        yield kind & _TYPE_MASK, bytes(data[at + 4 : at + length])
        at += (length + 3) & ~3


def read_text(value: bytes) -> str:
    return value.split(b"\0", 1)[0].decode(errors="replace")
