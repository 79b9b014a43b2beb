"""`calico-engine demo`: the tenant example on a lab, with real connections."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import click

from calico_engine.cli import EXIT_FAILED, EXIT_OK
from calico_engine.cli.output import JSON, output_option, print_json

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from calico_engine.lab.cluster import Lab
    from calico_engine.lab.probing import Outcome
    from calico_engine.lab.story import Told

_INTRODUCTION = """\
Two nodes, slave1 and slave2, made of network namespaces on this machine, each with an engine of its own that reads
the same manifests and programs real routes, ipsets and iptables. One tenant, namespace "default":

    slave1  slave1-frontend1 172.16.1.1    slave1-frontend2 172.16.1.2
    slave2  slave2-database  172.16.1.3    with profile profile-database

The tenant wants: everybody in the namespace may talk, but the database answers its frontends on TCP 3306 alone.
Every cell below is a TCP connection that was really tried, to 3306 and to 8080, where a server listens in each pod.
"""


@click.command()
@click.option("--keep", is_flag=True, help="Leave the lab up at the end, to look around in it.")
@output_option
def demo(keep: bool, output: str) -> int:
    """Show it: a tenant's policies on a two-node lab, with real packets.

    Two frontends and a database: what a deny in front of an allow does, who decides each denied connection, and the
    same rules in the right order. Takes less than a minute; the lab is removed at the end, also on Ctrl-C. Ends with 1
    when a connection went otherwise than told.
    """
    from rich.console import Console

    console = Console(highlight=False, quiet=output == JSON, soft_wrap=True)
    started_s = time.monotonic()
    with _tenant_lab(console, keep=keep) as lab:
        console.print(f"The lab is up after {time.monotonic() - started_s:.1f} s.\n", style="dim")
        told = list(_tell(lab, console))
    return _conclude(told, console, output, time.monotonic() - started_s, keep=keep)


def _tell(lab: Lab, console: Console) -> Iterator[Told]:
    from calico_engine.lab.story import STEPS, tell_step

    for number, step in enumerate(STEPS, 1):
        told = tell_step(lab, step)
        _print_step(console, number, len(STEPS), told)
        yield told


@contextlib.contextmanager
def _tenant_lab(console: Console, *, keep: bool) -> Iterator[Lab]:
    """The lab with the tenant's manifests; gone at the end, whatever ends us."""
    from calico_engine.lab.cluster import Lab, LabWish
    from calico_engine.lab.paths import base_directory
    from calico_engine.lab.story import OVERRIDES, write_tenant_manifests

    console.print("calico-engine demo\n", style="bold")
    console.print(_INTRODUCTION)
    base = base_directory(os.environ, os.geteuid())
    _remove_leftovers(base)
    lab = Lab("demo" if keep else f"demo-{os.getpid()}", base)
    if keep:
        lab.down()
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        with tempfile.TemporaryDirectory(prefix="calico-engine-demo-") as directory:
            write_tenant_manifests(Path(directory))
            with _status(console, "building two nodes and three pods"):
                lab.up(LabWish(manifests=Path(directory), overrides=OVERRIDES, ends_with_us=not keep))
        yield lab
    except BaseException:
        keep = False
        raise
    finally:
        if not keep:
            _without_interruption(lab.down)
        signal.signal(signal.SIGTERM, before)


