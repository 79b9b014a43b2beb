"""DeltaTracker against a model that compares whole tables every time."""

from collections.abc import Mapping

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from calico_engine.reconcile import Delta, DeltaTracker

KEYS = st.sampled_from(["a", "b", "c", "d"])
VALUES = st.integers(0, 2)
TABLES = st.dictionaries(KEYS, VALUES)


class DeltaTrackerModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.tracker: DeltaTracker[str, int] = DeltaTracker()
        self.desired: dict[str, int] = {}
        self.actual: dict[str, int] = {}
        self.marked: set[str] = set()
        self.in_flight: Delta[str, int] | None = None
        self.marked_since: set[str] = set()

    def expected(self) -> Delta[str, int]:
        desired, actual = self.desired, self.actual
        both = sorted(desired.keys() & actual.keys())
        return Delta(
            tuple((key, desired[key]) for key in sorted(desired.keys() - actual.keys())),
            tuple(
                (key, actual[key], desired[key])
                for key in both
                if key in self.marked or desired[key] != actual[key]
            ),
            tuple((key, actual[key]) for key in sorted(actual.keys() - desired.keys())),
        )

    def drop_idle_marks(self) -> None:
        self.marked &= self.desired.keys() | self.actual.keys()

    @rule(key=KEYS, value=VALUES)
    def set_desired(self, key: str, value: int) -> None:
        self.tracker.set_desired(key, value)
        self.desired[key] = value

    @rule(key=KEYS)
    def delete_desired(self, key: str) -> None:
        self.tracker.delete_desired(key)
        self.desired.pop(key, None)
        self.drop_idle_marks()

    @rule(values=TABLES)
    def replace_desired(self, values: dict[str, int]) -> None:
        self.tracker.replace_desired(values)
        self.desired = dict(values)
        self.drop_idle_marks()

    @rule(key=KEYS, value=VALUES)
    def set_actual(self, key: str, value: int) -> None:
        self.tracker.set_actual(key, value)
        self.actual[key] = value
        self.marked.discard(key)

    @rule(values=TABLES)
    def replace_actual(self, values: dict[str, int]) -> None:
        self.tracker.replace_actual(values)
        self.actual = dict(values)
        self.marked.clear()

    @rule(key=KEYS)
    def forget(self, key: str) -> None:
        self.tracker.forget(key)
        self.actual.pop(key, None)
        self.marked.discard(key)

    @rule(keys=st.sets(KEYS))
    def mark_dirty(self, keys: set[str]) -> None:
        self.tracker.mark_dirty(keys)
        self.marked |= keys
        self.marked_since |= keys
        self.drop_idle_marks()

    @rule()
    def begin_commit(self) -> None:
        self.in_flight = self.tracker.pending()
        self.marked_since.clear()

    @rule()
    def end_commit(self) -> None:
        """The commit begun earlier is done; anything may have happened since."""
        if self.in_flight is None:
            return
        self.tracker.applied(self.in_flight)
        written = dict(self.in_flight.add)
        written.update((key, value) for key, _, value in self.in_flight.change)
        gone = {key for key, _ in self.in_flight.delete}
        self.actual.update(written)
        self.actual = {key: value for key, value in self.actual.items() if key not in gone}
        self.marked -= (written.keys() | gone) - self.marked_since
        self.drop_idle_marks()
        self.in_flight = None

    @rule()
    def commit_at_once(self) -> None:
        """A second apply changes nothing: what pending() said is all there was to do."""
        self.tracker.applied(self.tracker.pending())

        self.actual = dict(self.desired)
        self.marked.clear()
        assert not self.tracker.pending()
        assert self.tracker.in_sync

    @invariant()
    def agrees_with_the_model(self) -> None:
        pending, expected = self.tracker.pending(), self.expected()

        assert (pending.add, pending.change, pending.delete) == (
            expected.add,
            expected.change,
            expected.delete,
        )
        assert self.tracker.dirty_count == len(pending)
        assert as_dict(self.tracker.desired) == self.desired
        assert as_dict(self.tracker.actual) == self.actual


def as_dict(view: Mapping[str, int]) -> dict[str, int]:
    return dict(view)


TestDeltaTracker = DeltaTrackerModel.TestCase
