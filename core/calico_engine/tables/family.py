"""One family's tables: what they should hold, what the kernel was seen to hold, and the transaction between the two.

Pure but for the backend's read_back and commit, which the caller awaits. A chain that no hook leads to is not
programmed; one that is led to and does not exist is stood in for by a chain that lets nothing through.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterable, Iterator

from calico_engine.errors import KernelError
from calico_engine.plugin.protocols import Change
from calico_engine.reconcile import DeltaTracker
from calico_engine.ruleset.ir import ChainKey, Layer, Rule
from calico_engine.ruleset.references import referenced_chains, stub_rules
from calico_engine.ruleset.state import DesiredState
from calico_engine.settings import ChainInsertMode
from calico_engine.tables.backend import (
    ActualTables,
    ChainWrite,
    HookRule,
    HookWrite,
    TableBackend,
    TableDelta,
)
from calico_engine.tables.chain_store import closed_rules
from calico_engine.tables.compiler import RulesetCompiler
from calico_engine.tables.sets import SetTables

log = logging.getLogger(__name__)

Hashes = tuple[str, ...]
#: Rules and hashes of what we place and what we append in one chain of the kernel's.
HookWanted = tuple[tuple[Rule, ...], Hashes, tuple[Rule, ...], Hashes]
_NO_HOOK: HookWanted = ((), (), (), ())
_CLOSABLE = frozenset({"policy", "profile", "workload", "list"})


class FamilyTables:
    """Desired and actual chains and hooks of one family. `quarantined` holds, by chain, why the kernel refused it."""

    def __init__(self, state: DesiredState, backend: TableBackend) -> None:
        self.backend = backend
        self.compiler = RulesetCompiler(state, backend.family)
        #: None where the backend's sets are somebody else's business.
        self.sets = SetTables(self.compiler) if backend.limits.has_named_sets else None
        self.quarantined: dict[ChainKey, str] = {}
        self._state = state
        self._rules: dict[ChainKey, tuple[Rule, ...]] = {}
        self._targets: dict[ChainKey, frozenset[ChainKey]] = {}
        self._references: dict[ChainKey, int] = {}
        self._unlinked: set[ChainKey] = set()
        self._unsettled: set[ChainKey] = set()
        self._rehash: set[ChainKey] = set()
        self._tracker: DeltaTracker[ChainKey, Hashes] = DeltaTracker()
        self._chain_counts: Counter[Layer] = Counter()
        self._rule_counts: Counter[Layer] = Counter()
        self._hooks: dict[ChainKey, HookWanted] = {}
        self._actual_hooks: dict[ChainKey, tuple[HookRule, ...]] = {}
        self._static: object = None

    @property
    def rule_count(self) -> int:
        return sum(len(hashes) for hashes in self._tracker.desired.values())

    def measure(self) -> None:
        """Publish how many chains and rules there are."""
        self.backend.measure(self._chain_counts, self._rule_counts)

    def _count(self, key: ChainKey, hashes: Hashes | None) -> None:
        """Note what a chain is about to hold, None when it goes: counting all at each write would cost more."""
        before = self._tracker.desired.get(key)
        self._chain_counts[key.layer] += (hashes is not None) - (before is not None)
        self._rule_counts[key.layer] += len(hashes or ()) - len(before or ())

    # Desired state

    def compile_steps(self) -> Iterator[None]:
        """Compile what is dirty and settle it, in small steps."""
        while self.compiler.compile_next():
            yield
        yield from self.settle_steps()

    def settle(self) -> None:
        """Take over what the compiler made: work out which chains exist, and their hashes."""
        for _ in self.settle_steps():
            pass

    def settle_steps(self) -> Iterator[None]:
        """Settle in small steps; whoever settles meanwhile, or later, does what is left."""
        changed = self.compiler.take_changed()
        for key in changed & self.quarantined.keys():
            del self.quarantined[key]
        # Chains whose being referred to, or not, has changed come on top of those whose rules have.
        self._rehash |= changed
        self._unsettled |= changed
        self._settle_hooks()
        self._unlinked |= changed
        while self._unlinked:
            key = self._unlinked.pop()
            self._retarget(key, _targets(key.layer, self.compiler.chains.get(key, ())))
            yield
        while self._unsettled:
            key = self._unsettled.pop()
            if self._references.get(key):
                if key in self._rehash or key not in self._rules:
                    self._want(key)
            elif key in self._rules:
                del self._rules[key]
                if self.sets is not None:
                    self.sets.note_chain(key, ())
                self._count(key, None)
                self._tracker.delete_desired(key)
                self.quarantined.pop(key, None)
            self._rehash.discard(key)
            yield
        if self.sets is not None:
            yield from self.sets.settle_steps()

    def _settle_hooks(self) -> None:
        """Work out what belongs into the kernel's chains."""
        static = self.compiler.static
        if static is self._static:
            return
        self._static = static
        before, hooks = self._hook_targets(), self._hooks
        self._hooks = {}
        for layer, hook in static.hooks.keys() | static.appends.keys():
            placed = tuple(static.hooks.get((layer, hook), ()))
            appended = tuple(static.appends.get((layer, hook), ()))
            # Appended rules may be the same as placed ones, so their hashes start from another name.
            self._hooks[ChainKey(layer, hook.value)] = (
                placed,
                self.backend.hash_rules(hook.value, placed),
                appended,
                self.backend.hash_rules(f"{hook.value}*appends*", appended),
            )
        self._move_references(before, self._hook_targets())
        if self.sets is not None:
            for key in hooks.keys() | self._hooks.keys():
                placed, _, appended, _ = self._hooks.get(key, _NO_HOOK)
                self.sets.note_chain(key, (*placed, *appended))

    def _hook_targets(self) -> frozenset[ChainKey]:
        return frozenset(
            target
            for key, (placed, _, appended, _) in self._hooks.items()
            for target in _targets(key.layer, (*placed, *appended))
        )

    def _retarget(self, key: ChainKey, targets: frozenset[ChainKey]) -> None:
        """Note where a chain leads now. What an unreferenced chain leads to does not count."""
        before = self._targets.get(key, frozenset())
        if targets:
            self._targets[key] = targets
        else:
            self._targets.pop(key, None)
        if self._references.get(key):
            self._move_references(before, targets)

    def _move_references(self, before: frozenset[ChainKey], after: frozenset[ChainKey]) -> None:
        """Count references that came and went. Chains lead nowhere in circles, so that counting is enough."""
        for key in after - before:
            self._references[key] = self._references.get(key, 0) + 1
            if self._references[key] == 1:
                self._unsettled.add(key)
                self._move_references(frozenset(), self._targets.get(key, frozenset()))
        for key in before - after:
            self._references[key] -= 1
            if not self._references[key]:
                del self._references[key]
                self._unsettled.add(key)
                self._move_references(self._targets.get(key, frozenset()), frozenset())

    def _want(self, key: ChainKey) -> None:
        rules = self.compiler.chains.get(key)
        if key in self.quarantined:
            rules = closed_rules(key, "refused by the kernel")
        elif rules is None:
            rules = stub_rules(key)
        self._rules[key] = rules
        if self.sets is not None:
            self.sets.note_chain(key, rules)
        hashes = self.backend.hash_rules(key.name, rules)
        self._count(key, hashes)
        self._tracker.set_desired(key, hashes)

    def closable(self, delta: TableDelta) -> list[ChainKey]:
        """Return the chains of a delta that may be closed alone: those of policies, profiles and workloads.

        Those that look into its sets are among them. A closed static or host endpoint's chain would cut the node off,
        failsafes and all.
        """
        keys = [write.key for write in delta.chains]
        if self.sets is not None:
            users = {key for write in delta.sets for key in self.sets.users(write.name)}
            keys += sorted(users.difference(keys))
        return [
            key
            for key in keys
            if key not in self.quarantined
            and (makers := self.compiler.makers(key))
            and all(kind in _CLOSABLE for kind, _ in makers)
        ]

    def culprits(self, error: KernelError) -> frozenset[ChainKey]:
        """Return the chains to close so that what the kernel refused is not asked of it, when the error tells."""
        blamed = self.backend.blame(error)
        if isinstance(blamed, str):
            return self.sets.users(blamed) if self.sets is not None else frozenset()
        return frozenset((blamed,)) if blamed is not None else frozenset()

    def quarantine(self, keys: Iterable[ChainKey], reason: str) -> None:
        """Put closed chains in the place of those the kernel does not take, until they change."""
        for key in keys:
            self.quarantined[key] = reason
            self._want(key)
        self._settle_sets()

    def release(self, keys: Iterable[ChainKey]) -> None:
        """Want chains as they are compiled again."""
        for key in keys:
            if self.quarantined.pop(key, None) is not None:
                self._want(key)
        self._settle_sets()

    def _settle_sets(self) -> None:
        """Have the next delta's sets be those of the chains that are wanted now."""
        if self.sets is not None:
            for _ in self.sets.settle_steps():
                pass

    def release_quarantined(self) -> None:
        """Have the next transaction try again what the kernel refused."""
        self.release(list(self.quarantined))

    # Actual state

    def take_actual(self, actual: ActualTables) -> tuple[str, ...]:
        """Note what a read-back found; return what somebody else changed since we last wrote or read."""
        before = dict(self._tracker.actual)
        drifted = [
            f"{key.layer}/{key.name}"
            for key in before.keys() | actual.chains.keys()
            if before.get(key) != actual.chains.get(key)
        ]
        hooks = dict(actual.hooks)
        drifted += [
            f"{key.layer}/{key.name}"
            for key in self._actual_hooks.keys() | hooks.keys()
            if not self._same_hook(key, self._actual_hooks.get(key, ()), hooks.get(key, ()))
        ]
        self._tracker.replace_actual(actual.chains)
        self._actual_hooks = hooks
        if self.sets is not None:
            drifted += self.sets.take_actual(actual.sets)
        return tuple(sorted(drifted))

    def _same_hook(self, key: ChainKey, before: tuple[HookRule, ...], now: tuple[HookRule, ...]) -> bool:
        """Tell whether a chain of the kernel's holds our rules as before; others' rules may come and go."""
        if [rule.hash for rule in before if rule.hash] == [rule.hash for rule in now if rule.hash]:
            return self._hook_in_order(key, before) == self._hook_in_order(key, now)
        return False

    def _hook_in_order(self, key: ChainKey, actual: tuple[HookRule, ...]) -> bool:
        _, placed, _, appended = self._hooks.get(key, _NO_HOOK)
        foreign = ("",) * sum(not rule.hash for rule in actual)
        if self._state.settings.chain_insert_mode is ChainInsertMode.APPEND:
            expected = (*foreign, *placed, *appended)
        else:
            expected = (*placed, *foreign, *appended)
        return expected == tuple(rule.hash for rule in actual)

    # The difference

    def updates(self) -> TableDelta:
        """Return what has to be written so that everything wanted is there; deletes no chain."""
        pending = self._tracker.pending()
        keys = [key for key, _ in pending.add] + [key for key, _, _ in pending.change]
        desired = self._tracker.desired
        remade = self.sets.remade() if self.sets is not None else frozenset()
        keys += sorted(remade & desired.keys() - set(keys)) if remade else []
        return TableDelta(
            chains=tuple(ChainWrite(key, self._rules[key], desired[key]) for key in keys),
            hooks=tuple(self._hook_writes(remade)),
            sets=self.sets.writes() if self.sets is not None else (),
        )

    def deletions(self) -> TableDelta:
        """Return the chains of ours that nothing leads to any more, the sets and elements that nothing looks for."""
        return TableDelta(
            sets=self.sets.retire() if self.sets is not None else (),
            deletions=tuple(key for key, _ in self._tracker.pending().delete),
            set_deletions=self.sets.deletions() if self.sets is not None else (),
        )

    def _hook_writes(self, remade: Collection[ChainKey]) -> Iterable[HookWrite]:
        for key in sorted(self._hooks.keys() | self._actual_hooks.keys()):
            actual = self._actual_hooks.get(key, ())
            if key not in remade and self._hook_in_order(key, actual):
                continue
            placed, placed_hashes, appended, appended_hashes = self._hooks.get(key, _NO_HOOK)
            yield HookWrite(
                key=key,
                removed=tuple(rule.text for rule in actual if rule.hash),
                placed=placed,
                placed_hashes=placed_hashes,
                appended=appended,
                appended_hashes=appended_hashes,
            )

    def note_committed(self, delta: TableDelta) -> None:
        """Note that a transaction made from this state has happened."""
        for write in delta.chains:
            self._tracker.set_actual(write.key, write.hashes)
        for hook in delta.hooks:
            self._actual_hooks[hook.key] = self._hook_after(hook)
        for key in delta.deletions:
            self._tracker.forget(key)
        if self.sets is not None:
            self.sets.note_committed(delta.sets, delta.set_deletions)

    def _hook_after(self, write: HookWrite) -> tuple[HookRule, ...]:
        texts = self.backend.hook_texts(write)
        placed = tuple(map(HookRule, write.placed_hashes, texts[: len(write.placed_hashes)]))
        appended = tuple(map(HookRule, write.appended_hashes, texts[len(write.placed_hashes) :]))
        foreign = tuple(rule for rule in self._actual_hooks.get(write.key, ()) if not rule.hash)
        if self._state.settings.chain_insert_mode is ChainInsertMode.APPEND:
            return (*foreign, *placed, *appended)
        return (*placed, *foreign, *appended)

    def everything(self) -> TableDelta:
        """Return the whole desired state, for printing."""
        desired = self._tracker.desired
        return TableDelta(
            chains=tuple(ChainWrite(key, self._rules[key], desired[key]) for key in sorted(desired)),
            hooks=tuple(
                HookWrite(
                    key=key, placed=hook[0], placed_hashes=hook[1], appended=hook[2], appended_hashes=hook[3]
                )
                for key, hook in sorted(self._hooks.items())
            ),
            sets=self.sets.everything() if self.sets is not None else (),
        )

    def changes(self, delta: TableDelta) -> list[Change]:
        """Say a transaction in lines for people."""
        version = f"ipv{self.backend.family}"
        actual = self._tracker.actual
        lines = [
            Change(
                "~" if write.key in actual else "+",
                f"{version} {write.key.layer}/{write.key.name}",
                f"{len(write.rules)} rules",
            )
            for write in delta.chains
        ]
        lines += [
            Change("~", f"{version} {hook.key.layer}/{hook.key.name}", "our rules put in their place")
            for hook in delta.hooks
        ]
        lines += [
            Change("-", f"{version} {key.layer}/{key.name}", "chain nothing leads to")
            for key in delta.deletions
        ]
        if self.sets is not None:
            lines += self.sets.changes(delta.sets, delta.set_deletions, version)
        return lines

    def plan(self, actual: ActualTables) -> list[Change]:
        """Say what would change a kernel with these tables; keeps nothing of it."""
        kept_tracker, kept_hooks = self._tracker, self._actual_hooks
        self._tracker = DeltaTracker()
        self._tracker.replace_desired(kept_tracker.desired)
        self._tracker.replace_actual(actual.chains)
        self._actual_hooks = dict(actual.hooks)
        kept_sets, self.sets = self.sets, None
        try:
            lines = self.changes(self.updates()) + self.changes(self.deletions())
        finally:
            self._tracker, self._actual_hooks, self.sets = kept_tracker, kept_hooks, kept_sets
        if kept_sets is not None:
            lines += kept_sets.plan(actual.sets, f"ipv{self.backend.family}")
        return lines


def _targets(layer: Layer, rules: Iterable[Rule]) -> frozenset[ChainKey]:
    return frozenset(ChainKey(layer, name) for name in referenced_chains(rules))