def _remove_leftovers(base: Path) -> None:
    """Remove the files of demos that were killed; their labs died with them."""
    from calico_engine.lab.cluster import Lab
    from calico_engine.lab.paths import list_labs

    for name in list_labs(base):
        pid = name.removeprefix("demo-")
        if name.startswith("demo-") and pid.isdigit() and not Path("/proc", pid).exists():
            Lab(name, base).down()


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _without_interruption(call: Callable[[], object]) -> None:
    """Call with Ctrl-C held back: a second one must not leave half of the lab."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        call()
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def _status(console: Console, text: str) -> Iterator[None]:
    if not sys.stdout.isatty() or console.quiet:
        yield
        return
    with console.status(text):
        yield


def _print_step(console: Console, number: int, total: int, told: Told) -> None:
    from rich.padding import Padding

    step = told.step
    console.rule(f"[bold]{number} of {total}: {step.title}", align="left", style="cyan")
    console.print(f"\n{step.change}\n")
    console.print(f"  {step.shows}, ingress:", style="bold")
    for line in told.shown:
        console.print(f"    {line}", style="red" if "never reached" in line else "", markup=False)
    if told.kernel:
        console.print("\n  The same in the kernel of slave2:", style="bold")
        for line in told.kernel:
            console.print(f"    {line}", style="dim", markup=False)
    console.print()
    console.print(Padding(_matrix(told.outcomes), (0, 0, 0, 2)))
    denied = _denied_lines(told.outcomes)
    if denied:
        console.print("\n  Denied, and by what:", style="bold")
        for line in denied:
            console.print(f"    {line}", markup=False)
    console.print(f"\n{step.explanation}\n", style="italic")
    for line in told.differences:
        console.print(f"NOT AS TOLD: {line}", style="bold red", markup=False)


def _matrix(outcomes: Sequence[Outcome]) -> Table:
    """One table for both ports: a row for each source, a column for each destination."""
    from rich.table import Table
    from rich.text import Text

    names = list(dict.fromkeys(outcome.source for outcome in outcomes))
    cells: dict[tuple[str, str], Text] = {}
    for outcome in outcomes:
        text = cells.setdefault((outcome.source, outcome.destination), Text())
        text.append("\n" if text else "")
        text.append(f"{outcome.port} {outcome.result}", style="green" if outcome.result == "open" else "red")
    table = Table("from \\ to", *names)
    for source in names:
        table.add_row(source, *(cells.get((source, name), Text("-", style="dim")) for name in names))
    return table


def _denied_lines(outcomes: Sequence[Outcome]) -> list[str]:
    """Say for each denied pair which policy and rule decided, ports together."""
    ports: dict[tuple[str, str, str], list[str]] = {}
    for outcome in outcomes:
        if outcome.result != "open":
            key = (outcome.source, outcome.destination, _decider(outcome))
            ports.setdefault(key, []).append(str(outcome.port))
    width = max((len(f"{src} -> {dst}") for src, dst, _ in ports), default=0)
    return [
        f"{f'{source} -> {destination}':<{width}}  {', '.join(numbers):<10}  {decider}"
        for (source, destination, decider), numbers in ports.items()
    ]


def _decider(outcome: Outcome) -> str:
    """Return `policy namespace-default, ingress rule 1`; rules are counted from 1 here, as the page shows them."""
    if outcome.rule_index is None:
        return outcome.reason
    kind, _, name = outcome.decided_by.partition("(")
    word = "profile" if kind == "Profile" else "policy"
    return f"{word} {name.rstrip(')')}, {outcome.direction} rule {outcome.rule_index + 1}"


def _conclude(told: Sequence[Told], console: Console, output: str, elapsed_s: float, *, keep: bool) -> int:
    differences = [line for step in told for line in step.differences]
    if output == JSON:
        steps = [
            {"title": step.step.title, "probes": step.outcomes, "differences": step.differences}
            for step in told
        ]
        print_json({"steps": steps, "as_told": not differences, "elapsed_s": round(elapsed_s, 1)})
    probes = sum(len(step.outcomes) for step in told)
    rest = "The lab is still up: calico-engine lab --help" if keep else "The lab is gone."
    if differences:
        console.print(
            f"{len(differences)} of {probes} connections went otherwise than told. {rest}", style="bold red"
        )
        return EXIT_FAILED
    console.print(f"All {probes} connections went as told, in {elapsed_s:.0f} s. {rest}", style="bold green")
    return EXIT_OK
