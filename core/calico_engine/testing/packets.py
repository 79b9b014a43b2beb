"""Bytes of a flow's first packet, and what a captured packet says: for tests that send packets past any IP stack.

Pure. Checksums are right, because connection tracking drops what is damaged before any policy sees it. A packet ends
in a token of 8 bytes that its receiver recognises it by.
Source: RFC 791, 8200, 9293, 768, 792, 4443, 9260, 2784.
"""

from __future__ import annotations

import ipaddress
import struct
from typing import Final

import msgspec

from calico_engine.evaluation import Flow
from calico_engine.model.canonical import protocol_number

TOKEN_BYTES: Final = 8

_ICMP, _TCP, _UDP, _ICMPV6, _SCTP, _GRE = 1, 6, 17, 58, 132, 47
_HOP_LIMIT: Final = 64
_SYN: Final = 2
_IPV4_HEADER_BYTES: Final = 20
_IPV6_HEADER_BYTES: Final = 40
_SCTP_INIT: Final = 1
_UNKNOWN_PARAMETER: Final = 0xC0DE
_CRC32C: Final = 0x82F63B78
_CRC_BITS: Final = 8


class Arrival(msgspec.Struct, frozen=True):
    """A packet that came out somewhere. Addresses are canonical text."""

    src: str
    dst: str
    protocol: int
    token: int


def build_packet(flow: Flow, token: int) -> bytes:
    """Return an IP packet that begins a flow. Args: token: any number of 64 bits.

    Raises: ValueError for names instead of addresses.
    """
    src, dst = ipaddress.ip_address(flow.src), ipaddress.ip_address(flow.dst)
    protocol = protocol_number(flow.protocol)
    payload = struct.pack("!Q", token)
    length_bytes = len(_transport(flow, protocol, payload, b"", token))
    if src.version == 4:
        pseudo = struct.pack("!4s4sBBH", src.packed, dst.packed, 0, protocol, length_bytes)
    else:
        pseudo = struct.pack("!16s16sI3xB", src.packed, dst.packed, length_bytes, protocol)
    transport = _transport(flow, protocol, payload, pseudo, token)
    if src.version == 6:
        header = struct.pack("!IHBB", 6 << 28, length_bytes, protocol, _HOP_LIMIT)
        return header + src.packed + dst.packed + transport
    total_bytes = _IPV4_HEADER_BYTES + length_bytes
    start = struct.pack("!BBHHHBB", 0x45, 0, total_bytes, token & 0xFFFF or 1, 0, _HOP_LIMIT, protocol)
    addresses = src.packed + dst.packed
    return start + struct.pack("!H", _checksum(start + b"\0\0" + addresses)) + addresses + transport


def _transport(flow: Flow, protocol: int, payload: bytes, pseudo: bytes, token: int) -> bytes:
    """Return what follows the IP header; `pseudo` is the header's part in the checksum."""
    ports = struct.pack("!HH", flow.src_port, flow.dst_port)
    if protocol == _TCP:
        segment = ports + struct.pack("!IIBBHHH", token & 0xFFFFFFFF, 0, 5 << 4, _SYN, 65535, 0, 0) + payload
        return _with_checksum(segment, 16, pseudo)
    if protocol == _UDP:
        datagram = ports + struct.pack("!HH", 8 + len(payload), 0) + payload
        return _with_checksum(datagram, 6, pseudo)
    if protocol in (_ICMP, _ICMPV6):
        # The identifier makes each request a connection of its own.
        kind, code = flow.icmp_type or 0, flow.icmp_code or 0
        message = struct.pack("!BBHHH", kind, code, 0, token & 0xFFFF, 1) + payload
        return _with_checksum(message, 2, pseudo if protocol == _ICMPV6 else b"")
    if protocol == _SCTP:
        return _sctp_init(ports, payload)
    if protocol == _GRE:
        return struct.pack("!HH", 0, 0x0800) + payload
    return payload


def _sctp_init(ports: bytes, payload: bytes) -> bytes:
    """Return an INIT; it must be its packet's only chunk, so the payload is a parameter that receivers skip."""
    parameter = struct.pack("!HH", _UNKNOWN_PARAMETER, 4 + len(payload)) + payload
    fixed = struct.pack("!IIHHI", 1, 65535, 1, 1, 1)
    chunk = struct.pack("!BBH", _SCTP_INIT, 0, 4 + len(fixed) + len(parameter)) + fixed + parameter
    common = ports + struct.pack("!I", 0)
    return common + struct.pack("<I", _crc32c(common + b"\0" * 4 + chunk)) + chunk


def _with_checksum(data: bytes, offset: int, pseudo: bytes) -> bytes:
    return data[:offset] + struct.pack("!H", _checksum(pseudo + data)) + data[offset + 2 :]


def _checksum(data: bytes) -> int:
    """Return the Internet checksum; a result of 0 is sent as its other form, as UDP asks."""
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF or 0xFFFF


def _crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(_CRC_BITS):
            crc = crc >> 1 ^ (_CRC32C if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def read_packet(packet: bytes) -> Arrival | None:
    """Return what a packet says; None for one that is too short or no IP. A fragment is read as if it were whole."""
    version = packet[0] >> 4 if packet else 0
    if version == 4 and len(packet) >= _IPV4_HEADER_BYTES + TOKEN_BYTES:
        total_bytes = int.from_bytes(packet[2:4], "big")
        src, dst = ipaddress.IPv4Address(packet[12:16]), ipaddress.IPv4Address(packet[16:20])
        return Arrival(str(src), str(dst), packet[9], read_token(packet[:total_bytes]))
    if version == 6 and len(packet) >= _IPV6_HEADER_BYTES + TOKEN_BYTES:
        total_bytes = _IPV6_HEADER_BYTES + int.from_bytes(packet[4:6], "big")
        source, destination = ipaddress.IPv6Address(packet[8:24]), ipaddress.IPv6Address(packet[24:40])
        return Arrival(str(source), str(destination), packet[6], read_token(packet[:total_bytes]))
    return None


def read_token(data: bytes) -> int:
    return int.from_bytes(data[-TOKEN_BYTES:], "big")
