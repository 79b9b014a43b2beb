"""Run a packet through a ruleset as netfilter would, and say which rule decided.

Pure. The hooks of one path in netfilter's order, chains with their return stack, marks, sets, connection state. It is
the middle of three statements of one policy: the oracle (from resources), this, and the kernel itself.
What is not modelled: other people's rules between ours, and routing. A packet's interfaces are given, and DNAT
changes its destination, not its way.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import assert_never

import msgspec
from msgspec.structs import replace

from calico_engine.messages import PortRange, SetKind
from calico_engine.ruleset import names
from calico_engine.ruleset.ir import (
    Accept,
    AddrTypeIs,
    ChainKey,
    Classify,
    Continue,
    CtState,
    CtStateIn,
    CtStatusDnat,
    DispatchByInterface,
    Dnat,
    Drop,
    Goto,
    Hook,
    IcmpIs,
    InterfaceAssigned,
    InterfaceIs,
    Jump,
    Layer,
    Log,
    MarkIs,
    Masquerade,
    Match,
    NetIn,
    NetInAny,
    Nflog,
    NoTrack,
    PortIn,
    PortOrNamedPort,
    ProtocolIs,
    Reject,
    Return,
    RpfFailed,
    Rule,
    Ruleset,
    SetLookup,
    SetMark,
    Side,
    Snat,
    SourceAssigned,
    VerdictTable,
)
from calico_engine.ruleset.lookups import IdentityIndex, SetIndex, parse_address

_PROTOCOLS_WITH_PORTS = {6: "tcp", 17: "udp", 33: "dccp", 132: "sctp", 136: "udplite"}
_ICMP = (1, 58)
_REJECTED = Goto(names.REJECT)
_MARK_BITS = 0xFFFFFFFF


class Path(StrEnum):
    """Which way a packet takes through this host."""

    FORWARD = "forward"
    TO_HOST = "to-host"
    FROM_HOST = "from-host"


HOOKS: dict[Path, tuple[tuple[Layer, Hook], ...]] = {
    Path.FORWARD: (
        (Layer.RAW, Hook.PREROUTING),
        (Layer.MANGLE, Hook.PREROUTING),
        (Layer.NAT, Hook.PREROUTING),
        (Layer.MANGLE, Hook.FORWARD),
        (Layer.FILTER, Hook.FORWARD),
        (Layer.MANGLE, Hook.POSTROUTING),
        (Layer.NAT, Hook.POSTROUTING),
    ),
    Path.TO_HOST: (
        (Layer.RAW, Hook.PREROUTING),
        (Layer.MANGLE, Hook.PREROUTING),
        (Layer.NAT, Hook.PREROUTING),
        (Layer.MANGLE, Hook.INPUT),
        (Layer.FILTER, Hook.INPUT),
        (Layer.NAT, Hook.INPUT),
    ),
    Path.FROM_HOST: (
        (Layer.RAW, Hook.OUTPUT),
        (Layer.MANGLE, Hook.OUTPUT),
        (Layer.NAT, Hook.OUTPUT),
        (Layer.FILTER, Hook.OUTPUT),
        (Layer.MANGLE, Hook.POSTROUTING),
        (Layer.NAT, Hook.POSTROUTING),
    ),
}


class Packet(msgspec.Struct, frozen=True, kw_only=True):
    """A packet and what the kernel knows of it. Addresses are canonical text; `spoofed` fails the reverse path check;
    `src_local` and `dst_local` say that an address is one of this host's own."""

    src: str
    dst: str
    protocol: int
    src_port: int = 0
    dst_port: int = 0
    icmp_type: int = 0
    icmp_code: int = 0
    in_interface: str = ""
    out_interface: str = ""
    mark: int = 0
    ct_state: CtState = CtState.NEW
    ct_dnat: bool = False
    spoofed: bool = False
    src_local: bool = False
    dst_local: bool = False


class Verdict(StrEnum):
    ACCEPT = "accept"
    DROP = "drop"
    REJECT = "reject"


class Step(msgspec.Struct, frozen=True):
    """A rule that matched: where it stands, and the rule (its origin says why it is there)."""

    layer: Layer
    chain: str
    index: int
    rule: Rule


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """`packet` as it leaves; `decided` is the rule that ended the walk of the last table, None for its policy."""

    verdict: Verdict
    packet: Packet
    trace: tuple[Step, ...]
    decided: Step | None

    @property
    def allowed(self) -> bool:
        return self.verdict is Verdict.ACCEPT


