"""Members of kernel sets as rows, and rows as the kernel's messages: the specification of native/src/set_*.c.

Pure. A row is 21 bytes, so that sort_rows and diff_rows work on sets:

    0       family: 4 or 6, and 0x80 where the member is an exception of the set (`nomatch`)
    1       prefix length in bits: 1..32 or 1..128
    2..17   address, IPv4's in the first four bytes; what follows them is zero in a row that was read, unread in others
    18      protocol number, 0 in a set without ports
    19..20  port, the high byte first; unread where the protocol is 0

A row with a protocol is of a hash:ip,port set and has the whole prefix length. Both twins raise ValueError with the
same text for the same bad input. Source: include/uapi/linux/netfilter/ipset/ip_set.h, netlink.h.
"""

import struct
from collections.abc import Iterator, Sequence
from functools import lru_cache

from calico_engine.fastpath.pure import check_rows

SET_ROW_SIZE = 21
NOMATCH = 0x80
#: The most one member takes in a message, and the most that one nested attribute holds.
LARGEST_MEMBER = 52
LARGEST_ADT = 65528
#: The least that one member takes in a dump.
SMALLEST_MEMBER = 16
_SMALLEST_HEAD = 20

BAD_ROWS = "rows: a family that is not 4 or 6, a prefix length of no such address, or a port with a prefix"
BAD_DUMP = "dump: cut off, or a member that is no address, prefix or port"

_NLA_F_NESTED, _NLA_F_NET_BYTEORDER, _NLA_TYPE_MASK = 0x8000, 0x4000, 0x3FFF
_DATA, _ADT = 7, 8
_IP, _CIDR, _PORT, _PROTO, _FLAGS = 1, 3, 4, 7, 8
_FLAG_NOMATCH = 4
_MESSAGES_WITH_MEMBERS = (6 << 8 | 7, 6 << 8 | 8)  # NFNL_SUBSYS_IPSET, IPSET_CMD_LIST and IPSET_CMD_SAVE
#: By family: the attribute of an address within IPSET_ATTR_IP, and its bytes.
_ADDRESS = {4: (1, 4), 6: (2, 16)}

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_ROW = struct.Struct("2s16s1s2s")


def check_head(head: bytes) -> None:
    """Raises: ValueError unless it can begin a message."""
    if len(head) < _SMALLEST_HEAD or len(head) % 4:
        raise ValueError(f"head: {len(head)} bytes is no multiple of 4 that holds nlmsghdr and nfgenmsg")


def check_per_message(per_message: int) -> None:
    """Raises: ValueError unless positive."""
    if per_message <= 0:
        raise ValueError(f"per_message must be positive, got {per_message}")


def encode_set_members(head: bytes, rows: bytes, per_message: int) -> tuple[bytes, Sequence[int]]:
    """Return messages back to back that carry the rows as members, and after how many rows each of them ends.

    head: nlmsghdr, nfgenmsg and the attributes before the members, the same in every message; the length is filled
    in, and the sequence number counts up from head's. A message holds at most per_message members, fewer where an
    attribute would be too long.
    Raises: ValueError for a row that is none.
    """
    n_rows = check_rows("rows", rows, SET_ROW_SIZE)
    check_head(head)
    check_per_message(per_message)
    messages: list[bytes] = []
    ends: list[int] = []
    members: list[bytes] = []
    room = LARGEST_ADT
    for i, member in enumerate(_encode_members(rows)):
        if len(members) == per_message or len(member) > room:
            messages.append(_message(head, len(messages), members))
            ends.append(i)
            members, room = [], LARGEST_ADT
        members.append(member)
        room -= len(member)
    if members:
        messages.append(_message(head, len(messages), members))
        ends.append(n_rows)
    return b"".join(messages), ends


def _message(head: bytes, number: int, members: list[bytes]) -> bytes:
    body = b"".join(members)
    _, kind, flags, sequence, port = _HEADER.unpack_from(head)
    length = len(head) + 4 + len(body)
    header = _HEADER.pack(length, kind, flags, (sequence + number) & 0xFFFFFFFF, port)
    return header + head[16:] + _ATTRIBUTE.pack(4 + len(body), _ADT | _NLA_F_NESTED) + body


def encode_member(row: bytes) -> bytes:
    """Return one row as IPSET_ATTR_DATA. Raises: ValueError for a row that is none."""
    if len(row) != SET_ROW_SIZE:
        raise ValueError(BAD_ROWS)
    prefix, size = _before_address(row[:2], row[18])
    if not row[18]:
        return prefix + row[2 : 2 + size]
    return (
        prefix + row[2 : 2 + size] + _ATTRIBUTE.pack(6, _PORT | _NLA_F_NET_BYTEORDER) + row[19:21] + b"\0\0"
    )


