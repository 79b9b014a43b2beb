"""The graph against a naive calculation from all resources at once, after any sequence of updates and flushes."""

from __future__ import annotations

import math
from collections.abc import Mapping

from hypothesis import given, settings
from hypothesis import strategies as st

from calico_engine.calc import CalcGraph
from calico_engine.messages import ActiveRule
from calico_engine.model import (
    EndpointPort,
    EntityRule,
    GlobalNetworkPolicy,
    GlobalNetworkSet,
    HostEndpoint,
    IPAMBlock,
    NetworkPolicy,
    Node,
    Profile,
    Resource,
    ResourceKey,
    Tier,
    WorkloadEndpoint,
)
from calico_engine.model.policy import NetworkSet
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
    make_profile,
    make_rule,
    make_tier,
)
from calico_engine.testing.node_view import NodeView

Labels = dict[str, str]

LABELS = st.dictionaries(st.sampled_from(["a", "b", "c"]), st.sampled_from(["x", "y", "xy", ""]), max_size=3)
PARENTS = st.lists(st.sampled_from(["kns.default", "kns.other", "p0", "p1"]), unique=True, max_size=3)
NODES = st.sampled_from(["node-1", "node-2", "node-3"])
NAMESPACES = st.sampled_from(["default", "other"])
ADDRESSES = st.lists(
    st.sampled_from(["10.0.0.1", "10.0.0.2", "10.0.0.70", "fd00::1", "fd00::2"]), min_size=1, max_size=2
)
NETS = st.lists(
    st.sampled_from(["10.0.0.1", "10.0.0.1/32", "10.0.0.0/24", "192.0.2.0/25", "fd00::/64"]), max_size=3
)
SELECTORS = st.sampled_from(
    [
        "all()", "a == 'x'", "a != 'x'", "has(a)", "!has(b)", "a in {'x', 'y'}", "a not in {'y'}",
        "a contains 'y'", "b starts with 'x'", "a == 'x' && b == 'y'", "a == 'x' || has(c)",
        "!(a == 'x' && has(b))", "c == 'z'", "!all()", "has(a) && !(b ends with 'y')",
    ]
)  # fmt: skip
MAYBE_SELECTORS = st.one_of(st.just(""), SELECTORS)
PORTS = st.lists(
    st.builds(
        EndpointPort,
        name=st.sampled_from(["http", "dns"]),
        protocol=st.sampled_from(["TCP", "UDP"]),
        port=st.sampled_from([80, 53]),
    ),
    max_size=2,
)
ENTITIES = st.builds(
    EntityRule,
    selector=MAYBE_SELECTORS,
    not_selector=MAYBE_SELECTORS,
    namespace_selector=st.sampled_from(["", "", "all()", "global()", "env == 'prod'"]),
    ports=st.sampled_from([(), ("http",), (80,), ("dns", 443)]),
)
RULES = st.lists(
    st.builds(make_rule, protocol=st.sampled_from(["TCP", "UDP"]), source=ENTITIES, destination=ENTITIES),
    max_size=2,
)
ORDERS = st.one_of(st.none(), st.sampled_from([1.0, 2.0]))
TIERS = st.sampled_from(["default", "t1", "t2"])

RESOURCES = st.one_of(
    st.builds(
        make_endpoint, st.sampled_from(["e0", "e1", "e2", "e3"]), ip=ADDRESSES, labels=LABELS, node=NODES,
        namespace=NAMESPACES, profiles=PARENTS, ports=PORTS,
    ),
    st.builds(
        make_host_endpoint, st.sampled_from(["h0", "h1"]), expected_ips=ADDRESSES, labels=LABELS, node=NODES,
        profiles=PARENTS, ports=PORTS,
    ),
    st.builds(make_global_network_set, st.sampled_from(["n0", "n1"]), nets=NETS, labels=LABELS),
    st.builds(make_network_set, st.sampled_from(["n0", "n1"]), nets=NETS, labels=LABELS, namespace=NAMESPACES),
    st.builds(
        make_global_policy, st.sampled_from(["g0", "g1", "g2"]), selector=SELECTORS, ingress=RULES, egress=RULES,
        order=ORDERS, tier=TIERS,
    ),
    st.builds(
        make_policy, st.sampled_from(["q0", "q1"]), namespace=NAMESPACES, selector=SELECTORS, ingress=RULES,
        egress=RULES, order=ORDERS, tier=TIERS,
    ),
    st.builds(
        make_profile, st.sampled_from(["kns.default", "kns.other", "p0", "p1"]), ingress=RULES,
        labels_to_apply=st.one_of(LABELS, st.just({"pcns.env": "prod"}), st.just({"pcns.env": "test"})),
    ),
    st.builds(make_tier, st.sampled_from(["t1", "t2"]), order=ORDERS),
    st.builds(make_node, NODES, ipv4=st.sampled_from(["192.0.2.1/24", "192.0.2.2/24", ""]), ipv6=st.just("")),
    st.builds(make_block, st.sampled_from(["10.0.0.0/26", "10.0.0.64/26"]), node=NODES),
)  # fmt: skip
#: A resource that is now so, or (a number) the so-many-th resource is deleted; and whether to flush then.
STEPS = st.lists(st.tuples(st.one_of(RESOURCES, st.integers(0, 30)), st.booleans()), min_size=10, max_size=40)


