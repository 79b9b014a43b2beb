"""The table-level IR: chains, rules and sets as data, before any backend's words.

Pure. Closed unions: a match on `Match` or `Op` ends in assert_never, so that a new member makes the type checker
fail in every backend. A Ruleset is for one address family. Rules in a hook (`Ruleset.hooks`) are what we insert into
the kernel's own chains; everything else hangs in chains of our own.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from enum import StrEnum

import msgspec

from calico_engine.messages import PortRange, SetKind
from calico_engine.model.resource import ResourceKey


class Family(StrEnum):
    V4 = "4"
    V6 = "6"


class Layer(StrEnum):
    """The four tables of iptables; in nftables a prefix of the chain's name."""

    RAW = "raw"
    MANGLE = "mangle"
    NAT = "nat"
    FILTER = "filter"


class Hook(StrEnum):
    PREROUTING = "PREROUTING"
    INPUT = "INPUT"
    FORWARD = "FORWARD"
    OUTPUT = "OUTPUT"
    POSTROUTING = "POSTROUTING"


class Side(StrEnum):
    SRC = "src"
    DST = "dst"


class CtState(StrEnum):
    NEW = "NEW"
    ESTABLISHED = "ESTABLISHED"
    RELATED = "RELATED"
    INVALID = "INVALID"
    UNTRACKED = "UNTRACKED"


class _Node(msgspec.Struct, frozen=True, gc=False, tag=True, tag_field="node"):
    """Options every IR struct shares."""


# Matches


class ProtocolIs(_Node, frozen=True):
    number: int
    negate: bool = False


class NetIn(_Node, frozen=True):
    """One CIDR. Several alternatives are lowered to mark blocks or sets."""

    side: Side
    cidr: str
    negate: bool = False


class NetInAny(_Node, frozen=True):
    """Any of several CIDRs; backends without such a match have it lowered (ruleset.lower_nets)."""

    side: Side
    cidrs: tuple[str, ...]
    negate: bool = False


class PortIn(_Node, frozen=True):
    """Any of the ports; a protocol match comes before it. More than 15 slots are lowered (ruleset.lower_ports)."""

    side: Side
    ports: tuple[PortRange, ...]
    negate: bool = False


class SetLookup(_Node, frozen=True):
    """The packet's address (or address and port, for IP_PORT sets) on one side is a member of the set."""

    side: Side
    set_id: str
    kind: SetKind = SetKind.NET
    negate: bool = False


class PortOrNamedPort(_Node, frozen=True):
    """Numeric ports or named-port sets, any of them; lowered to mark blocks where there is more than one term."""

    side: Side
    ports: tuple[PortRange, ...]
    set_ids: tuple[str, ...]


class InterfaceIs(_Node, frozen=True):
    """`direction` "in" or "out"; a trailing "+" in `name` matches any rest, as in iptables."""

    direction: str
    name: str
    negate: bool = False


class CtStateIn(_Node, frozen=True):
    states: tuple[CtState, ...]
    negate: bool = False


class CtStatusDnat(_Node, frozen=True):
    """The connection's destination was translated."""

    negate: bool = False


class MarkIs(_Node, frozen=True):
    """mark & mask == value."""

    value: int
    mask: int
    negate: bool = False


class IcmpIs(_Node, frozen=True):
    """ICMP in an IPv4 ruleset, ICMPv6 in an IPv6 one; code None is any."""

    type: int
    code: int | None = None
    negate: bool = False


class AddrTypeIs(_Node, frozen=True):
    """`type` as iptables' addrtype: LOCAL, UNICAST...; `limit_iface_out` restricts LOCAL to the out interface."""

    side: Side
    type: str
    limit_iface_out: bool = False
    negate: bool = False


class RpfFailed(_Node, frozen=True):
    """The source is not reachable through the interface the packet came in by."""

    accept_local: bool = False


class SourceAssigned(_Node, frozen=True):
    """The source is an address of the endpoint that the incoming interface belongs to (Ruleset.sources).

    Only backends with named sets get it (settings.Layout.NATIVE).
    """

    negate: bool = False


class InterfaceAssigned(_Node, frozen=True):
    """The interface of this direction belongs to a workload endpoint (Ruleset.interfaces).

    Only backends with named sets get it (settings.Layout.NATIVE).
    """

    direction: str
    negate: bool = False


Match = (
    ProtocolIs
    | NetIn
    | NetInAny
    | PortIn
    | SetLookup
    | PortOrNamedPort
    | InterfaceIs
    | CtStateIn
    | CtStatusDnat
    | MarkIs
    | IcmpIs
    | AddrTypeIs
    | RpfFailed
    | SourceAssigned
    | InterfaceAssigned
)

# Operations


class Accept(_Node, frozen=True):
    pass


class Drop(_Node, frozen=True):
    pass


class Reject(_Node, frozen=True):
    """`with_` as iptables writes it ("" for the family's default port-unreachable, "tcp-reset")."""

    with_: str = ""


class Return(_Node, frozen=True):
    pass


class Jump(_Node, frozen=True):
    chain: str


class Goto(_Node, frozen=True):
    chain: str


class SetMark(_Node, frozen=True):
    """mark = mark & ~mask | value."""

    value: int
    mask: int


class Log(_Node, frozen=True):
    prefix: str
    level: int = 5


class Nflog(_Node, frozen=True):
    group: int
    prefix: str


