"""Rules, policies, tiers, profiles and network sets.

Source: api/pkg/apis/projectcalico/v3/policy_common.go and libcalico-go/lib/validator/v3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from calico_engine.model.canonical import canonical_port, ip_version, parse_port, protocol_number
from calico_engine.model.policy import (
    Action,
    EntityRule,
    GlobalNetworkPolicySpec,
    HTTPMatch,
    ICMPFields,
    NetworkPolicySpec,
    PolicyType,
    Port,
    Profile,
    Protocol,
    Rule,
    StagedAction,
    StagedGlobalNetworkPolicySpec,
    StagedKubernetesNetworkPolicySpec,
    StagedNetworkPolicySpec,
    Tier,
)
from calico_engine.model.resource import Metadata
from calico_engine.model.shape import FieldError
from calico_engine.model.validate.checks import (
    check_annotations,
    check_choice,
    check_labels,
    check_length,
    check_name,
    check_names,
    check_networks,
    check_range,
    check_rule_namespace_selector,
    check_selector,
    check_unique,
    forbid,
    require,
)

MAX_RULES = 1024
MAX_NETS = 256
MAX_PORTS = 50
NAMESPACE_LABEL = "projectcalico.org/namespace"
PORT_PROTOCOLS = (6, 17, 132)
_ICMP, _ICMPV6, _TCP = 1, 58, 6
_CATCH_ALL = ("0.0.0.0/0", "::/0")
#: The tiers every cluster has: order and default action are fixed.
BUILT_IN_TIERS = {
    "kube-admin": (1_000.0, Action.PASS),
    "default": (1_000_000.0, Action.DENY),
    "kube-baseline": (10_000_000.0, Action.PASS),
}


def check_policy(spec: NetworkPolicySpec, *, namespaced: bool) -> None:
    """Check what policies of all kinds share."""
    if spec.tier:
        check_name("spec.tier", spec.tier)
    _check_order("spec.order", spec.order)
    check_selector("spec.selector", spec.selector)
    check_selector("spec.serviceAccountSelector", spec.service_account_selector)
    check_unique("spec.types", spec.types)
    check_unique("spec.performanceHints", spec.performance_hints)
    for index, hint in enumerate(spec.performance_hints):
        check_choice(f"spec.performanceHints[{index}]", hint, ("AssumeNeededOnEveryNode",))
    check_rules("spec.ingress", spec.ingress, PolicyType.INGRESS, namespaced=namespaced)
    check_rules("spec.egress", spec.egress, PolicyType.EGRESS, namespaced=namespaced)


def check_global_policy(spec: GlobalNetworkPolicySpec) -> None:
    check_policy(spec, namespaced=False)
    check_selector("spec.namespaceSelector", spec.namespace_selector)
    if spec.pre_dnat:
        forbid("spec.doNotTrack", spec.do_not_track, "cannot be true together with preDNAT")
        forbid("spec.egress", spec.egress, "must be empty: a preDNAT policy has ingress rules only")
        if PolicyType.EGRESS in spec.types:
            raise FieldError("spec.types", "must not contain Egress: a preDNAT policy has ingress rules only")
    if (spec.pre_dnat or spec.do_not_track) and not spec.apply_on_forward:
        cause = "preDNAT" if spec.pre_dnat else "doNotTrack"
        raise FieldError("spec.applyOnForward", f"must be true when {cause} is true")


def check_staged_policy(spec: StagedNetworkPolicySpec) -> None:
    if spec.staged_action is StagedAction.DELETE:
        empty = StagedNetworkPolicySpec(tier=spec.tier, staged_action=StagedAction.DELETE)
        _check_deleted(is_empty=spec == empty)
    else:
        check_policy(spec, namespaced=True)


def check_staged_global_policy(spec: StagedGlobalNetworkPolicySpec) -> None:
    if spec.staged_action is StagedAction.DELETE:
        empty = StagedGlobalNetworkPolicySpec(tier=spec.tier, staged_action=StagedAction.DELETE)
        _check_deleted(is_empty=spec == empty)
    else:
        check_global_policy(spec)


def check_staged_kubernetes_policy(spec: StagedKubernetesNetworkPolicySpec) -> None:
    check_unique("spec.policyTypes", spec.policy_types)
    if spec.staged_action is StagedAction.DELETE:
        _check_deleted(is_empty=spec == StagedKubernetesNetworkPolicySpec(staged_action=StagedAction.DELETE))


def _check_deleted(*, is_empty: bool) -> None:
    if not is_empty:
        raise FieldError("spec", "must hold nothing but tier and stagedAction when stagedAction is Delete")


def _check_order(path: str, order: float | None) -> None:
    if order is not None and not math.isfinite(order):
        raise FieldError(path, "must be a finite number; leave it out to come last")


def check_tier(tier: Tier) -> None:
    spec = tier.spec
    _check_order("spec.order", spec.order)
    if spec.default_action not in (Action.DENY, Action.PASS):
        raise FieldError("spec.defaultAction", f"{spec.default_action} is not one of Deny, Pass")
    if built_in := BUILT_IN_TIERS.get(tier.metadata.name):
        order, action = built_in
        if spec.order != order:
            raise FieldError("spec.order", f"must be {order:.0f} for the tier {tier.metadata.name}")
        if spec.default_action is not action:
            raise FieldError("spec.defaultAction", f"must be {action} for the tier {tier.metadata.name}")


def check_profile(profile: Profile) -> None:
    spec = profile.spec
    check_rules("spec.ingress", spec.ingress, PolicyType.INGRESS, namespaced=True)
    check_rules("spec.egress", spec.egress, PolicyType.EGRESS, namespaced=True)
    check_labels("spec.labelsToApply", spec.labels_to_apply)


def check_network_set(metadata: Metadata, nets: Sequence[str]) -> None:
    if NAMESPACE_LABEL in metadata.labels:
        raise FieldError("metadata.labels", f"{NAMESPACE_LABEL} is set by Calico itself; leave it out")
    check_networks("spec.nets", nets)


def check_rules(path: str, rules: Sequence[Rule], direction: PolicyType, *, namespaced: bool) -> None:
    check_length(path, rules, MAX_RULES)
    for index, rule in enumerate(rules):
        _check_rule(f"{path}[{index}]", rule)
        _check_direction(f"{path}[{index}]", rule, direction, namespaced=namespaced)


def _check_direction(path: str, rule: Rule, direction: PolicyType, *, namespaced: bool) -> None:
    """Check what is allowed on one side or in one direction only."""
    if direction is PolicyType.INGRESS:
        own, own_name, peer, peer_name = rule.destination, "destination", rule.source, "source"
    else:
        own, own_name, peer, peer_name = rule.source, "source", rule.destination, "destination"
        forbid(f"{path}.http", rule.http, "is allowed in ingress rules only")
    if own.services is not None:
        raise FieldError(
            f"{path}.{own_name}.services",
            f"is allowed only in the {peer_name} of an {direction.lower()} rule",
        )
    if peer.services is not None and not namespaced and not peer.services.namespace:
        raise FieldError(f"{path}.{peer_name}.services.namespace", "is required in a global policy")


def _check_rule(path: str, rule: Rule) -> None:
    if rule.ip_version not in (None, 4, 6):
        raise FieldError(f"{path}.ipVersion", f"{rule.ip_version} is not one of 4, 6")
    protocol = _check_protocol(f"{path}.protocol", rule.protocol, rule.ip_version)
    _check_protocol(f"{path}.notProtocol", rule.not_protocol, rule.ip_version)
    _check_icmp(f"{path}.icmp", rule.icmp)
    _check_icmp(f"{path}.notICMP", rule.not_icmp)
    if rule.icmp is not None and protocol not in (_ICMP, _ICMPV6):
        raise FieldError(f"{path}.icmp", "needs protocol ICMP or ICMPv6")
    for name, entity in (("source", rule.source), ("destination", rule.destination)):
        if entity != _EMPTY_ENTITY:
            _check_entity(f"{path}.{name}", entity)
            _check_ports(f"{path}.{name}.ports", entity.ports, protocol)
            _check_ports(f"{path}.{name}.notPorts", entity.not_ports, protocol)
    _check_families(path, rule)
    if rule.destination.services is not None:
        forbid(f"{path}.destination.ports", rule.destination.ports, "cannot be given together with services")
        forbid(
            f"{path}.destination.notPorts",
            rule.destination.not_ports,
            "cannot be given together with services",
        )
    if rule.http is not None:
        _check_http(f"{path}.http", rule.http, rule.action, protocol)
    if rule.metadata is not None:
        check_annotations(f"{path}.metadata.annotations", rule.metadata.annotations)


_EMPTY_ENTITY = EntityRule()


def _check_protocol(path: str, protocol: Protocol | None, version: int | None) -> int | None:
    if protocol is None:
        return None
    try:
        number = protocol_number(protocol)
    except ValueError as error:
        raise FieldError(path, str(error)) from None
    for icmp, needed in ((_ICMP, 4), (_ICMPV6, 6)):
        if number == icmp and version not in (None, needed):
            raise FieldError(path, f"{protocol} needs ipVersion {needed}")
    return number


def _check_icmp(path: str, icmp: ICMPFields | None) -> None:
    if icmp is None:
        return
    check_range(f"{path}.type", icmp.type, 0, 254)
    check_range(f"{path}.code", icmp.code, 0, 255)
    if icmp.code is not None and icmp.type is None:
        raise FieldError(f"{path}.type", "is required when code is given")


def _check_ports(path: str, ports: Sequence[Port], protocol: int | None) -> None:
    if not ports:
        return
    check_length(path, ports, MAX_PORTS)
    for index, port in enumerate(ports):
        try:
            canonical_port(port)
        except ValueError as error:
            raise FieldError(f"{path}[{index}]", str(error)) from None
    if protocol is None:
        if not all(isinstance(parse_port(port), str) for port in ports):
            raise FieldError(path, "needs protocol TCP, UDP or SCTP in the same rule")
    elif protocol not in PORT_PROTOCOLS:
        raise FieldError(path, "needs protocol TCP, UDP or SCTP; the rule's protocol has no ports")


def _check_entity(path: str, entity: EntityRule) -> None:
    check_length(f"{path}.nets", entity.nets, MAX_NETS)
    check_length(f"{path}.notNets", entity.not_nets, MAX_NETS)
    check_networks(f"{path}.nets", entity.nets)
    check_networks(f"{path}.notNets", entity.not_nets)
    for index, net in enumerate(entity.not_nets):
        if net in _CATCH_ALL:
            raise FieldError(f"{path}.notNets[{index}]", f"{net} leaves no traffic for the rule to match")
    check_selector(f"{path}.selector", entity.selector)
    check_selector(f"{path}.notSelector", entity.not_selector)
    if entity.namespace_selector:
        check_rule_namespace_selector(f"{path}.namespaceSelector", entity.namespace_selector)
    if entity.service_accounts is not None:
        check_names(f"{path}.serviceAccounts.names", entity.service_accounts.names)
        check_selector(f"{path}.serviceAccounts.selector", entity.service_accounts.selector)
    if entity.services is not None:
        _check_services(path, entity)


def _check_services(path: str, entity: EntityRule) -> None:
    assert entity.services is not None
    require(f"{path}.services.name", entity.services.name)
    check_name(f"{path}.services.name", entity.services.name)
    if entity.services.namespace:
        check_name(f"{path}.services.namespace", entity.services.namespace)
    reason = "cannot be given together with services"
    forbid(f"{path}.selector", entity.selector, reason)
    forbid(f"{path}.notSelector", entity.not_selector, reason)
    forbid(f"{path}.nets", entity.nets, reason)
    forbid(f"{path}.notNets", entity.not_nets, reason)
    forbid(f"{path}.namespaceSelector", entity.namespace_selector, reason)
    forbid(f"{path}.serviceAccounts", entity.service_accounts, reason)


def _check_families(path: str, rule: Rule) -> None:
    """All CIDRs of one rule are of one family, and of the family that ipVersion names."""
    seen = rule.ip_version
    for side, entity in (("source", rule.source), ("destination", rule.destination)):
        for field, nets in (("nets", entity.nets), ("notNets", entity.not_nets)):
            for index, net in enumerate(nets):
                version = ip_version(net)
                if seen is not None and version != seen:
                    where = "ipVersion" if rule.ip_version is not None else "other CIDRs"
                    raise FieldError(
                        f"{path}.{side}.{field}[{index}]",
                        f"{net} is IPv{version}, the rule's {where} IPv{seen}",
                    )
                seen = version


def _check_http(path: str, http: HTTPMatch, action: Action, protocol: int | None) -> None:
    if action is not Action.ALLOW:
        raise FieldError(path, "is allowed in rules with action Allow only")
    if protocol not in (None, _TCP):
        raise FieldError(path, "needs protocol TCP, or none")
    check_length(f"{path}.methods", http.methods, 20)
    check_length(f"{path}.paths", http.paths, 20)
    check_unique(f"{path}.methods", http.methods)
    for index, match in enumerate(http.paths):
        if bool(match.exact) == bool(match.prefix):
            raise FieldError(f"{path}.paths[{index}]", "needs exactly one of exact, prefix")
        value = match.exact or match.prefix
        if not value.startswith("/") or any(char in value for char in "? #") or len(value) > 1024:
            raise FieldError(
                f"{path}.paths[{index}]",
                "must begin with '/', be at most 1024 characters, without '?', '#' and spaces",
            )
