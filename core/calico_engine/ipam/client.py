"""IPAM for a node, a tool or a scheduler: give out addresses, take them back, look at what there is.

`IpamClient` is stateless over an `IpamStore`: any number of them, in any number of processes, may work at once, and
each may die between any two writes. Then no address is ever given out twice, and none is lost for good: it is released
by its handle, and `check` names what was left half done. Order of a request for addresses, as in the reference: the
host's own blocks; a new block, up to the limit of blocks per host; addresses of other hosts' blocks, unless
affinity is strict.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import msgspec

from calico_engine.errors import (
    BlockMalformedError,
    BlockNotEmptyError,
    BlockTakenError,
    ConflictError,
    IpamContendedError,
    NoPoolError,
    NotFoundError,
    ValidationError,
)
from calico_engine.ipam.block import Holder, allocate, assign, collect
from calico_engine.ipam.handles import Cover, write_block
from calico_engine.ipam.keys import ConfigKey, Stored
from calico_engine.ipam.pools import (
    BlockMap,
    Pool,
    PoolRequest,
    PoolUse,
    affinity_owner,
    choose_pools,
    pool_of,
    read_pools,
    walk_existing,
)
from calico_engine.ipam.records import (
    DEFAULT_MAX_BLOCKS_PER_HOST,
    Address,
    AffinityOwner,
    AllocationBlock,
    Cidr,
    IPAMConfig,
)
from calico_engine.ipam.releasing import Releasing
from calico_engine.ipam.reserved import ReservedSet, reserved_set
from calico_engine.ipam.retry import RETRIES, back_off

log = logging.getLogger(__name__)


class AutoAssignRequest(msgspec.Struct, frozen=True, kw_only=True):
    """`count` addresses of one family for a host. `max_blocks` 0 leaves the limit to the configuration."""

    host: str
    version: int = 4
    count: int = 1
    holder: Holder = Holder()
    pools: tuple[Cidr, ...] = ()
    use: str = PoolUse.WORKLOAD
    namespace_labels: Mapping[str, str] = {}
    max_blocks: int = 0


class AssignRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One named address for a host. With `use` the pool must allow that use."""

    address: Address
    host: str
    holder: Holder = Holder()
    use: str = ""


class Assignment(msgspec.Struct, frozen=True):
    """What was given out. `complete` is false when there were fewer addresses than wanted; `messages` say why."""

    addresses: tuple[Address, ...]
    complete: bool
    messages: tuple[str, ...] = ()