class Interpreter:
    """Runs packets through one ruleset; sets are indexed once."""

    def __init__(self, ruleset: Ruleset) -> None:
        self._ruleset = ruleset
        self._sets = {set_id: SetIndex(data) for set_id, data in ruleset.sets.items()}
        self._identities = None if ruleset.identities is None else IdentityIndex(ruleset.identities)

    def run(self, packet: Packet, path: Path) -> Outcome:
        """Send a packet along a path. Raises: LookupError when a rule refers to a chain or set that is not there."""
        walk = _Walk(self._ruleset, self._sets, self._identities, packet)
        decided: Step | None = None
        for layer, hook in HOOKS[path]:
            # Only a connection's first packet meets nat; an untracked one has no connection.
            if layer is Layer.NAT and walk.packet.ct_state is not CtState.NEW:
                continue
            verdict = walk.hook(layer, hook)
            decided = walk.decided if layer is Layer.FILTER or verdict is not Verdict.ACCEPT else decided
            if verdict is not Verdict.ACCEPT:
                return Outcome(verdict=verdict, packet=walk.packet, trace=tuple(walk.trace), decided=decided)
        return Outcome(verdict=Verdict.ACCEPT, packet=walk.packet, trace=tuple(walk.trace), decided=decided)


def interpret(ruleset: Ruleset, packet: Packet, path: Path) -> Outcome:
    """Send one packet along a path of a ruleset."""
    return Interpreter(ruleset).run(packet, path)


