"""Lists of policies that endpoints share, in the native layout: an endpoint is two entries of a map and no chain.

Pure. Endpoints to which the same policies and profiles apply, in the same order, have one list for each direction. A
list has a chain that classifies a packet and, behind it, the same policies walked one by one as a linear chain, for
what the verdict table leaves to it. A chain of either kind returns for a packet that the list allows, so that the other
endpoint's list is asked too, and denies on the spot.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache

import msgspec

from calico_engine.messages import ActiveRule, TierPolicies, WorkloadEndpointUpdate
from calico_engine.model.policy import Action
from calico_engine.model.resource import ResourceKey
from calico_engine.ruleset import names
from calico_engine.ruleset.actions import Chains, deny, static
from calico_engine.ruleset.classify import ListPolicies, PolicyList
from calico_engine.ruleset.compile_policy import EGRESS, INGRESS
from calico_engine.ruleset.endpoint_chain import (
    ChainShape,
    EndpointChain,
    Policies,
    encap_guards,
    invalid_guard,
)
from calico_engine.ruleset.ir import (
    ChainKey,
    Classify,
    DispatchByInterface,
    Drop,
    Goto,
    Layer,
    Level,
    Origin,
    Reject,
    Rule,
    Side,
)
from calico_engine.settings import FelixSettings


class EndpointList(msgspec.Struct, frozen=True):
    """What decides on packets in one direction, for all endpoints of which this is so. Tiers have that direction alone.

    `chain` is the name of its chain and of its verdict table, `linear` that of the same policies one by one; both
    follow from the rest, see make_list.
    """

    direction: str
    tiers: tuple[TierPolicies, ...]
    profiles: tuple[str, ...]
    chain: str
    linear: str

    @property
    def side(self) -> Side:
        """The side of a packet where the other end is: what a list decides by."""
        return Side.SRC if self.direction == INGRESS else Side.DST

    def policies(self, tier: TierPolicies) -> tuple[ResourceKey, ...]:
        return _policies(self.direction, tier)


def _policies(direction: str, tier: TierPolicies) -> tuple[ResourceKey, ...]:
    return tier.ingress if direction == INGRESS else tier.egress


@lru_cache(maxsize=1 << 12)
def make_list(direction: str, tiers: tuple[TierPolicies, ...], profiles: tuple[str, ...]) -> EndpointList:
    """Return a list with its names; many endpoints ask for one and the same."""
    words = tuple(
        (
            tier.tier,
            str(tier.default_action),
            tuple((key.kind, key.namespace, key.name) for key in _policies(direction, tier)),
        )
        for tier in tiers
    )
    text = repr((direction, words, profiles))
    prefix = names.LIST_INBOUND if direction == INGRESS else names.LIST_OUTBOUND
    return EndpointList(
        direction,
        tiers,
        profiles,
        names.list_chain(prefix, text),
        names.list_chain(names.LIST_LINEAR, text),
    )


class EndpointLists(msgspec.Struct, frozen=True):
    """A workload endpoint: what decides on packets to it (`inbound`) and from it (`outbound`)."""

    endpoint: ResourceKey
    inbound: EndpointList
    outbound: EndpointList


def endpoint_lists(update: WorkloadEndpointUpdate) -> EndpointLists:
    """Return the lists of an endpoint. A tier without policies in a direction is not enforced in it."""
    into = tuple(
        TierPolicies(tier=tier.tier, default_action=tier.default_action, ingress=tier.ingress)
        for tier in update.tiers
        if tier.ingress
    )
    out = tuple(
        TierPolicies(tier=tier.tier, default_action=tier.default_action, egress=tier.egress)
        for tier in update.tiers
        if tier.egress
    )
    return EndpointLists(
        update.endpoint,
        make_list(INGRESS, into, update.profiles),
        make_list(EGRESS, out, update.profiles),
    )


#: What stands for the rules of a policy that is missing or not valid: nothing passes it.
CLOSED = (ActiveRule(action=Action.DENY),)
#: Rules of a policy, or a profile, in one direction.
PolicyRules = Callable[[ResourceKey, str], tuple[ActiveRule, ...]]
ProfileRules = Callable[[str, str], tuple[ActiveRule, ...]]


def policy_list(
    of: EndpointList, policy_rules: PolicyRules, profile_rules: ProfileRules, settings: FelixSettings
) -> PolicyList:
    """Return a list with all its rules, for classification."""
    return PolicyList(
        side=of.side,
        tiers=tuple(
            ListPolicies(
                tier.tier,
                tier.default_action,
                tuple((key, policy_rules(key, of.direction)) for key in of.policies(tier)),
            )
            for tier in of.tiers
        ),
        profiles=tuple((profile, profile_rules(profile, of.direction)) for profile in of.profiles),
        linear=of.linear,
        deny=list_denial(settings),
    )


def list_denial(settings: FelixSettings) -> Drop | Goto:
    """Return what a verdict table has for a packet that is denied: a map's verdict can drop, but not reject."""
    return Goto(names.REJECT) if isinstance(deny(settings, Layer.FILTER), Reject) else Drop()


