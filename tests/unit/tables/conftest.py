"""A table backend with a kernel of its own in memory, and a dataplane over it."""

import asyncio
import pickle
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from calico_engine.errors import KernelError
from calico_engine.messages import Message
from calico_engine.plugin.protocols import ApplyResult, Notification, PluginContext
from calico_engine.ruleset.ir import ChainKey, Family, Layer, Rule
from calico_engine.settings import FelixSettings
from calico_engine.tables.backend import ActualTables, HookRule, HookWrite, Limits, TableDelta
from calico_engine.tables.dataplane import TableDataplane
from calico_engine.testing.messages import make_batch
from calico_engine_iptables.words import chain_hashes


class FakeBackend:
    """Keeps chains as hashes. `refuse` and `busy` name chains it does not write and does not delete."""

    limits = Limits()

    def __init__(self, family: Family) -> None:
        self.family = family
        self.settings = FelixSettings()
        self.chains: dict[ChainKey, tuple[str, ...]] = {}
        self.hooks: dict[ChainKey, tuple[HookRule, ...]] = {}
        self.refuse: set[str] = set()
        self.busy: set[str] = set()
        self.silent = False
        self.broken = False
        self.hang = asyncio.Event()
        self.hang.set()
        self.reads = 0
        self.commits = 0
        self.measured: dict[Layer, tuple[int, int]] = {}
        self.changed: Callable[[str], None] = lambda reason: None

    def configure(self, settings: FelixSettings, /) -> None:
        self.settings = settings

    def hash_rules(self, chain: str, rules: Sequence[Rule], /) -> tuple[str, ...]:
        return tuple(chain_hashes(chain, rules, self.family, self.settings.layout))

    def hook_texts(self, write: HookWrite, /) -> tuple[str, ...]:
        return (*write.placed_hashes, *write.appended_hashes)

    def render(self, delta: TableDelta, /) -> bytes:
        return pickle.dumps(
            (
                [(write.key, write.hashes) for write in delta.chains],
                [(hook.key, (*hook.placed_hashes, *hook.appended_hashes)) for hook in delta.hooks],
                delta.deletions,
            )
        )

    def render_save(self, desired: TableDelta, /) -> str:
        return "".join(f"{write.key.layer} {write.key.name}\n" for write in desired.chains)

    def blame(self, error: KernelError, /) -> ChainKey | None:
        return ChainKey(Layer.FILTER, error.line) if error.line else None

    async def read_back(self) -> ActualTables:
        self.reads += 1
        return ActualTables(chains=dict(self.chains), hooks=dict(self.hooks))

    async def commit(self, transaction: bytes, /) -> None:
        self.commits += 1
        if self.broken:
            raise KernelError("fake", "no kernel")
        chains, hooks, deletions = pickle.loads(transaction)
        for key, hashes in chains:
            if key.name in self.refuse and len(hashes) != 1:
                raise KernelError("fake", "refused", line="" if self.silent else key.name)
        for key in deletions:
            if key.name in self.busy:
                raise KernelError("fake", "busy", line=key.name)
        self.chains.update(chains)
        await self.hang.wait()
        self.hooks.update(
            {key: tuple(HookRule(digest, digest) for digest in digests) for key, digests in hooks}
        )
        for key in deletions:
            del self.chains[key]

    def watch(self, changed: Callable[[str], None], /) -> None:
        self.changed = changed

    def measure(self, chains: Mapping[Layer, int], rules: Mapping[Layer, int], /) -> None:
        self.measured = {layer: (count, rules[layer]) for layer, count in chains.items() if count}

    async def clean_leftovers(self) -> int:
        return 0

    async def clean(self) -> int:
        count = len(self.chains)
        self.chains.clear()
        self.hooks.clear()
        return count

    def close(self) -> None: ...


class Bench:
    """A dataplane over two fakes, with a clock that a test moves."""

    def __init__(self, settings: FelixSettings) -> None:
        self.now_s = 1000.0
        self.settings = settings
        self.notes: list[Notification] = []
        self.requests: list[str] = []
        self.backends = {family: FakeBackend(family) for family in Family}
        self.restart()

    @property
    def v4(self) -> FakeBackend:
        return self.backends[Family.V4]

    def restart(self) -> None:
        """Make the dataplane anew over the same kernel."""
        context = PluginContext(
            name="fake",
            node="n1",
            settings=self.settings,
            options={},
            request_apply=self.requests.append,
            notify=self.notes.append,
        )
        self.dataplane = TableDataplane(context, list(self.backends.values()), clock=lambda: self.now_s)

    async def settle(self, *messages: Message) -> ApplyResult:
        if messages:
            self.dataplane.on_batch(make_batch(*messages))
        result = await self.dataplane.apply()
        await self.dataplane.prune()
        return result

    def names(self, backend: FakeBackend | None = None) -> set[str]:
        return {key.name for key in (backend or self.v4).chains}


@pytest.fixture
def make_bench() -> Callable[..., Bench]:
    def make(**settings: Any) -> Bench:
        return Bench(FelixSettings(**settings))

    return make


@pytest.fixture
def bench(make_bench: Callable[..., Bench]) -> Bench:
    return make_bench()