class _Walk:
    """One packet's state on its way."""

    def __init__(
        self,
        ruleset: Ruleset,
        sets: dict[str, SetIndex],
        identities: IdentityIndex | None,
        packet: Packet,
    ) -> None:
        self._ruleset = ruleset
        self._sets = sets
        self._identities = identities
        self.packet = packet
        self.trace: list[Step] = []
        self.decided: Step | None = None

    def hook(self, layer: Layer, hook: Hook) -> Verdict:
        """Run one of the kernel's chains; its policy is to accept."""
        self.decided = None
        rules = (*self._ruleset.hooks.get((layer, hook), ()), *self._ruleset.appends.get((layer, hook), ()))
        return self._chain(layer, str(hook), rules) or Verdict.ACCEPT

    def _named(self, layer: Layer, name: str) -> Verdict | None:
        rules = self._ruleset.chains.get(ChainKey(layer, name))
        if rules is None:
            raise LookupError(f"chain {name} of {layer} does not exist")
        return self._chain(layer, name, rules)

    def _chain(self, layer: Layer, name: str, rules: Iterable[Rule]) -> Verdict | None:
        """Return a verdict, or None when the packet goes back to where the chain was called."""
        for index, rule in enumerate(rules):
            if not all(self._matches(match) for match in rule.matches):
                continue
            step = Step(layer, name, index, rule)
            self.trace.append(step)
            ends, verdict = self._apply(step)
            if ends:
                return verdict
        return None

    def _apply(self, step: Step) -> tuple[bool, Verdict | None]:
        """Carry out a rule; return whether its chain ends here, and with what verdict."""
        op = step.rule.op
        match op:
            case Accept():
                return self._decide(step, Verdict.ACCEPT)
            case Drop():
                return self._decide(step, Verdict.DROP)
            case Reject():
                return self._decide(step, Verdict.REJECT)
            case Return():
                return True, None
            case Jump(chain=chain):
                verdict = self._named(step.layer, chain)
                return verdict is not None, verdict
            case Goto(chain=chain):
                return True, self._named(step.layer, chain)
            case DispatchByInterface():
                return self._dispatch(step.layer, op)
            case Classify():
                return self._classify(step, op)
            case SetMark(value=value, mask=mask):
                mark = (self.packet.mark & ~mask & _MARK_BITS) | value
                self.packet = replace(self.packet, mark=mark)
                return False, None
            case NoTrack():
                self.packet = replace(self.packet, ct_state=CtState.UNTRACKED)
                return False, None
            case Dnat(address=address):
                self.packet = replace(self.packet, dst=_host_part(address), ct_dnat=True)
                return self._decide(step, Verdict.ACCEPT)
            case Snat(address=address):
                self.packet = replace(self.packet, src=_host_part(address))
                return self._decide(step, Verdict.ACCEPT)
            case Masquerade():
                return self._decide(step, Verdict.ACCEPT)
            case Log() | Nflog() | Continue():
                return False, None
            case _:
                assert_never(op)

    def _decide(self, step: Step, verdict: Verdict) -> tuple[bool, Verdict]:
        self.decided = step
        return True, verdict

    def _dispatch(self, layer: Layer, op: DispatchByInterface) -> tuple[bool, Verdict | None]:
        name = self.packet.in_interface if op.direction == "in" else self.packet.out_interface
        for interface, chain in op.targets:
            if interface == name:
                verdict = self._named(layer, chain)
                return op.goto or verdict is not None, verdict
        return False, None

    def _classify(self, step: Step, op: Classify) -> tuple[bool, Verdict | None]:
        """Carry out a cell of a verdict table. The step noted is the cell's own, so that its origin is seen."""
        table = self._ruleset.verdict_tables.get(op.table)
        if table is None or self._identities is None:
            raise LookupError(f"verdict table {op.table} does not exist")
        number = self._service_class(table)
        cell = table.cells.get((*self._identities.pair(self._address(op.side)), number), table.world[number])
        decided = Step(step.layer, step.chain, step.index, Rule((), cell.op, (), cell.origin))
        self.trace[-1] = decided
        ends, verdict = self._apply(decided)
        if cell.op == _REJECTED:
            # The chain says but how a packet is denied, the cell why.
            self.decided = decided
        return ends, verdict

    def _service_class(self, table: VerdictTable) -> int:
        packet = self.packet
        port = packet.dst_port if self._has_ports() else 0
        for service in table.services:
            if service.protocol == packet.protocol and service.first <= port <= service.last:
                return service.number
        return 0

    def _matches(self, match: Match) -> bool:  # noqa: C901  one arm per match, nothing else
        packet = self.packet
        match match:
            case ProtocolIs(number=number, negate=negate):
                return (packet.protocol == number) != negate
            case NetIn(side=side, cidr=cidr, negate=negate):
                return _in_net(self._address(side), cidr) != negate
            case NetInAny(side=side, cidrs=cidrs, negate=negate):
                return any(_in_net(self._address(side), cidr) for cidr in cidrs) != negate
            case PortIn(side=side, ports=ports, negate=negate):
                return self._has_ports() and self._port_in(side, ports) != negate
            case SetLookup(side=side, set_id=set_id, kind=kind, negate=negate):
                return self._in_set(side, set_id, kind) != negate
            case PortOrNamedPort(side=side, ports=ports, set_ids=set_ids):
                numeric = self._has_ports() and self._port_in(side, ports)
                return numeric or any(self._in_set(side, set_id, SetKind.IP_PORT) for set_id in set_ids)
            case InterfaceIs(direction=direction, name=name, negate=negate):
                actual = packet.in_interface if direction == "in" else packet.out_interface
                return _is_interface(actual, name) != negate
            case CtStateIn(states=states, negate=negate):
                return (packet.ct_state in states) != negate
            case CtStatusDnat(negate=negate):
                return packet.ct_dnat != negate
            case MarkIs(value=value, mask=mask, negate=negate):
                return (packet.mark & mask == value) != negate
            case IcmpIs(type=icmp_type, code=code, negate=negate):
                hit = packet.icmp_type == icmp_type and code in (None, packet.icmp_code)
                return packet.protocol in _ICMP and hit != negate
            case AddrTypeIs():
                return self._has_type(match)
            case RpfFailed():
                return packet.spoofed
            case InterfaceAssigned(direction=direction, negate=negate):
                actual = packet.in_interface if direction == "in" else packet.out_interface
                return (actual in self._ruleset.interfaces) != negate
            case SourceAssigned(negate=negate):
                return ((packet.in_interface, packet.src) in self._ruleset.sources) != negate
            case _:
                assert_never(match)

    def _address(self, side: Side) -> str:
        return self.packet.src if side is Side.SRC else self.packet.dst

    def _has_ports(self) -> bool:
        return self.packet.protocol in _PROTOCOLS_WITH_PORTS

    def _port(self, side: Side) -> int:
        return self.packet.src_port if side is Side.SRC else self.packet.dst_port

    def _port_in(self, side: Side, ports: Iterable[PortRange]) -> bool:
        port = self._port(side)
        return any(ports_range.first <= port <= ports_range.last for ports_range in ports)

    def _in_set(self, side: Side, set_id: str, kind: SetKind) -> bool:
        index = self._sets.get(set_id)
        if index is None:
            raise LookupError(f"set {set_id} does not exist")
        address = self._address(side)
        if kind is SetKind.NET:
            return index.has(address)
        protocol = _PROTOCOLS_WITH_PORTS.get(self.packet.protocol)
        return protocol is not None and f"{address},{protocol}:{self._port(side)}" in index.exact

    def _has_type(self, match: AddrTypeIs) -> bool:
        local = self.packet.src_local if match.side is Side.SRC else self.packet.dst_local
        is_type = local if match.type == "LOCAL" else match.type == "UNICAST" and not local
        return is_type != match.negate


@lru_cache(maxsize=65536)
def _network(cidr: str) -> IPv4Network | IPv6Network:
    return ip_network(cidr, strict=False)


def _in_net(address: str, cidr: str) -> bool:
    return parse_address(address) in _network(cidr)


def _is_interface(actual: str, name: str) -> bool:
    return actual.startswith(name[:-1]) if name.endswith("+") else actual == name


def _host_part(address: str) -> str:
    """Return the address of "address", "address:port" or "[address]:port"."""
    if address.startswith("["):
        return address[1:].partition("]")[0]
    return address.partition(":")[0] if address.count(":") == 1 else address
