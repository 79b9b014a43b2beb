"""Networks of sets as disjoint ranges of addresses, each with the combination of sets that cover it.

Pure. The ranges are a step function over the whole address space, kept as sorted starts; a network that comes or goes
has the steps within it made afresh and no other. Neighbouring ranges of one combination are one range, so that the
ranges are a function of the networks alone.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from ipaddress import IPv6Address

import msgspec

from calico_engine.fastpath import SET_ROW_SIZE, pack_set_members
from calico_engine.ruleset.classify.combinations import Combination, Combinations
from calico_engine.ruleset.ir import Family

#: A network: first address and prefix length. Sorted, a network comes before those within it.
Net = tuple[int, int]
#: First and last address, packed, both inclusive.
Range = tuple[bytes, bytes]
_Step = tuple[bytes, Combination]


class Resettled(msgspec.Struct, frozen=True):
    """A stretch whose ranges were made afresh: first and last address, the ranges that are gone and those new."""

    first: bytes
    last: bytes
    gone: tuple[tuple[Range, Combination], ...]
    new: tuple[tuple[Range, Combination], ...]


def parse_net(cidr: str) -> Net:
    """Return a CIDR's first address and prefix length. Raises: ValueError when it is none."""
    address, _, length = cidr.partition("/")
    if ":" in address:
        first, bits = int(IPv6Address(address)), 128
    else:
        first, bits = int.from_bytes(pack_v4(address), "big"), 32
    shift = bits - int(length)
    return first >> shift << shift, bits - shift


def pack_v4(address: str) -> bytes:
    """Return the four bytes of an IPv4 address. Raises: ValueError when it has others."""
    packed = bytes(map(int, address.split(".")))
    if len(packed) != 4:
        raise ValueError(f"{address!r} is not an IPv4 address")
    return packed


def pack_v6(address: str) -> bytes:
    """Return the sixteen bytes of an IPv6 address. Raises: ValueError when it is none."""
    return IPv6Address(address).packed


def pack_addresses(addresses: Sequence[str], family: Family) -> list[bytes]:
    """Return the bytes of addresses of one family. Raises: ValueError when one is none."""
    text = "\n".join(addresses)
    # More than an address is a member of other kinds of sets alone.
    if "," not in text and " " not in text:
        try:
            rows = pack_set_members(text.encode())
        except ValueError:
            # It may be spelt in a way that only the slower reading takes.
            rows = b""
        if len(rows) == SET_ROW_SIZE * len(addresses):
            end = 2 + (4 if family is Family.V4 else 16)
            return [rows[start + 2 : start + end] for start in range(0, len(rows), SET_ROW_SIZE)]
    pack = pack_v4 if family is Family.V4 else pack_v6
    return [pack(address) for address in addresses]


