"""The manifests that the articles print load as they stand there."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from calico_engine.errors import ValidationError
from calico_engine.model import (
    Action,
    BGPPeer,
    EncapMode,
    GlobalNetworkPolicy,
    HostEndpoint,
    IPPool,
    Node,
    Profile,
    Resource,
    WorkloadEndpoint,
    decode,
    dump,
    encode,
    load,
)

ARTICLES = Path(__file__).parent / "articles"
# The author points at lines of a manifest: "- action: deny        <-- this rule ..."
REMARK = re.compile(r"(allow|deny) {3,}\S.*")


def printed_manifests(article: str) -> Iterator[str]:
    """Yield the text of each v1 resource or list of resources that an article prints, its remarks taken out."""
    for block in re.split(r"\n\s*\n", (ARTICLES / article).read_text()):
        if re.match(r"(- )?apiVersion: v1\nkind: (?!calicoApiConfig)|- apiVersion: v1\n", block):
            yield REMARK.sub(r"\1", block)


def load_by_kind(article: str) -> dict[str, list[Resource]]:
    by_kind: dict[str, list[Resource]] = {}
    for text in printed_manifests(article):
        if "- int: 3306" in text:
            continue  # has a test of its own
        for resource in load(text):
            by_kind.setdefault(resource.kind, []).append(resource)
    return by_kind


def test_all_manifests_of_002_load_but_the_one_with_misplaced_ports() -> None:
    by_kind = load_by_kind("002.txt")

    assert {kind: len(found) for kind, found in by_kind.items()} == {
        "BGPPeer": 1,
        "IPPool": 1,
        "Node": 1,
        "GlobalNetworkPolicy": 2,
        "Profile": 1,
        "WorkloadEndpoint": 4,
        "HostEndpoint": 1,
    }


@pytest.mark.parametrize("article", ["002.txt"])
def test_converted_manifests_survive_dump_and_encode(article: str) -> None:
    for found in load_by_kind(article).values():
        for resource in found:
            assert load(dump(resource)) == (resource,)
            assert load(dump(resource, "json")) == (resource,)
            assert decode(resource.kind, encode(resource)) == resource


def test_infrastructure_of_002_means_what_the_article_says() -> None:
    by_kind = load_by_kind("002.txt")

    (peer,) = by_kind["BGPPeer"]
    (pool,) = by_kind["IPPool"]
    (node,) = by_kind["Node"]
    (host,) = by_kind["HostEndpoint"]
    assert isinstance(peer, BGPPeer)
    assert (peer.spec.node, peer.spec.peer_ip, peer.spec.as_number) == ("rack1-host1", "192.168.1.1", 63400)
    assert isinstance(pool, IPPool)
    assert pool.metadata.name == "10-1-0-0-16"
    assert (pool.spec.cidr, pool.spec.ipip_mode, pool.spec.nat_outgoing, pool.spec.disabled) == (
        "10.1.0.0/16",
        EncapMode.CROSS_SUBNET,
        True,
        False,
    )
    assert isinstance(node, Node)
    assert node.spec.bgp is not None
    assert (node.spec.bgp.as_number, node.spec.bgp.ipv4_address) == (64512, "10.244.0.1/24")
    assert isinstance(host, HostEndpoint)
    assert (host.metadata.name, host.spec.node, host.spec.interface_name) == ("myhost.eth0", "myhost", "eth0")
    assert host.metadata.labels == {"type": "production"}
    assert host.spec.profiles == ("profile1", "profile2")


def test_endpoints_of_002_keep_labels_and_get_a_mask() -> None:
    endpoints = {
        endpoint.spec.interface_name: endpoint
        for endpoint in load_by_kind("002.txt")["WorkloadEndpoint"]
        if isinstance(endpoint, WorkloadEndpoint)
    }

    database = endpoints["cali0ef24b3"]
    assert database.metadata.labels == {"service": "database", "namespace": "default"}
    assert database.spec.ip_networks == ("172.16.1.3/32",)
    assert (database.spec.node, database.spec.workload, database.spec.endpoint) == (
        "slave2",
        "database",
        "slave2-database",
    )
    assert database.spec.orchestrator == "k8s"
    assert database.spec.profiles == ("profile-database",)
    sample = endpoints["cali0ef24ba"]
    assert sample.spec.ip_networks == ("192.168.0.0/16",)
    assert (sample.metadata.namespace, sample.spec.pod) == ("default", "frontend-5gs43")


def test_policy_of_002_becomes_a_global_policy_of_the_same_name() -> None:
    policies = {policy.metadata.name: policy for policy in load_by_kind("002.txt")["GlobalNetworkPolicy"]}

    policy = policies["namespace-default"]
    assert isinstance(policy, GlobalNetworkPolicy)
    assert policy.spec.selector == "namespace == 'default'"
    assert [rule.action for rule in policy.spec.ingress] == [Action.ALLOW]
    assert policy.spec.ingress[0].source.selector == "namespace == 'default'"
    redis = policies["allow-tcp-6379"]
    assert isinstance(redis, GlobalNetworkPolicy)
    assert (redis.spec.ingress[0].protocol, redis.spec.ingress[0].destination.ports) == ("TCP", (6379,))


def test_profile_of_002_hands_its_labels_down() -> None:
    (profile,) = load_by_kind("002.txt")["Profile"]

    assert isinstance(profile, Profile)
    assert profile.spec.labels_to_apply == {"profile": "profile1"}
    assert profile.spec.ingress[0].source.nets == ("10.0.20.0/24",)


def test_ports_beside_source_in_002_get_told_where_they_belong() -> None:
    (text,) = [text for text in printed_manifests("002.txt") if "- int: 3306" in text]

    with pytest.raises(ValidationError) as caught:
        load(text)

    assert caught.value.key == "profile(profile-database)"
    assert caught.value.path == "spec.ingress[1].ports"
    assert caught.value.reason == (
        "ports belongs under source or destination, as plain numbers: destination: {ports: [3306]}"
    )


def test_profile_of_002_loads_once_its_ports_are_in_place() -> None:
    (text,) = [text for text in printed_manifests("002.txt") if "- int: 3306" in text]
    text = text.replace("    ports:\n      - int: 3306", "    protocol: tcp\n    destination:\n      ports: [3306]")

    (profile,) = load(text)

    assert isinstance(profile, Profile)
    assert [rule.action for rule in profile.spec.ingress] == [Action.DENY, Action.ALLOW]
    assert profile.spec.ingress[1].destination.ports == (3306,)


# 003 prints its two manifests on one line; the indentation is restored here, the words are the article's.
POOL_003 = """
- apiVersion: v1
  kind: ipPool
  metadata:
    cidr: 172.33.0.0/16
  spec:
    ipip:
      enabled: true
      mode: always
    nat-outgoing: true
