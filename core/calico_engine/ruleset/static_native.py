"""Layout native: base chains of a table of our own, for backends with verdict maps.

Pure. The rules stand in the base chains themselves, and a part that nothing in the state calls for is not there: a base
chain without rules costs a packet nothing. What a packet meets is that of layout v3, but for two things: a connection
once let begin goes on before anything else is asked, and "accept" says only that we have no objection, whatever
IptablesFilterAllowAction is. Verdicts of lists of policies are in compile_list.
"""

from __future__ import annotations

import msgspec

from calico_engine.ruleset import names
from calico_engine.ruleset.actions import (
    Chains,
    bit_is_set,
    bits_are_clear,
    clear_bits,
    deny,
    set_bits,
)
from calico_engine.ruleset.ir import (
    Accept,
    ChainKey,
    CtState,
    CtStateIn,
    CtStatusDnat,
    Family,
    Goto,
    Hook,
    InterfaceAssigned,
    Jump,
    Layer,
    NoTrack,
    ProtocolIs,
    Reject,
    Return,
    Rule,
    Side,
    SourceAssigned,
)
from calico_engine.ruleset.marks import allocate_marks
from calico_engine.ruleset.static_common import (
    UDP,
    HookRules,
    StaticRules,
    Tunnels,
    failsafe_chains,
    from_workload,
    metadata_dnat,
    port,
    rule,
    to_workload,
    tunnel_input,
    tunnel_masquerade,
    tunnel_output,
    workload_to_host,
)
from calico_engine.settings import DenyAction, FelixSettings

_GOING_ON = CtStateIn((CtState.ESTABLISHED, CtState.RELATED))


