"""Operations and matches that depend on settings or marks, spelled once.

Pure. Source: felix/rules/rule_defs.go (NewRenderer).
"""

from __future__ import annotations

from calico_engine.ruleset.ir import (
    Accept,
    ChainKey,
    Drop,
    Layer,
    MarkIs,
    Op,
    Origin,
    Reject,
    Return,
    Rule,
    SetMark,
)
from calico_engine.settings import DenyAction, EndpointToHostAction, FelixSettings

Chains = dict[ChainKey, tuple[Rule, ...]]


def deny(settings: FelixSettings, layer: Layer) -> Op:
    """Return what denies a packet. xt_REJECT is valid in filter alone: elsewhere a denied packet is dropped."""
    if layer is Layer.FILTER and settings.iptables_filter_deny_action is DenyAction.REJECT:
        return Reject()
    return Drop()


def deny_word(settings: FelixSettings, layer: Layer) -> str:
    """Return what comments call it."""
    return "Reject" if isinstance(deny(settings, layer), Reject) else "Drop"


def filter_allow(settings: FelixSettings) -> Op:
    return Return() if settings.iptables_filter_allow_action.upper() == "RETURN" else Accept()


def mangle_allow(settings: FelixSettings) -> Op:
    return Return() if settings.iptables_mangle_allow_action.upper() == "RETURN" else Accept()


def endpoint_to_host(settings: FelixSettings) -> Op:
    match settings.default_endpoint_to_host_action:
        case EndpointToHostAction.DROP:
            return Drop()
        case EndpointToHostAction.ACCEPT:
            return Accept()
        case EndpointToHostAction.RETURN:
            return Return()


def set_bits(bits: int) -> SetMark:
    return SetMark(bits, bits)


def clear_bits(bits: int) -> SetMark:
    return SetMark(0, bits)


def bit_is_set(bit: int) -> MarkIs:
    return MarkIs(bit, bit)


def bits_are_clear(bits: int) -> MarkIs:
    return MarkIs(0, bits)


def static(note: str) -> Origin:
    """Return the origin of a rule that no policy asked for."""
    return Origin(note=note)
