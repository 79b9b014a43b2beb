"""Which pools a request may use, and which blocks a pool is cut into.

Pure. Requested pools are used whatever their selectors say; without a request a pool must be for automatic use and
select the node and the namespace. What it may be used for (`allowedUses`) always counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum

import msgspec

from calico_engine.errors import NoPoolError
from calico_engine.ipam.go_random import first_index
from calico_engine.ipam.records import Address, AffinityOwner, AffinityType, Cidr, parse_cidr
from calico_engine.ipam.reserved import ReservedSet
from calico_engine.model import IPPool
from calico_engine.selector import parse


class PoolUse(StrEnum):
    WORKLOAD = "Workload"
    TUNNEL = "Tunnel"
    LOAD_BALANCER = "LoadBalancer"


_DEFAULT_USES = (PoolUse.WORKLOAD, PoolUse.TUNNEL)
_DEFAULT_BLOCK_BITS = {4: 26, 6: 122}


class Pool(msgspec.Struct, frozen=True):
    """An IPPool with its defaults filled in."""

    name: str
    cidr: Cidr
    block_bits: int
    disabled: bool
    automatic: bool
    uses: tuple[str, ...]
    node_selector: str
    namespace_selector: str

    def selects_node(self, labels: Mapping[str, str]) -> bool:
        return parse(self.node_selector).matches(labels)

    def selects_namespace(self, labels: Mapping[str, str]) -> bool:
        return parse(self.namespace_selector).matches(labels)

    def block_of(self, address: Address) -> Cidr:
        """Return the CIDR of the block an address of the pool belongs to."""
        return parse_cidr(f"{address}/{self.block_bits}")


class PoolRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What pools are wanted for. `requested` names pools by their CIDRs."""

    version: int
    use: str
    node: str
    node_labels: Mapping[str, str]
    namespace_labels: Mapping[str, str] = {}
    requested: tuple[Cidr, ...] = ()


def read_pools(resources: Iterable[IPPool]) -> tuple[Pool, ...]:
    """Return pools with defaults filled in, in the order of their names. A pool whose CIDR is none is left out."""
    pools = []
    for resource in sorted(resources, key=lambda pool: pool.metadata.name):
        spec = resource.spec
        try:
            cidr = parse_cidr(spec.cidr)
        except ValueError:
            continue
        pools.append(
            Pool(
                name=resource.metadata.name,
                cidr=cidr,
                block_bits=spec.block_size or _DEFAULT_BLOCK_BITS[cidr.version],
                disabled=spec.disabled,
                automatic=spec.assignment_mode in ("", "Automatic"),
                uses=spec.allowed_uses or _DEFAULT_USES,
                node_selector=spec.node_selector,
                namespace_selector=spec.namespace_selector,
            )
        )
    # A pool smaller than its blocks has none.
    return tuple(pool for pool in pools if pool.cidr.prefixlen <= pool.block_bits)


def choose_pools(pools: Sequence[Pool], request: PoolRequest) -> tuple[Pool, ...]:
    """Return the pools a request may use, in the order in which to try them.

    Raises: NoPoolError when there is none, or when a requested one does not exist or is disabled.
    """
    enabled = [pool for pool in pools if not pool.disabled and pool.cidr.version == request.version]
    if request.requested:
        by_cidr = {pool.cidr: pool for pool in enabled}
        missing = [str(cidr) for cidr in request.requested if cidr not in by_cidr]
        if missing:
            raise NoPoolError(
                f"requested pool {', '.join(missing)} does not exist or is disabled; "
                f"enabled: {', '.join(str(pool.cidr) for pool in enabled) or 'none'}"
            )
        selecting = [by_cidr[cidr] for cidr in request.requested]
    else:
        selecting = [
            pool
            for pool in enabled
            if pool.automatic
            and pool.selects_node(request.node_labels)
            and pool.selects_namespace(request.namespace_labels)
        ]
    chosen = tuple(pool for pool in selecting if request.use in pool.uses)
    if not chosen:
        raise NoPoolError(
            f"no IPv{request.version} pool for {request.use} on node {request.node}: of {len(enabled)} enabled pools "
            f"{len(selecting)} select it and none of these allows that use; see allowedUses, nodeSelector, disabled"
        )
    return chosen


