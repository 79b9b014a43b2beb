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
    IPSetDelta,
    IPSetRemove,
    Message,
    PoolEncap,
    PoolRemove,
    PoolUpdate,
    WorkloadEndpointRemove,
)
from calico_engine.model.endpoint import IPNAT
from calico_engine.model.policy import Action
from calico_engine.ruleset.ir import ChainKey, Family, Rule, Ruleset
from calico_engine.ruleset.lower import lower
from calico_engine.ruleset.references import reachable, stub_rules
from calico_engine.ruleset.state import DesiredState, PolicyForm
from calico_engine.ruleset.world import compile_world
from calico_engine.settings import FelixSettings, Layout
from calico_engine.tables.compiler import RulesetCompiler
from calico_engine.tables.family import FamilyTables
from calico_engine.tables.missing_sets import all_sets, close_rules
from calico_engine.tables.status import EndpointStatuses
from calico_engine.testing.messages import (
    ALLOW,
    DENY,
    LOG,
    PASS,
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
    ports,
)
from calico_engine_iptables.backend import IptablesBackend, VariantChoice

NAMES = ("a", "b", "c")
SETS = ("s:x", "s:y")
MEMBERS = ("10.0.0.1", "10.0.0.2", "10.0.0.0/24", "10.0.0.0/8", "fd00::1", "fd00::/64")
FLOATING = FelixSettings(floating_ips="Enabled", workload_source_spoofing="Any")

names = st.sampled_from(NAMES)
few_names = st.lists(names, max_size=3, unique=True).map(tuple)
set_rules = st.builds(
    lambda action, ids: ActiveRule(action=action, src_sets=tuple(ids)),
    st.sampled_from((Action.ALLOW, Action.DENY)),
    st.lists(st.sampled_from(SETS), max_size=2, unique=True),
)
WEB = ActiveRule(action=Action.ALLOW, protocol=6, dst_ports=ports(80, 443), src_nets=("10.0.0.0/24",))
rule_lists = st.lists(st.one_of(set_rules, st.sampled_from((ALLOW, DENY, LOG, PASS, WEB))), max_size=3).map(
    tuple
)
members = st.frozensets(st.sampled_from(MEMBERS))
tiers = few_names.map(lambda found: (make_tier(*found),) if found else ())

messages: st.SearchStrategy[Message] = st.one_of(
    st.builds(
        lambda name, inbound, outbound, selector: make_policy_update(
            name, inbound=inbound, outbound=outbound, selector=selector
        ),
        names,
        rule_lists,
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
    st.builds(lambda set_id, found: make_set(set_id, *found), st.sampled_from(SETS), members),
    st.builds(
        lambda set_id, added, removed: IPSetDelta(set_id=set_id, added=added, removed=removed - added),
        st.sampled_from(SETS),
        members,
        members,
    ),
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


def whole(state: DesiredState, family: Family) -> Ruleset:
    """Return everything compiled at once, with rules closed that look up a set which is not there."""
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
    return lower(compile_world(closed, state.settings, family), state.settings)


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
    assert programmed(tables) == whole(state, family).chains


def compiled(compiler: RulesetCompiler) -> dict[ChainKey, tuple[Rule, ...]]:
    """Return the chains that would be programmed."""
    chains, static = compiler.chains, compiler.static
    needed = reachable(chains, static.hooks, static.appends)
    return {key: chains[key] if key in chains else stub_rules(key) for key in needed}


@given(
    st.lists(st.lists(messages, min_size=1, max_size=4), max_size=12),
    st.sampled_from(Family),
    st.sampled_from(PolicyForm),
    st.data(),
)
def test_history_leaves_no_trace_in_the_native_layout(
    batches: list[list[Message]], family: Family, form: PolicyForm, data: st.DataObject
) -> None:
    state = DesiredState(form=form)
    compiler = RulesetCompiler(state, family)

    for batch in batches:
        compiler.touch(state.apply(make_batch(*batch)))
        # A batch may come at any point of the work on the one before.
        for _ in range(data.draw(st.integers(0, 60))):
            compiler.compile_next()

    compiler.compile_all()
    fresh = whole(state, family)
    classifier = compiler.classifier
    assert compiler.is_current
    assert compiled(compiler) == fresh.chains
    assert compiler.static.hooks == fresh.hooks
    assert compiler.sources == fresh.sources
    assert compiler.interfaces == fresh.interfaces
    assert classifier is not None
    assert classifier.tables == fresh.verdict_tables
    assert fresh.identities is not None
    for found, expected in (
        (classifier.identities.hosts, fresh.identities.hosts),
        (classifier.identities.nets, fresh.identities.nets),
        (classifier.identities.members, fresh.identities.members),
    ):
        assert dict(found) == dict(expected)


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


@given(st.lists(st.lists(messages, min_size=1, max_size=4), max_size=12))
def test_endpoints_have_the_status_that_the_present_state_gives_them(batches: list[list[Message]]) -> None:
    state = DesiredState(FelixSettings())
    families = [make_tables(state, family) for family in Family]
    statuses = EndpointStatuses(state, families)

    for batch in batches:
        touched = state.apply(make_batch(*batch))
        statuses.touch(touched)
        for tables in families:
            tables.backend.configure(state.settings)
            tables.compiler.touch(touched)
            for _ in tables.compile_steps():
                pass

        assert statuses.current() == EndpointStatuses(state, families).current()
