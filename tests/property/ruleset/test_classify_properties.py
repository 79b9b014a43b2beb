"""What holds of verdict tables and identities, for random sets, lists, packets and histories.

The verdict of a packet by tables is that of its rules evaluated one by one, here, from their meaning alone. Tables and
identities are functions of the present state. What is taken as changes leads from the state before to the present one.
"""

from collections.abc import Iterator, Mapping
from functools import cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from itertools import pairwise
from random import Random
from typing import TypeVar

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calico_engine.messages import ActiveRule, PortRange
from calico_engine.model.policy import Action
from calico_engine.model.resource import ResourceKey
from calico_engine.ruleset.classify import (
    LIMIT_CELLS,
    Classifier,
    ClassifierChanges,
    ListPolicies,
    PolicyList,
    make_exact,
)
from calico_engine.ruleset.classify.combinations import Combinations, Digest, digest_ids
from calico_engine.ruleset.classify.nets import NetIndex, parse_net
from calico_engine.ruleset.interpret import Interpreter, Packet, Path
from calico_engine.ruleset.ir import (
    Accept,
    ChainKey,
    Classify,
    Drop,
    Family,
    Goto,
    Hook,
    Layer,
    Return,
    Rule,
    Ruleset,
    Side,
    VerdictTable,
)

EXAMPLES = settings.default.max_examples if settings.default else 100
FAMILIES = (Family.V4, Family.V6)
ADDRESSES = {
    Family.V4: (
        "0.0.0.0", "10.0.0.0", "10.0.0.1", "10.0.0.2", "10.0.0.255", "10.0.1.1", "10.128.0.1", "192.0.2.1",
        "255.255.255.255",
    ),
    Family.V6: (
        "::", "fd00::", "fd00::1", "fd00::2", "fd00::ffff", "fd00:1::1", "fd80::1", "2001:db8::1",
        "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
    ),
}  # fmt: skip
NETS = {
    Family.V4: (
        "0.0.0.0/0", "0.0.0.0/1", "10.0.0.0/8", "10.0.0.0/9", "10.128.0.0/9", "10.0.0.0/24", "10.0.0.0/31",
        "10.0.0.2/32", "192.0.2.0/24", "255.0.0.0/8",
    ),
    Family.V6: (
        "::/0", "::/1", "fd00::/8", "fd00::/9", "fd80::/9", "fd00::/64", "fd00::/127", "fd00::2/128",
        "2001:db8::/32", "ff00::/8",
    ),
}  # fmt: skip
#: Sets have no "/32".
SET_NETS = {
    family: tuple(net for net in nets if not net.endswith(("/32", "/128"))) for family, nets in NETS.items()
}
SETS = ("s:a", "s:b", "s:c", "s:d")
#: Nobody ever announces this one.
ALL_SETS = (*SETS, "s:missing")
KINDS = ("sets", "nets", "ports", "named_port_sets")
ICMP = {Family.V4: 1, Family.V6: 58}
PORT_SETS = {"n:http": ("tcp", 80), "n:dns": ("udp", 53)}
PORTS = (0, 1, 53, 80, 81, 443, 65535)
PROTOCOLS = (0, 1, 6, 17, 33, 47, 58, 132, 255)
WITH_PORTS = {6: "tcp", 17: "udp", 33: "dccp", 132: "sctp", 136: "udplite"}
DENIALS: tuple[Drop | Goto, ...] = (Drop(), Goto("cali-reject"))
LINEAR = "cali-ll-test"
Members = dict[str, frozenset[str]]
seeds = st.integers(0, 1 << 48)
_K = TypeVar("_K", bytes, tuple[bytes, bytes])


@cache
def parse(address: str) -> IPv4Address | IPv6Address:
    return ip_address(address)


@cache
def network(cidr: str) -> IPv4Network | IPv6Network:
    return ip_network(cidr, strict=False)


