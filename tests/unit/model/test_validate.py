"""What the reference refuses is refused, with the field's path and what is allowed."""

import json
from collections.abc import Mapping
from typing import cast

import pytest

from calico_engine.errors import ValidationError
from calico_engine.model import KINDS, GlobalNetworkPolicy, Metadata, Resource, decode, load, validate
from calico_engine.testing import make_endpoint, make_global_policy

Json = dict[str, object]

BASES: dict[str, Json] = {
    "NetworkPolicy": {},
    "GlobalNetworkPolicy": {},
    "StagedNetworkPolicy": {},
    "StagedGlobalNetworkPolicy": {},
    "StagedKubernetesNetworkPolicy": {},
    "Tier": {"order": 10},
    "Profile": {},
    "NetworkSet": {},
    "GlobalNetworkSet": {},
    "WorkloadEndpoint": {"node": "node-1", "interfaceName": "cali1"},
    "HostEndpoint": {"node": "node-1", "interfaceName": "eth0"},
    "IPPool": {"cidr": "10.0.0.0/16"},
    "IPReservation": {},
    "Node": {},
    "IPAMBlock": {"cidr": "10.0.0.0/30"},
    "BlockAffinity": {"cidr": "10.0.0.0/26"},
    "IPAMConfiguration": {},
    "BGPPeer": {"peerIP": "192.0.2.1", "asNumber": 64512},
    "BGPConfiguration": {},
    "BGPFilter": {},
    "FelixConfiguration": {},
    "ClusterInformation": {},
    "KubeControllersConfiguration": {},
    "CalicoNodeStatus": {"node": "node-1", "classes": ["BGP"], "updatePeriodSeconds": 10},
}


def make_document(kind: str, spec: Mapping[str, object], name: str = "a", **metadata: object) -> Json:
    return {
        "apiVersion": "projectcalico.org/v3",
        "kind": kind,
        "metadata": {"name": name, **metadata},
        "spec": {**BASES[kind], **spec},
    }


def error_of(document: Json) -> ValidationError:
    with pytest.raises(ValidationError) as caught:
        load(document)
    return caught.value


@pytest.mark.parametrize("kind", sorted(BASES))
def test_a_plain_resource_of_every_kind_is_valid(kind: str) -> None:
    (resource,) = load(make_document(kind, {}))

    assert resource.kind == kind
    namespace = "default" if KINDS[kind].NAMESPACED else ""
    assert decode(kind, json.dumps(make_document(kind, {}, namespace=namespace)).encode()) == resource


def test_every_kind_but_the_handle_is_tried_here() -> None:
    assert set(BASES) == set(KINDS) - {"IPAMHandle"}


