"""Decide what a lab is made of, from the manifests alone.

Every node that a Node or an endpoint names becomes a namespace, every WorkloadEndpoint a pod. What the manifests leave
out (a Node without an address) is generated, and written beside them for the engines to read.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence

import msgspec

from calico_engine.errors import ConfigError
from calico_engine.model import IPPool, Metadata, Node, Profile, Resource, Rule, WorkloadEndpoint
from calico_engine.model.endpoint import WorkloadEndpointSpec
from calico_engine.model.node import IPPoolSpec, NodeBGPSpec, NodeSpec
from calico_engine.model.policy import Action, ProfileSpec

PREFIX = "celab-"
#: The namespace that joins the nodes; also the outside world, under its own addresses.
FABRIC = "fabric"
OUTSIDE_ADDRESSES = ("203.0.113.1/32", "2001:db8:cafe::1/128")

MAX_NODES = 200
_GENERATED_V4 = "10.99.0.0/16"
_GENERATED_V6 = "fd00:99::/64"
_POOL_V4, _POOL_V6 = "10.65.0.0/16", "fd00:65::/64"

_INTERFACE = re.compile(r"[A-Za-z0-9_.-]{1,15}")
_MAC = re.compile(r"([0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}")
_CONVERTED_FROM = "projectcalico.org/converted-from"


class NodePlan(msgspec.Struct, frozen=True, kw_only=True):
    """A node: its port on the fabric, its addresses with their masks."""

    name: str
    port: str
    networks: tuple[str, ...]


class PodPlan(msgspec.Struct, frozen=True, kw_only=True):
    """A pod: the namespace behind one WorkloadEndpoint."""

    name: str
    key: str
    node: str
    interface: str
    networks: tuple[str, ...]
    mac: str = ""
    labels: dict[str, str] = {}

    def address(self, family: int) -> str:
        """Return the pod's first own address of a family, "" when it has none."""
        for network in self.networks:
            if (6 if ":" in network else 4) == family:
                return network.partition("/")[0]
        return ""


class LabPlan(msgspec.Struct, frozen=True, kw_only=True):
    """All that the holder needs to know. `gateways` are the fabric's addresses in the nodes' subnets; `outside` are
    those it has as the world beyond the cluster."""

    name: str
    profile: str
    overrides: tuple[str, ...] = ()
    nodes: tuple[NodePlan, ...] = ()
    pods: tuple[PodPlan, ...] = ()
    gateways: tuple[str, ...] = ()
    outside: tuple[str, ...] = OUTSIDE_ADDRESSES
    warnings: tuple[str, ...] = ()

    def pod(self, name: str) -> PodPlan:
        """Find a pod by its name, or by namespace/name or the name of its endpoint. Raises: ConfigError."""
        exact = [pod for pod in self.pods if pod.name == name]
        found = exact or [
            pod for pod in self.pods if name in pod.key.rstrip(")").replace("(", "/").split("/", 1)
        ]
        if len(found) == 1:
            return found[0]
        known = ", ".join(pod.name for pod in self.pods) or "none"
        raise ConfigError(f"no pod named {name!r} in lab {self.name}", key="pod", hint=f"there are: {known}")


def namespace_name(name: str) -> str:
    """Return the network namespace's name of a node or pod."""
    return PREFIX + re.sub(r"[^A-Za-z0-9_.-]", "_", name)


