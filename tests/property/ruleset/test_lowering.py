"""Lowering one rule keeps what it matches: thousands of rules with few criteria each, drawn from seeds.

Whole worlds, in test_ruleset_properties, seldom hold a rule whose alternatives on both sides matter to a packet.
"""

from random import Random

import msgspec
import pytest

from calico_engine.messages import ActiveRule, PortRange, SetKind
from calico_engine.model.policy import Action
from calico_engine.ruleset.compile_policy import rule_matches
from calico_engine.ruleset.interpret import Interpreter, Packet, Path
from calico_engine.ruleset.ir import (
    ChainKey,
    Drop,
    Family,
    Hook,
    Jump,
    Layer,
    NetIn,
    NetInAny,
    PortIn,
    PortOrNamedPort,
    Rule,
    Ruleset,
    SetData,
)
from calico_engine.ruleset.lower import lower
from calico_engine.ruleset.verify import verify
from calico_engine.settings import FelixSettings, Layout

RULES = 1200
PACKETS = 12

ADDRESSES = {
    Family.V4: ("10.0.0.1", "10.0.0.2", "10.0.1.1", "11.0.0.1"),
    Family.V6: ("fd00::1", "fd00::2", "fd01::1"),
}
CIDRS = {
    Family.V4: ("10.0.0.0/24", "10.0.0.1/32", "10.0.0.0/8", "11.0.0.0/8", "10.0.1.1/32"),
    Family.V6: ("fd00::/64", "fd00::1/128", "fd00::/8", "fd01::/64", "fd00::2/128"),
}
PORTS = (22, 80, 81, 443)
SETS = ("s:a", "s:b")
PORT_SETS = ("n:a", "n:b")
SIDES = ("src", "dst")


def draw_rule(random: Random, family: Family) -> ActiveRule:
    """One to four criteria, of which several on one side are likely."""
    fields: dict[str, object] = {"action": Action.ALLOW, "protocol": random.choice((6, 6, 17))}
    for _ in range(random.randint(1, 4)):
        side, negate = random.choice(SIDES), random.choice(("", "", "not_"))
        match random.choice(("nets", "nets", "ports", "named", "sets")):
            case "nets":
                fields[f"{negate}{side}_nets"] = tuple(random.sample(CIDRS[family], random.randint(1, 3)))
            case "ports":
                fields[f"{negate}{side}_ports"] = draw_ports(random)
            case "named":
                fields[f"{negate}{side}_named_port_sets"] = tuple(
                    random.sample(PORT_SETS, random.randint(1, 2))
                )
            case _:
                fields[f"{negate}{side}_sets"] = tuple(random.sample(SETS, random.randint(1, 2)))
    return msgspec.convert(fields, ActiveRule)


def draw_ports(random: Random) -> tuple[PortRange, ...]:
    """A few ports, or so many that one multiport match does not hold them; among many the ones that matter are last."""
    few = [PortRange(low, low + random.randint(0, 1)) for low in random.sample(PORTS, random.randint(1, 3))]
    many = [PortRange(1000 + 2 * n, 1000 + 2 * n) for n in range(random.choice((0, 0, 14, 30)))]
    return (*many, *few)


def draw_sets(random: Random, family: Family) -> dict[str, SetData]:
    members = [*ADDRESSES[family], *CIDRS[family]]
    ports = [f"{a},{p}:{n}" for a in ADDRESSES[family] for p in ("tcp", "udp") for n in PORTS]
    nets = {s: SetData(s, SetKind.NET, frozenset(random.sample(members, 2))) for s in SETS}
    return nets | {s: SetData(s, SetKind.IP_PORT, frozenset(random.sample(ports, 12))) for s in PORT_SETS}


def draw_packet(random: Random, family: Family) -> Packet:
    return Packet(
        src=random.choice(ADDRESSES[family]),
        dst=random.choice(ADDRESSES[family]),
        protocol=random.choice((6, 6, 17, 1)),
        src_port=random.choice(PORTS),
        dst_port=random.choice(PORTS),
        mark=random.choice((0, 0xFFFFFFFF)),
    )


def is_expressible(rule: Rule, layout: Layout) -> bool:
    """Tell whether the layout's tool has words for a rule.

    iptables: one net per side, multiport matches of at most 15 slots. nftables: one range of ports a match.
    """
    if layout is Layout.NATIVE:
        ranges = [len(match.ports) for match in rule.matches if isinstance(match, PortIn)]
        return max(ranges, default=1) == 1 and not has_alternatives(rule)
    nets = [match.side for match in rule.matches if isinstance(match, NetIn)]
    slots = [sum(1 + (p.first != p.last) for p in m.ports) for m in rule.matches if isinstance(m, PortIn)]
    return len(nets) == len(set(nets)) and all(n <= 15 for n in slots) and not has_alternatives(rule)


def has_alternatives(rule: Rule) -> bool:
    return any(isinstance(match, NetInAny | PortOrNamedPort) for match in rule.matches)


@pytest.mark.parametrize("layout", Layout)
@pytest.mark.parametrize("family", Family)
def test_a_lowered_rule_matches_what_the_rule_matches(family: Family, layout: Layout) -> None:
    settings = FelixSettings(layout=layout)
    key = ChainKey(Layer.FILTER, "cali-test")
    hits = blocks = 0
    for seed in range(RULES):
        random = Random(seed)
        rule = draw_rule(random, family)
        matches = rule_matches(rule, family)
        assert matches is not None
        ruleset = Ruleset(
            family=family,
            chains={key: (Rule(matches, Drop()),)},
            hooks={(Layer.FILTER, Hook.FORWARD): (Rule((), Jump(key.name)),)},
            sets=draw_sets(random, family),
        )
        lowered = lower(ruleset, settings)
        assert verify(lowered) == ()
        assert all(is_expressible(r, layout) for r in lowered.chains[key])
        blocks += len(lowered.chains[key]) > 1
        neutral, plain = Interpreter(ruleset), Interpreter(lowered)

        for _ in range(PACKETS):
            packet = draw_packet(random, family)
            expected = neutral.run(packet, Path.FORWARD).allowed
            assert plain.run(packet, Path.FORWARD).allowed is expected, (seed, rule, packet)
            hits += not expected

    # Both answers are common, and so are blocks: otherwise nothing was tested.
    assert 0.05 < hits / (RULES * PACKETS) < 0.95
    assert blocks > RULES / 4
