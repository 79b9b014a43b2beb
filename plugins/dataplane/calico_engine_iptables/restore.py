"""Spell transactions for iptables-restore, and a desired state as iptables-save would print it.

Pure. All tables of a family go into one input: iptables-restore commits them one after the other, each whole.
Source: felix/iptables/table.go, applyUpdates.
"""

from __future__ import annotations

from collections.abc import Sequence

from calico_engine.ruleset.ir import ChainKey, Family, Hook, Layer, Rule
from calico_engine.settings import ChainInsertMode, Layout
from calico_engine.tables.backend import HookWrite, TableDelta
from calico_engine_iptables.spelling import Spelling
from calico_engine_iptables.words import line_of_words, save_line

# Filter comes last: what it accepts relies on the others being in place.
_LAYERS = (Layer.RAW, Layer.MANGLE, Layer.NAT, Layer.FILTER)

#: The chains iptables-save prints for a table, in its order.
BUILT_IN = {
    Layer.RAW: (Hook.PREROUTING, Hook.OUTPUT),
    Layer.MANGLE: (Hook.PREROUTING, Hook.INPUT, Hook.FORWARD, Hook.OUTPUT, Hook.POSTROUTING),
    Layer.NAT: (Hook.PREROUTING, Hook.INPUT, Hook.OUTPUT, Hook.POSTROUTING),
    Layer.FILTER: (Hook.INPUT, Hook.FORWARD, Hook.OUTPUT),
}


def render_updates(delta: TableDelta, spelling: Spelling, layout: Layout, mode: ChainInsertMode) -> str:
    """Return one input for iptables-restore --noflush: chains first, then the hooks that lead to them."""
    lines: list[str] = []
    for layer in _LAYERS:
        chains = [write for write in delta.chains if write.key.layer is layer]
        hooks = [write for write in delta.hooks if write.key.layer is layer]
        if not chains and not hooks:
            continue
        lines.append(f"*{layer}")
        # Makes the chain, or empties it; all of them first, because the rules refer to each other's chains.
        lines += [f":{write.key.name} - [0:0]" for write in chains]
        for write in chains:
            lines += _rules(write.key.name, write.rules, write.hashes, spelling, layout)
        for hook in hooks:
            lines += _hook_lines(hook, spelling, layout, mode)
        lines.append("COMMIT")
    return _text(lines)


def _rules(
    chain: str, rules: Sequence[Rule], hashes: tuple[str, ...], spelling: Spelling, layout: Layout
) -> list[str]:
    words = spelling.words(rules, hashes, layout)
    return [line_of_words(chain, text, digest) for text, digest in zip(words, hashes, strict=True)]


def _hook_lines(write: HookWrite, spelling: Spelling, layout: Layout, mode: ChainInsertMode) -> list[str]:
    chain = write.key.name
    lines = [f"-D {text.removeprefix('-A ')}" for text in write.removed]
    placed = _rules(chain, write.placed, write.placed_hashes, spelling, layout)
    if mode is ChainInsertMode.INSERT:
        # Each goes to the top, so the last one first.
        lines += [f"-I {line.removeprefix('-A ')}" for line in reversed(placed)]
    else:
        lines += placed
    return lines + _rules(chain, write.appended, write.appended_hashes, spelling, layout)


def render_deletions(keys: Sequence[ChainKey], *, flush_apart: bool) -> str:
    """Return an input that empties chains and deletes them.

    flush_apart: in a transaction of its own: iptables-nft counts references as they were when the transaction began.
    """
    lines: list[str] = []
    for layer in _LAYERS:
        names = [key.name for key in keys if key.layer is layer]
        if not names:
            continue
        lines += [f"*{layer}", *(f":{name} - [0:0]" for name in names)]
        if flush_apart:
            lines += ["COMMIT", f"*{layer}"]
        lines += [*(f"-X {name}" for name in names), "COMMIT"]
    return _text(lines)


def render_hook_removals(texts: Sequence[tuple[Layer, str]]) -> str:
    """Return an input that deletes rules, given as iptables-save printed them."""
    lines: list[str] = []
    for layer in _LAYERS:
        of_layer = [f"-D {text.removeprefix('-A ')}" for found, text in texts if found is layer]
        if of_layer:
            lines += [f"*{layer}", *of_layer, "COMMIT"]
    return _text(lines)


def render_save(delta: TableDelta, family: Family, layout: Layout, mode: ChainInsertMode) -> str:
    """Return tables that hold nothing but these chains and hooks, as iptables-save prints them."""
    lines = [f"# ip{'6' if family is Family.V6 else ''}tables-save"]
    hooks = {write.key: write for write in delta.hooks}
    for layer in _LAYERS:
        chains = sorted(
            (write for write in delta.chains if write.key.layer is layer), key=lambda write: write.key
        )
        if not chains and not any(key.layer is layer for key in hooks):
            continue
        lines.append(f"*{layer}")
        lines += [f":{hook} ACCEPT [0:0]" for hook in BUILT_IN[layer]]
        lines += [f":{write.key.name} - [0:0]" for write in chains]
        for hook in BUILT_IN[layer]:
            write = hooks.get(ChainKey(layer, hook.value))
            if write is not None:
                placed = zip(write.placed, write.placed_hashes, strict=True)
                appended = zip(write.appended, write.appended_hashes, strict=True)
                lines += [
                    save_line(hook.value, rule, digest, family, layout)
                    for rule, digest in (*placed, *appended)
                ]
        for chain in chains:
            lines += [
                save_line(chain.key.name, rule, digest, family, layout)
                for rule, digest in zip(chain.rules, chain.hashes, strict=True)
            ]
        lines.append("COMMIT")
    return _text(lines)


def _text(lines: Sequence[str]) -> str:
    return "\n".join(lines) + "\n" if lines else ""
