"""Named states of a cluster and what node-1 must be told in each, walked through in every way an update may come.

A scenario is a list of states; an expander turns it into updates and flushes. Wherever an expander flushes at a state,
the view a plugin would have must be that state's, and every Batch on the way must keep the contract.
"""

from __future__ import annotations

import base64
import hashlib
import random
from collections.abc import Callable, Iterator, Sequence

import msgspec
import pytest

from calico_engine.calc import CalcGraph
from calico_engine.messages import RouteKind, TierPolicies
from calico_engine.model import EndpointPort, EntityRule, Resource, ResourceKey, Tier
from calico_engine.model.policy import Action, PolicyType, ServiceAccountMatch, ServiceMatch, TierSpec
from calico_engine.model.resource import Metadata
from calico_engine.plugin.protocols import SyncStatus, Update
from calico_engine.selector import parse
from calico_engine.testing import (
    make_block,
    make_endpoint,
    make_global_network_set,
    make_global_policy,
    make_host_endpoint,
    make_network_set,
    make_node,
    make_policy,
    make_pool,
    make_profile,
    make_rule,
    make_tier,
)
from calico_engine.testing.node_view import NodeView

Tiers = dict[str, tuple[list[str], list[str]]]


class State(msgspec.Struct, frozen=True, kw_only=True):
    """Resources, and what node-1 then knows. Routes are only compared where given."""

    name: str
    resources: tuple[Resource, ...] = ()
    #: Set id or selector text -> members.
    sets: dict[str, set[str]] = {}
    policies: set[str] = set()
    profiles: set[str] = set()
    #: Endpoint -> tier -> (ingress policies, egress policies), in order.
    endpoints: dict[str, Tiers] = {}
    untracked: dict[str, Tiers] = {}
    pre_dnat: dict[str, Tiers] = {}
    forward: dict[str, Tiers] = {}
    #: Destination -> (kind, node, next hop).
    routes: dict[str, tuple[RouteKind, str, str]] | None = None

    def check(self, view: NodeView) -> None:
        expected_sets = {
            text if text.startswith(("n:", "s:", "svc")) else parse(text).uid: members
            for text, members in self.sets.items()
        }
        assert view.sets == expected_sets, self.name
        assert {key.name for key in view.policies} == self.policies, self.name
        assert set(view.profiles) == self.profiles, self.name
        assert _tiers(view, "tiers") == self.endpoints, self.name
        assert _tiers(view, "untracked_tiers", only_set=True) == self.untracked, self.name
        assert _tiers(view, "pre_dnat_tiers", only_set=True) == self.pre_dnat, self.name
        assert _tiers(view, "forward_tiers", only_set=True) == self.forward, self.name
        if self.routes is not None:
            found = {dst: (route.kind, route.node, route.next_hop) for dst, route in view.routes.items()}
            assert found == self.routes, self.name


def _tiers(view: NodeView, field: str, *, only_set: bool = False) -> dict[str, Tiers]:
    found: dict[str, Tiers] = {}
    for key, endpoint in view.endpoints.items():
        tiers: tuple[TierPolicies, ...] = getattr(endpoint, field, ())
        if tiers or not only_set:
            found[key.name] = {
                tier.tier: ([p.name for p in tier.ingress], [p.name for p in tier.egress]) for tier in tiers
            }
    return found


# -- resources -------------------------------------------------------------------------------------------------------

WEB = make_endpoint("web", ip="10.65.0.1", labels={"app": "web", "color": "red"}, profiles=["kns.default"])
WEB_V6 = make_endpoint("web", ip=["10.65.0.1", "fd00::1"], labels={"app": "web", "color": "red"})
WEB_BLUE = make_endpoint(
    "web", ip="10.65.0.1", labels={"app": "web", "color": "blue"}, profiles=["kns.default"]
)
WEB_TWIN = make_endpoint("web-twin", ip="10.65.0.1", labels={"app": "web"})
DB = make_endpoint("db", ip="10.65.1.1", labels={"app": "db"}, node="node-2", profiles=["kns.default"])
DB_TWIN = make_endpoint("db-twin", ip="10.65.1.1", labels={"app": "db"}, node="node-3")
DB_OTHER = make_endpoint("db-other", ip="10.65.1.2", labels={"app": "db"}, node="node-2", namespace="other")
OFFICE = make_global_network_set(
    "office", nets=["198.51.100.0/24", "203.0.113.7", "fd01::/64"], labels={"app": "db"}
)
EVERYTHING = make_global_network_set("everything", nets=["0.0.0.0/0", "::/0"], labels={"app": "db"})
NAMESPACED_SET = make_network_set("partners", nets=["192.0.2.0/25"], labels={"app": "db"})

