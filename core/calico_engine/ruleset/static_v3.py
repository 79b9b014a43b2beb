"""Layout v3: the static chains of the current Calico.

Pure. Connection tracking is judged in each endpoint's chain, so that traffic which is none of ours passes untouched;
forwarded traffic meets apply-on-forward policy alone; host traffic whose destination was translated is judged in
mangle's POSTROUTING, where its true outgoing interface is known. Source: felix/rules/static.go.
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
    CtStatusDnat,
    Family,
    Goto,
    Hook,
    Jump,
    Layer,
    NetIn,
    NoTrack,
    ProtocolIs,
    Return,
    RpfFailed,
    Rule,
    Side,
)
from calico_engine.ruleset.marks import allocate_marks
from calico_engine.ruleset.static_common import (
    UDP,
    HookRules,
    StaticRules,
    Tunnels,
    failsafe_chains,
    from_workload,
    jump_hook,
    nat_chains,
    openstack,
    port,
    rule,
    to_workload,
    tunnel_input,
    tunnel_output,
    workload_to_host,
)
from calico_engine.settings import FelixSettings

_HOST_ACCEPTED = "Host endpoint policy accepted packet."
_POLICY_ACCEPTED = "Policy explicitly accepted packet."


def static_v3(settings: FelixSettings, family: Family, tunnels: Tunnels) -> StaticRules:
    """Return layout v3's chains and hooks."""
    chains: Chains = {}
    for layer in (Layer.RAW, Layer.MANGLE, Layer.FILTER):
        chains |= failsafe_chains(layer, settings, family)
    chains |= _raw(settings, family, tunnels) | _mangle(settings)
    chains |= _filter(settings, family, tunnels) | workload_to_host(settings, family)
    chains |= nat_chains(settings, family, tunnels)
    hooks: HookRules = {}
    for layer, hook in (
        (Layer.RAW, Hook.PREROUTING),
        (Layer.RAW, Hook.OUTPUT),
        (Layer.MANGLE, Hook.PREROUTING),
        (Layer.MANGLE, Hook.POSTROUTING),
        (Layer.NAT, Hook.PREROUTING),
        (Layer.NAT, Hook.OUTPUT),
        (Layer.FILTER, Hook.INPUT),
        (Layer.FILTER, Hook.FORWARD),
        (Layer.FILTER, Hook.OUTPUT),
    ):
        hooks |= jump_hook(layer, hook)
    marks = allocate_marks(settings)
    # nat's POSTROUTING goes last: kube-proxy must have cleared its own masquerade mark before ours ends the walk.
    appends = jump_hook(Layer.NAT, Hook.POSTROUTING)
    appends[(Layer.FILTER, Hook.FORWARD)] = (
        rule(filter_allow(settings), bit_is_set(marks.accept), comment=_POLICY_ACCEPTED),
        # Tells mangle's POSTROUTING that this is forwarded traffic, which normal host policy does not govern.
        rule(set_bits(marks.accept)),
    )
    return StaticRules(chains, hooks, appends)


def _raw(settings: FelixSettings, family: Family, tunnels: Tunnels) -> Chains:
    marks = allocate_marks(settings)
    workload = bit_is_set(marks.from_workload)
    # VXLAN uses another source port each way, so that its flows would fill conntrack unanswered.
    vxlan = (ProtocolIs(UDP), port(Side.DST, settings.vxlan_port))
    untracked = [rule(NoTrack(), *vxlan)] if tunnels.vxlan else []
    accepted = rule(Accept(), bit_is_set(marks.accept))
    return {
        ChainKey(Layer.RAW, names.PREROUTING): (
            rule(clear_bits(marks.cleared)),
            *untracked,
            *(rule(set_bits(marks.from_workload), match) for match in from_workload(settings)),
            rule(Jump(names.RPF_SKIP), workload),
            *_anti_spoof(settings, family),
            rule(Jump(names.FROM_HOST_ENDPOINT), bits_are_clear(marks.from_workload)),
            accepted,
        ),
        ChainKey(Layer.RAW, names.OUTPUT): (
            rule(clear_bits(marks.cleared)),
            rule(Jump(names.TO_HOST_ENDPOINT)),
            *untracked,
            accepted,
        ),
    }


def _anti_spoof(settings: FelixSettings, family: Family) -> list[Rule]:
    """Return rules that drop what workloads send from addresses that are not routed to them."""
    workload = bit_is_set(allocate_marks(settings).from_workload)
    rules = []
    if openstack(settings) and family is Family.V4:
        # A DHCP client has no address yet, and rpfilter of some kernels would not let that through.
        dhcp = (ProtocolIs(UDP), NetIn(Side.SRC, "0.0.0.0/32"), port(Side.SRC, 68), port(Side.DST, 67))
        rules.append(rule(Accept(), *dhcp))
    rules.append(rule(deny(settings, Layer.RAW), workload, RpfFailed()))
    return rules


def _mangle(settings: FelixSettings) -> Chains:
    marks = allocate_marks(settings)
    allow = mangle_allow(settings)
    accepted = bit_is_set(marks.accept)
    return {
        ChainKey(Layer.MANGLE, names.PREROUTING): (
            rule(allow, CtStateIn((CtState.RELATED, CtState.ESTABLISHED))),
            rule(allow, accepted),
            rule(Jump(names.FROM_HOST_ENDPOINT)),
            rule(allow, accepted, comment=_HOST_ACCEPTED),
        ),
        ChainKey(Layer.MANGLE, names.POSTROUTING): (
            rule(Return(), accepted),
            rule(clear_bits(marks.cleared)),
            rule(Jump(names.TO_HOST_ENDPOINT), CtStatusDnat()),
            rule(Return(), accepted, comment=_HOST_ACCEPTED),
        ),
    }


def _filter(settings: FelixSettings, family: Family, tunnels: Tunnels) -> Chains:
    marks = allocate_marks(settings)
    allow = filter_allow(settings)
    accepted = bit_is_set(marks.accept)
    already = rule(allow, accepted)
    forwarding = [
        step
        for source, destination in zip(from_workload(settings), to_workload(settings), strict=True)
        for step in (
            rule(Jump(names.FROM_WORKLOAD_DISPATCH), source),
            rule(Jump(names.TO_WORKLOAD_DISPATCH), destination),
        )
    ]
    return {
        ChainKey(Layer.FILTER, names.INPUT): (
            *tunnel_input(settings, family, tunnels),
            *(rule(Goto(names.WORKLOAD_TO_HOST), match) for match in from_workload(settings)),
            already,
            rule(clear_bits(marks.cleared)),
            rule(Jump(names.FROM_HOST_ENDPOINT)),
            rule(allow, accepted, comment=_HOST_ACCEPTED),
        ),
        ChainKey(Layer.FILTER, names.FORWARD): (
            # The accept bit stays: raw and mangle speak to us through it.
            rule(clear_bits(marks.cleared & ~marks.accept)),
            rule(Jump(names.FROM_HOST_ENDPOINT_FORWARD), bits_are_clear(marks.accept)),
            *forwarding,
            rule(Jump(names.TO_HOST_ENDPOINT_FORWARD)),
            rule(Jump(names.CIDR_BLOCK)),
        ),
        ChainKey(Layer.FILTER, names.OUTPUT): (
            already,
            *(rule(Return(), match) for match in to_workload(settings)),
            *tunnel_output(settings, family, tunnels),
            rule(clear_bits(marks.cleared)),
            rule(Jump(names.TO_HOST_ENDPOINT), CtStatusDnat(negate=True)),
            rule(allow, accepted, comment=_HOST_ACCEPTED),
        ),
    }