class World:
    """What a seed makes: members, lists and packets."""

    def __init__(self, seed: int, family: Family) -> None:
        self.random = Random(seed)
        self.family = family

    def some(self, things: tuple[str, ...], most: int) -> tuple[str, ...]:
        return tuple(self.random.sample(things, self.random.randint(0, most)))

    def members(self) -> frozenset[str]:
        return frozenset(
            self.some(ADDRESSES[self.family], 4)
            + (self.some(SET_NETS[self.family], 2) if self.random.random() < 0.5 else ())
        )

    def sets(self) -> Members:
        return {set_id: self.members() for set_id in SETS if self.random.random() < 0.9}

    def ports(self) -> tuple[PortRange, ...]:
        ranges = (sorted(self.random.choices(PORTS, k=2)) for _ in range(self.random.randint(1, 2)))
        return tuple(PortRange(first, last) for first, last in ranges)

    def nets(self) -> tuple[str, ...]:
        other = Family.V6 if self.family is Family.V4 else Family.V4
        nets = self.some(NETS[self.family][1:], 2)
        kind = self.random.random()
        return nets + (NETS[other][:1] if kind < 0.15 else NETS[self.family][:1] if kind > 0.8 else ())

    def rule(self) -> ActiveRule:
        """A rule of few criteria, so that packets match it."""
        random = self.random
        rule: dict[str, object] = {"action": random.choice(tuple(Action))}
        if random.random() < 0.6:
            rule["protocol"] = random.choice((*PROTOCOLS, 6, 6, 6, 17, 17))
        names = [
            f"{negated}{end}_{kind}" for negated in ("", "not_") for end in ("src", "dst") for kind in KINDS
        ]
        for name in random.sample(
            (*names, "dst_ip_port_sets", "icmp", "not_protocol", "ip_version"), random.randint(0, 3)
        ):
            match name.rpartition("_")[2]:
                case "sets" if "port" in name:
                    rule[name] = self.some(tuple(PORT_SETS), 2)
                case "sets":
                    rule[name] = self.some(ALL_SETS if random.random() < 0.1 else SETS, 2)
                case "nets":
                    rule[name] = self.nets()
                case "ports" if rule.get("protocol") in WITH_PORTS or random.random() < 0.2:
                    rule[name] = self.ports()
                case "icmp":
                    rule |= {"protocol": ICMP[self.family], random.choice(("icmp_type", "not_icmp_type")): 8}
                case "protocol":
                    rule["not_protocol"] = random.choice((0, 1, 6, 17))
                case "version":
                    rule["ip_version"] = random.choice((4, 6))
        if "dst_ports" in rule and random.random() < 0.1:
            rule["dst_named_port_sets"] = self.some(tuple(PORT_SETS), 2)
        return msgspec.convert(rule, ActiveRule)

    def rules(self, most: int) -> tuple[ActiveRule, ...]:
        return tuple(self.rule() for _ in range(self.random.randint(0, most)))

    def policy_list(self) -> PolicyList:
        random = self.random
        tiers = tuple(
            ListPolicies(
                f"t{tier}",
                random.choice((Action.DENY, Action.DENY, Action.PASS)),
                tuple(
                    (ResourceKey("GlobalNetworkPolicy", "", f"p{tier}-{number}"), self.rules(3))
                    for number in range(random.randint(0, 3))
                ),
            )
            for tier in range(random.randint(0, 3))
        )
        profiles = tuple((f"profile{number}", self.rules(2)) for number in range(random.randint(0, 2)))
        return PolicyList(random.choice(tuple(Side)), tiers, profiles, LINEAR, random.choice(DENIALS))

    def packet(self) -> Packet:
        random = self.random
        # The second is a member of the sets of named ports.
        src, dst = random.choices((*ADDRESSES[self.family], *ADDRESSES[self.family][1:2] * 3), k=2)
        return Packet(
            src=src,
            dst=dst,
            protocol=random.choice((*PROTOCOLS, 6, 6, 17, ICMP[self.family])),
            src_port=random.choice((*PORTS, 80, 53)),
            dst_port=random.choice((*PORTS, 80, 53, 2, 79, 1000)),
            icmp_type=random.choice((0, 8)),
        )


