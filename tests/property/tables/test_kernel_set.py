"""A set's differences are those between what is wanted and what the kernel has, whatever led there."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calico_engine.kernel.set_rows import pack_members, unpack_members
from calico_engine.messages import SetKind
from calico_engine.ruleset.ir import Family
from calico_engine_ipset import kernel_set, row_set
from calico_engine_ipset.kernel_set import KernelSet, hashsize_for
from calico_engine_ipset.packing import pack_all
from calico_engine_ipset.row_set import RowSet, normal_rows, split_rows

MEMBERS = (
    *("10.0.0.1", "10.0.0.2", "10.0.0.0/8", "0.0.0.0/0", "0.0.0.0/1", "128.0.0.0/1"),
    *("fd00::1", "::/0", "::1.2.3.4", "8000::/1"),
)
HALVES = {"0.0.0.0/0": {"0.0.0.0/1", "128.0.0.0/1"}, "::/0": {"::/1", "8000::/1"}}

some = st.frozensets(st.sampled_from(MEMBERS))
steps = st.one_of(
    st.tuples(st.just("want"), some, st.just(frozenset[str]())),
    st.tuples(st.just("change"), some, some),
    st.tuples(st.just("write"), st.just(frozenset[str]()), st.just(frozenset[str]())),
    st.tuples(st.just("read"), some, st.just(frozenset[str]())),
)


@pytest.fixture(params=[0, 1000], ids=["as buffers", "row by row"], autouse=True)
def few_rows(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large changes take another way: here, any change does in turn."""
    monkeypatch.setattr(kernel_set, "_FEW_ROWS", request.param)
    monkeypatch.setattr(row_set, "_FEW_CHANGES", request.param // 500)
    monkeypatch.setattr(row_set, "_SMALL_BYTES", request.param // 3)


def expected(wanted: set[str] | frozenset[str], family: Family) -> set[str]:
    own = {member for member in wanted if (":" in member) is (family is Family.V6)}
    return {part for member in own for part in HALVES.get(member, {member})}


def texts(rows: bytes) -> set[str]:
    found = unpack_members(rows)
    assert rows == normal_rows(rows)
    return {"::1.2.3.4" if member == "::102:304" else member for member in found}


def rows_of(members: set[str]) -> bytes:
    return normal_rows(pack_members(sorted(members)))


@given(st.lists(steps, max_size=15), st.sampled_from(Family))
def test_differences_are_exact(
    history: list[tuple[str, frozenset[str], frozenset[str]]], family: Family
) -> None:
    known = KernelSet(SetKind.NET, family)
    wanted: set[str] = set()
    kernel: set[str] = set()

    for step, first, second in history:
        match step:
            case "want":
                wanted = set(first)
                known.want(pack_all(first))
            case "change":
                wanted = (wanted - second) | first
                known.change(pack_all(first), pack_all(second))
            case "write":
                added, deleted = known.missing.rows(), known.extra.rows()
                kernel = (kernel | texts(added)) - texts(deleted)
                known.note_written(added, deleted)
            case _:
                kernel = set(expected(first, family))
                known.note_actual(rows_of(kernel))

        assert len(known.desired) == len(expected(wanted, family))
        assert len(known.missing) == len(expected(wanted, family) - kernel)
        assert len(known.extra) == len(kernel - expected(wanted, family))
    assert texts(known.actual()) == kernel
    assert texts(known.desired.rows()) == expected(wanted, family)
    assert texts(known.missing.rows()) == expected(wanted, family) - kernel
    assert texts(known.extra.rows()) == kernel - expected(wanted, family)


@given(some, some, some, st.sampled_from(Family))
def test_what_changes_while_a_write_is_under_way_is_not_lost(
    first: frozenset[str], added: frozenset[str], removed: frozenset[str], family: Family
) -> None:
    known = KernelSet(SetKind.NET, family)
    known.want(pack_all(first))
    written, deleted = known.missing.rows(), known.extra.rows()

    known.change(pack_all(added), pack_all(removed))
    known.note_written(written, deleted)

    assert known.actual() == written
    assert texts(known.desired.rows()) == expected((first - removed) | added, family)


single_rows = st.sampled_from(split_rows(pack_members(["10.0.0.1", "10.0.0.2", "10.0.0.3", "fd00::1", "::"])))


@given(st.frozensets(single_rows), st.lists(st.tuples(st.sampled_from("+-="), single_rows), max_size=12))
def test_row_set_is_a_set(first: frozenset[bytes], history: list[tuple[str, bytes]]) -> None:
    rows = RowSet(b"".join(sorted(first)))
    model = set(first)
    copies = []

    for action, row in history:
        if action == "+":
            rows.add(row)
            model.add(row)
        elif action == "-":
            rows.discard(row)
            model.discard(row)
        else:
            copies.append((rows.copy(), b"".join(sorted(model))))
        assert len(rows) == len(model)
        assert (row in rows) is (row in model)

    assert rows.rows() == b"".join(sorted(model))
    assert rows.rows() is rows.rows()
    assert [copied.rows() for copied, _ in copies] == [then for _, then in copies]


@given(st.sets(st.ip_addresses().map(str)), st.sampled_from(Family))
def test_members_are_split_by_family(members: set[str], family: Family) -> None:
    packed = pack_all(members)

    own = {member for member in members if ipaddress.ip_address(member).version == int(family)}
    assert packed.rows[family] == rows_of(own)


@pytest.mark.parametrize("bad", ["10.0.0.1 nomatch", "host", "10.0.0.0/0", "fd00::1/129"])
def test_what_cannot_be_a_member_is_named(bad: str) -> None:
    with pytest.raises(ValueError, match=bad.split()[0]):
        pack_all({"10.0.0.2", bad, "fd00::1"})


def test_two_spellings_are_one_member() -> None:
    packed = pack_all({"::ffff:102:304", "::ffff:1.2.3.4"})

    assert unpack_members(packed.rows[Family.V6]) == ["::ffff:1.2.3.4"]


@given(st.integers(0, 1 << 22))
def test_hash_has_room_for_all_members(count: int) -> None:
    size = hashsize_for(count)

    assert size & (size - 1) == 0
    assert size >= min(max(count, 1024), 1 << 20)
