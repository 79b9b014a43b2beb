"""A list of policies as one sequence of steps over identities and services.

Pure. What a verdict table can say of a rule (remote sets and networks, protocol, destination ports) is taken out of
it; a rule that asks for more is kept as one that only the linear form can answer. The meaning of criteria is that of
compile_policy.rule_matches, that of tiers and profiles EndpointChain's.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from enum import IntEnum
from functools import lru_cache
from ipaddress import ip_network
from typing import assert_never

import msgspec

from calico_engine.messages import ActiveRule
from calico_engine.model.policy import Action
from calico_engine.model.resource import ResourceKey
from calico_engine.ruleset.addresses import is_family
from calico_engine.ruleset.classify.exact import PORT_PROTOCOLS
from calico_engine.ruleset.classify.pairs import NET_PREFIX
from calico_engine.ruleset.classify.services import EVERYTHING, Service, ports_left
from calico_engine.ruleset.compile_policy import EGRESS, INGRESS
from calico_engine.ruleset.ir import CellVerdict, Drop, Family, Goto, Origin, Return, Side

_ICMP = {Family.V4: 1, Family.V6: 58}
_PROFILE = "Profile"


class ListPolicies(msgspec.Struct, frozen=True):
    """One tier's policies in the order they are asked; a tier without any is not enforced."""

    tier: str
    default_action: Action
    policies: tuple[tuple[ResourceKey, tuple[ActiveRule, ...]], ...]


class PolicyList(msgspec.Struct, frozen=True):
    """All that decides over an endpoint's packets in one direction.

    `side` is where the remote end stands in a packet: SRC inbound, DST outbound. `linear` is the chain that walks the
    same list, `deny` what becomes of a denied packet.
    """

    side: Side
    tiers: tuple[ListPolicies, ...]
    profiles: tuple[tuple[str, tuple[ActiveRule, ...]], ...]
    linear: str
    deny: Drop | Goto


class StepKind(IntEnum):
    DECIDE = 0  # the step's verdict for all who match
    PASS = 1  # on to the next tier or profile
    END_DENY = 2  # end of a tier: the step's verdict for all who were not passed on
    END_PASS = 3  # end of a tier or profile whose rest goes on to the next


class Members(msgspec.Struct, frozen=True, gc=False):
    """Which identities: in all of `every`, in one of `some` (if there are any), in none of `none`."""

    every: tuple[str, ...] = ()
    some: tuple[str, ...] = ()
    none: tuple[str, ...] = ()

    @property
    def set_ids(self) -> Iterator[str]:
        yield from self.every
        yield from self.some
        yield from self.none


class Step(msgspec.Struct, frozen=True, gc=False):
    """One step of a list; ends of tiers are for all members and services."""

    kind: StepKind
    verdict: CellVerdict
    members: Members
    service: Service


class _Fit(msgspec.Struct, frozen=True, gc=False):
    """What fits of a rule; `whole` when that is all of it."""

    members: Members
    service: Service
    whole: bool


ANYBODY = Members()


def resolve_list(wanted: PolicyList, family: Family, known: Container[str]) -> tuple[Step, ...]:
    """Return the steps of a list; the last decides over everything left.

    Rules that ask for a set that is not known are closed, as tables.missing_sets does.
    """
    return tuple(_Resolver(wanted, family, known).steps())


def used_sets(wanted: PolicyList) -> frozenset[str]:
    """Return the ids of all sets of addresses that a list's rules look up."""
    rules = [rule for tier in wanted.tiers for _, rules in tier.policies for rule in rules]
    rules += [rule for _, rules in wanted.profiles for rule in rules]
    return frozenset(
        set_id
        for rule in rules
        for ids in (rule.src_sets, rule.dst_sets, rule.not_src_sets, rule.not_dst_sets)
        for set_id in ids
    )