class Meaning:
    """Rules evaluated one by one, by what ActiveRule says they mean."""

    def __init__(self, sets: Members, family: Family) -> None:
        self.sets = sets
        self.family = family
        #: Whether a rule that matched so far as tables can see asked for more than they can see.
        self.asked_more = False

    def verdict(self, wanted: PolicyList, packet: Packet) -> str:
        self.asked_more = False
        for tier in wanted.tiers:
            if not tier.policies:
                continue
            asked = tuple(rule for _, rules in tier.policies for rule in rules)
            verdict = self.first(asked, packet, wanted.side)
            if verdict is None and tier.default_action is Action.DENY:
                return "deny"
            if verdict in ("allow", "deny"):
                return verdict
        for _, rules in wanted.profiles:
            verdict = self.first(rules, packet, wanted.side)
            if verdict in ("allow", "deny"):
                return verdict
        return "deny"

    def first(self, rules: tuple[ActiveRule, ...], packet: Packet, side: Side) -> str | None:
        for rule in rules:
            if self.asks_more(rule, side) and self.matches(self.visible(rule, side), packet):
                self.asked_more = True
            if rule.action is not Action.LOG and self.matches(rule, packet):
                return str(rule.action).lower()
        return None

    def asks_more(self, rule: ActiveRule, side: Side) -> bool:
        return rule.action is Action.LOG or rule != self.visible(rule, side)

    def visible(self, rule: ActiveRule, side: Side) -> ActiveRule:
        """The rule without what a table cannot see."""
        local = "dst" if side is Side.SRC else "src"
        unseen = (
            f"{local}_sets", f"not_{local}_sets", f"{local}_nets", f"not_{local}_nets", "src_ports", "not_src_ports",
            "src_named_port_sets", "dst_named_port_sets", "not_src_named_port_sets", "not_dst_named_port_sets",
            "dst_ip_port_sets",
        )  # fmt: skip
        gone: dict[str, object] = dict.fromkeys(unseen, ())
        if rule.dst_named_port_sets:
            gone["dst_ports"] = ()
        return msgspec.structs.replace(
            rule, icmp_type=None, icmp_code=None, not_icmp_type=None, not_icmp_code=None, **gone
        )

    def matches(self, rule: ActiveRule, packet: Packet) -> bool:
        deny = rule.action is Action.DENY
        asked = (*rule.src_sets, *rule.dst_sets, *rule.not_src_sets, *rule.not_dst_sets)
        if any(set_id not in self.sets for set_id in asked) and not deny:
            return False
        if rule.ip_version not in (None, int(self.family)):
            return False
        if rule.protocol not in (None, packet.protocol) or rule.not_protocol == packet.protocol:
            return False
        has_icmp = rule.icmp_type is not None or rule.not_icmp_type is not None
        if has_icmp and rule.protocol != ICMP[self.family]:
            return False
        if rule.icmp_type not in (None, packet.icmp_type) or rule.not_icmp_type == packet.icmp_type:
            return False
        if (
            rule.src_ports or rule.dst_ports or rule.not_src_ports or rule.not_dst_ports
        ) and rule.protocol not in WITH_PORTS:
            if not deny:
                return False
            rule = msgspec.structs.replace(
                rule, src_ports=(), dst_ports=(), not_src_ports=(), not_dst_ports=()
            )
        return self.end_matches(
            packet, packet.src, packet.src_port,
            rule.src_sets, rule.not_src_sets, rule.src_nets, rule.not_src_nets,
            rule.src_ports, rule.src_named_port_sets, rule.not_src_ports, rule.not_src_named_port_sets, (),
        ) and self.end_matches(
            packet, packet.dst, packet.dst_port,
            rule.dst_sets, rule.not_dst_sets, rule.dst_nets, rule.not_dst_nets,
            rule.dst_ports, rule.dst_named_port_sets, rule.not_dst_ports, rule.not_dst_named_port_sets,
            rule.dst_ip_port_sets,
        )  # fmt: skip

    def end_matches(
        self,
        packet: Packet,
        address: str,
        port: int,
        sets: tuple[str, ...],
        not_sets: tuple[str, ...],
        nets: tuple[str, ...],
        not_nets: tuple[str, ...],
        ports: tuple[PortRange, ...],
        named: tuple[str, ...],
        not_ports: tuple[PortRange, ...],
        not_named: tuple[str, ...],
        both: tuple[str, ...],
    ) -> bool:
        def inside(set_id: str) -> bool:
            return any(parse(address) in network(member) for member in self.sets[set_id])

        def has_service(set_id: str) -> bool:
            # The members: the second address of the family with the set's port.
            protocol, number = PORT_SETS[set_id]
            return (
                address == ADDRESSES[self.family][1]
                and WITH_PORTS.get(packet.protocol) == protocol
                and port == number
            )

        def within(ranges: tuple[PortRange, ...]) -> bool:
            return any(entry.first <= port <= entry.last for entry in ranges)

        own = [net for net in nets if (":" in net) == (self.family is Family.V6)]
        not_own = [net for net in not_nets if (":" in net) == (self.family is Family.V6)]
        return (
            all(inside(set_id) for set_id in sets if set_id in self.sets)
            and not any(inside(set_id) for set_id in not_sets if set_id in self.sets)
            and (not nets or any(parse(address) in network(net) for net in own))
            and (not not_nets or bool(not_own))
            and not any(parse(address) in network(net) for net in not_own)
            and ((not ports and not named) or within(ports) or any(map(has_service, named)))
            and not within(not_ports)
            and not any(map(has_service, not_named))
            and all(map(has_service, both))
        )


