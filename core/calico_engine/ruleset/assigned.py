"""Which interfaces are workloads', and which source addresses are theirs: what needs no look at the routes.

Pure. A packet whose source is its endpoint's own address is not spoofed. An address that several interfaces claim, as
while a workload moves, is nobody's here: then the routes decide.
"""

from __future__ import annotations

from collections.abc import Collection
from ipaddress import ip_network

from calico_engine.ruleset.addresses import is_family
from calico_engine.ruleset.ir import Family

_BITS = {Family.V4: 32, Family.V6: 128}


class AssignedSources:
    """Addresses by interface, of one family."""

    def __init__(self, family: Family) -> None:
        self._family = family
        self._addresses: dict[str, frozenset[str]] = {}
        self._claimants: dict[str, set[str]] = {}
        self._pairs: frozenset[tuple[str, str]] | None = None
        self._interfaces: frozenset[str] | None = None

    def assign(self, interface: str, networks: Collection[str] | None) -> None:
        """Note an endpoint's networks, None for no endpoint."""
        own = frozenset(
            network.partition("/")[0]
            for network in networks or ()
            if is_family(network, self._family) and ip_network(network).prefixlen == _BITS[self._family]
        )
        if (networks is None) == (interface in self._addresses):
            self._interfaces = None
        before = self._addresses.pop(interface, frozenset())
        if networks is not None:
            self._addresses[interface] = own
        if own == before:
            return
        self._pairs = None
        for address in before - own:
            self._claimants[address].discard(interface)
            if not self._claimants[address]:
                del self._claimants[address]
        for address in own - before:
            self._claimants.setdefault(address, set()).add(interface)

    @property
    def interfaces(self) -> frozenset[str]:
        """Every interface that an endpoint has; another object after each change."""
        if self._interfaces is None:
            self._interfaces = frozenset(self._addresses)
        return self._interfaces

    @property
    def pairs(self) -> frozenset[tuple[str, str]]:
        """(interface, address) of every address that one interface alone claims; another object after each change."""
        if self._pairs is None:
            self._pairs = frozenset(
                (next(iter(interfaces)), address)
                for address, interfaces in self._claimants.items()
                if len(interfaces) == 1
            )
        return self._pairs
