"""The rules of active policies and profiles, and which sets they need.

Pure. A policy or profile whose rules cannot be read (validation lets none through) denies instead of being skipped.
"""

from __future__ import annotations

from calico_engine.calc.local_endpoints import LocalEndpoints
from calico_engine.calc.policy_order import DEFAULT_TIER
from calico_engine.calc.policy_resolver import Policy, PolicyResolver
from calico_engine.calc.rule_scanner import ActiveSets, ScannedRules, scan_rules
from calico_engine.calc.rule_selectors import policy_selector
from calico_engine.calc.sequencer import Sequencer
from calico_engine.errors import ValidationError
from calico_engine.messages import (
    ActivePolicyRemove,
    ActivePolicyUpdate,
    ActiveProfileRemove,
    ActiveProfileUpdate,
    ActiveRule,
)
from calico_engine.model.policy import (
    Action,
    GlobalNetworkPolicy,
    GlobalNetworkPolicySpec,
    Profile,
    ProfileSpec,
    Rule,
)
from calico_engine.model.resource import Metadata, ResourceKey

#: Exists in every cluster without being stored. Source: libcalico-go/lib/backend/etcdv3/etcdv3.go.
DEFAULT_ALLOW_PROFILE = "projectcalico-default-allow"
DEFAULT_ALLOW = Profile(
    kind="Profile",
    metadata=Metadata(name=DEFAULT_ALLOW_PROFILE),
    spec=ProfileSpec(ingress=(Rule(action=Action.ALLOW),), egress=(Rule(action=Action.ALLOW),)),
)

_NO_FLAGS = GlobalNetworkPolicySpec()
_DENY = (ActiveRule(action=Action.DENY),)
_DENY_ALL = ScannedRules(_DENY, _DENY, {})


class ActiveRules:
    """Profiles, and from the resolver policies, in; their rules over set ids out, and the sets in use."""

    def __init__(self, resolver: PolicyResolver, endpoints: LocalEndpoints) -> None:
        self.sets = ActiveSets()
        self.profiles: dict[str, Profile] = {DEFAULT_ALLOW_PROFILE: DEFAULT_ALLOW}
        self._resolver = resolver
        self._endpoints = endpoints
        self._dirty_profiles: set[str] = set()

    def put_profile(self, name: str, profile: Profile | None) -> Profile | None:
        """Enter, replace or (None) remove a profile; return the one that counts now."""
        if profile is None and name == DEFAULT_ALLOW_PROFILE:
            profile = DEFAULT_ALLOW
        if profile is None:
            self.profiles.pop(name, None)
        else:
            self.profiles[name] = profile
        self._dirty_profiles.add(name)
        return profile

    def flush(self, dirty_policies: set[ResourceKey], sequencer: Sequencer) -> list[ValidationError]:
        """Say what is new of policies and profiles; return what was found wrong with them."""
        errors: list[ValidationError] = []
        for key in dirty_policies:
            if key not in self._resolver.active:
                self.sets.use(key, {})
                sequencer.remove(ActivePolicyRemove(policy=key))
                continue
            policy = self._resolver.policies[key]
            rules = self._scan(key, policy, policy.metadata.namespace, errors)
            self.sets.use(key, rules.sets)
            sequencer.add(_policy_update(key, policy, rules))
        for name in self._dirty_profiles | self._endpoints.take_dirty_profiles():
            profile = self.profiles.get(name)
            if profile is None or not self._endpoints.uses_profile(name):
                self.sets.use(name, {})
                sequencer.remove(ActiveProfileRemove(profile=name))
                continue
            rules = self._scan(profile.key, profile, "", errors)
            self.sets.use(name, rules.sets)
            sequencer.add(ActiveProfileUpdate(profile=name, inbound=rules.inbound, outbound=rules.outbound))
        self._dirty_profiles.clear()
        return errors

    @staticmethod
    def _scan(
        key: ResourceKey, source: Policy | Profile, namespace: str, errors: list[ValidationError]
    ) -> ScannedRules:
        try:
            return scan_rules(source.spec.ingress, source.spec.egress, namespace)
        except ValueError as error:
            errors.append(
                ValidationError(str(key), "spec", f"{error}; it denies everything until that is mended")
            )
            return _DENY_ALL


def _policy_update(key: ResourceKey, policy: Policy, rules: ScannedRules) -> ActivePolicyUpdate:
    flags = policy.spec if isinstance(policy, GlobalNetworkPolicy) else _NO_FLAGS
    return ActivePolicyUpdate(
        policy=key,
        tier=policy.spec.tier or DEFAULT_TIER,
        inbound=rules.inbound,
        outbound=rules.outbound,
        untracked=flags.do_not_track,
        pre_dnat=flags.pre_dnat,
        selector=policy_selector(policy).canonical,
    )
