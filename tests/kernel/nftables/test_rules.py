"""Every match and operation, as the nft program reads it, and as packets find it."""

import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_network

import pytest
from tests.kernel.nftables.conftest import TABLE, Kernel

from calico_engine.evaluation import Flow
from calico_engine.messages import PortRange, SetKind
from calico_engine.ruleset.interpret import Interpreter, Packet, Path
from calico_engine.ruleset.ir import (
    Accept,
    AddrTypeIs,
    ChainKey,
    Classify,
    Continue,
    CtState,
    CtStateIn,
    CtStatusDnat,
    DispatchByInterface,
    Dnat,
    Drop,
    Family,
    Goto,
    Hook,
    IcmpIs,
    Identities,
    InterfaceAssigned,
    InterfaceIs,
    Jump,
    Layer,
    Level,
    Log,
    MarkIs,
    Masquerade,
    Match,
    NetIn,
    NetInAny,
    Nflog,
    NoTrack,
    Op,
    PortIn,
    PortOrNamedPort,
    ProtocolIs,
    Reject,
    Return,
    RpfFailed,
    Rule,
    Ruleset,
    SetData,
    SetLookup,
    SetMark,
    Side,
    Snat,
    SourceAssigned,
)
from calico_engine.tables import set_content as content
from calico_engine.tables.backend import CATCH_ALL, Element
from calico_engine.tables.single_table import (
    HOSTS_MAP,
    INTERFACES_SET,
    NETS_MAP,
    SOURCES_SET,
    level_map,
    members_set,
)
from calico_engine.testing.packets import build_packet

pytestmark = pytest.mark.kernel(tools=("nft",), features=("nftables",))

TCP, UDP, SCTP = ProtocolIs(6), ProtocolIs(17), ProtocolIs(132)
NETS = {
    Family.V4: ("10.0.0.0/8", "10.1.0.0/16", "192.0.2.1/32"),
    Family.V6: ("fd00::/8", "fd01::/16", "fe80::1/128"),
}
IDENTITY = "meta mark set {ip} {side} map @cali-hosts meta mark set {ip} {side} map @cali-nets meta mark set meta mark"

