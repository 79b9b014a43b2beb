"""Which workload endpoints claim which interface.

Pure. Two endpoints may claim one interface for a moment; the first by key governs it, whoever came first.
"""

from __future__ import annotations

from calico_engine.messages import WorkloadEndpointUpdate
from calico_engine.model.resource import ResourceKey
from calico_engine.ruleset.names import is_interface_name


class InterfaceClaims:
    """Interfaces and the endpoints that name them."""

    def __init__(self) -> None:
        self._claims: dict[str, set[ResourceKey]] = {}
        self._interface_of: dict[ResourceKey, str] = {}

    @property
    def interfaces(self) -> list[str]:
        """The interfaces that any endpoint claims, sorted."""
        return sorted(self._claims)

    def move(self, workload: ResourceKey, update: WorkloadEndpointUpdate | None) -> tuple[str, str]:
        """Note which interface an endpoint claims; return the one it claimed before and that of now, "" for none.

        A name that no rule may match on is none.
        """
        name = ""
        if update is not None and is_interface_name(update.interface_name):
            name = update.interface_name
        before = self._interface_of.pop(workload, "")
        if before:
            self._claims[before].discard(workload)
        if name:
            self._interface_of[workload] = name
            self._claims.setdefault(name, set()).add(workload)
        if before and not self._claims[before]:
            del self._claims[before]
        return before, name

    def governor(self, interface: str) -> ResourceKey | None:
        """Return the endpoint that governs an interface."""
        return min(self._claims.get(interface, ()), default=None)

    def governs(self, workload: ResourceKey) -> bool:
        interface = self._interface_of.get(workload)
        return interface is not None and self.governor(interface) == workload

    def claimants(self, *interfaces: str) -> set[ResourceKey]:
        """Return all endpoints that claim any of the interfaces."""
        return set().union(*(self._claims.get(interface, set()) for interface in interfaces))
