"""One selector per policy and per side of a rule, from the several that users may write.

Namespaces and service accounts reach an endpoint as labels: its own `projectcalico.org/namespace` and
`projectcalico.org/serviceaccount`, and those its profiles give it under the prefixes `pcns.` and `pcsa.`. The
combinations below are the reference's, operand for operand: set names are made from the result.
Source: libcalico-go/lib/backend/syncersv1/updateprocessors (rules.go, selectors.go, *policyprocessor.go).
"""

from __future__ import annotations

from functools import lru_cache

from calico_engine.model.policy import EntityRule, GlobalNetworkPolicy, NetworkPolicy, ServiceAccountMatch
from calico_engine.selector import Selector, parse
from calico_engine.selector.ast import All, And, Equal, Global, Has, In, Node, Not, Or

NAMESPACE_LABEL = "projectcalico.org/namespace"
SERVICE_ACCOUNT_LABEL = "projectcalico.org/serviceaccount"
ORCHESTRATOR_LABEL = "projectcalico.org/orchestrator"
NAMESPACE_PREFIX = "pcns."
SERVICE_ACCOUNT_PREFIX = "pcsa."
NAMESPACE_PROFILE_PREFIX = "kns."


def policy_selector(policy: NetworkPolicy | GlobalNetworkPolicy) -> Selector:
    """Return the selector of the endpoints a policy applies to. Raises: SelectorSyntaxError."""
    if isinstance(policy, GlobalNetworkPolicy):
        return _global_policy_selector(
            policy.spec.selector, policy.spec.namespace_selector, policy.spec.service_account_selector
        )
    return _namespaced_policy_selector(
        policy.spec.selector, policy.metadata.namespace, policy.spec.service_account_selector
    )


def _global_policy_selector(selector: str, namespaces: str, service_accounts: str) -> Selector:
    if not (namespaces or service_accounts):
        return parse(selector)
    node = parse(selector).ast if selector else None
    if namespaces:
        node = _replace_all(_both(node, _prefixed(namespaces, NAMESPACE_PREFIX)), Has(NAMESPACE_LABEL))
    if service_accounts:
        node = _replace_all(
            _both(node, _prefixed(service_accounts, SERVICE_ACCOUNT_PREFIX)), Has(SERVICE_ACCOUNT_LABEL)
        )
    assert node is not None
    return Selector(node)


def _namespaced_policy_selector(selector: str, namespace: str, service_accounts: str) -> Selector:
    node = parse(selector).ast if selector else None
    if namespace:
        node = _both(node, Equal(NAMESPACE_LABEL, namespace))
    if service_accounts:
        node = _both(node, _prefixed(service_accounts, SERVICE_ACCOUNT_PREFIX))
    return Selector(All() if node is None else node)


def entity_selectors(entity: EntityRule, namespace: str) -> tuple[Selector | None, Selector | None]:
    """Return the selector one side of a rule must match and the one it must not, None where there is none.

    `namespace` is that of the policy, "" for a global one or a profile. Any selector in a namespaced policy is
    limited to the namespace. A negated selector beside a positive one narrows that down: only alone does it also
    speak of addresses that belong to nobody.
    Raises: SelectorSyntaxError.
    """
    if not (entity.selector or entity.not_selector or entity.namespace_selector or entity.service_accounts):
        return None, None
    return _entity_selectors(
        entity.selector, entity.not_selector, entity.namespace_selector, entity.service_accounts, namespace
    )


@lru_cache(maxsize=16_384)
def _entity_selectors(
    selector: str,
    not_selector: str,
    namespaces: str,
    service_accounts: ServiceAccountMatch | None,
    namespace: str,
) -> tuple[Selector | None, Selector | None]:
    chosen = parse(selector).ast if selector else None
    if service_accounts is not None and (accounts := _service_accounts(service_accounts)) is not None:
        chosen = accounts if chosen is None else And((accounts, chosen))
    within = _namespaces(namespaces, namespace)
    if within is not None and (chosen is not None or not_selector or namespaces):
        chosen = within if chosen is None else And((within, chosen))
    refused = parse(not_selector).ast if not_selector else None
    if chosen is None:
        return None, None if refused is None else Selector(refused)
    if refused is not None:
        chosen = And((chosen, _not(refused)))
    return Selector(chosen), None


def _namespaces(namespaces: str, namespace: str) -> Node | None:
    if namespaces:
        # Here all() means every namespace and global() none of them: host endpoints, global network sets.
        return _replace_all(_prefixed(namespaces, NAMESPACE_PREFIX), Has(NAMESPACE_LABEL))
    return Equal(NAMESPACE_LABEL, namespace) if namespace else None


def _service_accounts(match: ServiceAccountMatch) -> Node | None:
    chosen = _prefixed(match.selector, SERVICE_ACCOUNT_PREFIX) if match.selector else None
    if not match.names:
        return chosen
    named = In(SERVICE_ACCOUNT_LABEL, tuple(sorted(set(match.names))))
    return named if chosen is None else And((chosen, named))


def _prefixed(text: str, prefix: str) -> Node:
    return parse(text).with_prefix(prefix).ast


def _both(left: Node | None, right: Node) -> Node:
    return right if left is None else And((left, right))


def _not(node: Node) -> Node:
    return node.operand if isinstance(node, Not) else Not(node)


def _replace_all(node: Node, meaning: Has) -> Node:
    """Give all() a narrower meaning, and global() the opposite one."""
    match node:
        case All():
            return meaning
        case Global():
            return Not(meaning)
        case Not(operand):
            return _not(_replace_all(operand, meaning))
        case And(operands):
            return And(tuple([_replace_all(operand, meaning) for operand in operands]))
        case Or(operands):
            return Or(tuple([_replace_all(operand, meaning) for operand in operands]))
        case _:
            return node