RULE_ERRORS: list[tuple[Json, str, str]] = [
    ({"ipVersion": 5}, "ipVersion", "5 is not one of 4, 6"),
    ({"protocol": "FOO"}, "protocol", "'FOO' is not one of TCP, UDP, ICMP, ICMPv6, SCTP, UDPLite, nor a number 1-255"),
    ({"protocol": 0}, "protocol", "out of range; allowed are 1-255"),
    ({"notProtocol": 256}, "notProtocol", "out of range; allowed are 1-255"),
    ({"protocol": "ICMP", "ipVersion": 6}, "protocol", "ICMP needs ipVersion 4"),
    ({"protocol": 58, "ipVersion": 4}, "protocol", "58 needs ipVersion 6"),
    ({"notProtocol": "ICMPv6", "ipVersion": 4}, "notProtocol", "ICMPv6 needs ipVersion 6"),
    ({"protocol": "TCP", "icmp": {"type": 8}}, "icmp", "needs protocol ICMP or ICMPv6"),
    ({"icmp": {"type": 8}}, "icmp", "needs protocol ICMP or ICMPv6"),
    ({"protocol": "ICMP", "icmp": {"type": 255}}, "icmp.type", "255 is out of range; allowed are 0-254"),
    ({"protocol": "ICMP", "icmp": {"type": 8, "code": 256}}, "icmp.code", "256 is out of range; allowed are 0-255"),
    ({"protocol": "ICMP", "icmp": {"code": 0}}, "icmp.type", "is required when code is given"),
    ({"protocol": "ICMP", "notICMP": {"code": 0}}, "notICMP.type", "is required when code is given"),
    ({"destination": {"ports": [80]}}, "destination.ports", "needs protocol TCP, UDP or SCTP in the same rule"),
    ({"source": {"notPorts": ["80:90"]}}, "source.notPorts", "needs protocol TCP, UDP or SCTP in the same rule"),
    ({"protocol": "ICMP", "destination": {"ports": ["http"]}}, "destination.ports", "the rule's protocol has no ports"),
    ({"protocol": "TCP", "destination": {"ports": [80, 0]}}, "destination.ports[1]", "allowed are 1-65535"),
    ({"protocol": "TCP", "destination": {"ports": ["90:80"]}}, "destination.ports[0]", "ends before it starts"),
    ({"protocol": "TCP", "source": {"ports": ["a b"]}}, "source.ports[0]", "is not a port"),
    ({"protocol": "TCP", "source": {"ports": list(range(1, 52))}}, "source.ports", "has 51 items; allowed are 50"),
    ({"source": {"nets": ["10.0.0.0/8", "x"]}}, "source.nets[1]", "'x' is neither an IP address nor a CIDR"),
    ({"source": {"nets": ["10.0.0.1/8"]}}, "source.nets[0]", "write 10.0.0.0/8"),
    ({"source": {"nets": ["10.0.0.0/8", "fd00::/8"]}}, "source.nets[1]",
     "fd00::/8 is IPv6, the rule's other CIDRs IPv4"),
    ({"source": {"nets": ["10.0.0.0/8"]}, "destination": {"notNets": ["fd00::/8"]}}, "destination.notNets[0]",
     "fd00::/8 is IPv6, the rule's other CIDRs IPv4"),
    ({"ipVersion": 6, "source": {"nets": ["10.0.0.0/8"]}}, "source.nets[0]",
     "10.0.0.0/8 is IPv4, the rule's ipVersion IPv6"),
    ({"source": {"notNets": ["0.0.0.0/0"]}}, "source.notNets[0]", "leaves no traffic"),
    ({"source": {"nets": ["10.0.0.0/8"] * 257}}, "source.nets", "has 257 items; allowed are 256"),
    ({"source": {"selector": "a = 'b'"}}, "source.selector", "character 2"),
    ({"source": {"notSelector": "global()"}}, "source.notSelector",
     "global() is allowed only in the namespaceSelector"),
    ({"source": {"selector": "a == 'b' || global()"}}, "source.selector", "global() is allowed only"),
    ({"source": {"selector": "has(" + "a" * 1100 + ")"}}, "source.selector", "is longer than 1024 characters"),
    ({"source": {"namespaceSelector": "global() && a == 'b'"}}, "source.namespaceSelector", "cannot be combined"),
    ({"source": {"serviceAccounts": {"names": ["a", "B"]}}}, "source.serviceAccounts.names[1]", "'B' is not allowed"),
    ({"source": {"serviceAccounts": {"selector": "("}}}, "source.serviceAccounts.selector", "character"),
    ({"source": {"services": {"namespace": "x"}}}, "source.services.name", "is required"),
    ({"source": {"services": {"name": "a", "namespace": "b"}, "selector": "all()"}}, "source.selector",
     "cannot be given together with services"),
    ({"source": {"services": {"name": "a", "namespace": "b"}, "notNets": ["10.0.0.0/8"]}}, "source.notNets",
     "cannot be given together with services"),
    ({"source": {"services": {"name": "a", "namespace": "b"}, "serviceAccounts": {}}}, "source.serviceAccounts",
     "cannot be given together with services"),
    ({"source": {"services": {"name": "a", "namespace": "b"}, "namespaceSelector": "all()"}},
     "source.namespaceSelector", "cannot be given together with services"),
    ({"destination": {"services": {"name": "a", "namespace": "b"}}}, "destination.services",
     "is allowed only in the source of an ingress rule"),
    ({"source": {"services": {"name": "a"}}}, "source.services.namespace", "is required in a global policy"),
    ({"action": "Deny", "http": {"methods": ["GET"]}}, "http", "is allowed in rules with action Allow only"),
    ({"protocol": "UDP", "http": {"methods": ["GET"]}}, "http", "needs protocol TCP"),
    ({"http": {"methods": ["GET", "GET"]}}, "http.methods[1]", "is listed twice"),
    ({"http": {"paths": [{"exact": "/a", "prefix": "/b"}]}}, "http.paths[0]", "needs exactly one of exact, prefix"),
    ({"http": {"paths": [{"exact": "a"}]}}, "http.paths[0]", "must begin with '/'"),
    ({"metadata": {"annotations": {"a b": "x"}}}, "metadata.annotations", "key 'a b' is not allowed"),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "path", "reason"), RULE_ERRORS)
