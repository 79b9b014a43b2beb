"""A policy's or profile's rules as table rules, one chain per direction and layer.

Pure. A chain answers through mark bits: accept or pass set, or neither when no rule decided; a deny takes effect on
the spot. Source: felix/rules/policy.go, felix/dataplane/linux/policy_mgr.go.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import assert_never

from calico_engine.messages import ActivePolicyUpdate, ActiveProfileUpdate, ActiveRule, PortRange, SetKind
from calico_engine.model.policy import Action
from calico_engine.model.resource import ResourceKey
from calico_engine.ruleset import names
from calico_engine.ruleset.actions import Chains, bit_is_set, deny, set_bits
from calico_engine.ruleset.addresses import is_family
from calico_engine.ruleset.ir import (
    ChainKey,
    Continue,
    Family,
    IcmpIs,
    Layer,
    Log,
    Match,
    NetIn,
    NetInAny,
    Op,
    Origin,
    PortIn,
    PortOrNamedPort,
    ProtocolIs,
    Return,
    Rule,
    SetLookup,
    Side,
)
from calico_engine.ruleset.marks import allocate_marks
from calico_engine.settings import FelixSettings, Layout

INGRESS = "ingress"
EGRESS = "egress"

_ICMP = {Family.V4: 1, Family.V6: 58}
_PROFILE = "Profile"
_CATCH_ALL = {Family.V4: "0.0.0.0/0", Family.V6: "::/0"}
#: Protocols that xt_multiport takes. Source: iptables-extensions(8), multiport.
_PROTOCOLS_WITH_PORTS = frozenset((6, 17, 33, 132, 136))
_LOG_SPECIFIER = re.compile(r"%[tknp]")


def policy_layers(update: ActivePolicyUpdate, settings: FelixSettings) -> tuple[Layer, ...]:
    """Return the tables that a policy's chains may be jumped to from."""
    if update.untracked:
        return (Layer.RAW,)
    if update.pre_dnat:
        return (Layer.MANGLE,)
    return (Layer.FILTER,) if settings.layout is Layout.V2 else (Layer.FILTER, Layer.MANGLE)


def compile_policy(update: ActivePolicyUpdate, settings: FelixSettings, family: Family) -> Chains:
    """Return both directions' chains in every layer a policy of this kind may be jumped to from.

    Untracked: raw. Before DNAT: mangle. Others: filter and, for host endpoints, mangle. Chains nobody refers to
    need not be programmed: see references.reachable.
    """
    key = update.policy
    title = f"{key.kind} {key.namespace}/{key.name}" if key.namespace else f"{key.kind} {key.name}"
    chains: Chains = {}
    for prefix, direction, rules in (
        (names.POLICY_INBOUND, INGRESS, update.inbound),
        (names.POLICY_OUTBOUND, EGRESS, update.outbound),
    ):
        chain = names.policy_chain(prefix, key, settings.layout)
        compiled: dict[Op, tuple[Rule, ...]] = {}
        for layer in policy_layers(update, settings):
            # Of the layer, rules have nothing but how a packet is denied.
            denial = deny(settings, layer)
            if denial not in compiled:
                compiler = _RuleCompiler(settings, family, denial, key, direction, update.tier)
                compiled[denial] = compiler.chain(rules, f"{title} {direction}")
            chains[ChainKey(layer, chain)] = compiled[denial]
    return chains


def compile_profile(update: ActiveProfileUpdate, settings: FelixSettings, family: Family) -> Chains:
    """Return both directions' chains, in filter and, for host endpoints, mangle."""
    key = ResourceKey(_PROFILE, "", update.profile)
    layers = (Layer.FILTER,) if settings.layout is Layout.V2 else (Layer.FILTER, Layer.MANGLE)
    chains: Chains = {}
    for layer in layers:
        denial = deny(settings, layer)
        for prefix, direction, rules in (
            (names.PROFILE_INBOUND, INGRESS, update.inbound),
            (names.PROFILE_OUTBOUND, EGRESS, update.outbound),
        ):
            compiler = _RuleCompiler(settings, family, denial, key, direction, "")
            chain = names.profile_chain(prefix, update.profile)
            chains[ChainKey(layer, chain)] = compiler.chain(rules, f"Profile {update.profile} {direction}")
    return chains


