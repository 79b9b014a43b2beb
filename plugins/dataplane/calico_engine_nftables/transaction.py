"""A delta as one transaction: the messages that change a table, in an order that the kernel takes.

Pure. Names come before what leads to them, and what leads somewhere goes before the name does. What is believed to be
absent is made with NLM_F_EXCL, so that rules are never added to a chain that somebody else made meanwhile; a chain
that is believed to be there is emptied by its name, which fails when it is gone. Both failures lead to a read-back.
"""

from __future__ import annotations

import base64
import hashlib
import struct
import sys
from collections.abc import Collection, Iterator, Sequence

import msgspec

from calico_engine.ruleset.ir import ChainKey, Family, Hook, Layer, Rule
from calico_engine.ruleset.names import safe_text
from calico_engine.tables.backend import HookWrite, SetShape, SetWrite, TableDelta, ValueKind
from calico_engine.tables.single_table import COMMENT_MAX_CHARS, chain_name, origin_text
from calico_engine_nftables import messages
from calico_engine_nftables.config import NftablesConfig
from calico_engine_nftables.elements import encode_deletions, encode_elements
from calico_engine_nftables.expressions import rule_bytes
from calico_engine_nftables.wire import (
    HEADER_BYTES,
    NLM_F_EXCL,
    Kind,
    read_attributes,
    read_comment,
    read_text,
)

HASH_PREFIX = "cali:"
HASH_CHARS = 16
_WHY_MAX_CHARS = COMMENT_MAX_CHARS - len(HASH_PREFIX) - HASH_CHARS
TABLE_NOTE = "calico-engine; changes by others are undone"
_FLAGS = struct.Struct("=H")
_FLAGS_OFFSET = 6


class Present(msgspec.Struct):
    """Names in the kernel's table, as last read and written. `alien`: chains of another kind than ours have.

    `to_replace`: the table itself is not as we make it; nothing in it counts.
    """

    chains: set[str] = msgspec.field(default_factory=set)
    alien: set[str] = msgspec.field(default_factory=set)
    sets: set[str] = msgspec.field(default_factory=set)
    to_replace: bool = False

    def copy(self) -> Present:
        return Present(set(self.chains), set(self.alien), set(self.sets), self.to_replace)

    def note(self, delta: TableDelta) -> None:
        """Note that a transaction made from this has happened."""
        self.to_replace = False
        for write in delta.chains:
            self.chains.add(chain_name(write.key))
        for hook in delta.hooks:
            name = chain_name(hook.key)
            (self.chains.add if hook.placed_hashes or hook.appended_hashes else self.chains.discard)(name)
        self.chains.difference_update(chain_name(key) for key in delta.deletions)
        self.alien -= {chain_name(write.key) for write in delta.chains}
        self.alien -= {chain_name(hook.key) for hook in delta.hooks}
        self.alien &= self.chains
        self.sets.update(change.name for change in delta.sets)
        self.sets.difference_update(delta.set_deletions)


#: The kernel's rules for one of ours, and why it exists.
Spelled = tuple[tuple[bytes, ...], str]
_CHAINS_KEPT = 4096


