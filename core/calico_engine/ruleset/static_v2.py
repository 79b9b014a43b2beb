"""Layout v2: the static chains of Calico 2.1, as the articles print them.

Pure. Connection tracking is judged once, at the top of INPUT, FORWARD and OUTPUT, and host endpoints' normal policy
governs what is routed through the host too (apply-on-forward came later). Pre-DNAT policy is Calico 2.4's.
"""

from __future__ import annotations

from calico_engine.ruleset import names
from calico_engine.ruleset.actions import (
    Chains,
    bit_is_set,
    bits_are_clear,
    clear_bits,
    deny,
    filter_allow,
    mangle_allow,
    set_bits,
)
from calico_engine.ruleset.ir import (
    Accept,
    ChainKey,
    CtState,
    CtStateIn,
    Family,
    Goto,
    Hook,
    Jump,
    Layer,
    Return,
    Rule,
)
from calico_engine.ruleset.marks import allocate_marks
from calico_engine.ruleset.static_common import (
    HookRules,
    StaticRules,
    Tunnels,
    failsafe_chains,
    from_workload,
    jump_hook,
    nat_chains,
    rule,
    to_workload,
    tunnel_input,
    tunnel_output,
    workload_to_host,
)
from calico_engine.settings import FelixSettings

_GOING_ON = CtStateIn((CtState.RELATED, CtState.ESTABLISHED))
_HOST_ACCEPTED = "Host endpoint policy accepted packet."


def static_v2(settings: FelixSettings, family: Family, tunnels: Tunnels) -> StaticRules:
    """Return layout v2's chains and hooks."""
    chains: Chains = {}
    for layer in (Layer.RAW, Layer.MANGLE, Layer.FILTER):
        chains |= failsafe_chains(layer, settings, family)
    chains |= _raw(settings) | _mangle(settings)
    chains |= _filter(settings, family, tunnels) | workload_to_host(settings, family)
    chains |= nat_chains(settings, family, tunnels)
    hooks: HookRules = {}
    for layer, hook in (
        (Layer.RAW, Hook.PREROUTING),
        (Layer.RAW, Hook.OUTPUT),
        (Layer.MANGLE, Hook.PREROUTING),
        (Layer.NAT, Hook.PREROUTING),
        (Layer.NAT, Hook.OUTPUT),
        (Layer.NAT, Hook.POSTROUTING),
        (Layer.FILTER, Hook.INPUT),
        (Layer.FILTER, Hook.FORWARD),
        (Layer.FILTER, Hook.OUTPUT),
    ):
        hooks |= jump_hook(layer, hook)
    return StaticRules(chains, hooks, {})


def _raw(settings: FelixSettings) -> Chains:
    marks = allocate_marks(settings)
    accepted = rule(Accept(), bit_is_set(marks.accept))
    return {
        ChainKey(Layer.RAW, names.PREROUTING): (
            rule(clear_bits(marks.cleared)),
            *(rule(set_bits(marks.from_workload), match) for match in from_workload(settings)),
            rule(Jump(names.FROM_HOST_ENDPOINT), bits_are_clear(marks.from_workload)),
            accepted,
        ),
        ChainKey(Layer.RAW, names.OUTPUT): (
            rule(clear_bits(marks.cleared)),
            rule(Jump(names.TO_HOST_ENDPOINT)),
            accepted,
        ),
    }


def _mangle(settings: FelixSettings) -> Chains:
    allow = mangle_allow(settings)
    accepted = bit_is_set(allocate_marks(settings).accept)
    return {
        ChainKey(Layer.MANGLE, names.PREROUTING): (
            rule(allow, _GOING_ON),
            rule(allow, accepted),
            rule(Jump(names.FROM_HOST_ENDPOINT)),
            rule(allow, accepted, comment=_HOST_ACCEPTED),
        ),
    }


def _connections(settings: FelixSettings) -> tuple[Rule, ...]:
    """Return the first rules of all three filter chains."""
    marks = allocate_marks(settings)
    untracked = rule(Accept(), bit_is_set(marks.accept), CtStateIn((CtState.UNTRACKED,)))
    established = rule(filter_allow(settings), _GOING_ON)
    if settings.disable_conntrack_invalid_check:
        return (untracked, established)
    return (untracked, rule(deny(settings, Layer.FILTER), CtStateIn((CtState.INVALID,))), established)


def _host_policy(settings: FelixSettings, *chains: str) -> tuple[Rule, ...]:
    marks = allocate_marks(settings)
    return (
        rule(clear_bits(marks.cleared)),
        *(rule(Jump(chain)) for chain in chains),
        rule(filter_allow(settings), bit_is_set(marks.accept), comment=_HOST_ACCEPTED),
    )


def _filter(settings: FelixSettings, family: Family, tunnels: Tunnels) -> Chains:
    connections = _connections(settings)
    from_wl, to_wl = from_workload(settings), to_workload(settings)
    allow = filter_allow(settings)
    # Per prefix, egress and then ingress policy: between two endpoints of this node a packet needs both.
    policy = [
        step
        for source, destination in zip(from_wl, to_wl, strict=True)
        for step in (
            rule(Jump(names.FROM_WORKLOAD_DISPATCH), source),
            rule(Jump(names.TO_WORKLOAD_DISPATCH), destination),
        )
    ]
    accept = [
        step
        for source, destination in zip(from_wl, to_wl, strict=True)
        for step in (rule(allow, source), rule(allow, destination))
    ]
    return {
        ChainKey(Layer.FILTER, names.INPUT): (
            *tunnel_input(settings, family, tunnels),
            *connections,
            *(rule(Goto(names.WORKLOAD_TO_HOST), match) for match in from_wl),
            *_host_policy(settings, names.FROM_HOST_ENDPOINT),
        ),
        ChainKey(Layer.FILTER, names.FORWARD): (
            *connections,
            *policy,
            *accept,
            *_host_policy(settings, names.FROM_HOST_ENDPOINT, names.TO_HOST_ENDPOINT),
        ),
        ChainKey(Layer.FILTER, names.OUTPUT): (
            *connections,
            *(rule(Return(), match) for match in to_wl),
            *tunnel_output(settings, family, tunnels),
            *_host_policy(settings, names.TO_HOST_ENDPOINT),
        ),
    }
