"""Hypothesis strategies for valid resources of every kind."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network

from hypothesis import strategies as st

from calico_engine.model import (
    API_VERSION,
    KINDS,
    Action,
    EntityRule,
    ICMPFields,
    Metadata,
    Port,
    Protocol,
    Resource,
    Rule,
)
from calico_engine.model.bgp import BGPConfigurationSpec, BGPFilterRule, BGPFilterSpec, BGPPeerSpec
from calico_engine.model.endpoint import EndpointPort, HostEndpointSpec, WorkloadEndpointSpec
from calico_engine.model.node import (
    EncapMode,
    IPAMBlockSpec,
    IPPoolSpec,
    IPReservationSpec,
    NodeBGPSpec,
    NodeSpec,
)
from calico_engine.model.policy import (
    GlobalNetworkPolicySpec,
    NetworkPolicySpec,
    NetworkSetSpec,
    PolicyType,
    ProfileSpec,
    TierSpec,
)

NAMES = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,18}[a-z0-9])?", fullmatch=True)
LABEL_KEYS = st.from_regex(
    r"([a-z]{1,8}\.example/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,12}[A-Za-z0-9])?", fullmatch=True
)
LABEL_VALUES = st.from_regex(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,12}[A-Za-z0-9])?)?", fullmatch=True)
# What YAML readers are known to take for something else than text.
TRAPS = st.sampled_from(
    ["on", "off", "yes", "no", "n", "y", "true", "null", "012", "1e3", "0x1f", "1_000", "1.10", "08", "0o7"]
)
LABELS = st.dictionaries(LABEL_KEYS | TRAPS, LABEL_VALUES | TRAPS, max_size=4)
TEXT = st.text(
    st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Z"), include_characters="\n\u00a0#:'\""),
    max_size=40,
)
ANNOTATIONS = st.dictionaries(LABEL_KEYS, TEXT | TRAPS, max_size=2)

IPV4 = st.ip_addresses(v=4).map(str)
IPV6 = st.ip_addresses(v=6).map(str)
SELECTORS = st.sampled_from(
    ["", "all()", "app == 'web'", "has(role) && !(tier in {'a', 'b'})", 'x starts with "on"']
)
ORDERS = st.none() | st.floats(-1e6, 1e6, allow_nan=False) | st.integers(-5, 5).map(float)


@st.composite
def networks(draw: st.DrawFn, version: int) -> str:
    bits = 32 if version == 4 else 128
    length = draw(st.integers(1, bits))
    number = draw(st.integers(0, 2**bits - 1)) >> (bits - length) << (bits - length)
    return str(IPv4Network((number, length)) if version == 4 else IPv6Network((number, length)))


NETWORKS = st.sampled_from((4, 6)).flatmap(networks)
PORTS: st.SearchStrategy[Port] = (
    st.integers(1, 65535)
    | st.tuples(st.integers(1, 65535), st.integers(1, 65535))
    .map(sorted)
    .map(lambda p: f"{p[0]}:{p[1]}")
    .filter(lambda text: len(set(text.split(":"))) == 2)
    | st.from_regex(r"[a-z][a-z0-9]{0,9}", fullmatch=True)
)


@st.composite
def entities(draw: st.DrawFn, version: int, *, with_ports: bool) -> EntityRule:
    return EntityRule(
        nets=tuple(draw(st.lists(networks(version), max_size=2))),
        not_nets=tuple(draw(st.lists(networks(version), max_size=2))),
        selector=draw(SELECTORS),
        not_selector=draw(SELECTORS),
        namespace_selector=draw(SELECTORS | st.just("global()")),
        ports=tuple(draw(st.lists(PORTS, max_size=3))) if with_ports else (),
        not_ports=tuple(draw(st.lists(PORTS, max_size=2))) if with_ports else (),
    )


@st.composite
def rules(draw: st.DrawFn) -> Rule:
    version = draw(st.sampled_from((4, 6)))
    icmp = "ICMP" if version == 4 else "ICMPv6"
    protocol: Protocol | None = draw(st.sampled_from((None, "TCP", "UDP", "SCTP", icmp, 47, "UDPLite")))
    fields = None
    if protocol == icmp:
        fields = draw(
            st.none() | st.builds(ICMPFields, type=st.integers(0, 254), code=st.none() | st.integers(0, 255))
        )
    with_ports = protocol in ("TCP", "UDP", "SCTP")
    return Rule(
        action=draw(st.sampled_from(Action)),
        ip_version=draw(st.sampled_from((None, version))),
        protocol=protocol,
        icmp=fields,
        source=draw(entities(version, with_ports=with_ports)),
        destination=draw(entities(version, with_ports=with_ports)),
    )


RULES = st.lists(rules(), max_size=3).map(tuple)
TYPES = st.lists(st.sampled_from(PolicyType), unique=True).map(tuple)

POLICY_SPECS = st.builds(
    NetworkPolicySpec, order=ORDERS, ingress=RULES, egress=RULES, selector=SELECTORS, types=TYPES, tier=NAMES
)
GLOBAL_POLICY_SPECS = st.builds(
    GlobalNetworkPolicySpec,
    order=ORDERS,
    ingress=RULES,
    egress=RULES,
    selector=SELECTORS,
    types=TYPES,
    namespace_selector=SELECTORS,
    apply_on_forward=st.booleans(),
)
ENDPOINT_PORTS = st.lists(
    st.builds(
        EndpointPort,
        name=st.from_regex(r"[a-z][a-z0-9]{0,9}", fullmatch=True),
        protocol=st.sampled_from(("TCP", "UDP", "SCTP", 6)),
        port=st.integers(1, 65535),
    ),
    max_size=2,
).map(tuple)
INTERFACES = st.from_regex(r"[a-zA-Z0-9_-][a-zA-Z0-9_.-]{0,14}", fullmatch=True)
MACS = st.just("") | st.integers(0, 2**48 - 1).map(
    lambda number: ":".join(f"{number:012x}"[i : i + 2] for i in range(0, 12, 2))
)
WORKLOAD_SPECS = st.builds(
    WorkloadEndpointSpec,
    orchestrator=NAMES,
    workload=NAMES,
    node=NAMES,
    endpoint=NAMES,
    ip_networks=st.lists(IPV4.map(lambda ip: ip + "/32") | IPV6.map(lambda ip: ip + "/128"), max_size=3).map(
        tuple
    ),
    profiles=st.lists(NAMES, max_size=2).map(tuple),
    interface_name=INTERFACES,
    mac=MACS,
    ports=ENDPOINT_PORTS,
    allow_spoofed_source_prefixes=st.lists(NETWORKS, max_size=2).map(tuple),
)
HOST_SPECS = st.builds(
    HostEndpointSpec,
    node=NAMES,
    interface_name=INTERFACES | st.just("*"),
    expected_ips=st.lists(IPV4 | IPV6, max_size=2).map(tuple),
    profiles=st.lists(NAMES, max_size=2).map(tuple),
    ports=ENDPOINT_PORTS,
)
POOL_SPECS = st.sampled_from(("10.0.0.0/16", "192.168.0.0/24", "fd00::/64")).flatmap(
    lambda cidr: st.builds(
        IPPoolSpec,
        cidr=st.just(cidr),
        nat_outgoing=st.booleans(),
        disabled=st.booleans(),
        vxlan_mode=st.sampled_from(EncapMode),
        node_selector=SELECTORS,
    )
)
AS_NUMBERS = st.none() | st.integers(1, 2**32 - 1) | st.sampled_from(("64512", "1.10"))
NODE_SPECS = st.builds(
    NodeSpec,
    bgp=st.none()
    | st.builds(
        NodeBGPSpec,
        as_number=AS_NUMBERS,
        ipv4_address=IPV4.map(lambda ip: ip + "/24"),
        ipv6_address=st.just(""),
    ),
    orch_refs=st.just(()),
)
SPECS: dict[str, st.SearchStrategy[object]] = {
    "NetworkPolicy": POLICY_SPECS,
    "GlobalNetworkPolicy": GLOBAL_POLICY_SPECS,
    "Profile": st.builds(ProfileSpec, ingress=RULES, egress=RULES, labels_to_apply=LABELS),
    "Tier": st.builds(TierSpec, order=ORDERS, default_action=st.sampled_from((Action.DENY, Action.PASS))),
    "NetworkSet": st.builds(NetworkSetSpec, nets=st.lists(NETWORKS, max_size=4).map(tuple)),
    "GlobalNetworkSet": st.builds(NetworkSetSpec, nets=st.lists(NETWORKS, max_size=4).map(tuple)),
    "WorkloadEndpoint": WORKLOAD_SPECS,
    "HostEndpoint": HOST_SPECS,
    "IPPool": POOL_SPECS,
    "IPReservation": st.builds(IPReservationSpec, reserved_cidrs=st.lists(NETWORKS, max_size=3).map(tuple)),
    "Node": NODE_SPECS,
    "IPAMBlock": st.builds(
        IPAMBlockSpec, cidr=st.just("10.0.0.0/30"), allocations=st.just((None, None, None, None))
    ),
    "BGPPeer": st.builds(BGPPeerSpec, node=NAMES, peer_ip=IPV4 | IPV6, as_number=AS_NUMBERS),
    "BGPConfiguration": st.builds(
        BGPConfigurationSpec, as_number=AS_NUMBERS, node_to_node_mesh_enabled=st.none() | st.booleans()
    ),
    "BGPFilter": st.builds(
        BGPFilterSpec,
        import_v4=st.lists(st.builds(BGPFilterRule, interface=INTERFACES), max_size=2).map(tuple),
    ),
    "FelixConfiguration": st.dictionaries(
        st.from_regex(r"[a-z][A-Za-z0-9]{0,20}", fullmatch=True),
        TRAPS | st.booleans() | st.integers(-(2**53), 2**53) | st.lists(TRAPS, max_size=2),
        max_size=4,
    ),
}


@st.composite
def resources(draw: st.DrawFn) -> Resource:
    """Draw a valid resource in canonical form."""
    kind = draw(st.sampled_from(sorted(SPECS)))
    cls = KINDS[kind]
    metadata = Metadata(
        name=draw(NAMES.filter(lambda name: name not in ("default", "kube-admin", "kube-baseline"))),
        namespace=draw(NAMES) if cls.NAMESPACED else "",
        labels=draw(LABELS),
        annotations=draw(ANNOTATIONS),
        resource_version=draw(TRAPS | st.just("")),
    )
    return cls(api_version=API_VERSION, kind=kind, metadata=metadata, spec=draw(SPECS[kind]))  # type: ignore[call-arg]  # every kind here has a spec


__all__ = ["NAMES", "NETWORKS", "PORTS", "resources"]
