"""The words of ipset's netlink messages: commands, attributes, and a set's header.

No effects. Source: include/uapi/linux/netlink.h, netfilter/nfnetlink.h, netfilter/ipset/ip_set.h.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum

import msgspec

from calico_engine.kernel.rtnetlink import Message

NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 0x1, 0x4, 0x300
NLMSG_ERROR, NLMSG_DONE = 2, 3
SUBSYSTEM = 6 << 8
PROTOCOL_OLDEST, PROTOCOL_NEWEST = 6, 7
FLAG_LIST_HEADER = 4
MAX_NAME_BYTES = 31
#: What we ask for came with revision 2 at the latest; an ipset program of any age can list such a set.
REVISION = 2
FAMILIES = {"inet": 2, "inet6": 10}
_FAMILY_NAMES = {number: name for name, number in FAMILIES.items()}
_NESTED, _NET_BYTEORDER, _TYPE_MASK = 0x8000, 0x4000, 0x3FFF
_ATTRIBUTE = struct.Struct("=HH")
_HEADER = struct.Struct("=IHHII")


class Attribute(IntEnum):
    """Of a command; those from HASHSIZE on are within DATA."""

    PROTOCOL = 1
    SETNAME = 2
    TYPENAME = 3
    SETNAME2 = 3
    REVISION = 4
    FAMILY = 5
    FLAGS = 6
    DATA = 7
    LINENO = 9
    OLDEST = 10
    HASHSIZE = 18
    MAXELEM = 19
    ELEMENTS = 24
    REFERENCES = 25


class Command(IntEnum):
    PROTOCOL = 1
    CREATE = 2
    DESTROY = 3
    SWAP = 6
    LIST = 7
    ADD = 9
    DEL = 10
    TYPE = 13


class SetHeader(msgspec.Struct, frozen=True, kw_only=True):
    """A set without its members, as the kernel has it; family is inet, inet6 or "" for others."""

    name: str
    type: str
    family: str
    maxelem: int
    hashsize: int
    elements: int
    references: int


def message_head(command: Command, flags: int, sequence: int, size: int) -> bytes:
    """Return nlmsghdr and nfgenmsg of a message with so many bytes after them."""
    header = _HEADER.pack(20 + size, SUBSYSTEM | command, flags, sequence, 0)
    return header + bytes([FAMILIES["inet"], 0, 0, 0])


def attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(4 + len(value), kind) + value + bytes(-len(value) % 4)


def byte(kind: int, value: int) -> bytes:
    return attribute(kind, bytes([value]))


def number(kind: int, value: int) -> bytes:
    return attribute(kind | _NET_BYTEORDER, value.to_bytes(4, "big"))


def text(kind: int, value: str) -> bytes:
    return attribute(kind, value.encode() + b"\0")


def nested(kind: int, value: bytes) -> bytes:
    return attribute(kind | _NESTED, value)


def read_attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset + 4 <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < 4:
            return
        yield kind & _TYPE_MASK, data[offset + 4 : offset + length]
        offset += (length + 3) & ~3


def read_header(message: Message) -> SetHeader:
    attributes = dict(read_attributes(message.body[4:]))
    data = dict(read_attributes(attributes.get(Attribute.DATA, b"")))

    def value(kind: int) -> int:
        return int.from_bytes(data.get(kind, b""), "big")

    return SetHeader(
        name=attributes.get(Attribute.SETNAME, b"").rstrip(b"\0").decode(errors="surrogateescape"),
        type=attributes.get(Attribute.TYPENAME, b"").rstrip(b"\0").decode(errors="surrogateescape"),
        family=_FAMILY_NAMES.get(attributes.get(Attribute.FAMILY, b"\0")[0], ""),
        maxelem=value(Attribute.MAXELEM),
        hashsize=value(Attribute.HASHSIZE),
        elements=value(Attribute.ELEMENTS),
        references=value(Attribute.REFERENCES),
    )