KNS = make_profile(
    "kns.default", ingress=[make_rule()], egress=[make_rule()], labels_to_apply={"pcns.env": "test"}
)
KNS_PROD = make_profile("kns.default", labels_to_apply={"pcns.env": "prod"})

FROM_DB = make_global_policy("from-db", selector="app == 'web'", ingress=[make_rule(selector="app == 'db'")])
FROM_DB_NAMESPACED = make_policy(
    "from-db", selector="app == 'web'", ingress=[make_rule(selector="app == 'db'")]
)
DEFAULT_DB = "app == 'db'"
NAMESPACED_DB = "projectcalico.org/namespace == 'default' && app == 'db'"
PORT_HTTP = EndpointPort(name="http", protocol="TCP", port=8080)
PORT_DNS = EndpointPort(name="dns", protocol="UDP", port=5353)
ON_WEB: dict[str, Tiers] = {"web": {"default": (["from-db"], [])}}


def unique_id(prefix: str, content: str) -> str:
    digest = hashlib.new("sha224", f"{prefix}:{content}".encode()).digest()
    return f"{prefix}:{base64.b64encode(digest, b'-_').decode().rstrip('=')}"


def endpoint_on_node_2(name: str, ip: str) -> Resource:
    return make_endpoint(name, ip=ip, node="node-2")


# -- states ----------------------------------------------------------------------------------------------------------

EMPTY = State(name="empty")
NO_LOCAL = State(name="no local endpoint", resources=(DB, DB_OTHER, OFFICE, FROM_DB, KNS))
NO_POLICY = State(name="no policy", resources=(WEB, DB), endpoints={"web": {}})
MISSING_PROFILE = NO_POLICY
WITH_PROFILE = State(
    name="profile", resources=(WEB, DB, KNS), endpoints={"web": {}}, profiles={"kns.default"}
)
ONE_POLICY = State(
    name="one policy",
    resources=(WEB, DB, FROM_DB),
    sets={DEFAULT_DB: {"10.65.1.1"}},
    policies={"from-db"},
    endpoints=ON_WEB,
)
SHARED_ADDRESS = State(
    name="two endpoints with one address",
    resources=(WEB, DB, DB_TWIN, FROM_DB),
    sets={DEFAULT_DB: {"10.65.1.1"}},
    policies={"from-db"},
    endpoints=ON_WEB,
)
ONLY_TWIN = State(
    name="only the other of two with one address",
    resources=(WEB, DB_TWIN, FROM_DB),
    sets={DEFAULT_DB: {"10.65.1.1"}},
    policies={"from-db"},
    endpoints=ON_WEB,
)
NETWORK_SETS = State(
    name="network sets",
    resources=(WEB, DB, OFFICE, NAMESPACED_SET, FROM_DB),
    sets={DEFAULT_DB: {"10.65.1.1", "198.51.100.0/24", "203.0.113.7", "fd01::/64", "192.0.2.0/25"}},
    policies={"from-db"},
    endpoints=ON_WEB,
)
WHOLE_FAMILIES = State(
    name="a network set of whole families",
    resources=(WEB, EVERYTHING, FROM_DB),
    sets={DEFAULT_DB: {"0.0.0.0/1", "128.0.0.0/1", "::/1", "8000::/1"}},
    policies={"from-db"},
    endpoints=ON_WEB,
)
NAMESPACED = State(
    name="a namespaced policy only sees its namespace",
    resources=(WEB, DB, DB_OTHER, OFFICE, NAMESPACED_SET, FROM_DB_NAMESPACED),
    sets={NAMESPACED_DB: {"10.65.1.1", "192.0.2.0/25"}},
    policies={"from-db"},
    endpoints=ON_WEB,
)
NOT_MATCHED = State(
    name="a policy that matches no local endpoint",
    resources=(WEB_BLUE, DB, make_global_policy("red", selector="color == 'red'", ingress=[make_rule()])),
    endpoints={"web": {}},
)
MATCHED_AGAIN = State(
    name="the endpoint's labels match now",
    resources=(WEB, DB, make_global_policy("red", selector="color == 'red'", ingress=[make_rule()])),
    policies={"red"},
    endpoints={"web": {"default": (["red"], [])}},
)
BOTH_FAMILIES = State(
    name="both families",
    resources=(
        WEB_V6,
        make_endpoint("db", ip=["10.65.1.1", "fd00:0:0::2"], labels={"app": "db"}, node="node-2"),
        FROM_DB,
    ),
    sets={DEFAULT_DB: {"10.65.1.1", "fd00::2"}},
    policies={"from-db"},
    endpoints=ON_WEB,
)


