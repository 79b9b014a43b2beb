"""iptables as a TableBackend: iptables-restore writes, iptables-save reads, for legacy and nft variants alike."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from calico_engine.errors import KernelError
from calico_engine.kernel.command import CommandResult, try_command
from calico_engine.kernel.probe import (
    IptablesVariant,
    detect_iptables_variant,
    has_legacy_tables,
    iptables_program,
)
from calico_engine.plugin.protocols import NO_METRICS, MetricSink
from calico_engine.ruleset.ir import ChainKey, Family, Layer, Rule
from calico_engine.settings import FelixSettings
from calico_engine.tables.backend import ActualTables, HookWrite, Limits, TableDelta
from calico_engine_iptables.events import NftEvents
from calico_engine_iptables.restore import (
    render_deletions,
    render_hook_removals,
    render_save,
    render_updates,
)
from calico_engine_iptables.save import parse_save
from calico_engine_iptables.spelling import Spelling
from calico_engine_iptables.words import restore_line

log = logging.getLogger(__name__)

#: What Felix takes for "no lock timeout": iptables-restore has locked whatever one asks since 1.6.2.
_DEFAULT_LOCK_TIMEOUT_S = 10.0
#: On top of waiting for the lock; a table of 50 000 rules takes 3 s.
_RESTORE_TIMEOUT_S = 60.0
_LOCK_FILE = "/run/xtables.lock"

# Legacy says "line 3 failed" or "Error occurred at line: 3", nft the latter or "line 3: CHAIN_ADD failed".
_ERROR_LINE = re.compile(r"\bline:? (\d+)\b")
_BLAMED = re.compile(r"\*(\w+) -[AIRX] (\S+)")


class VariantChoice:
    """Which variant this node's iptables is; both families share one choice, made when it is first needed."""

    def __init__(self, wanted: str, families: Sequence[int]) -> None:
        self.wanted = wanted
        self._families = families
        self._chosen: IptablesVariant | None = None

    @property
    def chosen(self) -> IptablesVariant | None:
        return self._chosen

    async def get(self) -> IptablesVariant:
        """Return the variant. Raises: ConfigError."""
        if self._chosen is None:
            self._chosen = await detect_iptables_variant(self.wanted, self._families)
        return self._chosen


