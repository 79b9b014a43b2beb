"""The compiler in the native layout: what a change touches, and what it leaves alone."""

import pytest

from calico_engine.messages import (
    ActivePolicyRemove,
    ActiveRule,
    ConfigUpdate,
    HostEndpointRemove,
    IPSetDelta,
    IPSetRemove,
    Message,
    PoolEncap,
    PoolRemove,
    PoolUpdate,
    SetKind,
    WorkloadEndpointRemove,
)
from calico_engine.model.policy import Action
from calico_engine.ruleset.ir import ChainKey, Classify, DispatchByInterface, Drop, Family, Hook, Layer, Level
from calico_engine.ruleset.state import DesiredState, PolicyForm
from calico_engine.settings import FelixSettings
from calico_engine.tables.compiler import RulesetCompiler
from calico_engine.testing.messages import (
    ALLOW,
    LOG,
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

FROM_WEB = ActiveRule(action=Action.ALLOW, src_sets=("s:web",))
DISPATCH = {
    ChainKey(Layer.FILTER, "cali-from-wl-dispatch"),
    ChainKey(Layer.FILTER, "cali-to-wl-dispatch"),
}
START = (
    make_set("s:web", "10.0.0.1", "10.0.0.2", "fd00::1"),
    make_policy_update("web", inbound=[FROM_WEB]),
    make_workload_update("a", interface="cali1", tiers=[make_tier("web")]),
)


class Rig:
    """A compiler that has compiled its first batch."""

    def __init__(self, *messages: Message, form: PolicyForm = PolicyForm.CLASSIFIED) -> None:
        self.state = DesiredState(form=form)
        self.compiler = RulesetCompiler(self.state, Family.V4)
        self.say(*messages)

    def say(self, *messages: Message) -> set[ChainKey]:
        """Take a batch in; return the chains that changed."""
        self.compiler.touch(self.state.apply(make_batch(*messages)))
        self.compiler.compile_all()
        assert self.compiler.is_current
        return self.compiler.take_changed()

    def list_chain(self, interface: str = "cali1", dispatch: str = "cali-to-wl-dispatch") -> ChainKey:
        op = self.compiler.chains[ChainKey(Layer.FILTER, dispatch)][0].op
        assert isinstance(op, DispatchByInterface)
        return ChainKey(Layer.FILTER, dict(op.targets)[interface])

    def classify(self) -> Classify:
        rules = self.compiler.chains[self.list_chain()]
        return next(rule.op for rule in rules if isinstance(rule.op, Classify))

    def changes(self) -> tuple[int, set[str]]:
        """Return how many addresses got another identity, and which tables changed."""
        assert self.compiler.classifier is not None
        taken = self.compiler.classifier.take_changes()
        return len(taken.hosts), set(taken.tables)


def test_an_endpoint_more_is_two_entries_for_dispatch_and_no_chain() -> None:
    rig = Rig(*START)

    changed = rig.say(make_workload_update("b", interface="cali2", tiers=[make_tier("web")]))

    assert changed == DISPATCH
    assert rig.changes()[1] == {rig.list_chain().name, rig.list_chain(dispatch="cali-from-wl-dispatch").name}
    assert rig.say(WorkloadEndpointRemove(endpoint=endpoint_key("b"))) == DISPATCH
    assert rig.changes() == (0, set())


def test_a_pod_more_in_a_set_is_one_address_and_no_chain() -> None:
    rig = Rig(*START)
    rig.changes()

    changed = rig.say(IPSetDelta(set_id="s:web", added=frozenset({"10.0.0.9"}), removed=frozenset()))

    assert changed == set()
    assert rig.changes() == (1, set())


def test_a_list_nobody_has_any_more_is_gone_with_its_table() -> None:
    rig = Rig(*START)
    chain = rig.list_chain()

    rig.say(WorkloadEndpointRemove(endpoint=endpoint_key("a")))

    assert chain not in rig.compiler.chains
    assert rig.compiler.classifier is not None
    assert dict(rig.compiler.classifier.tables) == {}
    assert not rig.compiler.workloads_of_list(chain.name)


def test_a_rule_that_does_not_fit_brings_the_linear_chain_and_takes_it_away() -> None:
    rig = Rig(*START)
    assert (rig.classify().linear, rig.classify().levels) == ("", (Level.IDENTITIES, Level.WORLD))

    rig.say(make_policy_update("web", inbound=[LOG, FROM_WEB]))
    assert rig.classify().linear.startswith("cali-ll-")

    rig.say(make_policy_update("web", inbound=[FROM_WEB]))
    assert rig.classify().linear == ""


def test_a_list_follows_its_policies_and_sets() -> None:
    rig = Rig(*START)
    web = ActiveRule(action=Action.ALLOW, protocol=6, dst_ports=ports(80))

    rig.say(make_policy_update("web", inbound=[web]))
    assert Level.WORLD_PORTS in rig.classify().levels

    rig.say(ActivePolicyRemove(policy=policy_key("web")))
    assert rig.compiler.classifier is not None
    table = rig.compiler.classifier.tables[rig.list_chain().name]
    assert table.world[0].op == Drop()
    assert table.cells == {}


def test_a_set_that_goes_closes_the_rules_that_ask_for_it() -> None:
    rig = Rig(*START)
    assert rig.compiler.classifier is not None

    rig.say(IPSetRemove(set_id="s:web"))

    assert rig.compiler.missing_sets == {"s:web"}
    assert rig.compiler.classifier.tables[rig.list_chain().name].cells == {}
    assert dict(rig.compiler.classifier.identities.hosts) == {}

    rig.say(make_set("s:web", "10.0.0.1"))

    assert rig.compiler.missing_sets == frozenset()
    assert len(rig.compiler.classifier.tables[rig.list_chain().name].cells) == 1


def test_a_set_larger_than_allowed_makes_no_identities() -> None:
    rig = Rig(*START)
    assert rig.compiler.classifier is not None

    rig.say(ConfigUpdate(settings=FelixSettings(max_ipset_size=1)))
    assert dict(rig.compiler.classifier.identities.hosts) == {}

    rig.say(IPSetDelta(set_id="s:web", added=frozenset(), removed=frozenset({"10.0.0.2"})))
    assert len(dict(rig.compiler.classifier.identities.hosts)) == 1


@pytest.mark.parametrize(
    ("come", "go", "hook"),
    [
        (
            (make_host_update("h", interface="eth0"), make_interface("eth0")),
            HostEndpointRemove(endpoint=make_host_update("h").endpoint),
            (Layer.FILTER, Hook.OUTPUT),
        ),
        (
            (PoolUpdate(cidr="10.0.0.0/8", nat_outgoing=True, encap=PoolEncap.NONE),),
            PoolRemove(cidr="10.0.0.0/8"),
            (Layer.NAT, Hook.POSTROUTING),
        ),
    ],
    ids=["host-endpoint", "nat-outgoing"],
)
def test_static_parts_come_with_the_first_that_needs_them_and_go_with_the_last(
    come: tuple[Message, ...], go: Message, hook: tuple[Layer, Hook]
) -> None:
    rig = Rig(*START)
    before = rig.compiler.static
    assert hook not in before.hooks

    rig.say(*come)
    assert hook in rig.compiler.static.hooks

    rig.say(go)
    assert rig.compiler.static == before


def test_in_linear_form_nothing_is_classified_and_identities_are_there_for_sets() -> None:
    rig = Rig(*START, form=PolicyForm.LINEAR)

    assert rig.compiler.classifier is not None
    assert dict(rig.compiler.classifier.tables) == {}
    assert len(dict(rig.compiler.classifier.identities.hosts)) == 2
    assert not any(isinstance(rule.op, Classify) for rules in rig.compiler.chains.values() for rule in rules)


def test_members_of_sets_of_ports_are_told_as_they_are() -> None:
    rig = Rig(make_set("n:http", "10.0.0.1,tcp:80", "fd00::1,tcp:80", kind=SetKind.IP_PORT))

    assert set(rig.compiler.ip_port_members("n:http")) == {"10.0.0.1,tcp:80", "fd00::1,tcp:80"}
    assert set(rig.compiler.ip_port_members("n:none")) == set()


def test_other_layouts_have_no_classifier() -> None:
    compiler = RulesetCompiler(DesiredState(), Family.V4)
    compiler.compile_all()

    assert compiler.classifier is None
    assert compiler.is_current


def test_a_policy_is_compiled_for_lists_as_for_its_chain() -> None:
    """A rule that no table can hold is closed in the list as it is in the chain."""
    strange = ActiveRule(action=Action.ALLOW, src_nets=("no network",))
    rig = Rig(make_policy_update("web", inbound=[strange, ALLOW]), START[2])

    assert rig.compiler.classifier is not None
    assert ("policy", policy_key("web")) in rig.compiler.errors
    assert rig.compiler.classifier.tables[rig.list_chain().name].world[0].op == Drop()


def policy_chains(rig: Rig) -> set[ChainKey]:
    """Return the chains that policy web has."""
    return {key for key in rig.compiler.chains if ("policy", policy_key("web")) in rig.compiler.makers(key)}


def test_a_policy_has_chains_while_a_list_has_to_walk_them() -> None:
    other = make_policy_update("other", inbound=[FROM_WEB])
    rig = Rig(START[0], other, START[1], make_workload_update("a", tiers=[make_tier("other", "web")]))
    assert policy_chains(rig) == set()

    rig.say(make_policy_update("other", inbound=[LOG, FROM_WEB]))
    chains = policy_chains(rig)
    assert chains
    assert not any(rule.op == Drop() for key in chains for rule in rig.compiler.chains[key])

    rig.say(other)
    assert policy_chains(rig) == set()
    assert rig.compiler.errors == {}


def test_a_policy_has_chains_while_a_host_endpoint_has_it() -> None:
    rig = Rig(*START, make_interface("eth0"))
    assert policy_chains(rig) == set()

    rig.say(make_host_update("h", interface="eth0", tiers=[make_tier("web")]))
    assert policy_chains(rig)

    rig.say(HostEndpointRemove(endpoint=make_host_update("h").endpoint))
    assert policy_chains(rig) == set()


def test_in_linear_form_policies_have_chains() -> None:
    assert policy_chains(Rig(*START, form=PolicyForm.LINEAR))


def test_a_profile_has_chains_while_a_list_has_to_walk_them() -> None:
    part = ("profile", "p")
    rig = Rig(
        make_profile_update("p", inbound=[ALLOW]),
        make_workload_update("a", profiles=["p"], interface="cali1"),
    )
    before = set(rig.compiler.chains)
    assert not any(part in rig.compiler.makers(key) for key in before)

    rig.say(make_profile_update("p", inbound=[LOG, ALLOW]))
    assert any(part in rig.compiler.makers(key) for key in rig.compiler.chains)

    rig.say(make_profile_update("p", inbound=[ALLOW]))
    assert set(rig.compiler.chains) == before
