"""Packets built byte by byte: right checksums, and what went in comes out."""

import struct

import pytest

from calico_engine.evaluation import Flow
from calico_engine.testing.packets import Arrival, build_packet, read_packet

ADDRESSES = {4: ("10.65.0.1", "192.0.2.1"), 6: ("fd00::1", "2001:db8::1")}
TOKEN = 0x0123456789ABCDEF


def ones_complement_sum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    return total % 0xFFFF


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("protocol", ["TCP", "UDP", "SCTP", "ICMP", 47, 99])
def test_what_is_built_is_read(version: int, protocol: str | int) -> None:
    src, dst = ADDRESSES[version]
    number = {"TCP": 6, "UDP": 17, "SCTP": 132, "ICMP": 1}.get(str(protocol), protocol)

    packet = build_packet(Flow(src=src, dst=dst, protocol=protocol, dst_port=80), TOKEN)

    assert read_packet(packet) == Arrival(src, dst, int(number), TOKEN)
    # What a link adds to a short frame is no part of the packet.
    assert read_packet(packet + b"\0" * 6) == read_packet(packet)


@pytest.mark.parametrize(("protocol", "number"), [("TCP", 6), ("UDP", 17), ("ICMPv6", 58)])
def test_checksums_hold(protocol: str, number: int) -> None:
    flow = Flow(src="fd00::1", dst="2001:db8::1", protocol=protocol, dst_port=80, icmp_type=128, icmp_code=0)

    packet = build_packet(flow, TOKEN)

    pseudo = packet[8:40] + struct.pack("!II", len(packet) - 40, number)
    assert ones_complement_sum(pseudo + packet[40:]) == 0


def test_ipv4_headers_have_checksums_of_their_own() -> None:
    packet = build_packet(Flow(src="10.65.0.1", dst="192.0.2.1", protocol=47), TOKEN)

    assert ones_complement_sum(packet[:20]) == 0


def test_sctp_begins_with_an_init_and_its_checksum_is_a_crc32c() -> None:
    packet = build_packet(Flow(src="10.65.0.1", dst="192.0.2.1", protocol="SCTP", dst_port=80), TOKEN)

    data = packet[20:]
    assert data[12] == 1
    assert struct.unpack("<I", data[8:12])[0] == crc32c(data[:8] + bytes(4) + data[12:])


def crc32c(data: bytes) -> int:
    """Divide the reversed bits by the Castagnoli polynomial, the textbook's way."""
    bits = [byte >> shift & 1 for byte in data for shift in range(8)]
    bits = [bit ^ 1 for bit in bits[:32]] + bits[32:] + [0] * 32
    remainder = 0
    for bit in bits:
        carry = remainder >> 31
        remainder = (remainder << 1 | bit) & 0xFFFFFFFF
        if carry:
            remainder ^= 0x1EDC6F41
    return int(f"{remainder ^ 0xFFFFFFFF:032b}"[::-1], 2)


@pytest.mark.parametrize("data", [b"", b"\x45", bytes(60), b"\x60" + bytes(20)])
def test_what_is_no_packet_is_nothing(data: bytes) -> None:
    assert read_packet(data) is None
