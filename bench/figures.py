"""What a benchmark says, and how it takes turns: rounds in which every subject runs once, medians, ratios of one round.

A Figure is one row of bench/out/results.json. Ratios are this subject's value divided by the other's in the same round,
and of those the median, so that a machine which is busy for a while is busy for both. What is better depends on the
unit: less of a time, more of a rate (a unit that ends with "/s").
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

Call = Callable[[], None]


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the results. `peer` is "" for a row that is compared with the floor only, or with nothing."""

    scenario: str
    subject: str
    peer: str = ""
    median: float
    unit: str = "us"
    ratio_to_floor: float | None = None
    ratio_to_peer: float | None = None
    n: int


class Subject(msgspec.Struct, frozen=True):
    """One way to do the same. `measure` returns its value in the scenario's unit; the others are not measured.

    `prepare` comes before it, `verify` after it: raises WrongContentError where the kernel holds something else.
    """

    name: str
    measure: Callable[[], float]
    prepare: Call | None = None
    verify: Call | None = None


class WrongContentError(Exception):
    """What was measured did not do what it was measured for."""


def timed_us(call: Call) -> float:
    started = time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - started) / 1000


def timed(call: Call) -> Callable[[], float]:
    """Return the measurement of a call, in microseconds."""
    return lambda: timed_us(call)


def interleave(subjects: Sequence[Subject], rounds: int) -> dict[str, list[float]]:
    """Return each subject's values, one a round; the order changes from round to round."""
    values: dict[str, list[float]] = {subject.name: [] for subject in subjects}
    for number in range(rounds):
        shift = number % len(subjects)
        for subject in (*subjects[shift:], *subjects[:shift]):
            if subject.prepare:
                subject.prepare()
            values[subject.name].append(subject.measure())
            if subject.verify:
                subject.verify()
    return values


def median_ratio(values: Sequence[float], others: Sequence[float]) -> float:
    return statistics.median(value / other for value, other in zip(values, others, strict=True))


def rows(
    scenario: str,
    values: Mapping[str, Sequence[float]],
    *,
    floors: Mapping[str, str] | None = None,
    peers: Mapping[str, Sequence[str]] | None = None,
    unit: str = "us",
) -> list[Figure]:
    """Return a row per subject and peer of it, or one per subject that has none.

    `floors` and `peers` name, by subject, what it is divided by; names that were not measured are left out.
    """
    floors, peers = floors or {}, peers or {}
    found = []
    for subject, own in values.items():
        floor = values.get(floors.get(subject, ""))
        for peer in [name for name in peers.get(subject, ()) if name in values] or [""]:
            found.append(
                Figure(
                    scenario=scenario,
                    subject=subject,
                    peer=peer,
                    median=rounded(statistics.median(own)),
                    unit=unit,
                    ratio_to_floor=None if floor is None else rounded(median_ratio(own, floor)),
                    ratio_to_peer=rounded(median_ratio(own, values[peer])) if peer else None,
                    n=len(own),
                )
            )
    return found


def rounded(value: float) -> float:
    """Return four significant digits: more would be noise."""
    return float(f"{value:.4g}")


def table(figures: Sequence[Figure]) -> str:
    """Return the rows as a table for people."""
    lines = [
        f"{'scenario':<44} {'subject':<36} {'median':>10} {'unit':<8} {'/floor':>8}  {'against':<30} {'ratio':>8}"
    ]
    for row in figures:
        lines.append(
            f"{row.scenario:<44} {row.subject:<36} {row.median:>10g} {row.unit:<8} {_ratio(row.ratio_to_floor):>8}"
            f"  {row.peer:<30} {_ratio(row.ratio_to_peer):>8}".rstrip()
        )
    return "\n".join(lines)


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def markdown(figures: Sequence[Figure]) -> str:
    """Return the rows as one Markdown table a scenario's first word."""
    groups: dict[str, list[Figure]] = {}
    for row in figures:
        groups.setdefault(row.scenario.partition(" ")[0], []).append(row)
    parts = []
    for name, members in groups.items():
        lines = [
            f"## {name}\n",
            "| scenario | subject | median | unit | to the floor | peer | to the peer | n |",
            "|---|---|---:|---|---:|---|---:|---:|",
        ]
        lines += [
            f"| {row.scenario} | {row.subject} | {row.median:g} | {row.unit} | {_ratio(row.ratio_to_floor)} "
            f"| {row.peer} | {_ratio(row.ratio_to_peer)} | {row.n} |"
            for row in members
        ]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what every benchmark of this package takes to hand its rows over."""
    parser.add_argument("--figures", type=Path, metavar="FILE", help="write the rows of results.json there")


def write(path: Path | None, figures: Sequence[Figure]) -> None:
    """Write rows for `python -m bench`, if it asks for them."""
    if path is not None:
        path.write_bytes(msgspec.json.format(msgspec.json.encode(list(figures)), indent=1) + b"\n")


def read(path: Path) -> list[Figure]:
    return msgspec.json.decode(path.read_bytes(), type=list[Figure])
