"""What a lab is made of, from manifests alone."""

import pytest

from calico_engine.errors import ConfigError
from calico_engine.lab.plan import default_resources, gateway_for, make_plan, namespace_name
from calico_engine.model import Resource, load

NODE = """\
apiVersion: projectcalico.org/v3
kind: Node
metadata: {{name: {name}}}
spec: {{bgp: {{ipv4Address: {address}}}}}
"""
ENDPOINT = """\
apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: {{name: {node}-k8s-{pod}-eth0, namespace: {namespace}}}
spec:
  node: {node}
  orchestrator: k8s
  pod: {pod}
  endpoint: eth0
  interfaceName: {interface}
  ipNetworks: [{network}]
"""


def node(name: str, address: str) -> Resource:
    return load(NODE.format(name=name, address=address))[0]


def endpoint(
    pod: str = "web",
    on: str = "n1",
    interface: str = "cali1",
    network: str = "10.0.0.1/32",
    namespace: str = "default",
) -> Resource:
    text = ENDPOINT.format(node=on, pod=pod, interface=interface, network=network, namespace=namespace)
    return load(text)[0]


def test_nodes_that_endpoints_name_get_addresses() -> None:
    plan, added = make_plan(
        "lab", "standalone", [endpoint(on="n1"), endpoint("db", on="n2", interface="cali2")]
    )

    assert [n.name for n in plan.nodes] == ["n1", "n2"]
    assert [n.metadata.name for n in added] == ["n1", "n2"]
    assert plan.nodes[0].networks == ("10.99.0.1/16", "fd00:99::1/64")


def test_a_nodes_own_address_is_kept_and_its_subnet_gets_a_gateway() -> None:
    plan, added = make_plan(
        "lab", "standalone", [node("n1", "192.0.2.254/24"), node("n2", "198.51.100.7/25")]
    )

    assert added == ()
    assert plan.gateways == ("192.0.2.253/24", "198.51.100.126/25")
    assert gateway_for("192.0.2.254/24", plan.gateways) == "192.0.2.253"


def test_more_nodes_than_the_manifests_name() -> None:
    plan, _ = make_plan("lab", "standalone", [node("node1", "192.0.2.1/24")], min_nodes=3)

    assert [n.name for n in plan.nodes] == ["node1", "node2", "node3"]
    assert len({n.port for n in plan.nodes}) == 3
    assert all(len(n.port) <= 15 for n in plan.nodes)


def test_subnet_without_room_for_a_gateway_is_refused() -> None:
    with pytest.raises(ConfigError, match="no address left"):
        make_plan("lab", "standalone", [node("n1", "192.0.2.1/32")])


def test_nothing_to_build_is_refused() -> None:
    with pytest.raises(ConfigError, match="no node"):
        make_plan("lab", "standalone", [])


def test_pods_are_found_by_short_and_by_full_name() -> None:
    plan, _ = make_plan(
        "lab",
        "standalone",
        [
            endpoint("web", namespace="a"),
            endpoint("web", interface="cali2", namespace="b"),
            endpoint("db", interface="cali3"),
        ],
    )

    assert [pod.name for pod in plan.pods] == ["a/n1-k8s-web-eth0", "b/n1-k8s-web-eth0", "db"]
    assert plan.pod("b/n1-k8s-web-eth0").interface == "cali2"
    assert plan.pod("default/n1-k8s-db-eth0").name == "db"
    with pytest.raises(ConfigError, match="db"):
        plan.pod("nope")


def test_endpoint_without_an_interface_of_its_own_gets_no_pod() -> None:
    plan, _ = make_plan("lab", "standalone", [endpoint("a"), endpoint("b")])

    assert [pod.name for pod in plan.pods] == ["a"]
    assert len(plan.warnings) == 1
    assert "cali1" in plan.warnings[0]


def test_names_are_safe_in_a_namespaces_name() -> None:
    assert namespace_name("a/b c") == "celab-a_b_c"


def test_default_cluster_has_pods_of_both_families_on_every_node() -> None:
    plan, _ = make_plan("lab", "standalone", default_resources(2))

    assert [pod.name for pod in plan.pods] == ["client1", "web1", "client2", "web2"]
    assert all(pod.address(4) and pod.address(6) for pod in plan.pods)
    assert len({pod.interface for pod in plan.pods}) == 4


def test_kernel_without_ipv6_gets_a_cluster_without() -> None:
    plan, added = make_plan("lab", "standalone", default_resources(1, families=(4,)), families=(4,))

    assert not [net for pod in plan.pods for net in pod.networks if ":" in net]
    assert plan.nodes[0].networks == ("10.99.0.1/16",)
    assert plan.outside == ("203.0.113.1/32",)
    assert len(added) == 1
