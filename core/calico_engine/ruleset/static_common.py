"""Static chains that both layouts have: failsafes, nat, workload to host, tunnels.

Pure. Source: felix/rules/static.go.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from calico_engine.messages import PortRange
from calico_engine.model.policy import PROTOCOL_NUMBERS
from calico_engine.ruleset import names
from calico_engine.ruleset.actions import Chains, deny, deny_word, endpoint_to_host, filter_allow, static
from calico_engine.ruleset.addresses import is_family
from calico_engine.ruleset.ir import (
    Accept,
    AddrTypeIs,
    ChainKey,
    Dnat,
    Family,
    Hook,
    IcmpIs,
    InterfaceIs,
    Jump,
    Layer,
    Masquerade,
    Match,
    NetIn,
    Op,
    PortIn,
    ProtocolIs,
    Rule,
    SetLookup,
    Side,
)
from calico_engine.settings import FelixSettings, HostPort, Layout

ICMPV6 = 58
IPIP = 4
TCP = 6
UDP = 17

IPIP_INTERFACE = "tunl0"
VXLAN_INTERFACES = {Family.V4: "vxlan.calico", Family.V6: "vxlan-v6.calico"}

#: What an endpoint must be able to send to its router whatever its policy: multicast listener messages (130-132),
#: router solicitation (133), neighbour solicitation and advertisement (135, 136).
_NEIGHBOUR_DISCOVERY = (130, 131, 132, 133, 135, 136)
_DHCP = {Family.V4: (68, 67), Family.V6: (546, 547)}
_METADATA_ADDRESS = "169.254.169.254/32"

HookRules = dict[tuple[Layer, Hook], tuple[Rule, ...]]


class Tunnels(msgspec.Struct, frozen=True, gc=False):
    """Which encapsulations this node uses in this family."""

    ipip: bool = False
    vxlan: bool = False


class StaticRules(msgspec.Struct, frozen=True):
    """`hooks` are inserted into the kernel's chains, `appends` appended to them."""

    chains: Chains
    hooks: HookRules
    appends: HookRules


def rule(op: Op, *matches: Match, comment: str = "") -> Rule:
    """Return a rule that no policy asked for."""
    return Rule(matches, op, (comment,) if comment else (), static("static"))


def port(side: Side, number: int) -> PortIn:
    return PortIn(side, (PortRange(number, number),))


def from_workload(settings: FelixSettings) -> list[InterfaceIs]:
    return [InterfaceIs("in", f"{prefix}+") for prefix in settings.interface_prefix]


def to_workload(settings: FelixSettings) -> list[InterfaceIs]:
    return [InterfaceIs("out", f"{prefix}+") for prefix in settings.interface_prefix]


def openstack(settings: FelixSettings) -> bool:
    """Tell whether workloads are OpenStack's: their DHCP, DNS and metadata are let through to the host."""
    return settings.openstack_metadata or "tap" in settings.interface_prefix


def metadata_address(settings: FelixSettings) -> str:
    address = settings.metadata_addr
    return "" if not openstack(settings) or address.lower() == "none" else address


def failsafe_chains(layer: Layer, settings: FelixSettings, family: Family) -> Chains:
    """Return the ports that no host policy can close. In raw the answers too: half a connection must not go
    untracked."""
    inbound = settings.failsafe_inbound_host_ports
    outbound = settings.failsafe_outbound_host_ports
    into = _failsafes(inbound, Side.DST, Side.SRC, family)
    out = _failsafes(outbound, Side.DST, Side.DST, family)
    if layer is Layer.RAW:
        into += _failsafes(outbound, Side.SRC, Side.SRC, family)
        out += _failsafes(inbound, Side.SRC, Side.DST, family)
    return {
        ChainKey(layer, names.FAILSAFE_IN): tuple(into),
        ChainKey(layer, names.FAILSAFE_OUT): tuple(out),
    }


def _failsafes(ports: Sequence[HostPort], port_side: Side, peer_side: Side, family: Family) -> list[Rule]:
    """Return an accept per port; `port_side` is where the port stands, `peer_side` where the other machine does."""
    rules = []
    for entry in ports:
        number = PROTOCOL_NUMBERS.get(entry.protocol.lower())
        if number is None or (entry.net and not is_family(entry.net, family)):
            continue
        matches: list[Match] = [ProtocolIs(number), port(port_side, entry.port)]
        if entry.net:
            matches.append(NetIn(peer_side, entry.net))
        rules.append(rule(Accept(), *matches))
    return rules


def workload_to_host(settings: FelixSettings, family: Family) -> Chains:
    """Return what becomes of packets from workloads to this host: egress policy, then the configured action."""
    allow = filter_allow(settings)
    rules = []
    if family is Family.V6:
        rules += [rule(allow, ProtocolIs(ICMPV6), IcmpIs(icmp)) for icmp in _NEIGHBOUR_DISCOVERY]
    if openstack(settings):
        address = metadata_address(settings)
        if address and is_family(address, family):
            metadata = port(Side.DST, settings.metadata_port)
            rules.append(rule(allow, ProtocolIs(TCP), NetIn(Side.DST, address), metadata))
        client, server = _DHCP[family]
        rules.append(rule(allow, ProtocolIs(UDP), port(Side.SRC, client), port(Side.DST, server)))
        rules.append(rule(allow, ProtocolIs(UDP), port(Side.DST, 53)))
    rules.append(rule(Jump(names.FROM_WORKLOAD_DISPATCH)))
    rules.append(rule(endpoint_to_host(settings), comment="Configured DefaultEndpointToHostAction"))
    return {ChainKey(Layer.FILTER, names.WORKLOAD_TO_HOST): tuple(rules)}