def inheriting(name: str, profile: Resource | None, members: set[str]) -> State:
    policy = make_global_policy(
        "by-namespace",
        selector="app == 'web'",
        ingress=[make_rule(source=EntityRule(namespace_selector="env == 'prod'"))],
    )
    profiles = () if profile is None else (profile,)
    return State(
        name=name,
        resources=(WEB, DB, DB_OTHER, policy, *profiles),
        sets={"pcns.env == 'prod'": members},
        policies={"by-namespace"},
        profiles={"kns.default"} if profiles else set(),
        endpoints={"web": {"default": (["by-namespace"], [])}},
    )


INHERITED_NOT_THERE = inheriting("inherited label, profile not there", None, set())
INHERITED_OTHER = inheriting("inherited label, other value", KNS, set())
INHERITED = inheriting("inherited label", KNS_PROD, {"10.65.0.1", "10.65.1.1"})
OWN_LABEL_WINS = State(
    name="own labels win over inherited ones",
    resources=(
        make_endpoint("web", labels={"level": "own"}, profiles=["p1", "p2"]),
        make_profile("p1", labels_to_apply={"level": "p1", "first": "p1"}),
        make_profile("p2", labels_to_apply={"first": "p2", "second": "p2"}),
        make_global_policy(
            "all",
            ingress=[
                make_rule(selector=text)
                for text in ("level == 'own'", "level == 'p1'", "first == 'p1'", "second == 'p2'")
            ],
        ),
    ),
    sets={
        "level == 'own'": {"10.65.0.1"},
        "level == 'p1'": set(),
        "first == 'p1'": {"10.65.0.1"},
        "second == 'p2'": {"10.65.0.1"},
    },
    policies={"all"},
    profiles={"p1", "p2"},
    endpoints={"web": {"default": (["all"], [])}},
)


def ordered(name: str, orders: dict[str, float | None], expected: list[str]) -> State:
    policies = tuple(
        make_global_policy(policy, order=order, ingress=[make_rule()]) for policy, order in orders.items()
    )
    return State(
        name=name,
        resources=(WEB, *policies),
        policies=set(orders),
        endpoints={"web": {"default": (expected, [])}},
    )


ORDER_123 = ordered("order 123", {"p1": 1, "p2": 2, "p3": 3}, ["p1", "p2", "p3"])
ORDER_321 = ordered("order 321", {"p1": 3, "p2": 2, "p3": 1}, ["p3", "p2", "p1"])
ORDER_NAMES = ordered("same order: by name", {"p2": 5, "p1": 5, "p3": 5}, ["p1", "p2", "p3"])
ORDER_NONE_LAST = ordered(
    "no order: last", {"p1": None, "p2": 1e9, "p3": None, "p4": -1}, ["p4", "p2", "p1", "p3"]
)
SAME_NAMES = State(
    name="same name in several kinds and namespaces",
    resources=(
        WEB,
        make_global_policy("p", order=1, ingress=[make_rule()]),
        make_policy("p", order=1, ingress=[make_rule()]),
        make_policy("p", order=1, namespace="other", ingress=[make_rule()]),
    ),
    policies={"p"},
    endpoints={"web": {"default": (["p", "p"], [])}},
)


def tiered(name: str, tiers: Sequence[Tier], expected: list[str], *, missing: Sequence[str] = ()) -> State:
    names = [tier.metadata.name for tier in tiers] + list(missing)
    policies = [make_global_policy(f"in-{tier}", tier=tier, egress=[make_rule()]) for tier in names]
    return State(
        name=name,
        resources=(WEB, *tiers, *policies),
        policies={f"in-{tier}" for tier in names},
        endpoints={"web": {tier: ([], [f"in-{tier}"]) for tier in expected}},
    )


