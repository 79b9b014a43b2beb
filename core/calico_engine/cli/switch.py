"""`calico-engine switch`: exchange the running engine's dataplane for another, without a gap."""

from __future__ import annotations

import time
from pathlib import Path
from typing import cast
from urllib.parse import quote

import click

from calico_engine.cli import EXIT_FAILED, EXIT_OK
from calico_engine.cli.client import NotRunningError, ask
from calico_engine.cli.options import run_dir_option
from calico_engine.cli.output import output_option, print_json, printable

_POLL_S = 0.1
#: How long to watch the old one being removed, once the new one is in force; it goes on without us.
_REMOVAL_S = 60.0


@click.command()
@click.option(
    "--dataplane",
    metavar="NAME[,NAME...]",
    help="The plugins to switch to, in the order they are applied. `iptables` stands for ipset,iptables.",
)
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0, min_open=True),
    default=120.0,
    show_default=True,
    metavar="SECONDS",
    help="Undo the switch when the new dataplane is not complete by then.",
)
@click.option("--dry-run", is_flag=True, help="Say what would happen; change nothing.")
@click.option("--forget", is_flag=True, help="Have the next start ask the profile again.")
@run_dir_option
@output_option
def switch(
    dataplane: str | None, timeout_s: float, dry_run: bool, forget: bool, run_dir: str, output: str
) -> int:
    """Exchange the running engine's dataplane for another, without a gap.

    The new one is programmed beside the old one and read back; only then is the old one removed. Until then every
    packet must pass both: nothing that is denied gets through, and connections go on. When anything fails, the new one
    is removed again and the old one stays. Exit code 0 when the new one is in force alone, else 1.

    The choice is remembered in the run directory and comes before the profile's until --forget, a switch back, or a
    reboot: write it into the profile to keep it.

    JSON: {"switch": {"before", "after", "phase", "lines", "error", "trouble"} or null when it is in force already};
    with --dry-run {"would": [line]}; with --forget {"forgotten": text}
    """
    if forget == (dataplane is not None):
        raise click.UsageError("say either --dataplane NAME or --forget")
    if forget:
        return _forget(run_dir, output)
    assert dataplane is not None
    if dry_run:
        answer = ask(run_dir, f"/switch?dataplane={quote(dataplane)}", timeout_s=300.0)
        _print(answer, cast(list[str], answer["would"]), output)
        return EXIT_OK
    answer = ask(
        run_dir,
        f"/switch?dataplane={quote(dataplane)}&timeout_s={timeout_s:g}",
        method="POST",
        timeout_s=30.0,
    )
    if answer["switch"] is None:
        names = ", ".join(cast(list[str], answer["in_force"]))
        _print(answer, [f"{names} is in force already"], output)
        return EXIT_OK
    return _watch(run_dir, output, timeout_s)


def _watch(run_dir: str, output: str, timeout_s: float) -> int:
    """Print each step as it is done, and return how it ended."""
    told = 0
    end_s = time.monotonic() + timeout_s + _REMOVAL_S
    while True:
        answer = ask(run_dir, "/switch", timeout_s=30.0)
        state = cast(dict[str, object], answer["switch"])
        lines = cast(list[str], state["lines"])
        if output != "json":
            for line in lines[told:]:
                click.echo(printable(line))
        told = len(lines)
        late = time.monotonic() > end_s
        if state["phase"] in ("done", "failed") or late:
            break
        time.sleep(_POLL_S)
    if output == "json":
        print_json(answer)
    elif late:
        click.echo(printable(f"not finished: {state['trouble'] or state['phase']}"), err=True)
        click.echo("the engine goes on trying; see `calico-engine status`", err=True)
    elif state["error"]:
        click.echo(printable(f"error: {state['error']}"), err=True)
    return EXIT_OK if state["phase"] == "done" else EXIT_FAILED


def _forget(run_dir: str, output: str) -> int:
    try:
        answer = ask(run_dir, "/forget", method="POST")
    except NotRunningError:
        answer = {"forgotten": _forget_alone(run_dir)}
    _print(answer, [str(answer["forgotten"])], output)
    return EXIT_OK


def _forget_alone(run_dir: str) -> str:
    """Forget while no engine runs: what was chosen stays in force until the next start has programmed the profile's."""
    from calico_engine.engine.choice import ChoiceFile
    from calico_engine.engine.run_lock import RunLock

    file = ChoiceFile(Path(run_dir))
    if not file.path.exists():
        return "nothing is remembered: the next start comes up with the profile's dataplane"
    lock = RunLock(Path(run_dir))
    lock.acquire()
    try:
        file.write(file.read().forgotten())
    finally:
        lock.release()
    return "forgotten: the next start comes up with the profile's dataplane"


def _print(answer: dict[str, object], lines: list[str], output: str) -> None:
    if output == "json":
        print_json(answer)
        return
    for line in lines:
        click.echo(printable(line))
