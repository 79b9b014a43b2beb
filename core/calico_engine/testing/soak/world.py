"""Manifests that are rewritten all the time, with flows that are denied, and flows that are allowed, throughout.

Pure: versions come from the caller's random generator. Every resource is drawn by itself, and what is promised of the
flows holds for any mixture of versions, because an engine may see resources of two versions at a time. What denies the
denied flows is what changes: sets whose selector, and with it their name, changes; sets too large to be changed in
place; policies that come and go; endpoints that come and go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from random import Random

import msgspec

from calico_engine.model import Resource, WorkloadEndpoint, encode
from calico_engine.model.policy import Action, EntityRule, GlobalNetworkPolicy, PolicyType, Rule
from calico_engine.testing.builders import (
    make_endpoint,
    make_global_network_set,
    make_global_policy,
    make_pool,
    make_profile,
    make_rule,
    make_tier,
)

NODES = ("node1", "node2")
ROLES = ("friend", "vault", "web", "closed", "banned", "caged", "guest", "ghost")

#: Always allowed where it is not always denied.
OPEN_PORT = 8000
OTHER_PORTS = (22, 3306)
#: Allowed from guests now and then.
FLIPPING_PORT = 9000

_BACKGROUND_POLICIES = 24
_BACKGROUND_SETS = 12
_COLOURS = ("red", "green", "blue", "black")
#: Enough that a change of most members is written as a new set and swapped in.
_LARGE_SET = 1100

#: Several spellings of one selector: each is a set of its own, with a name of its own, and the same members.
_BANNED = (
    "role == 'banned'",
    "role in {'banned', 'never'}",
    "role == 'banned' && has(role)",
    "banned == 'yes'",
)
_VAULT = ("role == 'vault'", "role in {'never', 'vault'}", "has(vault)")
_BLOCKED = ("list == 'blocked'", "has(list) && list != 'other'")

Draw = Callable[[Random], Resource | None]


class FlowEnds(msgspec.Struct, frozen=True):
    """A flow between pods; `protocol` is tcp or udp."""

    source: str
    destination: str
    source_address: str
    destination_address: str
    protocol: str
    port: int

    def __str__(self) -> str:
        family = 6 if ":" in self.source_address else 4
        return f"{self.source} -> {self.destination} {self.protocol}/{self.port} ipv{family}"


def pod_name(role: str, node: str) -> str:
    return f"{role}-{node}"


def addresses(role: str, node: str) -> tuple[str, str]:
    """Return a pod's address of either family."""
    number, host = NODES.index(node) + 1, ROLES.index(role) + 1
    return f"10.65.{number}.{host}", f"fd00:65::{number}:{host}"


def make_pod(role: str, node: str, labels: dict[str, str] | None = None) -> WorkloadEndpoint:
    """Return the endpoint of a pod; `banned` and `vault` say the role once more, for other selectors."""
    again = {"banned": {"banned": "yes"}, "vault": {"vault": "yes"}}.get(role, {})
    v4, v6 = addresses(role, node)
    return make_endpoint(
        pod_name(role, node),
        ip=(f"{v4}/32", f"{v6}/128"),
        labels={"role": role, **again, **(labels or {})},
        node=node,
        namespace="default",
        interface=f"cali{role}{NODES.index(node) + 1}",
        profiles=("open",),
    )


def flows(source: str, destination: str, ports: Iterable[int]) -> tuple[FlowEnds, ...]:
    """Return the flows between all pods of two roles: both families, both protocols, all nodes."""
    return tuple(
        FlowEnds(pod_name(source, src), pod_name(destination, dst), src_address, dst_address, protocol, port)
        for src in NODES
        for dst in NODES
        for src_address, dst_address in zip(addresses(source, src), addresses(destination, dst), strict=True)
        for protocol in ("tcp", "udp")
        for port in ports
    )


ALL_PORTS = (OPEN_PORT, *OTHER_PORTS)