def _encode_members(rows: bytes) -> Iterator[bytes]:
    """Yield the rows as IPSET_ATTR_DATA. What comes before the address is the same in nearly all of them."""
    before: dict[tuple[bytes, bytes], tuple[bytes, int]] = {}
    port_attribute = _ATTRIBUTE.pack(6, _PORT | _NLA_F_NET_BYTEORDER)
    for kind, address, protocol, port in _ROW.iter_unpack(rows):
        found = before.get((kind, protocol))
        if found is None:
            found = before[kind, protocol] = _before_address(kind, protocol[0])
        prefix, size = found
        if protocol == b"\0":
            yield prefix + address[:size]
        else:
            yield b"".join((prefix, address[:size], port_attribute, port, b"\0\0"))


@lru_cache(maxsize=1024)
def _before_address(kind: bytes, protocol: int) -> tuple[bytes, int]:
    """Return the bytes of a member before its address, and the address's size."""
    family, prefix_bits = kind[0] & ~NOMATCH, kind[1]
    address_type, size = _ADDRESS.get(family, (0, 0))
    if not 0 < prefix_bits <= size * 8 or (protocol and prefix_bits != size * 8):
        raise ValueError(BAD_ROWS)
    parts = []
    if kind[0] & NOMATCH:
        parts.append(_ATTRIBUTE.pack(8, _FLAGS | _NLA_F_NET_BYTEORDER) + _FLAG_NOMATCH.to_bytes(4, "big"))
    if protocol:
        parts.append(_ATTRIBUTE.pack(5, _PROTO) + bytes([protocol, 0, 0, 0]))
    elif prefix_bits != size * 8:
        # The kernel takes the whole length where none is given, and a fifth less time for it.
        parts.append(_ATTRIBUTE.pack(5, _CIDR) + bytes([prefix_bits, 0, 0, 0]))
    parts.append(_ATTRIBUTE.pack(8 + size, _IP | _NLA_F_NESTED))
    parts.append(_ATTRIBUTE.pack(4 + size, address_type | _NLA_F_NET_BYTEORDER))
    inside = b"".join(parts)
    length = 4 + len(inside) + size + (8 if protocol else 0)
    return _ATTRIBUTE.pack(length, _DATA | _NLA_F_NESTED) + inside, size


def parse_set_dump(dump: bytes) -> bytes:
    """Return the members in a dump of one set as rows, in the dump's order.

    dump: the kernel's netlink messages back to back. Those that list no members, and attributes that rows have no
    place for, are passed over.
    Raises: ValueError when a message or attribute is cut off, or a member is no row.
    """
    rows: list[bytes] = []
    offset = 0
    while offset < len(dump):
        if len(dump) - offset < _HEADER.size:
            raise ValueError(BAD_DUMP)
        length, kind, *_ = _HEADER.unpack_from(dump, offset)
        if not _HEADER.size <= length <= len(dump) - offset:
            raise ValueError(BAD_DUMP)
        if kind in _MESSAGES_WITH_MEMBERS:
            if length < _SMALLEST_HEAD:
                raise ValueError(BAD_DUMP)
            body = dump[offset + _SMALLEST_HEAD : offset + length]
            members = [value for kind, value in _attributes(body) if kind == _ADT]
            rows += [_row(value) for adt in members for kind, value in _attributes(adt) if kind == _DATA]
        offset += (length + 3) & ~3
    return b"".join(rows)


def _attributes(data: bytes) -> list[tuple[int, bytes]]:
    found: list[tuple[int, bytes]] = []
    offset = 0
    while offset < len(data):
        if len(data) - offset < 4:
            raise ValueError(BAD_DUMP)
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if not 4 <= length <= len(data) - offset:
            raise ValueError(BAD_DUMP)
        found.append((kind & _NLA_TYPE_MASK, data[offset + 4 : offset + length]))
        offset += (length + 3) & ~3
    return found


#: The attributes of a member that a row has a place for, and their sizes.
_SIZES = {_CIDR: 1, _PORT: 2, _PROTO: 1, _FLAGS: 4}


def _row(member: bytes) -> bytes:
    """Return the row of one IPSET_ATTR_DATA. Of an attribute that comes twice, the last counts."""
    family, address = 0, b""
    values = {_CIDR: b"", _PORT: b"\0\0", _PROTO: b"\0", _FLAGS: b"\0\0\0\0"}
    for kind, value in _attributes(member):
        if kind == _IP:
            for address_type, packed in _attributes(value):
                if address_type not in (1, 2):
                    continue
                family, address = 2 + 2 * address_type, packed
                if len(packed) != _ADDRESS[family][1]:
                    raise ValueError(BAD_DUMP)
        elif kind in _SIZES:
            if len(value) != _SIZES[kind]:
                raise ValueError(BAD_DUMP)
            values[kind] = value
    whole_bits = len(address) * 8
    prefix_bits = values[_CIDR][0] if values[_CIDR] else whole_bits
    if not 0 < prefix_bits <= whole_bits:
        raise ValueError(BAD_DUMP)
    if prefix_bits != whole_bits if values[_PROTO] != b"\0" else values[_PORT] != b"\0\0":
        raise ValueError(BAD_DUMP)
    if values[_FLAGS][3] & _FLAG_NOMATCH:
        family |= NOMATCH
    return bytes([family, prefix_bits]) + address.ljust(16, b"\0") + values[_PROTO] + values[_PORT]
