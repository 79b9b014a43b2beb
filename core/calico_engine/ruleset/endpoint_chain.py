"""The rules of one endpoint chain: conntrack, failsafes, tiers of policies, profiles, drop.

Pure. Workload and host endpoints, in whichever table, differ in what a ChainShape says. A chain allows a packet by
setting the accept bit and returning: further endpoints may still have a say. Source: felix/rules/endpoints.go; layout
v2 as the articles print it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from functools import lru_cache
from itertools import groupby

import msgspec

from calico_engine.messages import ActivePolicyUpdate, PortRange, TierPolicies
from calico_engine.model.policy import Action
from calico_engine.model.resource import ResourceKey
from calico_engine.ruleset import names
from calico_engine.ruleset.actions import (
    Chains,
    bit_is_set,
    bits_are_clear,
    clear_bits,
    deny,
    deny_word,
    set_bits,
)
from calico_engine.ruleset.compile_policy import INGRESS
from calico_engine.ruleset.ir import (
    Accept,
    ChainKey,
    CtState,
    CtStateIn,
    Jump,
    Layer,
    MarkIs,
    NoTrack,
    Op,
    Origin,
    PortIn,
    ProtocolIs,
    Return,
    Rule,
    Side,
)
from calico_engine.ruleset.marks import allocate_marks
from calico_engine.settings import FelixSettings, Layout

PROTOCOL_IPIP = 4
PROTOCOL_UDP = 17

#: A group's chain checks for a verdict once per so many policies.
_RETURN_STRIDE = 5

Policies = Mapping[ResourceKey, ActivePolicyUpdate]


class ChainKind(StrEnum):
    NORMAL = "normal"
    UNTRACKED = "untracked"
    PRE_DNAT = "pre-dnat"
    FORWARD = "forward"


class ChainShape(msgspec.Struct, frozen=True, kw_only=True):
    """What makes one endpoint chain differ from another. `allow` is the operation for established connections.

    `owner` is None for what endpoints share; `conntrack` False where the state was judged before.
    """

    owner: ResourceKey | None
    name: str
    layer: Layer
    direction: str
    kind: ChainKind = ChainKind.NORMAL
    failsafe: str = ""
    allow: Op = Accept()
    guard_encap: bool = False
    conntrack: bool = True


class EndpointChain:
    """Builds one chain. `groups` are the chains of policy groups that it jumps to, to be programmed with it."""

    def __init__(self, shape: ChainShape, policies: Policies, settings: FelixSettings) -> None:
        self._shape = shape
        self._policies = policies
        self._settings = settings
        self._marks = allocate_marks(settings)
        self._v2 = settings.layout is Layout.V2
        self._rules: list[Rule] = []
        self.groups: Chains = {}

    def build(self, tiers: Sequence[TierPolicies], profiles: Sequence[str]) -> Chains:
        """Return the chain and the chains of its policy groups."""
        shape = self._shape
        if shape.conntrack and not self._v2 and shape.kind is not ChainKind.UNTRACKED:
            self._conntrack()
        if shape.failsafe:
            self._add(Jump(shape.failsafe))
        accept_bits = self._marks.accept if self._v2 else self._marks.accept | self._marks.pass_
        self._add(clear_bits(accept_bits))
        if shape.guard_encap:
            self._rules += encap_guards(self._settings, shape.layer, self._origin())
        for tier in tiers:
            self._tier(tier)
        if not tiers and shape.kind is ChainKind.FORWARD:
            self._add(set_bits(self._marks.accept), comment="Allow forwarded traffic by default")
            self._add(Return(), comment="Return for accepted forward traffic")
        if shape.kind is ChainKind.NORMAL:
            self._profiles(profiles)
        return {ChainKey(shape.layer, shape.name): tuple(self._rules)} | self.groups

    def _add(self, op: Op, *matches: MarkIs | CtStateIn, comment: str = "") -> None:
        self._rules.append(Rule(matches, op, (comment,) if comment else (), self._origin()))

    def _origin(self) -> Origin:
        return Origin(self._shape.owner, self._shape.direction)

    def _deny(self) -> Op:
        return deny(self._settings, self._shape.layer)

    def _deny_word(self) -> str:
        return deny_word(self._settings, self._shape.layer)

    def _conntrack(self) -> None:
        """Let connections go on that policy once let begin."""
        going_on = CtStateIn((CtState.RELATED, CtState.ESTABLISHED))
        if not isinstance(self._shape.allow, Accept):
            self._add(set_bits(self._marks.accept), going_on)
        self._add(self._shape.allow, going_on)
        self._rules += invalid_guard(self._settings, self._shape.layer, self._origin())

    def _tier(self, tier: TierPolicies) -> None:
        keys = tier.ingress if self._shape.direction == INGRESS else tier.egress
        if not keys:
            return
        marks = self._marks
        passed_not = bits_are_clear(marks.pass_)
        start = "Start of policies" if self._v2 else f"Start of tier {tier.tier}"
        self._add(clear_bits(marks.pass_), comment=start)
        for chain in self._policy_chains(keys):
            self._add(Jump(chain), passed_not)
            if self._shape.kind is ChainKind.UNTRACKED:
                self._add(NoTrack(), bit_is_set(marks.accept))
            self._add(Return(), bit_is_set(marks.accept), comment="Return if policy accepted")
        if (
            self._shape.kind not in (ChainKind.NORMAL, ChainKind.FORWARD)
            or tier.default_action is Action.PASS
        ):
            return
        end = f"{self._deny_word()} if no policies passed packet"
        if not self._v2:
            end = f"End of tier {tier.tier}. {end}"
        self._add(self._deny(), passed_not, comment=end)

    def _policy_chains(self, keys: Sequence[ResourceKey]) -> list[str]:
        """Return the chains to jump to: consecutive policies of one selector share a chain with other endpoints."""
        chains: list[str] = []
        for selector, members in groupby(keys, key=self._selector):
            group = list(members)
            if selector is None or len(group) == 1:
                chains += [self._policy_chain(key) for key in group]
            else:
                chains.append(self._group_chain(selector, group))
        return chains

    def _policy_chain(self, key: ResourceKey) -> str:
        return _policy_chain(key, self._shape.direction, self._settings.layout)

    def _selector(self, key: ResourceKey) -> str | None:
        """Return what policies are grouped by; None keeps a policy by itself. v2 knows no groups."""
        policy = self._policies.get(key)
        return None if policy is None or self._v2 else policy.selector

    def _group_chain(self, selector: str, group: Sequence[ResourceKey]) -> str:
        """Note the chain of a group and return its name."""
        verdict = self._marks.accept | self._marks.pass_
        name, rules = _group(selector, tuple(group), self._shape.direction, verdict, self._settings.layout)
        self.groups[ChainKey(self._shape.layer, name)] = rules
        return name

    def _profiles(self, profiles: Sequence[str]) -> None:
        prefix = names.PROFILE_INBOUND if self._shape.direction == INGRESS else names.PROFILE_OUTBOUND
        for profile in profiles:
            self._add(Jump(names.profile_chain(prefix, profile)))
            self._add(Return(), bit_is_set(self._marks.accept), comment="Return if profile accepted")
        self._add(self._deny(), comment=f"{self._deny_word()} if no profiles matched")


def _policy_chain(key: ResourceKey, direction: str, layout: Layout) -> str:
    prefix = names.POLICY_INBOUND if direction == INGRESS else names.POLICY_OUTBOUND
    return names.policy_chain(prefix, key, layout)


@lru_cache(maxsize=1024)
def _group(
    selector: str, group: tuple[ResourceKey, ...], direction: str, verdict: int, layout: Layout
) -> tuple[str, tuple[Rule, ...]]:
    """Return name and rules of a group's chain, which all its endpoints ask for.

    It returns with the accept or pass bit, which `verdict` is made of, or with neither.
    """
    undecided = (bits_are_clear(verdict),)
    decided = (MarkIs(0, verdict, negate=True),)
    rules: list[Rule] = []
    for position, key in enumerate(group):
        origin = Origin(key, direction)
        matches = undecided if position % _RETURN_STRIDE else ()
        if position and not matches:
            rules.append(Rule(decided, Return(), ("Return on verdict",), origin))
        rules.append(Rule(matches, Jump(_policy_chain(key, direction, layout)), (), origin))
    prefix = names.GROUP_INBOUND if direction == INGRESS else names.GROUP_OUTBOUND
    return names.policy_group_chain(prefix, selector, group), tuple(rules)


def invalid_guard(settings: FelixSettings, layer: Layer, origin: Origin) -> tuple[Rule, ...]:
    """Return the rule that denies what belongs to no connection, unless the settings do without."""
    if settings.disable_conntrack_invalid_check:
        return ()
    return (Rule((CtStateIn((CtState.INVALID,)),), deny(settings, layer), (), origin),)


def encap_guards(settings: FelixSettings, layer: Layer, origin: Origin) -> tuple[Rule, ...]:
    """Keep workloads from wrapping packets themselves: inside a tunnel no egress policy would see them."""
    denial, word = deny(settings, layer), deny_word(settings, layer)
    rules = []
    if not settings.allow_vxlan_packets_from_workloads:
        port = settings.vxlan_port
        vxlan = (ProtocolIs(PROTOCOL_UDP), PortIn(Side.DST, (PortRange(port, port),)))
        comment = f"{word} VXLAN encapped packets originating in workloads"
        rules.append(Rule(vxlan, denial, (comment,), origin))
    if not settings.allow_ipip_packets_from_workloads:
        comment = f"{word} IPinIP encapped packets originating in workloads"
        rules.append(Rule((ProtocolIs(PROTOCOL_IPIP),), denial, (comment,), origin))
    return tuple(rules)
