"""`calico-engine lab`: a cluster of network namespaces on this machine."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from calico_engine.cli import EXIT_FAILED, EXIT_OK
from calico_engine.cli.options import profile_option, set_option
from calico_engine.cli.output import JSON, output_option, print_json, print_table, warn

if TYPE_CHECKING:
    from calico_engine.lab.cluster import EngineSummary, Lab

C = TypeVar("C", bound=Callable[..., object])


def name_option(command: C) -> C:
    return click.option(
        "--name",
        default="default",
        show_default=True,
        envvar="CALICO_ENGINE_LAB",
        show_envvar=True,
        help="Which lab; several can be up at once.",
    )(command)


def _lab(name: str) -> Lab:
    from calico_engine.lab.cluster import Lab
    from calico_engine.lab.paths import base_directory

    return Lab(name, base_directory(os.environ, os.geteuid()))


@click.group()
def lab() -> None:
    """A cluster of network namespaces on this machine.

    Nodes and pods are network namespaces, joined by one that is the fabric; every node has an engine of its own that
    reads the manifests of the lab and programs a real kernel. Works as root, and for other users where the system lets
    them make user namespaces. The machine's own network is never touched, and `lab down` leaves nothing.
    """


@lab.command()
@click.option("--nodes", type=click.IntRange(0, 200), default=0, help="At least so many nodes.")
@click.option(
    "--manifests",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A directory of manifests to copy into the lab; without it, an open cluster of two pods a node.",
)
@click.option("--timeout", "timeout_s", default=60.0, show_default=True, help="Seconds to wait for it.")
@profile_option
@set_option
@name_option
def up(
    nodes: int,
    manifests: Path | None,
    timeout_s: float,
    profile: str,
    overrides: Sequence[str],
    name: str,
) -> int:
    """Build a lab, and wait until every engine has applied everything.

    Every WorkloadEndpoint of the manifests becomes a pod. The engines go on watching the lab's own copy of them.
    """
    from calico_engine.lab.cluster import LabWish

    built = _lab(name)
    wish = LabWish(
        nodes=nodes or (0 if manifests else 2),
        profile=profile,
        manifests=manifests,
        overrides=tuple(overrides),
    )
    with _progress() as tell:
        plan = built.up(wish, progress=tell, timeout_s=timeout_s)
    for warning in plan.warnings:
        warn(warning)
    click.echo(f"lab {name} is up: {len(plan.nodes)} nodes, {len(plan.pods)} pods")
    click.echo(f"manifests to edit: {built.paths.manifests}")
    return EXIT_OK


@lab.command()
@click.option("--all", "everything", is_flag=True, help="All labs of this user.")
@name_option
def down(everything: bool, name: str) -> int:
    """End a lab and remove all of it, also what a killed `lab up` left."""
    from calico_engine.lab.paths import base_directory, list_labs

    names = list_labs(base_directory(os.environ, os.geteuid())) if everything else [name]
    for one in names:
        existed = _lab(one).down()
        click.echo(f"lab {one} is gone" if existed else f"there is no lab {one}")
    return EXIT_OK


@lab.command(context_settings={"ignore_unknown_options": True})
@name_option
@click.argument("place")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def exec(name: str, place: str, command: Sequence[str]) -> int:  # noqa: A001  # the command's name
    """Run COMMAND in a pod, on a node, or in the `fabric`; ends with its exit code.

    On a node, /run is the node's own, so that iptables' lock and `calico-engine status` are that node's.
    """
    from calico_engine.lab.entering import run_inside

    entered = _lab(name)
    where, kind = entered.locate(place)
    # What we have printed must not be printed again by the process that is about to fork.
    sys.stdout.flush()
    return run_inside(entered.paths, where, command, is_node=kind == "node")


@lab.command()
@click.option("--pod", "pods", multiple=True, help="Only among these pods. Can be given again.")
@click.option(
    "--tcp", "tcp", multiple=True, type=click.IntRange(1, 65535), help="Port to try; 80 if none is named."
)
@click.option("--udp", "udp", multiple=True, type=click.IntRange(1, 65535), help="Port to try.")
@click.option("--icmp", is_flag=True, help="Also send echo requests.")
@click.option("--family", type=click.Choice(["4", "6", "both"]), default="both", show_default=True)
@click.option("--outside", is_flag=True, help="Also try an address outside of the cluster.")
@click.option(
    "--timeout", "timeout_s", default=1.3, show_default=True, help="Seconds until no answer is a denial."
)
@output_option
@name_option
def probe(
    pods: Sequence[str],
    tcp: Sequence[int],
    udp: Sequence[int],
    icmp: bool,
    family: str,
    outside: bool,
    timeout_s: float,
    output: str,
    name: str,
) -> int:
    """Try every pair of pods with real packets, and compare with what the manifests say.

    Ends with 1 when a connection went otherwise than predicted. Each pod gets a server on every port that is tried,
    unless it has one there.
    """
    from calico_engine.lab.probing import DEFAULT_PORTS, ProbeWish, run_probes

    wish = ProbeWish(
        pods=tuple(pods),
        tcp=tuple(tcp) if tcp or udp or icmp else DEFAULT_PORTS,
        udp=tuple(udp),
        icmp=icmp,
        families=(4, 6) if family == "both" else (int(family),),
        with_outside=outside,
        timeout_s=timeout_s,
    )
    outcomes = run_probes(_lab(name), wish)
    unexpected = [outcome for outcome in outcomes if not outcome.as_expected]
    if output == JSON:
        print_json({"probes": outcomes, "as_expected": not unexpected})
        return EXIT_FAILED if unexpected else EXIT_OK
    from rich.console import Console

    from calico_engine.lab.pictures import LEGEND, describe_unexpected, matrix_tables

    # A pipe has no width that anything must fit.
    console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 1000)
    tables = matrix_tables(outcomes, console.width)
    for table in tables:
        console.print(table)
    if any(column.header == "1" for table in tables for column in table.columns):
        console.print(LEGEND, style="dim")
    for line in describe_unexpected(outcomes):
        console.print(line, style="red", markup=False)
    console.print(f"{len(outcomes) - len(unexpected)} of {len(outcomes)} went as the manifests say")
    return EXIT_FAILED if unexpected else EXIT_OK


@lab.command()
@click.option("--dot", is_flag=True, help="In the language of graphviz.")
@name_option
def graph(dot: bool, name: str) -> int:
    """Draw the lab: nodes, pods, their addresses and interfaces."""
    from rich.console import Console

    from calico_engine.lab.pictures import lab_dot, lab_tree

    drawn = _lab(name)
    if dot:
        click.echo(lab_dot(drawn.plan()), nl=False)
        return EXIT_OK
    engines = {node: _engine_words(state) for node, state in drawn.engines().items()}
    Console(highlight=False, soft_wrap=True).print(lab_tree(drawn.plan(), engines))
    return EXIT_OK


@lab.command()
@output_option
@name_option
def status(output: str, name: str) -> int:
    """How the lab and its engines are; ends with 1 when one is not ready."""
    asked = _lab(name)
    plan = asked.plan()
    engines = asked.engines()
    good = bool(engines) and all(state.ready for state in engines.values())
    if output == JSON:
        print_json(
            {"name": name, "up": asked.is_up(), "manifests": str(asked.paths.manifests), "engines": engines}
        )
        return EXIT_OK if good else EXIT_FAILED
    rows = []
    for node in plan.nodes:
        state = engines.get(node.name)
        pods = sum(pod.node == node.name for pod in plan.pods)
        problems = "; ".join([*state.rejected.values(), *state.problems.values()]) if state else ""
        rows.append((node.name, " ".join(node.networks), str(pods), _engine_words(state), problems))
    print_table(("node", "addresses", "pods", "engine", "problems"), rows)
    return EXIT_OK if good else EXIT_FAILED


@lab.command(name="list")
@output_option
def list_(output: str) -> int:
    """List this user's labs."""
    from calico_engine.lab.paths import base_directory, list_labs

    base = base_directory(os.environ, os.geteuid())
    found = {one: _lab(one).is_up() for one in list_labs(base)}
    if output == JSON:
        print_json({"labs": [{"name": one, "up": is_up} for one, is_up in found.items()]})
    else:
        print_table(("name", "state"), [(one, "up" if is_up else "down") for one, is_up in found.items()])
    return EXIT_OK


