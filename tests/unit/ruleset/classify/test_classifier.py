"""Verdict tables and identities as sets and lists change."""

import pytest

from calico_engine.messages import ActiveRule, PortRange
from calico_engine.model.policy import Action
from calico_engine.model.resource import ResourceKey
from calico_engine.ruleset.classify import Classifier, ListPolicies, PolicyList
from calico_engine.ruleset.ir import CellVerdict, Drop, Family, Goto, Origin, Return, Side

POLICY = ResourceKey("NetworkPolicy", "shop", "web")
HTTP = 6 << 16 | 80
ONE = bytes((10, 0, 0, 1))
TWO = bytes((10, 0, 0, 2))


def make_list(*rules: ActiveRule, deny: Drop | Goto = Drop()) -> PolicyList:
    return PolicyList(
        Side.SRC, (ListPolicies("default", Action.DENY, ((POLICY, rules),)),), (), "cali-ll-web", deny
    )


def allow_http(set_id: str) -> ActiveRule:
    return ActiveRule(action=Action.ALLOW, protocol=6, dst_ports=(PortRange(80, 80),), src_sets=(set_id,))


def settle(classifier: Classifier) -> Classifier:
    for _ in classifier.settle():
        pass
    return classifier


def make_classifier(**sets: tuple[str, ...]) -> Classifier:
    classifier = Classifier(Family.V4)
    for set_id, members in sets.items():
        classifier.set_members(set_id, members)
    return classifier


def pair_of(classifier: Classifier, packed: bytes) -> tuple[int, int]:
    return classifier.identities.hosts.get(packed, 0), 0


def test_a_cell_is_there_only_where_the_verdict_differs_from_the_worlds() -> None:
    classifier = make_classifier(web=("10.0.0.1",), db=("10.0.0.2",))
    classifier.set_list("T", make_list(allow_http("web"), ActiveRule(action=Action.DENY, src_sets=("db",))))

    table = settle(classifier).tables["T"]

    decided = CellVerdict(Return(), Origin(POLICY, "ingress", 0))
    assert table.cells == {(*pair_of(classifier, ONE), HTTP): decided}
    assert {number: verdict.op for number, verdict in table.world.items()} == {0: Drop(), HTTP: Drop()}


def test_a_denied_packet_is_rejected_where_the_list_says_so() -> None:
    classifier = make_classifier(web=("10.0.0.1",))
    reject = Goto("cali-reject")
    classifier.set_list(
        "T",
        make_list(
            ActiveRule(action=Action.DENY, src_sets=("web",)), ActiveRule(action=Action.ALLOW), deny=reject
        ),
    )

    table = settle(classifier).tables["T"]

    assert table.cells[*pair_of(classifier, ONE), 0].op == reject
    assert table.world[0].op == Return()
    assert not classifier.needs_linear("T")


def test_a_rule_that_asks_for_more_leads_to_the_linear_chain_where_it_may_matter() -> None:
    classifier = make_classifier(web=("10.0.0.1",), db=("10.0.0.2",))
    classifier.set_list(
        "T",
        make_list(
            ActiveRule(action=Action.ALLOW, src_sets=("db",)),
            ActiveRule(action=Action.ALLOW, protocol=6, src_ports=(PortRange(22, 22),), src_sets=("web",)),
        ),
    )

    table = settle(classifier).tables["T"]

    assert classifier.needs_linear("T")
    assert table.cells[*pair_of(classifier, ONE), 6 << 16].op == Goto("cali-ll-web")
    assert (*pair_of(classifier, ONE), 0) not in table.cells
    assert table.cells[*pair_of(classifier, TWO), 6 << 16].op == Return()


