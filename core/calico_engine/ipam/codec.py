"""IPAM records to and from JSON, as Calico of either era writes it.

Pure. V1 is the data model of Calico 2.x (etcd v2 API), V3 that of 3.x. Reading takes both, with the fields of every
version in between and of the Python allocator before; writing gives the members of the era's newest Go struct, in its
order and with Go's escapes, then the members we don't know. V1 has no room for sequence numbers and for the state of
an affinity: a claim there is what it was in 2.x, a key.

Raises: ValueError (msgspec's included) for text that is no such record.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import TypeVar

import msgspec

from calico_engine.ipam.records import (
    AffinityState,
    AllocationAttribute,
    AllocationBlock,
    BlockAffinity,
    Extra,
    IPAMConfig,
    IPAMHandle,
    parse_cidr,
)

T = TypeVar("T")
W = TypeVar("W", bound="_Wire")
Members = dict[str, object]

# Go escapes these in JSON strings; outside of strings they do not occur.
_GO_ESCAPES = (
    (b"&", b"\\u0026"),
    (b"<", b"\\u003c"),
    (b">", b"\\u003e"),
    ("\u2028".encode(), b"\\u2028"),
    ("\u2029".encode(), b"\\u2029"),
)


class _Wire(msgspec.Struct):
    """Base of the members we know, as they come; null and absent are the same to Go."""


class _WireBlock(_Wire, rename="camel"):
    cidr: str
    affinity: str | None = None
    affinity_claim_time: str | None = msgspec.field(default=None, name="affinity_claim_time")
    allocations: tuple[int | None, ...] | None = None
    unallocated: tuple[int, ...] | None = None
    attributes: tuple[msgspec.Raw, ...] | None = None
    sequence_number: int = 0
    sequence_number_for_allocation: dict[str, int] | None = None
    deleted: bool = False
    host_affinity: str | None = None
    strict_affinity: bool | None = None
    python_strict_affinity: bool | None = msgspec.field(default=None, name="strict_affinity")


class _WireAttribute(_Wire):
    handle_id: str | None = None
    secondary: dict[str, str] | None = None
    alternateOwnerAttrs: dict[str, str] | None = None  # noqa: N815
    releasedAt: str | None = None  # noqa: N815


class _WireAffinity(_Wire):
    state: AffinityState = AffinityState.UNSTATED
    deleted: bool = False


class _WireHandle(_Wire):
    block: dict[str, int] | None = None
    deleted: bool = False


class _WireConfig(_Wire):
    strict_affinity: bool = False
    auto_allocate_blocks: bool = False
    maxBlocksPerHost: int = 0  # noqa: N815
    kubeVirtVMAddressPersistence: str | None = None  # noqa: N815
    ipCooldownSeconds: int = 0  # noqa: N815


class Era(StrEnum):
    V1 = "v1"
    V3 = "v3"


def encode(record: object, era: Era) -> bytes:
    """Write any of IPAM's records. Raises: TypeError for something else."""
    match record:
        case AllocationBlock():
            return encode_block(record, era)
        case BlockAffinity():
            return encode_affinity(record, era)
        case IPAMHandle():
            return encode_handle(record, era)
        case IPAMConfig():
            return encode_config(record, era)
    raise TypeError(f"{type(record).__name__} is no record of IPAM")


def encode_block(block: AllocationBlock, era: Era) -> bytes:
    """Write a block. Raises: ValueError for a cooling address in V1, which would count as allocated for ever."""
    if era is Era.V1:
        members: Members = {
            "cidr": str(block.cidr),
            "affinity": block.affinity,
            "strictAffinity": bool(block.strict_affinity),
            "allocations": block.allocations,
            "unallocated": block.unallocated,
            "attributes": [_attribute_v1(attribute) for attribute in block.attributes],
        }
    else:
        members = {"cidr": str(block.cidr), "affinity": block.affinity}
        if block.affinity_claim_time is not None:
            members["affinity_claim_time"] = block.affinity_claim_time
        members |= {
            "allocations": block.allocations,
            "unallocated": block.unallocated,
            "attributes": [_attribute_v3(attribute) for attribute in block.attributes],
            "sequenceNumber": block.sequence_number,
            "sequenceNumberForAllocation": _sorted(
                {str(ordinal): number for ordinal, number in block.sequence_numbers.items()}
            ),
            "deleted": block.deleted,
        }
        if block.strict_affinity is not None:
            members["strictAffinity"] = block.strict_affinity
    if block.host_affinity is not None:
        members["hostAffinity"] = block.host_affinity
    return _written(members, block.extra)


