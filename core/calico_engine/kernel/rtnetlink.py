"""rtnetlink's messages: bytes to typed values, and the few requests that are spelled by hand.

Pure. Only what this project asks for is decoded: a general library spends a fifth of a millisecond on each link, and a
node has one for each of its endpoints. Source: include/uapi/linux/rtnetlink.h, if_link.h, if_addr.h, neighbour.h.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

import msgspec

NLMSG_ERROR, NLMSG_DONE = 2, 3
NLM_F_REQUEST, NLM_F_DUMP_INTR, NLM_F_DUMP = 0x1, 0x10, 0x300

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEIGH, RTM_GETNEIGH = 28, 30
RTM_F_CLONED = 0x200
RTNH_F_ONLINK = 4
RTN_UNICAST = 1
IFF_UP, IFF_RUNNING = 0x1, 0x40

_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_EXT_MASK = 1, 3, 29
_RTEXT_FILTER_SKIP_STATS = 8
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY, _RTA_PREFSRC, _RTA_MULTIPATH, _RTA_TABLE = (
    1,
    4,
    5,
    6,
    7,
    9,
    15,
)
_NDA_DST, _NDA_LLADDR = 1, 2
# What stands in rtm_table for a table whose number is too large for it.
_RT_TABLE_UNSPEC, _RT_TABLE_COMPAT = 0, 252
_TYPE_MASK = 0x3FFF  # without NLA_F_NESTED and NLA_F_NET_BYTEORDER

_HEADER = struct.Struct("=IHHII")
_LINK = struct.Struct("=BxHiII")
_ADDRESS = struct.Struct("=BBBBI")
_ROUTE = struct.Struct("=BBBBBBBBI")
_NEIGHBOUR = struct.Struct("=B3xiHBB")
_ATTRIBUTE = struct.Struct("=HH")
_U32 = struct.Struct("=I")

_ANYWHERE = {socket.AF_INET: "0.0.0.0", socket.AF_INET6: "::"}
_ADDRESS_BYTES = {4: socket.AF_INET, 16: socket.AF_INET6}


class RawLink(msgspec.Struct, frozen=True):
    """A link as the kernel has it. `up` is what Felix calls oper-up: administratively up and with carrier."""

    name: str
    index: int
    up: bool
    mac: str = ""


class RawRoute(msgspec.Struct, frozen=True, kw_only=True):
    """A route as the kernel has it, by interface index. `kind` is rtm_type; `dst` always has a mask."""

    dst: str
    table: int
    protocol: int
    scope: int
    kind: int
    oif: int = 0
    gateway: str = ""
    priority: int = 0
    src: str = ""
    onlink: bool = False
    paths: int = 1


class RawNeighbour(msgspec.Struct, frozen=True):
    index: int
    address: str
    mac: str
    state: int


class LinkEvent(msgspec.Struct, frozen=True):
    """A link is now so, or is gone."""

    link: RawLink
    gone: bool


class AddressEvent(msgspec.Struct, frozen=True):
    index: int
    address: str
    gone: bool


class RouteEvent(msgspec.Struct, frozen=True):
    """`author` is the port of the socket that asked for the change, 0 for the kernel's own doing."""

    route: RawRoute
    gone: bool
    author: int = 0


NetlinkEvent = LinkEvent | AddressEvent | RouteEvent


class Message(msgspec.Struct, frozen=True):
    """One message: its type, its flags, the request it answers, whose that was, and what follows the header."""

    type: int
    flags: int
    sequence: int
    port: int
    body: bytes


def read_messages(data: bytes) -> Iterator[Message]:
    """Yield each message of a datagram; one that is cut off ends it."""
    offset = 0
    while offset + _HEADER.size <= len(data):
        length, kind, flags, sequence, port = _HEADER.unpack_from(data, offset)
        if length < _HEADER.size or offset + length > len(data):
            return
        yield Message(kind, flags, sequence, port, data[offset + _HEADER.size : offset + length])
        offset += (length + 3) & ~3


def error_of(message: Message) -> int:
    """Return the errno of a message of type NLMSG_ERROR or NLMSG_DONE, 0 for none."""
    if len(message.body) < 4:
        return 0
    number: int = struct.unpack_from("=i", message.body)[0]
    return max(-number, 0)