def pool_of(pools: Iterable[Pool], address: Address) -> Pool | None:
    return next((pool for pool in pools if address in pool.cidr), None)


def walk_blocks(pool: Pool, owner: AffinityOwner, reserved: ReservedSet, now_ns: int) -> Iterator[Cidr]:
    """Yield every block of a pool once, from the one this host tries first on, round to the one before it.

    Blocks that are reserved as a whole are passed over.
    """
    count, size = _block_count(pool), _block_addresses(pool)
    start = _start(pool, owner, now_ns)
    step = 0
    while step < count:
        index = (start + step) % count
        cidr = parse_cidr(f"{pool.cidr.network_address + index * size}/{pool.block_bits}")
        closed = reserved.enclosing(cidr)
        if closed is None:
            yield cidr
            step += 1
        else:
            # In one leap: a reservation in an IPv6 pool may hold more blocks than anybody can count.
            last = min(int(closed.broadcast_address), int(pool.cidr.broadcast_address))
            step += (last + 1 - int(cidr.network_address)) // size


def walk_existing(pool: Pool, owner: AffinityOwner, blocks: Iterable[Cidr], now_ns: int) -> list[Cidr]:
    """Return those of `blocks` that are in the pool, in the order in which `walk_blocks` comes to them."""
    start = _start(pool, owner, now_ns)
    first = int(pool.cidr.network_address)

    def position(cidr: Cidr) -> int:
        return ((int(cidr.network_address) - first) // _block_addresses(pool) - start) % _block_count(pool)

    return sorted((cidr for cidr in blocks if cidr.network_address in pool.cidr), key=position)


def _block_count(pool: Pool) -> int:
    return int(2 ** (pool.block_bits - pool.cidr.prefixlen))


def _block_addresses(pool: Pool) -> int:
    return int(2 ** (pool.cidr.max_prefixlen - pool.block_bits))


def _start(pool: Pool, owner: AffinityOwner, now_ns: int) -> int:
    # Blocks of one address are never shared, so a host need not come back to the same one: start anywhere.
    count = _block_count(pool)
    return now_ns % count if _block_addresses(pool) == 1 else first_index(owner.name, count)


class BlockMap:
    """The CIDRs of blocks there are; says whether another one would lie across one of them.

    Blocks of two sizes in one place come about when a pool is made anew with another block size; an address must
    never belong to two of them.
    """

    def __init__(self, cidrs: Iterable[Cidr]) -> None:
        self._cidrs = frozenset(cidrs)
        self._lengths = frozenset((cidr.version, cidr.prefixlen) for cidr in self._cidrs)
        self._around: dict[tuple[int, int], frozenset[Cidr]] = {}

    def overlapped(self, candidate: Cidr) -> bool:
        """Return whether a block of another size shares an address with `candidate`."""
        shorter = [
            length
            for version, length in self._lengths
            if version == candidate.version and length < candidate.prefixlen
        ]
        if any(candidate.supernet(new_prefix=length) in self._cidrs for length in shorter):
            return True
        return candidate in self._supernets(candidate.version, candidate.prefixlen)

    def _supernets(self, version: int, length: int) -> frozenset[Cidr]:
        """CIDRs of one length that smaller blocks lie in."""
        found = self._around.get((version, length))
        if found is None:
            found = frozenset(
                cidr.supernet(new_prefix=length)
                for cidr in self._cidrs
                if cidr.version == version and cidr.prefixlen > length
            )
            self._around[version, length] = found
        return found


def affinity_owner(host: str, use: str) -> AffinityOwner:
    """Return who blocks for a use are affine to."""
    return AffinityOwner(host, AffinityType.VIRTUAL if use == PoolUse.LOAD_BALANCER else AffinityType.HOST)
