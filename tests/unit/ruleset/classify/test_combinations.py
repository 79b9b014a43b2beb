"""Combinations of sets and their numbers."""

from calico_engine.ruleset.classify.combinations import Combination, Combinations, digest_ids


def renumber(combinations: Combinations) -> None:
    for combination, number in list(combinations.renumber()):
        combination.number = number


def make_combinations() -> tuple[Combinations, list[Combination]]:
    """Three combinations that share a digest."""
    combinations = Combinations(digest=lambda ids: 7)
    return combinations, [combinations.with_set(combinations.empty, name) for name in ("a", "b", "c")]


def test_a_combination_is_the_same_whatever_way_it_came_about() -> None:
    combinations = Combinations()
    one = combinations.with_sets(combinations.empty, ("a", "b", "c"))
    other = combinations.with_sets(combinations.empty, ("c", "a", "b", "a"))

    assert one is other
    assert combinations.without_set(combinations.with_set(one, "d"), "d") is one
    assert combinations.without_set(one, "x") is one


def test_a_number_is_the_digest_of_the_sets_and_never_0() -> None:
    combinations = Combinations()
    combination = combinations.with_sets(combinations.empty, ("a", "b"))
    combinations.claim(combination)
    renumber(combinations)

    assert combination.number == digest_ids(("a", "b")) > 0
    assert combinations.empty.number == 0


def test_clashing_numbers_are_told_apart_in_the_order_of_sets() -> None:
    combinations, (a, b, c) = make_combinations()
    for combination in (c, a, b):
        combinations.claim(combination)
    renumber(combinations)
    assert (a.number, b.number, c.number) == (7, 8, 9)

    combinations.release(a)
    renumber(combinations)
    assert (b.number, c.number) == (7, 8)

    combinations.release(b)
    renumber(combinations)
    assert c.number == 7


def test_the_number_after_the_last_is_the_first() -> None:
    combinations = Combinations(digest=lambda ids: (1 << 32) - 1)
    pair = [combinations.with_set(combinations.empty, name) for name in ("a", "b")]
    for combination in pair:
        combinations.claim(combination)
    renumber(combinations)

    assert [combination.number for combination in pair] == [(1 << 32) - 1, 1]


def test_combinations_that_nobody_uses_are_forgotten_and_made_anew_when_needed() -> None:
    combinations = Combinations()
    used = combinations.with_set(combinations.empty, "used")
    combinations.claim(used)
    spare = [combinations.with_set(used, f"s{number}") for number in range(10_000)]

    combinations.forget_unused()

    assert combinations.with_set(combinations.empty, "used") is used
    again = combinations.with_set(used, "s1")
    assert again.ids == spare[1].ids
    assert again is not spare[1]
