"""Networks by longest prefix, and what lies inside a network."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Network
from typing import Generic, TypeVar

from calico_engine.calc.nets import parse_cidr

Value = TypeVar("Value")
Network = IPv4Network | IPv6Network


class PrefixMap(Generic[Value]):
    """Values by canonical network. Lookups cost one dict access per prefix length in use: clusters use a handful."""

    def __init__(self) -> None:
        self._values: dict[tuple[int, int], dict[int, tuple[str, Value]]] = {}
        self._lengths: dict[int, list[int]] = {4: [], 6: []}

    def __setitem__(self, cidr: str, value: Value) -> None:
        network = parse_cidr(cidr)
        slot = (network.version, network.prefixlen)
        if slot not in self._values:
            self._values[slot] = {}
            lengths = {length for version, length in self._values if version == network.version}
            self._lengths[network.version] = sorted(lengths, reverse=True)
        self._values[slot][_prefix(network)] = (cidr, value)

    def __bool__(self) -> bool:
        return bool(self._values)

    def pop(self, cidr: str) -> None:
        """Remove a network, if it is there."""
        network = parse_cidr(cidr)
        slot = (network.version, network.prefixlen)
        values = self._values.get(slot)
        if values is not None and values.pop(_prefix(network), None) is not None and not values:
            del self._values[slot]
            self._lengths[network.version].remove(network.prefixlen)

    def covering(self, cidr: str) -> Iterator[tuple[str, Value]]:
        """Yield the networks that contain one, itself included, longest prefix first."""
        if not self._values:
            return
        version, longest, bits, number = _parse(cidr)
        for length in self._lengths[version]:
            if length <= longest:
                found = self._values[version, length].get(number >> (bits - length))
                if found is not None:
                    yield found


def _parse(cidr: str) -> tuple[int, int, int, int]:
    """Return a network's version, prefix length, address length in bits, and number."""
    if "/" not in cidr and ":" not in cidr:
        # A canonical IPv4 host: by far the most.
        first, second, third, fourth = cidr.split(".")
        return 4, 32, 32, int(first) << 24 | int(second) << 16 | int(third) << 8 | int(fourth)
    network = parse_cidr(cidr)
    return network.version, network.prefixlen, network.max_prefixlen, int(network.network_address)


def _prefix(network: Network) -> int:
    return int(network.network_address) >> (network.max_prefixlen - network.prefixlen)
