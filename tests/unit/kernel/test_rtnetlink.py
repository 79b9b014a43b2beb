"""Decoding netlink: whatever the bytes, nothing but an end."""

import struct

import pytest

from calico_engine.kernel import rtnetlink


def link_message(*, name: bytes = b"cali1\0", flags: int = 0x41, kind: int = rtnetlink.RTM_NEWLINK) -> bytes:
    body = struct.pack("=BxHiII", 0, 1, 7, flags, 0)
    body += struct.pack("=HH", 4 + len(name), 3) + name + b"\0" * (-len(name) % 4)
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 1, 0) + body


def events(data: bytes) -> list[rtnetlink.NetlinkEvent | None]:
    return [rtnetlink.read_event(message) for message in rtnetlink.read_messages(data)]


def test_several_messages_of_one_datagram_are_read_in_order() -> None:
    data = link_message() + link_message(flags=1) + link_message(kind=rtnetlink.RTM_DELLINK)

    assert events(data) == [
        rtnetlink.LinkEvent(rtnetlink.RawLink("cali1", 7, True), False),
        rtnetlink.LinkEvent(rtnetlink.RawLink("cali1", 7, False), False),
        rtnetlink.LinkEvent(rtnetlink.RawLink("cali1", 7, True), True),
    ]


def test_a_message_that_is_cut_off_is_left_out() -> None:
    whole = link_message()

    for length in range(len(whole)):
        assert events(whole + whole[:length]) == events(whole)


@pytest.mark.parametrize("length", [0, 1, 3])
def test_an_attribute_of_an_impossible_length_ends_the_attributes(length: int) -> None:
    body = struct.pack("=BxHiII", 0, 1, 7, 1, 0) + struct.pack("=HH", length, 3) + b"cali1\0\0\0"

    assert rtnetlink.read_link(body) == rtnetlink.RawLink("", 7, False)


def test_an_interface_name_that_is_no_text_is_read_all_the_same() -> None:
    (event,) = events(link_message(name=b"caf\xe9\0"))

    assert isinstance(event, rtnetlink.LinkEvent)
    assert event.link.name.encode(errors="surrogateescape") == b"caf\xe9"


def test_a_kind_that_nobody_asked_for_says_nothing() -> None:
    assert events(link_message(kind=99)) == [None]