# What nft 1.0.6 prints, a line a rule; {ip}, {icmp} and {a}, {b}, {c} (NETS) are the family's.
SPELLED: list[tuple[tuple[Match, ...], list[str]]] = [
    ((TCP,), ["meta l4proto tcp"]),
    ((ProtocolIs(17, True),), ["meta l4proto != udp"]),
    ((NetIn(Side.SRC, "{a}"),), ["{ip} saddr {a}"]),
    ((NetIn(Side.DST, "{c}", True),), ["{ip} daddr != {c}"]),
    ((NetIn(Side.DST, "{a}", True),), ["{ip} daddr != {a}"]),
    ((NetIn(Side.DST, "{a}"), NetIn(Side.DST, "{b}", True)), ["{ip} daddr {a} {ip} daddr != {b}"]),
    ((NetInAny(Side.SRC, ("{a}", "{b}", "{c}")),), ["{ip} saddr {a}", "{ip} saddr {c}"]),
    ((NetInAny(Side.SRC, ("{b}", "{c}"), True),), ["{ip} saddr != {b} {ip} saddr != {c}"]),
    ((TCP, PortIn(Side.DST, (PortRange(80, 80),))), ["tcp dport 80"]),
    ((UDP, PortIn(Side.SRC, (PortRange(80, 90),))), ["udp sport 80-90"]),
    ((SCTP, PortIn(Side.DST, (PortRange(80, 90),), True)), ["sctp dport != 80-90"]),
    ((TCP, PortIn(Side.DST, (PortRange(9, 9), PortRange(80, 81), PortRange(81, 90)))),
     ["tcp dport 9", "tcp dport 80-90"]),
    ((TCP, PortIn(Side.DST, (PortRange(9, 9), PortRange(80, 90)), True)), ["tcp dport != 9 tcp dport != 80-90"]),
    ((SetLookup(Side.SRC, "s:a"),), [IDENTITY.replace("{side}", "saddr") + " meta mark . meta mark @cali-s-s/a"]),
    ((SetLookup(Side.DST, "s:a", negate=True),),
     [IDENTITY.replace("{side}", "daddr") + " meta mark . meta mark != @cali-s-s/a"]),
    ((SetLookup(Side.DST, "n:p", SetKind.IP_PORT),), ["{ip} daddr . meta l4proto . th dport @cali-s-n/p"]),
    ((SetLookup(Side.SRC, "n:p", SetKind.IP_PORT, True),), [
        "{ip} saddr . meta l4proto . th sport != @cali-s-n/p",
        "meta l4proto != tcp meta l4proto != udp meta l4proto != dccp meta l4proto != sctp meta l4proto != udplite",
    ]),
    ((TCP, PortOrNamedPort(Side.DST, (PortRange(1, 2),), ("n:p",))), [
        "tcp dport 1-2", "{ip} daddr . meta l4proto . tcp dport @cali-s-n/p",
    ]),
    ((SourceAssigned(),), ["iifname . {ip} saddr @cali-sources"]),
    ((InterfaceAssigned("in"),), ["iifname @cali-interfaces"]),
    ((InterfaceAssigned("out", negate=True),), ["oifname != @cali-interfaces"]),
    ((InterfaceIs("in", "cali+"),), ['iifname "cali*"']),
    ((InterfaceIs("out", "eth0", True),), ['oifname != "eth0"']),
    ((InterfaceIs("in", "cali+", True),), ['iifname != "cali*"']),
    ((InterfaceIs("in", "+"),), [""]),
    ((CtStateIn((CtState.ESTABLISHED, CtState.RELATED)),), ["ct state established,related"]),
    ((CtStateIn((CtState.INVALID,), True),), ["ct state ! invalid"]),
    ((CtStatusDnat(),), ["ct status dnat"]),
    ((CtStatusDnat(True),), ["ct status ! dnat", "ct state invalid,untracked"]),
    ((MarkIs(0x10000, 0x30000),), ["meta mark & 0x00030000 == 0x00010000"]),
    ((MarkIs(0, 0x30000, True),), ["meta mark & 0x00030000 != 0x00000000"]),
    ((MarkIs(1, 0xFFFFFFFF),), ["meta mark 0x00000001"]),
    ((IcmpIs(3),), ["{icmp} type {unreachable}"]),
    ((IcmpIs(3, 1),), ["{icmp} type {unreachable} {icmp} code {one}"]),
    ((IcmpIs(3, None, True),), ["{icmp} type != {unreachable}"]),
    ((IcmpIs(3, 1, True),), ["{icmp} type != {unreachable}", "{icmp} type {unreachable} {icmp} code != {one}"]),
    ((AddrTypeIs(Side.DST, "LOCAL"),), ["fib daddr type local"]),
    ((AddrTypeIs(Side.SRC, "UNICAST", negate=True),), ["fib saddr type != unicast"]),
    ((AddrTypeIs(Side.SRC, "LOCAL", True),), ["fib saddr . oif type local"]),
    ((RpfFailed(),), ["fib saddr . mark . iif oif missing"]),
    ((RpfFailed(True),), ["fib saddr type != local fib saddr . mark . iif oif missing"]),
]  # fmt: skip

OPERATIONS: list[tuple[Op, list[str]]] = [
    (Accept(), ["accept"]),
    (Drop(), ["drop"]),
    (Return(), ["return"]),
    (Jump("cali-t"), ["jump cali-t"]),
    (Goto("cali-t"), ["goto cali-t"]),
    (Reject(), ["reject"]),
    (Reject("tcp-reset"), ["reject with tcp reset"]),
    (SetMark(0x10000, 0x10000), ["meta mark set meta mark | 0x00010000"]),
    (SetMark(0, 0x30000), ["meta mark set meta mark & 0xfffcffff"]),
    (SetMark(5, 0xFFFFFFFF), ["meta mark set 0x00000005"]),
    (Log("calico-packet"), ['log prefix "calico-packet: " level notice']),
    (Log("x", 6), ['log prefix "x: " level info']),
    (Nflog(2, "A|x"), ['log prefix "A_x" group 2 snaplen 80']),
    (Continue(), [""]),
    (DispatchByInterface("in", ()), ["iifname vmap @cali-x"]),
    (DispatchByInterface("out", ()), ["oifname vmap @cali-x"]),
    (Classify("T", Side.SRC, "", tuple(Level)), [
        *(IDENTITY.replace("{side}", "saddr") + f" meta mark . meta mark{rest} vmap @T-{level}" for rest, level in (
            (" . meta l4proto . th dport", "ports"), (" . meta l4proto", "protocols"), ("", "identities"),
        )),
        "meta l4proto . th dport vmap @T-world-ports",
        "meta l4proto vmap @T-world",
    ]),
]  # fmt: skip

