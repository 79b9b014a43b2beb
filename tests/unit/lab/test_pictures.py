"""What the matrix says, wide and narrow."""

from io import StringIO

from rich.console import Console

from calico_engine.lab.pictures import describe_unexpected, matrix_tables
from calico_engine.lab.prober import ProbeResult
from calico_engine.lab.probing import Outcome


def outcome(source: str, destination: str, result: ProbeResult, expected: str) -> Outcome:
    arrived = result is ProbeResult.OPEN
    return Outcome(
        source=source,
        destination=destination,
        address="10.0.0.1",
        family=4,
        protocol="tcp",
        port=80,
        result=result,
        elapsed_ms=1.0,
        expected=expected,
        as_expected=arrived == (expected == "allow"),
        decided_by="",
        rule_index=None,
        direction="",
        reason="because",
    )


OUTCOMES = (
    outcome("web", "database", ProbeResult.OPEN, "allow"),
    outcome("database", "web", ProbeResult.OPEN, "deny"),
)


def shown(width: int) -> str:
    console = Console(file=StringIO(), width=200)
    for table in matrix_tables(OUTCOMES, width):
        console.print(table)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_wide_matrix_has_words_and_says_what_was_not_expected() -> None:
    text = shown(100)

    assert "TCP 80" in text
    assert "open (expected deny)" in text
    assert "database" in text


def test_narrow_matrix_has_numbers_and_letters() -> None:
    rows = [line for line in shown(20).splitlines() if "web" in line or "database" in line]

    assert ["1" in rows[0], "2" in rows[1]] == [True, True]
    assert "o!" in rows[1]
    assert "open" not in shown(20)


def test_only_the_unexpected_is_described() -> None:
    assert describe_unexpected(OUTCOMES) == [
        "database -> web (10.0.0.1) TCP 80 over IPv4: open, the manifests say deny: because"
    ]
