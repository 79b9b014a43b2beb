"""Which policies come before which: tiers by order, policies by order, ties by name.

Pure. No order means last. Policies of a tier that does not exist come after all tiers, and then deny: a tier that
was deleted or is not yet there must not open anything.
Source: felix/calc/policy_sorter.go.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import msgspec

from calico_engine.messages import TierPolicies
from calico_engine.model.policy import (
    Action,
    GlobalNetworkPolicy,
    GlobalNetworkPolicySpec,
    NetworkPolicy,
    NetworkPolicySpec,
    PolicyType,
    Tier,
)
from calico_engine.model.resource import ResourceKey

DEFAULT_TIER = "default"
# The reference's default tier exists without being stored.
_DEFAULT_TIER_ORDER = 1_000_000.0
_NO_FLAGS = GlobalNetworkPolicySpec()


class PolicyRank(msgspec.Struct, frozen=True, gc=False):
    """What decides where a policy stands and what of an endpoint's traffic it sees."""

    key: ResourceKey
    tier: str
    order: float
    tie: str
    ingress: bool
    egress: bool
    untracked: bool = False
    pre_dnat: bool = False
    apply_on_forward: bool = False


class TierRank(msgspec.Struct, frozen=True, gc=False):
    """A tier's place: sort by (missing, order, name)."""

    missing: bool
    order: float
    name: str
    default_action: Action


class EndpointTiers(msgspec.Struct, frozen=True, gc=False):
    """The policies of one endpoint, tier by tier, for each of the four places where they are enforced."""

    normal: tuple[TierPolicies, ...] = ()
    untracked: tuple[TierPolicies, ...] = ()
    pre_dnat: tuple[TierPolicies, ...] = ()
    forward: tuple[TierPolicies, ...] = ()


def rank_policy(policy: NetworkPolicy | GlobalNetworkPolicy) -> PolicyRank:
    """Return where a policy stands."""
    spec = policy.spec
    key = policy.key
    types = policy_types(spec)
    flags = spec if isinstance(spec, GlobalNetworkPolicySpec) else _NO_FLAGS
    return PolicyRank(
        key=key,
        tier=spec.tier or DEFAULT_TIER,
        order=math.inf if spec.order is None else spec.order,
        tie=f"{key.name}/{key.namespace}/{key.kind}",
        ingress=PolicyType.INGRESS in types,
        egress=PolicyType.EGRESS in types,
        untracked=flags.do_not_track,
        pre_dnat=flags.pre_dnat,
        apply_on_forward=flags.apply_on_forward,
    )


def policy_types(spec: NetworkPolicySpec) -> tuple[PolicyType, ...]:
    """Return the directions a policy speaks about; without `types` those it has rules for, ingress if none."""
    if spec.types:
        return spec.types
    if not spec.egress:
        return (PolicyType.INGRESS,)
    return (PolicyType.INGRESS, PolicyType.EGRESS) if spec.ingress else (PolicyType.EGRESS,)


class TierOrder:
    """The tiers that exist."""

    def __init__(self) -> None:
        self._tiers: dict[str, TierRank] = {}
        self.put(DEFAULT_TIER, None)

    def put(self, name: str, tier: Tier | None) -> None:
        """Enter or replace a tier; None when it is gone."""
        if tier is not None:
            order = math.inf if tier.spec.order is None else tier.spec.order
            # Anything but Pass is taken as Deny.
            action = Action.PASS if tier.spec.default_action == Action.PASS else Action.DENY
            self._tiers[name] = TierRank(missing=False, order=order, name=name, default_action=action)
        elif name == DEFAULT_TIER:
            self._tiers[name] = TierRank(
                missing=False, order=_DEFAULT_TIER_ORDER, name=name, default_action=Action.DENY
            )
        else:
            self._tiers.pop(name, None)

    def arrange(self, policies: Iterable[PolicyRank]) -> EndpointTiers:
        """Return the given policies in evaluation order."""
        by_tier: dict[str, list[PolicyRank]] = {}
        for policy in policies:
            by_tier.setdefault(policy.tier, []).append(policy)
        ranks = [self._tiers.get(name) or _missing_tier(name) for name in by_tier]
        ranks.sort(key=lambda rank: (rank.missing, rank.order, rank.name))
        normal: list[TierPolicies] = []
        untracked: list[TierPolicies] = []
        pre_dnat: list[TierPolicies] = []
        forward: list[TierPolicies] = []
        for rank in ranks:
            ordered = sorted(by_tier[rank.name], key=lambda policy: (policy.order, policy.tie))
            tracked = [policy for policy in ordered if not (policy.untracked or policy.pre_dnat)]
            _append(normal, rank, rank.default_action, tracked)
            _append(forward, rank, rank.default_action, [each for each in tracked if each.apply_on_forward])
            # What these two do not decide still is for the normal policies to decide.
            _append(untracked, rank, Action.PASS, [each for each in ordered if each.untracked])
            before_dnat = [each for each in ordered if each.pre_dnat and not each.untracked]
            _append(pre_dnat, rank, Action.PASS, before_dnat, egress=False)
        return EndpointTiers(tuple(normal), tuple(untracked), tuple(pre_dnat), tuple(forward))


def _missing_tier(name: str) -> TierRank:
    return TierRank(missing=True, order=math.inf, name=name, default_action=Action.DENY)


def _append(
    tiers: list[TierPolicies],
    rank: TierRank,
    default_action: Action,
    policies: list[PolicyRank],
    *,
    egress: bool = True,
) -> None:
    inward = tuple([policy.key for policy in policies if policy.ingress])
    outward = tuple([policy.key for policy in policies if policy.egress]) if egress else ()
    if inward or outward:
        tiers.append(
            TierPolicies(tier=rank.name, default_action=default_action, ingress=inward, egress=outward)
        )