def test_rules_of_a_policy(rule: Json, path: str, reason: str) -> None:
    error = error_of(
        make_document("GlobalNetworkPolicy", {"ingress": [{"action": "Allow"}, {"action": "Allow", **rule}]})
    )

    assert error.path == f"spec.ingress[1].{path}"
    assert reason in error.reason
    assert error.key == "GlobalNetworkPolicy(a)"


@pytest.mark.parametrize(
    "rule",
    [
        {"protocol": "tcp", "destination": {"ports": [1, "65535", "1:65535", "http"]}},
        {"destination": {"ports": ["http"]}},
        {"protocol": 132, "source": {"notPorts": [9]}},
        {"protocol": "ICMP", "icmp": {"type": 8, "code": 0}, "ipVersion": 4},
        {"source": {"namespaceSelector": "global()"}},
        {"source": {"nets": ["10.0.0.1"], "notNets": ["10.0.0.0/30"]}},
        {"source": {"services": {"name": "a", "namespace": "b"}}},
        {"protocol": "TCP", "http": {"methods": ["GET"], "paths": [{"prefix": "/a"}]}},
        {"metadata": {"annotations": {"note": "any\ntext"}}},
    ],
)
def test_rules_that_are_fine(rule: Json) -> None:
    (policy,) = load(make_document("GlobalNetworkPolicy", {"ingress": [{"action": "Allow", **rule}]}))

    assert isinstance(policy, GlobalNetworkPolicy)
    assert len(policy.spec.ingress) == 1


