"""`calico-engine explain`: the verdict on one packet, and the rule that decides, from manifests alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from calico_engine.cli import EXIT_FAILED, EXIT_OK
from calico_engine.cli.options import manifests_option
from calico_engine.cli.output import output_option, print_json, print_table, printable, warn

if TYPE_CHECKING:
    from calico_engine.evaluation.flow import Step


@click.command()
@manifests_option(required=True)
@click.argument("src")
@click.argument("dst")
@click.argument("what", metavar="[PORT/]PROTOCOL")
@click.option("--src-port", type=click.IntRange(0, 65535), help="Source port; an ephemeral one unless given.")
@click.option("--icmp-type", type=click.IntRange(0, 255), help="ICMP type; an echo request unless given.")
@click.option("--icmp-code", type=click.IntRange(0, 255), help="ICMP code.")
@output_option
def explain(
    manifests: str,
    src: str,
    dst: str,
    what: str,
    src_port: int | None,
    icmp_type: int | None,
    icmp_code: int | None,
    output: str,
) -> int:
    """May the first packet of a flow pass, and which rule says so?

    SRC and DST are addresses, or names of endpoints or nodes ("name" or "namespace/name"). The last argument is
    "80/TCP", "53/udp", "icmp" and so on. Exit code 0: it is let through, 1: it is dropped.

    JSON: {"action": "allow"|"deny", "policy", "rule_index", "direction", "reason", "steps": [{"endpoint", "node",
    "direction", "stage", "tier", "policy", "rule_index", "field", "action", "text"}], "problems": [text]}

    "field" is the rule's place in the manifest, such as spec.ingress[0].
    """
    from calico_engine.cli.loading import load_manifests
    from calico_engine.evaluation import World, evaluate

    protocol, port = parse_service(what)
    loaded = load_manifests(manifests)
    flow: dict[str, object] = {"src": src, "dst": dst, "protocol": protocol, "dst_port": port}
    given = {"src_port": src_port, "icmp_type": icmp_type, "icmp_code": icmp_code}
    flow.update((name, value) for name, value in given.items() if value is not None)
    try:
        verdict = evaluate(World(loaded.resources), flow)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    steps = [_step(step) for step in verdict.steps]
    if output == "json":
        print_json(
            {
                "action": str(verdict.action),
                "policy": verdict.policy,
                "rule_index": verdict.rule_index,
                "direction": verdict.direction,
                "reason": verdict.reason,
                "steps": steps,
                "problems": loaded.problems,
            }
        )
    else:
        for problem in loaded.problems:
            warn(problem)
        click.secho(
            f"{verdict.action}: {printable(verdict.reason)}", fg="green" if verdict.allowed else "red"
        )
        if steps:
            shown = [name for name in steps[0] if name != "rule_index"]
            columns = [name for name in shown if any(step[name] not in (None, "") for step in steps)]
            print_table(columns, [[_cell(step[name]) for name in columns] for step in steps])
    return EXIT_OK if verdict.allowed else EXIT_FAILED


def parse_service(text: str) -> tuple[str | int, int]:
    """Return ("TCP", 80) for "80/TCP", "tcp/80" and, as TCP is what people mean, "80"; ("ICMP", 0) for "icmp".

    Raises: click.UsageError.
    """
    first, slash, second = text.partition("/")
    if slash and second.isdigit() and not first.isdigit():
        first, second = second, first
    if slash:
        if not first.isdigit() or int(first) > 65535 or not second:
            raise click.UsageError(f"{text!r}: write a port and a protocol, as 80/TCP")
        return (int(second) if second.isdigit() else second), int(first)
    if text.isdigit():
        if int(text) > 65535:
            raise click.UsageError(f"{text!r}: a port is 0-65535")
        return "TCP", int(text)
    if text.lower() in ("tcp", "udp", "sctp"):
        raise click.UsageError(f"{text!r}: which port? Write 80/{text}")
    return text, 0


def _step(step: Step) -> dict[str, object]:
    fields: dict[str, object] = {name: getattr(step, name) for name in step.__struct_fields__}
    fields["field"] = "" if step.rule_index is None else f"spec.{step.direction}[{step.rule_index}]"
    return fields


def _cell(value: object) -> str:
    return "" if value is None else str(value)