class IptablesBackend:
    """One family of iptables, in this process's network namespace."""

    limits = Limits(chain_name_chars=28, multiport_slots=15)

    def __init__(
        self,
        family: Family,
        settings: FelixSettings,
        variant: VariantChoice,
        metrics: MetricSink = NO_METRICS,
    ) -> None:
        self.family = family
        self._metrics = metrics
        self._settings = settings
        self._variant = variant
        self._spelling = Spelling(family)
        self._events: NftEvents | None = None
        self._changed: Callable[[str], None] | None = None

    def configure(self, settings: FelixSettings, /) -> None:
        self._settings = settings

    # Pure

    def hash_rules(self, chain: str, rules: Sequence[Rule], /) -> tuple[str, ...]:
        return self._spelling.hashes(chain, rules, self._settings.layout)

    def hook_texts(self, write: HookWrite, /) -> tuple[str, ...]:
        rules = (*write.placed, *write.appended)
        hashes = (*write.placed_hashes, *write.appended_hashes)
        return tuple(
            restore_line(write.key.name, rule, digest, self.family, self._settings.layout)
            for rule, digest in zip(rules, hashes, strict=True)
        )

    def render(self, delta: TableDelta, /) -> bytes:
        settings = self._settings
        text = render_updates(delta, self._spelling, settings.layout, settings.chain_insert_mode)
        self._spelling.forget()
        flush_apart = self._variant.chosen is not IptablesVariant.LEGACY
        return (text + render_deletions(delta.deletions, flush_apart=flush_apart)).encode()

    def render_save(self, desired: TableDelta, /) -> str:
        return render_save(desired, self.family, self._settings.layout, self._settings.chain_insert_mode)

    def blame(self, error: KernelError, /) -> ChainKey | None:
        found = _BLAMED.match(error.line)
        return ChainKey(Layer(found[1]), found[2]) if found else None

    # Effects

    async def read_back(self) -> ActualTables:
        variant = await self._variant.get()
        if variant is IptablesVariant.NFT and self._events is None and self._changed is not None:
            # Before reading, so that no change falls between. Of legacy tables the kernel tells nothing.
            self._events = NftEvents(self.family, self._changed)
            self._events.open()
        return await self._read(variant)

    async def _read(self, variant: IptablesVariant) -> ActualTables:
        if variant is IptablesVariant.LEGACY and not has_legacy_tables(int(self.family)):
            # iptables-legacy-save would make the tables only to show them empty.
            return ActualTables()
        self._metrics.count("felix_iptables_save_calls")
        result = await try_command([iptables_program(int(self.family), variant, "save")])
        if result.returncode != 0:
            self._metrics.count("felix_iptables_save_errors")
            raise _error(result)
        return await asyncio.to_thread(parse_save, result.text)

    async def commit(self, transaction: bytes, /) -> None:
        await self._restore(transaction, await self._variant.get())

    async def _restore(self, transaction: bytes, variant: IptablesVariant) -> None:
        settings = self._settings
        lock_timeout_s = settings.iptables_lock_timeout_s
        if lock_timeout_s <= 0:
            lock_timeout_s = _DEFAULT_LOCK_TIMEOUT_S
        argv = [
            iptables_program(int(self.family), variant, "restore"),
            "--noflush",
            "--wait",
            f"{max(lock_timeout_s, 1):.0f}",
        ]
        if variant is IptablesVariant.LEGACY and settings.iptables_lock_probe_interval_ms > 0:
            # Newer versions say that they ignore it.
            argv += ["--wait-interval", str(settings.iptables_lock_probe_interval_ms * 1000)]
        lock_file = settings.iptables_lock_file_path
        self._metrics.count("felix_iptables_restore_calls")
        self._metrics.count("felix_iptables_lines_executed", transaction.count(b"\n"))
        result = await try_command(
            argv,
            stdin=transaction,
            timeout_s=lock_timeout_s + _RESTORE_TIMEOUT_S,
            env={"XTABLES_LOCKFILE": lock_file} if lock_file and lock_file != _LOCK_FILE else None,
            on_start=self._events.ignore_process if self._events else None,
        )
        if result.returncode != 0:
            self._metrics.count("felix_iptables_restore_errors")
            raise _error(result, transaction)

    def watch(self, changed: Callable[[str], None], /) -> None:
        self._changed = changed

    def measure(self, chains: Mapping[Layer, int], rules: Mapping[Layer, int], /) -> None:
        for layer in Layer:
            labels = {"ip_version": str(self.family), "table": str(layer)}
            self._metrics.gauge("felix_iptables_chains", chains.get(layer, 0), labels)
            self._metrics.gauge("felix_iptables_rules", rules.get(layer, 0), labels)

    async def clean_leftovers(self) -> int:
        """Remove what is ours from the variant that is not in use, as after a change of it."""
        return await self._clean(
            variant for variant in IptablesVariant if variant is not self._variant.chosen
        )

    async def clean(self) -> int:
        """Remove all of ours from both variants, as far as they are installed."""
        return await self._clean(IptablesVariant)

    async def _clean(self, variants: Iterable[IptablesVariant]) -> int:
        count = 0
        for variant in variants:
            try:
                actual = await self._read(variant)
            except KernelError as error:
                log.info("not cleaned: ipv%s iptables-%s: %s", self.family, variant, error)
                continue
            texts = [
                (key.layer, rule.text) for key, rules in actual.hooks.items() for rule in rules if rule.hash
            ]
            removals = render_hook_removals(texts)
            if removals:
                await self._restore(removals.encode(), variant)
            flush_apart = variant is IptablesVariant.NFT
            deletions = render_deletions(sorted(actual.chains), flush_apart=flush_apart)
            if deletions:
                await self._restore(deletions.encode(), variant)
            count += len(texts) + len(actual.chains)
        return count

    def close(self) -> None:
        if self._events is not None:
            self._events.close()
            self._events = None


def _error(result: CommandResult, transaction: bytes = b"") -> KernelError:
    """Say which line of ours the tool did not take, with the table it stands in."""
    words = [
        line
        for line in result.stderr.splitlines()
        if line and "--help" not in line and "deprecated" not in line
    ]
    found = _ERROR_LINE.search(result.stderr)
    line = ""
    if found and transaction:
        lines = transaction.decode().splitlines()[: int(found[1])]
        table = next((text for text in reversed(lines) if text.startswith("*")), "")
        line = f"{table} {lines[-1]}" if lines else ""
    return KernelError(
        " ".join(result.argv), f"exit code {result.returncode}", stderr="; ".join(words), line=line
    )
