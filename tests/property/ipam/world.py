"""Several clients of IPAM at once, one step at a time, and what must hold after each step."""

from __future__ import annotations

import random
from collections.abc import Callable, Coroutine
from ipaddress import IPv4Network
from typing import Any

from calico_engine.errors import CalicoEngineError
from calico_engine.ipam import (
    AffinityOwner,
    AllocationBlock,
    Assignment,
    AssignRequest,
    AutoAssignRequest,
    BlockKey,
    Cidr,
    Era,
    Finding,
    Holder,
    IpamClient,
    Problem,
    ReleaseRequest,
)
from calico_engine.ipam.block import attribute_of
from calico_engine.ipam.records import Address
from calico_engine.testing.builders import make_pool
from calico_engine.testing.ipam import (
    ManualClock,
    MemoryCluster,
    MemoryStore,
    Side,
    Step,
    open_gate,
    turn_gate,
)

HOSTS = ("h0", "h1", "h2")
HANDLES = ("a", "b", "c", "d")
POOL = IPv4Network("10.0.0.0/28")
ADDRESSES: tuple[Address, ...] = tuple(POOL)

# What no moment may show, whoever is in the middle of what.
NEVER = {
    Problem.BLOCK_MALFORMED,
    Problem.BLOCKS_OVERLAP,
    Problem.BLOCK_OUTSIDE_POOLS,
    Problem.HANDLE_MISSING,
    Problem.HANDLE_COUNT_LOW,
}


async def gate(operation: str, path: str, side: Side, /) -> None:
    """One operation a turn."""
    if side is Side.BEFORE:
        await turn_gate(operation, path, side)


