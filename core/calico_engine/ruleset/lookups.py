"""What packets are looked up in: the members of sets, and the identities of addresses, as the kernel would.

Pure.
"""

from __future__ import annotations

from bisect import bisect_right
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from calico_engine.ruleset.ir import Identities, SetData


@lru_cache(maxsize=65536)
def parse_address(address: str) -> IPv4Address | IPv6Address:
    """Return an address; texts come again and again."""
    return ip_address(address)


class SetIndex:
    """A set's members: whole addresses (or address and port) by hash, the rest by prefix."""

    def __init__(self, data: SetData) -> None:
        nets = {member for member in data.members if "/" in member}
        self.exact = data.members - nets
        self._nets = [ip_network(member) for member in nets]

    def has(self, address: str) -> bool:
        if address in self.exact:
            return True
        parsed = parse_address(address)
        return any(parsed in net for net in self._nets)


class IdentityIndex:
    """Identities by address, as the kernel's two maps give them."""

    def __init__(self, identities: Identities) -> None:
        self._hosts = identities.hosts
        self._nets = sorted(identities.nets.items())
        self._firsts = [first for (first, _), _ in self._nets]

    def pair(self, address: str) -> tuple[int, int]:
        packed = parse_address(address).packed
        place = bisect_right(self._firsts, packed) - 1
        net = 0
        if place >= 0:
            (_, last), number = self._nets[place]
            net = number if packed <= last else 0
        return self._hosts.get(packed, 0), net
