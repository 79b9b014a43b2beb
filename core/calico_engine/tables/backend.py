"""What a table tool adds to the table dataplane: how it reads, spells and writes chains of one address family.

Everything else (which chains exist, which are dirty, when to read back) is TableDataplane's and the same for all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Protocol

import msgspec

from calico_engine.errors import KernelError
from calico_engine.ruleset.ir import ChainKey, Family, Layer, Rule
from calico_engine.settings import FelixSettings


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What the tool can express; the lowering passes cut the ruleset to it."""

    chain_name_chars: int = 28
    multiport_slots: int = 15
    has_verdict_maps: bool = False
    has_named_sets: bool = False


class HookRule(msgspec.Struct, frozen=True, gc=False):
    """A rule in a chain that is not ours. `hash` is "" for somebody else's, whose `text` is not kept."""

    hash: str
    text: str = ""


class ActualTables(msgspec.Struct, frozen=True, kw_only=True):
    """What the kernel holds, as far as it concerns us.

    `chains`: our chains, each with the hash of every rule ("" for a rule that carries none).
    `hooks`: the other chains that any rule of ours is in or belongs into.
    """

    chains: Mapping[ChainKey, tuple[str, ...]] = {}
    hooks: Mapping[ChainKey, tuple[HookRule, ...]] = {}
    sets: Mapping[str, ActualSet] = {}


class KeyPart(StrEnum):
    """One field of a set's key. In an element's key each is padded to a multiple of 4 bytes."""

    ADDRESS = "address"  # 4 or 16 bytes, network byte order
    INTERFACE = "interface"  # 16 bytes, NUL padded
    PROTOCOL = "protocol"  # 1 byte and 3 of padding
    PORT = "port"  # 2 bytes, network byte order, and 2 of padding
    NUMBER = "number"  # an identity or a service class: 4 bytes, network byte order whatever the kernel wants


class ValueKind(StrEnum):
    NONE = "none"
    NUMBER = "number"  # 4 bytes, network byte order
    VERDICT = "verdict"  # b"return", b"drop", b"goto CHAIN", b"jump CHAIN"; chains of the filter layer


class SetShape(msgspec.Struct, frozen=True, gc=False):
    """What a named set or map of the table holds. With `intervals` an element's key is first key + last key."""

    key: tuple[KeyPart, ...]
    value: ValueKind = ValueKind.NONE
    intervals: bool = False


class Element(msgspec.Struct, frozen=True, gc=False):
    """What a key has: its value (b"" in a set without values) and a comment for people."""

    value: bytes = b""
    comment: str = ""


#: The key of the element that stands for all keys not listed.
CATCH_ALL = b""


class SetWrite(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Change one named set. `create`: it is not there, or is to be made afresh with exactly `added`."""

    name: str
    shape: SetShape
    create: bool = False
    comment: str = ""
    added: Mapping[bytes, Element] = {}
    removed: Mapping[bytes, Element] = {}


class ActualSet(msgspec.Struct, frozen=True, gc=False):
    """A named set as read back; shape None when it is none that we make."""

    shape: SetShape | None
    elements: Mapping[bytes, Element]


class ChainWrite(msgspec.Struct, frozen=True, gc=False):
    """Make the chain be exactly these rules; `hashes` are what hash_rules says of them."""

    key: ChainKey
    rules: tuple[Rule, ...]
    hashes: tuple[str, ...]


class HookWrite(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """In a chain that is not ours: delete the rules of ours with these texts, then place ours afresh.

    `placed` goes to the top, or to the end when the chain insert mode says so; `appended` always to the end.
    """

    key: ChainKey
    removed: tuple[str, ...] = ()
    placed: tuple[Rule, ...] = ()
    placed_hashes: tuple[str, ...] = ()
    appended: tuple[Rule, ...] = ()
    appended_hashes: tuple[str, ...] = ()


class TableDelta(msgspec.Struct, frozen=True, kw_only=True):
    """One transaction: chains first, then the hooks that lead to them, then deletions of chains nothing leads to."""

    chains: tuple[ChainWrite, ...] = ()
    hooks: tuple[HookWrite, ...] = ()
    deletions: tuple[ChainKey, ...] = ()
    sets: tuple[SetWrite, ...] = ()
    set_deletions: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.chains or self.hooks or self.deletions or self.sets or self.set_deletions)

    @property
    def element_count(self) -> int:
        """How many elements of sets come or go."""
        return sum(len(write.added) + len(write.removed) for write in self.sets)


class TableBackend(Protocol):
    """One table tool for one address family."""

    family: Family
    limits: Limits

    def configure(self, settings: FelixSettings, /) -> None:
        """Take over changed settings."""
        ...

    def hash_rules(self, chain: str, rules: Sequence[Rule], /) -> tuple[str, ...]:
        """Return the hash by which each of the kernel's rules will be known: as many a rule of ours as that takes.

        Pure. A rule's hash covers its chain's name, its place and all rules before it.
        """
        ...

    def render(self, delta: TableDelta, /) -> bytes:
        """Return the transaction that makes the changes. Pure."""
        ...

    def render_save(self, desired: TableDelta, /) -> str:
        """Return a desired state (all chains and hooks of it) in the tool's save format. Pure."""
        ...

    def hook_texts(self, write: HookWrite, /) -> tuple[str, ...]:
        """Return texts, one a hash, by which the rules placed and then those appended can be deleted later. Pure."""
        ...

    def blame(self, error: KernelError, /) -> ChainKey | str | None:
        """Return the chain, or the name of the set, that made a commit fail, when the error tells. Pure."""
        ...

    async def read_back(self) -> ActualTables:
        """Read the kernel's tables. Raises: KernelError."""
        ...

    async def commit(self, transaction: bytes, /) -> None:
        """Write a transaction. Per table it happens whole or not at all. Raises: KernelError."""
        ...

    def watch(self, changed: Callable[[str], None], /) -> None:
        """Call `changed(reason)` when somebody else changes what is ours, where the kernel tells such things."""
        ...

    def measure(self, chains: Mapping[Layer, int], rules: Mapping[Layer, int], /) -> None:
        """Publish how many chains and rules there are in each layer."""
        ...

    async def clean_leftovers(self) -> int:
        """Remove what is ours where this backend does not write, as after a change of variant. Returns how many."""
        ...

    async def clean(self) -> int:
        """Remove everything of ours from the kernel, also what older versions left. Returns how many objects."""
        ...

    def close(self) -> None: ...