def make_plan(
    name: str,
    profile: str,
    resources: Iterable[Resource],
    *,
    min_nodes: int = 0,
    overrides: Sequence[str] = (),
    families: Sequence[int] = (4, 6),
) -> tuple[LabPlan, tuple[Resource, ...]]:
    """Return the plan and the resources to add to the manifests. Raises: ConfigError.

    families: those this machine's kernel has; what is generated has addresses of them alone.
    """
    everything = list(resources)
    workloads = sorted((r for r in everything if isinstance(r, WorkloadEndpoint)), key=lambda r: r.key)
    known = {r.metadata.name: r for r in everything if isinstance(r, Node)}
    names = sorted({*known, *(w.spec.node for w in workloads if w.spec.node)})
    number = 1
    while len(names) < min_nodes:
        if f"node{number}" not in names:
            names.append(f"node{number}")
        number += 1
    if not names:
        raise ConfigError(
            "the manifests name no node", key="manifests", hint="say --nodes N, or add endpoints"
        )
    if len(names) > MAX_NODES:
        raise ConfigError(f"{len(names)} nodes", key="nodes", hint=f"a lab holds up to {MAX_NODES}")
    added = [
        node
        for index, node_name in enumerate(names, 1)
        if (node := _completed(known.get(node_name), node_name, index, families))
    ]
    complete = {**known, **{node.metadata.name: node for node in added}}
    nodes = tuple(_node_plan(complete[node_name], index) for index, node_name in enumerate(names, 1))
    pods, warnings = _pod_plans(workloads)
    plan = LabPlan(
        name=name,
        profile=profile,
        overrides=tuple(overrides),
        nodes=nodes,
        pods=pods,
        gateways=_gateways(nodes),
        outside=tuple(net for net in OUTSIDE_ADDRESSES if (6 if ":" in net else 4) in families),
        warnings=tuple(warnings),
    )
    return plan, tuple(added)


def default_resources(
    node_count: int, pods_per_node: int = 2, families: Sequence[int] = (4, 6)
) -> tuple[Resource, ...]:
    """Return a small open cluster: a pool of each family, and on every node a `web` and a `client` pod."""
    allow = (Rule(action=Action.ALLOW),)
    pools = {4: _POOL_V4, 6: _POOL_V6}
    made: list[Resource] = [
        *(
            IPPool(
                metadata=Metadata(name=f"lab-ipv{family}"),
                spec=IPPoolSpec(cidr=pools[family], nat_outgoing=True),
            )
            for family in families
        ),
        Profile(metadata=Metadata(name="lab-open"), spec=ProfileSpec(ingress=allow, egress=allow)),
    ]
    roles = ("web", "client")
    for node in range(1, node_count + 1):
        for number in range(pods_per_node):
            role = roles[number % len(roles)]
            pod = f"{role}{node}" if number < len(roles) else f"{role}{node}x{number // len(roles)}"
            made.append(_default_endpoint(node, number + 1, pod, role, families))
    return tuple(made)


def _default_endpoint(
    node_number: int, number: int, pod: str, role: str, families: Sequence[int]
) -> WorkloadEndpoint:
    node = f"node{node_number}"
    name = f"{node}-k8s-{pod}-eth0"
    networks = {4: f"10.65.{node_number}.{number}/32", 6: f"fd00:65::{node_number:x}:{number:x}/128"}
    return WorkloadEndpoint(
        metadata=Metadata(name=name, namespace="default", labels={"app": pod, "role": role}),
        spec=WorkloadEndpointSpec(
            node=node,
            orchestrator="k8s",
            pod=pod,
            endpoint="eth0",
            interface_name=f"cali{node_number:04x}{number:04x}",
            ip_networks=tuple(networks[family] for family in families),
            profiles=("lab-open",),
        ),
    )


def _completed(node: Node | None, name: str, index: int, families: Sequence[int]) -> Node | None:
    """Return the Node to write beside the manifests: None when theirs has an address."""
    if (
        node is not None
        and node.spec.bgp is not None
        and (node.spec.bgp.ipv4_address or node.spec.bgp.ipv6_address)
    ):
        return None
    if node is not None:
        raise ConfigError(
            f"node {name} has no address",
            key="spec.bgp.ipv4Address",
            hint="give it one, or leave the Node out",
        )
    v4, v6 = ipaddress.ip_network(_GENERATED_V4), ipaddress.ip_network(_GENERATED_V6)
    bgp = NodeBGPSpec(
        ipv4_address=f"{v4[index]}/{v4.prefixlen}",
        ipv6_address=f"{v6[index]}/{v6.prefixlen}" if 6 in families else "",
    )
    return Node(metadata=Metadata(name=name), spec=NodeSpec(bgp=bgp))