def _attributes(body: bytes, offset: int) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    while offset + 4 <= len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, offset)
        if length < 4:
            break
        found[kind & _TYPE_MASK] = body[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    return found


def _address(value: bytes | None) -> str:
    if value is None or len(value) not in _ADDRESS_BYTES:
        return ""
    return socket.inet_ntop(_ADDRESS_BYTES[len(value)], value)


def _number(value: bytes | None) -> int:
    if value is None or len(value) < 4:
        return 0
    number: int = _U32.unpack_from(value)[0]
    return number


def _text(value: bytes | None) -> str:
    return value.rstrip(b"\0").decode(errors="surrogateescape") if value else ""


def read_link(body: bytes) -> RawLink | None:
    """Return the link; None for a bridge port, which says the same with family AF_BRIDGE."""
    family, _, index, flags, _ = _LINK.unpack_from(body)
    if family != socket.AF_UNSPEC:
        return None
    attributes = _attributes(body, _LINK.size)
    mac = attributes.get(_IFLA_ADDRESS, b"").hex(":")
    up = bool(flags & IFF_UP and flags & IFF_RUNNING)
    return RawLink(_text(attributes.get(_IFLA_IFNAME)), index, up, mac)


def read_address(body: bytes) -> tuple[int, str]:
    """Return the interface's index and own address: IFA_LOCAL where it differs from the peer's, else IFA_ADDRESS."""
    index = _ADDRESS.unpack_from(body)[4]
    attributes = _attributes(body, _ADDRESS.size)
    return index, _address(attributes.get(_IFA_LOCAL)) or _address(attributes.get(_IFA_ADDRESS))


def is_in_table(body: bytes, table: int) -> bool:
    """Tell by the header alone, as far as it can be told, whether a route may be in a table."""
    return body[4] in (table, _RT_TABLE_UNSPEC, _RT_TABLE_COMPAT)


def read_route(body: bytes) -> RawRoute | None:
    """Return the route; None for a cached one and for families that are not IP."""
    family, dst_len, _, _, table, protocol, scope, kind, flags = _ROUTE.unpack_from(body)
    anywhere = _ANYWHERE.get(family)
    if anywhere is None or flags & RTM_F_CLONED:
        return None
    attributes = _attributes(body, _ROUTE.size)
    return RawRoute(
        dst=f"{_address(attributes.get(_RTA_DST)) or anywhere}/{dst_len}",
        table=_number(attributes.get(_RTA_TABLE)) or table,
        protocol=protocol,
        scope=scope,
        kind=kind,
        # An IPv6 blackhole is shown on lo.
        oif=_number(attributes.get(_RTA_OIF)) if kind == RTN_UNICAST else 0,
        gateway=_address(attributes.get(_RTA_GATEWAY)),
        priority=_number(attributes.get(_RTA_PRIORITY)),
        src=_address(attributes.get(_RTA_PREFSRC)),
        onlink=bool(flags & RTNH_F_ONLINK),
        paths=_count_paths(attributes.get(_RTA_MULTIPATH)),
    )


def _count_paths(value: bytes | None) -> int:
    """Count the next hops of a route that names several; one that names none has one."""
    count, offset = 0, 0
    while value is not None and offset + 8 <= len(value):
        length = struct.unpack_from("=H", value, offset)[0]
        if length < 8:
            break
        count += 1
        offset += (length + 3) & ~3
    return count or 1


def read_neighbour(body: bytes) -> RawNeighbour:
    _, index, state, _, _ = _NEIGHBOUR.unpack_from(body)
    attributes = _attributes(body, _NEIGHBOUR.size)
    mac = attributes.get(_NDA_LLADDR, b"").hex(":")
    return RawNeighbour(index, _address(attributes.get(_NDA_DST)), mac, state)


def read_event(message: Message) -> NetlinkEvent | None:
    """Return what a multicast message says, None where it says nothing to us."""
    kind = message.type
    if kind in (RTM_NEWLINK, RTM_DELLINK):
        link = read_link(message.body)
        return None if link is None else LinkEvent(link, kind == RTM_DELLINK)
    if kind in (RTM_NEWADDR, RTM_DELADDR):
        return AddressEvent(*read_address(message.body), kind == RTM_DELADDR)
    if kind in (RTM_NEWROUTE, RTM_DELROUTE):
        route = read_route(message.body)
        return None if route is None else RouteEvent(route, kind == RTM_DELROUTE, message.port)
    return None


def dump_request(kind: int, family: int, sequence: int) -> bytes:
    """Return a request for all objects: kind is RTM_GETLINK, RTM_GETADDR, RTM_GETROUTE or RTM_GETNEIGH."""
    if kind == RTM_GETLINK:
        body = _LINK.pack(family, 0, 0, 0, 0)
        body += _ATTRIBUTE.pack(8, _IFLA_EXT_MASK) + _U32.pack(_RTEXT_FILTER_SKIP_STATS)
    elif kind == RTM_GETADDR:
        body = _ADDRESS.pack(family, 0, 0, 0, 0)
    elif kind == RTM_GETROUTE:
        body = _ROUTE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)
    else:
        body = _NEIGHBOUR.pack(family, 0, 0, 0, 0)
    return _HEADER.pack(_HEADER.size + len(body), kind, NLM_F_REQUEST | NLM_F_DUMP, sequence, 0) + body