class Needs(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Parts of the native static chains that something in the state calls for."""

    host_endpoints: bool = False
    floating_ips: bool = False
    nat_outgoing: bool = False
    cidr_block: bool = False


def find_needs(chains: Chains) -> Needs:
    """Return what there are rules for in the chains that the static ones lead to."""
    return Needs(
        host_endpoints=bool(chains.get(ChainKey(Layer.FILTER, names.FROM_HOST_ENDPOINT))),
        floating_ips=bool(chains.get(ChainKey(Layer.NAT, names.FIP_DNAT))),
        nat_outgoing=bool(chains.get(ChainKey(Layer.NAT, names.NAT_OUTGOING))),
        cidr_block=bool(chains.get(ChainKey(Layer.FILTER, names.CIDR_BLOCK))),
    )


def static_native(settings: FelixSettings, family: Family, tunnels: Tunnels, needs: Needs) -> StaticRules:
    """Return layout native's chains and the rules of its base chains."""
    chains = _workload_to_host(settings, family)
    if settings.iptables_filter_deny_action is DenyAction.REJECT:
        chains[ChainKey(Layer.FILTER, names.REJECT)] = (rule(Reject()),)
    if needs.host_endpoints:
        for layer in (Layer.RAW, Layer.MANGLE, Layer.FILTER):
            chains |= failsafe_chains(layer, settings, family)
    hooks: HookRules = {
        (Layer.RAW, Hook.PREROUTING): _raw_prerouting(settings, family, tunnels, needs),
        (Layer.RAW, Hook.OUTPUT): _raw_output(settings, tunnels, needs),
        (Layer.FILTER, Hook.INPUT): _input(settings, family, tunnels, needs),
        (Layer.FILTER, Hook.FORWARD): _forward(settings, needs),
        **_nat(settings, family, tunnels, needs),
    }
    if needs.host_endpoints:
        hooks[(Layer.FILTER, Hook.OUTPUT)] = _output(settings, family, tunnels)
        hooks |= _mangle(settings)
    return StaticRules(chains, {hook: rules for hook, rules in hooks.items() if rules}, {})


def _raw_prerouting(
    settings: FelixSettings, family: Family, tunnels: Tunnels, needs: Needs
) -> tuple[Rule, ...]:
    rules = _unmarked(settings) if needs.host_endpoints else []
    rules += _vxlan_untracked(settings, tunnels)
    if needs.host_endpoints:
        # No workload's interface is listed there.
        rules.append(rule(Jump(names.FROM_HOST_ENDPOINT)))
    return tuple(rules)


def _raw_output(settings: FelixSettings, tunnels: Tunnels, needs: Needs) -> tuple[Rule, ...]:
    hosts = [*_unmarked(settings), rule(Jump(names.TO_HOST_ENDPOINT))] if needs.host_endpoints else []
    return (*hosts, *_vxlan_untracked(settings, tunnels))


def _unmarked(settings: FelixSettings) -> list[Rule]:
    """Return the rule from which on the accept bit is ours: raw and mangle tell filter by it what they let through."""
    return [rule(clear_bits(allocate_marks(settings).cleared))]


def _vxlan_untracked(settings: FelixSettings, tunnels: Tunnels) -> list[Rule]:
    """VXLAN uses another source port each way, so that its flows would fill conntrack unanswered."""
    return [rule(NoTrack(), ProtocolIs(UDP), port(Side.DST, settings.vxlan_port))] if tunnels.vxlan else []


def _mangle(settings: FelixSettings) -> HookRules:
    accepted = bit_is_set(allocate_marks(settings).accept)
    return {
        (Layer.MANGLE, Hook.PREROUTING): (
            rule(Accept(), _GOING_ON),
            rule(Accept(), accepted),
            rule(Jump(names.FROM_HOST_ENDPOINT)),
        ),
        (Layer.MANGLE, Hook.POSTROUTING): (
            rule(Accept(), accepted),
            # Where a packet of the host goes whose destination was translated is known here only.
            rule(Jump(names.TO_HOST_ENDPOINT), CtStatusDnat()),
        ),
    }


def _anti_spoof(settings: FelixSettings) -> list[Rule]:
    """Judge the source of each packet of a workload, those of known connections too.

    A look at the routes costs three times that into a set, and a base chain of raw's as much again (6.18).
    """
    return [
        rule(Jump(names.ANTI_SPOOF), match, SourceAssigned(negate=True)) for match in from_workload(settings)
    ]


def _unknown_out(settings: FelixSettings) -> list[Rule]:
    """Drop, of known connections too, what the outside sends to a workload's interface that is no endpoint's."""
    outside = [msgspec.structs.replace(match, negate=True) for match in from_workload(settings)]
    denial = deny(settings, Layer.FILTER)
    unknown = InterfaceAssigned("out", negate=True)
    return [
        rule(denial, *outside, match, unknown, comment="Unknown interface") for match in to_workload(settings)
    ]


def _input(settings: FelixSettings, family: Family, tunnels: Tunnels, needs: Needs) -> tuple[Rule, ...]:
    marks = allocate_marks(settings)
    rules = [
        *_anti_spoof(settings),
        *tunnel_input(settings, family, tunnels),
        *(rule(Goto(names.WORKLOAD_TO_HOST), match) for match in from_workload(settings)),
    ]
    if needs.host_endpoints:
        rules += [
            rule(Accept(), bit_is_set(marks.accept)),
            rule(clear_bits(marks.cleared)),
            rule(Jump(names.FROM_HOST_ENDPOINT)),
        ]
    return tuple(rules)


def _workload_to_host(settings: FelixSettings, family: Family) -> Chains:
    going_on = rule(Accept(), _GOING_ON)
    return {key: (going_on, *rules) for key, rules in workload_to_host(settings, family).items()}


def _forward(settings: FelixSettings, needs: Needs) -> tuple[Rule, ...]:
    marks = allocate_marks(settings)
    before: list[Rule] = []
    after: list[Rule] = []
    if needs.host_endpoints:
        before = [
            # The accept bit stays: raw and mangle speak to us through it.
            rule(clear_bits(marks.cleared & ~marks.accept)),
            rule(Jump(names.FROM_HOST_ENDPOINT_FORWARD), bits_are_clear(marks.accept)),
        ]
        after = [rule(Jump(names.TO_HOST_ENDPOINT_FORWARD))]
    if needs.cidr_block:
        after.append(rule(Jump(names.CIDR_BLOCK)))
    if needs.host_endpoints:
        # Tells mangle's POSTROUTING that this is forwarded traffic, which normal host policy does not govern.
        after.append(rule(set_bits(marks.accept)))
    dispatch = [
        step
        for source, destination in zip(from_workload(settings), to_workload(settings), strict=True)
        for step in (
            rule(Jump(names.FROM_WORKLOAD_DISPATCH), source),
            rule(Jump(names.TO_WORKLOAD_DISPATCH), destination),
        )
    ]
    return (
        # Most packets are of this kind, and one look decides on them.
        rule(Accept(), SourceAssigned(), _GOING_ON, comment="Known connection of an endpoint's own address"),
        *_anti_spoof(settings),
        *_unknown_out(settings),
        rule(Accept(), _GOING_ON),
        *before,
        *dispatch,
        *after,
    )


def _output(settings: FelixSettings, family: Family, tunnels: Tunnels) -> tuple[Rule, ...]:
    marks = allocate_marks(settings)
    return (
        rule(Accept(), bit_is_set(marks.accept)),
        *(rule(Return(), match) for match in to_workload(settings)),
        *tunnel_output(settings, family, tunnels),
        rule(clear_bits(marks.cleared)),
        rule(Jump(names.TO_HOST_ENDPOINT), CtStatusDnat(negate=True)),
    )


def _nat(settings: FelixSettings, family: Family, tunnels: Tunnels, needs: Needs) -> HookRules:
    to_internal = [rule(Jump(names.FIP_DNAT))] if needs.floating_ips else []
    to_external = [rule(Jump(names.FIP_SNAT))] if needs.floating_ips else []
    outgoing = [rule(Jump(names.NAT_OUTGOING))] if needs.nat_outgoing else []
    return {
        (Layer.NAT, Hook.PREROUTING): (*to_internal, *metadata_dnat(settings, family)),
        (Layer.NAT, Hook.OUTPUT): tuple(to_internal),
        (Layer.NAT, Hook.POSTROUTING): (
            *to_external,
            *outgoing,
            *tunnel_masquerade(settings, family, tunnels),
        ),
    }