def test_an_address_with_a_known_combination_is_one_element_and_no_table() -> None:
    classifier = make_classifier(web=("10.0.0.1",))
    classifier.set_list("T", make_list(allow_http("web")))
    before = settle(classifier).tables["T"]
    classifier.take_changes()

    classifier.change_members("web", {"10.0.0.2"}, ())
    changes = settle(classifier).take_changes()

    assert changes.hosts == {TWO: classifier.identities.hosts[ONE]}
    assert not changes.nets
    assert not changes.members
    assert not changes.tables
    assert classifier.tables["T"] is before


def test_a_new_combination_leaves_tables_alone_that_use_none_of_its_sets() -> None:
    classifier = make_classifier(web=("10.0.0.1",), db=("10.0.0.2",), cache=())
    classifier.set_list("web", make_list(allow_http("web")))
    classifier.set_list("db", make_list(allow_http("db")))
    before = settle(classifier).tables["db"]
    classifier.take_changes()

    classifier.change_members("cache", {"10.0.0.1"}, ())
    changes = settle(classifier).take_changes()

    assert changes.tables == {"web"}
    assert classifier.tables["db"] is before
    assert len(changes.members["web"].added) == len(changes.members["web"].removed) == 1


def test_a_change_that_is_undone_is_no_change() -> None:
    classifier = make_classifier(web=("10.0.0.1", "10.1.0.0/16"))
    settle(classifier).take_changes()

    classifier.change_members("web", {"10.0.0.2", "10.2.0.0/16"}, {"10.0.0.1"})
    settle(classifier)
    classifier.change_members("web", {"10.0.0.1"}, {"10.0.0.2", "10.2.0.0/16"})
    changes = settle(classifier).take_changes()

    assert not changes.hosts
    assert not changes.nets
    assert all(not change.added and not change.removed for change in changes.members.values())


def test_a_network_in_a_rule_is_an_identity_while_the_list_is_there() -> None:
    classifier = Classifier(Family.V4)
    classifier.set_list(
        "T", make_list(ActiveRule(action=Action.ALLOW, src_nets=("192.0.2.0/24", "10.0.0.1/32")))
    )

    identities = settle(classifier).identities
    assert list(identities.nets) == [(bytes((192, 0, 2, 0)), bytes((192, 0, 2, 255)))]
    assert list(identities.hosts) == [ONE]
    assert not identities.members

    classifier.set_list("T", None)
    settle(classifier)
    assert not identities.nets
    assert not identities.hosts
    assert not classifier.tables


def test_the_network_of_all_addresses_makes_no_identity() -> None:
    classifier = Classifier(Family.V4)
    classifier.set_list("T", make_list(ActiveRule(action=Action.ALLOW, src_nets=("0.0.0.0/0",))))

    table = settle(classifier).tables["T"]

    assert not classifier.identities.nets
    assert table.world[0].op == Return()


@pytest.mark.parametrize(
    ("action", "op"), [(Action.ALLOW, Drop()), (Action.DENY, Drop()), (Action.PASS, Drop())]
)
def test_without_its_set_a_rule_lets_nothing_through_and_denies_everything(action: Action, op: Drop) -> None:
    classifier = make_classifier(web=("10.0.0.1",))
    wanted = make_list(
        ActiveRule(action=action, src_sets=("late",)), ActiveRule(action=Action.ALLOW, src_sets=("web",))
    )
    classifier.set_list("T", wanted)

    table = settle(classifier).tables["T"]
    assert table.world[0].op == Drop()
    assert bool(table.cells) == (action is not Action.DENY)

    classifier.set_members("late", ("10.0.0.2",))
    table = settle(classifier).tables["T"]
    assert table.cells[*pair_of(classifier, ONE), 0].op == Return()
    assert ((*pair_of(classifier, TWO), 0) in table.cells) == (action is Action.ALLOW)


def test_a_deny_keeps_the_sets_that_are_there() -> None:
    classifier = make_classifier(web=("10.0.0.1",))
    deny = ActiveRule(action=Action.DENY, src_sets=("web", "late"))
    classifier.set_list("T", make_list(deny, ActiveRule(action=Action.ALLOW)))

    table = settle(classifier).tables["T"]

    assert table.world[0].op == Return()
    assert table.cells[*pair_of(classifier, ONE), 0].op == Drop()