class Writer:
    """Spells deltas for one table. Which rules of the kernel's a rule of ours takes is worked out once."""

    def __init__(self, family: Family, options: NftablesConfig) -> None:
        self._family = family
        self._table = options.table
        self._counters = options.rule_counters
        self._counting_elements = options.element_counters
        #: Flags of the table.
        self.flags = 0
        # What rules were spelled as, from their hashing until they are written.
        self._spelled: dict[ChainKey, tuple[Sequence[Rule], list[Spelled]]] = {}

    def hashes(self, chain: str, rules: Sequence[Rule]) -> tuple[str, ...]:
        """Return one hash a rule of the kernel's. What a chain's layer adds to names does not count."""
        key = ChainKey(Layer.FILTER, chain)
        spelled = self._spell(rules, key)
        if len(self._spelled) >= _CHAINS_KEPT:
            self._spelled.clear()
        self._spelled[key] = rules, spelled
        digest = hashlib.sha224(chain.encode()).digest()
        found = []
        for bodies, why in spelled:
            text = why.encode()
            for body in bodies:
                digest = hashlib.sha224(digest + body + text).digest()
                found.append(base64.urlsafe_b64encode(digest).decode()[:HASH_CHARS])
        return tuple(found)

    def _spell(self, rules: Sequence[Rule], key: ChainKey) -> list[Spelled]:
        family, counters = self._family, self._counters
        return [(rule_bytes(rule, key, family, counter=counters), _why(rule)) for rule in rules]

    def render(self, delta: TableDelta, present: Present) -> list[bytes]:
        """Return the messages of a transaction, without its begin and end; those of a chain's rules as one part."""
        return list(self._messages(delta, present))

    def _messages(self, delta: TableDelta, present: Present) -> Iterator[bytes]:
        family, table = self._family, self._table
        if present.to_replace:
            yield messages.delete_table(family, table)
        yield messages.new_table(family, table, flags=self.flags, note=TABLE_NOTE)
        for write in delta.chains:
            yield from self._prepare(chain_name(write.key), present)
        for hook in delta.hooks:
            yield from self._prepare_hook(hook, present)
        # What looked into a set that is made afresh is empty by now.
        for change in delta.sets:
            yield from self._set(change, present)
        for write in delta.chains:
            yield from self._rules(write.key, write.rules, write.hashes)
        for hook in delta.hooks:
            rules = (*hook.placed, *hook.appended)
            yield from self._rules(hook.key, rules, (*hook.placed_hashes, *hook.appended_hashes))
        # After the rules: the kernel walks a map's elements for each chain that begins to look into it (6.18).
        for change in delta.sets:
            yield from self._elements(change)
        yield from self._deletions(delta.deletions, delta.set_deletions)

    def _prepare(self, name: str, present: Present) -> Iterator[bytes]:
        """Have an empty chain."""
        if name in present.alien:
            yield messages.flush_chain(self._family, self._table, name)
            yield messages.delete_chain(self._family, self._table, name)
        elif name in present.chains:
            yield messages.flush_chain(self._family, self._table, name)
            return
        yield _exclusive(messages.new_chain(self._family, self._table, name))

    def _prepare_hook(self, hook: HookWrite, present: Present) -> Iterator[bytes]:
        """Have an empty base chain, or none where there are no rules for it."""
        name = chain_name(hook.key)
        wanted = bool(hook.placed_hashes or hook.appended_hashes)
        if name in present.chains:
            yield messages.flush_chain(self._family, self._table, name)
            if wanted and name not in present.alien:
                return
            yield messages.delete_chain(self._family, self._table, name)
        if wanted:
            layer, kernel_hook = hook.key.layer, Hook(hook.key.name)
            yield _exclusive(messages.new_base_chain(self._family, self._table, name, layer, kernel_hook))

    def _set(self, change: SetWrite, present: Present) -> Iterator[bytes]:
        if not change.create:
            return
        if change.name in present.sets:
            yield from self._delete_set(change.name)
        yield _exclusive(
            messages.new_set(
                self._family,
                self._table,
                change.name,
                change.shape,
                counters=self.counts(change.shape),
                note=change.comment,
            )
        )

    def counts(self, shape: SetShape) -> bool:
        """Tell whether the elements of a set have counters."""
        return self._counting_elements and shape.value is ValueKind.VERDICT

    def _elements(self, change: SetWrite) -> Iterator[bytes]:
        family, table = self._family, self._table
        if change.removed:
            yield from encode_deletions(family, table, change.name, change.shape, change.removed)
        if change.added:
            yield from encode_elements(family, table, change.name, change.shape, change.added)

    def _rules(self, key: ChainKey, rules: Sequence[Rule], hashes: Sequence[str]) -> Iterator[bytes]:
        # What was spelled for the hashes is what is written, most of the time.
        known = self._spelled.pop(key, None)
        spelled = known[1] if known is not None and known[0] is rules else self._spell(rules, key)
        left = iter(hashes)
        bodies, notes = [], []
        for alternatives, why in spelled:
            tail = f"; {why}" if why else ""
            for body in alternatives:
                bodies.append(body)
                notes.append(f"{HASH_PREFIX}{next(left)}{tail}")
        if bodies:
            yield messages.new_rules(self._family, self._table, chain_name(key), bodies, notes)

    def _deletions(self, chains: Collection[ChainKey], sets: Collection[str]) -> Iterator[bytes]:
        """Delete chains and sets that lead to each other and that nothing else leads to."""
        names = [chain_name(key) for key in chains]
        for name in names:
            yield messages.flush_chain(self._family, self._table, name)
        for name in sets:
            yield from self._delete_set(name)
        for name in names:
            yield messages.delete_chain(self._family, self._table, name)

    def _delete_set(self, name: str) -> Iterator[bytes]:
        # Before 6.4 the verdicts of a deleted map hold their chains until the transaction is over.
        yield messages.flush_set(self._family, self._table, name)
        yield messages.delete_set(self._family, self._table, name)


def _why(rule: Rule) -> str:
    """Return why a rule exists, in as many characters as a comment has beside the hash."""
    origin = origin_text(rule.origin)
    if not rule.comments:
        return origin[:_WHY_MAX_CHARS]
    return safe_text(", ".join(filter(None, (origin, *rule.comments))), _WHY_MAX_CHARS)


def _exclusive(message: bytes) -> bytes:
    """Return a message that is refused when what it makes is there."""
    (flags,) = _FLAGS.unpack_from(message, _FLAGS_OFFSET)
    return message[:_FLAGS_OFFSET] + _FLAGS.pack(flags | NLM_F_EXCL) + message[_FLAGS_OFFSET + 2 :]


def describe(transaction: bytes, index: int) -> str:
    """Return `chain NAME: comment` or `set NAME` for the message of a transaction that the kernel refused, else ""."""
    at = 0
    for _ in range(index):
        at += _padded_length(transaction, at)
    if index < 0 or at >= len(transaction):
        return ""
    kind = int.from_bytes(transaction[at + 4 : at + 6], sys.byteorder) & 0xFF
    attributes = dict(read_attributes(transaction[at + HEADER_BYTES : at + _padded_length(transaction, at)]))
    match kind:
        case Kind.NEWRULE | Kind.DELRULE:
            note = read_comment(attributes.get(messages.RULE_USERDATA, b""))
            return f"chain {read_text(attributes[messages.RULE_CHAIN])}{': ' if note else ''}{note}"
        case Kind.NEWCHAIN | Kind.DELCHAIN:
            return f"chain {read_text(attributes[messages.CHAIN_NAME])}"
        case Kind.NEWSET | Kind.DELSET | Kind.NEWSETELEM | Kind.DELSETELEM:
            return f"set {read_text(attributes[messages.SET_NAME])}"
        case _:
            return ""


def _padded_length(transaction: bytes, at: int) -> int:
    return (int.from_bytes(transaction[at : at + 4], sys.byteorder) + 3) & ~3
