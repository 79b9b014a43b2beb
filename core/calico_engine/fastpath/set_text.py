"""Members of kernel sets as text, to rows: the specification of native/src/pack_set.c.

Pure. A member is an address, a prefix or an address with protocol and port, as the ipset program spells it: `10.0.0.1`,
`fd00::/64`, `10.0.0.1,tcp:80`, and ` nomatch` at the end of an exception. Row form: set_messages.py.
"""

import re
from ipaddress import IPv6Address

from calico_engine.fastpath.set_messages import NOMATCH

PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132, "udplite": 136, "icmp": 1, "icmpv6": 58}

_OCTETS = {str(number): number for number in range(256)}
_LONG = re.compile(r"([^/, ]*)(?:/([0-9]{1,5}))?(?:,([a-z]{3}[a-z0-9]*|[0-9]{1,5}):([0-9]{1,5}))?( nomatch)?")
_V4, _V6 = bytes([4, 32]), bytes([6, 128])
_PAD_V4, _NO_PORT = bytes(12), bytes(3)


def bad_member(member: bytes) -> str:
    """Return what is said of a member that is none."""
    return (
        f"member {member.decode(errors='backslashreplace')!r} of a set: must be an address, a prefix or "
        "address,protocol:port"
    )


def pack_set_members(text: bytes) -> bytes:
    """Return the members, a newline between them, as rows in their order; bits after a prefix are zero.

    Raises: ValueError naming the first that is no member.
    """
    return b"".join(map(_pack, text.split(b"\n"))) if text else b""


def _pack(member: bytes) -> bytes:
    try:
        text = member.decode("ascii")
        if "/" in text or "," in text or " " in text:
            return _pack_long(text)
        if ":" in text:
            return _V6 + _pack_v6(text) + _NO_PORT
        return _V4 + _pack_v4(text) + _PAD_V4 + _NO_PORT
    except (KeyError, ValueError) as error:
        raise ValueError(bad_member(member)) from error


def _pack_v4(address: str) -> bytes:
    parts = address.split(".")
    if len(parts) != 4:
        raise ValueError(address)
    return bytes([_OCTETS[part] for part in parts])


def _pack_v6(address: str) -> bytes:
    if "%" in address:
        raise ValueError(address)
    return IPv6Address(address).packed


def _pack_long(text: str) -> bytes:
    found = _LONG.fullmatch(text)
    if found is None:
        raise ValueError(text)
    address, length, protocol, port, option = found.groups()
    v6 = ":" in address
    packed = _pack_v6(address) if v6 else _pack_v4(address)
    whole_bits = len(packed) * 8
    prefix_bits = whole_bits if length is None else int(length)
    if not 0 < prefix_bits <= whole_bits:
        raise ValueError(length)
    service = _NO_PORT
    if protocol is not None:
        number = PROTOCOLS.get(protocol) or int(protocol)
        if not 0 < number < 256 or int(port) > 65535 or prefix_bits != whole_bits:
            raise ValueError(text)
        service = bytes([number]) + int(port).to_bytes(2, "big")
    host_bits = whole_bits - prefix_bits
    masked = (int.from_bytes(packed, "big") >> host_bits << host_bits).to_bytes(len(packed), "big")
    family = (6 if v6 else 4) | (NOMATCH if option else 0)
    return bytes([family, prefix_bits]) + masked.ljust(16, b"\0") + service