# -- the naive calculation -------------------------------------------------------------------------------------------

World = Mapping[ResourceKey, Resource]


def inherit(world: World, own: Labels, parents: tuple[str, ...]) -> Labels:
    labels: Labels = {}
    for parent in reversed(parents):
        profile = world.get(ResourceKey("Profile", "", parent))
        if isinstance(profile, Profile):
            labels.update(profile.spec.labels_to_apply)
    return labels | own


def labels_of(world: World, item: Resource) -> Labels:
    own = dict(item.metadata.labels)
    if isinstance(item, WorkloadEndpoint | NetworkSet):
        own["projectcalico.org/namespace"] = item.metadata.namespace
    if isinstance(item, WorkloadEndpoint):
        own["projectcalico.org/orchestrator"] = item.spec.orchestrator
    if isinstance(item, WorkloadEndpoint | HostEndpoint):
        return inherit(world, own, item.spec.profiles)
    if isinstance(item, NetworkSet):
        return inherit(world, own, ("kns." + item.metadata.namespace,))
    return own


def nets_of(item: Resource) -> set[str]:
    if isinstance(item, WorkloadEndpoint):
        nets = item.spec.ip_networks
    elif isinstance(item, HostEndpoint):
        nets = item.spec.expected_ips
    else:
        assert isinstance(item, NetworkSet | GlobalNetworkSet)
        nets = item.spec.nets
    return {net.removesuffix("/128" if ":" in net else "/32") for net in nets}


def items(world: World) -> list[Resource]:
    kinds = WorkloadEndpoint | HostEndpoint | NetworkSet | GlobalNetworkSet
    return [each for each in world.values() if isinstance(each, kinds)]


def local_endpoints(world: World) -> list[WorkloadEndpoint | HostEndpoint]:
    return [
        each
        for each in world.values()
        if isinstance(each, WorkloadEndpoint | HostEndpoint) and each.spec.node == "node-1"
    ]


def applies(world: World, policy: NetworkPolicy | GlobalNetworkPolicy, endpoint: Resource) -> bool:
    labels = labels_of(world, endpoint)
    namespace = policy.metadata.namespace
    if namespace and labels.get("projectcalico.org/namespace") != namespace:
        return False
    return parse(policy.spec.selector).matches(labels)


def peer_matches(world: World, entity: EntityRule, namespace: str, item: Resource) -> bool:
    """Whether the positive criteria of one side, and the negated selector beside them, choose an item."""
    labels = labels_of(world, item)
    in_namespace = "projectcalico.org/namespace" in labels
    if entity.namespace_selector == "all()" and not in_namespace:
        return False
    if entity.namespace_selector == "global()" and in_namespace:
        return False
    if entity.namespace_selector == "env == 'prod'" and labels.get("pcns.env") != "prod":
        return False
    if not entity.namespace_selector and namespace and labels.get("projectcalico.org/namespace") != namespace:
        return False
    if entity.selector and not parse(entity.selector).matches(labels):
        return False
    return not (entity.not_selector and parse(entity.not_selector).matches(labels))


def check_side(
    world: World,
    view: NodeView,
    entity: EntityRule,
    namespace: str,
    protocol: str,
    said: dict[str, tuple[str, ...]],
) -> None:
    positive = entity.selector or entity.namespace_selector or (namespace and entity.not_selector)
    chosen = [item for item in items(world) if peer_matches(world, entity, namespace, item)]
    named = [port for port in entity.ports if isinstance(port, str)]
    if positive and (not named or len(named) < len(entity.ports)):
        (set_id,) = said["sets"]
        assert view.sets[set_id] == set().union(*map(nets_of, chosen))
    else:
        assert said["sets"] == ()
    if entity.not_selector and not positive:
        (set_id,) = said["not_sets"]
        refused = [
            item for item in items(world) if parse(entity.not_selector).matches(labels_of(world, item))
        ]
        assert view.sets[set_id] == set().union(*map(nets_of, refused))
    else:
        assert said["not_sets"] == ()
    assert len(said["named"]) == len(named)
    for name, set_id in zip(named, said["named"], strict=True):
        expected = {
            f"{net},{protocol.lower()}:{port.port}"
            for item in (chosen if positive else items(world))
            if isinstance(item, WorkloadEndpoint | HostEndpoint)
            for port in item.spec.ports
            if port.name == name and port.protocol == protocol
            for net in nets_of(item)
        }
        assert view.sets[set_id] == expected


def check_rules(
    world: World, view: NodeView, source: Resource, rules: tuple[object, ...], said: object
) -> None:
    assert isinstance(said, tuple)
    assert len(rules) == len(said)
    for rule, active in zip(rules, said, strict=True):
        assert isinstance(active, ActiveRule)
        for side, entity in (("src", rule.source), ("dst", rule.destination)):  # type: ignore[attr-defined]  # a Rule
            fields = {
                "sets": getattr(active, f"{side}_sets"),
                "not_sets": getattr(active, f"not_{side}_sets"),
                "named": getattr(active, f"{side}_named_port_sets"),
            }
            protocol = str(rule.protocol)  # type: ignore[attr-defined]  # a Rule
            check_side(world, view, entity, source.metadata.namespace, protocol, fields)


