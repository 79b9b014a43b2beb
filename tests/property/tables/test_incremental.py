"""Whatever the history, what is programmed is what compiling the present state as a whole gives."""

from hypothesis import given
from hypothesis import strategies as st

from calico_engine.messages import (
    ActivePolicyRemove,
    ActiveProfileRemove,
    ActiveRule,
    ConfigUpdate,
    HostEndpointRemove,
    InterfaceRemove,
    IPSetRemove,
    Message,
    PoolEncap,
    PoolRemove,
    PoolUpdate,
    WorkloadEndpointRemove,
)
from calico_engine.model.endpoint import IPNAT
from calico_engine.model.policy import Action
from calico_engine.ruleset.ir import ChainKey, Family, Rule
from calico_engine.ruleset.lower import lower
from calico_engine.ruleset.state import DesiredState
from calico_engine.ruleset.world import compile_world
from calico_engine.settings import FelixSettings, Layout
from calico_engine.tables.family import FamilyTables
from calico_engine.tables.missing_sets import all_sets, close_rules
from calico_engine.testing.messages import (
    ALLOW,
    DENY,
    endpoint_key,
    make_batch,
    make_host_update,
    make_interface,
    make_policy_update,
    make_profile_update,
    make_set,
    make_tier,
    make_workload_update,
    policy_key,
)
from calico_engine_iptables.backend import IptablesBackend, VariantChoice

NAMES = ("a", "b", "c")
SETS = ("s:x", "s:y")
FLOATING = FelixSettings(floating_ips="Enabled", workload_source_spoofing="Any")

names = st.sampled_from(NAMES)
few_names = st.lists(names, max_size=3, unique=True).map(tuple)
set_rules = st.builds(
    lambda action, ids: ActiveRule(action=action, src_sets=tuple(ids)),
    st.sampled_from((Action.ALLOW, Action.DENY)),
    st.lists(st.sampled_from(SETS), max_size=2, unique=True),
)
rule_lists = st.lists(st.one_of(set_rules, st.sampled_from((ALLOW, DENY))), max_size=3).map(tuple)
tiers = few_names.map(lambda found: (make_tier(*found),) if found else ())

messages: st.SearchStrategy[Message] = st.one_of(
    st.builds(
        lambda name, inbound, selector: make_policy_update(name, inbound=inbound, selector=selector),
        names,
        rule_lists,
        st.sampled_from(("all()", "has(x)")),
    ),
    names.map(lambda name: ActivePolicyRemove(policy=policy_key(name))),
    st.builds(lambda name, inbound: make_profile_update(name, inbound=inbound), names, rule_lists),
    names.map(lambda name: ActiveProfileRemove(profile=name)),
    st.builds(
        lambda name, interface, tiers_, profiles, nats, spoofed: make_workload_update(
            name, interface=interface, tiers=tiers_, profiles=profiles, nats=nats, allow_spoofed=spoofed
        ),
        names,
        st.sampled_from(("cali1", "cali2", "calx3", "not valid")),
        tiers,
        few_names,
        st.sampled_from(((), (IPNAT(internal_ip="10.65.0.1", external_ip="192.0.2.9"),))),
        st.sampled_from(((), ("192.0.2.0/24", "fd09::/64"))),
    ),
    names.map(lambda name: WorkloadEndpointRemove(endpoint=endpoint_key(name))),
    st.builds(
        lambda name, interface, normal, untracked: make_host_update(
            name, interface=interface, expected_ips=("192.0.2.1",), tiers=normal, untracked=untracked
        ),
        names,
        st.sampled_from(("eth0", "eth1", "*", "")),
        tiers,
        tiers,
    ),
    names.map(lambda name: HostEndpointRemove(endpoint=make_host_update(name).endpoint)),
    st.builds(
        lambda name, addresses: make_interface(name, *addresses),
        st.sampled_from(("eth0", "eth1", "cali1")),
        st.sampled_from(((), ("192.0.2.1",), ("fd00::1",))),
    ),
    st.sampled_from(("eth0", "eth1")).map(lambda name: InterfaceRemove(name=name)),
    st.sampled_from(SETS).map(lambda set_id: make_set(set_id, "10.0.0.1")),
    st.sampled_from(SETS).map(lambda set_id: IPSetRemove(set_id=set_id)),
    st.builds(
        lambda cidr, nat, encap: PoolUpdate(cidr=cidr, nat_outgoing=nat, encap=encap),
        st.sampled_from(("10.65.0.0/16", "fd00:65::/64")),
        st.booleans(),
        st.sampled_from((PoolEncap.NONE, PoolEncap.IPIP, PoolEncap.VXLAN)),
    ),
    st.sampled_from(("10.65.0.0/16", "fd00:65::/64")).map(lambda cidr: PoolRemove(cidr=cidr)),
    st.sampled_from((FelixSettings(), FelixSettings(layout=Layout.V2), FLOATING)).map(
        lambda settings: ConfigUpdate(settings=settings)
    ),
)


def make_tables(state: DesiredState, family: Family) -> FamilyTables:
    return FamilyTables(state, IptablesBackend(family, state.settings, VariantChoice("legacy", (4, 6))))


def whole(state: DesiredState, family: Family) -> dict[ChainKey, tuple[Rule, ...]]:
    """Return all chains compiled at once, with rules closed that look up a set which is not there."""
    closed = DesiredState(state.settings)
    closed.__dict__.update(state.__dict__)
    closed.policies = {
        key: close_rules(update, all_sets(update) - state.sets.keys(), family)
        for key, update in state.policies.items()
    }
    closed.profiles = {
        key: close_rules(update, all_sets(update) - state.sets.keys(), family)
        for key, update in state.profiles.items()
    }
    return lower(compile_world(closed, state.settings, family), state.settings).chains


def programmed(tables: FamilyTables) -> dict[ChainKey, tuple[Rule, ...]]:
    return {write.key: write.rules for write in tables.everything().chains}


@given(
    st.lists(st.lists(messages, min_size=1, max_size=4), max_size=12),
    st.sampled_from(Family),
    st.sampled_from((FelixSettings(), FelixSettings(layout=Layout.V2), FLOATING)),
)
def test_history_leaves_no_trace(
    batches: list[list[Message]], family: Family, settings: FelixSettings
) -> None:
    state = DesiredState(settings)
    tables = make_tables(state, family)

    for batch in batches:
        touched = state.apply(make_batch(*batch))
        tables.backend.configure(state.settings)
        tables.compiler.touch(touched)
        tables.compiler.compile_all()
        tables.settle()

    tables.compiler.compile_all()
    tables.settle()
    assert programmed(tables) == whole(state, family)


@given(st.lists(messages, max_size=20), st.sampled_from(Family))
def test_what_is_hashed_is_what_is_wanted(batch: list[Message], family: Family) -> None:
    state = DesiredState()
    tables = make_tables(state, family)
    tables.compiler.touch(state.apply(make_batch(*batch)))
    tables.backend.configure(state.settings)
    tables.compiler.compile_all()
    tables.settle()

    for write in tables.everything().chains:
        assert write.hashes == tables.backend.hash_rules(write.key.name, write.rules)
