"""nftables as a TableBackend: one table of ours a family, by netlink, in few transactions."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import re
from collections.abc import Callable, Mapping, Sequence

from calico_engine.errors import KernelError, TransactionRefusedError
from calico_engine.kernel.nfnetlink import TransactionSocket
from calico_engine.plugin.protocols import NO_METRICS, MetricSink
from calico_engine.ruleset.ir import ChainKey, Family, Layer, Rule
from calico_engine.settings import FelixSettings
from calico_engine.tables.backend import ActualSet, ActualTables, HookWrite, Limits, TableDelta
from calico_engine.tables.single_table import chain_key
from calico_engine_nftables import dump, messages
from calico_engine_nftables.config import NftablesConfig, OwnTable
from calico_engine_nftables.events import Listening, TableEvents
from calico_engine_nftables.phases import phases
from calico_engine_nftables.reading import actual_tables
from calico_engine_nftables.text import table_text
from calico_engine_nftables.transaction import Present, Writer, describe

log = logging.getLogger(__name__)

#: Tables of ours that other versions made.
_OTHER_TABLES: tuple[str, ...] = ()
_READ_ATTEMPTS = 20
#: The kernel takes milliseconds to move a set's elements to a larger hash table.
_RESIZE_S = 0.02
_OWNED = "; where that is so, the table is owned by an engine that runs (own_table): stop it first"
_BLAMED = re.compile(r"(chain|set) (\S+?):?(?: |$)")


#: More than some thousand elements.
_LARGE_BYTES = 1 << 18


class NftablesBackend:
    """One family's table, in this process's network namespace."""

    limits = Limits(chain_name_chars=127, has_verdict_maps=True, has_named_sets=True)

    def __init__(
        self,
        family: Family,
        options: NftablesConfig,
        listening: Listening,
        metrics: MetricSink = NO_METRICS,
    ) -> None:
        self.family = family
        self._table = options.table
        self._metrics = metrics
        self._writer = Writer(family, options)
        # Whether to own the table is tried once.
        self._to_be_owned = options.own_table is OwnTable.AUTO
        self._present = Present()
        # What was rendered last, and its steps: each is a transaction of the kernel's.
        self._rendered: tuple[bytes, list[tuple[bytes, TableDelta]]] | None = None
        self._socket = TransactionSocket()
        self._events: TableEvents | None = None
        self._listening = listening
        self._changed: Callable[[str], None] | None = None

    def configure(self, settings: FelixSettings, /) -> None:
        """Settings are in the rules alone."""

    # Pure

    def hash_rules(self, chain: str, rules: Sequence[Rule], /) -> tuple[str, ...]:
        return self._writer.hashes(chain, rules)

    def hook_texts(self, write: HookWrite, /) -> tuple[str, ...]:
        """A base chain is ours as a whole: none of its rules is ever deleted alone."""
        return ("",) * (len(write.placed_hashes) + len(write.appended_hashes))

    def render(self, delta: TableDelta, /) -> bytes:
        present = self._present.copy()
        parts: list[tuple[bytes, TableDelta]] = []
        for step in phases(delta, present):
            parts.append((b"".join(self._writer.render(step, present)), step))
            present.note(step)
        transaction = b"".join(part for part, _ in parts)
        self._rendered = transaction, parts
        return transaction

    def render_save(self, desired: TableDelta, /) -> str:
        return table_text(self.family, self._table, desired)

    def blame(self, error: KernelError, /) -> ChainKey | str | None:
        found = _BLAMED.match(error.line)
        if found is None:
            return None
        return chain_key(found[2]) if found[1] == "chain" else found[2]

    # Effects

    async def read_back(self) -> ActualTables:
        self._listen()
        self._metrics.count("felix_nft_list_calls")
        try:
            await self._choose_owner()
            actual, self._present = await self._read()
        except KernelError as error:
            self._note_failure(error, "felix_nft_list_errors")
            raise
        return actual

    def _listen(self) -> None:
        """Hear of changes from now on: before what there is is read, so that none falls between."""
        if self._changed is not None and (self._events is None or not self._events.is_open):
            self._events = TableEvents(self.family, self._table, self._changed)
            self._events.open()
            self._listening.add(self._events)

    def _note_failure(self, error: KernelError, metric: str) -> None:
        self._metrics.count(metric)
        if error.errno == errno.EPERM:
            # A socket has the rights of whoever opened it.
            self._socket.close()

    async def _read(self) -> tuple[ActualTables, Present]:
        sizes: dict[str, int] = {}
        for _ in range(_READ_ATTEMPTS):
            try:
                found = await self._read_once(sizes)
            except ValueError as error:
                words = f"the kernel's answer is not understood: {error}"
                raise KernelError(f"nftables read table {self._table}", words) from error
            if found is not None:
                return found
            await asyncio.sleep(_RESIZE_S)
        raise KernelError(
            f"nftables read table {self._table}", "its sets change all the time", errno=errno.EAGAIN
        )

    async def _read_once(self, sizes: dict[str, int]) -> tuple[ActualTables, Present] | None:
        """Return what the table holds; None when it is to be read again, as some of it may be missing.

        `sizes`: how many elements each set had in the read before; filled in.
        """
        family, table = self.family, self._table
        (tables,) = await self._socket.dump(dump.tables_request(family))
        flags = dump.parse_table_flags(tables, family)
        if table not in flags:
            return ActualTables(), Present()
        if self._writer.flags and not flags[table] & messages.FLAG_PERSIST:
            # A table gets an owner when it is made, or as an orphan.
            return ActualTables(), Present(to_replace=True)
        try:
            (heads,) = await self._socket.dump(dump.sets_request(family, table))
            known = [head for head in dump.parse_sets(heads, family, table) if head.shape is not None]
            chains, rules, heads, *answers = await self._socket.dump(
                dump.chains_request(family),
                dump.rules_request(family, table),
                dump.sets_request(family, table),
                *(dump.elements_request(family, table, head.name) for head in known),
            )
        except KernelError as error:
            if error.errno == errno.ENOENT:
                # The table, or a set of it, is gone meanwhile.
                return None
            raise
        elements = dict(zip((head.name for head in known), answers, strict=True))
        return await asyncio.to_thread(self._understand, chains, rules, heads, elements, sizes)

    def _understand(
        self, chains: bytes, rules: bytes, heads: bytes, elements: Mapping[str, bytes], sizes: dict[str, int]
    ) -> tuple[ActualTables, Present] | None:
        family, table = self.family, self._table
        sets: dict[str, ActualSet] = {}
        whole = True
        for head in dump.parse_sets(heads, family, table):
            as_made = head.shape is not None and head.is_counting is self._writer.counts(head.shape)
            shape = head.shape if as_made else None
            found = dump.parse_elements(elements.get(head.name, b""), family, shape)
            before, sizes[head.name] = sizes.get(head.name), len(found.elements)
            whole = whole and (found.shape is None or dump.is_whole(head, found.elements, before))
            sets[head.name] = found
        if not whole:
            return None
        return actual_tables(
            dump.parse_chains(chains, family, table), dump.parse_rules(rules, family, table), sets
        )

    async def _choose_owner(self) -> None:
        """Have the table owned by our socket, where that is asked for and the kernel can."""
        if not self._to_be_owned:
            return
        flags = messages.FLAG_OWNER | messages.FLAG_PERSIST
        name = f"{self._table}-probe"
        trial = messages.new_table(self.family, name, flags=flags) + messages.delete_table(self.family, name)
        try:
            await self._socket.commit(trial)
        except TransactionRefusedError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                raise
            log.info(
                "the kernel has no owned tables that persist (6.9): others can change ours, and are undone"
            )
        else:
            self._writer.flags = flags
        self._to_be_owned = False

    async def commit(self, transaction: bytes, /) -> None:
        rendered, self._rendered = self._rendered, None
        if rendered is None or rendered[0] is not transaction:
            await self._commit(transaction)
            return
        for part, step in rendered[1]:
            await self._commit(part)
            self._present.note(step)

    async def _commit(self, transaction: bytes) -> None:
        self._socket.open()
        if self._events is not None:
            self._events.ignore_port(self._socket.port)
        self._metrics.count("felix_nft_calls")
        large = len(transaction) > _LARGE_BYTES
        try:
            with self._listening.paused(self._socket) if large else contextlib.nullcontext():
                await self._socket.commit(transaction)
        except TransactionRefusedError as error:
            self._note_failure(error, "felix_nft_errors")
            reason = error.reason + (_OWNED if error.errno == errno.EPERM else "")
            line = describe(transaction, error.index)
            raise KernelError(error.command, reason, errno=error.errno, line=line) from error
        except KernelError as error:
            self._note_failure(error, "felix_nft_errors")
            raise

    def watch(self, changed: Callable[[str], None], /) -> None:
        self._changed = changed

    def measure(self, chains: Mapping[Layer, int], rules: Mapping[Layer, int], /) -> None:
        labels = {"ip_version": str(self.family)}
        self._metrics.gauge("felix_nft_chains", sum(chains.values()), labels)
        self._metrics.gauge("felix_nft_rules", sum(rules.values()), labels)
        self._metrics.gauge("felix_nft_sets", len(self._present.sets), labels)

    async def clean_leftovers(self) -> int:
        return await self._delete_tables(_OTHER_TABLES)

    async def clean(self) -> int:
        """Remove our table, and those of other versions, with all that is in them."""
        return await self._delete_tables((self._table, *_OTHER_TABLES))

    async def _delete_tables(self, names: Sequence[str]) -> int:
        """Delete tables; return how many chains and sets were in them."""
        if not names:
            return 0
        family, count = self.family, 0
        tables, chains = await self._socket.dump(dump.tables_request(family), dump.chains_request(family))
        there = [name for name in dump.parse_tables(tables, family) if name in names]
        unhooked: list[bytes] = []
        for name in there:
            (sets,) = await self._socket.dump(dump.sets_request(family, name))
            found = dump.parse_chains(chains, family, name)
            count += 1 + len(found) + len(dump.parse_sets(sets, family, name))
            for chain in found:
                if chain.hook is not None:
                    unhooked.append(messages.flush_chain(family, name, chain.name))
                    unhooked.append(messages.delete_chain(family, name, chain.name))
        # Base chains first: a packet that is within their rules when elements go finds none, and is dropped.
        if unhooked:
            await self._commit(b"".join(unhooked))
        await self._commit(b"".join(messages.delete_table(family, name) for name in there))
        if self._table in there:
            self._present = Present()
        return count

    def close(self) -> None:
        self._socket.close()
        if self._events is not None:
            self._events.close()
            self._events = None
