"""What a workload may send from: its own addresses, prefixes it is allowed besides, and nothing else.

Pure. Source: felix/rules/static.go, felix/dataplane/linux/endpoint_mgr.go (cali-rpf-skip).
"""

from __future__ import annotations

from collections.abc import Iterable

from calico_engine.messages import WorkloadEndpointUpdate
from calico_engine.ruleset import names
from calico_engine.ruleset.actions import Chains, deny, static
from calico_engine.ruleset.addresses import is_family
from calico_engine.ruleset.ir import (
    Accept,
    ChainKey,
    Drop,
    Family,
    InterfaceAssigned,
    InterfaceIs,
    Layer,
    NetIn,
    Op,
    Origin,
    ProtocolIs,
    Return,
    RpfFailed,
    Rule,
    Side,
)
from calico_engine.ruleset.static_common import UDP, openstack, port
from calico_engine.settings import FelixSettings, Layout


def compile_rpf_skip(
    endpoints: Iterable[WorkloadEndpointUpdate], settings: FelixSettings, family: Family
) -> Chains:
    """Return cali-rpf-skip: source prefixes that an endpoint may send from beside its own addresses.

    They count only where WorkloadSourceSpoofing is Any. v2 has no such chain.
    """
    if settings.layout is Layout.V2:
        return {}
    return {ChainKey(Layer.RAW, names.RPF_SKIP): _allowed_sources(endpoints, settings, family, Accept())}


def compile_anti_spoof(
    endpoints: Iterable[WorkloadEndpointUpdate], settings: FelixSettings, family: Family
) -> Chains:
    """Return cali-anti-spoof of the native layout: what becomes of a workload's packet from no address of its own.

    An interface that is no endpoint's has none: what comes from it is dropped, of known connections too.
    """
    # A DHCP client has no address yet, and so none that is routed to it.
    dhcp = (ProtocolIs(UDP), NetIn(Side.SRC, "0.0.0.0/32"), port(Side.SRC, 68), port(Side.DST, 67))
    clients = (Rule(dhcp, Return(), (), static("DHCP")),)
    return {
        ChainKey(Layer.FILTER, names.ANTI_SPOOF): (
            *(clients if openstack(settings) and family is Family.V4 else ()),
            *_allowed_sources(endpoints, settings, family, Return()),
            Rule((RpfFailed(),), Drop(), ("Spoofed source",), static("anti-spoofing")),
            Rule(
                (InterfaceAssigned("in", negate=True),),
                deny(settings, Layer.FILTER),
                ("Unknown interface",),
                static("anti-spoofing"),
            ),
        )
    }


def _allowed_sources(
    endpoints: Iterable[WorkloadEndpointUpdate], settings: FelixSettings, family: Family, op: Op
) -> tuple[Rule, ...]:
    if settings.workload_source_spoofing != "Any":
        return ()
    return tuple(
        Rule(
            (InterfaceIs("in", endpoint.interface_name), NetIn(Side.SRC, prefix)),
            op,
            (),
            Origin(endpoint.endpoint, note="allowed source prefix"),
        )
        for endpoint in sorted(endpoints, key=lambda update: update.endpoint)
        if names.is_interface_name(endpoint.interface_name)
        for prefix in endpoint.allow_spoofed_source_prefixes
        if is_family(prefix, family)
    )
