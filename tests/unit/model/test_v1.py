"""Manifests of Calico 2 become v3 resources that mean the same."""

import pytest

from calico_engine.errors import ValidationError
from calico_engine.model import (
    Action,
    BGPPeer,
    EncapMode,
    GlobalNetworkPolicy,
    HostEndpoint,
    IPPool,
    PolicyType,
    Profile,
    Resource,
    WorkloadEndpoint,
    load,
)
from calico_engine.model.v1 import CONVERTED_FROM, convert_name


def load_one(kind: str, metadata: dict[str, object], spec: dict[str, object] | None = None) -> Resource:
    (resource,) = load({"apiVersion": "v1", "kind": kind, "metadata": metadata, "spec": spec or {}})
    return resource


def workload(**metadata: object) -> WorkloadEndpoint:
    defaults = {"name": "eth0", "workload": "w", "orchestrator": "cni", "node": "node-1"}
    endpoint = load_one(
        "workloadEndpoint", {**defaults, **metadata}, {"interfaceName": "cali1", "ipNetworks": ["10.0.0.1"]}
    )
    assert isinstance(endpoint, WorkloadEndpoint)
    return endpoint


def error_of(
    kind: str, metadata: dict[str, object], spec: dict[str, object] | None = None
) -> ValidationError:
    with pytest.raises(ValidationError) as caught:
        load_one(kind, metadata, spec)
    return caught.value


def test_kubernetes_workload_names_namespace_and_pod() -> None:
    endpoint = workload(orchestrator="k8s", workload="shop.web-1")

    assert endpoint.metadata.namespace == "shop"
    assert (endpoint.spec.pod, endpoint.spec.workload) == ("web-1", "shop.web-1")
    assert endpoint.metadata.name == "node--1-k8s-web--1-eth0"


def test_other_workloads_go_to_default() -> None:
    endpoint = workload(orchestrator="libnetwork", workload="libnetwork", name="0a1b")

    assert endpoint.metadata.namespace == "default"
    assert endpoint.metadata.name == "node--1-libnetwork-libnetwork-0a1b"


def test_endpoint_identifiers_stay_as_written() -> None:
    endpoint = workload(name="Eth_0", workload="W_1", orchestrator="mesos")

    assert (endpoint.spec.endpoint, endpoint.spec.workload) == ("Eth_0", "W_1")
    assert endpoint.metadata.name.startswith("node-1-mesos-w-1-eth-0-")
    assert endpoint.metadata.annotations == {CONVERTED_FROM: "v1"}


@pytest.mark.parametrize("field", ["name", "workload", "orchestrator", "node"])
def test_endpoint_identifiers_are_required(field: str) -> None:
    metadata: dict[str, object] = {
        "name": "eth0",
        "workload": "w",
        "orchestrator": "cni",
        "node": "n",
        field: "",
    }

    assert error_of("workloadEndpoint", metadata).path == f"metadata.{field}"


def test_hostile_endpoint_identifiers_are_refused() -> None:
    metadata: dict[str, object] = {
        "name": "eth0",
        "workload": "w\n-j ACCEPT",
        "orchestrator": "cni",
        "node": "n",
    }

    assert error_of("workloadEndpoint", metadata).path == "spec.workload"


def test_names_that_v3_does_not_allow_are_made_unique() -> None:
    assert convert_name("plain.name-1") == "plain.name-1"
    assert convert_name("k8s_ns.default") == "kns.default"
    assert convert_name("My_Profile") != convert_name("my_profile")
    assert convert_name("My_Profile").startswith("my-profile-")


def test_node_names_are_lower_case_wherever_they_stand() -> None:
    node = load_one("node", {"name": "Rack1-Host1"})
    host = load_one("hostEndpoint", {"node": "Rack1-Host1", "name": "eth0"}, {"interfaceName": "eth0"})

    assert isinstance(host, HostEndpoint)
    assert node.metadata.name == "rack1-host1"
    assert (host.spec.node, workload(node="Rack1-Host1").spec.node) == ("rack1-host1", "rack1-host1")


@pytest.mark.parametrize("network", ["0.0.0.0/0", "128.0.0.0/1", "::/0"])
def test_an_endpoint_may_not_take_the_nodes_default_route(network: str) -> None:
    manifest = {
        "apiVersion": "v1",
        "kind": "workloadEndpoint",
        "metadata": {"name": "eth0", "workload": "w", "orchestrator": "o", "node": "n"},
        "spec": {"interfaceName": "cali1", "ipNetworks": [network]},
    }

    with pytest.raises(ValidationError, match=r"spec\.ipNetworks\[0\]: .* holds several addresses"):
        load(manifest)


def test_endpoint_and_profile_agree_on_a_converted_name() -> None:
    profile = load_one("profile", {"name": "My_Profile"})
    endpoint = load_one(
        "workloadEndpoint",
        {"name": "eth0", "workload": "w", "orchestrator": "cni", "node": "n"},
        {"profiles": ["My_Profile"]},
    )

    assert isinstance(endpoint, WorkloadEndpoint)
    assert endpoint.spec.profiles == (profile.metadata.name,)


def test_tags_become_labels_and_rules_select_them() -> None:
    profile = load_one(
        "profile",
        {"name": "net1", "tags": ["net1"], "labels": {"a": "b"}},
        {"ingress": [{"action": "allow", "source": {"tag": "net1", "selector": "a == 'b'"}}]},
    )

    assert isinstance(profile, Profile)
    assert profile.spec.labels_to_apply == {"net1": "", "a": "b"}
    assert profile.spec.ingress[0].source.selector == "(a == 'b') && has(net1)"