class _RuleCompiler:
    """Compiles the rules of one direction of one policy or profile for one table."""

    def __init__(
        self,
        settings: FelixSettings,
        family: Family,
        denial: Op,
        owner: ResourceKey,
        direction: str,
        tier: str,
    ) -> None:
        self._settings = settings
        self._marks = allocate_marks(settings)
        self._family = family
        self._denial = denial
        self._owner = owner
        self._direction = direction
        self._tier = tier

    def chain(self, rules: Sequence[ActiveRule], comment: str) -> tuple[Rule, ...]:
        """Return one chain's rules; in v3 the first carries the name that the chain's own name may have lost."""
        compiled: list[Rule] = []
        for index, rule in enumerate(rules):
            compiled += self._rule(rule, Origin(self._owner, self._direction, index))
        if self._settings.layout is Layout.V2:
            return tuple(compiled)
        # A return at the end of a chain does nothing.
        while compiled and isinstance(compiled[-1].op, Return):
            compiled.pop()
        if not compiled:
            return (Rule((), Continue(), (comment,), Origin(self._owner, self._direction)),)
        first = compiled[0]
        compiled[0] = Rule(first.matches, first.op, (*first.comments, comment), first.origin)
        return tuple(compiled)

    def _rule(self, rule: ActiveRule, origin: Origin) -> list[Rule]:
        matches = rule_matches(rule, self._family)
        if matches is None:
            return []
        marks = self._marks
        match rule.action:
            case Action.ALLOW:
                return self._mark_then(matches, marks.accept, Return(), origin)
            case Action.PASS if self._owner.kind == _PROFILE:
                # The pass bit may still be set by the last tier, so no bit can say here that this rule matched.
                return [Rule(matches, Return(), origin=origin)]
            case Action.PASS:
                return self._mark_then(matches, marks.pass_, Return(), origin)
            case Action.DENY:
                if marks.drop:
                    return self._mark_then(matches, marks.drop, self._denial, origin)
                return [Rule(matches, self._denial, origin=origin)]
            case Action.LOG:
                return [Rule(matches, Log(self._log_prefix()), origin=origin)]
            case _:
                assert_never(rule.action)

    def _mark_then(self, matches: tuple[Match, ...], bit: int, op: Op, origin: Origin) -> list[Rule]:
        return [Rule(matches, set_bits(bit), origin=origin), Rule((bit_is_set(bit),), op, origin=origin)]

    def _log_prefix(self) -> str:
        """Return the configured prefix; %t tier, %k kind, %n name, %p name with namespace."""
        owner = self._owner
        is_profile = owner.kind == _PROFILE
        words = {
            "%t": self._tier,
            "%k": "pro" if is_profile else names.policy_kind_short(owner),
            "%n": owner.name,
            "%p": f"{owner.namespace}/{owner.name}" if owner.namespace else owner.name,
        }
        return _LOG_SPECIFIER.sub(lambda found: words[found.group()], self._settings.log_prefix)