REJECTIONS = {
    Family.V4: [("icmp-net-unreachable", "net-unreachable"), ("icmp-host-prohibited", "host-prohibited"),
                ("icmp-admin-prohibited", "admin-prohibited")],
    Family.V6: [("icmp6-no-route", "no-route"), ("icmp6-adm-prohibited", "admin-prohibited"),
                ("icmp6-addr-unreachable", "addr-unreachable")],
}  # fmt: skip
TARGETS = {Family.V4: ("192.0.2.9", "192.0.2.9"), Family.V6: ("2001:db8::9", "[2001:db8::9]")}


def fill_in(text: str, family: Family) -> str:
    a, b, c = NETS[family]
    v4 = family is Family.V4
    return (
        text.replace("{ip}", "ip" if v4 else "ip6")
        .replace("{icmp}", "icmp" if v4 else "icmpv6")
        .replace("{unreachable}", "destination-unreachable" if v4 else "time-exceeded")
        .replace("{one}", "host-unreachable" if v4 else "admin-prohibited")
        .replace("{a}", a)
        .replace("{b}", b)
        .replace("{c}", c)
    )


def of_family(match: Match, family: Family) -> Match:
    """Return a match with the family's networks in it."""
    match match:
        case NetIn(side=side, cidr=cidr, negate=negate):
            return NetIn(side, fill_in(cidr, family), negate)
        case NetInAny(side=side, cidrs=cidrs, negate=negate):
            return NetInAny(side, tuple(fill_in(cidr, family) for cidr in cidrs), negate)
        case _:
            return match


def expected(texts: list[str], family: Family) -> list[str]:
    """Return the lines; a whole address is printed without its prefix length."""
    whole = "/32" if family is Family.V4 else "/128"
    return [fill_in(text, family).replace(whole, "") for text in texts]


def add_sets(kernel: Kernel) -> None:
    """Make every set that the rules of this module look into, empty."""
    kernel.add_set(HOSTS_MAP, content.HOSTS)
    kernel.add_set(NETS_MAP, content.NETS)
    kernel.add_set(members_set("s:a"), content.PAIRS)
    kernel.add_set(members_set("n:p"), content.IP_PORTS)
    kernel.add_set(SOURCES_SET, content.SOURCES)
    kernel.add_set(INTERFACES_SET, content.INTERFACES)
    kernel.add_set("cali-x", content.DISPATCH)
    for level in Level:
        kernel.add_set(level_map("T", level), content.LEVELS[level])


def test_nft_reads_every_match_as_it_is_meant(kernel: Kernel) -> None:
    add_sets(kernel)
    kernel.add_chain("cali-x")
    rules = [
        Rule(tuple(of_family(match, kernel.family) for match in matches), Continue())
        for matches, _ in SPELLED
    ]

    kernel.add_rules(ChainKey(Layer.FILTER, "cali-x"), rules)

    listed = kernel.listed_rules("cali-x")
    for number, (matches, texts) in enumerate(SPELLED):
        found = [
            line.removeprefix("meta l4proto icmp ").removeprefix("meta l4proto ipv6-icmp ")
            for line in listed[number]
        ]
        assert found == expected(texts, kernel.family), matches