#: Denied by every version of the manifests.
DENIED = (
    *flows("banned", "vault", ALL_PORTS),  # by a deny in front, whose set changes its name
    *flows("banned", "web", ALL_PORTS),  # by a large set of addresses
    *flows("banned", "closed", ALL_PORTS),  # by nobody allowing it
    *flows("friend", "closed", ALL_PORTS),
    *flows("caged", "vault", ALL_PORTS),  # by the source's egress policy
    *flows(
        "ghost", "web", ALL_PORTS
    ),  # by an egress policy, and when there is no endpoint because there is none
    *flows("friend", "ghost", ALL_PORTS),
)
#: Allowed by every version of the manifests.
ALLOWED = (
    *flows("friend", "vault", (OPEN_PORT,)),
    *flows("friend", "web", (OPEN_PORT,)),
    *flows("caged", "web", (OPEN_PORT,)),
)


class World:
    """The manifests as files. `first` returns all of them, `change` what a next version writes anew."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._files: dict[str, tuple[Draw, ...]] = {
            "guards.json": (_guard, _guard_nets, _door, _cage),
            "blocked.json": (_blocked,),
            "pods.json": tuple(_fickle_pods()),
            "pool.json": (_pool,),
            **{
                f"background-{part}.json": tuple(
                    _background_policy(number) for number in range(part, _BACKGROUND_POLICIES, 4)
                )
                for part in range(4)
            },
            "colours.json": tuple(_coloured_set(number) for number in range(_BACKGROUND_SETS)),
        }

    def first(self) -> dict[str, bytes]:
        """Return every file, with every endpoint there."""
        written = {name: _file(self._draw(draws)) for name, draws in self._files.items()}
        all_pods = [draw(_Always()) for draw in self._files["pods.json"]]
        written["pods.json"] = _file(pod for pod in all_pods if pod is not None)
        return {"static.json": _file(static_resources()), **written}

    def change(self) -> dict[str, bytes]:
        """Return one to three files anew."""
        names = self._random.sample(sorted(self._files), self._random.randint(1, 3))
        return {name: _file(self._draw(self._files[name])) for name in names}

    def _draw(self, draws: Sequence[Draw]) -> list[Resource]:
        return [resource for draw in draws if (resource := draw(self._random)) is not None]


class _Always(Random):
    """Draws the first of everything, which is "there"."""

    def random(self) -> float:
        return 0.0

    def getrandbits(self, bits: int, /) -> int:
        del bits
        return 0


def _file(found: Iterable[Resource]) -> bytes:
    return (
        b'{"apiVersion":"projectcalico.org/v3","kind":"List","items":['
        + b",".join(map(encode, found))
        + b"]}"
    )


def static_resources() -> list[Resource]:
    """Return what never changes: the pods that are always there, and what the invariants rest on."""
    allow, ingress, egress = (Rule(action=Action.ALLOW),), (PolicyType.INGRESS,), (PolicyType.EGRESS,)
    made: list[Resource] = [make_profile("open", ingress=allow, egress=allow), make_tier("early", order=10.0)]
    made += [make_pod(role, node) for role in ROLES if role not in _FICKLE for node in NODES]
    made.append(make_global_policy("shut", selector="role == 'closed'", types=ingress, order=900.0))
    made.append(
        make_global_policy(
            "ghosts-in", selector="role == 'ghost'", types=ingress, order=5.0, ingress=_deny_all()
        )
    )
    made.append(
        make_global_policy(
            "ghosts-out", selector="role == 'ghost'", types=egress, order=5.0, egress=_deny_all()
        )
    )
    return made


def _deny_all() -> tuple[Rule, ...]:
    return (Rule(action=Action.DENY),)


def _deny_from(selector: str) -> Rule:
    return make_rule(Action.DENY, selector=selector)


def _spice(random: Random, most: int) -> list[Rule]:
    """Return rules that touch no pod: they come from addresses nobody has."""
    return [
        make_rule(
            random.choice((Action.ALLOW, Action.DENY)),
            selector=f"colour == '{random.choice(_COLOURS)}'" if random.random() < 0.6 else "",
            nets=(f"198.51.100.{random.randrange(256)}/32",),
            ports=tuple(random.sample(range(1, 60000), random.randint(1, 18))),
        )
        for _ in range(random.randrange(most))
    ]


def _allow_roles(random: Random) -> Rule:
    return make_rule(selector=random.choice(("has(role)", "role != 'nobody' && has(role)")))


def _guard(random: Random) -> GlobalNetworkPolicy:
    """Vaults: banned pods are denied, in ever new words and places, everybody else is let in."""
    rules = [*_spice(random, 4), _deny_from(random.choice(_BANNED)), *_spice(random, 4), _allow_roles(random)]
    return make_global_policy(
        "guard", selector=random.choice(_VAULT), types=(PolicyType.INGRESS,), order=10.0, ingress=rules
    )


def _guard_nets(random: Random) -> GlobalNetworkPolicy:
    """Web: the addresses of the large set are denied, before another policy lets everybody in."""
    rules = [*_spice(random, 4), _deny_from(random.choice(_BLOCKED)), _allow_roles(random)]
    return make_global_policy(
        "guard-nets",
        selector="role == 'web'",
        types=(PolicyType.INGRESS,),
        order=random.choice((1.0, 20.0, 30.0)),
        ingress=rules,
    )


def _door(random: Random) -> GlobalNetworkPolicy | None:
    """Closed pods: pods with a pass may enter by one port, when the policy is there at all."""
    if random.random() > 0.8:
        return None
    rules = [*_spice(random, 3), make_rule(selector="pass == 'yes'", ports=(FLIPPING_PORT,))]
    return make_global_policy(
        "door", selector="role == 'closed'", types=(PolicyType.INGRESS,), order=40.0, ingress=rules
    )


def _cage(random: Random) -> GlobalNetworkPolicy:
    """Caged pods: they may go anywhere but to the vaults."""
    deny = Rule(action=Action.DENY, destination=EntityRule(selector=random.choice(_VAULT)))
    return make_global_policy(
        "cage",
        selector="role == 'caged'",
        types=(PolicyType.EGRESS,),
        order=10.0,
        egress=[*_spice(random, 3), deny, *_spice(random, 3), Rule(action=Action.ALLOW)],
    )


def _blocked(random: Random) -> Resource:
    """The large set: always the banned pods, and others of which most change now and then."""
    banned = [address for node in NODES for address in addresses("banned", node)]
    start = random.choice((0, 7, 50, _LARGE_SET))
    count = random.randrange(_LARGE_SET // 2, _LARGE_SET)
    others = [f"198.18.{n // 256}.{n % 256}" for n in range(start, start + count)]
    others += [f"2001:db8:5::{n:x}" for n in range(start, start + count)]
    nets = [f"{address}/{128 if ':' in address else 32}" for address in (*banned, *others)]
    return make_global_network_set("blocked", nets=nets, labels={"list": "blocked"})


def _coloured_set(number: int) -> Draw:
    def draw(random: Random) -> Resource:
        size = random.randrange(60)
        nets = [f"198.19.{number}.{n}/32" for n in range(size)]
        nets += [f"2001:db8:6:{number:x}::{n:x}/128" for n in range(size)]
        return make_global_network_set(
            f"colour-{number}", nets=nets or ["198.19.255.0/24"], labels={"colour": random.choice(_COLOURS)}
        )

    return draw


def _background_policy(number: int) -> Draw:
    """A policy that decides nothing about any flow between pods, in its own tier or behind all others."""

    def draw(random: Random) -> Resource | None:
        if random.random() > 0.85:
            return None
        early = number % 6 == 0
        ends = [Rule(action=Action.PASS)] if early else []
        chosen = random.sample(ROLES, random.randint(1, 3))
        selector = "role in {" + ", ".join(f"'{role}'" for role in sorted(chosen)) + "}"
        return make_global_policy(
            f"early.background-{number}" if early else f"background-{number}",
            selector=selector if early else "role == 'closed'",
            tier="early" if early else "default",
            types=(PolicyType.INGRESS,),
            order=float(random.randrange(50, 60)),
            ingress=[*_spice(random, 8), *ends],
        )

    return draw


def _pool(random: Random) -> Resource:
    return make_pool("pods", cidr="10.65.0.0/16", nat_outgoing=random.random() < 0.5)


_FICKLE = ("guest", "ghost")


def _fickle_pods() -> list[Draw]:
    """Guests get and lose their pass, ghosts come and go."""

    def guest(node: str) -> Draw:
        return lambda random: make_pod("guest", node, {"pass": random.choice(("yes", "no"))})

    def ghost(node: str) -> Draw:
        return lambda random: make_pod("ghost", node) if random.random() < 0.6 else None

    return [made(node) for made in (guest, ghost) for node in NODES]
