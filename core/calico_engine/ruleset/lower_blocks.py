"""Alternatives as blocks of rules that leave their result in mark bits.

Pure. One iptables rule holds one source and one destination net, one multiport and no "or" at all; an nftables rule
without anonymous sets holds any number of nets and ranges of ports, but no "or" either. What does not fit becomes
blocks before the rule, each a disjunction; a rule that needs them matches on the bit "all blocks passed".
    first positive block   sets that bit itself in any of its rules
    further ones           set a scratch bit, cleared before; then: scratch clear -> clear "all passed"
    negative blocks        a rule per net clears "all passed"
Source: felix/rules/policy.go (matchBlockBuilder).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from calico_engine.messages import PortRange, SetKind
from calico_engine.ruleset.actions import bit_is_set, bits_are_clear, clear_bits, set_bits
from calico_engine.ruleset.ir import (
    Match,
    NetIn,
    NetInAny,
    PortIn,
    PortOrNamedPort,
    ProtocolIs,
    Rule,
    SetLookup,
    SetMark,
    Side,
)
from calico_engine.ruleset.lower_ports import split_ports
from calico_engine.ruleset.marks import Marks


class RuleLowering:
    """Rewrites one rule for iptables."""

    def __init__(self, rule: Rule, marks: Marks) -> None:
        self._rule = rule
        self._all_passed = marks.scratch0
        self._this_passed = marks.scratch1
        self._rules: list[Rule] = []
        self._positive_blocks = 0
        self._kept = list(rule.matches)

    def lower(self) -> tuple[Rule, ...]:
        """Return the blocks and, last, the rule itself. Order: ports, nets, negated nets, the source first each."""
        for side in Side:
            self._ports(side)
        for side in Side:
            self._nets(side)
        for side in Side:
            self._not_nets(side)
        self._split_negated_ports()
        if not self._rules:
            return (Rule(tuple(self._kept), self._rule.op, self._rule.comments, self._rule.origin),)
        final = Rule((*self._kept, bit_is_set(self._all_passed)), self._rule.op, (), self._rule.origin)
        # A comment of the rule belongs where the rule begins.
        first = self._rules[0]
        begin = Rule(first.matches, first.op, self._rule.comments, first.origin)
        return (begin, *self._rules[1:], final)

    def _ports(self, side: Side) -> None:
        for match in list(self._kept):
            match match:
                case PortIn(side=match_side, ports=ports, negate=False) if match_side is side:
                    named: tuple[str, ...] = ()
                case PortOrNamedPort(side=match_side, ports=ports, set_ids=named) if match_side is side:
                    pass
                case _:
                    continue
            groups = self._port_groups(ports)
            if len(groups) + len(named) < 2:
                continue
            self._kept.remove(match)
            protocol = [m for m in self._kept if isinstance(m, ProtocolIs) and not m.negate]
            alternatives: list[tuple[Match, ...]] = [(*protocol, PortIn(side, group)) for group in groups]
            alternatives += [(SetLookup(side, set_id, SetKind.IP_PORT),) for set_id in named]
            self._positive_block(alternatives)

    def _port_groups(self, ports: Sequence[PortRange]) -> list[tuple[PortRange, ...]]:
        """Cut ports to what one match takes."""
        return split_ports(ports)

    def _nets(self, side: Side) -> None:
        for match in list(self._kept):
            if isinstance(match, NetInAny) and match.side is side and not match.negate:
                self._kept.remove(match)
                self._positive_block([(NetIn(side, cidr),) for cidr in match.cidrs])

    def _not_nets(self, side: Side) -> None:
        """A negated net stays in the rule when it is the only net of its side."""
        nets = [m for m in self._kept if isinstance(m, NetIn | NetInAny) and m.side is side]
        total = sum(len(m.cidrs) if isinstance(m, NetInAny) else 1 for m in nets)
        if total < 2:
            return
        for match in nets:
            if match.negate:
                self._kept.remove(match)
                cidrs = match.cidrs if isinstance(match, NetInAny) else (match.cidr,)
                self._begin(self._all_passed)
                self._rules += [self._step(clear_bits(self._all_passed), NetIn(side, cidr)) for cidr in cidrs]

    def _split_negated_ports(self) -> None:
        """Several negated multiport matches in one rule exclude each of their ports, as one would."""
        kept: list[Match] = []
        for match in self._kept:
            if isinstance(match, PortIn) and match.negate:
                kept += [PortIn(match.side, group, negate=True) for group in self._port_groups(match.ports)]
            elif isinstance(match, PortOrNamedPort):
                # One term is left of it, else it would be a block.
                kept += [PortIn(match.side, match.ports)] if match.ports else []
                kept += [SetLookup(match.side, set_id, SetKind.IP_PORT) for set_id in match.set_ids]
            else:
                kept.append(match)
        self._kept = kept

    def _positive_block(self, alternatives: list[tuple[Match, ...]]) -> None:
        self._begin(0)
        bit = self._this_passed if self._positive_blocks else self._all_passed
        if self._positive_blocks > 1:
            # The block before may have left the bit set. Felix leaves this out (87c15906f20c), and so takes a third
            # block for passed when the second was.
            self._rules.append(self._step(clear_bits(self._this_passed)))
        self._rules += [self._step(set_bits(bit), *matches) for matches in alternatives]
        if self._positive_blocks:
            self._rules.append(self._step(clear_bits(self._all_passed), bits_are_clear(self._this_passed)))
        self._positive_blocks += 1

    def _begin(self, initial: int) -> None:
        """Write the rule that both bits start from, once. Positive blocks come first: then the initial bit is 0."""
        if not self._rules:
            self._rules.append(self._step(SetMark(initial, self._all_passed | self._this_passed)))

    def _step(self, op: SetMark, *matches: Match) -> Rule:
        return Rule(matches, op, (), self._rule.origin)


#: The kernel takes 128 expressions a rule; operation, counter and what tells that all blocks passed are among them.
MAX_EXPRESSIONS = 110
#: An identity pair is looked up with ten, all else with three at most.
_LOOKUP_EXPRESSIONS, _EXPRESSIONS = 10, 3


def count_expressions(matches: Iterable[Match]) -> int:
    """Return how many expressions of nftables the matches of a rule take at most."""
    return sum(_LOOKUP_EXPRESSIONS if isinstance(match, SetLookup) else _EXPRESSIONS for match in matches)


class NativeRuleLowering(RuleLowering):
    """Rewrites one rule for nftables: a match holds one range of ports; nets that must not match stay in the rule.

    What does not fit into a rule of the kernel's of the matches that must not hold goes into blocks.
    """

    def _port_groups(self, ports: Sequence[PortRange]) -> list[tuple[PortRange, ...]]:
        return [(ports_range,) for ports_range in ports]

    def _not_nets(self, side: Side) -> None:
        kept: list[Match] = []
        for match in self._kept:
            if isinstance(match, NetInAny) and match.side is side and match.negate:
                kept += [NetIn(side, cidr, negate=True) for cidr in match.cidrs]
            else:
                kept.append(match)
        self._kept = kept

    def _split_negated_ports(self) -> None:
        super()._split_negated_ports()
        excess = count_expressions(self._kept) - MAX_EXPRESSIONS
        if excess <= 0:
            return
        protocol = [match for match in self._kept if isinstance(match, ProtocolIs) and not match.negate]
        sides_with_ports: set[Side] = set()
        kept: list[Match] = []
        moved: list[Match] = []
        for match in self._kept:
            movable = isinstance(match, PortIn | NetIn | SetLookup) and match.negate and excess > 0
            if isinstance(match, PortIn) and match.side not in sides_with_ports:
                # One has to stay: it is what a packet whose ports cannot be read does not match.
                sides_with_ports.add(match.side)
                movable = False
            if movable:
                moved.append(match)
                excess -= count_expressions((match,))
            else:
                kept.append(match)
        if moved:
            self._begin(self._all_passed)
            self._rules += [
                self._step(
                    clear_bits(self._all_passed), *protocol, msgspec.structs.replace(match, negate=False)
                )
                for match in moved
            ]
            self._kept = kept
