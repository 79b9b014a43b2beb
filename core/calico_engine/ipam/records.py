"""What IPAM keeps in the datastore: blocks, affinities, handles, the configuration.

Pure. The records are those of Calico's data model; how they are written, in either era, is `codec`'s; under
which keys, is `keys`'s. `extra` holds
the JSON members a record came with and this engine does not know: they are written back as they were read.
Dicts in records are never changed in place.
"""

from __future__ import annotations

from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

import msgspec

Address = IPv4Address | IPv6Address
Cidr = IPv4Network | IPv6Network
Extra = dict[str, msgspec.Raw]

DEFAULT_MAX_BLOCKS_PER_HOST = 20
# Calico on Windows takes addresses of each block for itself under this handle; such a block is empty all the same.
WINDOWS_RESERVED_HANDLE = "windows-reserved-ipam-handle"


class AffinityType(StrEnum):
    HOST = "host"
    VIRTUAL = "virtual"


class AffinityOwner(msgspec.Struct, frozen=True, order=True):
    """Who a block is affine to: a host, or `virtual:load-balancer` for the addresses of services."""

    name: str
    type: AffinityType = AffinityType.HOST

    def __str__(self) -> str:
        return f"{self.type}:{self.name}"

    @classmethod
    def parse(cls, text: str) -> AffinityOwner:
        """Read `host:NAME`. Raises: ValueError."""
        kind, colon, name = text.partition(":")
        if not colon:
            raise ValueError(f"affinity {text!r}: must be TYPE:NAME, as in host:node1")
        return cls(name, AffinityType(kind))


class AffinityState(StrEnum):
    """UNSTATED is what older versions wrote (nothing); it counts as confirmed."""

    UNSTATED = ""
    PENDING = "pending"
    CONFIRMED = "confirmed"
    PENDING_DELETION = "pendingDeletion"

    @property
    def is_confirmed(self) -> bool:
        return self in (AffinityState.CONFIRMED, AffinityState.UNSTATED)


class AllocationAttribute(msgspec.Struct, frozen=True, kw_only=True):
    """Who has an address. `released_at` (RFC 3339) marks one that is given back and cools down."""

    handle_id: str | None = None
    active_owner: dict[str, str] | None = None
    alternate_owner: dict[str, str] | None = None
    released_at: str | None = None
    extra: Extra = {}

    @property
    def handle(self) -> str:
        """The handle's id, "" for none. Some hosts once stored ids with a carriage return and rubbish behind it."""
        return clean_handle(self.handle_id or "")


class AllocationBlock(msgspec.Struct, frozen=True, kw_only=True):
    """A CIDR whose addresses are given out one by one.

    `allocations[ordinal]` is an index into `attributes`, None when the address is free; `unallocated` is the queue of
    the free ordinals. `sequence_numbers` holds, for each allocated ordinal, `sequence_number` as it was when it was
    given out: a release that names another number is about an earlier life of the address.
    """

    cidr: Cidr
    affinity: str | None = None
    affinity_claim_time: str | None = None
    allocations: tuple[int | None, ...] = ()
    unallocated: tuple[int, ...] = ()
    attributes: tuple[AllocationAttribute, ...] = ()
    sequence_number: int = 0
    sequence_numbers: dict[int, int] = {}
    deleted: bool = False
    strict_affinity: bool | None = None
    host_affinity: str | None = None
    extra: Extra = {}

    @property
    def owner(self) -> AffinityOwner | None:
        """Who the block is affine to; None for nobody, and for an affinity of a type we don't know."""
        if self.affinity is None:
            return None
        try:
            return AffinityOwner.parse(self.affinity)
        except ValueError:
            return None

    def address(self, ordinal: int) -> Address:
        return self.cidr.network_address + ordinal

    def ordinal(self, address: Address) -> int:
        """Return how far into the block an address lies. Raises: ValueError when it isn't in the block."""
        if address not in self.cidr:
            raise ValueError(f"address {address} is not in block {self.cidr}")
        return int(address) - int(self.cidr.network_address)


class BlockAffinity(msgspec.Struct, frozen=True, kw_only=True):
    state: AffinityState = AffinityState.UNSTATED
    deleted: bool = False
    extra: Extra = {}


class IPAMHandle(msgspec.Struct, frozen=True, kw_only=True):
    """How many addresses of which blocks (CIDR as text) a handle has.

    A count may be too high after a crash, never too low: it is raised before an address is given out.
    """

    block: dict[str, int] = {}
    deleted: bool = False
    extra: Extra = {}


class IPAMConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The defaults hold where no configuration is stored. `max_blocks_per_host` 0 stands for 20."""

    strict_affinity: bool = False
    auto_allocate_blocks: bool = True
    max_blocks_per_host: int = 0
    kubevirt_vm_address_persistence: str | None = None
    ip_cooldown_seconds: int = 0
    extra: Extra = {}


def clean_handle(handle_id: str) -> str:
    """Return a handle's id without what a line end and rubbish behind it once left in the datastore."""
    return handle_id.split("\r")[0]


def parse_cidr(text: str) -> Cidr:
    """Read a CIDR, host bits cleared. Raises: ValueError."""
    return ip_network(text.strip(), strict=False)