SPEC_ERRORS: list[tuple[str, Json, str, str]] = [
    # policies
    ("GlobalNetworkPolicy", {"order": "x"}, "spec.order", "must be a number"),
    ("GlobalNetworkPolicy", {"types": ["Ingress", "Ingress"]}, "spec.types[1]", "is listed twice"),
    ("GlobalNetworkPolicy", {"types": ["ingress"]}, "spec.types[0]", "did you mean Ingress?"),
    ("GlobalNetworkPolicy", {"selector": "a =="}, "spec.selector", "character"),
    ("GlobalNetworkPolicy", {"selector": "global()"}, "spec.selector", "global() is allowed only"),
    ("GlobalNetworkPolicy", {"namespaceSelector": "global()"}, "spec.namespaceSelector", "global() is allowed only"),
    ("GlobalNetworkPolicy", {"tier": "A b"}, "spec.tier", "'A b' is not allowed"),
    ("GlobalNetworkPolicy", {"doNotTrack": True, "preDNAT": True, "applyOnForward": True}, "spec.doNotTrack",
     "preDNAT"),
    ("GlobalNetworkPolicy", {"doNotTrack": True}, "spec.applyOnForward", "must be true when doNotTrack is true"),
    ("GlobalNetworkPolicy", {"preDNAT": True}, "spec.applyOnForward", "must be true when preDNAT is true"),
    ("GlobalNetworkPolicy", {"preDNAT": True, "applyOnForward": True, "egress": [{"action": "Allow"}]}, "spec.egress",
     "must be empty"),
    ("GlobalNetworkPolicy", {"preDNAT": True, "applyOnForward": True, "types": ["Egress"]}, "spec.types",
     "must not contain Egress"),
    ("GlobalNetworkPolicy", {"egress": [{"action": "Allow", "http": {"methods": ["GET"]}}]}, "spec.egress[0].http",
     "is allowed in ingress rules only"),
    ("GlobalNetworkPolicy", {"performanceHints": ["x"]}, "spec.performanceHints[0]", "is not one of"),
    ("GlobalNetworkPolicy", {"ingress": [{"action": "Allow"}] * 1025}, "spec.ingress",
     "has 1025 items; allowed are 1024"),
    ("NetworkPolicy", {"preDNAT": True}, "spec.preDNAT", "unknown field"),
    ("StagedNetworkPolicy", {"stagedAction": "Delete", "selector": "all()"}, "spec", "must hold nothing but"),
    ("StagedGlobalNetworkPolicy", {"stagedAction": "Delete", "order": 1}, "spec", "must hold nothing but"),
    ("StagedKubernetesNetworkPolicy", {"stagedAction": "Delete", "policyTypes": ["Ingress"]}, "spec",
     "must hold nothing but"),
    ("StagedNetworkPolicy", {"stagedAction": "delete"}, "spec.stagedAction", "did you mean Delete?"),
    ("Tier", {"defaultAction": "Allow"}, "spec.defaultAction", "Allow is not one of Deny, Pass"),
    ("Profile", {"labelsToApply": {"a": "x" * 64}}, "spec.labelsToApply.a", "is not a label value"),
    ("Profile", {"ingress": [{"action": "Allow", "source": {"nets": ["x"]}}]}, "spec.ingress[0].source.nets[0]", "'x'"),
    ("NetworkSet", {"nets": ["10.0.0.0/8", "10.0.0.0/33"]}, "spec.nets[1]", "neither an IP address nor a CIDR"),
    # endpoints
    ("WorkloadEndpoint", {"node": ""}, "spec.node", "is required"),
    ("WorkloadEndpoint", {"node": "a b"}, "spec.node", "'a b' is not allowed"),
    ("WorkloadEndpoint", {"interfaceName": "a" * 16}, "spec.interfaceName", "is not an interface name: 1-15 letters"),
    ("WorkloadEndpoint", {"interfaceName": "cali1 -j ACCEPT"}, "spec.interfaceName", "is not an interface name"),
    ("WorkloadEndpoint", {"interfaceName": ".."}, "spec.interfaceName", "is not an interface name"),
    ("WorkloadEndpoint", {"interfaceName": "*"}, "spec.interfaceName", "is not an interface name"),
    ("WorkloadEndpoint", {"mac": "x"}, "spec.mac", "is not a MAC address"),
    ("WorkloadEndpoint", {"containerID": "a\nb"}, "spec.containerID", "must be letters"),
    ("WorkloadEndpoint", {"ipNetworks": ["10.0.0.0/24"]}, "spec.ipNetworks[0]", "holds several addresses"),
    ("WorkloadEndpoint", {"ipNetworks": ["10.0.0.1", "x"]}, "spec.ipNetworks[1]", "neither an IP address"),
    ("WorkloadEndpoint", {"ipv4Gateway": "fd00::1"}, "spec.ipv4Gateway", "fd00::1 is not IPv4"),
    ("WorkloadEndpoint", {"ipv6Gateway": "10.0.0.1"}, "spec.ipv6Gateway", "10.0.0.1 is not IPv6"),
    ("WorkloadEndpoint", {"profiles": ["a", "a/b"]}, "spec.profiles[1]", "'a/b' is not allowed"),
    ("WorkloadEndpoint", {"ports": [{"name": "http", "protocol": "ICMP", "port": 80}]}, "spec.ports[0].protocol",
     "has no ports; allowed are TCP, UDP, SCTP"),
    ("WorkloadEndpoint", {"ports": [{"name": "", "protocol": "TCP", "port": 80}]}, "spec.ports[0].name",
     "is not a port name"),
    ("WorkloadEndpoint", {"ports": [{"name": "a--b", "protocol": "TCP", "port": 80}]}, "spec.ports[0].name",
     "port name"),
    ("WorkloadEndpoint", {"ports": [{"name": "123", "protocol": "TCP", "port": 80}]}, "spec.ports[0].name",
     "port name"),
    ("WorkloadEndpoint", {"ports": [{"name": "http", "protocol": "TCP", "port": 0}]}, "spec.ports[0].port", "1-65535"),
    ("WorkloadEndpoint", {"ports": [{"name": "http", "protocol": "TCP"}]}, "spec.ports[0].port", "is required"),
    ("WorkloadEndpoint", {"ipNetworks": ["10.0.0.1"], "ipNATs": [{"internalIP": "10.0.0.2",
     "externalIP": "192.0.2.1"}]},
     "spec.ipNATs[0].internalIP", "is not in the endpoint's ipNetworks"),
    ("WorkloadEndpoint", {"ipNetworks": ["10.0.0.1"], "ipNATs": [{"internalIP": "10.0.0.1", "externalIP": "fd00::1"}]},
     "spec.ipNATs[0].externalIP", "must be of the same IP version"),
    ("WorkloadEndpoint", {"allowSpoofedSourcePrefixes": ["x"]}, "spec.allowSpoofedSourcePrefixes[0]", "neither"),
    ("HostEndpoint", {"interfaceName": ""}, "spec.interfaceName", "is required where expectedIPs is empty"),
    ("HostEndpoint", {"node": ""}, "spec.node", "is required"),
    ("HostEndpoint", {"interfaceName": "eth0/1"}, "spec.interfaceName", "is not an interface name"),
    ("HostEndpoint", {"expectedIPs": ["10.0.0.1/32"]}, "spec.expectedIPs[0]", "is not an IP address"),
    # pools, nodes, IPAM
    ("IPPool", {"cidr": ""}, "spec.cidr", "is required"),
    ("IPPool", {"cidr": "10.0.0.1/16"}, "spec.cidr", "write 10.0.0.0/16"),
    ("IPPool", {"cidr": "169.254.1.0/24"}, "spec.cidr", "overlaps the link-local range 169.254.0.0/16"),
    ("IPPool", {"cidr": "0.0.0.0/0"}, "spec.cidr", "overlaps the link-local range"),
    ("IPPool", {"cidr": "fe80::/64"}, "spec.cidr", "overlaps the link-local range fe80::/10"),
    ("IPPool", {"ipipMode": "Always", "vxlanMode": "CrossSubnet"}, "spec.vxlanMode", "together with ipipMode"),
    ("IPPool", {"cidr": "fd00::/64", "ipipMode": "Always"}, "spec.ipipMode", "IPIP does not carry IPv6 pools"),
    ("IPPool", {"ipipMode": "always"}, "spec.ipipMode", "did you mean Always?"),
    ("IPPool", {"blockSize": 19}, "spec.blockSize", "19 is out of range; allowed are 20-32"),
    ("IPPool", {"cidr": "fd00::/64", "blockSize": 26}, "spec.blockSize", "allowed are 116-128"),
    ("IPPool", {"cidr": "10.0.0.0/27"}, "spec.cidr", "is smaller than one block (/26)"),
    ("IPPool", {"nodeSelector": "global()"}, "spec.nodeSelector", "global() is allowed only"),
    ("IPPool", {"allowedUses": ["Workload", "x"]}, "spec.allowedUses[1]",
     "is not one of Workload, Tunnel, LoadBalancer"),
    ("IPPool", {"allowedUses": ["LoadBalancer", "Tunnel"]}, "spec.allowedUses", "cannot be combined"),
    ("IPPool", {"allowedUses": ["LoadBalancer"], "vxlanMode": "Always"}, "spec.vxlanMode", "must be Never"),
    ("IPPool", {"allowedUses": ["LoadBalancer"], "disableBGPExport": True}, "spec.disableBGPExport", "must be false"),
    ("IPPool", {"allowedUses": ["LoadBalancer"], "nodeSelector": "a == 'b'"}, "spec.nodeSelector", "must be all()"),
    ("IPPool", {"allowedUses": ["Tunnel"], "namespaceSelector": "a == 'b'"}, "spec.namespaceSelector", "of use Tunnel"),
    ("IPPool", {"assignmentMode": "manual"}, "spec.assignmentMode", "did you mean Manual?"),
    ("IPReservation", {"reservedCIDRs": ["10.0.0.1/24", "x"]}, "spec.reservedCIDRs[1]", "neither an IP address"),
    ("Node", {"bgp": {}}, "spec.bgp", "must not be empty"),
    ("Node", {"bgp": {"asNumber": "65536.1"}}, "spec.bgp.asNumber", "is not a dotted AS number"),
    ("Node", {"bgp": {"ipv4Address": "fd00::1/64"}}, "spec.bgp.ipv4Address", "is not IPv4"),
    ("Node", {"bgp": {"ipv4Address": "x"}}, "spec.bgp.ipv4Address", "such as 192.0.2.1/24"),
    ("Node", {"bgp": {"routeReflectorClusterID": "x"}}, "spec.bgp.routeReflectorClusterID", "is not an IP address"),
    ("Node", {"vxlanTunnelMACAddr": "x"}, "spec.vxlanTunnelMACAddr", "is not a MAC address"),
    ("Node", {"ipv4VXLANTunnelAddr": "fd00::1"}, "spec.ipv4VXLANTunnelAddr", "is not IPv4"),
    ("Node", {"addresses": [{"address": "x"}]}, "spec.addresses[0].address", "neither an IP address"),
    ("Node", {"addresses": [{"address": "10.0.0.1", "type": "x"}]}, "spec.addresses[0].type", "is not one of"),
    ("IPAMBlock", {"allocations": [None] * 5}, "spec.allocations", "10.0.0.0/30 has 4 addresses"),
    ("IPAMBlock", {"allocations": [0, None]}, "spec.allocations[0]", "0 is no index into attributes"),
    ("IPAMBlock", {"unallocated": [4]}, "spec.unallocated[0]", "4 is out of range"),
    ("BlockAffinity", {"state": "x"}, "spec.state", "is not one of confirmed, pending, pendingDeletion"),
    ("IPAMConfiguration", {"strictAffinity": False, "autoAllocateBlocks": False}, "spec.autoAllocateBlocks",
     "must be true"),
    # BGP
    ("BGPPeer", {"peerIP": "x"}, "spec.peerIP", "is not an IP address"),
    ("BGPPeer", {"peerIP": "192.0.2.1:0"}, "spec.peerIP", "allowed are 1-65535"),
    ("BGPPeer", {"asNumber": -1}, "spec.asNumber", "out of range"),
    ("BGPPeer", {"asNumber": "a"}, "spec.asNumber", "is not an AS number such as 64512"),
    ("BGPPeer", {"node": "a", "nodeSelector": "all()"}, "spec.nodeSelector", "together with node"),
    ("BGPPeer", {"peerSelector": "all()"}, "spec.peerIP", "together with peerSelector"),
    ("BGPPeer", {"peerIP": "", "peerSelector": "all()"}, "spec.asNumber", "must be absent when peerSelector is given"),
    ("BGPPeer", {"localWorkloadSelector": "all()"}, "spec.peerIP", "must be absent when localWorkloadSelector"),
    ("BGPPeer", {"reachableBy": "fd00::1"}, "spec.reachableBy", "same IP version as peerIP"),
    ("BGPPeer", {"peerIP": "", "reachableBy": "10.0.0.1"}, "spec.reachableBy", "must be absent where peerIP is"),
    ("BGPPeer", {"nextHopMode": "self"}, "spec.nextHopMode", "did you mean Self?"),
    ("BGPPeer", {"nextHopMode": "Self", "keepOriginalNextHop": True}, "spec.nextHopMode", "give one of them"),
    ("BGPPeer", {"maxRestartTime": "2 minutes"}, "spec.maxRestartTime", "is not a duration such as 120s"),
    ("BGPPeer", {"ttlSecurity": 256}, "spec.ttlSecurity", "allowed are 0-255"),
    ("BGPPeer", {"filters": ["A"]}, "spec.filters[0]", "'A' is not allowed"),
    ("BGPConfiguration", {"serviceClusterIPs": [{"cidr": "x"}]}, "spec.serviceClusterIPs[0].cidr", "neither"),
    ("BGPConfiguration", {"listenPort": 65536}, "spec.listenPort", "allowed are 0-65535"),
    ("BGPConfiguration", {"logSeverityScreen": "info"}, "spec.logSeverityScreen", "did you mean Info?"),
    ("BGPConfiguration", {"communities": [{"name": "a", "value": "1:2"}]}, "spec.communities",
     "no prefixAdvertisements"),
    ("BGPConfiguration", {"prefixAdvertisements": [{"cidr": "10.0.0.0/8", "communities": ["1:65536"]}]},
     "spec.prefixAdvertisements[0].communities[0]", "16-bit"),
    ("BGPConfiguration", {"nodeToNodeMeshEnabled": False, "nodeMeshMaxRestartTime": "1s"},
     "spec.nodeMeshMaxRestartTime",
     "needs nodeToNodeMeshEnabled"),
    ("BGPConfiguration", {"ignoredInterfaces": ["*"]}, "spec.ignoredInterfaces[0]", "ignore every interface"),
    ("BGPFilter", {"importV4": [{"action": "Accept", "cidr": "10.0.0.0/8"}]}, "spec.importV4[0].matchOperator",
     "is required"),
    ("BGPFilter", {"importV4": [{"action": "Accept", "matchOperator": "In"}]}, "spec.importV4[0].matchOperator",
     "needs cidr"),
    ("BGPFilter", {"exportV6": [{"action": "Accept", "cidr": "10.0.0.0/8", "matchOperator": "In"}]},
     "spec.exportV6[0].cidr", "is not IPv6"),
    ("BGPFilter", {"exportV4": [{"cidr": "10.0.0.0/8", "matchOperator": "In"}]}, "spec.exportV4[0].action",
     "is required"),
    ("BGPFilter", {"exportV4": [{"action": "Reject", "operations": [{"setPriority": {"value": 1}}]}]},
     "spec.exportV4[0].operations", "with action Accept only"),
    ("BGPFilter", {"exportV4": [{"action": "Accept", "operations": [{}]}]}, "spec.exportV4[0].operations[0]",
     "exactly one"),
    # configuration
    ("FelixConfiguration", {"Log Severity": "Info"}, "spec", "is not the name of a parameter"),
    ("FelixConfiguration", {"logPrefix": "a\nb"}, "spec.logPrefix", "cannot be printed"),
    ("FelixConfiguration", {"failsafeInboundHostPorts": [{"protocol": "a\tb"}]},
     "spec.failsafeInboundHostPorts[0].protocol",
     "cannot be printed"),
    ("KubeControllersConfiguration", {"healthChecks": "enabled"}, "spec.healthChecks", "did you mean Enabled?"),
    ("CalicoNodeStatus", {"classes": ["BGP", "BGP"]}, "spec.classes[1]", "is listed twice"),
    ("CalicoNodeStatus", {"updatePeriodSeconds": 86401}, "spec.updatePeriodSeconds", "allowed are 0-86400"),
    ("ClusterInformation", {"clusterType": "a\x1b"}, "spec.clusterType", "cannot be printed"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "spec", "path", "reason"), SPEC_ERRORS)