def compile_list(
    of: EndpointList,
    policies: Policies,
    settings: FelixSettings,
    levels: Sequence[Level],
    *,
    to_linear: bool,
) -> Chains:
    """Return the list's chain and, if anything leads there, its linear chain with the chains of policy groups it has.

    `levels` are those of the list's verdict table, none for a list that is walked policy by policy; `to_linear` says
    whether any verdict of the table goes to the linear chain.
    """
    origin = Origin(direction=of.direction, note="list")
    rules = [*invalid_guard(settings, Layer.FILTER, origin)]
    if of.direction == EGRESS:
        rules += encap_guards(settings, Layer.FILTER, origin)
    comments = (_title(of),)
    if levels:
        table = Classify(of.chain, of.side, of.linear if to_linear else "", tuple(levels))
        rules.append(Rule((), table, comments, origin))
        rules.append(Rule((), list_denial(settings), ("No verdict",), origin))
    else:
        rules.append(Rule((), Goto(of.linear), comments, origin))
    chains: Chains = {ChainKey(Layer.FILTER, of.chain): tuple(rules)}
    if levels and not to_linear:
        return chains
    shape = ChainShape(
        owner=None, name=of.linear, layer=Layer.FILTER, direction=of.direction, conntrack=False
    )
    return chains | EndpointChain(shape, policies, settings).build(of.tiers, of.profiles)


def _title(of: EndpointList) -> str:
    """Say in a comment which policies a list has."""
    parts = [
        f"{tier.tier}: {' '.join(f'{key.namespace}/{key.name}' if key.namespace else key.name for key in keys)}"
        for tier in of.tiers
        if (keys := of.policies(tier))
    ]
    if of.profiles:
        parts.append(f"profiles: {' '.join(of.profiles)}")
    return f"{of.direction} " + (", ".join(parts) or "nothing applies")


def compile_list_dispatch(endpoints: Mapping[str, EndpointLists], settings: FelixSettings) -> Chains:
    """Return cali-from-wl-dispatch and cali-to-wl-dispatch, from interface names to lists; others are dropped."""
    known = sorted(name for name in endpoints if names.is_interface_name(name))
    comments = tuple(str(endpoints[name].endpoint) for name in known)
    outbound = tuple((name, endpoints[name].outbound.chain) for name in known)
    inbound = tuple((name, endpoints[name].inbound.chain) for name in known)
    unknown = Rule((), deny(settings, Layer.FILTER), ("Unknown interface",), static("unknown interface"))

    def rules(direction: str, targets: Iterable[tuple[str, str]]) -> tuple[Rule, ...]:
        dispatch = DispatchByInterface(direction, tuple(targets), comments=comments)
        return (*((Rule((), dispatch, (), static("dispatch")),) if known else ()), unknown)

    return {
        ChainKey(Layer.FILTER, names.FROM_WORKLOAD_DISPATCH): rules("in", outbound),
        ChainKey(Layer.FILTER, names.TO_WORKLOAD_DISPATCH): rules("out", inbound),
    }