def _node_plan(node: Node, index: int) -> NodePlan:
    assert node.spec.bgp is not None
    addresses = (node.spec.bgp.ipv4_address, node.spec.bgp.ipv6_address)
    networks = tuple(str(ipaddress.ip_interface(address)) for address in addresses if address)
    return NodePlan(name=node.metadata.name, port=f"{PREFIX}{index}", networks=networks)


def _pod_plans(workloads: Sequence[WorkloadEndpoint]) -> tuple[tuple[PodPlan, ...], list[str]]:
    pods: list[PodPlan] = []
    warnings: list[str] = []
    taken: set[tuple[str, str]] = set()
    names = _pod_names(workloads)
    for workload in workloads:
        spec = workload.spec
        place = (spec.node, spec.interface_name)
        if not spec.node or not _INTERFACE.fullmatch(spec.interface_name):
            warnings.append(f"{workload.key} gets no pod: it needs a node and an interfaceName")
            continue
        if place in taken:
            warnings.append(
                f"{workload.key} gets no pod: another endpoint has {spec.interface_name} on {spec.node}"
            )
            continue
        taken.add(place)
        single = [net for net in spec.ip_networks if ipaddress.ip_network(net).num_addresses == 1]
        pods.append(
            PodPlan(
                name=names[workload.metadata.namespace, workload.metadata.name],
                key=str(workload.key),
                node=spec.node,
                interface=spec.interface_name,
                networks=tuple(single),
                mac=spec.mac if _MAC.fullmatch(spec.mac) else "",
                labels=dict(workload.labels),
            )
        )
    return tuple(pods), warnings


def _pod_names(workloads: Sequence[WorkloadEndpoint]) -> dict[tuple[str, str], str]:
    """Return each endpoint's short name: its pod's, or the name it had in a v1 manifest, where that is unique."""

    def short(workload: WorkloadEndpoint) -> str:
        was_v1 = _CONVERTED_FROM in workload.metadata.annotations
        spec = workload.spec
        return (spec.endpoint if was_v1 else spec.pod) or workload.metadata.name

    shorts = [short(workload) for workload in workloads]
    return {
        (w.metadata.namespace, w.metadata.name): name
        if shorts.count(name) == 1
        else f"{w.metadata.namespace}/{w.metadata.name}"
        for w, name in zip(workloads, shorts, strict=True)
    }


def _gateways(nodes: Sequence[NodePlan]) -> tuple[str, ...]:
    """Return the fabric's address in every subnet of the nodes: the last that no node has."""
    taken = {ipaddress.ip_interface(network).ip for node in nodes for network in node.networks}
    subnets = sorted(
        {str(ipaddress.ip_interface(network).network) for node in nodes for network in node.networks}
    )
    gateways = []
    for subnet in map(ipaddress.ip_network, subnets):
        hosts = subnet.num_addresses
        candidates = (subnet[number] for number in range(hosts - 2, 0, -1))
        free = next((address for address in candidates if address not in taken), None)
        if free is None:
            raise ConfigError(
                f"subnet {subnet} has no address left for the lab's gateway",
                key="spec.bgp",
                hint="use a wider mask",
            )
        gateways.append(f"{free}/{subnet.prefixlen}")
    return tuple(gateways)


def gateway_for(network: str, gateways: Iterable[str]) -> str:
    """Return the fabric's address in the subnet of a node's address."""
    subnet = ipaddress.ip_interface(network).network
    for gateway in gateways:
        if ipaddress.ip_interface(gateway).network == subnet:
            return gateway.partition("/")[0]
    raise ConfigError(f"no gateway in {subnet}", key="spec.bgp", hint="this is a defect of the lab")
