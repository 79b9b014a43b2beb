"""Where a host starts to look for a free block, as the reference does it.

The reference walks a pool from a pseudo-random block that depends on the host's name alone, so that hosts keep apart:
FNV-1 of the name seeds Go's math/rand, which draws a number below the count of blocks. With the same generator this
engine claims the very block that Calico on that host would claim: k8s-node02 takes 10.244.58.192/26 of 10.244.0.0/16.

Pure. The generator is the additive lagged Fibonacci one, y[n] = y[n-607] + y[n-273] modulo 2^64. Go mixes the seed
with a table that is this very generator's state after 7.8e12 steps from seed 1; it is worked out here, once, by
raising t to that power modulo the recurrence's polynomial t^607 - t^334 - 1.
Source: Go, math/rand (the stream of a given seed never changes in Go 1) and math/big, Int.Rand.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache, lru_cache

_LENGTH = 607
_TAP = 273
_STEPS_OF_TABLE = 7_800_000_000_000
_WORD = (1 << 64) - 1
_LEHMER_MODULUS = (1 << 31) - 1
_LEHMER_FACTOR = 48_271
_SEED_FOR_ZERO = 89_482_311
# A sum of 607 products of two words needs 138 bits; each coefficient gets a slot of whole bytes.
_SLOT_BYTES = 18


@lru_cache(maxsize=4096)
def first_index(host: str, count: int) -> int:
    """Return the number, from 0 to `count` - 1, of the block of a pool with `count` blocks that `host` tries first."""
    return _draw_below(_stream(_fnv1(host.encode())), count)


def _fnv1(data: bytes) -> int:
    """32-bit FNV-1 (multiply, then xor; not FNV-1a)."""
    value = 0x811C9DC5
    for byte in data:
        value = (value * 0x01000193 & 0xFFFFFFFF) ^ byte
    return value


def _draw_below(stream: Iterator[int], limit: int) -> int:
    """Draw numbers of as many bits as `limit` has until one is below it."""
    bits = limit.bit_length()
    words = -(-bits // 64)
    while True:
        value = 0
        for position in range(2 * words):
            value |= (next(stream) >> 31 & 0xFFFFFFFF) << (32 * position)
        # Only the last word is masked: what lies below it is drawn in full anyway.
        value &= (1 << bits) - 1
        if value < limit:
            return value


def _stream(seed: int) -> Iterator[int]:
    """Yield the 64-bit words of the generator seeded with `seed`."""
    state = [word ^ mixed for word, mixed in zip(_seeded(seed, 40, 20), _table(), strict=True)]
    tap, feed = 0, _LENGTH - _TAP
    while True:
        tap = (tap - 1) % _LENGTH
        feed = (feed - 1) % _LENGTH
        state[feed] = (state[feed] + state[tap]) & _WORD
        yield state[feed]


def _seeded(seed: int, high_shift: int, low_shift: int) -> list[int]:
    """Fill a state from a seed by a Lehmer generator, three values a word."""
    value = seed % _LEHMER_MODULUS or _SEED_FOR_ZERO
    for _ in range(20):
        value = value * _LEHMER_FACTOR % _LEHMER_MODULUS
    state = []
    for _ in range(_LENGTH):
        word = 0
        for shift in (high_shift, low_shift, 0):
            value = value * _LEHMER_FACTOR % _LEHMER_MODULUS
            word ^= value << shift
        state.append(word & _WORD)
    return state


@cache
def _table() -> tuple[int, ...]:
    """Return the state that seeding is mixed with: the generator's own after 7.8e12 steps from seed 1."""
    # The word of step j stands at (333 - j) modulo 607; words before the first step are those of the seed.
    start = _seeded(1, 20, 10)
    last = _LENGTH - _TAP - 1
    words = [start[(last - step) % _LENGTH] for step in range(-_LENGTH, 0)]
    for index in range(_LENGTH):
        words.append((words[index] + words[index + _LENGTH - _TAP]) & _WORD)
    weights = _power_of_t(_STEPS_OF_TABLE)
    summed = _multiply(weights[::-1], words)
    table = [0] * _LENGTH
    for index in range(_LENGTH):
        step = _STEPS_OF_TABLE + index - _LENGTH
        table[(last - step) % _LENGTH] = summed[_LENGTH - 1 + index]
    return tuple(table)


def _power_of_t(exponent: int) -> list[int]:
    """Return the coefficients of t^exponent modulo t^607 - t^334 - 1 and 2^64, lowest first."""
    result = [1] + [0] * (_LENGTH - 1)
    for bit in f"{exponent:b}":
        result = _reduce(_multiply(result, result))
        if bit == "1":
            result = _reduce([0, *result])
    return result


def _reduce(polynomial: list[int]) -> list[int]:
    for index in range(len(polynomial) - 1, _LENGTH - 1, -1):
        coefficient = polynomial[index]
        for lower in (index - _LENGTH, index - _TAP):
            polynomial[lower] = (polynomial[lower] + coefficient) & _WORD
    return polynomial[:_LENGTH]


def _multiply(left: Sequence[int], right: Sequence[int]) -> list[int]:
    """Multiply two polynomials modulo 2^64, as two long integers with a slot for each coefficient."""
    slots = len(left) + len(right)
    product = _packed(left) * _packed(right)
    raw = product.to_bytes(_SLOT_BYTES * slots, "little")
    return [int.from_bytes(raw[at : at + 8], "little") for at in range(0, len(raw), _SLOT_BYTES)]


def _packed(coefficients: Sequence[int]) -> int:
    return int.from_bytes(b"".join(value.to_bytes(_SLOT_BYTES, "little") for value in coefficients), "little")