def check_policies(world: World, view: NodeView) -> None:
    policies = [each for each in world.values() if isinstance(each, NetworkPolicy | GlobalNetworkPolicy)]
    matching = {
        endpoint.key: [policy for policy in policies if applies(world, policy, endpoint)]
        for endpoint in local_endpoints(world)
    }
    active = {policy.key: policy for found in matching.values() for policy in found}
    assert view.policies.keys() == active.keys()
    for key, policy in active.items():
        check_rules(world, view, policy, policy.spec.ingress, view.policies[key].inbound)
        check_rules(world, view, policy, policy.spec.egress, view.policies[key].outbound)

    assert view.endpoints.keys() == matching.keys()
    for key, found in matching.items():
        said = [(tier.tier, policy) for tier in view.endpoints[key].tiers for policy in tier.ingress]
        expected = sorted(
            (tier_place(world, policy.spec.tier), order(policy), policy.spec.tier, policy.key)
            for policy in found
            if policy.spec.ingress or not policy.spec.egress
        )
        assert said == [(tier, policy_key) for _, _, tier, policy_key in expected]


def tier_place(world: World, name: str) -> tuple[bool, float, str]:
    tier = world.get(ResourceKey("Tier", "", name))
    if isinstance(tier, Tier):
        return False, math.inf if tier.spec.order is None else tier.spec.order, name
    return (False, 1e6, name) if name == "default" else (True, math.inf, name)


def order(policy: NetworkPolicy | GlobalNetworkPolicy) -> tuple[float, str]:
    key = policy.key
    place = math.inf if policy.spec.order is None else policy.spec.order
    return place, f"{key.name}/{key.namespace}/{key.kind}"


def check_profiles(world: World, view: NodeView) -> None:
    used = {name for endpoint in local_endpoints(world) for name in endpoint.spec.profiles}
    known = {each.metadata.name: each for each in world.values() if isinstance(each, Profile)}
    assert view.profiles.keys() == used & known.keys()
    for name, said in view.profiles.items():
        check_rules(world, view, known[name], known[name].spec.ingress, said.inbound)


def check_routes(world: World, view: NodeView) -> None:
    addresses = {
        each.metadata.name: each.spec.bgp.ipv4_address.partition("/")[0]
        for each in world.values()
        if isinstance(each, Node) and each.spec.bgp is not None
    }
    block_node = {
        each.spec.cidr: (each.spec.affinity or "").removeprefix("host:")
        for each in world.values()
        if isinstance(each, IPAMBlock)
    }
    owners: dict[str, set[str]] = {}
    for each in world.values():
        if isinstance(each, WorkloadEndpoint):
            for net in each.spec.ip_networks:
                owners.setdefault(net, set()).add(each.spec.node)
    expected: dict[str, tuple[str, str, str]] = {}
    for cidr, node in block_node.items():
        if node == "node-1":
            expected[cidr] = ("local-block", node, "")
        elif addresses.get(node):
            expected[cidr] = ("remote-block", node, addresses[node])
    host_owners: dict[str, list[str]] = {}
    for node, address in addresses.items():
        host_owners.setdefault(address, []).append(node)
    for address, nodes in host_owners.items():
        if "node-1" not in nodes:
            expected[f"{address}/32"] = ("remote-host", min(nodes), address)
    for net, nodes_of_net in owners.items():
        expected.pop(net, None)
        if "node-1" in nodes_of_net:
            expected[net] = ("local-workload", "node-1", "")
            continue
        node = min(nodes_of_net)
        last = int(net.partition("/")[0].rpartition(".")[2]) if "." in net else 0
        around = "" if ":" in net else "10.0.0.0/26" if last < 64 else "10.0.0.64/26"
        if ":" not in net and addresses.get(node) and block_node.get(around) != node:
            expected[net] = ("remote-workload", node, addresses[node])
    found = {dst: (route.kind.value, route.node, route.next_hop) for dst, route in view.routes.items()}
    assert found == expected


@settings(max_examples=100, deadline=None)
@given(STEPS)
def test_graph_says_what_a_calculation_from_nothing_would(steps: list[tuple[Resource | int, bool]]) -> None:
    world: dict[ResourceKey, Resource] = {}
    graph, view = CalcGraph("node-1"), NodeView()
    graph.on_status(SyncStatus.IN_SYNC)

    for step, flush in steps:
        if isinstance(step, Resource):
            world[step.key] = step
            graph.on_updates([Update(step.key, step)])
        elif world:
            key = sorted(world)[step % len(world)]
            del world[key]
            graph.on_updates([Update(key, None)])
        if flush:
            view.apply(graph.flush())
            check_policies(world, view)
            check_profiles(world, view)
            check_routes(world, view)
            assert graph.flush() is None
    assert graph.rejected == []