def settled(
    sets: Members,
    lists: dict[str, PolicyList],
    family: Family,
    limit_cells: int = LIMIT_CELLS,
    digest: Digest = digest_ids,
) -> Classifier:
    classifier = Classifier(family, limit_cells, digest)
    for set_id, members in sets.items():
        classifier.set_members(set_id, members)
    for table, wanted in lists.items():
        classifier.set_list(table, wanted)
    for _ in classifier.settle():
        pass
    return classifier


class Tables:
    """Asks the interpreter, whose step says which verdict a table had."""

    def __init__(self, classifier: Classifier, table: str, side: Side) -> None:
        chains: dict[ChainKey, tuple[Rule, ...]] = {
            ChainKey(Layer.FILTER, "list"): (Rule((), Classify(table, side)),),
            ChainKey(Layer.FILTER, LINEAR): (Rule((), Accept()),),
            ChainKey(Layer.FILTER, "cali-reject"): (Rule((), Drop()),),
        }
        self.interpreter = Interpreter(
            Ruleset(
                family=classifier.family,
                chains=chains,
                hooks={(Layer.FILTER, Hook.FORWARD): (Rule((), Goto("list")),)},
                verdict_tables=dict(classifier.tables),
                identities=classifier.identities,
            )
        )

    def verdict(self, packet: Packet) -> Return | Drop | Goto:
        trace = self.interpreter.run(packet, Path.FORWARD).trace
        op = next(step.rule.op for step in trace if step.chain == "list")
        assert isinstance(op, Return | Drop | Goto)
        return op


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=EXAMPLES * 2)
@given(seed=seeds)
def test_a_packets_verdict_by_tables_is_that_of_its_rules(family: Family, seed: int) -> None:
    world = World(seed, family)
    sets, wanted = world.sets(), world.policy_list()
    classifier = settled(sets, {"T": wanted}, family)
    meaning = Meaning(sets, family)
    tables = Tables(classifier, "T", wanted.side)

    for _ in range(60):
        packet = world.packet()
        expected = meaning.verdict(wanted, packet)
        op = tables.verdict(packet)

        if op == Goto(LINEAR):
            assert meaning.asked_more
            assert classifier.needs_linear("T")
        else:
            assert op == (Return() if expected == "allow" else wanted.deny)


def state_of(classifier: Classifier) -> tuple[object, ...]:
    identities = classifier.identities
    return (
        dict(identities.hosts),
        dict(identities.nets),
        {set_id: frozenset(pairs) for set_id, pairs in identities.members.items()},
        dict(classifier.tables),
        dict(classifier.exact),
        dict(classifier.oversize()),
        {table: classifier.needs_linear(table) for table in classifier.tables},
    )


def few_numbers(ids: tuple[str, ...]) -> int:
    """A digest so short that combinations clash."""
    return digest_ids(ids) % 3 + 1


def change_something(
    world: World, classifier: Classifier, sets: Members, lists: dict[str, PolicyList]
) -> None:
    random = world.random
    kind = random.random()
    set_id = random.choice((*SETS, *SETS[:1] * 4))
    if kind < 0.2:
        sets[set_id] = world.members()
        classifier.set_members(set_id, sets[set_id])
    elif kind < 0.3:
        sets.pop(set_id, None)
        classifier.set_members(set_id, None)
    elif kind < 0.75:
        pool = (*ADDRESSES[world.family], *SET_NETS[world.family])
        added, removed = set(world.some(pool, 3)), set(world.some(pool, 3))
        removed -= added
        classifier.change_members(set_id, added, removed)
        if set_id in sets:
            sets[set_id] = sets[set_id] - removed | added
    elif kind < 0.95:
        table = random.choice(("T", "U"))
        lists[table] = world.policy_list()
        classifier.set_list(table, lists[table])
    else:
        table = random.choice(("T", "U"))
        lists.pop(table, None)
        classifier.set_list(table, None)


def apply(state: dict[_K, int], changes: Mapping[_K, int | None]) -> None:
    for key, value in changes.items():
        if value is None:
            # What is to go must be there.
            del state[key]
        else:
            assert state.get(key) != value
            state[key] = value


def apply_changes(
    hosts: dict[bytes, int],
    nets: dict[tuple[bytes, bytes], int],
    members: dict[str, frozenset[tuple[int, int]]],
    changes: ClassifierChanges,
    classifier: Classifier,
) -> None:
    apply(hosts, changes.hosts)
    apply(nets, changes.nets)
    for set_id, change in changes.members.items():
        had = members.get(set_id, frozenset())
        assert change.removed <= had
        assert not change.added & had
        members[set_id] = had - change.removed | change.added
        if set_id not in classifier.identities.members:
            assert not members.pop(set_id)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("digest", [digest_ids, few_numbers])