TIERS_123 = tiered(
    "tiers 123",
    [make_tier("t1", order=1), make_tier("t2", order=2), make_tier("t3", order=3)],
    ["t1", "t2", "t3"],
)
TIERS_321 = tiered(
    "tiers 321",
    [make_tier("t1", order=3), make_tier("t2", order=2), make_tier("t3", order=1)],
    ["t3", "t2", "t1"],
)
TIERS_MISSING = tiered(
    "policies of missing tiers come last",
    [make_tier("t1", order=None), make_tier("t2", order=2)],
    ["t2", "t1", "t0"],
    missing=["t0"],
)
TIERS_AROUND_DEFAULT = tiered(
    "the default tier has its place unasked",
    [make_tier("before", order=1), make_tier("after", order=2e6)],
    ["before", "default", "after"],
    missing=["default"],
)
TYPES = State(
    name="types by default",
    resources=(
        WEB,
        make_global_policy("a-none"),
        make_global_policy("b-in", ingress=[make_rule()]),
        make_global_policy("c-out", egress=[make_rule()]),
        make_global_policy("d-both", ingress=[make_rule()], egress=[make_rule()]),
        make_global_policy("e-said", ingress=[make_rule()], types=[PolicyType.EGRESS]),
    ),
    policies={"a-none", "b-in", "c-out", "d-both", "e-said"},
    endpoints={"web": {"default": (["a-none", "b-in", "d-both"], ["c-out", "d-both", "e-said"])}},
)


def named_port(
    name: str, rule_source: EntityRule, set_id: str, members: set[str], protocol: str = "TCP"
) -> State:
    db = make_endpoint(
        "db", ip=["10.65.1.1", "fd00::2"], labels={"app": "db"}, node="node-2", ports=[PORT_HTTP, PORT_DNS]
    )
    web = make_endpoint("web", labels={"app": "web"}, ports=[PORT_HTTP])
    host = make_host_endpoint("host", expected_ips=["192.0.2.9"], node="node-2", ports=[PORT_HTTP])
    rule = make_rule(protocol=protocol, source=rule_source)
    policy = make_global_policy("p", selector="app == 'web'", ingress=[rule])
    return State(
        name=name,
        resources=(web, db, host, policy),
        sets={set_id: members},
        policies={"p"},
        endpoints={"web": {"default": (["p"], [])}},
    )


