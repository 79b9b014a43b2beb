"""What drivers rely on in DeltaTracker, case by case; the general claim is tests/property/reconcile."""

from ipaddress import IPv4Network, IPv6Network, ip_network

import pytest

from calico_engine.reconcile import Delta, DeltaTracker, pack_name, pack_network, pack_rows


def test_first_delta_adds_in_key_order_whatever_order_it_was_told_in() -> None:
    forward: DeltaTracker[str, int] = DeltaTracker()
    backward: DeltaTracker[str, int] = DeltaTracker()

    for key in "abc":
        forward.set_desired(key, 1)
    for key in "cba":
        backward.set_desired(key, 1)

    assert forward.pending() == backward.pending()
    assert forward.pending().add == (("a", 1), ("b", 1), ("c", 1))


def test_delta_tells_old_and_new_value_of_a_change() -> None:
    tracker: DeltaTracker[str, int] = DeltaTracker()
    tracker.replace_actual({"a": 1, "b": 2})
    tracker.replace_desired({"a": 3, "c": 4})

    assert tracker.pending() == Delta(add=(("c", 4),), change=(("a", 1, 3),), delete=(("b", 2),))


def test_a_failed_commit_leaves_everything_pending() -> None:
    tracker: DeltaTracker[str, int] = DeltaTracker()
    tracker.set_desired("a", 1)

    first = tracker.pending()

    assert tracker.pending() == first
    assert not tracker.in_sync


def test_a_commit_done_in_part_leaves_the_rest_pending() -> None:
    tracker: DeltaTracker[str, int] = DeltaTracker()
    tracker.replace_desired({"a": 1, "b": 2})

    tracker.applied(Delta(add=(("a", 1),), revision=tracker.pending().revision))

    assert tracker.pending().add == (("b", 2),)


def test_desired_that_moved_on_during_a_commit_stays_pending() -> None:
    tracker: DeltaTracker[str, int] = DeltaTracker()
    tracker.set_desired("a", 1)
    committing = tracker.pending()

    tracker.set_desired("a", 2)
    tracker.applied(committing)

    assert tracker.pending().change == (("a", 1, 2),)


def test_a_mark_set_during_a_commit_survives_it() -> None:
    tracker: DeltaTracker[str, int] = DeltaTracker()
    tracker.set_desired("a", 1)
    committing = tracker.pending()

    tracker.mark_dirty(["a"])
    tracker.applied(committing)

    assert tracker.pending().change == (("a", 1, 1),)


def test_drift_is_repaired_after_a_read_back() -> None:
    tracker: DeltaTracker[str, int] = DeltaTracker()
    tracker.replace_desired({"a": 1, "b": 2})
    tracker.applied(tracker.pending())

    tracker.replace_actual({"b": 2, "foreign": 9})

    assert tracker.pending() == Delta(add=(("a", 1),), delete=(("foreign", 9),))


def test_marking_a_key_nobody_wants_or_has_does_nothing() -> None:
    tracker: DeltaTracker[str, int] = DeltaTracker()

    tracker.mark_dirty(["a"])

    assert not tracker.pending()


def test_keys_that_do_not_compare_sort_by_the_given_order() -> None:
    tracker: DeltaTracker[IPv4Network | IPv6Network, int] = DeltaTracker(order=pack_network)
    tracker.set_desired(ip_network("2001:db8::/64"), 1)
    tracker.set_desired(ip_network("10.0.0.0/8"), 1)

    assert [key.version for key, _ in tracker.pending().add] == [4, 6]


@pytest.mark.parametrize(
    ("name", "problem"),
    [("interface-name-x", "16 bytes, a key holds 15"), ("a\0b", "must not contain NUL")],
)
def test_a_name_that_is_no_key_is_refused(name: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        pack_name(name, 15)


def test_rows_refuse_a_key_of_another_width() -> None:
    with pytest.raises(ValueError, match="key 6162: 2 bytes, must be 3"):
        pack_rows({b"ab": b""}, 3)
