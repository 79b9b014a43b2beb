"""Policies, their rules, tiers, profiles and network sets, as users write them (projectcalico.org/v3)."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from calico_engine.model.resource import Resource, camel, register_kind

#: A port as written: 80, "80", "80:90" or the name of a workload's port.
Port = int | str
#: A protocol as written: "TCP" (any case) or 1-255.
Protocol = int | str

PROTOCOL_NUMBERS = {"icmp": 1, "tcp": 6, "udp": 17, "icmpv6": 58, "sctp": 132, "udplite": 136}


class PortRange(msgspec.Struct, frozen=True, order=True, gc=False):
    """Ports first..last, both included."""

    first: int
    last: int


class Action(StrEnum):
    ALLOW = "Allow"
    DENY = "Deny"
    LOG = "Log"
    PASS = "Pass"


class PolicyType(StrEnum):
    INGRESS = "Ingress"
    EGRESS = "Egress"


class StagedAction(StrEnum):
    SET = "Set"
    DELETE = "Delete"
    LEARN = "Learn"
    IGNORE = "Ignore"


class _Spec(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True, rename=camel()):
    """Options every spec struct shares."""


class ICMPFields(_Spec, frozen=True):
    """ICMP type 0-254 and code 0-255; a code needs a type."""

    type: int | None = None
    code: int | None = None


class ServiceMatch(_Spec, frozen=True):
    name: str = ""
    namespace: str = ""


class ServiceAccountMatch(_Spec, frozen=True):
    names: tuple[str, ...] = ()
    selector: str = ""


class EntityRule(_Spec, frozen=True):
    """One side of a rule; every criterion that is set must match."""

    nets: tuple[str, ...] = ()
    selector: str = ""
    namespace_selector: str = ""
    services: ServiceMatch | None = None
    ports: tuple[Port, ...] = ()
    not_nets: tuple[str, ...] = ()
    not_selector: str = ""
    not_ports: tuple[Port, ...] = ()
    service_accounts: ServiceAccountMatch | None = None


class HTTPPath(_Spec, frozen=True):
    exact: str = ""
    prefix: str = ""


class HTTPMatch(_Spec, frozen=True):
    methods: tuple[str, ...] = ()
    paths: tuple[HTTPPath, ...] = ()


class RuleMetadata(_Spec, frozen=True):
    annotations: dict[str, str] = {}


class Rule(_Spec, frozen=True, rename=camel(("not_icmp", "notICMP"))):
    """An action and what it applies to; rules are tried in the order written."""

    action: Action
    ip_version: int | None = None
    protocol: Protocol | None = None
    icmp: ICMPFields | None = None
    not_protocol: Protocol | None = None
    not_icmp: ICMPFields | None = None
    source: EntityRule = EntityRule()
    destination: EntityRule = EntityRule()
    http: HTTPMatch | None = None
    metadata: RuleMetadata | None = None


class NetworkPolicySpec(_Spec, frozen=True):
    tier: str = ""
    order: float | None = None
    ingress: tuple[Rule, ...] = ()
    egress: tuple[Rule, ...] = ()
    selector: str = ""
    types: tuple[PolicyType, ...] = ()
    service_account_selector: str = ""
    performance_hints: tuple[str, ...] = ()


class GlobalNetworkPolicySpec(NetworkPolicySpec, frozen=True, rename=camel(("pre_dnat", "preDNAT"))):
    do_not_track: bool = False
    pre_dnat: bool = False
    apply_on_forward: bool = False
    namespace_selector: str = ""


class StagedNetworkPolicySpec(NetworkPolicySpec, frozen=True):
    staged_action: StagedAction = StagedAction.SET


class StagedGlobalNetworkPolicySpec(
    GlobalNetworkPolicySpec, frozen=True, rename=camel(("pre_dnat", "preDNAT"))
):
    staged_action: StagedAction = StagedAction.SET


@register_kind("networkpolicies", namespaced=True)
class NetworkPolicy(Resource, frozen=True):
    spec: NetworkPolicySpec = NetworkPolicySpec()


@register_kind("globalnetworkpolicies")
class GlobalNetworkPolicy(Resource, frozen=True):
    spec: GlobalNetworkPolicySpec = GlobalNetworkPolicySpec()


@register_kind("stagednetworkpolicies", namespaced=True)
class StagedNetworkPolicy(Resource, frozen=True):
    spec: StagedNetworkPolicySpec = StagedNetworkPolicySpec()


@register_kind("stagedglobalnetworkpolicies")
class StagedGlobalNetworkPolicy(Resource, frozen=True):
    spec: StagedGlobalNetworkPolicySpec = StagedGlobalNetworkPolicySpec()


class StagedKubernetesNetworkPolicySpec(_Spec, frozen=True):
    """A NetworkPolicy of Kubernetes under test: kept as written, evaluated by nobody here."""

    staged_action: StagedAction = StagedAction.SET
    pod_selector: dict[str, object] = {}
    ingress: tuple[dict[str, object], ...] = ()
    egress: tuple[dict[str, object], ...] = ()
    policy_types: tuple[PolicyType, ...] = ()


@register_kind("stagedkubernetesnetworkpolicies", namespaced=True)
class StagedKubernetesNetworkPolicy(Resource, frozen=True):
    spec: StagedKubernetesNetworkPolicySpec = StagedKubernetesNetworkPolicySpec()


class TierSpec(_Spec, frozen=True):
    order: float | None = None
    default_action: Action = Action.DENY


@register_kind("tiers")
class Tier(Resource, frozen=True):
    spec: TierSpec = TierSpec()


class ProfileSpec(_Spec, frozen=True):
    ingress: tuple[Rule, ...] = ()
    egress: tuple[Rule, ...] = ()
    labels_to_apply: dict[str, str] = {}


@register_kind("profiles")
class Profile(Resource, frozen=True):
    spec: ProfileSpec = ProfileSpec()


class NetworkSetSpec(_Spec, frozen=True):
    nets: tuple[str, ...] = ()


@register_kind("networksets", namespaced=True)
class NetworkSet(Resource, frozen=True):
    spec: NetworkSetSpec = NetworkSetSpec()


@register_kind("globalnetworksets")
class GlobalNetworkSet(Resource, frozen=True):
    spec: NetworkSetSpec = NetworkSetSpec()