def test_a_match_that_no_packet_has_makes_no_rule(kernel: Kernel) -> None:
    everywhere = "0.0.0.0/0" if kernel.family is Family.V4 else "::/0"
    other_family = "::/8" if kernel.family is Family.V4 else "10.0.0.0/8"
    nothing: list[Match] = [
        InterfaceIs("in", "+", True),
        NetIn(Side.SRC, everywhere, True),
        NetIn(Side.SRC, other_family),
    ]
    kernel.add_chain("cali-x")

    kernel.add_rules(ChainKey(Layer.FILTER, "cali-x"), [Rule((match,), Accept()) for match in nothing])

    assert kernel.listed_rules("cali-x") == {}


def test_nft_reads_every_operation_as_it_is_meant(kernel: Kernel) -> None:
    add_sets(kernel)
    kernel.add_chain("cali-x", "cali-t")
    operations: list[tuple[Op, list[str]]] = [
        *OPERATIONS,
        *(
            (Reject(name), [f"reject with {'icmp' if kernel.family is Family.V4 else 'icmpv6'} {word}"])
            for name, word in REJECTIONS[kernel.family]
        ),
    ]

    kernel.add_rules(ChainKey(Layer.FILTER, "cali-x"), [Rule((), op) for op, _ in operations])

    listed = kernel.listed_rules("cali-x")
    assert [listed[i] for i in range(len(operations))] == [
        expected(texts, kernel.family) for _, texts in operations
    ]
    assert len(json.loads(kernel.nft("-j", "list", "ruleset"))["nftables"]) > len(operations)


def test_nft_reads_translations_as_they_are_meant(kernel: Kernel) -> None:
    bare, bracketed = TARGETS[kernel.family]
    raw = kernel.add_hook(Layer.RAW, Hook.PREROUTING)
    before = kernel.add_hook(Layer.NAT, Hook.PREROUTING)
    after = kernel.add_hook(Layer.NAT, Hook.POSTROUTING)

    kernel.add_rules(raw, [Rule((), NoTrack())])
    kernel.add_rules(before, [Rule((TCP,), Dnat(bare)), Rule((TCP,), Dnat(f"{bracketed}:80"))])
    translations: list[Op] = [Masquerade(), Masquerade("1024-2048"), Snat(bare), Snat(f"{bracketed}:5-6")]
    kernel.add_rules(after, [Rule((TCP,), op) for op in translations])

    assert kernel.listed_rules("raw-PREROUTING") == {0: ["notrack"]}
    assert [line for lines in kernel.listed_rules("nat-PREROUTING").values() for line in lines] == [
        f"meta l4proto tcp dnat to {bare}",
        f"meta l4proto tcp dnat to {bracketed}:80",
    ]
    assert [line for lines in kernel.listed_rules("nat-POSTROUTING").values() for line in lines] == [
        "meta l4proto tcp masquerade",
        "meta l4proto tcp masquerade to :1024-2048",
        f"meta l4proto tcp snat to {bare}",
        f"meta l4proto tcp snat to {bracketed}:5-6",
    ]


@pytest.mark.parametrize(
    ("hook", "layer", "said"),
    [
        (Hook.PREROUTING, Layer.RAW, "type filter hook prerouting priority raw; policy accept;"),
        (Hook.PREROUTING, Layer.MANGLE, "type filter hook prerouting priority mangle; policy accept;"),
        (Hook.OUTPUT, Layer.MANGLE, "type route hook output priority mangle; policy accept;"),
        (Hook.FORWARD, Layer.FILTER, "type filter hook forward priority filter; policy accept;"),
        (Hook.PREROUTING, Layer.NAT, "type nat hook prerouting priority dstnat; policy accept;"),
        (Hook.OUTPUT, Layer.NAT, "type nat hook output priority -100; policy accept;"),
        (Hook.POSTROUTING, Layer.NAT, "type nat hook postrouting priority srcnat; policy accept;"),
    ],
)
def test_base_chains_are_where_iptables_has_its_own(
    kernel: Kernel, hook: Hook, layer: Layer, said: str
) -> None:
    kernel.add_hook(layer, hook)

    assert said in kernel.nft("list", "ruleset")


#: In the mark of each packet that a test sends.
_OURS = 0x40000000
#: An ICMP error in both families.
_ERROR = 3