def rule_matches(rule: ActiveRule, family: Family) -> tuple[Match, ...] | None:
    """Return the criteria of a rule for one family, None when it can match no packet of that family.

    A rule of addresses of the other family alone does not apply to this one. A negated catch-all matches nothing.
    A port on a protocol without ports can match nothing; for a deny it is left out, so that it denies more, not less.
    """
    if rule.ip_version is not None and str(rule.ip_version) != family:
        return None
    nets = [
        _family_nets(cidrs, family, negate=negate)
        for cidrs, negate in (
            (rule.src_nets, False),
            (rule.dst_nets, False),
            (rule.not_src_nets, True),
            (rule.not_dst_nets, True),
        )
    ]
    src, dst, not_src, not_dst = nets
    if src is None or dst is None or not_src is None or not_dst is None:
        return None
    has_icmp = rule.icmp_type is not None or rule.not_icmp_type is not None
    if has_icmp and rule.protocol != _ICMP[family]:
        return None
    if rule.not_protocol is not None and rule.not_protocol == rule.protocol:
        return None
    # iptables takes one -p a rule: beside a protocol, that it is none other goes without saying.
    not_protocol = rule.not_protocol if rule.protocol is None else None
    ports_apply = rule.protocol in _PROTOCOLS_WITH_PORTS
    if _has_ports(rule) and not ports_apply and rule.action is not Action.DENY:
        return None
    matches = (
        *_protocol(rule.protocol, negate=False),
        *_nets(Side.SRC, src, negate=False),
        *_sets(Side.SRC, rule.src_sets, SetKind.NET, negate=False),
        *_ports(Side.SRC, rule.src_ports if ports_apply else (), rule.src_named_port_sets),
        *_nets(Side.DST, dst, negate=False),
        *_sets(Side.DST, rule.dst_sets, SetKind.NET, negate=False),
        *_sets(Side.DST, rule.dst_ip_port_sets, SetKind.IP_PORT, negate=False),
        *_ports(Side.DST, rule.dst_ports if ports_apply else (), rule.dst_named_port_sets),
        *_icmp(rule.icmp_type, rule.icmp_code, negate=False),
    )
    if not _has_negation(rule):
        return matches
    return (
        *matches,
        *_protocol(not_protocol, negate=True),
        *_nets(Side.SRC, not_src, negate=True),
        *_sets(Side.SRC, rule.not_src_sets, SetKind.NET, negate=True),
        *_not_ports(Side.SRC, rule.not_src_ports if ports_apply else ()),
        *_sets(Side.SRC, rule.not_src_named_port_sets, SetKind.IP_PORT, negate=True),
        *_nets(Side.DST, not_dst, negate=True),
        *_sets(Side.DST, rule.not_dst_sets, SetKind.NET, negate=True),
        *_not_ports(Side.DST, rule.not_dst_ports if ports_apply else ()),
        *_sets(Side.DST, rule.not_dst_named_port_sets, SetKind.IP_PORT, negate=True),
        *_icmp(rule.not_icmp_type, rule.not_icmp_code, negate=True),
    )


def _has_negation(rule: ActiveRule) -> bool:
    """Tell whether anything is in the second half of a rule; most have nothing there."""
    nets_and_sets = rule.not_src_nets or rule.not_dst_nets or rule.not_src_sets or rule.not_dst_sets
    ports = rule.not_src_ports or rule.not_dst_ports
    named_ports = rule.not_src_named_port_sets or rule.not_dst_named_port_sets
    numbers = rule.not_protocol is not None or rule.not_icmp_type is not None
    return bool(nets_and_sets or ports or named_ports or numbers)


def _has_ports(rule: ActiveRule) -> bool:
    return bool(rule.src_ports or rule.dst_ports or rule.not_src_ports or rule.not_dst_ports)


def _family_nets(cidrs: tuple[str, ...], family: Family, *, negate: bool) -> tuple[str, ...] | None:
    """Return the CIDRs of this family; None when the criterion leaves nothing that could match."""
    if not cidrs:
        return ()
    kept = tuple(cidr for cidr in cidrs if is_family(cidr, family))
    if not kept:
        return None
    if negate and _CATCH_ALL[family] in kept:
        return None
    return kept


def _protocol(number: int | None, *, negate: bool) -> tuple[Match, ...]:
    return () if number is None else (ProtocolIs(number, negate),)


def _nets(side: Side, cidrs: tuple[str, ...], *, negate: bool) -> tuple[Match, ...]:
    if len(cidrs) > 1:
        return (NetInAny(side, cidrs, negate),)
    return tuple(NetIn(side, cidr, negate) for cidr in cidrs)


def _sets(side: Side, set_ids: tuple[str, ...], kind: SetKind, *, negate: bool) -> tuple[Match, ...]:
    return tuple(SetLookup(side, set_id, kind, negate) for set_id in set_ids)


def _ports(side: Side, ports: tuple[PortRange, ...], set_ids: tuple[str, ...]) -> tuple[Match, ...]:
    if ports and not set_ids:
        return (PortIn(side, ports),)
    if len(set_ids) == 1 and not ports:
        return (SetLookup(side, set_ids[0], SetKind.IP_PORT),)
    return (PortOrNamedPort(side, ports, set_ids),) if set_ids else ()


def _not_ports(side: Side, ports: tuple[PortRange, ...]) -> tuple[Match, ...]:
    return (PortIn(side, ports, negate=True),) if ports else ()


def _icmp(icmp_type: int | None, code: int | None, *, negate: bool) -> tuple[Match, ...]:
    return () if icmp_type is None else (IcmpIs(icmp_type, code, negate),)