class IpamClient(Releasing):
    """The whole of IPAM; releasing and looking are in `releasing` and `inspection`."""

    async def set_config(self, config: IPAMConfig) -> None:
        """Store the configuration. Raises: ValidationError, ConflictError."""
        if not config.strict_affinity and not config.auto_allocate_blocks:
            raise ValidationError(
                "IPAM configuration", "auto_allocate_blocks", "may be false only with strict_affinity true"
            )
        if config.max_blocks_per_host and not config.strict_affinity:
            raise ValidationError(
                "IPAM configuration", "maxBlocksPerHost", "needs strict_affinity to be true"
            )
        try:
            stored = await self._store.get(ConfigKey())
        except NotFoundError:
            await self._store.create(ConfigKey(), config)
        else:
            await self._store.update(stored.with_value(config))

    async def auto_assign(self, request: AutoAssignRequest) -> Assignment:
        """Give out addresses; fewer than wanted is no error. Raises: NoPoolError, NotFoundError for no such node."""
        owner = affinity_owner(request.host, request.use)
        work = _Work(
            request=request,
            owner=owner,
            config=await self.config(),
            reserved=reserved_set(await self._cluster.reservations()),
            pools=await self._qualifying_pools(request, owner),
        )
        await self._assign_affine(work)
        if work.wanted and work.may_borrow:
            await self._assign_borrowed(work)
        return Assignment(tuple(work.given), not work.wanted, tuple(work.messages))

    async def assign(self, request: AssignRequest) -> None:
        """Give out one named address; its block is claimed for the host if it isn't there yet.

        Raises: AddressTakenError, NoPoolError, BlockTakenError with strict affinity.
        """
        pool = pool_of(
            [pool for pool in read_pools(await self._cluster.pools()) if not pool.disabled], request.address
        )
        if pool is None:
            raise NoPoolError(
                f"address {request.address} is in no enabled pool; create one or choose another address"
            )
        if request.use and request.use not in pool.uses:
            raise NoPoolError(
                f"address {request.address} is in pool {pool.name}, whose allowedUses are {', '.join(pool.uses)}, "
                f"not {request.use}; choose an address of another pool"
            )
        owner = affinity_owner(request.host, request.use)
        config = await self.config()
        for attempt in range(RETRIES):
            stored = await self._block_for(request.address, pool, owner)
            if stored is None:
                continue
            if config.strict_affinity and stored.value.affinity != str(owner):
                raise BlockTakenError(str(stored.value.cidr), stored.value.affinity or "")
            block = collect(stored.value, self._moment(config))
            block = assign(block, request.address, request.holder)
            cover = Cover(self._handles, self._store, request.holder.handle_id, block.cidr)
            await cover.raise_to(1)
            try:
                await write_block(self._store, stored, block)
            except ConflictError:
                await cover.drop()
                await back_off(self._clock, attempt)
            else:
                return
        raise IpamContendedError(f"assignment of {request.address}", RETRIES)

    async def claim_affinity(self, cidr: Cidr, owner: AffinityOwner) -> tuple[list[Cidr], list[Cidr]]:
        """Claim all blocks within a CIDR; return those that are the owner's now and those that are others'."""
        pools = [pool for pool in read_pools(await self._cluster.pools()) if not pool.disabled]
        pool = pool_of(pools, cidr.network_address)
        if pool is None or cidr.prefixlen > pool.block_bits:
            raise NoPoolError(f"{cidr} is no whole number of blocks of an enabled pool")
        there = BlockMap([stored.value.cidr for stored in await self._store.list_blocks()])
        claimed: list[Cidr] = []
        refused: list[Cidr] = []
        for block in cidr.subnets(new_prefix=pool.block_bits):
            try:
                if there.overlapped(block):
                    raise BlockTakenError(str(block), "a block of another size")
                await self._claims.claim(owner, block)
                claimed.append(block)
            except BlockTakenError:
                refused.append(block)
        return claimed, refused

    async def _qualifying_pools(self, request: AutoAssignRequest, owner: AffinityOwner) -> tuple[Pool, ...]:
        """Choose the pools; empty blocks of pools that no longer select the node are given back on the way."""
        virtual = request.use == PoolUse.LOAD_BALANCER
        labels = {} if virtual else await self._cluster.node_labels(request.host)
        pools = read_pools(await self._cluster.pools())
        chosen = choose_pools(
            pools,
            PoolRequest(
                version=request.version,
                use=request.use,
                node=request.host,
                node_labels=labels,
                namespace_labels=request.namespace_labels,
                requested=request.pools,
            ),
        )
        elsewhere = [pool for pool in pools if not pool.disabled and not pool.selects_node(labels)]
        if elsewhere:
            config = await self.config()
            for cidr in await self._claims.affine_blocks(owner, request.version):
                pool = pool_of(elsewhere, cidr.network_address)
                if pool is None or pool in chosen:
                    continue
                try:
                    await self._claims.release_persistently(
                        owner, cidr, config.ip_cooldown_seconds, must_be_empty=True
                    )
                except BlockNotEmptyError:
                    log.debug("block of a pool that selects the node no more is in use: %s", cidr)
        return chosen

    async def _assign_affine(self, work: _Work) -> None:
        """Take addresses of the host's own blocks, claiming new ones as far as allowed."""
        affine = [
            cidr
            for cidr in await self._claims.affine_blocks(work.owner, work.request.version)
            if pool_of(work.pools, cidr.network_address)
        ]
        for cidr in affine:
            if not work.wanted:
                return
            if work.reserved.enclosing(cidr):
                continue
            try:
                stored = await self._claims.owned_block(work.owner, cidr)
            except (BlockTakenError, NotFoundError, IpamContendedError) as error:
                log.info("affine block not usable: %s owner=%s: %s", cidr, work.owner, error)
                continue
            work.given += await self._take(work, stored, affine=True)
        owned = set(affine)
        for attempt in range(RETRIES):
            if not work.wanted:
                return
            if len(owned) >= work.max_blocks:
                work.limit_reached = True
                work.say(f"limit of {work.max_blocks} blocks per host reached")
                return
            if not work.config.auto_allocate_blocks:
                work.say("auto_allocate_blocks is false: no block is claimed")
                return
            cidr_found = await self._claims.usable_block(
                work.owner, work.pools, work.reserved, work.config.ip_cooldown_seconds
            )
            if cidr_found is None:
                work.say("no free block in pools " + ", ".join(str(pool.cidr) for pool in work.pools))
                return
            try:
                stored = await self._claims.claim(work.owner, cidr_found)
            except BlockTakenError:
                await back_off(self._clock, attempt)
                continue
            owned.add(cidr_found)
            work.given += await self._take(work, stored, affine=True)
        work.say("others were faster at every block")

    async def _assign_borrowed(self, work: _Work) -> None:
        """Take addresses of blocks that are affine to others or to nobody."""
        now_ns = self._clock.now_ns()
        there = {stored.value.cidr for stored in await self._store.list_blocks()}
        for pool in work.pools:
            for cidr in walk_existing(pool, work.owner, there, now_ns):
                if not work.wanted:
                    return
                stored = await self._claims.find_block(cidr)
                if stored is not None:
                    work.given += await self._take(work, stored, affine=False)

    async def _take(
        self, work: _Work, stored: Stored[AllocationBlock], *, affine: bool
    ) -> tuple[Address, ...]:
        """Take what is wanted and there of one block; nothing when it is not the owner's any more, if it has to be."""
        cover = Cover(self._handles, self._store, work.request.holder.handle_id, stored.value.cidr)
        for attempt in range(RETRIES):
            try:
                block = collect(stored.value, self._moment(work.config))
            except BlockMalformedError as error:
                log.warning("block passed over: %s", error)
                work.say(str(error))
                break
            block, addresses = allocate(block, work.wanted, work.request.holder, work.reserved)
            if not addresses or (affine and block.affinity != str(work.owner)):
                break
            await cover.raise_to(len(addresses))
            try:
                await write_block(self._store, stored, block)
            except ConflictError:
                await back_off(self._clock, attempt)
            else:
                await cover.keep()
                return addresses
            found = await self._claims.find_block(block.cidr)
            if found is None:
                break
            stored = found
        await cover.drop()
        return ()

    async def _block_for(
        self, address: Address, pool: Pool, owner: AffinityOwner
    ) -> Stored[AllocationBlock] | None:
        """Return the block of an address, made and claimed if need be; None when somebody else just claimed it."""
        cidr = pool.block_of(address)
        found = await self._claims.find_block(cidr)
        if found is not None:
            return found
        existing = await self._store.list_blocks()
        around = next((stored for stored in existing if address in stored.value.cidr), None)
        if around is not None:
            return around
        if BlockMap([stored.value.cidr for stored in existing]).overlapped(cidr):
            raise BlockTakenError(str(cidr), "blocks of a smaller size")
        try:
            return await self._claims.claim(owner, cidr)
        except BlockTakenError:
            return None


class _Work:
    """A request on its way: what it may use, what it has."""

    def __init__(
        self,
        request: AutoAssignRequest,
        owner: AffinityOwner,
        config: IPAMConfig,
        reserved: ReservedSet,
        pools: Sequence[Pool],
    ) -> None:
        self.request = request
        self.owner = owner
        self.config = config
        self.reserved = reserved
        self.pools = pools
        self.given: list[Address] = []
        self.messages: list[str] = []
        self.limit_reached = False

    @property
    def wanted(self) -> int:
        return self.request.count - len(self.given)

    @property
    def may_borrow(self) -> bool:
        # As in the reference: a host at its limit of blocks does not go on with the blocks of others.
        return not self.config.strict_affinity and not self.limit_reached

    @property
    def max_blocks(self) -> int:
        """The stricter of the request's and the configuration's limit."""
        limits = [limit for limit in (self.request.max_blocks, self.config.max_blocks_per_host) if limit > 0]
        return min(limits, default=DEFAULT_MAX_BLOCKS_PER_HOST)

    def say(self, message: str) -> None:
        if message not in self.messages:
            self.messages.append(message)
