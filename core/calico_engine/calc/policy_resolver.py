"""Which policies and profiles are active on this node, and which policies each local endpoint has, in order.

Only local endpoints are entered in this label index, but all policies' selectors: what no local endpoint matches is
never scanned, sent or programmed. Endpoints of one label class have one arranged list of policies between them.
Pure. Source: felix/calc/active_rules_calculator.go, policy_resolver.go.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from calico_engine.calc.label_classes import Item, LabelClass
from calico_engine.calc.label_index import LabelIndex
from calico_engine.calc.policy_order import EndpointTiers, PolicyRank, TierOrder, rank_policy
from calico_engine.calc.rule_selectors import policy_selector
from calico_engine.model.policy import GlobalNetworkPolicy, NetworkPolicy, Tier
from calico_engine.model.resource import ResourceKey
from calico_engine.selector import Selector

Policy = NetworkPolicy | GlobalNetworkPolicy
_NEEDED_EVERYWHERE = "AssumeNeededOnEveryNode"


class PolicyResolver:
    """Policies, tiers and local endpoints in; active policies and profiles and endpoints' tiers out."""

    def __init__(self) -> None:
        self.policies: dict[ResourceKey, Policy] = {}
        self.active: set[ResourceKey] = set()
        self.endpoints: set[ResourceKey] = set()
        self._selectors: dict[ResourceKey, Selector] = {}
        self._ranks: dict[ResourceKey, PolicyRank] = {}
        self._tiers = TierOrder()
        self._index: LabelIndex[ResourceKey] = LabelIndex(self._on_move)
        self._arranged: dict[int, EndpointTiers] = {}
        self._dirty_policies: set[ResourceKey] = set()
        self._dirty_endpoints: set[ResourceKey] = set()
        self._tiers_changed = False

    def put_policy(self, key: ResourceKey, policy: Policy | None) -> None:
        """Enter, replace or (None) remove a policy. Raises: SelectorSyntaxError, before anything is changed."""
        if policy is not None and self.policies.get(key) == policy:
            return
        selector = None if policy is None else policy_selector(policy)
        old = self._selectors.get(key)
        if selector is not None:
            self._selectors[key] = selector
            if selector != old:
                self._index.add_query(selector, key)
        else:
            self._selectors.pop(key, None)
        if old is not None and old != selector:
            self._mark_classes(old)
            self._index.remove_query(old, key)
        if policy is not None:
            self.policies[key] = policy
            rank = rank_policy(policy)
            if self._ranks.get(key) != rank or selector != old:
                self._ranks[key] = rank
                self._mark_classes(selector)
        else:
            self.policies.pop(key, None)
            self._ranks.pop(key, None)
        self._dirty_policies.add(key)

    def put_tier(self, name: str, tier: Tier | None) -> None:
        """Enter, replace or (None) remove a tier."""
        self._tiers.put(name, tier)
        self._tiers_changed = True

    def put_endpoint(self, key: ResourceKey, labels: Mapping[str, str], parents: tuple[str, ...]) -> None:
        """Enter or replace a local endpoint."""
        self._index.put(key, labels, parents)
        self.endpoints.add(key)
        self._dirty_endpoints.add(key)

    def drop_endpoint(self, key: ResourceKey) -> None:
        """Remove a local endpoint."""
        self._index.drop(key)
        self.endpoints.discard(key)
        self._dirty_endpoints.discard(key)

    def put_profile_labels(self, name: str, labels: Mapping[str, str] | None) -> None:
        """Give a profile the labels that its endpoints inherit; None when it is gone."""
        self._index.set_parent(name, labels)

    def flush(self) -> tuple[set[ResourceKey], set[ResourceKey]]:
        """Bring matches up to date.

        Returns: the policies whose rules must be looked at again (changed or newly active while active now, or
        no longer active: see `active`), and the endpoints that must be sent again.
        """
        self._index.flush()
        changed = set(self._dirty_policies)
        for query in self._index.take_touched():
            # A new class may match old policies, a new policy old classes.
            for number in query.classes:
                self._arranged.pop(number, None)
            self._mark_items(query.classes)
            changed.update(query.users)
        dirty_policies: set[ResourceKey] = set()
        for key in changed:
            active = self._is_active(key)
            if active or key in self.active:
                if key in self._dirty_policies or active != (key in self.active):
                    dirty_policies.add(key)
                (self.active.add if active else self.active.discard)(key)
        if self._tiers_changed:
            self._arranged.clear()
            self._dirty_endpoints.update(self.endpoints)
        for number in self._arranged.keys() - self._index.classes.keys():
            del self._arranged[number]
        dirty_endpoints = self._dirty_endpoints
        self._dirty_policies, self._dirty_endpoints, self._tiers_changed = set(), set(), False
        return dirty_policies, dirty_endpoints

    def tiers(self, key: ResourceKey) -> EndpointTiers:
        """Return an endpoint's policies in evaluation order, as of the last flush."""
        number = self._index.items[key].class_number
        arranged = self._arranged.get(number)
        if arranged is None:
            each = self._index.classes[number]
            arranged = self._tiers.arrange(self._ranks[user] for user in _users(each))
            self._arranged[number] = arranged
        return arranged

    def _is_active(self, key: ResourceKey) -> bool:
        policy = self.policies.get(key)
        if policy is None:
            return False
        query = self._index.queries.get(self._selectors[key].canonical)
        return bool(query and query.classes) or _NEEDED_EVERYWHERE in policy.spec.performance_hints

    def _mark_classes(self, selector: Selector | None) -> None:
        """Arrange anew what a selector matches at this moment."""
        query = None if selector is None else self._index.queries.get(selector.canonical)
        if query is not None:
            for number in query.classes:
                self._arranged.pop(number, None)
            self._mark_items(query.classes)

    def _mark_items(self, classes: Mapping[int, LabelClass[ResourceKey]]) -> None:
        for each in classes.values():
            self._dirty_endpoints.update(item.key for item in each.items if item.key in self.endpoints)

    def _on_move(
        self, item: Item, before: LabelClass[ResourceKey] | None, after: LabelClass[ResourceKey] | None
    ) -> None:
        if after is not None:
            self._dirty_endpoints.add(item.key)


def _users(each: LabelClass[ResourceKey]) -> Iterator[ResourceKey]:
    for query in each.matched:
        yield from query.users
