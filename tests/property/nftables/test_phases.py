"""No packet on its way through a table that changes is let through unless the table before or after lets it through."""

from hypothesis import given
from hypothesis import strategies as st

from calico_engine.ruleset.ir import ChainKey, Drop, Layer, Rule, SetLookup, Side
from calico_engine.tables.backend import (
    CATCH_ALL,
    ChainWrite,
    Element,
    KeyPart,
    SetShape,
    SetWrite,
    TableDelta,
    ValueKind,
)
from calico_engine_nftables.phases import phases
from calico_engine_nftables.transaction import Present

SHAPE = SetShape((KeyPart.NUMBER,), ValueKind.VERDICT)
DISPATCH = SetShape((KeyPart.INTERFACE,), ValueKind.VERDICT)
LEVELS = ("ports", "identities", "world")
KEY = b"key "

verdicts = st.sampled_from([Element(b"return"), Element(b"drop"), Element(b"drop", "for another reason")])
#: What one packet finds at each level; at the last there is always something.
Table = dict[str, Element | None]
tables = st.fixed_dictionaries(
    {"ports": st.none() | verdicts, "identities": st.none() | verdicts, "world": verdicts}
)


def write(name: str, before: Element | None, after: Element | None) -> SetWrite:
    key = CATCH_ALL if name == "world" else KEY
    return SetWrite(
        name=name,
        shape=SHAPE,
        added={key: after} if after is not None else {},
        removed={key: before} if before is not None else {},
    )


def change(before: Table, after: Table) -> TableDelta:
    different = [name for name in LEVELS if before[name] != after[name]]
    return TableDelta(sets=tuple(write(name, before[name], after[name]) for name in different))


def applied(table: Table, step: TableDelta) -> Table:
    found = dict(table)
    for made in step.sets:
        if made.removed:
            found[made.name] = None
        for element in made.added.values():
            found[made.name] = element
    return found


def looks(table: Table) -> list[Element | None]:
    return [table[name] for name in LEVELS]


def allowed(found: list[Element | None]) -> bool:
    """Tell whether the first entry that is there allows."""
    return next(element for element in found if element is not None).value == b"return"


@given(tables, tables)
def test_packet_meets_nothing_looser_than_both_states(before: Table, after: Table) -> None:
    states = [before]
    for step in phases(change(before, after), Present(sets=set(LEVELS))):
        states.append(applied(states[-1], step))

    fine = allowed(looks(before)) or allowed(looks(after))
    assert states[-1] == after
    for place, state in enumerate(states):
        assert fine or not allowed(looks(state))
        for later in states[place + 1 : place + 2]:
            # The table changes while the packet is between two levels.
            for seen in range(1, len(LEVELS)):
                assert fine or not allowed(looks(state)[:seen] + looks(later)[seen:])


def test_nothing_leads_to_a_chain_before_it_has_its_rules() -> None:
    chain = ChainWrite(ChainKey(Layer.FILTER, "cali-li-new"), (), ())
    dispatch = SetWrite(
        name="cali-to-wl-dispatch",
        shape=DISPATCH,
        added={b"cali1": Element(b"goto cali-li-new")},
        removed={b"cali1": Element(b"goto cali-li-old")},
    )

    steps = phases(TableDelta(chains=(chain,), sets=(dispatch,)), Present(sets={dispatch.name}))

    assert [(bool(step.chains), bool(step.sets)) for step in steps] == [(True, False), (False, True)]


def test_what_has_to_go_first_is_made_afresh_in_one_transaction() -> None:
    chain = ChainWrite(ChainKey(Layer.FILTER, "cali-li-new"), (), ())
    again = SetWrite(name="ports", shape=SHAPE, create=True)
    delta = TableDelta(chains=(chain,), sets=(again,))

    assert phases(delta, Present(sets={"ports"})) == [delta]


def test_rules_that_look_identities_up_change_with_the_identities() -> None:
    rule = Rule((SetLookup(Side.SRC, "s:new"),), Drop())
    walked = ChainWrite(ChainKey(Layer.FILTER, "cali-pi-a"), (rule,), ("hash",))
    numbers = SetShape((KeyPart.ADDRESS,), ValueKind.NUMBER)
    moved = SetWrite(name="cali-hosts", shape=numbers, added={b"\x0a\0\0\x01": Element(b"\0\0\0\x07")})
    delta = TableDelta(chains=(walked,), sets=(moved,))

    assert phases(delta, Present(chains={"cali-pi-a"}, sets={"cali-hosts"})) == [delta]


def test_a_change_of_membership_is_one_transaction() -> None:
    numbers = SetShape((KeyPart.ADDRESS,), ValueKind.NUMBER)
    moved = SetWrite(name="cali-hosts", shape=numbers, added={b"\x0a\0\0\x01": Element(b"\0\0\0\x07")})

    assert phases(TableDelta(sets=(moved,)), Present(sets={"cali-hosts"})) == [TableDelta(sets=(moved,))]
