"""Close rules that look up a set the kernel will not have: one never announced, or one larger than allowed.

Pure. A rule that lets traffic through must not match without its set, so it is made to match nothing; a rule that
denies must match at least what it would have, so it loses the criteria that cannot be evaluated.
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from typing import TypeVar

import msgspec

from calico_engine.messages import ActivePolicyUpdate, ActiveProfileUpdate, ActiveRule
from calico_engine.model.policy import Action
from calico_engine.ruleset.ir import Family

RuleHolder = TypeVar("RuleHolder", ActivePolicyUpdate, ActiveProfileUpdate)


def rule_sets(rule: ActiveRule) -> Iterable[str]:
    """Return the ids of all sets a rule looks up."""
    return (
        *rule.src_sets, *rule.dst_sets, *rule.src_named_port_sets, *rule.dst_named_port_sets, *rule.dst_ip_port_sets,
        *rule.not_src_sets, *rule.not_dst_sets, *rule.not_src_named_port_sets, *rule.not_dst_named_port_sets,
    )  # fmt: skip


def all_sets(update: ActivePolicyUpdate | ActiveProfileUpdate) -> frozenset[str]:
    """Return the ids of all sets a policy or profile looks up."""
    return frozenset(set_id for rule in (*update.inbound, *update.outbound) for set_id in rule_sets(rule))


def close_rules(update: RuleHolder, missing: Set[str], family: Family) -> RuleHolder:
    """Return the policy or profile with every rule that looks up a missing set closed; rules keep their places."""
    return msgspec.structs.replace(
        update,
        inbound=tuple(_close_rule(rule, missing, family) for rule in update.inbound),
        outbound=tuple(_close_rule(rule, missing, family) for rule in update.outbound),
    )


def _close_rule(rule: ActiveRule, missing: Set[str], family: Family) -> ActiveRule:
    if missing.isdisjoint(rule_sets(rule)):
        return rule
    if rule.action is not Action.DENY:
        # Of the other family: it is left out of this one's tables.
        return msgspec.structs.replace(rule, ip_version=6 if family is Family.V4 else 4)

    def kept(ids: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(set_id for set_id in ids if set_id not in missing)

    # Numeric ports and named ports of one side are alternatives: without one of them, neither may narrow the rule.
    src_open = not missing.isdisjoint(rule.src_named_port_sets)
    dst_open = not missing.isdisjoint(rule.dst_named_port_sets)
    return msgspec.structs.replace(
        rule,
        src_sets=kept(rule.src_sets),
        dst_sets=kept(rule.dst_sets),
        dst_ip_port_sets=kept(rule.dst_ip_port_sets),
        src_ports=() if src_open else rule.src_ports,
        src_named_port_sets=() if src_open else rule.src_named_port_sets,
        dst_ports=() if dst_open else rule.dst_ports,
        dst_named_port_sets=() if dst_open else rule.dst_named_port_sets,
        not_src_sets=kept(rule.not_src_sets),
        not_dst_sets=kept(rule.not_dst_sets),
        not_src_named_port_sets=kept(rule.not_src_named_port_sets),
        not_dst_named_port_sets=kept(rule.not_dst_named_port_sets),
    )