NAMED_PORT = named_port(
    "named port of a selector",
    EntityRule(selector="app == 'db'", ports=("http",)),
    unique_id("n", f"{parse(DEFAULT_DB).uid},tcp,http"),
    {"10.65.1.1,tcp:8080", "fd00::2,tcp:8080"},
)
NAMED_PORT_ANYWHERE = named_port(
    "named port of anybody",
    EntityRule(ports=("http",)),
    unique_id("n", f"{parse('all()').uid},tcp,http"),
    {"10.65.1.1,tcp:8080", "fd00::2,tcp:8080", "10.65.0.1,tcp:8080", "192.0.2.9,tcp:8080"},
)
NAMED_PORT_UDP = named_port(
    "named port of another protocol",
    EntityRule(selector="app == 'db'", ports=("dns",)),
    unique_id("n", f"{parse(DEFAULT_DB).uid},udp,dns"),
    {"10.65.1.1,udp:5353", "fd00::2,udp:5353"},
    protocol="UDP",
)
HOST_ENDPOINTS = State(
    name="host endpoints",
    resources=(
        make_host_endpoint("eth0", labels={"role": "edge"}, expected_ips=["192.0.2.1"]),
        make_host_endpoint("all", interface="*"),
        make_host_endpoint("elsewhere", node="node-2", labels={"role": "edge"}, expected_ips=["192.0.2.2"]),
        make_global_policy("normal", selector="has(role)", ingress=[make_rule(selector="role == 'edge'")]),
        make_global_policy("raw", do_not_track=True, ingress=[make_rule()], egress=[make_rule()]),
        make_global_policy("nat", pre_dnat=True, ingress=[make_rule()]),
        make_global_policy("fwd", apply_on_forward=True, egress=[make_rule()]),
    ),
    sets={"role == 'edge'": {"192.0.2.1", "192.0.2.2"}},
    policies={"normal", "raw", "nat", "fwd"},
    endpoints={"eth0": {"default": (["normal"], ["fwd"])}, "all": {"default": ([], ["fwd"])}},
    untracked={name: {"default": (["raw"], ["raw"])} for name in ("eth0", "all")},
    pre_dnat={name: {"default": (["nat"], [])} for name in ("eth0", "all")},
    forward={name: {"default": ([], ["fwd"])} for name in ("eth0", "all")},
)
NODE_1, NODE_2, NODE_3 = (
    make_node("node-1"),
    make_node("node-2", ipv4="192.0.2.2/24"),
    make_node("node-3", ipv4=""),
)
LOCAL, BLOCK, BLACKHOLE = RouteKind.LOCAL_WORKLOAD, RouteKind.REMOTE_BLOCK, RouteKind.LOCAL_BLOCK
REMOTE, HOST = RouteKind.REMOTE_WORKLOAD, RouteKind.REMOTE_HOST
TO_NODE_2 = {"192.0.2.2/32": (HOST, "node-2", "192.0.2.2")}
ROUTES_WITHOUT_BLOCKS = State(
    name="routes without blocks",
    resources=(WEB, DB, NODE_1, NODE_2),
    endpoints={"web": {}},
    routes={
        "10.65.0.1/32": (LOCAL, "node-1", ""),
        "10.65.1.1/32": (REMOTE, "node-2", "192.0.2.2"),
        **TO_NODE_2,
    },
)
ROUTES_UNKNOWN_NODE = State(
    name="routes to a node without address wait",
    resources=(WEB, DB, DB_TWIN, NODE_1, NODE_3, make_block("10.65.9.0/26", node="node-3")),
    endpoints={"web": {}},
    routes={"10.65.0.1/32": (LOCAL, "node-1", "")},
)
ROUTES_BLOCKS = State(
    name="routes by blocks",
    resources=(
        WEB,
        DB,
        endpoint_on_node_2("borrower", "10.65.0.9"),
        NODE_1,
        NODE_2,
        make_block("10.65.0.0/26", node="node-1"),
        make_block("10.65.1.0/26", node="node-2"),
        make_pool(),
    ),
    endpoints={"web": {}},
    routes={
        "10.65.0.0/26": (BLACKHOLE, "node-1", ""),
        "10.65.1.0/26": (BLOCK, "node-2", "192.0.2.2"),
        "10.65.0.1/32": (LOCAL, "node-1", ""),
        "10.65.0.9/32": (REMOTE, "node-2", "192.0.2.2"),
        **TO_NODE_2,
    },
)
ROUTES_BLOCK_MOVED = State(
    name="a block moved",
    resources=(
        WEB,
        DB,
        NODE_1,
        NODE_2,
        make_block("10.65.0.0/26", node="node-2"),
        make_block("10.65.1.0/26", node="node-1"),
    ),
    endpoints={"web": {}},
    routes={
        "10.65.0.0/26": (BLOCK, "node-2", "192.0.2.2"),
        "10.65.1.0/26": (BLACKHOLE, "node-1", ""),
        "10.65.0.1/32": (LOCAL, "node-1", ""),
        "10.65.1.1/32": (REMOTE, "node-2", "192.0.2.2"),
        **TO_NODE_2,
    },
)
SERVICE_ACCOUNTS = State(
    name="service accounts",
    resources=(
        WEB,
        make_policy(
            "sa",
            ingress=[
                make_rule(
                    source=EntityRule(
                        service_accounts=ServiceAccountMatch(names=("b", "a"), selector="role == 'admin'")
                    )
                )
            ],
        ),
    ),
    sets={
        "(projectcalico.org/namespace == 'default') && "
        "((pcsa.role == 'admin') && (projectcalico.org/serviceaccount in {'a', 'b'}))": set()
    },
    policies={"sa"},
    endpoints={"web": {"default": (["sa"], [])}},
)
SERVICES = State(
    name="services, of which nothing is known here",
    resources=(
        WEB,
        make_global_policy(
            "svc",
            egress=[
                make_rule(destination=EntityRule(services=ServiceMatch(name="dns", namespace="kube-system")))
            ],
        ),
    ),
    sets={unique_id("svc", "kube-system/dns"): set()},
    policies={"svc"},
    endpoints={"web": {"default": ([], ["svc"])}},
)
NEGATED = State(
    name="negated selectors",
    resources=(
        WEB,
        DB,
        make_global_policy(
            "not",
            ingress=[
                make_rule(source=EntityRule(not_selector="app == 'db'")),
                make_rule(source=EntityRule(selector="has(app)", not_selector="app == 'db'")),
            ],
        ),
    ),
    sets={DEFAULT_DB: {"10.65.1.1"}, "(has(app)) && (!(app == 'db'))": {"10.65.0.1"}},
    policies={"not"},
    endpoints={"web": {"default": (["not"], [])}},
)

