"""The graph's seams: bad resources, settings, nodes, pools and tunnels, and what a change costs in messages."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import pytest

from calico_engine.calc import CalcGraph
from calico_engine.errors import ConfigError
from calico_engine.messages import (
    IPSetDelta,
    Message,
    NodeUpdate,
    PoolEncap,
    PoolUpdate,
    RouteKind,
    VtepUpdate,
    WorkloadEndpointUpdate,
)
from calico_engine.model import (
    EncapMode,
    FelixConfiguration,
    IPPool,
    Node,
    Resource,
    Rule,
    StagedGlobalNetworkPolicy,
    WorkloadEndpoint,
)
from calico_engine.model.node import AllocationAttribute, IPPoolSpec, NodeBGPSpec, NodeSpec
from calico_engine.model.policy import Action, RuleMetadata
from calico_engine.model.resource import Metadata
from calico_engine.plugin.protocols import SyncStatus, Update
from calico_engine.settings import FelixSettings
from calico_engine.testing import (
    make_block,
    make_endpoint,
    make_global_network_set,
    make_global_policy,
    make_host_endpoint,
    make_node,
    make_policy,
    make_pool,
    make_profile,
    make_rule,
)
from calico_engine.testing.node_view import NodeView


class Cluster:
    """A graph and what a plugin behind it knows."""

    def __init__(self, graph: CalcGraph | None = None) -> None:
        self.graph = graph or CalcGraph("node-1")
        self.view = NodeView()
        self.graph.on_status(SyncStatus.IN_SYNC)

    def put(self, *resources: Resource) -> tuple[Message, ...]:
        return self.update(*[Update(resource.key, resource) for resource in resources])

    def delete(self, *resources: Resource) -> tuple[Message, ...]:
        return self.update(*[Update(resource.key, None) for resource in resources])

    def update(self, *updates: Update) -> tuple[Message, ...]:
        self.graph.on_updates(updates)
        batch = self.graph.flush()
        self.view.apply(batch)
        return () if batch is None else batch.messages


# -- bad resources ---------------------------------------------------------------------------------------------------


def test_a_wrong_resource_counts_as_absent_and_is_named() -> None:
    cluster = Cluster()
    good = make_global_policy("p", selector="all()", ingress=[make_rule()])
    bad = make_global_policy("p", selector="a ==", ingress=[make_rule()])
    cluster.put(make_endpoint(), good)

    cluster.put(bad)

    assert not cluster.view.policies
    (error,) = cluster.graph.rejected
    assert error.key == str(bad.key)
    assert cluster.graph.invalid.keys() == {bad.key}

    cluster.put(good)

    assert cluster.view.policies.keys() == {good.key}
    assert cluster.graph.rejected == []
    assert not cluster.graph.invalid


def test_an_update_with_an_error_counts_as_absent() -> None:
    cluster = Cluster()
    endpoint = make_endpoint()
    cluster.put(endpoint)

    cluster.update(Update(endpoint.key, None, error="truncated YAML"))

    assert not cluster.view.endpoints
    assert "truncated YAML" in str(cluster.graph.rejected[0])


@pytest.mark.parametrize(
    "resource",
    [
        make_global_policy("x", selector="(" * 2000),
        make_global_policy("x", ingress=[make_rule(nets=["not a net"])]),
        make_global_policy("x", ingress=[make_rule(selector="-j ACCEPT")]),
        make_global_network_set("x", nets=["10.0.0.0/33"]),
        make_endpoint("x", ip="10.0.0.999"),
        make_host_endpoint("x", expected_ips=["nowhere"]),
        make_pool("x", cidr="10.0.0.0/99"),
        make_node("x", ipv4="192.0.2.1/99"),
        make_block("10.0.0.0/26", node="node-2").__class__(metadata=Metadata(name="x")),
    ],
)
@pytest.mark.parametrize("validating", [True, False])
def test_wrong_resources_never_stop_the_graph(resource: Resource, validating: bool) -> None:
    graph = CalcGraph("node-1") if validating else CalcGraph("node-1", validate=None)
    cluster = Cluster(graph)

    cluster.put(resource, make_endpoint("fine"))

    assert [key.name for key in cluster.view.endpoints] == ["fine"]
    if validating:
        assert resource.key in graph.invalid


def test_an_unreadable_rule_denies_where_nobody_validates() -> None:
    cluster = Cluster(CalcGraph("node-1", validate=None))
    policy = make_global_policy("p", ingress=[make_rule(), make_rule(nets=["nonsense"])])

    cluster.put(make_endpoint(), policy)

    said = cluster.view.policies[policy.key]
    assert [rule.action for rule in said.inbound + said.outbound] == [Action.DENY, Action.DENY]
    assert cluster.graph.rejected


def test_kinds_without_meaning_here_are_skipped() -> None:
    cluster = Cluster()

    cluster.put(make_endpoint(), StagedGlobalNetworkPolicy(metadata=Metadata(name="staged")))

    assert not cluster.view.policies
    assert not cluster.graph.rejected


def test_annotated_rules_are_read() -> None:
    rule = Rule(action=Action.ALLOW, metadata=RuleMetadata(annotations={"why": "because"}))
    policy = make_global_policy("p", ingress=[rule])
    cluster = Cluster()

    cluster.put(make_endpoint(), policy)

    assert [each.action for each in cluster.view.policies[policy.key].inbound] == [Action.ALLOW]


# -- endpoints -------------------------------------------------------------------------------------------------------


def test_an_endpoint_without_address_or_interface_is_not_programmed() -> None:
    no_address = make_endpoint("a", ip=())
    no_interface = msgspec.structs.replace(
        make_endpoint("b"), spec=msgspec.structs.replace(make_endpoint("b").spec, interface_name="")
    )
    cluster = Cluster(CalcGraph("node-1", validate=None))

    cluster.put(no_address, no_interface)

    assert not cluster.view.endpoints
    assert [error.path for error in cluster.graph.rejected] == ["spec.interfaceName"]


def test_a_workload_cannot_claim_another_namespace_or_its_labels() -> None:
    liar = make_endpoint(
        "liar",
        namespace="default",
        labels={
            "projectcalico.org/namespace": "kube-system",
            "pcns.env": "prod",
            "pcsa.role": "admin",
            "app": "x",
        },
    )
    cluster = Cluster(CalcGraph("node-1", validate=None))

    cluster.put(liar, make_policy("p", namespace="kube-system"), make_policy("q", namespace="default"))

    said = cluster.view.endpoints[liar.key]
    assert isinstance(said, WorkloadEndpointUpdate)
    assert said.labels == {
        "projectcalico.org/namespace": "default",
        "projectcalico.org/orchestrator": "cni",
        "app": "x",
    }
    assert [key.name for key in cluster.view.policies] == ["q"]


def test_an_endpoint_that_moves_to_another_node_leaves() -> None:
    cluster = Cluster()
    cluster.put(make_endpoint(), make_node("node-2", ipv4="192.0.2.2/24"))

    cluster.put(make_endpoint(node="node-2"))

    assert not cluster.view.endpoints
    assert cluster.view.routes["10.65.0.1/32"].kind is RouteKind.REMOTE_WORKLOAD


def test_the_default_allow_profile_needs_no_storing() -> None:
    cluster = Cluster()
    stored = make_profile("projectcalico-default-allow")

    cluster.put(make_endpoint(profiles=["projectcalico-default-allow"]))
    cluster.put(stored)
    cluster.delete(stored)

    (profile,) = cluster.view.profiles.values()
    assert [rule.action for rule in profile.inbound + profile.outbound] == [Action.ALLOW, Action.ALLOW]


# -- settings --------------------------------------------------------------------------------------------------------


def resolve(global_: Mapping[str, str], node: Mapping[str, str]) -> FelixSettings:
    values = {**global_, **node}
    if "LogPrefix" in values and not values["LogPrefix"]:
        raise ConfigError("empty prefix", key="LogPrefix")
    return FelixSettings(
        log_prefix=values.get("LogPrefix", "calico-packet"),
        workload_source_spoofing=values.get("WorkloadSourceSpoofing", "Disabled"),
    )


def felix(name: str, **spec: object) -> FelixConfiguration:
    return FelixConfiguration(metadata=Metadata(name=name), spec=spec)


def test_settings_come_first_and_this_nodes_win() -> None:
    cluster = Cluster(CalcGraph("node-1", config=resolve, validate=None))

    messages = cluster.put(
        make_endpoint(), felix("default", LogPrefix="all"), felix("node.node-2", LogPrefix="two")
    )

    assert messages[0] is not None
    assert cluster.view.settings == FelixSettings(log_prefix="all")

    cluster.put(felix("node.node-1", LogPrefix="one"))

    assert cluster.view.settings == FelixSettings(log_prefix="one")


def test_wrong_settings_leave_the_old_ones_in_force() -> None:
    cluster = Cluster(CalcGraph("node-1", config=resolve, validate=None))
    cluster.put(felix("default", LogPrefix="good"))

    cluster.put(felix("default", LogPrefix=""))

    assert cluster.view.settings == FelixSettings(log_prefix="good")
    assert cluster.graph.rejected


def test_spoofed_sources_are_only_for_nodes_that_allow_them() -> None:
    endpoint = make_endpoint()
    spoofing: WorkloadEndpoint = msgspec.structs.replace(
        endpoint,
        spec=msgspec.structs.replace(endpoint.spec, allow_spoofed_source_prefixes=("10.9.0.0/16",)),
    )
    cluster = Cluster(CalcGraph("node-1", config=resolve, validate=None))
    cluster.put(spoofing)
    assert not cluster.view.endpoints
    assert cluster.graph.invalid

    cluster.put(felix("default", WorkloadSourceSpoofing="Any"))
    assert cluster.view.endpoints.keys() == {endpoint.key}
    assert not cluster.graph.invalid

    cluster.put(felix("default", WorkloadSourceSpoofing="Disabled"))
    assert not cluster.view.endpoints

    cluster.delete(spoofing)
    cluster.put(felix("default", WorkloadSourceSpoofing="Any"))
    assert not cluster.view.endpoints


# -- nodes, pools, tunnels, routes -----------------------------------------------------------------------------------


def test_node_with_tunnels() -> None:
    spec = NodeSpec(
        bgp=NodeBGPSpec(
            ipv4_address="192.0.2.2/24", ipv6_address="2001:DB8::2/64", ipv4_ipip_tunnel_addr="10.65.1.0"
        ),
        ipv4_vxlan_tunnel_addr="10.65.1.1",
        ipv6_vxlan_tunnel_addr="fd00::1",
        vxlan_tunnel_mac_addr_v6="66:00:00:00:00:01",
    )
    cluster = Cluster()

    cluster.put(Node(metadata=Metadata(name="node-2"), spec=spec))

    assert cluster.view.nodes["node-2"] == NodeUpdate(
        node="node-2",
        ipv4_address="192.0.2.2",
        ipv4_network="192.0.2.0/24",
        ipv6_address="2001:db8::2",
        ipv6_network="2001:db8::/64",
        ipip_tunnel_address="10.65.1.0",
    )
    assert cluster.view.vteps["node-2"] == VtepUpdate(
        node="node-2",
        parent_ipv4="192.0.2.2",
        ipv4_address="10.65.1.1",
        # 66, and what `printf node-2 | sha1sum` begins with.
        mac="66:c0:93:2e:56:2c",
        parent_ipv6="2001:db8::2",
        ipv6_address="fd00::1",
        mac_v6="66:00:00:00:00:01",
    )

    cluster.put(make_node("node-2", ipv4="192.0.2.2/24"))
    assert not cluster.view.vteps


@pytest.mark.parametrize(
    ("mode", "same_subnet", "encap"),
    [
        (EncapMode.NEVER, True, PoolEncap.NONE),
        (EncapMode.ALWAYS, True, PoolEncap.IPIP),
        (EncapMode.CROSS_SUBNET, True, PoolEncap.NONE),
        (EncapMode.CROSS_SUBNET, False, PoolEncap.IPIP),
    ],
)
def test_cross_subnet_only_tunnels_between_subnets(
    mode: EncapMode, same_subnet: bool, encap: PoolEncap
) -> None:
    other = "192.0.2.2/24" if same_subnet else "198.51.100.2/24"
    cluster = Cluster()

    cluster.put(
        make_block("10.65.1.0/26", node="node-2"),
        make_pool(ipip_mode=mode, nat_outgoing=True),
        make_node("node-2", ipv4=other),
    )
    cluster.put(make_node("node-1", ipv4="192.0.2.1/24"))

    route = cluster.view.routes["10.65.1.0/26"]
    assert (route.encap, route.same_subnet, route.nat_outgoing) == (encap, same_subnet, True)
    assert cluster.view.pools["10.65.0.0/16"] == PoolUpdate(
        cidr="10.65.0.0/16",
        nat_outgoing=True,
        encap=PoolEncap.NONE if mode is EncapMode.NEVER else PoolEncap.IPIP,
        cross_subnet=mode is EncapMode.CROSS_SUBNET,
    )


def test_a_pool_that_comes_later_changes_the_routes_inside() -> None:
    cluster = Cluster()
    encaps = []
    cluster.put(make_block("10.65.1.0/26", node="node-2"), make_node("node-2", ipv4="192.0.2.2/24"))
    encaps.append(cluster.view.routes["10.65.1.0/26"].encap)

    cluster.put(make_pool(vxlan_mode=EncapMode.ALWAYS))
    encaps.append(cluster.view.routes["10.65.1.0/26"].encap)
    cluster.delete(make_pool())
    encaps.append(cluster.view.routes["10.65.1.0/26"].encap)

    assert encaps == [PoolEncap.NO_POOL, PoolEncap.VXLAN, PoolEncap.NO_POOL]
    assert not cluster.view.pools


def test_pools_for_load_balancers_are_not_part_of_the_network() -> None:
    cluster = Cluster()
    pool = IPPool(
        metadata=Metadata(name="lb"), spec=IPPoolSpec(cidr="10.99.0.0/16", allowed_uses=("LoadBalancer",))
    )

    cluster.put(pool)

    assert not cluster.view.pools


def test_borrowed_addresses_are_routed_one_by_one() -> None:
    block = make_block("10.65.1.0/26", node="node-2")
    allocations = (0, 1, *block.spec.allocations[2:])
    owners = tuple([AllocationAttribute(active_owner_attrs={"node": node}) for node in ("node-2", "node-3")])
    spec = msgspec.structs.replace(block.spec, allocations=allocations, attributes=owners)
    cluster = Cluster()

    cluster.put(
        msgspec.structs.replace(block, spec=spec),
        make_node("node-2", ipv4="192.0.2.2/24"),
        make_node("node-3", ipv4="192.0.2.3/24"),
    )

    borrowed = cluster.view.routes["10.65.1.1/32"]
    assert (borrowed.kind, borrowed.node, borrowed.borrowed) == (RouteKind.REMOTE_WORKLOAD, "node-3", True)
    assert "10.65.1.0/32" not in cluster.view.routes


def test_routes_of_both_families() -> None:
    cluster = Cluster()

    cluster.put(
        make_endpoint("local", ip=["10.65.0.1", "fd00::1"]),
        make_endpoint("remote", ip=["10.65.1.1", "fd00::2"], node="node-2"),
        make_node("node-2", ipv4="192.0.2.2/24", ipv6="2001:db8::2/64"),
    )

    found = {dst: (route.kind, route.next_hop) for dst, route in cluster.view.routes.items()}
    assert found == {
        "10.65.0.1/32": (RouteKind.LOCAL_WORKLOAD, ""),
        "fd00::1/128": (RouteKind.LOCAL_WORKLOAD, ""),
        "10.65.1.1/32": (RouteKind.REMOTE_WORKLOAD, "192.0.2.2"),
        "fd00::2/128": (RouteKind.REMOTE_WORKLOAD, "2001:db8::2"),
        "192.0.2.2/32": (RouteKind.REMOTE_HOST, "192.0.2.2"),
        "2001:db8::2/128": (RouteKind.REMOTE_HOST, "2001:db8::2"),
    }


# -- cost ------------------------------------------------------------------------------------------------------------


def test_a_new_pod_is_one_difference() -> None:
    cluster = Cluster()
    cluster.put(
        make_endpoint("web", labels={"app": "web"}),
        make_global_policy("p", selector="app == 'web'", ingress=[make_rule(selector="app == 'db'")]),
    )

    messages = cluster.put(make_endpoint("db", ip="10.65.1.1", labels={"app": "db"}, node="node-2"))

    (delta,) = messages
    assert isinstance(delta, IPSetDelta)
    assert delta.added == {"10.65.1.1"}
    assert not delta.removed


def test_labels_that_no_policy_asks_for_cost_nothing() -> None:
    cluster = Cluster()
    cluster.put(
        make_endpoint("db", labels={"app": "db"}, node="node-2"),
        make_endpoint("web", ip="10.65.0.2", labels={"app": "web"}),
        make_global_policy("p", selector="app == 'web'", ingress=[make_rule(selector="app == 'db'")]),
    )

    assert cluster.put(make_endpoint("db", labels={"app": "db", "version": "2"}, node="node-2")) == ()
    assert cluster.put(make_profile("unused", labels_to_apply={"a": "b"})) == ()
