"""What must hold of a ruleset before any of it goes to the kernel.

Pure. A kernel refuses a whole transaction for one dangling name, and a name with a space or newline in it would be
read as more words. Comments and log prefixes are not looked at: every backend cleans those itself (names.safe_text).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from calico_engine.messages import ActiveRule
from calico_engine.ruleset.addresses import is_cidr, is_family
from calico_engine.ruleset.ir import (
    ChainKey,
    Classify,
    DispatchByInterface,
    Dnat,
    Family,
    Goto,
    InterfaceIs,
    Layer,
    Masquerade,
    Match,
    NetIn,
    NetInAny,
    NoTrack,
    Op,
    PortIn,
    ProtocolIs,
    Reject,
    Rule,
    Ruleset,
    Snat,
)
from calico_engine.ruleset.names import CHAIN_NAME_MAX_CHARS, is_interface_name
from calico_engine.ruleset.references import referenced_chains, referenced_sets

#: nftables allows 16 nested jumps. Source: kernel, NFT_JUMP_STACK_SIZE.
MAX_DEPTH = 16

#: What _op_fault and _match_fault can find a fault with; most rules have none of them.
_SUSPECT_OPS = frozenset({Reject, NoTrack, Masquerade, Dnat, Snat, DispatchByInterface})
_SUSPECT_MATCHES = frozenset({NetIn, NetInAny, InterfaceIs})

_CHAIN_NAME = re.compile(r"cali-[A-Za-z0-9_.:/@=+*-]+", re.ASCII)
_PORTS = re.compile(r"(\d{1,5}(-\d{1,5})?)?", re.ASCII)
_NAT_TARGET = re.compile(r"([0-9.]+|\[?[0-9a-fA-F:.]+\]?)(:\d{1,5}(-\d{1,5})?)?", re.ASCII)


def verify(ruleset: Ruleset) -> tuple[str, ...]:
    """Return what is wrong with a ruleset, one sentence each; nothing when it may be programmed."""
    problems: list[str] = []
    for key, rules in ruleset.chains.items():
        problems += verify_chain(key, rules, ruleset.family)
    hooked = [*ruleset.hooks.items(), *ruleset.appends.items()]
    everything = [*((key.layer, key.name, rules) for key, rules in ruleset.chains.items())]
    everything += [(layer, str(hook), rules) for (layer, hook), rules in hooked]
    for layer, name, rules in everything:
        for target in sorted(referenced_chains(rules)):
            if ChainKey(layer, target) not in ruleset.chains:
                problems.append(f"{layer} {name}: chain {target} does not exist")
        for set_id in sorted(referenced_sets(rules) - ruleset.sets.keys()):
            problems.append(f"{layer} {name}: set {set_id} does not exist")
        for rule in rules:
            if isinstance(rule.op, Classify):
                problems += _table_faults(f"{layer} {name}", rule.op, ruleset)
    return (*problems, *_recursion(ruleset.chains))


def _table_faults(where: str, op: Classify, ruleset: Ruleset) -> list[str]:
    """Return what is wrong with a verdict table: chains it goes to must be there, classes must have a verdict."""
    table = ruleset.verdict_tables.get(op.table)
    if table is None or ruleset.identities is None:
        return [f"{where}: verdict table {op.table} does not exist"]
    verdicts = [*table.world.values(), *table.cells.values()]
    targets = {verdict.op.chain for verdict in verdicts if isinstance(verdict.op, Goto)}
    absent = sorted(chain for chain in targets if ChainKey(Layer.FILTER, chain) not in ruleset.chains)
    problems = [f"{where}: verdicts of {op.table} go to {chain}, which does not exist" for chain in absent]
    classes = {0, *(service.number for service in table.services)}
    if classes - table.world.keys():
        problems.append(f"{where}: classes of {op.table} without a verdict")
    return problems


def verify_chain(key: ChainKey, rules: Iterable[Rule], family: Family) -> list[str]:
    """Return what is wrong with one chain by itself: names, texts, operations out of place."""
    where = f"{key.layer} {key.name}"
    problems = []
    if not is_chain_name(key.name):
        problems.append(f"{where!r}: not a name for a chain")
    for position, rule in enumerate(rules):
        faults = [_op_fault(rule.op, key.layer)] if type(rule.op) in _SUSPECT_OPS else []
        with_ports = with_protocol = False
        for match in rule.matches:
            kind = type(match)
            if kind in _SUSPECT_MATCHES:
                faults.append(_match_fault(match, family))
            elif kind is PortIn:
                with_ports = True
            elif isinstance(match, ProtocolIs):
                with_protocol = with_protocol or not match.negate
        if with_ports and not with_protocol:
            faults.append("ports without a protocol")
        if faults:
            problems += [f"{where} rule {position}: {fault}" for fault in faults if fault]
    return problems


def is_chain_name(name: str) -> bool:
    """Tell whether a chain of ours may have this name."""
    return _CHAIN_NAME.fullmatch(name) is not None and len(name) <= CHAIN_NAME_MAX_CHARS


def are_sound(rules: Iterable[ActiveRule]) -> bool:
    """Tell, without compiling them, whether verify_chain will find no fault with the rules of a policy or profile.

    Of what they are made of, networks alone come as text that somebody wrote.
    """
    return all(
        is_cidr(cidr)
        for rule in rules
        for cidr in (*rule.src_nets, *rule.dst_nets, *rule.not_src_nets, *rule.not_dst_nets)
    )


def _op_fault(op: Op, layer: Layer) -> str:
    match op:
        case Reject() if layer is not Layer.FILTER:
            return "Reject is valid in filter alone"
        case NoTrack() if layer is not Layer.RAW:
            return "NoTrack is valid in raw alone"
        case Masquerade() | Dnat() | Snat() if layer is not Layer.NAT:
            return f"{type(op).__name__} is valid in nat alone"
        case Masquerade(ports=ports) if not _PORTS.fullmatch(ports):
            return f"not a port range: {ports!r}"
        case Dnat(address=address) | Snat(address=address) if not _NAT_TARGET.fullmatch(address):
            return f"not an address to translate to: {address!r}"
        case DispatchByInterface(targets=targets):
            bad = [name for name, _ in targets if not is_interface_name(name)]
            return f"not interface names: {bad!r}" if bad else ""
        case _:
            return ""


def _match_fault(match: Match, family: Family) -> str:
    match match:
        case NetIn(cidr=cidr):
            return _cidr_fault((cidr,), family)
        case NetInAny(cidrs=cidrs):
            return _cidr_fault(cidrs, family)
        case InterfaceIs(name=name) if name != "+" and not is_interface_name(name.removesuffix("+")):
            return f"not an interface name: {name!r}"
        case _:
            return ""


def _cidr_fault(cidrs: Iterable[str], family: Family) -> str:
    for cidr in cidrs:
        if not is_cidr(cidr):
            return f"not a CIDR: {cidr!r}"
        if not is_family(cidr, family):
            return f"{cidr} is of the other family"
    return ""


def _recursion(chains: Mapping[ChainKey, tuple[Rule, ...]]) -> list[str]:
    """Return chains that lead back to themselves, or deeper than the kernel follows."""
    depth: dict[ChainKey, int] = {}
    problems: list[str] = []

    def visit(key: ChainKey, path: tuple[ChainKey, ...]) -> int:
        if key in path:
            problems.append(f"{key.layer} {key.name}: leads back to itself")
            return 0
        if key not in depth:
            targets = sorted(referenced_chains(chains.get(key, ())))
            depth[key] = 1 + max((visit(ChainKey(key.layer, t), (*path, key)) for t in targets), default=0)
        return depth[key]

    problems += [
        f"{k.layer} {k.name}: more than {MAX_DEPTH} nested chains" for k in chains if visit(k, ()) > MAX_DEPTH
    ]
    return problems
