"""From the shared chains to the chain of the packet's interface.

Pure. Fail closed: a packet of a workload interface that nothing is known of is dropped. Host interfaces without a host
endpoint are none of our business. Source: felix/rules/dispatch.go.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from calico_engine.messages import HostEndpointUpdate
from calico_engine.ruleset import names
from calico_engine.ruleset.actions import Chains, deny, static
from calico_engine.ruleset.ir import (
    ChainKey,
    DispatchByInterface,
    Goto,
    InterfaceIs,
    Layer,
    Return,
    Rule,
)
from calico_engine.settings import FelixSettings, Layout

#: The name under which the host endpoint for all other interfaces is kept.
ALL_INTERFACES = "*"


def compile_workload_dispatch(interface_names: Iterable[str], settings: FelixSettings) -> Chains:
    """Return cali-from-wl-dispatch and cali-to-wl-dispatch; an unknown interface is dropped."""
    known = sorted({name for name in interface_names if names.is_interface_name(name)})
    unknown = unknown_interface(settings)
    return {key: (rule, unknown) if known else (unknown,) for key, rule in workload_dispatch(known).items()}


def workload_dispatch(interface_names: Sequence[str]) -> dict[ChainKey, Rule]:
    """Return the dispatching rule of each of the two chains."""
    return {
        ChainKey(Layer.FILTER, chain): _dispatch_rule(direction, prefix, interface_names)
        for chain, direction, prefix in (
            (names.FROM_WORKLOAD_DISPATCH, "in", names.FROM_WORKLOAD),
            (names.TO_WORKLOAD_DISPATCH, "out", names.TO_WORKLOAD),
        )
    }


def unknown_interface(settings: FelixSettings) -> Rule:
    """Return what both chains end with."""
    return Rule((), deny(settings, Layer.FILTER), ("Unknown interface",), static("unknown interface"))


def compile_host_dispatch(resolved: Mapping[str, HostEndpointUpdate], settings: FelixSettings) -> Chains:
    """Return the from/to-host-endpoint chains of raw, mangle and filter (empty ones too: static chains jump there).

    `resolved` is what resolve_host_endpoints says. Untracked policy does not apply through "*".
    """
    every = sorted(resolved)
    pre_dnat = [name for name in every if resolved[name].pre_dnat_tiers]
    untracked = [name for name in every if resolved[name].untracked_tiers and name != ALL_INTERFACES]
    chains = _pair(Layer.RAW, untracked, untracked, settings)
    chains |= _pair(Layer.FILTER, every, every, settings)
    if settings.layout is Layout.V2:
        return chains | _pair(Layer.MANGLE, pre_dnat, (), settings)
    chains |= _pair(Layer.MANGLE, pre_dnat, every, settings)
    chains |= {
        ChainKey(Layer.FILTER, names.FROM_HOST_ENDPOINT_FORWARD): _host("in", names.FROM_HOST_FORWARD, every),
        ChainKey(Layer.FILTER, names.TO_HOST_ENDPOINT_FORWARD): _host("out", names.TO_HOST_FORWARD, every),
    }
    return chains


def _dispatch(direction: str, prefix: str, interface_names: Sequence[str]) -> tuple[Rule, ...]:
    return (_dispatch_rule(direction, prefix, interface_names),) if interface_names else ()


def _dispatch_rule(direction: str, prefix: str, interface_names: Sequence[str]) -> Rule:
    targets = tuple((name, names.endpoint_chain(prefix, name)) for name in interface_names)
    return Rule((), DispatchByInterface(direction, targets), (), static("dispatch"))


def _pair(
    layer: Layer, from_names: Sequence[str], to_names: Sequence[str], settings: FelixSettings
) -> Chains:
    to_host = _host("out", names.TO_HOST, to_names)
    if layer is Layer.MANGLE and ALL_INTERFACES in to_names:
        # filter's OUTPUT has turned away packets to workloads before; mangle's POSTROUTING has not.
        skip = tuple(
            Rule(
                (InterfaceIs("out", f"{prefix}+"),),
                Return(),
                ("Skip egress WHEP policy for traffic to local workload",),
                static("host endpoint *"),
            )
            for prefix in settings.interface_prefix
        )
        to_host = (*to_host[:-1], *skip, to_host[-1])
    return {
        ChainKey(layer, names.FROM_HOST_ENDPOINT): _host("in", names.FROM_HOST, from_names),
        ChainKey(layer, names.TO_HOST_ENDPOINT): to_host,
    }


def _host(direction: str, prefix: str, interface_names: Sequence[str]) -> tuple[Rule, ...]:
    named = [name for name in interface_names if name != ALL_INTERFACES]
    rules = _dispatch(direction, prefix, named)
    if ALL_INTERFACES in interface_names:
        default = Goto(names.endpoint_chain(prefix, ALL_INTERFACES))
        rules = (*rules, Rule((), default, (), static("host endpoint *")))
    return rules