def test_policy_keeps_order_types_and_flags() -> None:
    policy = load_one(
        "policy",
        {"name": "p"},
        {
            "order": 10,
            "selector": "all()",
            "types": ["ingress", "egress"],
            "doNotTrack": True,
            "ingress": [
                {"action": "deny", "source": {"net": "10.0.0.1/8", "notNets": ["10.1.0.0/16"]}},
                {"action": "pass", "protocol": "udp", "destination": {"ports": [53, "100:200"]}},
                {"action": "log", "icmp": {"type": 8}, "protocol": "icmp"},
            ],
        },
    )

    assert isinstance(policy, GlobalNetworkPolicy)
    assert (policy.spec.order, policy.spec.types) == (10, (PolicyType.INGRESS, PolicyType.EGRESS))
    assert (policy.spec.do_not_track, policy.spec.apply_on_forward) == (True, True)
    assert [rule.action for rule in policy.spec.ingress] == [Action.DENY, Action.PASS, Action.LOG]
    assert policy.spec.ingress[0].source.nets == ("10.0.0.0/8",)
    assert policy.spec.ingress[1].destination.ports == (53, "100:200")
    assert policy.spec.ingress[2].protocol == "ICMP"


def test_policy_with_many_dots_in_its_name_gets_an_allowed_one() -> None:
    policy = load_one("policy", {"name": "knp.default.shop.deny"})

    assert policy.metadata.name.startswith("knp-default-shop-deny-")


def test_pool_is_named_after_its_cidr() -> None:
    pool = load_one("ipPool", {"cidr": "fd80:24e2:f998:72d6::/64"}, {"nat-outgoing": True})

    assert isinstance(pool, IPPool)
    assert pool.metadata.name == "fd80-24e2-f998-72d6-64"
    assert (pool.spec.ipip_mode, pool.spec.nat_outgoing) == (EncapMode.NEVER, True)


def test_ipip_without_mode_is_always() -> None:
    pool = load_one("ipPool", {"cidr": "10.0.0.0/16"}, {"ipip": {"enabled": True}})

    assert isinstance(pool, IPPool)
    assert pool.spec.ipip_mode is EncapMode.ALWAYS


def test_host_endpoint_is_named_by_node_and_name() -> None:
    host = load_one("hostEndpoint", {"node": "n1", "name": "eth0"}, {"expectedIPs": ["192.0.2.1"]})

    assert isinstance(host, HostEndpoint)
    assert (host.metadata.name, host.spec.node, host.spec.expected_ips) == ("n1.eth0", "n1", ("192.0.2.1",))


def test_global_peer_belongs_to_no_node() -> None:
    peer = load_one("bgpPeer", {"scope": "global", "peerIP": "192.0.2.9"}, {"asNumber": "1.10"})

    assert isinstance(peer, BGPPeer)
    assert (peer.metadata.name, peer.spec.node, peer.spec.as_number) == ("global.peer-192-0-2-9", "", "1.10")


@pytest.mark.parametrize(
    ("kind", "metadata", "spec", "path", "reason"),
    [
        ("policy", {"name": "p"}, {"ingress": [{"action": "Allow"}]}, "spec.ingress[0].action", "did you mean allow?"),
        ("policy", {"name": "p"}, {"ingress": [{}]}, "spec.ingress[0].action", "is required"),
        ("policy", {"name": "p"}, {"types": ["Ingress"]}, "spec.types[0]", "did you mean ingress?"),
        ("policy", {"name": "p"}, {"ingress": [{"action": "allow", "source": {"net": "x"}}]},
         "spec.ingress[0].source.nets[0]", "'x' is neither"),
        ("policy", {"name": "p"}, {"ingress": [{"action": "allow", "source": {"net": "10.0.0.0/8", "nets": ["x"]}}]},
         "spec.ingress[0].source.net", "together with its plural"),
        ("policy", {"name": ""}, {}, "metadata.name", "is required"),
        ("profile", {"name": "p", "tag": ["x"]}, {}, "metadata.tag", "did you mean 'tags'?"),
        ("ipPool", {"cidr": "10.0.0.0/16"}, {"natOutgoing": True}, "spec.natOutgoing", "did you mean 'nat-outgoing'?"),
        ("ipPool", {"cidr": "10.0.0.0/16"}, {"ipip": {"enabled": True, "mode": "Always"}}, "spec.ipip.mode",
         "did you mean always?"),
        ("ipPool", {}, {}, "metadata.cidr", "is required"),
        ("ipPool", {"cidr": "x"}, {}, "metadata.cidr", "neither an IP address nor a CIDR"),
        ("bgpPeer", {"scope": "node", "peerIP": "192.0.2.1"}, {}, "metadata.node", "is required"),
        ("bgpPeer", {"scope": "rack", "peerIP": "192.0.2.1"}, {}, "metadata.scope", "is not one of global, node"),
        ("bgpPeer", {"scope": "global", "node": "n", "peerIP": "192.0.2.1"}, {}, "metadata.node", "must be absent"),
        ("hostEndpoint", {"name": "eth0"}, {}, "metadata.node", "is required"),
        ("node", {"name": "n"}, {"bgp": {"asNumber": "x"}}, "spec.bgp.asNumber", "is not an AS number"),
    ],
)  # fmt: skip
def test_what_v1_does_not_allow(
    kind: str, metadata: dict[str, object], spec: dict[str, object], path: str, reason: str
) -> None:
    error = error_of(kind, metadata, spec)

    assert error.path == path
    assert reason in error.reason
