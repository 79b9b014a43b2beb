"""Look at what IPAM has given out; changes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from calico_engine.errors import NotFoundError
from calico_engine.ipam.block import Moment, assigned_attribute, collect, ordinals_of_handle
from calico_engine.ipam.check import Finding, Snapshot, check
from calico_engine.ipam.claims import Claims
from calico_engine.ipam.handles import Handles
from calico_engine.ipam.keys import AffinityKey, ConfigKey, HandleKey, Stored
from calico_engine.ipam.pools import pool_of, read_pools
from calico_engine.ipam.records import (
    Address,
    AllocationAttribute,
    AllocationBlock,
    Cidr,
    IPAMConfig,
    parse_cidr,
)
from calico_engine.ipam.reserved import reserved_set
from calico_engine.ipam.store import Clock, IpamCluster, IpamStore
from calico_engine.ipam.utilisation import PoolUtilisation, utilisation

_DEFAULTS = IPAMConfig()


class Inspection:
    """The reading part of `IpamClient`, and what all its parts share."""

    def __init__(self, store: IpamStore, cluster: IpamCluster, clock: Clock) -> None:
        self._store = store
        self._cluster = cluster
        self._clock = clock
        self._claims = Claims(store, clock)
        self._handles = Handles(store, clock)

    async def config(self) -> IPAMConfig:
        """Return the configuration, the defaults when none is stored."""
        try:
            return (await self._store.get(ConfigKey())).value
        except NotFoundError:
            return _DEFAULTS

    async def attributes(self, address: Address) -> AllocationAttribute:
        """Return what was noted when an address was given out. Raises: NotFoundError when it is not given out."""
        stored = await self._find_block_of(address)
        if stored is None:
            raise NotFoundError(f"an assignment of {address}")
        return assigned_attribute(collect(stored.value, self._moment(await self.config())), address)

    async def addresses_of_handle(self, handle_id: str) -> tuple[Address, ...]:
        """Return the addresses a handle has. Raises: NotFoundError for no such handle."""
        handle = await self._store.get(HandleKey(handle_id))
        addresses: list[Address] = []
        for text in handle.value.block:
            stored = await self._claims.find_block(parse_cidr(text))
            if stored is not None:
                addresses += map(stored.value.address, ordinals_of_handle(stored.value, handle_id))
        return tuple(addresses)

    async def utilisation(self) -> tuple[PoolUtilisation, ...]:
        """Return how full each pool and each of its blocks is; blocks in no pool come last, under the name ""."""
        blocks = [stored.value for stored in await self._store.list_blocks()]
        reserved = reserved_set(await self._cluster.reservations())
        return utilisation(read_pools(await self._cluster.pools()), blocks, reserved)

    async def check(self, in_use: Mapping[Address, str] | None = None) -> tuple[Finding, ...]:
        """Return what is inconsistent or leaked. `in_use` says which addresses somebody has, and who."""
        # Handles first: their counts are raised before blocks are written and lowered after.
        handles = await self._store.list_handles()
        blocks = await self._store.list_blocks()
        affinities = await self._store.list_affinities()
        return check(
            Snapshot(
                blocks={stored.value.cidr: stored.value for stored in blocks},
                affinities={
                    stored.key: stored.value for stored in affinities if isinstance(stored.key, AffinityKey)
                },
                handles={
                    stored.key.handle_id: stored.value
                    for stored in handles
                    if isinstance(stored.key, HandleKey)
                },
                pools=read_pools(await self._cluster.pools()),
                in_use=in_use,
            )
        )

    def _moment(self, config: IPAMConfig) -> Moment:
        return Moment(self._clock.now_ns(), config.ip_cooldown_seconds)

    async def _find_block_of(self, address: Address) -> Stored[AllocationBlock] | None:
        """Return the block an address is in, whatever its size and pool."""
        return (await self._blocks_of([address])).get(address)

    async def _blocks_of(self, addresses: Sequence[Address]) -> dict[Address, Stored[AllocationBlock]]:
        """Return the blocks of addresses. What isn't where the pools say is looked for in all blocks, once."""
        pools = read_pools(await self._cluster.pools())
        read: dict[Cidr, Stored[AllocationBlock] | None] = {}
        found: dict[Address, Stored[AllocationBlock]] = {}
        listed: Sequence[Stored[AllocationBlock]] | None = None
        for address in addresses:
            pool = pool_of(pools, address)
            stored = None
            if pool is not None:
                cidr = pool.block_of(address)
                if cidr not in read:
                    read[cidr] = await self._claims.find_block(cidr)
                stored = read[cidr]
            if stored is None:
                listed = await self._store.list_blocks() if listed is None else listed
                stored = next((block for block in listed if address in block.value.cidr), None)
            if stored is not None:
                found[address] = stored
        return found