class _Resolver:
    """Resolves one list."""

    def __init__(self, wanted: PolicyList, family: Family, known: Container[str]) -> None:
        self._list = wanted
        self._family = family
        self._known = known
        self._direction = INGRESS if wanted.side is Side.SRC else EGRESS

    def steps(self) -> Iterator[Step]:
        for tier in self._list.tiers:
            if not tier.policies:
                continue
            for key, rules in tier.policies:
                yield from self._rules(key, rules)
            kind = StepKind.END_PASS if tier.default_action is Action.PASS else StepKind.END_DENY
            yield self._end(kind, f"end of tier {tier.tier}: no policy passed the packet")
        for profile, rules in self._list.profiles:
            yield from self._rules(ResourceKey(_PROFILE, "", profile), rules)
            yield self._end(StepKind.END_PASS, f"end of profile {profile}")
        yield self._end(StepKind.END_DENY, "no profile matched")

    def _end(self, kind: StepKind, note: str) -> Step:
        origin = Origin(None, self._direction, note=note)
        return Step(kind, CellVerdict(self._list.deny, origin), ANYBODY, EVERYTHING)

    def _rules(self, key: ResourceKey, rules: tuple[ActiveRule, ...]) -> Iterator[Step]:
        for index, rule in enumerate(rules):
            fit = self._fit(rule)
            if fit is None:
                continue
            origin = Origin(key, self._direction, index)
            kind = StepKind.DECIDE
            op: Return | Drop | Goto = Goto(self._list.linear)
            if fit.whole:
                match rule.action:
                    case Action.ALLOW:
                        op = Return()
                    case Action.DENY:
                        op = self._list.deny
                    case Action.PASS:
                        kind = StepKind.PASS
                    case Action.LOG:
                        pass
                    case _:
                        assert_never(rule.action)
            yield Step(kind, CellVerdict(op, origin), fit.members, fit.service)

    def _fit(self, rule: ActiveRule) -> _Fit | None:
        """Return what fits of a rule, None when it can match no packet of this family."""
        if rule.ip_version is not None and str(rule.ip_version) != self._family:
            return None
        icmp = rule.icmp_type is not None or rule.not_icmp_type is not None
        if icmp and rule.protocol != _ICMP[self._family]:
            return None
        service = _service(rule)
        remote = self._remote(rule)
        local = self._local(rule)
        if service is None or remote is None or local is None:
            return None
        asks_more = (
            local
            or icmp
            or rule.src_named_port_sets
            or rule.dst_named_port_sets
            or rule.not_src_named_port_sets
            or rule.not_dst_named_port_sets
            or rule.dst_ip_port_sets
            or (rule.protocol in PORT_PROTOCOLS and (rule.src_ports or rule.not_src_ports))
        )
        return _Fit(remote, service, not asks_more)

    def _remote(self, rule: ActiveRule) -> Members | None:
        """Return what a rule asks of the packet's remote end, None when nobody has it."""
        if self._list.side is Side.SRC:
            sets, nets = rule.src_sets, rule.src_nets
            not_sets, not_nets = rule.not_src_sets, rule.not_src_nets
        else:
            sets, nets = rule.dst_sets, rule.dst_nets
            not_sets, not_nets = rule.not_dst_sets, rule.not_dst_nets
        return self._members(rule.action, sets, nets, not_sets, not_nets)

    def _local(self, rule: ActiveRule) -> bool | None:
        """Tell whether a rule asks anything of the packet's local end; None when no end can have it."""
        if self._list.side is Side.SRC:
            sets, nets = rule.dst_sets, rule.dst_nets
            not_sets, not_nets = rule.not_dst_sets, rule.not_dst_nets
        else:
            sets, nets = rule.src_sets, rule.src_nets
            not_sets, not_nets = rule.not_src_sets, rule.not_src_nets
        asked = self._members(rule.action, sets, nets, not_sets, not_nets)
        return None if asked is None else asked != ANYBODY

    def _members(
        self,
        action: Action,
        sets: tuple[str, ...],
        nets: tuple[str, ...],
        not_sets: tuple[str, ...],
        not_nets: tuple[str, ...],
    ) -> Members | None:
        if not (sets or nets or not_sets or not_nets):
            return ANYBODY
        known = self._known
        if any(set_id not in known for set_id in (*sets, *not_sets)):
            # As tables.missing_sets does: let nothing through that should not pass, deny no less than wanted.
            if action is not Action.DENY:
                return None
            sets = tuple(set_id for set_id in sets if set_id in known)
            not_sets = tuple(set_id for set_id in not_sets if set_id in known)
        some = self._nets(nets)
        none = self._nets(not_nets)
        if some is None or none is None:
            return None
        if not all(none):
            return None
        if not all(some):
            some = ()
        return Members(sets, some, (*not_sets, *none))

    def _nets(self, cidrs: tuple[str, ...]) -> tuple[str, ...] | None:
        """Return the ids of those networks that are of this family, "" for all addresses; None if none is."""
        found = tuple(net_id(cidr) for cidr in cidrs if is_family(cidr, self._family))
        return None if cidrs and not found else found


@lru_cache(maxsize=1 << 14)
def net_id(cidr: str) -> str:
    """Return the id of the set that a network in a rule stands for, "" for the network of all addresses."""
    network = ip_network(cidr, strict=False)
    return f"{NET_PREFIX}{network}" if network.prefixlen else ""


def _service(rule: ActiveRule) -> Service | None:
    """Return the packets that a rule is about by protocol and destination port, None when there are none."""
    protocol = rule.protocol
    if protocol is None:
        service = EVERYTHING if rule.not_protocol is None else Service(None, rule.not_protocol)
    elif protocol == rule.not_protocol:
        return None
    else:
        service = Service(protocol)
    if not (rule.dst_ports or rule.not_dst_ports or rule.src_ports or rule.not_src_ports):
        return service
    if protocol not in PORT_PROTOCOLS:
        # A port on what has none: a deny denies more, everything else matches nothing.
        return service if rule.action is Action.DENY else None
    # Numbers and named ports are alternatives: a number says nothing as long as a name may match.
    ports = () if rule.dst_named_port_sets else rule.dst_ports
    if not (ports or rule.not_dst_ports):
        return service
    left = ports_left(ports, rule.not_dst_ports)
    return Service(protocol, None, left) if left else None
