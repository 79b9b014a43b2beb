"""Addresses that IPReservations keep from being given out by themselves.

Pure. A reservation does not stop an explicit request for an address, nor take one away that is in use.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Network, IPv6Network, collapse_addresses

from calico_engine.ipam.records import Address, Cidr, parse_cidr
from calico_engine.model import IPReservation


class ReservedSet:
    """A set of CIDRs, of both families, overlapping or not."""

    def __init__(self, cidrs: Iterable[Cidr] = ()) -> None:
        given = tuple(cidrs)
        four = collapse_addresses([cidr for cidr in given if isinstance(cidr, IPv4Network)])
        six = collapse_addresses([cidr for cidr in given if isinstance(cidr, IPv6Network)])
        self._cidrs: tuple[Cidr, ...] = (*four, *six)

    def contains(self, address: Address) -> bool:
        return any(address in cidr for cidr in self._cidrs)

    def enclosing(self, cidr: Cidr) -> Cidr | None:
        """Return the reserved CIDR that `cidr` lies in wholly, None when an address of it is not reserved."""
        # Collapsed CIDRs: several that fill another one together have become one that does.
        return next(
            (reserved for reserved in self._overlapping(cidr) if reserved.prefixlen <= cidr.prefixlen), None
        )

    def reserved_count(self, cidr: Cidr) -> int:
        """Return how many addresses of `cidr` are reserved."""
        return sum(min(reserved.num_addresses, cidr.num_addresses) for reserved in self._overlapping(cidr))

    def _overlapping(self, cidr: Cidr) -> Iterator[Cidr]:
        for reserved in self._cidrs:
            if reserved.version == cidr.version and reserved.overlaps(cidr):
                yield reserved


NOTHING_RESERVED = ReservedSet()


def reserved_set(reservations: Iterable[IPReservation]) -> ReservedSet:
    """Return what IPReservation resources reserve; text that is no CIDR reserves nothing."""
    cidrs = []
    for reservation in reservations:
        for text in reservation.spec.reserved_cidrs:
            try:
                cidrs.append(parse_cidr(text))
            except ValueError:
                continue
    return ReservedSet(cidrs)
