"""The keys of IPAM's records: which record is under which, and its path in etcd, the same in both eras.

Pure. `Key[R]` names a record of type R; a `Stored[R]` is the record with its key and the revision it was read at.
"""

from __future__ import annotations

from typing import Generic, TypeVar

import msgspec

from calico_engine.ipam.codec import decode_affinity, decode_block, decode_config, decode_handle
from calico_engine.ipam.records import (
    AffinityOwner,
    AffinityType,
    AllocationBlock,
    BlockAffinity,
    Cidr,
    IPAMConfig,
    IPAMHandle,
    parse_cidr,
)

R = TypeVar("R")

_ROOT = "/calico/ipam/v2"
BLOCKS_PATH = f"{_ROOT}/assignment/"
HANDLES_PATH = f"{_ROOT}/handle/"
CONFIG_PATH = f"{_ROOT}/config"


class Key(msgspec.Struct, Generic[R], frozen=True):
    """Base of the keys."""

    @property
    def path(self) -> str:
        """The key in etcd."""
        raise NotImplementedError

    def decode(self, data: bytes) -> R:
        """Read the value that is stored under the key. Raises: ValueError."""
        raise NotImplementedError

    def __str__(self) -> str:
        return self.path


class BlockKey(Key[AllocationBlock], frozen=True):
    cidr: Cidr

    @property
    def path(self) -> str:
        return f"{BLOCKS_PATH}ipv{self.cidr.version}/block/{_segment(self.cidr)}"

    def decode(self, data: bytes) -> AllocationBlock:
        return decode_block(data)


class AffinityKey(Key[BlockAffinity], frozen=True):
    owner: AffinityOwner
    cidr: Cidr

    @property
    def path(self) -> str:
        return f"{affinities_path(self.owner)}ipv{self.cidr.version}/block/{_segment(self.cidr)}"

    def decode(self, data: bytes) -> BlockAffinity:
        return decode_affinity(data)


class HandleKey(Key[IPAMHandle], frozen=True):
    handle_id: str

    @property
    def path(self) -> str:
        return f"{HANDLES_PATH}{self.handle_id}"

    def decode(self, data: bytes) -> IPAMHandle:
        return decode_handle(data)


class ConfigKey(Key[IPAMConfig], frozen=True):
    @property
    def path(self) -> str:
        return CONFIG_PATH

    def decode(self, data: bytes) -> IPAMConfig:
        return decode_config(data)


class Stored(msgspec.Struct, Generic[R], frozen=True):
    """A record as the datastore has it; `revision` is what a compare-and-set compares."""

    key: Key[R]
    value: R
    revision: str

    def with_value(self, value: R) -> Stored[R]:
        """Return what `IpamStore.update` takes: another value, to be written over this revision only."""
        return Stored(self.key, value, self.revision)


AnyKey = BlockKey | AffinityKey | HandleKey | ConfigKey


def affinities_path(owner: AffinityOwner | None = None, type: AffinityType = AffinityType.HOST) -> str:  # noqa: A002
    """Return the directory of one owner's affinities, or that of all owners of a type."""
    return f"{_ROOT}/{owner.type}/{owner.name}/" if owner else f"{_ROOT}/{type}/"


def parse_path(path: str) -> AnyKey | None:
    """Return the key of an etcd path, None for a path that is none of IPAM's records."""
    if not path.startswith(f"{_ROOT}/"):
        return None
    match path.removeprefix(f"{_ROOT}/").split("/"):
        case ["config"]:
            return ConfigKey()
        case ["handle", handle_id] if handle_id:
            return HandleKey(handle_id)
        case ["assignment", "ipv4" | "ipv6", "block", segment]:
            cidr = _parse_segment(segment)
            return BlockKey(cidr) if cidr else None
        case ["host" | "virtual" as kind, name, "ipv4" | "ipv6", "block", segment]:
            cidr = _parse_segment(segment)
            return AffinityKey(AffinityOwner(name, AffinityType(kind)), cidr) if cidr else None
    return None


def _segment(cidr: Cidr) -> str:
    return str(cidr).replace("/", "-")


def _parse_segment(segment: str) -> Cidr | None:
    try:
        return parse_cidr(segment.replace("-", "/"))
    except ValueError:
        return None