SCENARIOS: dict[str, list[State]] = {
    "nothing": [EMPTY],
    "from nothing to a policy and back": [EMPTY, NO_POLICY, ONE_POLICY, NO_LOCAL, EMPTY, ONE_POLICY],
    "shared addresses": [ONE_POLICY, SHARED_ADDRESS, ONLY_TWIN, SHARED_ADDRESS, ONE_POLICY],
    "network sets": [ONE_POLICY, NETWORK_SETS, WHOLE_FAMILIES, NAMESPACED, NETWORK_SETS],
    "labels come and go": [MATCHED_AGAIN, NOT_MATCHED, MATCHED_AGAIN, ONE_POLICY],
    "families": [ONE_POLICY, BOTH_FAMILIES, ONE_POLICY],
    "profiles": [MISSING_PROFILE, WITH_PROFILE, MISSING_PROFILE],
    "inheritance": [INHERITED_NOT_THERE, INHERITED_OTHER, INHERITED, INHERITED_OTHER, OWN_LABEL_WINS, INHERITED],
    "policy order": [ORDER_123, ORDER_321, ORDER_NAMES, ORDER_NONE_LAST, SAME_NAMES, ORDER_123],
    "tier order": [TIERS_123, TIERS_321, TIERS_MISSING, TIERS_AROUND_DEFAULT, TIERS_123],
    "types": [TYPES, ORDER_123, TYPES],
    "named ports": [NAMED_PORT, NAMED_PORT_ANYWHERE, NAMED_PORT_UDP, ONE_POLICY, NAMED_PORT],
    "host endpoints": [HOST_ENDPOINTS, ONE_POLICY, HOST_ENDPOINTS],
    "routes": [ROUTES_WITHOUT_BLOCKS, ROUTES_UNKNOWN_NODE, ROUTES_BLOCKS, ROUTES_BLOCK_MOVED, ROUTES_WITHOUT_BLOCKS],
    "service accounts": [SERVICE_ACCOUNTS, NAMESPACED],
    "services": [SERVICES, ONE_POLICY],
    "negation": [NEGATED, ONE_POLICY, NEGATED],
    "all sorts": [
        WITH_PROFILE, ORDER_123, TIERS_321, NAMED_PORT, HOST_ENDPOINTS, INHERITED, NETWORK_SETS, SHARED_ADDRESS,
        ROUTES_BLOCKS, NEGATED, TYPES, BOTH_FAMILIES, NAMED_PORT_ANYWHERE, INHERITED_OTHER, ONLY_TWIN,
    ],
}  # fmt: skip


# -- expanders -------------------------------------------------------------------------------------------------------

#: Updates to send at once, and the state to compare with after a flush; None: do not flush.
Step = tuple[list[Update], State | None]
Expander = Callable[[list[State]], Iterator[Step]]


def difference(before: State, after: State) -> list[Update]:
    old = {resource.key: resource for resource in before.resources}
    new = {resource.key: resource for resource in after.resources}
    gone = [Update(key, None) for key in old if key not in new]
    return gone + [Update(key, resource) for key, resource in new.items() if old.get(key) != resource]


def differences(states: list[State]) -> Iterator[tuple[list[Update], State]]:
    before = EMPTY
    for state in states:
        yield difference(before, state), state
        before = state


def in_order(states: list[State]) -> Iterator[Step]:
    yield from differences(states)


def reversed_updates(states: list[State]) -> Iterator[Step]:
    for updates, state in differences(states):
        yield updates[::-1], state


def shuffled(states: list[State]) -> Iterator[Step]:
    for seed, (updates, state) in enumerate(differences(states)):
        random.Random(seed).shuffle(updates)
        yield updates, state


def one_at_a_time(states: list[State]) -> Iterator[Step]:
    for updates, state in differences(states):
        for update in updates:
            yield [update], UNCHECKED
        yield [], state


