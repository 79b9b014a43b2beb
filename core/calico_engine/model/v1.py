"""The manifests of Calico 2 (`apiVersion: v1`), converted to v3 kinds.

Pure. What changes on the way:
    policy            GlobalNetworkPolicy of the same name; untracked and preDNAT ones apply to forwarded traffic
    profile           Profile; its labels and tags become labels_to_apply
    ipPool            IPPool named after its CIDR, `ipip.enabled` and `mode` become ipip_mode
    node              Node
    bgpPeer           BGPPeer, for all nodes or for one
    hostEndpoint      HostEndpoint named <node>.<name>
    workloadEndpoint  WorkloadEndpoint named <node>-<orchestrator>-<workload>-<name>; a workload "ns.pod" of
                      Kubernetes goes to that namespace, all others to "default"; its labels stay as they are

Names that v3 does not allow are lower-cased, cleaned and made unique by a hash; every reference to them alike. Rules
that match a tag match the label that the tag becomes. Each result carries the annotation CONVERTED_FROM: the old API
took endpoint networks wider than one address, so validation has to know.
Source: the v1 API reference of Calico 2.6.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import msgspec

from calico_engine.model.bgp import BGPPeer, BGPPeerSpec
from calico_engine.model.canonical import canonical_network, mask_network, shorten
from calico_engine.model.endpoint import (
    HostEndpoint,
    HostEndpointSpec,
    WorkloadEndpoint,
    WorkloadEndpointSpec,
)
from calico_engine.model.names import DNS_SUBDOMAIN, GLOBAL_POLICY_NAME, workload_endpoint_name
from calico_engine.model.node import EncapMode, IPPool, IPPoolSpec, Node, NodeSpec
from calico_engine.model.policy import (
    Action,
    EntityRule,
    GlobalNetworkPolicy,
    GlobalNetworkPolicySpec,
    PolicyType,
    Profile,
    ProfileSpec,
    Rule,
)
from calico_engine.model.resource import Metadata, Resource
from calico_engine.model.shape import FieldError, clean, convert, shape_of
from calico_engine.model.v1_manifest import (
    IPIPV1,
    EntityRuleV1,
    HostEndpointV1,
    MetadataV1,
    NodeV1,
    PeerV1,
    PolicyV1,
    PoolV1,
    ProfileV1,
    RuleV1,
    WorkloadEndpointV1,
)

V = TypeVar("V")

API_VERSION = "v1"
CONVERTED_FROM = "projectcalico.org/converted-from"

_ACTIONS = {action.value.lower(): action for action in Action}
_TYPES = {kind.value.lower(): kind for kind in PolicyType}
_ENCAP_MODES = {"": EncapMode.ALWAYS, "always": EncapMode.ALWAYS, "cross-subnet": EncapMode.CROSS_SUBNET}


def load_v1(document: Mapping[str, object]) -> Resource:
    """Return the v3 resource of a v1 manifest, not validated yet. Raises: FieldError."""
    kind = document.get("kind")
    if not isinstance(kind, str) or kind not in _CONVERTERS:
        raise FieldError("kind", explain_kind(str(kind), KIND_NAMES))
    return _CONVERTERS[kind](document)


def explain_kind(kind: str, known: Sequence[str]) -> str:
    """Return why a kind is not accepted, naming the nearest that is."""
    if kind == "calicoApiConfig":
        return "calicoApiConfig is the configuration file of calicoctl, not a resource"
    folded = {name.lower(): name for name in known}
    nearest = difflib.get_close_matches(kind.lower(), folded, n=1, cutoff=0.6)
    hint = f"did you mean {folded[nearest[0]]}?" if nearest else f"known are {', '.join(known)}"
    return f"unknown kind {shorten(kind)}; {hint}"


def convert_name(name: str, allowed: re.Pattern[str] = DNS_SUBDOMAIN) -> str:
    """Return the v3 name of a v1 name: itself where v3 allows it, else cleaned and made unique by a hash."""
    if name.startswith("k8s_ns."):
        name = "kns." + name.removeprefix("k8s_ns.")
    if not name or allowed.fullmatch(name):
        return name
    cleaned = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:200].strip("-")
    digest = hashlib.sha256(name.encode(errors="backslashreplace")).hexdigest()[:8]
    return f"{cleaned}-{digest}" if cleaned else digest


def _node_name(name: str) -> str:
    """Return the v3 name of a node. Host names know no case, and what runs there goes by the lower one."""
    return convert_name(name.lower())


def _metadata(name: str, source: MetadataV1) -> Metadata:
    annotations = {**source.annotations, CONVERTED_FROM: API_VERSION}
    return Metadata(name=name, labels=source.labels, annotations=annotations)


def _lookup(word: str, table: Mapping[str, V], path: str) -> V:
    found = table.get(word)
    if found is None:
        nearest = f"; did you mean {word.lower()}?" if word.lower() in table else ""
        options = ", ".join([option for option in table if option])
        raise FieldError(path, f"{shorten(word)} is not one of {options} (apiVersion v1){nearest}")
    return found


def _require(value: str, path: str) -> str:
    if not value:
        raise FieldError(path, "is required")
    return value


def _policy(document: Mapping[str, object]) -> Resource:
    v1 = convert(clean(document, shape_of(PolicyV1)), PolicyV1)
    types = tuple([_lookup(kind, _TYPES, f"spec.types[{index}]") for index, kind in enumerate(v1.spec.types)])
    return GlobalNetworkPolicy(
        metadata=_metadata(convert_name(v1.metadata.name, GLOBAL_POLICY_NAME), v1.metadata),
        spec=GlobalNetworkPolicySpec(
            order=v1.spec.order,
            ingress=_rules(v1.spec.ingress, "spec.ingress"),
            egress=_rules(v1.spec.egress, "spec.egress"),
            selector=v1.spec.selector,
            types=types,
            do_not_track=v1.spec.do_not_track,
            pre_dnat=v1.spec.pre_dnat,
            apply_on_forward=v1.spec.do_not_track or v1.spec.pre_dnat,
        ),
    )


def _profile(document: Mapping[str, object]) -> Resource:
    v1 = convert(clean(document, shape_of(ProfileV1)), ProfileV1)
    tags = {_tag_label(tag): "" for tag in v1.metadata.tags}
    return Profile(
        metadata=Metadata(
            name=convert_name(v1.metadata.name),
            annotations={**v1.metadata.annotations, CONVERTED_FROM: API_VERSION},
        ),
        spec=ProfileSpec(
            ingress=_rules(v1.spec.ingress, "spec.ingress"),
            egress=_rules(v1.spec.egress, "spec.egress"),
            labels_to_apply={**tags, **v1.metadata.labels},
        ),
    )


def _workload(document: Mapping[str, object]) -> Resource:
    v1 = convert(clean(document, shape_of(WorkloadEndpointV1)), WorkloadEndpointV1)
    metadata, spec = v1.metadata, v1.spec
    for field in ("name", "workload", "orchestrator", "node"):
        _require(getattr(metadata, field), f"metadata.{field}")
    namespace, pod = "default", ""
    if metadata.orchestrator == "k8s":
        head, dot, tail = metadata.workload.partition(".")
        namespace, pod = (head, tail) if dot else ("default", head)
    v3 = WorkloadEndpointSpec(
        orchestrator=metadata.orchestrator,
        workload=metadata.workload,
        node=_node_name(metadata.node),
        container_id=metadata.active_instance_id,
        pod=pod,
        endpoint=metadata.name,
        ip_networks=tuple([_masked(net) for net in spec.ip_networks]),
        ip_nats=spec.ip_nats,
        ipv4_gateway=spec.ipv4_gateway,
        ipv6_gateway=spec.ipv6_gateway,
        profiles=tuple([convert_name(name) for name in spec.profiles]),
        interface_name=spec.interface_name,
        mac=spec.mac,
    )
    # The old API put the container's id of a CNI endpoint into workload.
    named = msgspec.structs.replace(v3, container_id=v3.container_id or v3.workload)
    name = convert_name(workload_endpoint_name(named))
    v3_metadata = msgspec.structs.replace(_metadata(name, metadata), namespace=convert_name(namespace))
    return WorkloadEndpoint(metadata=v3_metadata, spec=v3)


def _host(document: Mapping[str, object]) -> Resource:
    v1 = convert(clean(document, shape_of(HostEndpointV1)), HostEndpointV1)
    node = _node_name(_require(v1.metadata.node, "metadata.node"))
    name = convert_name(_require(v1.metadata.name, "metadata.name"))
    return HostEndpoint(
        metadata=_metadata(f"{node}.{name}", v1.metadata),
        spec=HostEndpointSpec(
            node=node,
            interface_name=v1.spec.interface_name,
            expected_ips=v1.spec.expected_ips,
            profiles=tuple([convert_name(profile) for profile in v1.spec.profiles]),
        ),
    )


def _pool(document: Mapping[str, object]) -> Resource:
    v1 = convert(clean(document, shape_of(PoolV1)), PoolV1)
    try:
        cidr = canonical_network(_require(v1.metadata.cidr, "metadata.cidr"))
    except ValueError as error:
        raise error if isinstance(error, FieldError) else FieldError("metadata.cidr", str(error)) from None
    ipip = v1.spec.ipip or IPIPV1()
    mode = _lookup(ipip.mode, _ENCAP_MODES, "spec.ipip.mode")
    return IPPool(
        metadata=_metadata(re.sub(r"[.:/]+", "-", cidr).strip("-"), v1.metadata),
        spec=IPPoolSpec(
            cidr=cidr,
            ipip_mode=mode if ipip.enabled else EncapMode.NEVER,
            nat_outgoing=v1.spec.nat_outgoing,
            disabled=v1.spec.disabled,
        ),
    )


def _node(document: Mapping[str, object]) -> Resource:
    v1 = convert(clean(document, shape_of(NodeV1)), NodeV1)
    return Node(
        metadata=_metadata(_node_name(v1.metadata.name), v1.metadata),
        spec=NodeSpec(bgp=v1.spec.bgp, orch_refs=v1.spec.orch_refs),
    )


def _peer(document: Mapping[str, object]) -> Resource:
    v1 = convert(clean(document, shape_of(PeerV1)), PeerV1)
    metadata = v1.metadata
    if metadata.scope not in ("", "global", "node"):
        raise FieldError("metadata.scope", f"{shorten(metadata.scope)} is not one of global, node")
    node = _node_name(metadata.node)
    if metadata.scope == "node":
        _require(node, "metadata.node")
    elif node and metadata.scope == "global":
        raise FieldError("metadata.node", "must be absent when scope is global")
    peer = re.sub(r"[^0-9a-f]+", "-", _require(metadata.peer_ip, "metadata.peerIP").lower()).strip("-")
    return BGPPeer(
        metadata=_metadata(convert_name(f"{node or 'global'}.peer-{peer}"), metadata),
        spec=BGPPeerSpec(node=node, peer_ip=metadata.peer_ip, as_number=v1.spec.as_number),
    )


def _rules(rules: tuple[RuleV1, ...], path: str) -> tuple[Rule, ...]:
    return tuple([_rule(rule, f"{path}[{index}]") for index, rule in enumerate(rules)])


def _rule(rule: RuleV1, path: str) -> Rule:
    return Rule(
        action=_lookup(rule.action, _ACTIONS, f"{path}.action"),
        ip_version=rule.ip_version,
        protocol=rule.protocol,
        icmp=rule.icmp,
        not_protocol=rule.not_protocol,
        not_icmp=rule.not_icmp,
        source=_entity(rule.source, f"{path}.source"),
        destination=_entity(rule.destination, f"{path}.destination"),
    )


def _entity(entity: EntityRuleV1, path: str) -> EntityRule:
    selector, not_selector = entity.selector, entity.not_selector
    if entity.tag:
        tagged = f"has({_tag_label(entity.tag)})"
        selector = f"({selector}) && {tagged}" if selector else tagged
    if entity.not_tag:
        tagged = f"has({_tag_label(entity.not_tag)})"
        not_selector = f"({not_selector}) || {tagged}" if not_selector else tagged
    return EntityRule(
        nets=_nets(entity.net, entity.nets, f"{path}.net"),
        selector=selector,
        ports=entity.ports,
        not_nets=_nets(entity.not_net, entity.not_nets, f"{path}.notNet"),
        not_selector=not_selector,
        not_ports=entity.not_ports,
    )


def _nets(single: str, several: tuple[str, ...], path: str) -> tuple[str, ...]:
    if single and several:
        raise FieldError(path, "cannot be given together with its plural; write one list")
    return tuple([_masked(net) for net in ((single,) if single else several)])


def _masked(net: str) -> str:
    # v1 cleared host bits silently. What is no network at all is left for validation to name.
    try:
        return mask_network(net)
    except ValueError:
        return net


def _tag_label(tag: str) -> str:
    return tag


_CONVERTERS: dict[str, Callable[[Mapping[str, object]], Resource]] = {
    "policy": _policy,
    "profile": _profile,
    "workloadEndpoint": _workload,
    "hostEndpoint": _host,
    "ipPool": _pool,
    "node": _node,
    "bgpPeer": _peer,
}
KIND_NAMES = tuple(_CONVERTERS)