@lab.command()
@click.option("--timeout", "timeout_s", default=60.0, show_default=True, help="Seconds to wait for it.")
@name_option
def refresh(timeout_s: float, name: str) -> int:
    """Follow the lab's manifests: make and remove pods and nodes, and wait until every engine has applied it."""
    with _progress() as tell:
        plan = _lab(name).refresh(progress=tell, timeout_s=timeout_s)
    for warning in plan.warnings:
        warn(warning)
    click.echo(f"lab {name} follows its manifests: {len(plan.nodes)} nodes, {len(plan.pods)} pods")
    return EXIT_OK


@lab.command()
@click.argument("node")
@name_option
def logs(node: str, name: str) -> int:
    """Print what a node's engine has logged."""
    shown = _lab(name)
    where, kind = shown.locate(node)
    if kind != "node":
        raise click.UsageError(
            f"{node} is no node; there are: {', '.join(n.name for n in shown.plan().nodes)}"
        )
    click.echo(shown.paths.engine_log(where).read_text(errors="replace"), nl=False)
    return EXIT_OK


def _engine_words(state: EngineSummary | None) -> str:
    if state is None:
        return "unknown"
    if state.exit_code is not None:
        return f"ended with {state.exit_code}"
    return "ready" if state.ready else "not ready"


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """Show the present step on a terminal; nothing in a pipe."""
    if not sys.stderr.isatty():
        yield lambda _text: None
        return
    from rich.console import Console

    with Console(stderr=True).status("building the lab") as shown:
        yield shown.update