def reversed_states(states: list[State]) -> Iterator[Step]:
    yield from differences(states[::-1])


def squashed(states: list[State]) -> Iterator[Step]:
    for updates, _ in differences(states):
        yield updates, None
    yield [], states[-1]


def with_empties(states: list[State]) -> Iterator[Step]:
    yield from differences([each for state in states for each in (state, EMPTY)])


def torn_down(states: list[State]) -> Iterator[Step]:
    yield from differences([*states, EMPTY])


def repeated(states: list[State]) -> Iterator[Step]:
    for updates, state in differences(states):
        yield updates + updates, state
        yield [Update(resource.key, resource) for resource in state.resources], state


def deleted_and_back(states: list[State]) -> Iterator[Step]:
    """As a datastore may after a lost connection: spurious deletes, put right before and after a flush."""
    for updates, state in differences(states):
        yield updates, state
        gone = [Update(resource.key, None) for resource in state.resources]
        back = [Update(resource.key, resource) for resource in state.resources]
        yield gone + back, state
        for size in (1, 3):
            yield gone[::size], UNCHECKED
            yield back[::size], state


EXPANDERS: list[Expander] = [
    in_order, reversed_updates, shuffled, one_at_a_time, reversed_states, squashed, with_empties, torn_down,
    repeated, deleted_and_back,
]  # fmt: skip
UNCHECKED = State(name="on the way")


@pytest.mark.parametrize("expand", EXPANDERS)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_view_is_a_function_of_the_state(scenario: str, expand: Expander) -> None:
    graph, view = CalcGraph("node-1"), NodeView()
    graph.on_status(SyncStatus.IN_SYNC)

    for updates, state in expand(SCENARIOS[scenario]):
        graph.on_updates(updates)
        if state is not None:
            view.apply(graph.flush())
            if state is not UNCHECKED:
                state.check(view)
                assert graph.flush() is None, "a second flush has nothing to say"
    assert graph.rejected == []


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_nothing_is_said_before_in_sync_and_everything_at_it(scenario: str) -> None:
    graph, view = CalcGraph("node-1"), NodeView()

    for updates, _ in differences(SCENARIOS[scenario]):
        graph.on_status(SyncStatus.RESYNC)
        graph.on_updates(updates)
        assert graph.flush() is None
    graph.on_status(SyncStatus.IN_SYNC)
    batch = graph.flush()

    assert batch is not None, "the first batch comes even if it is empty"
    view.apply(batch)
    SCENARIOS[scenario][-1].check(view)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_nothing_is_left_when_everything_is_gone(scenario: str) -> None:
    graph, view = CalcGraph("node-1"), NodeView()
    graph.on_status(SyncStatus.IN_SYNC)

    for updates, _ in differences([*SCENARIOS[scenario], EMPTY]):
        graph.on_updates(updates)
        view.apply(graph.flush())

    left = {name: value for name, value in vars(view).items() if value and name != "revision"}
    assert left == {}
    assert msgspec.to_builtins(graph.stats) == msgspec.to_builtins(CalcGraph("node-1").stats)


def test_keys_of_one_name_in_order() -> None:
    graph, view = CalcGraph("node-1"), NodeView()
    graph.on_status(SyncStatus.IN_SYNC)
    graph.on_updates([Update(resource.key, resource) for resource in SAME_NAMES.resources])
    view.apply(graph.flush())

    (tier,) = view.endpoints[WEB.key].tiers
    assert tier.ingress == (
        ResourceKey("GlobalNetworkPolicy", "", "p"),
        ResourceKey("NetworkPolicy", "default", "p"),
    )


def test_default_action_of_tiers() -> None:
    passing = Tier(metadata=Metadata(name="passing"), spec=TierSpec(order=1, default_action=Action.PASS))
    graph, view = CalcGraph("node-1"), NodeView()
    graph.on_status(SyncStatus.IN_SYNC)
    resources = [
        WEB,
        passing,
        *[make_global_policy(name, tier=name) for name in ("passing", "default", "gone")],
    ]
    graph.on_updates([Update(resource.key, resource) for resource in resources])
    view.apply(graph.flush())

    actions = {tier.tier: tier.default_action for tier in view.endpoints[WEB.key].tiers}
    assert actions == {"passing": Action.PASS, "default": Action.DENY, "gone": Action.DENY}