def test_specs(kind: str, spec: Json, path: str, reason: str) -> None:
    error = error_of(make_document(kind, spec))

    assert error.path == path
    assert reason in error.reason


@pytest.mark.parametrize(
    ("name", "order", "action", "path"),
    [
        ("default", 10, "Deny", "spec.order"),
        ("default", 1_000_000, "Pass", "spec.defaultAction"),
        ("kube-admin", 1_000, "Deny", "spec.defaultAction"),
        ("kube-baseline", 1_000, "Pass", "spec.order"),
    ],
)
def test_built_in_tiers_cannot_be_changed(name: str, order: int, action: str, path: str) -> None:
    assert error_of(make_document("Tier", {"order": order, "defaultAction": action}, name=name)).path == path


@pytest.mark.parametrize(
    ("name", "order", "action"), [("default", 1_000_000, "Deny"), ("kube-admin", 1_000, "Pass")]
)
def test_built_in_tiers_may_be_written_as_they_are(name: str, order: int, action: str) -> None:
    (tier,) = load(make_document("Tier", {"order": order, "defaultAction": action}, name=name))

    assert tier.metadata.name == name


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("GlobalNetworkPolicy", ""),
        ("GlobalNetworkPolicy", "A"),
        ("GlobalNetworkPolicy", "a.b.c"),
        ("GlobalNetworkPolicy", "a" * 254),
        ("GlobalNetworkPolicy", "-a"),
        ("GlobalNetworkPolicy", "a b"),
        ("GlobalNetworkPolicy", 'a"b'),
        ("GlobalNetworkPolicy", "a\n-A INPUT -j ACCEPT"),
        ("GlobalNetworkPolicy", "a\n"),
        ("NetworkPolicy", "a.b.c"),
        ("Tier", "a.b"),
        ("Tier", "a" * 64),
        ("WorkloadEndpoint", "a_b"),
    ],
)
def test_names_that_are_not_allowed(kind: str, name: str) -> None:
    error = error_of(make_document(kind, {}, name=name))

    assert error.path == "metadata.name"
    assert str(error).isprintable()


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("GlobalNetworkPolicy", "default.a"),
        ("NetworkPolicy", "knp.default.a.b.c"),
        ("Profile", "kns.default"),
        ("Profile", "ksa.default.a"),
        ("FelixConfiguration", "node.node-1"),
    ],
)
def test_names_that_are_allowed(kind: str, name: str) -> None:
    assert load(make_document(kind, {}, name=name))[0].metadata.name == name