def decode_block(data: bytes) -> AllocationBlock:
    """Read a block of either era; `hostAffinity: node1` of the first versions becomes its affinity."""
    wire, extra = _read(data, _WireBlock)
    affinity = wire.affinity or (f"host:{wire.host_affinity}" if wire.host_affinity else None)
    strict = wire.python_strict_affinity if wire.strict_affinity is None else wire.strict_affinity
    numbers = wire.sequence_number_for_allocation or {}
    return AllocationBlock(
        cidr=parse_cidr(wire.cidr),
        affinity=affinity,
        affinity_claim_time=wire.affinity_claim_time,
        allocations=wire.allocations or (),
        unallocated=wire.unallocated or (),
        attributes=tuple(_decoded_attribute(bytes(entry)) for entry in wire.attributes or ()),
        sequence_number=wire.sequence_number,
        sequence_numbers={int(ordinal): number for ordinal, number in numbers.items()},
        deleted=wire.deleted,
        strict_affinity=strict,
        host_affinity=wire.host_affinity,
        extra=extra,
    )


def encode_affinity(affinity: BlockAffinity, era: Era) -> bytes:
    """Write an affinity: a state in V3, nothing at all in V1, where its being there says everything."""
    if era is Era.V1:
        return b""
    return _written({"state": str(affinity.state), "deleted": affinity.deleted}, affinity.extra)


def decode_affinity(data: bytes) -> BlockAffinity:
    """Read an affinity of either era; an empty value is one whose state nobody stated."""
    wire, extra = _read(data or b"{}", _WireAffinity)
    return BlockAffinity(state=wire.state, deleted=wire.deleted, extra=extra)


def encode_handle(handle: IPAMHandle, era: Era) -> bytes:
    members: Members = {"block": _sorted(handle.block)}
    if era is Era.V3:
        members["deleted"] = handle.deleted
    return _written(members, handle.extra)


def decode_handle(data: bytes) -> IPAMHandle:
    wire, extra = _read(data, _WireHandle)
    return IPAMHandle(block=wire.block or {}, deleted=wire.deleted, extra=extra)


def encode_config(config: IPAMConfig, era: Era) -> bytes:
    """Write the configuration; as in the reference, what is false or zero is left out."""
    members: Members = {
        "strict_affinity": config.strict_affinity,
        "auto_allocate_blocks": config.auto_allocate_blocks,
    }
    if era is Era.V3:
        members |= {
            "maxBlocksPerHost": config.max_blocks_per_host,
            "kubeVirtVMAddressPersistence": config.kubevirt_vm_address_persistence,
            "ipCooldownSeconds": config.ip_cooldown_seconds,
        }
    return _written({name: value for name, value in members.items() if value}, config.extra)


def decode_config(data: bytes) -> IPAMConfig:
    """Read the configuration. What a stored one leaves out is false: the defaults are for none stored at all."""
    wire, extra = _read(data, _WireConfig)
    return IPAMConfig(
        strict_affinity=wire.strict_affinity,
        auto_allocate_blocks=wire.auto_allocate_blocks,
        max_blocks_per_host=wire.maxBlocksPerHost,
        kubevirt_vm_address_persistence=wire.kubeVirtVMAddressPersistence,
        ip_cooldown_seconds=wire.ipCooldownSeconds,
        extra=extra,
    )


def _attribute_v1(attribute: AllocationAttribute) -> Members:
    if attribute.released_at is not None:
        raise ValueError(
            "an address that cools down after its release can't be written in the v1 data model; "
            "set ipCooldownSeconds to 0"
        )
    owner = attribute.active_owner
    members: Members = {
        "handle_id": attribute.handle_id,
        "secondary": None if owner is None else _sorted(owner),
    }
    return members | attribute.extra


def _attribute_v3(attribute: AllocationAttribute) -> Members:
    members: Members = {
        "handle_id": attribute.handle_id,
        "secondary": _sorted(attribute.active_owner or {}),
        "alternateOwnerAttrs": _sorted(attribute.alternate_owner or {}),
        "releasedAt": attribute.released_at,
    }
    # An empty id is a value; an empty map is left out, as in the reference.
    return {name: value for name, value in members.items() if value not in (None, {})} | attribute.extra


def _decoded_attribute(data: bytes) -> AllocationAttribute:
    wire, extra = _read(data, _WireAttribute)
    return AllocationAttribute(
        handle_id=wire.handle_id,
        active_owner=wire.secondary,
        alternate_owner=wire.alternateOwnerAttrs,
        released_at=wire.releasedAt,
        extra=extra,
    )


def _sorted(mapping: Mapping[str, T]) -> dict[str, T]:
    """Go writes the keys of a map in the order of their bytes."""
    return {key: mapping[key] for key in sorted(mapping, key=str.encode)}


def _read(data: bytes, kind: type[W]) -> tuple[W, Extra]:
    """Return the members we know, and the others undecoded."""
    known = kind.__struct_encode_fields__
    members = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
    # A Raw refers to the whole document it came from: a copy lets that go.
    extra = {name: value.copy() for name, value in members.items() if name not in known}
    return msgspec.json.decode(data, type=kind), extra


def _written(members: Members, extra: Extra) -> bytes:
    data = msgspec.json.encode(members | extra)
    for character, escape in _GO_ESCAPES:
        data = data.replace(character, escape)
    return data