class Masquerade(_Node, frozen=True):
    """`ports` "" or "low-high"."""

    ports: str = ""


class Dnat(_Node, frozen=True):
    address: str


class Snat(_Node, frozen=True):
    address: str


class NoTrack(_Node, frozen=True):
    pass


class Continue(_Node, frozen=True):
    """Do nothing and go on: the rule is there for its comment alone, to tell people what an empty chain is."""


class DispatchByInterface(_Node, frozen=True):
    """Go to (or jump to) the chain of the packet's interface; falls through when none is listed.

    Backends without a verdict map have it lowered to a tree of chains (ruleset.lower_dispatch). `comments` say for
    people what each target is, one a target; none at all where the chain's own name says it.
    """

    direction: str
    targets: tuple[tuple[str, str], ...]
    goto: bool = True
    comments: tuple[str, ...] = ()


class Level(StrEnum):
    """One of the maps that a verdict table is in the kernel, by what its key is made of (ruleset.classify.exact)."""

    PORTS = "ports"  # identity pair, protocol, destination port
    PROTOCOLS = "protocols"  # identity pair, protocol
    IDENTITIES = "identities"  # identity pair
    WORLD_PORTS = "world-ports"  # protocol, destination port
    WORLD = "world"  # protocol; the catch-all is for all other protocols


class Classify(_Node, frozen=True):
    """Carry out the verdict that a verdict table has for the packet: its identity on `side`, and its service.

    Ends the chain: a table has a verdict for every packet. `linear` is the chain that some of its verdicts go to, ""
    for none. A backend asks the maps `<table>-<level>` in order, one rule each, until one has an entry. Only backends
    with verdict maps get it (settings.Layout.NATIVE). Source: ruleset.classify.
    """

    table: str
    side: Side
    linear: str = ""
    levels: tuple[Level, ...] = (Level.WORLD,)


Op = (
    Accept
    | Drop
    | Reject
    | Return
    | Jump
    | Goto
    | SetMark
    | Log
    | Nflog
    | Masquerade
    | Dnat
    | Snat
    | NoTrack
    | Continue
    | DispatchByInterface
    | Classify
)


class Origin(msgspec.Struct, frozen=True, gc=False):
    """Why a rule exists: rule `index` of `direction` of a policy or profile, or a static chain's `note`."""

    owner: ResourceKey | None = None
    direction: str = ""
    index: int = -1
    note: str = ""


class Rule(msgspec.Struct, frozen=True, gc=False):
    """Matches are ANDed, in the order given: the order of the fragments in iptables' words and in the hash."""

    matches: tuple[Match, ...]
    op: Op
    comments: tuple[str, ...] = ()
    origin: Origin | None = None


class ChainKey(msgspec.Struct, frozen=True, order=True, gc=False):
    layer: Layer
    name: str


class SetData(msgspec.Struct, frozen=True, gc=False):
    """Members of one family."""

    set_id: str
    kind: SetKind
    members: frozenset[str]


class Identities(msgspec.Struct, frozen=True, gc=False):
    """Which identity each address of one family has: a pair (host identity, network identity).

    Addresses with one pair are members of the same sets. `hosts`: single addresses, packed (4 or 16 bytes) -> number.
    `nets`: disjoint ranges (first, last), packed, both inclusive -> number. An address that is in neither has 0 there.
    `members`: set id -> the pairs that are members of it. Numbers are 32 bits, above 0, a function of current state.
    """

    hosts: Mapping[bytes, int]
    nets: Mapping[tuple[bytes, bytes], int]
    members: Mapping[str, AbstractSet[tuple[int, int]]]


class ServiceRange(msgspec.Struct, frozen=True, gc=False):
    """Destination ports first to last of a protocol belong to a class; all ports for protocols without."""

    protocol: int
    first: int
    last: int
    number: int


class CellVerdict(msgspec.Struct, frozen=True, gc=False):
    """Return (allowed here), Drop, or Goto the linear chain or one that rejects; `origin` is the rule that decided."""

    op: Return | Drop | Goto
    origin: Origin | None = None


class VerdictTable(msgspec.Struct, frozen=True, gc=False):
    """(identity, service class) -> verdict, for one ordered list of policies and profiles in one direction.

    `services`: disjoint; what is in none of them is of class 0. `cells`: (host identity, network identity, class), only
    where the verdict differs from `world`. `world`: class -> verdict for all other identities; has an entry for each
    class of `services` and for 0.
    """

    services: tuple[ServiceRange, ...]
    cells: Mapping[tuple[int, int, int], CellVerdict]
    world: Mapping[int, CellVerdict]


class Ruleset(msgspec.Struct, frozen=True, kw_only=True):
    """All a table backend programs for one family.

    `hooks` are inserted at the head of the kernel's own chains, `appends` at their end. `sources`: (interface, address)
    of the workloads here, where one interface alone has the address. `interfaces`: of all workloads here.
    """

    family: Family
    chains: dict[ChainKey, tuple[Rule, ...]] = {}
    hooks: dict[tuple[Layer, Hook], tuple[Rule, ...]] = {}
    appends: dict[tuple[Layer, Hook], tuple[Rule, ...]] = {}
    sets: dict[str, SetData] = {}
    verdict_tables: dict[str, VerdictTable] = {}
    identities: Identities | None = None
    sources: AbstractSet[tuple[str, str]] = frozenset()
    interfaces: AbstractSet[str] = frozenset()