@dataclass(frozen=True)
class Addresses:
    """Of one family. `member` is in set s:a by itself, `in_net` by a network."""

    member: str
    in_net: str
    other: str
    net: str


ADDRESSES = {
    Family.V4: Addresses("10.0.0.1", "10.1.0.1", "10.2.0.1", "10.1.0.0/16"),
    Family.V6: Addresses("fd00::1", "fd01::1", "fd02::1", "fd01::/16"),
}


def flows(family: Family) -> list[tuple[Flow, int]]:
    """Return flows with packet marks: from and to each kind of address, by each kind of protocol."""
    known = ADDRESSES[family]
    icmp = 1 if family is Family.V4 else 58
    # No two of them are the two directions of one connection.
    places = [(known.member, known.other), (known.in_net, known.member), (known.other, known.in_net)]
    found = []
    for src, dst in places:
        for protocol, src_port, dst_port in ((6, 1000, 80), (17, 53, 85), (132, 9, 91), (47, 0, 0)):
            flow = Flow(src=src, dst=dst, protocol=protocol, src_port=src_port, dst_port=dst_port)
            found.append((flow, _OURS | 0x10000))
        for kind, code in ((_ERROR, 1), (_ERROR, 0), (8 if icmp == 1 else 128, 0)):
            found.append(
                (Flow(src=src, dst=dst, protocol=icmp, icmp_type=kind, icmp_code=code), _OURS | 0x20001)
            )
    return found


def matches_to_meet(family: Family) -> list[tuple[Match, ...]]:
    """Return every spelled match that the output of a host can meet, its networks the family's own."""
    left_out = (RpfFailed, SourceAssigned, InterfaceAssigned, DispatchByInterface)
    known = ADDRESSES[family]
    own: list[tuple[Match, ...]] = [
        tuple(of_family(match, family) for match in matches)
        for matches, _ in SPELLED
        if not any(isinstance(match, left_out) or _asks_for_input(match) for match in matches)
    ]
    return [
        *own,
        (NetIn(Side.DST, known.net),),
        (NetIn(Side.SRC, known.member + ("/32" if family is Family.V4 else "/128"), True),),
        (InterfaceIs("out", "lo"),),
        (InterfaceIs("out", "l+"),),
        (InterfaceIs("out", "lo", True),),
        (MarkIs(0x10000, 0x10000), TCP),
        (CtStateIn((CtState.NEW,)),),
        (AddrTypeIs(Side.DST, "UNICAST"),),
    ]


def _asks_for_input(match: Match) -> bool:
    return isinstance(match, InterfaceIs) and match.direction == "in"


def test_packets_find_each_match_as_the_interpreter_does(kernel: Kernel, sender: socket.socket) -> None:
    family, known = kernel.family, ADDRESSES[kernel.family]
    for address in (known.member, known.in_net, known.other):
        kernel.add_address(address)
    # The kernel sends packets of its own: those have no mark.
    rules = [Rule((MarkIs(_OURS, _OURS), *matches), Continue()) for matches in matches_to_meet(family)]
    first, last = net_range(known.net)
    identities = Identities(
        hosts={pack(known.member): 7}, nets={(first, last): 9}, members={"s:a": {(7, 0), (0, 9)}}
    )
    named = frozenset({f"{known.member},tcp:80", f"{known.other},tcp:1000", f"{known.member},udp:85"})
    add_sets(kernel)
    add_identities(kernel, identities)
    pairs = {number(host) + number(net): Element() for host, net in identities.members["s:a"]}
    kernel.add(members_set("s:a"), content.PAIRS, pairs)
    kernel.add(members_set("n:p"), content.IP_PORTS, {pack_member(member): Element() for member in named})
    # What answers would be counted, too.
    kernel.add_rules(kernel.add_hook(Layer.FILTER, Hook.INPUT), [Rule((), Drop())])
    kernel.add_rules(kernel.add_hook(Layer.FILTER, Hook.OUTPUT), rules)
    interpreter = Interpreter(
        Ruleset(
            family=family,
            hooks={(Layer.FILTER, Hook.OUTPUT): tuple(rules)},
            identities=identities,
            sets={
                "s:a": SetData("s:a", SetKind.NET, frozenset({known.member, known.net})),
                "n:p": SetData("n:p", SetKind.IP_PORT, named),
            },
        )
    )

    before = kernel.counters("filter-OUTPUT")
    for token, (flow, mark) in enumerate(flows(family), 1):
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
        sender.sendto(build_packet(flow, token), (str(flow.dst), 0))
        after = kernel.counters("filter-OUTPUT")

        met = {number for number in after if after[number] > before.get(number, 0)}
        outcome = interpreter.run(as_packet(flow, mark), Path.FROM_HOST)
        wanted = {step.index for step in outcome.trace}
        assert {rules[i].matches for i in met} == {rules[i].matches for i in wanted}, flow
        before = after