@pytest.mark.parametrize("namespace", ["A", "a.b", "a" * 64, "a/b", "a\n"])
def test_namespaces_that_are_not_allowed(namespace: str) -> None:
    assert error_of(make_document("NetworkPolicy", {}, namespace=namespace)).path == "metadata.namespace"


def test_a_kind_without_namespaces_takes_none() -> None:
    error = error_of(make_document("GlobalNetworkPolicy", {}, namespace="default"))

    assert error.reason == "must be absent: a GlobalNetworkPolicy belongs to no namespace"


@pytest.mark.parametrize(
    ("key", "value", "path"),
    [
        ("a" * 300, "x", "metadata.labels"),
        ("a", "x" * 300, "metadata.labels.a"),
        ("a", "x y", "metadata.labels.a"),
        ("a", "x\n", "metadata.labels.a"),
        ("a", '"; -j ACCEPT', "metadata.labels.a"),
        ("a", "-x", "metadata.labels.a"),
        ("a b", "x", "metadata.labels"),
        ("A_B/c", "x", "metadata.labels"),
        ("/c", "x", "metadata.labels"),
        ("", "x", "metadata.labels"),
    ],
)
def test_labels_that_are_not_allowed(key: str, value: str, path: str) -> None:
    error = error_of(make_document("GlobalNetworkSet", {}, labels={key: value}))

    assert error.path == path
    assert str(error).isprintable()
    assert len(str(error)) < 400


