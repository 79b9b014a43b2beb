"""Members of kernel sets: text, as the ipset program spells it, to the fast path's rows and back.

No effects; here because the C library's inet_pton is four times as fast as ipaddress. Row form: fastpath.set_messages.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable

from calico_engine.fastpath import SET_ROW_SIZE, set_messages

_PROTOCOL_NUMBERS = {"tcp": 6, "udp": 17, "sctp": 132, "udplite": 136, "icmp": 1, "icmpv6": 58}
_PROTOCOL_NAMES = {number: name for name, number in _PROTOCOL_NUMBERS.items()}
_NO_PORT = bytes(3)
_WHOLE_V4 = bytes([4, 32])
_WHOLE_V6 = bytes([6, 128])
_PAD_V4 = bytes(12)


def pack_members(members: Iterable[str]) -> bytes:
    """Return the members as rows, in the order given: `10.0.0.1`, `fd00::/64`, `10.0.0.1,tcp:80`.

    Raises: ValueError naming the member that is none of these.
    """
    rows: list[bytes] = []
    for member in members:
        try:
            if "/" in member or "," in member or " " in member:
                rows.append(_pack_long(member))
            elif ":" in member:
                rows.append(_WHOLE_V6 + socket.inet_pton(socket.AF_INET6, member) + _NO_PORT)
            else:
                rows.append(_WHOLE_V4 + socket.inet_pton(socket.AF_INET, member) + _PAD_V4 + _NO_PORT)
        except (OSError, ValueError, OverflowError) as error:
            raise ValueError(
                f"member {member!r} of a set: must be an address, a prefix or address,protocol:port"
            ) from error
    return b"".join(rows)


def _pack_long(member: str) -> bytes:
    member, blank, option = member.partition(" ")
    if blank and option != "nomatch":
        raise ValueError(option)
    place, comma, service = member.partition(",")
    address, slash, length = place.partition("/")
    family, packed = _pack_address(address)
    whole_bits = len(packed) * 8
    prefix_bits = int(length) if slash else whole_bits
    if not 0 < prefix_bits <= whole_bits:
        raise ValueError(length)
    ports = _NO_PORT
    if comma:
        protocol, _, port = service.partition(":")
        number = _PROTOCOL_NUMBERS.get(protocol) or int(protocol)
        if number == 0 or prefix_bits != whole_bits:
            raise ValueError(service)
        ports = bytes([number]) + int(port).to_bytes(2, "big")
    if option:
        family |= set_messages.NOMATCH
    return bytes([family, prefix_bits]) + packed.ljust(16, b"\0") + ports


def _pack_address(address: str) -> tuple[int, bytes]:
    if ":" in address:
        return 6, socket.inet_pton(socket.AF_INET6, address)
    return 4, socket.inet_pton(socket.AF_INET, address)


def unpack_members(rows: bytes) -> list[str]:
    """Return rows as text, in their order; an exception of a set ends in ` nomatch`."""
    return [_unpack(rows[i : i + SET_ROW_SIZE]) for i in range(0, len(rows), SET_ROW_SIZE)]


def _unpack(row: bytes) -> str:
    v6 = row[0] & ~set_messages.NOMATCH == 6
    member = (
        socket.inet_ntop(socket.AF_INET6, row[2:18]) if v6 else socket.inet_ntop(socket.AF_INET, row[2:6])
    )
    if row[18]:
        member += f",{_PROTOCOL_NAMES.get(row[18], row[18])}:{int.from_bytes(row[19:21], 'big')}"
    elif row[1] != (128 if v6 else 32):
        member += f"/{row[1]}"
    return f"{member} nomatch" if row[0] & set_messages.NOMATCH else member