"""
PROFILE_003 = """
apiVersion: v1
kind: profile
metadata:
  name: k8s_ns.default
  labels:
    calico/k8s_ns: default
spec:
  ingress:
  - action: allow
  egress:
  - action: allow
"""


@pytest.mark.parametrize("manifest", [POOL_003, PROFILE_003])
def test_manifests_of_003_are_the_articles(manifest: str) -> None:
    assert " ".join(manifest.split()) in (ARTICLES / "003.txt").read_text()


def test_manifests_of_003_load() -> None:
    (pool,) = load(POOL_003)
    (profile,) = load(PROFILE_003)

    assert isinstance(pool, IPPool)
    assert (pool.spec.ipip_mode, pool.spec.nat_outgoing) == (EncapMode.ALWAYS, True)
    assert isinstance(profile, Profile)
    assert profile.metadata.name == "kns.default"
    assert profile.spec.labels_to_apply == {"calico/k8s_ns": "default"}


def test_configuration_of_calicoctl_is_no_resource() -> None:
    with pytest.raises(ValidationError, match="calicoApiConfig is the configuration file of calicoctl"):
        load("apiVersion: v1\nkind: calicoApiConfig\nmetadata:\nspec:\n  datastoreType: etcdv2\n")


def test_other_manifests_of_003_are_refused_by_kind() -> None:
    with pytest.raises(ValidationError, match="unknown kind 'ServiceAccount'"):
        load("apiVersion: v1\nkind: ServiceAccount\nmetadata:\n  name: calico-node\n")
