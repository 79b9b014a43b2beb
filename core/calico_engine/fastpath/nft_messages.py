"""nftables' messages: numbered in a batch, elements packed and unpacked: the specification of native/src/nft_*.c.

Pure. Both twins raise ValueError with the same text for the same bad input.
Source: include/uapi/linux/netlink.h, netfilter/nf_tables.h.
"""

from __future__ import annotations

import struct

_HEADER = struct.Struct("=IHHII")
_LENGTH = struct.Struct("=I")
_SEQUENCE_OFFSET = 8

BAD_MESSAGES = "messages: cut off, or fewer than a begin, one more and an end"


def number_messages(messages: bytearray, first: int) -> tuple[int, int]:
    """Number the messages of a batch in place, from `first` up; return how many, and where the last but one is.

    Each begins at a multiple of 4. Raises: ValueError when one is cut off, or there are fewer than three.
    """
    at, count, end = 0, 0, len(messages)
    previous = last = 0
    while at < end:
        if end - at < _HEADER.size:
            raise ValueError(BAD_MESSAGES)
        (length,) = _LENGTH.unpack_from(messages, at)
        if length < _HEADER.size or length > end - at:
            raise ValueError(BAD_MESSAGES)
        _LENGTH.pack_into(messages, at + _SEQUENCE_OFFSET, (first + count) & 0xFFFFFFFF)
        previous, last = last, at
        count += 1
        at += (length + 3) & ~3
    if count < 3:
        raise ValueError(BAD_MESSAGES)
    return count, previous
