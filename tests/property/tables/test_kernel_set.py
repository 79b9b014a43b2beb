"""A set's differences are those between what is wanted and what the kernel has, whatever led there."""

from hypothesis import given
from hypothesis import strategies as st

from calico_engine.messages import SetKind
from calico_engine.ruleset.ir import Family
from calico_engine_ipset.kernel_set import KernelSet, hashsize_for, kernel_spelling

MEMBERS = ("10.0.0.1", "10.0.0.0/8", "0.0.0.0/0", "0.0.0.0/1", "128.0.0.0/1", "fd00::1", "::/0", "::1.2.3.4")
ORDINARY = {Family.V4: {"10.0.0.1", "10.0.0.0/8"}, Family.V6: {"fd00::1", "::1.2.3.4"}}
HALVES = {"0.0.0.0/0": {"0.0.0.0/1", "128.0.0.0/1"}, "::/0": {"::/1", "8000::/1"}}

some = st.frozensets(st.sampled_from(MEMBERS))
steps = st.one_of(
    st.tuples(st.just("want"), some, st.just(frozenset[str]())),
    st.tuples(st.just("change"), some, some),
    st.tuples(st.just("write"), st.just(frozenset[str]()), st.just(frozenset[str]())),
    st.tuples(st.just("read"), some, st.just(frozenset[str]())),
)


def expected(wanted: set[str], family: Family) -> set[str]:
    own = {member for member in wanted if (":" in member) is (family is Family.V6)}
    return {part for member in own for part in HALVES.get(member, {member})}


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
                known.want(first)
            case "change":
                wanted = (wanted - second) | first
                known.change(first, second)
            case "write":
                added, deleted = set(known.missing), set(known.extra)
                kernel = (kernel | added) - deleted
                known.note_written(added, deleted)
            case _:
                kernel = set(expected(set(first), family))
                known.note_actual(kernel)

        assert known.desired == expected(wanted, family)
        assert known.actual() == kernel
        assert known.missing == known.desired - kernel
        assert known.extra == kernel - known.desired


@given(some, some, some, st.sampled_from(Family))
def test_what_changes_while_a_write_is_under_way_is_not_lost(
    first: frozenset[str], added: frozenset[str], removed: frozenset[str], family: Family
) -> None:
    known = KernelSet(SetKind.NET, family)
    known.want(first)
    written, deleted = set(known.missing), set(known.extra)

    known.change(added, removed)
    known.note_written(written, deleted)

    assert known.actual() == written
    assert known.desired == expected((set(first) - removed) | added, family)


@given(st.integers(0, 1 << 22))
def test_hash_has_room_for_all_members(count: int) -> None:
    size = hashsize_for(count)

    assert size & (size - 1) == 0
    assert size >= min(max(count, 1024), 1 << 20)


def test_embedded_ipv4_is_spelled_as_the_tool_does() -> None:
    assert kernel_spelling("::ffff:102:304") == "::ffff:1.2.3.4"
    assert kernel_spelling("::ffff:102:304,tcp:80") == "::ffff:1.2.3.4,tcp:80"
    assert kernel_spelling("::1") == "::1"
    assert kernel_spelling("10.0.0.1") == "10.0.0.1"
