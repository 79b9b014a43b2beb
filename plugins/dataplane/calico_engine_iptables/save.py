"""Read what iptables-save prints: which chains and rules are ours, by their hashes.

Pure. Rules of ours carry "cali:<hash>" as their first comment. In chains that are not ours, a rule without a hash that
leads into one of our chains, and two forms that Calico 1 inserted, count as ours too, so that an upgrade leaves
nothing behind. Source: felix/iptables/table.go, felix/rules/rule_defs.go.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from calico_engine.errors import KernelError
from calico_engine.ruleset.ir import ChainKey, Layer
from calico_engine.ruleset.names import OWNED_CHAIN_PREFIXES, owns_chain
from calico_engine.tables.backend import ActualTables, HookRule

_HASH = re.compile(r'--comment "?cali:([A-Za-z0-9_-]+)')
_OLD_INSERT = re.compile(
    r"(?:-[jg]|--jump|--goto) (?:" + "|".join(OWNED_CHAIN_PREFIXES) + r")"
    r"|^-A POSTROUTING .* felix-masq-ipam-pools "
    r"|^-A POSTROUTING -o tunl0 -m addrtype ! --src-type LOCAL --limit-iface-out -m addrtype --src-type LOCAL "
    r"-j MASQUERADE"
)
#: What stands for the hash of a rule of ours from before there were hashes; no hash has this form.
OLD_INSERT = "old insert"
_FOREIGN = HookRule("")
_LAYERS = frozenset(Layer)


def parse_save(text: str) -> ActualTables:
    """Return our chains, and every built-in chain and every other chain with a rule of ours in it.

    Raises: KernelError when the tool says that it cannot show a table.
    """
    chains: dict[ChainKey, list[str]] = {}
    others: dict[ChainKey, list[HookRule]] = {}
    relevant: set[ChainKey] = set()
    for layer, body in _tables(text):
        own: dict[str, list[str]] = {}
        foreign: dict[str, list[HookRule]] = {}
        for line in body:
            if line.startswith("-A "):
                name, _, rest = line[3:].partition(" ")
                # In our chains our hash is the first comment, and a rule has few characters before it.
                if name in own:
                    found = _HASH.search(rest)
                    own[name].append(found[1] if found else "")
                else:
                    rule = _foreign_chain_rule(line)
                    foreign.setdefault(name, []).append(rule)
                    if rule.hash:
                        relevant.add(ChainKey(layer, name))
            elif line.startswith(":"):
                name, policy = line[1:].split(" ", 2)[:2]
                if owns_chain(name):
                    own[name] = []
                else:
                    foreign.setdefault(name, [])
                    if policy != "-":
                        relevant.add(ChainKey(layer, name))
        chains.update((ChainKey(layer, name), hashes) for name, hashes in own.items())
        others.update((ChainKey(layer, name), rules) for name, rules in foreign.items())
    return ActualTables(
        chains={key: tuple(hashes) for key, hashes in chains.items()},
        hooks={key: tuple(others[key]) for key in sorted(relevant)},
    )


def _tables(text: str) -> Iterator[tuple[Layer, list[str]]]:
    """Yield each of the four tables with its lines; other tables (security) hold nothing of ours."""
    layer: Layer | None = None
    body: list[str] = []
    for line in text.splitlines():
        if line.startswith("*"):
            layer = Layer(line[1:]) if line[1:] in _LAYERS else None
            body = []
        elif line == "COMMIT":
            if layer is not None:
                yield layer, body
            layer = None
        elif line.startswith("# Table ") and " is incompatible" in line:
            # iptables-nft-save prints this and exits with 0.
            raise KernelError(
                "iptables-nft-save",
                f"{line[2:]} Somebody wrote native nftables rules into a table of iptables-nft; move them to a table "
                "of their own",
            )
        else:
            body.append(line)


def _foreign_chain_rule(line: str) -> HookRule:
    found = _HASH.search(line)
    if found:
        return HookRule(found[1], line)
    return HookRule(OLD_INSERT, line) if _OLD_INSERT.search(line) else _FOREIGN