class NetIndex:
    """The networks of all sets, and what they make of the address space."""

    def __init__(self, family: Family, combinations: Combinations) -> None:
        self._bytes = 4 if family is Family.V4 else 16
        self._bits = 8 * self._bytes
        self._combinations = combinations
        self._holders: dict[Net, set[str]] = {}
        self._order: list[Net] = []
        self._lengths: Counter[int] = Counter()
        self._dirty: set[Net] = set()
        self._starts = [bytes(self._bytes)]
        self._steps = [combinations.empty]
        #: How many ranges a combination has.
        self.spread: Counter[Combination] = Counter()

    @property
    def is_dirty(self) -> bool:
        return bool(self._dirty)

    def add(self, set_id: str, net: Net) -> None:
        """Note that a set has a network."""
        holders = self._holders.get(net)
        if holders is None:
            holders = self._holders[net] = set()
            insort(self._order, net)
            self._lengths[net[1]] += 1
        if set_id not in holders:
            holders.add(set_id)
            self._dirty.add(net)

    def remove(self, set_id: str, net: Net) -> None:
        """Note that a set no longer has a network."""
        holders = self._holders.get(net)
        if holders is None or set_id not in holders:
            return
        self._dirty.add(net)
        holders.discard(set_id)
        if not holders:
            del self._holders[net]
            del self._order[bisect_left(self._order, net)]
            self._lengths[net[1]] -= 1
            if not self._lengths[net[1]]:
                del self._lengths[net[1]]

    def combination(self, address: bytes) -> Combination:
        """Return the sets that cover an address."""
        return self._steps[bisect_right(self._starts, address) - 1]

    def settle(self) -> Iterator[Resettled]:
        """Make the ranges afresh within every network that changed, one network a step."""
        dirty, self._dirty = sorted(self._dirty), set()
        done = -1
        for net in dirty:
            if net[0] > done:
                done = self._last(net)
                yield self._resettle(net)

    def _last(self, net: Net) -> int:
        return net[0] | ((1 << (self._bits - net[1])) - 1)

    def _pack(self, address: int) -> bytes:
        return address.to_bytes(self._bytes, "big")

    def _resettle(self, net: Net) -> Resettled:
        first, last = net[0], self._last(net)
        packed_first, packed_last = self._pack(first), self._pack(last)
        starts, steps = self._starts, self._steps
        inner = self._sweep(net, first, last)
        # The steps to replace: those within, and one more on either side to grow together with.
        low = max(bisect_right(starts, packed_first) - 2, 0)
        after = bisect_right(starts, packed_last)
        high = min(after + 1, len(starts))
        fresh = [
            (start, step)
            for start, step in zip(starts[low:high], steps[low:high], strict=True)
            if start < packed_first
        ]
        fresh += inner
        if last + 1 < 1 << self._bits:
            fresh.append((self._pack(last + 1), self.combination(self._pack(last + 1))))
        fresh += zip(starts[after:high], steps[after:high], strict=True)
        fresh = _joined(fresh)
        gone = self._ranges(low, high)
        starts[low:high] = [start for start, _ in fresh]
        steps[low:high] = [step for _, step in fresh]
        new = self._ranges(low, low + len(fresh))
        for _, combination in gone:
            self.spread[combination] -= 1
            if not self.spread[combination]:
                del self.spread[combination]
        for _, combination in new:
            self.spread[combination] += 1
        both = set(gone) & set(new)
        return Resettled(
            packed_first,
            packed_last,
            tuple(entry for entry in gone if entry not in both),
            tuple(entry for entry in new if entry not in both),
        )

    def _sweep(self, net: Net, first: int, last: int) -> list[_Step]:
        """Return the steps within a network: what covers it, and what lies within it, which may be nested."""
        combination = self._combinations.with_sets(self._combinations.empty, self._covering(net))
        inner: list[_Step] = [(self._pack(first), combination)]
        open_nets = [(last, combination)]
        order = self._order
        for place in range(bisect_left(order, net), bisect_right(order, (last, self._bits))):
            nested = order[place]
            while open_nets[-1][0] < nested[0]:
                end, _ = open_nets.pop()
                inner.append((self._pack(end + 1), open_nets[-1][1]))
            combination = self._combinations.with_sets(open_nets[-1][1], sorted(self._holders[nested]))
            inner.append((self._pack(nested[0]), combination))
            open_nets.append((self._last(nested), combination))
        while open_nets:
            end, _ = open_nets.pop()
            if end < last:
                inner.append((self._pack(end + 1), open_nets[-1][1]))
        return inner

    def _covering(self, net: Net) -> list[str]:
        """Return the sets that have a larger network around this one, sorted."""
        found: set[str] = set()
        for length in self._lengths:
            if length < net[1]:
                shift = self._bits - length
                found.update(self._holders.get((net[0] >> shift << shift, length), ()))
        return sorted(found)

    def _ranges(self, low: int, high: int) -> list[tuple[Range, Combination]]:
        """Return the ranges of steps low to high (exclusive) that any set covers."""
        empty = self._combinations.empty
        return [
            ((self._starts[place], self.range_end(place)), self._steps[place])
            for place in range(low, high)
            if self._steps[place] is not empty
        ]

    def range_end(self, place: int) -> bytes:
        """Return the last address of a step."""
        if place + 1 == len(self._starts):
            return b"\xff" * self._bytes
        return self._pack(int.from_bytes(self._starts[place + 1], "big") - 1)

    def number_of(self, wanted: Range) -> int | None:
        """Return the number of exactly this range, None when there is no such range."""
        place = bisect_right(self._starts, wanted[0]) - 1
        step = self._steps[place]
        if step is self._combinations.empty or (self._starts[place], self.range_end(place)) != wanted:
            return None
        return step.number

    def all_ranges(self) -> Iterator[tuple[Range, Combination]]:
        """Yield every range that any set covers, in order of address."""
        return iter(self._ranges(0, len(self._starts)))


class RangeView(Mapping[Range, int]):
    """The ranges as a mapping to numbers, made as it is read."""

    def __init__(self, index: NetIndex) -> None:
        self._index = index

    def __getitem__(self, wanted: Range) -> int:
        number = self._index.number_of(wanted)
        if number is None:
            raise KeyError(wanted)
        return number

    def __iter__(self) -> Iterator[Range]:
        return (found for found, _ in self._index.all_ranges())

    def __len__(self) -> int:
        return sum(1 for _ in self._index.all_ranges())


def _joined(steps: list[_Step]) -> list[_Step]:
    """Return steps so that each has its own start, the later one's, and differs from the one before."""
    joined: list[_Step] = []
    for start, combination in steps:
        if joined and joined[-1][0] == start:
            joined.pop()
        if not joined or joined[-1][1] is not combination:
            joined.append((start, combination))
    return joined
