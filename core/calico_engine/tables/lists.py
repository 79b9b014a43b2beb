"""The lists of policies of one family's workloads: their chains, and the classifier that has their verdicts.

Pure. For the native layout. Endpoints with the same policies share a list; a list is there as long as an endpoint has
it. Sets are fed to the classifier member by member, so that a pod that comes costs no walk over the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from calico_engine.messages import SetKind
from calico_engine.ruleset.actions import Chains
from calico_engine.ruleset.classify import Classifier
from calico_engine.ruleset.compile_list import (
    EndpointList,
    EndpointLists,
    compile_list,
    policy_list,
)
from calico_engine.ruleset.compile_sets import compile_used_fixed_sets, family_members
from calico_engine.ruleset.ir import Family, Level
from calico_engine.ruleset.state import DesiredState, PolicyForm, Touched
from calico_engine.tables.effective_rules import EffectiveRules

_END = object()
#: How a list's chain speaks of its verdict table: its levels, and whether any verdict goes to the linear chain.
_Spelling = tuple[tuple[Level, ...], bool]


class PolicyLists:
    """Lists, verdict tables and identities. `endpoints`: by interface, the lists of the endpoint that governs it."""

    def __init__(self, state: DesiredState, family: Family, rules: EffectiveRules) -> None:
        self.classifier = Classifier(family)
        self.endpoints: dict[str, EndpointLists] = {}
        self._state = state
        self._family = family
        self._rules = rules
        self._lists: dict[str, EndpointList] = {}
        self._interfaces: dict[str, set[str]] = {}
        self._spelt: dict[str, _Spelling | None] = {}
        # Lists that were compiled since their spelling was last looked at.
        self._unchecked: set[str] = set()
        self._settling: Iterator[None] | None = None
        # Sets to be fed: as a whole (None), or members that may have changed and whether they were there.
        self._pending: dict[str, dict[str, bool] | None] = {}
        self._fed: set[str] = set()
        self._fixed: dict[str, frozenset[str]] = {}

    # Which lists there are

    def assign(self, interface: str, lists: EndpointLists | None) -> frozenset[str]:
        """Give an interface its endpoint's lists, None for no endpoint; return the names of lists that came or went."""
        before = self.endpoints.pop(interface, None)
        if lists is not None:
            self.endpoints[interface] = lists
        old = {} if before is None else {of.chain: of for of in (before.inbound, before.outbound)}
        new = {} if lists is None else {of.chain: of for of in (lists.inbound, lists.outbound)}
        changed = set()
        for chain in new.keys() - old.keys():
            self._interfaces.setdefault(chain, set()).add(interface)
            if chain not in self._lists:
                self._lists[chain] = new[chain]
                changed.add(chain)
        for chain in old.keys() - new.keys():
            self._interfaces[chain].discard(interface)
            if not self._interfaces[chain]:
                del self._interfaces[chain], self._lists[chain]
                changed.add(chain)
        return frozenset(changed)

    def find(self, chain: str) -> EndpointList | None:
        """Return the list that has a chain of this name."""
        return self._lists.get(chain)

    def interfaces(self, chain: str) -> frozenset[str]:
        """Return the interfaces of the endpoints that have a list."""
        return frozenset(self._interfaces.get(chain, ()))

    # Their chains

    def compile(self, of: EndpointList) -> Chains:
        """Return a list's chains, and have it classified; before it is for the first time, it has none."""
        settings, rules = self._state.settings, self._rules
        if self._state.form is not PolicyForm.CLASSIFIED:
            return compile_list(of, self._state.policies, settings, (), to_linear=True)
        # What is said of the list here counts once it is classified, even if the table stays as it is.
        spelt = self._spelt[of.chain] = self._spelling(of.chain)
        self._unchecked.add(of.chain)
        self.classifier.set_list(of.chain, policy_list(of, rules.policy_rules, rules.profile_rules, settings))
        if spelt is None:
            return {}
        levels, to_linear = spelt
        return compile_list(of, self._state.policies, settings, levels, to_linear=to_linear)

    def is_walked(self, chain: str) -> bool:
        """Tell whether the chains last compiled of a list lead to its policies' chains."""
        if self._state.form is not PolicyForm.CLASSIFIED:
            return True
        spelt = self._spelt.get(chain)
        return spelt is not None and spelt[1]

    def forget(self, chain: str) -> None:
        """Take a list that is no longer used out of the classification."""
        self.classifier.set_list(chain, None)
        self._spelt.pop(chain, None)
        self._unchecked.discard(chain)

    def _spelling(self, chain: str) -> _Spelling | None:
        table = self.classifier.exact.get(chain)
        return None if table is None else (table.levels, self.classifier.needs_linear(chain))

    # Classifying

    @property
    def is_current(self) -> bool:
        return self._settling is None and self.classifier.is_current

    @property
    def is_settling(self) -> bool:
        """Whether a classification has begun and must be carried to its end before anything else changes."""
        return self._settling is not None

    def step(self) -> None:
        """Bring the classification a step forward."""
        if self._settling is None:
            self._settling = self.classifier.settle()
        if next(self._settling, _END) is _END:
            self._settling = None

    def misspelt(self) -> list[str]:
        """Return the lists whose chains must be compiled again, as their tables have other levels now."""
        suspects = (self._unchecked | self.classifier.take_remade()) & self._spelt.keys()
        self._unchecked.clear()
        return sorted(chain for chain in suspects if self._spelling(chain) != self._spelt[chain])

    # Sets

    def touch_sets(self, touched: Touched) -> None:
        """Note what becomes of sets; feed_set carries it out."""
        for set_id in touched.sets:
            members = touched.members.get(set_id)
            noted = self._pending.setdefault(set_id, {})
            if members is None or noted is None:
                self._pending[set_id] = None
            else:
                self._pending[set_id] = {**members, **noted}

    def feed_set(self, set_id: str, *, available: bool) -> None:
        """Tell the classifier of a set; what is not available it must not know of."""
        change = self._pending.pop(set_id, None)
        entry = self._state.sets.get(set_id)
        if entry is None or entry.kind is not SetKind.NET or not available:
            if set_id in self._fed:
                self._fed.discard(set_id)
                self.classifier.set_members(set_id, None)
        elif change is None or set_id not in self._fed:
            self._fed.add(set_id)
            self.classifier.set_members(set_id, family_members(entry.members, SetKind.NET, self._family))
        else:
            own = family_members(change, SetKind.NET, self._family)
            added = [member for member in own if not change[member] and member in entry.members]
            removed = [member for member in own if change[member] and member not in entry.members]
            self.classifier.change_members(set_id, added, removed)

    def feed_fixed_sets(self) -> None:
        """Tell the classifier of the sets of pools and hosts that rules look up."""
        sets = compile_used_fixed_sets(self._state, self._state.settings, self._family)
        wanted: Mapping[str, frozenset[str]] = {set_id: data.members for set_id, data in sets.items()}
        for set_id in self._fixed.keys() - wanted.keys():
            self.classifier.set_members(set_id, None)
        for set_id, members in wanted.items():
            known = self._fixed.get(set_id)
            if known is None:
                self.classifier.set_members(set_id, members)
            elif known != members:
                self.classifier.change_members(set_id, members - known, known - members)
        self._fixed = dict(wanted)
