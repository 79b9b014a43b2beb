"""Bitmaps in whole numbers: bit i stands for thing i.

Pure.
"""

from __future__ import annotations

from collections.abc import Iterator


def bits_of(bitmap: int) -> Iterator[int]:
    """Yield the places of the bits that are set, lowest first."""
    # Text is searched at the speed of memchr; taking a large number apart bit by bit is quadratic.
    digits = bin(bitmap)[:1:-1]
    place = digits.find("1")
    while place >= 0:
        yield place
        place = digits.find("1", place + 1)
