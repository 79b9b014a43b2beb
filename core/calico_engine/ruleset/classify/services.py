"""Services: which protocols and destination ports a rule is about, and the classes that a list's rules cut them into.

Pure. Two packets of one class are told apart by no rule of the list, as far as protocol and destination port go.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from calico_engine.messages import PortRange
from calico_engine.ruleset.classify.bitmaps import bits_of
from calico_engine.ruleset.classify.exact import PORT_PROTOCOLS
from calico_engine.ruleset.ir import ServiceRange

_LAST_PORT = 0xFFFF
#: Number of the class that begins with port 0 of protocol 0, which would else be 0.
_FIRST_OF_ALL = 1 << 24

Ports = tuple[tuple[int, int], ...]


class Service(msgspec.Struct, frozen=True, gc=False):
    """Packets of `protocol` (None: of every protocol but `other_than`), to one of `ports` (None: to whatever port).

    `ports` are disjoint, sorted and only there for protocols that have ports.
    """

    protocol: int | None = None
    other_than: int | None = None
    ports: Ports | None = None


EVERYTHING = Service()


class Classes(msgspec.Struct, frozen=True, gc=False):
    """Services as a verdict table lists them, and for each class, 0 included, the services it is part of.

    `parts`: class number -> indices of services, ascending.
    """

    ranges: tuple[ServiceRange, ...]
    parts: dict[int, tuple[int, ...]]


def ports_left(ports: Sequence[PortRange], excluded: Sequence[PortRange]) -> Ports:
    """Return the ports that are in one of `ports` (all, if there are none) and in none of `excluded`."""
    wanted = _union(ports) if ports else ((0, _LAST_PORT),)
    left: list[tuple[int, int]] = []
    for first, last in wanted:
        for gap_first, gap_last in _gaps(_union(excluded)):
            low, high = max(first, gap_first), min(last, gap_last)
            if low <= high:
                left.append((low, high))
    return tuple(left)


def _union(ports: Iterable[PortRange]) -> Ports:
    merged: list[tuple[int, int]] = []
    for first, last in sorted((entry.first, entry.last) for entry in ports if entry.first <= entry.last):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return tuple(merged)


def _gaps(ports: Ports) -> list[tuple[int, int]]:
    gaps: list[tuple[int, int]] = []
    start = 0
    for first, last in ports:
        if first > start:
            gaps.append((start, first - 1))
        start = last + 1
    if start <= _LAST_PORT:
        gaps.append((start, _LAST_PORT))
    return gaps


def partition(services: Sequence[Service]) -> Classes:
    """Cut all packets into classes, so that each service is a union of classes.

    A class's number is made of the protocol and first port of its first range; 0 is the class of all that no range
    has, of protocols that no service names among them.
    """
    by_protocol: dict[int, list[int]] = {}
    general = 0
    for index, service in enumerate(services):
        if service.protocol is None:
            general |= 1 << index
        else:
            by_protocol.setdefault(service.protocol, []).append(index)
    excepted: dict[int, int] = {}
    for index, service in enumerate(services):
        if service.protocol is None and service.other_than is not None:
            excepted[service.other_than] = excepted.get(service.other_than, 0) | 1 << index
    numbers = {general: 0}
    ranges: list[ServiceRange] = []
    for protocol in sorted({*by_protocol, *excepted}):
        base = general & ~excepted.get(protocol, 0)
        for first, last, part in _segments(protocol, base, by_protocol.get(protocol, ()), services):
            number = numbers.get(part)
            if number is None:
                number = numbers[part] = protocol << 16 | first or _FIRST_OF_ALL
            if number:
                ranges.append(ServiceRange(protocol, first, last, number))
    parts = {number: tuple(bits_of(part)) for part, number in numbers.items()}
    return Classes(tuple(ranges), parts)


def _segments(
    protocol: int, base: int, indices: Iterable[int], services: Sequence[Service]
) -> list[tuple[int, int, int]]:
    """Return (first, last, bitmap of services) over all ports of a protocol; neighbours differ."""
    edges: dict[int, int] = {}
    for index in indices:
        ports = services[index].ports
        if ports is None or protocol not in PORT_PROTOCOLS:
            base |= 1 << index
            continue
        for first, last in ports:
            edges[first] = edges.get(first, 0) ^ 1 << index
            edges[last + 1] = edges.get(last + 1, 0) ^ 1 << index
    segments: list[tuple[int, int, int]] = []
    start, part = 0, base ^ edges.pop(0, 0)
    for edge in sorted(edges):
        if edge > _LAST_PORT or not edges[edge]:
            continue
        segments.append((start, edge - 1, part))
        start, part = edge, part ^ edges[edge]
    segments.append((start, _LAST_PORT, part))
    return segments