@pytest.fixture
def sender(kernel: Kernel) -> Iterator[socket.socket]:
    """A socket that sends whole IP packets."""
    kind = socket.AF_INET if kernel.family is Family.V4 else socket.AF_INET6
    opened = kernel.namespace.run(lambda: socket.socket(kind, socket.SOCK_RAW, socket.IPPROTO_RAW))
    with opened:
        yield opened


def as_packet(flow: Flow, mark: int) -> Packet:
    return Packet(
        src=str(flow.src),
        dst=str(flow.dst),
        protocol=int(flow.protocol),
        src_port=flow.src_port or 0,
        dst_port=flow.dst_port or 0,
        icmp_type=flow.icmp_type or 0,
        icmp_code=flow.icmp_code or 0,
        out_interface="lo",
        mark=mark,
        # An error about no packet that anybody sent.
        ct_state=CtState.INVALID if flow.icmp_type == _ERROR else CtState.NEW,
        src_local=True,
        dst_local=True,
    )


def pack(address: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


def number(value: int) -> bytes:
    return value.to_bytes(4, "big")


def pack_member(member: str) -> bytes:
    """Return "address,protocol:port" as a key."""
    address, _, service = member.partition(",")
    protocol, _, port = service.partition(":")
    return pack(address) + bytes(({"tcp": 6, "udp": 17}[protocol], 0, 0, 0)) + number(int(port) << 16)


def add_identities(kernel: Kernel, identities: Identities) -> None:
    hosts = {address: Element(number(value)) for address, value in identities.hosts.items()}
    nets = {first + last: Element(number(value)) for (first, last), value in identities.nets.items()}
    nobody = {CATCH_ALL: Element(number(0))}
    kernel.add(HOSTS_MAP, content.HOSTS, hosts | nobody)
    kernel.add(NETS_MAP, content.NETS, nets | nobody)


def net_range(cidr: str) -> tuple[bytes, bytes]:
    net = ip_network(cidr)
    return net.network_address.packed, net.broadcast_address.packed


def test_a_classified_packet_keeps_its_mark(kernel: Kernel, sender: socket.socket) -> None:
    """Identities travel through the mark within a rule, whether that finds an entry or not."""
    known = ADDRESSES[kernel.family]
    kernel.add_address(known.member)
    add_sets(kernel)
    empty = Identities(hosts={pack(known.member): 7}, nets={}, members={})
    add_identities(kernel, empty)
    kernel.add_rules(kernel.add_hook(Layer.FILTER, Hook.INPUT), [Rule((), Drop())])
    output = kernel.add_hook(Layer.FILTER, Hook.OUTPUT)
    levels = (Level.PORTS, Level.PROTOCOLS, Level.IDENTITIES)
    kept = Rule((MarkIs(0x1234, 0xFFFFFFFF),), Continue())
    kernel.add_rules(output, [kept, Rule((), Classify("T", Side.DST, "", levels)), kept])
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, 0x1234)
    flow = Flow(src=known.member, dst=known.member, protocol=6, src_port=1, dst_port=80)

    sender.sendto(build_packet(flow, 1), (known.member, 0))

    found = kernel.counters("filter-OUTPUT")
    # Others of the kernel's own have no mark.
    assert (found[0], found[2]) == (1, 1)
    assert found[1] >= len(levels)
    assert TABLE in kernel.nft("list", "tables")
