"""IPAM's surroundings in memory: a store whose every step can be stopped, failed or made the last one.

`MemoryStore` keeps the JSON of an era, so what is written is what a datastore would hold. Before and after each
operation it calls its `gate`, which may wait (another client goes on meanwhile), or raise: ConflictError before a
write as if another client had been faster, UnavailableError after it as if the answer had been lost.
With `turn_gate` a `Step` runs one client's request gate by gate, without an event loop: a test decides who goes next,
and a step that is ended with `die` is a client that died there.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping, Sequence
from enum import StrEnum
from typing import Any, Generic, TypeVar

from calico_engine.errors import ConflictError, NotFoundError
from calico_engine.ipam.codec import Era, encode
from calico_engine.ipam.keys import AffinityKey, BlockKey, HandleKey, Key, Stored
from calico_engine.ipam.records import AffinityOwner, AllocationBlock, BlockAffinity, IPAMHandle
from calico_engine.model import IPPool, IPReservation
from calico_engine.testing.builders import make_pool

R = TypeVar("R")
T = TypeVar("T")
K = TypeVar("K", BlockKey, AffinityKey, HandleKey)


class Side(StrEnum):
    """Of an operation: before it happens, after it happened."""

    BEFORE = "before"
    AFTER = "after"


# Called with the operation's name ("get", "create", "update", "delete", "list"), the path, and the side.
Gate = Callable[[str, str, Side], Awaitable[None]]

_EPOCH_NS = 1_700_000_000_000_000_000


async def open_gate(_operation: str, _path: str, _side: Side, /) -> None:
    """Let everything pass."""


class MemoryStore:
    """An `IpamStore` in memory."""

    def __init__(self, era: Era = Era.V3, gate: Gate = open_gate) -> None:
        self.era = era
        self.gate = gate
        self.records: dict[str, tuple[Key[Any], bytes, str]] = {}
        self.writes = 0

    def sharing(self, gate: Gate) -> MemoryStore:
        """Return another client's view of the same records, with its own gate."""
        other = MemoryStore(self.era, gate)
        other.records = self.records
        other._next_revision = self._next_revision  # type: ignore[method-assign]  # revisions never repeat
        return other

    async def get(self, key: Key[R]) -> Stored[R]:
        await self.gate("get", key.path, Side.BEFORE)
        found = self.records.get(key.path)
        await self.gate("get", key.path, Side.AFTER)
        if found is None:
            raise NotFoundError(key.path)
        return Stored(key, key.decode(found[1]), found[2])

    async def create(self, key: Key[R], value: R) -> Stored[R]:
        await self.gate("create", key.path, Side.BEFORE)
        found = self.records.get(key.path)
        if found is not None:
            raise ConflictError(key.path, "", found[2])
        return await self._write("create", key, value)

    async def update(self, stored: Stored[R]) -> Stored[R]:
        await self.gate("update", stored.key.path, Side.BEFORE)
        found = self.records.get(stored.key.path)
        if found is None or found[2] != stored.revision:
            raise ConflictError(stored.key.path, stored.revision, found[2] if found else "")
        return await self._write("update", stored.key, stored.value)

    async def delete(self, stored: Stored[R]) -> None:
        path = stored.key.path
        await self.gate("delete", path, Side.BEFORE)
        found = self.records.get(path)
        if found is None:
            raise NotFoundError(path)
        if found[2] != stored.revision:
            raise ConflictError(path, stored.revision, found[2])
        del self.records[path]
        await self.gate("delete", path, Side.AFTER)

    async def list_blocks(self) -> Sequence[Stored[AllocationBlock]]:
        return await self._list(BlockKey)

    async def list_affinities(self, owner: AffinityOwner | None = None) -> Sequence[Stored[BlockAffinity]]:
        found: Sequence[Stored[BlockAffinity]] = await self._list(AffinityKey)
        return [
            stored
            for stored in found
            if isinstance(stored.key, AffinityKey) and owner in (None, stored.key.owner)
        ]

    async def list_handles(self) -> Sequence[Stored[IPAMHandle]]:
        return await self._list(HandleKey)

    async def _list(self, kind: type[Key[R]]) -> list[Stored[R]]:
        await self.gate("list", kind.__name__, Side.BEFORE)
        found = [
            Stored(key, key.decode(data), revision)
            for _, (key, data, revision) in sorted(self.records.items())
            if isinstance(key, kind)
        ]
        await self.gate("list", kind.__name__, Side.AFTER)
        return found

    async def _write(self, operation: str, key: Key[R], value: R) -> Stored[R]:
        data = encode(value, self.era)
        revision = self._next_revision()
        self.records[key.path] = (key, data, revision)
        await self.gate(operation, key.path, Side.AFTER)
        return Stored(key, key.decode(data), revision)

    def _next_revision(self) -> str:
        self.writes += 1
        return str(self.writes)


class MemoryCluster:
    """An `IpamCluster` in memory; change its fields as the test goes on."""

    def __init__(self, *cidrs: str, nodes: Sequence[str] = ()) -> None:
        self.ip_pools: list[IPPool] = [
            make_pool(f"pool-{number}", cidr=cidr) for number, cidr in enumerate(cidrs)
        ]
        self.ip_reservations: list[IPReservation] = []
        self.labels: dict[str, dict[str, str]] = {node: {} for node in nodes}

    async def pools(self) -> Sequence[IPPool]:
        return self.ip_pools

    async def reservations(self) -> Sequence[IPReservation]:
        return self.ip_reservations

    async def node_labels(self, name: str) -> Mapping[str, str]:
        if name not in self.labels:
            raise NotFoundError(f"Node({name})")
        return self.labels[name]


class ManualClock:
    """A clock that stands still until it is moved, and a chance that always says 0.5. Sleeping is one turn."""

    def __init__(self) -> None:
        self.ns = _EPOCH_NS

    def now_ns(self) -> int:
        return self.ns

    def move(self, seconds: float) -> None:
        self.ns += int(seconds * 1_000_000_000)

    def chance(self) -> float:
        return 0.5

    async def sleep(self, delay_s: float) -> None:
        assert delay_s >= 0


class _Turn:
    """Awaiting it gives the turn back to the stepper."""

    def __await__(self) -> Generator[None, None, None]:
        yield


async def turn_gate(_operation: str, _path: str, _side: Side, /) -> None:
    """A gate at which a client waits for its next turn."""
    await _Turn()


class Step(Generic[T]):
    """One client's request, run turn by turn. `done` says that it ended, with `result` or `error`."""

    def __init__(self, work: Coroutine[Any, Any, T]) -> None:
        self._work = work
        self.done = False
        self.result: T | None = None
        self.error: Exception | None = None

    def turn(self) -> bool:
        """Go on to the next gate; True when the request has ended."""
        try:
            self._work.send(None)
        except StopIteration as end:
            self.done, self.result = True, end.value
        except Exception as error:  # noqa: BLE001
            self.done, self.error = True, error
        return self.done

    def finish(self, limit_turns: int = 100_000) -> T:
        """Go on to the end and return the result, or raise what the request raised."""
        for _ in range(limit_turns):
            if self.done or self.turn():
                break
        else:
            raise AssertionError(f"request did not end in {limit_turns} turns")
        if self.error is not None:
            raise self.error
        return self.result  # type: ignore[return-value]  # T may be None itself

    def die(self) -> None:
        """End the client where it stands: what it wrote stays, what it would have written never comes."""
        self._work.close()
        self.done = True