def tunnel_input(settings: FelixSettings, family: Family, tunnels: Tunnels) -> list[Rule]:
    """Return rules that take tunnelled packets from nodes of the cluster alone."""
    allow, block = filter_allow(settings), deny(settings, Layer.FILTER)
    word = deny_word(settings, Layer.FILTER)
    local = AddrTypeIs(Side.DST, "LOCAL")
    rules = []
    if tunnels.ipip:
        hosts = SetLookup(Side.SRC, names.all_hosts_set(settings.layout))
        rules += [
            rule(allow, ProtocolIs(IPIP), hosts, local, comment="Allow IPIP packets from Calico hosts"),
            rule(block, ProtocolIs(IPIP), comment=f"{word} IPIP packets from non-Calico hosts"),
        ]
    if tunnels.vxlan:
        vxlan = (ProtocolIs(UDP), port(Side.DST, settings.vxlan_port))
        peers = SetLookup(Side.SRC, names.ALL_VXLAN_SET)
        title = f"IPv{family} VXLAN packets"
        rules += [
            rule(allow, *vxlan, peers, local, comment=f"Allow {title} from allowed hosts"),
            rule(block, *vxlan, local, comment=f"{word} {title} from non-allowed hosts"),
        ]
    return rules


def tunnel_output(settings: FelixSettings, family: Family, tunnels: Tunnels) -> list[Rule]:
    """Return rules that let this node's own tunnels out whatever host policy says."""
    allow = filter_allow(settings)
    local = AddrTypeIs(Side.SRC, "LOCAL")
    rules = []
    if tunnels.ipip:
        hosts = SetLookup(Side.DST, names.all_hosts_set(settings.layout))
        rules.append(
            rule(allow, ProtocolIs(IPIP), hosts, local, comment="Allow IPIP packets to other Calico hosts")
        )
    if tunnels.vxlan:
        peers = SetLookup(Side.DST, names.ALL_VXLAN_SET)
        comment = f"Allow IPv{family} VXLAN packets to other allowed hosts"
        rules.append(
            rule(allow, ProtocolIs(UDP), port(Side.DST, settings.vxlan_port), local, peers, comment=comment)
        )
    return rules


def nat_chains(settings: FelixSettings, family: Family, tunnels: Tunnels) -> Chains:
    """Return nat's static chains; the chains they jump to are compile_nat's."""
    floating = rule(Jump(names.FIP_DNAT))
    postrouting = [rule(Jump(names.FIP_SNAT)), rule(Jump(names.NAT_OUTGOING))]
    postrouting += tunnel_masquerade(settings, family, tunnels)
    return {
        ChainKey(Layer.NAT, names.PREROUTING): (floating, *metadata_dnat(settings, family)),
        ChainKey(Layer.NAT, names.POSTROUTING): tuple(postrouting),
        ChainKey(Layer.NAT, names.OUTPUT): (floating,),
    }


def metadata_dnat(settings: FelixSettings, family: Family) -> list[Rule]:
    """Return the rule that sends OpenStack's workloads to their metadata server, where there is one."""
    address = metadata_address(settings)
    if not address or not is_family(address, family):
        return []
    matches = (ProtocolIs(TCP), port(Side.DST, 80), NetIn(Side.DST, _METADATA_ADDRESS))
    return [rule(Dnat(f"{address}:{settings.metadata_port}"), *matches)]


def tunnel_masquerade(settings: FelixSettings, family: Family, tunnels: Tunnels) -> list[Rule]:
    """Give packets that this host sends down a tunnel from another of its addresses the tunnel's own."""
    interfaces = [IPIP_INTERFACE] if tunnels.ipip else []
    interfaces += [VXLAN_INTERFACES[family]] if tunnels.vxlan else []
    rules = []
    for name in interfaces:
        matches = (
            InterfaceIs("out", name),
            AddrTypeIs(Side.SRC, "LOCAL", limit_iface_out=True, negate=True),
            AddrTypeIs(Side.SRC, "LOCAL"),
        )
        if tunnels.vxlan and settings.layout is not Layout.V2:
            # An answer to a masqueraded port that is VXLAN's own would be taken for a tunnelled packet.
            ports = port_range_without(settings.vxlan_port)
            rules.append(rule(Masquerade(ports), ProtocolIs(UDP), *matches))
        rules.append(rule(Masquerade(), *matches))
    return rules


def port_range_without(number: int) -> str:
    """Return the wider of the two ranges of unprivileged ports beside this one, as "low-high"."""
    low, high = 1024, 65535
    return f"{low}-{number - 1}" if number - low >= high - number else f"{number + 1}-{high}"


def jump_hook(layer: Layer, hook: Hook) -> HookRules:
    """Return the one rule in a chain of the kernel's that leads into our chain of the same name."""
    return {(layer, hook): (rule(Jump(f"cali-{hook}")),)}