class TurnClock(ManualClock):
    """Sleeping takes turns, by chance more or fewer, as on a real clock: else clients in lockstep never get apart."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._random = random.Random(seed)

    def chance(self) -> float:
        return self._random.random()

    async def sleep(self, delay_s: float) -> None:
        for _ in range(round(delay_s * 500)):
            await turn_gate("sleep", "", Side.BEFORE)


class Work:
    """One client in the middle of one request."""

    def __init__(self, step: Step[Any], handle: str, *, assigns: bool, releases: bool) -> None:
        self.step = step
        self.handle = handle
        self.assigns = assigns
        self.releases = releases
        # Whether a release of the handle ran at any time while this one did.
        self.overlapped = False


class World:
    """A pool of four blocks of four addresses, three hosts, and who holds what."""

    def __init__(self, era: Era, seed: int = 0) -> None:
        self.store = MemoryStore(era)
        self.cluster = MemoryCluster(nodes=HOSTS)
        self.cluster.ip_pools = [make_pool(cidr=str(POOL), block_size=30)]
        self.clock = TurnClock(seed)
        self.running: list[Work] = []
        self.held: dict[Address, str] = {}
        self.before: dict[Cidr, AllocationBlock] = {}
        self.revisions: dict[str, str] = {}
        self.completed = 0

    def start(
        self,
        work: Callable[[IpamClient], Coroutine[Any, Any, Any]],
        handle: str = "",
        *,
        assigns: bool = False,
        releases: bool = False,
    ) -> None:
        client = IpamClient(self.store.sharing(gate), self.cluster, self.clock)
        started = Work(Step(work(client)), handle, assigns=assigns, releases=releases)
        for other in self.running:
            if other.handle == handle:
                other.overlapped |= releases
                started.overlapped |= other.releases
        if releases:
            self.held = {address: name for address, name in self.held.items() if name != handle}
        self.running.append(started)

    def auto_assign(self, host: str, handle: str, count: int) -> None:
        request = AutoAssignRequest(host=host, count=count, holder=Holder(handle_id=handle))
        self.start(lambda client: client.auto_assign(request), handle, assigns=True)

    def assign(self, host: str, handle: str, address: Address) -> None:
        request = AssignRequest(address=address, host=host, holder=Holder(handle_id=handle))

        async def work(client: IpamClient) -> Assignment:
            await client.assign(request)
            return Assignment((address,), complete=True)

        self.start(work, handle, assigns=True)

    def release_handle(self, handle: str) -> None:
        self.start(lambda client: client.release_by_handle(handle), handle, releases=True)

    def release_address(self, handle: str, address: Address | None = None) -> None:
        """Release an address (one the handle holds if none is named) on condition that it is still the handle's."""
        held = (address for address, name in self.held.items() if name == handle)
        address = address or next(held, None)
        if address is not None:
            request = ReleaseRequest(address, handle=handle)
            self.start(lambda client: client.release_addresses([request]), handle, releases=True)

    def release_empty(self, host: str) -> None:
        self.start(lambda client: client.release_empty_blocks(AffinityOwner(host)))

    def release_host(self, host: str) -> None:
        self.start(lambda client: client.release_host_affinities(AffinityOwner(host), must_be_empty=False))

    def turn(self, index: int) -> None:
        """Let one client do one operation, then look at everything."""
        work = self.running[index % len(self.running)]
        if work.step.turn():
            self.end(work)
        self.look(work)

    def die(self, index: int) -> None:
        work = self.running[index % len(self.running)]
        work.step.die()
        self.running.remove(work)

    def end(self, work: Work) -> None:
        self.running.remove(work)
        self.completed += 1
        if work.step.error is not None:
            if not isinstance(work.step.error, CalicoEngineError):
                raise work.step.error
            return
        if work.assigns and not work.overlapped:
            assert isinstance(work.step.result, Assignment)
            for address in work.step.result.addresses:
                assert address not in self.held, f"{address} was given out twice"
                self.held[address] = work.handle

    def look(self, work: Work) -> None:
        revisions = {path: revision for path, (_, _, revision) in self.store.records.items()}
        if revisions == self.revisions:
            return
        self.revisions = revisions
        blocks = {
            key.cidr: key.decode(data)
            for key, data, _ in self.store.records.values()
            if isinstance(key, BlockKey)
        }
        for cidr in blocks.keys() | self.before.keys():
            for address in cidr:
                was, now = holder(self.before.get(cidr), address), holder(blocks.get(cidr), address)
                assert was == now or "" in (was, now), f"{address} went from {was} to {now} while in use"
                if was and not now:
                    assert work.releases, f"{address} was taken from {was} by one who releases nothing"
                    assert work.handle == was, f"{address} of {was} was released by {work.handle}"
        self.before = blocks
        for address, handle in self.held.items():
            block = next((block for cidr, block in blocks.items() if address in cidr), None)
            assert holder(block, address) == handle, f"{address} of {handle} is lost"
        wrong = [finding for finding in self.findings() if finding.problem in NEVER]
        assert not wrong, wrong

    def findings(self) -> tuple[Finding, ...]:
        return Step(IpamClient(self.quiet(), self.cluster, self.clock).check()).finish()

    def quiet(self) -> MemoryStore:
        """Return a client's view of the store that nobody gets into the way of."""
        return self.store.sharing(open_gate)

    def finish(self) -> None:
        """Let all end; then release by handle and by host, as operators do, and see that nothing is left."""
        while self.running:
            self.turn(0)
        client = IpamClient(self.quiet(), self.cluster, self.clock)
        for stored in Step(self.quiet().list_handles()).finish():
            handle_id = stored.key.path.rpartition("/")[2]
            Step(client.release_by_handle(handle_id)).finish()
        for host in HOSTS:
            Step(client.release_host_affinities(AffinityOwner(host), must_be_empty=True)).finish()
        assert list(self.store.records) == []


def holder(block: AllocationBlock | None, address: Address) -> str:
    """Return the handle that has an address, "" when it is free."""
    attribute = attribute_of(block, block.ordinal(address)) if block is not None else None
    return attribute.handle if attribute is not None else ""