@settings(max_examples=EXAMPLES)
@given(seed=seeds)
def test_histories_do_not_show(family: Family, digest: Digest, seed: int) -> None:
    world = World(seed, family)
    sets: Members = {}
    lists: dict[str, PolicyList] = {}
    limit_cells = world.random.choice((6, 40, LIMIT_CELLS))
    classifier = Classifier(family, limit_cells, digest)
    hosts: dict[bytes, int] = {}
    nets: dict[tuple[bytes, bytes], int] = {}
    members: dict[str, frozenset[tuple[int, int]]] = {}
    tables: dict[str, VerdictTable] = {}

    for _ in range(8):
        for _ in range(world.random.randint(1, 4)):
            change_something(world, classifier, sets, lists)
            # Somebody breaks off now and then, and goes on later.
            for _ in zip(range(world.random.choice((0, 0, 1, 3))), classifier.settle(), strict=False):
                pass
        for _ in classifier.settle():
            pass
        if world.random.random() < 0.3:
            continue
        changes = classifier.take_changes()
        apply_changes(hosts, nets, members, changes, classifier)

        fresh = settled(sets, lists, family, limit_cells, digest)
        assert state_of(classifier) == state_of(fresh)
        assert (hosts, nets, members) == state_of(classifier)[:3]
        differing = {
            table
            for table in {*tables, *classifier.tables}
            if tables.get(table) != classifier.tables.get(table)
        }
        assert differing <= changes.tables
        tables = dict(classifier.tables)
        assert not classifier.take_changes()


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=EXAMPLES)
@given(seed=seeds)
def test_tables_and_exact_tables_agree(family: Family, seed: int) -> None:
    world = World(seed, family)
    classifier = settled(world.sets(), {"T": world.policy_list()}, family)

    assert classifier.exact == {"T": make_exact(classifier.tables["T"], 65536)}
    world_ops = {number: verdict.op for number, verdict in classifier.tables["T"].world.items()}
    for (_, _, number), verdict in classifier.tables["T"].cells.items():
        assert verdict.op != world_ops[number]


def covered(classifier: Classifier) -> Iterator[tuple[int, int]]:
    for first, last in classifier.identities.nets:
        yield int.from_bytes(first, "big"), int.from_bytes(last, "big")


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=EXAMPLES)
@given(seed=seeds)
def test_ranges_are_disjoint_and_cover_exactly_the_networks(family: Family, seed: int) -> None:
    world = World(seed, family)
    sets = world.sets()
    classifier = settled(sets, {}, family)

    ranges = sorted(covered(classifier))
    assert all(one[1] < other[0] for one, other in pairwise(ranges))
    networks = [network(member) for members in sets.values() for member in members if "/" in member]
    edges = {int(end) + step for net in networks for end in (net[0], net[-1]) for step in (-1, 0, 1)}
    edges |= {int(parse(address)) for address in ADDRESSES[family]}
    bits = 32 if family is Family.V4 else 128
    for edge in edges:
        if 0 <= edge < 1 << bits:
            within = any(int(net[0]) <= edge <= int(net[-1]) for net in networks)
            assert any(first <= edge <= last for first, last in ranges) == within


@settings(max_examples=EXAMPLES)
@given(seed=seeds)
def test_ranges_after_any_changes_are_those_made_at_once(seed: int) -> None:
    random = Random(seed)
    combinations = Combinations()
    index = NetIndex(Family.V4, combinations)
    present: set[tuple[str, str]] = set()

    for _ in range(6):
        for _ in range(random.randint(1, 4)):
            entry = (
                random.choice(SETS),
                f"10.0.0.{random.randrange(0, 32)}/{random.choice((27, 28, 29, 30, 31))}",
            )
            if entry in present:
                present.discard(entry)
                index.remove(entry[0], parse_net(entry[1]))
            elif all(
                parse_net(other) != parse_net(entry[1]) for owner, other in present if owner == entry[0]
            ):
                present.add(entry)
                index.add(entry[0], parse_net(entry[1]))
        for _ in index.settle():
            pass

        fresh = NetIndex(Family.V4, combinations)
        for set_id, cidr in sorted(present):
            fresh.add(set_id, parse_net(cidr))
        for _ in fresh.settle():
            pass
        assert list(index.all_ranges()) == list(fresh.all_ranges())
        assert index.spread == fresh.spread
        for host in range(40):
            address = bytes((10, 0, 0, host))
            holders = {owner for owner, cidr in present if parse(address) in network(cidr)}
            assert set(index.combination(address).ids) == holders
