"""Print answers: JSON for machines, a rich table on a terminal, plain aligned columns in a pipe."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar

import click
import msgspec

C = TypeVar("C", bound=Callable[..., object])

TEXT = "text"
JSON = "json"


def output_option(command: C) -> C:
    """Add `-o text|json` to a command, as its argument `output`."""
    return click.option(
        "-o",
        "--output",
        type=click.Choice([TEXT, JSON]),
        default=TEXT,
        show_default=True,
        help="How to print the answer.",
    )(command)


def plain_data(value: object) -> object:
    """Return what a struct, a key or a set is in JSON: objects, text, sorted lists."""
    if isinstance(value, msgspec.Struct):
        if type(value).__name__ == "ResourceKey":
            return str(value)
        return {name: plain_data(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, Mapping):
        return {str(key): plain_data(inner) for key, inner in value.items()}
    if isinstance(value, set | frozenset):
        return sorted((plain_data(inner) for inner in value), key=str)
    if isinstance(value, list | tuple):
        return [plain_data(inner) for inner in value]
    return value


def print_json(value: object) -> None:
    encoded = msgspec.json.encode(plain_data(value), enc_hook=str)
    click.echo(msgspec.json.format(encoded, indent=2).decode())


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, title: str = "") -> None:
    """Print rows under column names; nothing but the names when there are no rows."""
    rows = [[printable(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        _print_rich(columns, rows, title)
    else:
        _print_plain(columns, rows)


def _print_rich(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title or None, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in row))
    Console(highlight=False).print(table)


_STYLES = {
    "ok": "green",
    "up": "green",
    "yes": "green",
    "allow": "green",
    "missing": "red",
    "down": "red",
    "no": "red",
}


def _print_plain(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = [[column.upper() for column in columns], *rows]
    widths = [max(len(row[index]) for row in table) for index in range(len(columns))]
    for row in table:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def printable(text: object) -> str:
    """Return text that cannot move the cursor or fake a line, whoever wrote it."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in str(text))


def print_fields(fields: Mapping[str, object]) -> None:
    """Print one thing's fields, one a line."""
    width = max(map(len, fields), default=0)
    for name, value in fields.items():
        click.echo(f"{name + ':':<{width + 1}} {printable(value)}".rstrip())


def warn(text: str) -> None:
    click.echo(f"warning: {printable(text)}", err=True)


@contextmanager
def progress(what: str, after_s: float = 1.0) -> Iterator[None]:
    """Show on a terminal what is being waited for, once it takes more than a second."""
    if not sys.stderr.isatty():
        yield
        return
    import threading

    from rich.console import Console

    ended = threading.Event()
    started_s = time.monotonic()

    def show() -> None:
        if ended.wait(after_s):
            return
        with Console(stderr=True).status(what) as status:
            while not ended.wait(0.5):
                status.update(f"{what} ({time.monotonic() - started_s:.0f} s)")

    thread = threading.Thread(target=show, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def count(number: int, what: str) -> str:
    """Return "1 file", "2 files"."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def duration(seconds: float | None) -> str:
    """Return 93784 as "1d 2h", 12.3 as "12 s", None as "never"."""
    if seconds is None:
        return "never"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = int(seconds // 60)
    days, hours, minutes = minutes // 1440, minutes // 60 % 24, minutes % 60
    if days:
        return f"{days}d {hours}h"
    return f"{hours}h {minutes}m" if hours else f"{minutes}m"
