"""Policies and profiles as they are programmed: with rules closed that look up a set the kernel will not have.

Pure. In the native layout most are there for the lists that are made of them alone, and have no chains of their own.
"""

from __future__ import annotations

from typing import TypeVar

from calico_engine.messages import ActivePolicyUpdate, ActiveProfileUpdate, ActiveRule
from calico_engine.model.resource import ResourceKey
from calico_engine.ruleset import names
from calico_engine.ruleset.compile_list import CLOSED
from calico_engine.ruleset.compile_policy import INGRESS, policy_layers
from calico_engine.ruleset.ir import ChainKey, Family, Layer
from calico_engine.ruleset.state import DesiredState
from calico_engine.ruleset.verify import are_sound, is_chain_name
from calico_engine.tables.chain_store import ChainStore
from calico_engine.tables.missing_sets import all_sets, close_rules
from calico_engine.tables.use_index import Part, UseIndex

_Key = TypeVar("_Key", ResourceKey, str)
_Rules = TypeVar("_Rules", ActivePolicyUpdate, ActiveProfileUpdate)


class EffectiveRules:
    """Effective rules of one family, kept up to date with the sets there are. `missing`: sets that rules lack.

    `walked` has the policies' and profiles' parts whose chains something leads to; None: all of them.
    """

    def __init__(
        self, state: DesiredState, family: Family, store: ChainStore, walked: UseIndex[Part] | None
    ) -> None:
        self.missing: set[str] = set()
        self._state = state
        self._family = family
        self._store = store
        self._walked = walked
        # Parts without chains, with nothing wrong that compiling them would bring to light.
        self._spared: set[Part] = set()
        self._uses: UseIndex[str] = UseIndex()
        self._policies: dict[ResourceKey, ActivePolicyUpdate] = {}
        self._profiles: dict[str, ActiveProfileUpdate] = {}

    def users(self, set_id: str) -> frozenset[Part]:
        """Return the policies' and profiles' parts that look up a set."""
        return self._uses.users(set_id)

    def is_available(self, set_id: str) -> bool:
        """Tell whether the kernel will have a set: it is known, and no larger than allowed."""
        known = self._state.sets.get(set_id)
        if known is None:
            return False
        limit = self._state.settings.max_ipset_size
        if len(known.members) <= limit:
            return True
        v6 = self._family is Family.V6
        return sum((":" in member.partition(",")[0]) is v6 for member in known.members) <= limit

    def outdated(self, set_id: str) -> frozenset[Part]:
        """Return the parts to compile again because a set came or went."""
        users = self._uses.users(set_id)
        return users if users and self.is_available(set_id) is (set_id in self.missing) else frozenset()

    def close_policy(self, policy: ResourceKey) -> ActivePolicyUpdate | None:
        """Return a policy with its rules closed where need be, None when there is no such policy."""
        return self._take(("policy", policy), policy, self._state.policies, self._policies)

    def close_profile(self, profile: str) -> ActiveProfileUpdate | None:
        """Return a profile with its rules closed where need be, None when there is no such profile."""
        return self._take(("profile", profile), profile, self._state.profiles, self._profiles)

    def has_chains(self, part: Part) -> bool:
        """Tell whether chains are to be compiled of a policy or profile that exists."""
        return part not in self._spared

    def _take(
        self, part: Part, key: _Key, wanted: dict[_Key, _Rules], closed: dict[_Key, _Rules]
    ) -> _Rules | None:
        update = wanted.get(key)
        self._spared.discard(part)
        if update is None:
            closed.pop(key, None)
            self.missing -= self._uses.note(part, ())
            return None
        used = all_sets(update)
        self.missing -= self._uses.note(part, used)
        missing = {set_id for set_id in used if not self.is_available(set_id)}
        self.missing.difference_update(used)
        self.missing.update(missing)
        closed[key] = close_rules(update, missing, self._family) if missing else update
        if self._walked is not None and part not in self._walked and self._is_sound(update):
            self._spared.add(part)
        return closed[key]

    def _is_sound(self, update: ActivePolicyUpdate | ActiveProfileUpdate) -> bool:
        """Tell whether a policy or profile is one for lists, and its chains would be without fault."""
        settings = self._state.settings
        if isinstance(update, ActiveProfileUpdate):
            prefixes = (names.PROFILE_INBOUND, names.PROFILE_OUTBOUND)
            chains = [names.profile_chain(prefix, update.profile) for prefix in prefixes]
        elif Layer.FILTER in policy_layers(update, settings):
            prefixes = (names.POLICY_INBOUND, names.POLICY_OUTBOUND)
            chains = [names.policy_chain(prefix, update.policy, settings.layout) for prefix in prefixes]
        else:
            return False
        return all(map(is_chain_name, chains)) and are_sound((*update.inbound, *update.outbound))

    # For lists: what the chains are made of

    def policy_rules(self, policy: ResourceKey, direction: str) -> tuple[ActiveRule, ...]:
        """Return what a list may take for a policy's rules; one without a valid chain lets nothing through."""
        prefix = names.POLICY_INBOUND if direction == INGRESS else names.POLICY_OUTBOUND
        key = ChainKey(Layer.FILTER, names.policy_chain(prefix, policy, self._state.settings.layout))
        is_good = key in self._store.chains and key not in self._store.faulty
        if not is_good and ("policy", policy) not in self._spared:
            return CLOSED
        update = self._policies[policy]
        return update.inbound if direction == INGRESS else update.outbound

    def profile_rules(self, profile: str, direction: str) -> tuple[ActiveRule, ...]:
        """Return the same for a profile; one that does not exist allows nothing, and denies nothing either."""
        prefix = names.PROFILE_INBOUND if direction == INGRESS else names.PROFILE_OUTBOUND
        key = ChainKey(Layer.FILTER, names.profile_chain(prefix, profile))
        if key in self._store.faulty:
            return CLOSED
        update = self._profiles.get(profile)
        if update is None or (key not in self._store.chains and ("profile", profile) not in self._spared):
            return ()
        return update.inbound if direction == INGRESS else update.outbound
