"""What IPAM needs of the world: a datastore with compare-and-set, the cluster's pools and nodes, a clock.

A datastore plugin offers the first two; everything IPAM promises (no address twice, none lost) rests on the contract
of `IpamStore` alone, so any number of clients, Calico's own among them, may work on one datastore.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar

from calico_engine.ipam.keys import Key, Stored
from calico_engine.ipam.records import AffinityOwner, AllocationBlock, BlockAffinity, IPAMHandle
from calico_engine.model import IPPool, IPReservation

R = TypeVar("R")


class IpamStore(Protocol):
    """IPAM's records. Each write is atomic and succeeds only over the state the caller named.

    A record's revisions never repeat, also when it is deleted and made anew. Every method may raise UnavailableError:
    whether a write happened is then not known.
    """

    async def get(self, key: Key[R]) -> Stored[R]:
        """Return the newest record. Raises: NotFoundError."""
        ...

    async def create(self, key: Key[R], value: R) -> Stored[R]:
        """Write a record where there is none. Raises: ConflictError."""
        ...

    async def update(self, stored: Stored[R]) -> Stored[R]:
        """Write `stored.value` over `stored.revision`. Raises: ConflictError, also when the record is gone."""
        ...

    async def delete(self, stored: Stored[R]) -> None:
        """Delete the record at `stored.revision`. Raises: ConflictError, NotFoundError when it is gone."""
        ...

    async def list_blocks(self) -> Sequence[Stored[AllocationBlock]]: ...

    async def list_affinities(self, owner: AffinityOwner | None = None) -> Sequence[Stored[BlockAffinity]]:
        """Return the affinities of one owner or of all, of both families, in the order of their paths."""
        ...

    async def list_handles(self) -> Sequence[Stored[IPAMHandle]]: ...


class IpamCluster(Protocol):
    """What IPAM reads of the rest of the datastore."""

    async def pools(self) -> Sequence[IPPool]:
        """Return all pools, disabled ones too, in the order of their names."""
        ...

    async def reservations(self) -> Sequence[IPReservation]: ...

    async def node_labels(self, name: str) -> Mapping[str, str]:
        """Return the labels of a node. Raises: NotFoundError."""
        ...


class Clock(Protocol):
    """Time and chance."""

    def now_ns(self) -> int:
        """Nanoseconds since the epoch."""
        ...

    def chance(self) -> float:
        """A random number, 0 <= x < 1."""
        ...

    async def sleep(self, delay_s: float) -> None: ...