def test_labels_that_are_allowed() -> None:
    labels = {"app": "web", "example.org/App_1.x": "", "calico/k8s_ns": "default", "x": "1.2_A-b"}

    assert load(make_document("GlobalNetworkSet", {}, labels=labels))[0].labels == labels


def test_annotations_hold_any_text_up_to_a_limit() -> None:
    load(make_document("Tier", {}, annotations={"Note": "any\ntext '\""}))

    assert (
        error_of(make_document("Tier", {}, annotations={"note": "x" * 300_000})).path
        == "metadata.annotations"
    )


def test_network_sets_do_not_carry_the_namespace_label() -> None:
    error = error_of(make_document("NetworkSet", {}, labels={"projectcalico.org/namespace": "x"}))

    assert error.path == "metadata.labels"


def test_validate_names_the_resource_and_raises_a_value_error() -> None:
    policy = make_global_policy(selector="(")

    with pytest.raises(ValueError, match=r"GlobalNetworkPolicy\(policy-1\): spec\.selector"):
        validate(policy)


def test_hostile_names_of_resources_made_in_code_are_shown_escaped() -> None:
    endpoint = make_endpoint()
    hostile = cast(
        "Resource", type(endpoint)(metadata=Metadata(name="a\n", namespace="default"), spec=endpoint.spec)
    )

    with pytest.raises(ValidationError) as caught:
        validate(hostile)

    assert caught.value.key == "WorkloadEndpoint('a\\n')"
