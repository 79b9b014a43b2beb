"""Outgoing NAT, floating addresses, and the small chains that depend on endpoints: rpf-skip, cidr-block.

Pure. Source: felix/rules/nat.go, felix/dataplane/linux/{masq_mgr,floating_ip_mgr,endpoint_mgr}.go.
"""

from __future__ import annotations

from collections.abc import Iterable

from calico_engine.messages import WorkloadEndpointUpdate
from calico_engine.ruleset import names
from calico_engine.ruleset.actions import Chains, static
from calico_engine.ruleset.addresses import is_address, is_family
from calico_engine.ruleset.check_settings import check_settings
from calico_engine.ruleset.ir import (
    ChainKey,
    Dnat,
    Drop,
    Family,
    InterfaceIs,
    Layer,
    Masquerade,
    Match,
    NetIn,
    Op,
    ProtocolIs,
    Reject,
    Return,
    Rule,
    SetLookup,
    Side,
    Snat,
)
from calico_engine.settings import FelixSettings, Layout

_TCP, _UDP = 6, 17


def compile_nat_outgoing(settings: FelixSettings, family: Family, *, active: bool) -> Chains:
    """Return cali-nat-outgoing; `active` when any pool of this family wants NAT.

    What leaves all pools gets this node's address (or NATOutgoingAddress), from NATPortRange where one is set.
    Raises: ConfigError.
    """
    check_settings(settings)
    rules: list[Rule] = []
    if active:
        address = settings.nat_outgoing_address
        address = address if address and is_family(address, family) else ""
        ports = settings.nat_port_range.replace(":", "-")
        if ports:
            for protocol in (_TCP, _UDP):
                rules.append(_outgoing(_source_nat(address, ports), settings, protocol))
                rules.append(_outgoing(Return(), settings, protocol))
        rules.append(_outgoing(_source_nat(address, ""), settings, None))
    return {ChainKey(Layer.NAT, names.NAT_OUTGOING): tuple(rules)}


def _source_nat(address: str, ports: str) -> Op:
    if not address:
        return Masquerade(ports)
    if not ports:
        return Snat(address)
    return Snat(f"[{address}]:{ports}" if ":" in address else f"{address}:{ports}")


def _outgoing(op: Op, settings: FelixSettings, protocol: int | None) -> Rule:
    matches: list[Match] = [
        SetLookup(Side.SRC, names.MASQUERADE_POOLS_SET),
        SetLookup(Side.DST, names.all_pools_set(settings.layout), negate=True),
    ]
    if settings.nat_outgoing_exclusions == "IPPoolsAndHostIPs":
        matches.append(SetLookup(Side.DST, names.all_hosts_set(settings.layout), negate=True))
    if protocol is not None:
        matches.append(ProtocolIs(protocol))
    if settings.iptables_nat_outgoing_interface_filter:
        matches.append(InterfaceIs("out", settings.iptables_nat_outgoing_interface_filter))
    return Rule(tuple(matches), op, (), static("outgoing NAT"))


def compile_floating_ips(
    endpoints: Iterable[WorkloadEndpointUpdate], settings: FelixSettings, family: Family
) -> Chains:
    """Return cali-fip-dnat and cali-fip-snat.

    Packets to a floating address go to the endpoint that has it; of several endpoints the first by key. An endpoint
    that calls its own floating address appears to itself under that address. v2 has them always, v3 by FloatingIPs.
    """
    to_internal: dict[str, str] = {}
    if settings.layout is Layout.V2 or settings.floating_ips == "Enabled":
        for endpoint in sorted(endpoints, key=lambda update: update.endpoint):
            for nat in endpoint.ip_nats:
                internal, external = _address(nat.internal_ip), _address(nat.external_ip)
                if _are_addresses((internal, external), family):
                    to_internal.setdefault(external, internal)
    to_external: dict[str, str] = {}
    for external, internal in sorted(to_internal.items()):
        to_external.setdefault(internal, external)
    origin = static("floating IP")
    return {
        ChainKey(Layer.NAT, names.FIP_DNAT): tuple(
            Rule((NetIn(Side.DST, external),), Dnat(internal), (), origin)
            for external, internal in sorted(to_internal.items())
        ),
        ChainKey(Layer.NAT, names.FIP_SNAT): tuple(
            Rule((NetIn(Side.DST, internal), NetIn(Side.SRC, internal)), Snat(external), (), origin)
            for internal, external in sorted(to_external.items())
        ),
    }


def _are_addresses(texts: Iterable[str], family: Family) -> bool:
    return all(is_address(text) and is_family(text, family) for text in texts)


def _address(text: str) -> str:
    return text.split("/")[0]


def compile_cidr_block(cidrs: Iterable[str], settings: FelixSettings, family: Family) -> Chains:
    """Return cali-cidr-block: service CIDRs that must not loop back out of this node. v2 has no such chain."""
    if settings.layout is Layout.V2:
        return {}
    actions: dict[str, Op] = {"drop": Drop(), "reject": Reject()}
    op = actions.get(settings.service_loop_prevention.lower())
    blocked = sorted(cidr for cidr in cidrs if is_family(cidr, family)) if op else []
    rules = [Rule((NetIn(Side.DST, cidr),), op, (), static("service loop")) for cidr in blocked if op]
    return {ChainKey(Layer.FILTER, names.CIDR_BLOCK): tuple(rules)}
