"""Compile what changed: from the desired state of a node to the chains of one family, object by object.

Pure. The result is a function of the state alone, equal to compiling the whole of it at once; only the work is
proportional to what changed. Chains of policy groups are shared: a chain stays as long as one object makes it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import TypeVar

from calico_engine.errors import CalicoEngineError
from calico_engine.messages import (
    ActivePolicyUpdate,
    ActiveProfileUpdate,
    HostEndpointUpdate,
    TierPolicies,
    WorkloadEndpointUpdate,
)
from calico_engine.model.resource import ResourceKey
from calico_engine.ruleset.compile_dispatch import compile_host_dispatch, compile_workload_dispatch
from calico_engine.ruleset.compile_endpoint import compile_workload
from calico_engine.ruleset.compile_host import compile_host, resolve_host_endpoints
from calico_engine.ruleset.compile_nat import (
    compile_cidr_block,
    compile_floating_ips,
    compile_nat_outgoing,
    compile_rpf_skip,
)
from calico_engine.ruleset.compile_policy import compile_policy, compile_profile
from calico_engine.ruleset.compile_sets import find_tunnels, masquerades
from calico_engine.ruleset.compile_static import StaticRules, compile_static
from calico_engine.ruleset.ir import ChainKey, Drop, Family, Layer, Origin, Rule
from calico_engine.ruleset.lower import lower_chains, lower_rules
from calico_engine.ruleset.names import is_interface_name
from calico_engine.ruleset.state import DesiredState, Touched
from calico_engine.ruleset.verify import verify_chain
from calico_engine.tables.missing_sets import all_sets, close_rules

log = logging.getLogger(__name__)

Chains = Mapping[ChainKey, tuple[Rule, ...]]
#: What chains are made from: a kind of object, and its key where there is more than one.
Part = tuple[str, ResourceKey | str | None]

STATIC: Part = ("static", None)
DISPATCH: Part = ("workload-dispatch", None)
HOST_DISPATCH: Part = ("host-dispatch", None)
NAT_OUTGOING: Part = ("nat-outgoing", None)
FLOATING_IPS: Part = ("floating-ips", None)
RPF_SKIP: Part = ("rpf-skip", None)

_K = TypeVar("_K", ResourceKey, str)
_Rules = TypeVar("_Rules", ActivePolicyUpdate, ActiveProfileUpdate)


class RulesetCompiler:
    """The chains of one family, kept up to date with a DesiredState.

    `touch` notes what a batch changed, `compile_next` works off one part, `take_changed` says which chains differ.
    """

    def __init__(self, state: DesiredState, family: Family) -> None:
        self.family = family
        self.chains: dict[ChainKey, tuple[Rule, ...]] = {}
        self.static = StaticRules({}, {}, {})
        #: Why a part could not be compiled. Its chains are absent, and what leads to them drops.
        self.errors: dict[Part, str] = {}
        #: The workload endpoint that governs an interface, and the host endpoint likewise ("*": all others).
        self.workloads: dict[str, WorkloadEndpointUpdate] = {}
        self.hosts: dict[str, HostEndpointUpdate] = {}
        self._state = state
        self._dirty: dict[Part, None] = {}
        self._changed: set[ChainKey] = set()
        self._faulty: set[ChainKey] = set()
        self._made: dict[Part, frozenset[ChainKey]] = {}
        self._makers: dict[ChainKey, set[Part]] = {}
        self._claims: dict[str, set[ResourceKey]] = {}
        self._interface_of: dict[ResourceKey, str] = {}
        self._with_nats: set[ResourceKey] = set()
        self._with_spoofing: set[ResourceKey] = set()
        self._policy_users: dict[ResourceKey, set[Part]] = {}
        self._policy_shape: dict[ResourceKey, tuple[str, bool, bool]] = {}
        self._policies_used: dict[Part, frozenset[ResourceKey]] = {}
        self._set_users: dict[str, set[Part]] = {}
        self._sets_used: dict[Part, frozenset[str]] = {}
        self._missing: set[str] = set()
        self._mark_all()

    @property
    def is_current(self) -> bool:
        """Whether there is nothing left to compile."""
        return not self._dirty

    @property
    def missing_sets(self) -> frozenset[str]:
        """Ids of sets that rules look up and the kernel will not have; those rules are closed."""
        return frozenset(self._missing)

    def take_changed(self) -> set[ChainKey]:
        """Return the keys of chains that were made, changed or dropped since the last call."""
        changed, self._changed = self._changed, set()
        return changed

    def parts_using(self, policy: ResourceKey) -> frozenset[Part]:
        """Return the endpoints' parts that a policy applies to."""
        return frozenset(self._policy_users.get(policy, ()))

    def parts_using_set(self, set_id: str) -> frozenset[Part]:
        """Return the policies' and profiles' parts that look up a set."""
        return frozenset(self._set_users.get(set_id, ()))

    def makers(self, key: ChainKey) -> frozenset[Part]:
        """Return the parts that make a chain."""
        return frozenset(self._makers.get(key, ()))

    def compile_all(self) -> None:
        while self.compile_next():
            pass

    # Noting changes

    def touch(self, touched: Touched) -> None:
        """Mark dirty what depends on what a batch changed."""
        if touched.settings:
            self._mark_all()
        self._touch_sets(touched.sets)
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

    def _mark(self, part: Part) -> None:
        self._dirty[part] = None

    def _mark_all(self) -> None:
        for part in (STATIC, ("hosts", None), DISPATCH, HOST_DISPATCH, NAT_OUTGOING, FLOATING_IPS, RPF_SKIP):
            self._mark(part)
        for part in list(self._made):
            self._mark(part)
        for policy in self._state.policies:
            self._touch_policy(policy)
        for profile in self._state.profiles:
            self._mark(("profile", profile))
        for workload in self._state.workloads:
            self._touch_workload(workload)

    def _touch_sets(self, set_ids: Iterable[str]) -> None:
        for set_id in set_ids:
            users = self._set_users.get(set_id)
            if users and self._is_available(set_id) is (set_id in self._missing):
                for part in users:
                    self._mark(part)

    def _touch_policy(self, policy: ResourceKey) -> None:
        self._mark(("policy", policy))
        update = self._state.policies.get(policy)
        shape = (update.selector, update.untracked, update.pre_dnat) if update else None
        if shape != self._policy_shape.get(policy):
            for part in self._policy_users.get(policy, ()):
                self._mark(part)
        if shape is None:
            self._policy_shape.pop(policy, None)
        else:
            self._policy_shape[policy] = shape

    def _touch_workload(self, workload: ResourceKey) -> None:
        update = self._state.workloads.get(workload)
        name = (
            update.interface_name if update is not None and is_interface_name(update.interface_name) else ""
        )
        before = self._interface_of.pop(workload, "")
        if before:
            self._claims[before].discard(workload)
            self._mark(("workload", before))
        if name:
            self._interface_of[workload] = name
            self._claims.setdefault(name, set()).add(workload)
            self._mark(("workload", name))
        if before and not self._claims[before]:
            del self._claims[before]
            self._mark(DISPATCH)
        if name and name != before:
            self._mark(DISPATCH)
        # Another endpoint of the same interface may govern it now.
        rivals = self._claims.get(before, set()) | self._claims.get(name, set())
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
        if not self._dirty:
            return False
        # Newest last: parts marked while compiling (hosts mark each host) come after those that marked them.
        part = next(iter(self._dirty))
        del self._dirty[part]
        problems: list[str] = []
        chains: Chains = {}
        try:
            chains = lower_chains(self._compile(part), self._state.settings, self.family)
        except CalicoEngineError as error:
            if part == STATIC:
                # Without these there is nothing to hang anything into: leave the kernel as it is.
                self._mark(part)
                raise
            problems.append(str(error))
        problems += self._replace(part, chains)
        self._note_problems(part, problems)
        return True

    def _note_problems(self, part: Part, problems: Iterable[str]) -> None:
        reason = "; ".join(problems)
        if reason:
            log.warning("not compiled: %s %s: %s", part[0], part[1], reason)
            self.errors[part] = reason
        else:
            self.errors.pop(part, None)

    def _compile(self, part: Part) -> Chains:
        state, settings = self._state, self._state.settings
        match part:
            case ("policy", ResourceKey() as policy):
                update = state.policies.get(policy)
                return (
                    compile_policy(self._closed(part, update), settings, self.family)
                    if update
                    else self._gone(part)
                )
            case ("profile", str() as profile):
                rules = state.profiles.get(profile)
                return (
                    compile_profile(self._closed(part, rules), settings, self.family)
                    if rules
                    else self._gone(part)
                )
            case ("workload", str() as name):
                return self._compile_workload(part, name)
            case ("host", str() as name):
                return self._compile_host(part, name)
            case ("hosts", _):
                self._resolve_hosts()
                return {}
            case _:
                return self._compile_shared(part)

    def _compile_shared(self, part: Part) -> Chains:
        state, settings, family = self._state, self._state.settings, self.family
        if part == STATIC:
            static = compile_static(settings, family, find_tunnels(state, settings, family))
            self.static = StaticRules(
                static.chains,
                {hook: lower_rules(rules, settings, family) for hook, rules in static.hooks.items()},
                {hook: lower_rules(rules, settings, family) for hook, rules in static.appends.items()},
            )
            # Service CIDRs would be named here; no message carries them yet.
            return {**static.chains, **compile_cidr_block((), settings, family)}
        if part == DISPATCH:
            return compile_workload_dispatch(sorted(self._claims), settings)
        if part == HOST_DISPATCH:
            return compile_host_dispatch(self.hosts, settings)
        if part == NAT_OUTGOING:
            return compile_nat_outgoing(settings, family, active=masquerades(state, family))
        specials = self._with_nats if part == FLOATING_IPS else self._with_spoofing
        endpoints = [state.workloads[key] for key in sorted(specials) if self._governs(key)]
        compile_ = compile_floating_ips if part == FLOATING_IPS else compile_rpf_skip
        return compile_(endpoints, settings, family)

    def _governs(self, workload: ResourceKey) -> bool:
        name = self._interface_of.get(workload)
        return name is not None and min(self._claims[name]) == workload

    def _compile_workload(self, part: Part, name: str) -> Chains:
        claims = self._claims.get(name)
        if not claims:
            self.workloads.pop(name, None)
            return self._gone(part)
        # Two endpoints may claim one interface for a moment; the choice must not depend on who came first.
        update = self._state.workloads[min(claims)]
        self.workloads[name] = update
        self._use_policies(part, update.tiers)
        return compile_workload(update, self._state.policies, self._state.settings, self.family)

    def _compile_host(self, part: Part, name: str) -> Chains:
        update = self.hosts.get(name)
        if update is None:
            return self._gone(part)
        tiers = (*update.tiers, *update.untracked_tiers, *update.pre_dnat_tiers, *update.forward_tiers)
        self._use_policies(part, tiers)
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
        self._reindex(part, frozenset(), self._policies_used, self._policy_users)
        for set_id in self._reindex(part, frozenset(), self._sets_used, self._set_users):
            if set_id not in self._set_users:
                self._missing.discard(set_id)
        return {}

    def _use_policies(self, part: Part, tiers: Iterable[TierPolicies]) -> None:
        used = frozenset(policy for tier in tiers for policy in (*tier.ingress, *tier.egress))
        self._reindex(part, used, self._policies_used, self._policy_users)

    def _closed(self, part: Part, update: _Rules) -> _Rules:
        """Return the update with rules closed that look up a set which is not there."""
        used = all_sets(update)
        for set_id in self._reindex(part, used, self._sets_used, self._set_users):
            if set_id not in self._set_users:
                self._missing.discard(set_id)
        missing = {set_id for set_id in used if not self._is_available(set_id)}
        self._missing.difference_update(used)
        self._missing.update(missing)
        return close_rules(update, missing, self.family) if missing else update

    def _is_available(self, set_id: str) -> bool:
        known = self._state.sets.get(set_id)
        if known is None:
            return False
        limit = self._state.settings.max_ipset_size
        if len(known.members) <= limit:
            return True
        v6 = self.family is Family.V6
        return sum((":" in member.partition(",")[0]) is v6 for member in known.members) <= limit

    @staticmethod
    def _reindex(
        part: Part, used: frozenset[_K], uses: dict[Part, frozenset[_K]], users: dict[_K, set[Part]]
    ) -> frozenset[_K]:
        """Note what a part uses now; return what it no longer uses."""
        before = uses.get(part, frozenset())
        for key in used - before:
            users.setdefault(key, set()).add(part)
        for key in before - used:
            users[key].discard(part)
            if not users[key]:
                del users[key]
        if used:
            uses[part] = used
        else:
            uses.pop(part, None)
        return before - used

    def _replace(self, part: Part, chains: Chains) -> list[str]:
        """Put a part's chains in the place of those it made before; return what is wrong with them."""
        problems: list[str] = []
        before = self._made.get(part, frozenset())
        for key in before - chains.keys():
            makers = self._makers[key]
            makers.discard(part)
            if not makers:
                del self._makers[key], self.chains[key]
                self._faulty.discard(key)
                self._changed.add(key)
        for key, rules in chains.items():
            self._makers.setdefault(key, set()).add(part)
            if key in self._faulty or self.chains.get(key) != rules:
                problems += self._put(key, rules)
        if chains:
            self._made[part] = frozenset(chains)
        else:
            self._made.pop(part, None)
        return problems

    def _put(self, key: ChainKey, rules: tuple[Rule, ...]) -> list[str]:
        """Take over a chain that changed, closed if it must not go to the kernel; return what is wrong with it."""
        faults = verify_chain(key, rules, self.family)
        if faults:
            rules = closed_rules(key, "Not valid")
            self._faulty.add(key)
        else:
            self._faulty.discard(key)
        self.chains[key] = rules
        self._changed.add(key)
        return faults


def closed_rules(key: ChainKey, reason: str) -> tuple[Rule, ...]:
    """Return what a chain holds that must let nothing through. The nat layer may not drop: there it is empty."""
    if key.layer is Layer.NAT:
        return ()
    return (Rule((), Drop(), (reason,), Origin(note=reason)),)
