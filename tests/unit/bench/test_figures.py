"""What benchmarks say: turns, ratios of one round, and the forms of the results."""

from pathlib import Path

import msgspec
import pytest
from bench.figures import Subject, WrongContentError, interleave, markdown, read, rows, write

KEYS = {"scenario", "subject", "peer", "median", "unit", "ratio_to_floor", "ratio_to_peer", "n"}


def test_every_subject_runs_once_a_round_and_nobody_is_always_first() -> None:
    ran: list[str] = []

    def measure(name: str) -> Subject:
        return Subject(name, lambda: float(len(ran)), prepare=lambda: ran.append(name))

    values = interleave([measure("a"), measure("b")], rounds=4)

    assert ran == ["a", "b", "b", "a", "a", "b", "b", "a"]
    assert {name: len(found) for name, found in values.items()} == {"a": 4, "b": 4}


def test_ratios_are_those_of_one_round() -> None:
    # The machine was ten times slower in the last two rounds.
    values = {"floor": [1.0, 10.0, 10.0], "tool": [6.0, 40.0, 50.0], "ours": [2.0, 20.0, 30.0]}

    ours, tool, floor = rows(
        "s",
        dict(reversed(values.items())),
        floors={"ours": "floor", "tool": "floor"},
        peers={"ours": ["tool"]},
    )

    assert (ours.subject, ours.median, ours.ratio_to_floor, ours.ratio_to_peer) == ("ours", 20.0, 2.0, 0.5)
    assert (tool.subject, tool.ratio_to_floor, tool.peer, tool.ratio_to_peer) == ("tool", 5.0, "", None)
    assert (floor.subject, floor.ratio_to_floor, floor.n) == ("floor", None, 3)


def test_a_subject_has_a_row_for_each_peer_that_was_measured() -> None:
    values = {"ours": [1.0], "one": [2.0], "other": [4.0]}

    found = rows("s", values, peers={"ours": ["one", "absent", "other"]})

    assert [(row.peer, row.ratio_to_peer) for row in found if row.subject == "ours"] == [
        ("one", 0.5),
        ("other", 0.25),
    ]


def test_wrong_content_ends_the_measurement() -> None:
    def wrong() -> None:
        raise WrongContentError("rules: the kernel holds 1 instead of 2")

    with pytest.raises(WrongContentError, match="1 instead of 2"):
        interleave([Subject("a", lambda: 1.0, verify=wrong)], rounds=1)


def test_results_are_a_list_of_rows_with_these_keys(tmp_path: Path) -> None:
    found = rows("s", {"a": [1.0], "b": [2.0]}, floors={"a": "b"})

    write(tmp_path / "results.json", found)

    assert [set(row) for row in msgspec.json.decode((tmp_path / "results.json").read_bytes())] == [KEYS, KEYS]
    assert read(tmp_path / "results.json") == found


def test_markdown_has_a_table_a_benchmark() -> None:
    text = markdown([*rows("nft-load 1k", {"a": [1.0]}), *rows("diff 100k", {"b": [2.5]}, unit="ms")])

    assert "## nft-load\n" in text
    assert "| diff 100k | b | 2.5 | ms |  |  |  | 1 |" in text