def test_beside_a_named_port_a_number_decides_nothing() -> None:
    classifier = Classifier(Family.V4)
    rule = ActiveRule(
        action=Action.ALLOW, protocol=6, dst_ports=(PortRange(80, 80),), dst_named_port_sets=("n:http",)
    )
    classifier.set_list("T", make_list(rule))

    table = settle(classifier).tables["T"]

    assert [(entry.protocol, entry.first, entry.last) for entry in table.services] == [(6, 0, 65535)]
    assert {number: verdict.op for number, verdict in table.world.items()} == {
        0: Drop(),
        6 << 16: Goto("cali-ll-web"),
    }


def test_a_tier_without_policies_is_not_enforced_and_one_without_rules_is() -> None:
    classifier = Classifier(Family.V4)
    profile = (("open", (ActiveRule(action=Action.ALLOW),)),)
    for name, policies in (("none", ()), ("empty", ((POLICY, ()),))):
        tier = ListPolicies("default", Action.DENY, policies)
        classifier.set_list(name, PolicyList(Side.SRC, (tier,), profile, "cali-ll-web", Drop()))

    tables = settle(classifier).tables

    assert tables["none"].world[0].op == Return()
    assert tables["empty"].world[0].op == Drop()


def test_a_list_too_large_is_linear_as_a_whole_and_says_why() -> None:
    classifier = Classifier(Family.V4, limit_cells=1)
    classifier.set_members("web", ("10.0.0.1",))
    classifier.set_members("db", ("10.0.0.2",))
    classifier.set_list("T", make_list(allow_http("web"), allow_http("db")))

    table = settle(classifier).tables["T"]

    assert not table.cells
    assert table.world[0].op == Goto("cali-ll-web")
    assert "more than 1" in classifier.oversize()["T"]
    assert classifier.needs_linear("T")
    assert classifier.exact["T"].rest == table.world[0]

    classifier.set_members("db", ())
    assert settle(classifier).tables["T"].cells
    assert not classifier.oversize()
    assert not classifier.needs_linear("T")


def test_a_set_that_is_not_there_does_not_change() -> None:
    classifier = Classifier(Family.V4)

    classifier.change_members("web", {"10.0.0.1"}, ())

    assert not settle(classifier).identities.hosts
    assert not classifier.take_changes()


def test_of_changes_before_settling_the_last_counts() -> None:
    classifier = make_classifier(web=("10.0.0.1", "10.1.0.0/16"))

    classifier.change_members("web", {"10.0.0.2", "10.2.0.0/16"}, {"10.0.0.1", "10.1.0.0/16"})
    classifier.change_members("web", {"10.0.0.1"}, {"10.0.0.2", "10.2.0.0/16"})

    assert list(settle(classifier).identities.hosts) == [ONE]
    assert not classifier.identities.nets


def test_an_empty_set_shows_when_it_comes_and_when_it_goes() -> None:
    classifier = make_classifier(web=())
    assert list(settle(classifier).take_changes().members) == ["web"]
    assert list(classifier.identities.members) == ["web"]

    classifier.set_members("web", None)
    assert list(settle(classifier).take_changes().members) == ["web"]
    assert not classifier.identities.members


def test_changes_are_taken_only_once_settled() -> None:
    classifier = make_classifier(web=("10.0.0.1",))

    with pytest.raises(AssertionError):
        classifier.take_changes()


def test_settling_goes_on_where_it_was_broken_off() -> None:
    addresses = tuple(f"10.0.{i >> 8}.{i & 255}" for i in range(5000))
    classifier = make_classifier(web=addresses)
    turns = 0

    while not classifier.is_current:
        next(classifier.settle(), None)
        turns += 1

    assert turns > 10
    assert len(classifier.identities.hosts) == len(addresses)
