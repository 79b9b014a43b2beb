"""Compile what changed: from the desired state of a node to the chains of one family, object by object.

Pure. The result is a function of the state alone, equal to compiling the whole of it at once; only the work is
proportional to what changed. Chains of policy groups are shared: a chain stays as long as one object makes it. In the
native layout workloads have no chains of their own but share those of their lists (tables.lists).
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable

from calico_engine.errors import CalicoEngineError
from calico_engine.messages import HostEndpointUpdate, TierPolicies, WorkloadEndpointUpdate
from calico_engine.model.resource import ResourceKey
from calico_engine.ruleset.assigned import AssignedSources
from calico_engine.ruleset.classify import Classifier
from calico_engine.ruleset.compile_dispatch import compile_host_dispatch
from calico_engine.ruleset.compile_endpoint import compile_workload
from calico_engine.ruleset.compile_host import compile_host, resolve_host_endpoints
from calico_engine.ruleset.compile_list import compile_list_dispatch, endpoint_lists
from calico_engine.ruleset.compile_nat import (
    compile_cidr_block,
    compile_floating_ips,
    compile_nat_outgoing,
)
from calico_engine.ruleset.compile_policy import compile_policy, compile_profile
from calico_engine.ruleset.compile_sets import find_tunnels, masquerades
from calico_engine.ruleset.compile_sources import compile_anti_spoof, compile_rpf_skip
from calico_engine.ruleset.compile_static import StaticRules, compile_static
from calico_engine.ruleset.dispatch_tree import DispatchTree
from calico_engine.ruleset.ir import ChainKey, Family
from calico_engine.ruleset.lower import lower_chains, lower_rules
from calico_engine.ruleset.state import DesiredState, Touched
from calico_engine.ruleset.static_native import Needs, find_needs
from calico_engine.settings import Layout
from calico_engine.tables.chain_store import Chains, ChainStore
from calico_engine.tables.claims import InterfaceClaims
from calico_engine.tables.effective_rules import EffectiveRules
from calico_engine.tables.lists import PolicyLists
from calico_engine.tables.use_index import Part, UseIndex

log = logging.getLogger(__name__)

STATIC: Part = ("static", None)
DISPATCH: Part = ("workload-dispatch", None)
HOST_DISPATCH: Part = ("host-dispatch", None)
NAT_OUTGOING: Part = ("nat-outgoing", None)
FLOATING_IPS: Part = ("floating-ips", None)
RPF_SKIP: Part = ("rpf-skip", None)
FIXED_SETS: Part = ("fixed-sets", None)


class RulesetCompiler:
    """The chains of one family, kept up to date with a DesiredState.

    `touch` notes what a batch changed, `compile_next` works off one part, `take_changed` says which chains differ.
    """

    def __init__(self, state: DesiredState, family: Family) -> None:
        self.family = family
        self.static = StaticRules({}, {}, {})
        #: Why a part could not be compiled. Its chains are absent, and what leads to them drops.
        self.errors: dict[Part, str] = {}
        #: The workload endpoint that governs an interface, and the host endpoint likewise ("*": all others).
        self.workloads: dict[str, WorkloadEndpointUpdate] = {}
        self.hosts: dict[str, HostEndpointUpdate] = {}
        self._state = state
        self._dirty: dict[Part, None] = {}
        self._store = ChainStore(family)
        self.chains = self._store.chains
        native = state.settings.layout is Layout.NATIVE
        # In the native layout, what leads to the chains of policies and profiles; without that they have none.
        self._walked: UseIndex[Part] = UseIndex()
        self._rules = EffectiveRules(state, family, self._store, self._walked if native else None)
        self._claims = InterfaceClaims()
        self._sources = AssignedSources(family)
        self._dispatch = DispatchTree()
        self._with_nats: set[ResourceKey] = set()
        self._with_spoofing: set[ResourceKey] = set()
        self._policy_shape: dict[ResourceKey, tuple[str, bool, bool]] = {}
        self._policy_uses: UseIndex[ResourceKey] = UseIndex()
        self._profile_uses: UseIndex[str] = UseIndex()
        self._needs = Needs()
        self._lists = PolicyLists(state, family, self._rules) if native else None
        self._mark_all()

    @property
    def is_current(self) -> bool:
        """Whether there is nothing left to compile."""
        return not self._dirty and (self._lists is None or self._lists.is_current)

    @property
    def classifier(self) -> Classifier | None:
        """Verdict tables and identities, for the native layout; current when the compiler is."""
        return self._lists.classifier if self._lists is not None else None

    @property
    def sources(self) -> frozenset[tuple[str, str]]:
        """(interface, address) of every address that one workload interface alone has, for the native layout."""
        return self._sources.pairs

    @property
    def interfaces(self) -> frozenset[str]:
        """Every workload interface, for the native layout."""
        return self._sources.interfaces

    def ip_port_members(self, set_id: str) -> Collection[str]:
        """Return the members, of both families, of a set of addresses and ports."""
        known = self._state.sets.get(set_id)
        return known.members if known is not None else ()

    @property
    def missing_sets(self) -> frozenset[str]:
        """Ids of sets that rules look up and the kernel will not have; those rules are closed."""
        return frozenset(self._rules.missing)

    def take_changed(self) -> set[ChainKey]:
        """Return the keys of chains that were made, changed or dropped since the last call."""
        return self._store.take_changed()

    def parts_using(self, policy: ResourceKey) -> frozenset[Part]:
        """Return the endpoints' parts that a policy applies to."""
        return self._policy_uses.users(policy)

    def parts_using_set(self, set_id: str) -> frozenset[Part]:
        """Return the policies' and profiles' parts that look up a set."""
        return self._rules.users(set_id)

    def workloads_of_list(self, chain: str) -> frozenset[Part]:
        """Return the workloads' parts that share a list, by the name of its chain."""
        interfaces = self._lists.interfaces(chain) if self._lists is not None else ()
        return frozenset(("workload", name) for name in interfaces)

    def makers(self, key: ChainKey) -> frozenset[Part]:
        """Return the parts that make a chain."""
        return self._store.makers(key)

    def compile_all(self) -> None:
        while self.compile_next():
            pass

    # Noting changes

    def touch(self, touched: Touched) -> None:
        """Mark dirty what depends on what a batch changed."""
        if touched.settings:
            self._mark_all()
        self._touch_sets(touched)
        for policy in touched.policies:
            self._touch_policy(policy)
        for profile in touched.profiles:
            self._mark(("profile", profile))
        for workload in touched.workloads:
            self._touch_workload(workload)
        if touched.host_endpoints or (touched.interfaces and self._state.host_endpoints):
            self._mark(("hosts", None))
        if touched.pools:
            self._mark(STATIC)
            self._mark(NAT_OUTGOING)
        if self._lists is not None and (touched.pools or touched.nodes or touched.vteps):
            self._mark(FIXED_SETS)

    def _mark(self, part: Part) -> None:
        self._dirty[part] = None

    def _mark_all(self) -> None:
        for part in (STATIC, ("hosts", None), DISPATCH, HOST_DISPATCH, NAT_OUTGOING, FLOATING_IPS, RPF_SKIP):
            self._mark(part)
        if self._lists is not None:
            self._mark(FIXED_SETS)
            for set_id in self._state.sets:
                self._mark(("set", set_id))
        for part in self._store.parts:
            self._mark(part)
        for policy in self._state.policies:
            self._touch_policy(policy)
        for profile in self._state.profiles:
            self._mark(("profile", profile))
        for workload in self._state.workloads:
            self._touch_workload(workload)

    def _touch_sets(self, touched: Touched) -> None:
        if self._lists is not None:
            self._lists.touch_sets(touched)
        for set_id in touched.sets:
            if self._lists is not None:
                self._mark(("set", set_id))
            for part in self._rules.outdated(set_id):
                self._mark(part)

    def _touch_policy(self, policy: ResourceKey) -> None:
        self._mark(("policy", policy))
        update = self._state.policies.get(policy)
        shape = (update.selector, update.untracked, update.pre_dnat) if update else None
        if shape != self._policy_shape.get(policy):
            for part in self._policy_uses.users(policy):
                self._mark(part)
        if shape is None:
            self._policy_shape.pop(policy, None)
        else:
            self._policy_shape[policy] = shape

    def _touch_workload(self, workload: ResourceKey) -> None:
        update = self._state.workloads.get(workload)
        before, name = self._claims.move(workload, update)
        for interface in filter(None, (before, name)):
            self._mark(("workload", interface))
        if before != name:
            self._mark(DISPATCH)
        # Another endpoint of the same interface may govern it now.
        rivals = self._claims.claimants(before, name)
        self._note_special(workload, update, self._with_nats, FLOATING_IPS, rivals)
        self._note_special(workload, update, self._with_spoofing, RPF_SKIP, rivals)

    def _note_special(
        self,
        workload: ResourceKey,
        update: WorkloadEndpointUpdate | None,
        members: set[ResourceKey],
        part: Part,
        rivals: set[ResourceKey],
    ) -> None:
        """Keep track of the few endpoints that have an entry in a chain shared by all."""
        has = False
        if update is not None:
            has = bool(update.ip_nats if part is FLOATING_IPS else update.allow_spoofed_source_prefixes)
        if has or workload in members or not members.isdisjoint(rivals):
            self._mark(part)
        if has:
            members.add(workload)
        else:
            members.discard(workload)

    # Compiling

    def compile_next(self) -> bool:
        """Compile one dirty part; return False when there was none. Raises: ConfigError for settings that cannot be."""
        lists = self._lists
        if lists is not None and (lists.is_settling or not (self._dirty or lists.is_current)):
            lists.step()
            if lists.is_current:
                for chain in lists.misspelt():
                    self._mark(("list", chain))
            return True
        if not self._dirty:
            return False
        # Newest last: parts marked while compiling (hosts mark each host) come after those that marked them.
        part = next(iter(self._dirty))
        del self._dirty[part]
        problems: list[str] = []
        chains: Chains = {}
        try:
            chains = self._compile(part)
            # The dispatch tree is lowered as it is made.
            if part != DISPATCH or self._lists is not None:
                chains = lower_chains(chains, self._state.settings, self.family)
        except CalicoEngineError as error:
            if part == STATIC:
                # Without these there is nothing to hang anything into: leave the kernel as it is.
                self._mark(part)
                raise
            problems.append(str(error))
        problems += self._store.replace(part, chains)
        self._note_problems(part, problems)
        if lists is not None:
            self._follow_up(part)
        return True

    def _follow_up(self, part: Part) -> None:
        """Mark what in the native layout depends on what was compiled."""
        match part:
            case ("policy", ResourceKey() as policy):
                users = self._policy_uses.users(policy)
            case ("profile", str() as profile):
                users = self._profile_uses.users(profile)
            case _:
                users = frozenset()
        for user in users:
            if user[0] == "list":
                self._mark(user)
        needs = find_needs(self.chains)
        if needs != self._needs:
            self._needs = needs
            self._mark(STATIC)

    def _note_problems(self, part: Part, problems: Iterable[str]) -> None:
        reason = "; ".join(problems)
        if reason:
            log.warning("not compiled: %s %s: %s", part[0], part[1], reason)
            self.errors[part] = reason
        else:
            self.errors.pop(part, None)

    def _compile(self, part: Part) -> Chains:
        settings = self._state.settings
        match part:
            case ("policy", ResourceKey() as policy):
                update = self._rules.close_policy(policy)
                if update is None or not self._rules.has_chains(part):
                    return {}
                return compile_policy(update, settings, self.family)
            case ("profile", str() as profile):
                rules = self._rules.close_profile(profile)
                if rules is None or not self._rules.has_chains(part):
                    return {}
                return compile_profile(rules, settings, self.family)
            case ("workload", str() as name):
                return self._compile_workload(part, name)
            case ("host", str() as name):
                return self._compile_host(part, name)
            case ("hosts", _):
                self._resolve_hosts()
                return {}
            case ("list", str() as chain):
                return self._compile_list(part, chain)
            case ("set", str() as set_id):
                if self._lists is not None:
                    self._lists.feed_set(set_id, available=self._rules.is_available(set_id))
                return {}
            case _:
                return self._compile_shared(part)

    def _compile_shared(self, part: Part) -> Chains:
        state, settings, family = self._state, self._state.settings, self.family
        if part == STATIC:
            tunnels = find_tunnels(state, settings, family)
            static = compile_static(settings, family, tunnels, self._needs)
            self.static = StaticRules(
                static.chains,
                {hook: lower_rules(rules, settings, family) for hook, rules in static.hooks.items()},
                {hook: lower_rules(rules, settings, family) for hook, rules in static.appends.items()},
            )
            # Service CIDRs would be named here; no message carries them yet.
            return {**static.chains, **compile_cidr_block((), settings, family)}
        if part == DISPATCH:
            if self._lists is not None:
                return compile_list_dispatch(self._lists.endpoints, settings)
            return self._dispatch.compile(self._claims.interfaces, settings)
        if part == FIXED_SETS:
            if self._lists is not None:
                self._lists.feed_fixed_sets()
            return {}
        if part == HOST_DISPATCH:
            return compile_host_dispatch(self.hosts, settings)
        if part == NAT_OUTGOING:
            return compile_nat_outgoing(settings, family, active=masquerades(state, family))
        specials = self._with_nats if part == FLOATING_IPS else self._with_spoofing
        endpoints = [state.workloads[key] for key in sorted(specials) if self._claims.governs(key)]
        if part == FLOATING_IPS:
            return compile_floating_ips(endpoints, settings, family)
        compile_ = compile_rpf_skip if self._lists is None else compile_anti_spoof
        return compile_(endpoints, settings, family)

    def _compile_workload(self, part: Part, name: str) -> Chains:
        governor = self._claims.governor(name)
        if governor is None:
            self.workloads.pop(name, None)
            if self._lists is not None:
                self._assign_lists(name, None)
                self._sources.assign(name, None)
            return self._gone(part)
        update = self._state.workloads[governor]
        self.workloads[name] = update
        self._use_policies(part, update.tiers)
        if self._lists is not None:
            self._assign_lists(name, update)
            self._sources.assign(name, update.ip_networks)
            return {}
        return compile_workload(update, self._state.policies, self._state.settings, self.family)

    def _assign_lists(self, name: str, update: WorkloadEndpointUpdate | None) -> None:
        assert self._lists is not None
        before = self._lists.endpoints.get(name)
        for chain in self._lists.assign(name, endpoint_lists(update) if update is not None else None):
            self._mark(("list", chain))
        if self._lists.endpoints.get(name) != before:
            self._mark(DISPATCH)

    def _compile_list(self, part: Part, chain: str) -> Chains:
        assert self._lists is not None
        of = self._lists.find(chain)
        if of is None:
            self._lists.forget(chain)
            self._profile_uses.note(part, ())
            return self._gone(part)
        self._use_policies(part, of.tiers)
        self._profile_uses.note(part, of.profiles)
        chains = self._lists.compile(of)
        if self._lists.is_walked(chain):
            self._walk(part, of.tiers, of.profiles)
        else:
            self._walk(part, (), ())
        return chains

    def _compile_host(self, part: Part, name: str) -> Chains:
        update = self.hosts.get(name)
        if update is None:
            return self._gone(part)
        tiers = (*update.tiers, *update.untracked_tiers, *update.pre_dnat_tiers, *update.forward_tiers)
        self._use_policies(part, tiers)
        self._walk(part, tiers, update.profiles)
        return compile_host(name, update, self._state.policies, self._state.settings, self.family)

    def _resolve_hosts(self) -> None:
        state = self._state
        resolved = resolve_host_endpoints(
            state.host_endpoints.values(), state.interfaces.values(), state.settings
        )
        if resolved == self.hosts:
            return
        for name in self.hosts.keys() | resolved.keys():
            if self.hosts.get(name) != resolved.get(name):
                self._mark(("host", name))
        self.hosts = resolved
        self._mark(HOST_DISPATCH)

    # Dependencies

    def _gone(self, part: Part) -> Chains:
        self._policy_uses.note(part, ())
        self._walk(part, (), ())
        return {}

    def _use_policies(self, part: Part, tiers: Iterable[TierPolicies]) -> None:
        self._policy_uses.note(part, (policy for tier in tiers for policy in (*tier.ingress, *tier.egress)))

    def _walk(self, part: Part, tiers: Iterable[TierPolicies], profiles: Iterable[str]) -> None:
        """Note which policies' and profiles' chains a part leads to: they come with the first, go with the last."""
        if self._lists is None:
            return
        walked: list[Part] = [("profile", profile) for profile in profiles]
        walked += [("policy", policy) for tier in tiers for policy in (*tier.ingress, *tier.egress)]
        for other in self._walked.move(part, walked):
            self._mark(other)
