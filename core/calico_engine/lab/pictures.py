"""Show a lab: the matrix of who reaches whom, the picture of what hangs where."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from calico_engine.lab.plan import LabPlan, PodPlan
from calico_engine.lab.prober import ProbeResult
from calico_engine.lab.probing import Outcome
from calico_engine.lab.topology import BRIDGE

_STYLES = {
    ProbeResult.OPEN: "green",
    ProbeResult.DENIED: "red",
    ProbeResult.REFUSED: "yellow",
    ProbeResult.UNREACHABLE: "magenta",
    ProbeResult.WRONG: "bold red",
}


#: What a cell says where words do not fit.
LETTERS = {
    ProbeResult.OPEN: "o",
    ProbeResult.DENIED: "x",
    ProbeResult.REFUSED: "r",
    ProbeResult.UNREACHABLE: "u",
    ProbeResult.WRONG: "w",
}
LEGEND = (
    ", ".join(f"{letter} {result}" for result, letter in LETTERS.items()) + ", ! not as the manifests say"
)


def matrix_tables(outcomes: Sequence[Outcome], width: int = 80) -> list[Table]:
    """Return one table for each protocol, port and family: rows are sources, columns destinations.

    Where the names do not fit `width` characters, columns are numbered as the rows are, and cells hold LETTERS.
    """
    groups: dict[tuple[str, int, int], list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault((outcome.protocol, outcome.port, outcome.family), []).append(outcome)
    families = {family for _, _, family in groups}
    return [
        _matrix(_title(protocol, port, family if len(families) > 1 else 0), found, width)
        for (protocol, port, family), found in groups.items()
    ]


def _title(protocol: str, port: int, family: int) -> str:
    words = [protocol.upper()]
    if port:
        words.append(str(port))
    if family:
        words.append(f"over IPv{family}")
    return " ".join(words)


def _matrix(title: str, outcomes: Sequence[Outcome], width: int) -> Table:
    sources = list(dict.fromkeys(outcome.source for outcome in outcomes))
    reached = {outcome.destination for outcome in outcomes}
    # Columns in the order of the rows, so that the diagonal is one.
    destinations = [name for name in sources if name in reached] + sorted(reached.difference(sources))
    numbers = {
        name: number for number, name in enumerate([*sources, *sorted(reached.difference(sources))], 1)
    }
    by_pair = {(outcome.source, outcome.destination): outcome for outcome in outcomes}
    needed = max(map(len, sources)) + sum(max(len(name), len("denied")) + 3 for name in destinations) + 4
    short = needed > width
    table = Table(title=title, title_justify="left", title_style="bold", padding=(0, 0) if short else (0, 1))
    table.add_column("from \\ to", style="bold", no_wrap=True)
    for name in destinations:
        table.add_column(str(numbers[name]) if short else name, no_wrap=True)
    for name in sources:
        cells = (_cell(by_pair.get((name, destination)), short=short) for destination in destinations)
        table.add_row(f"{numbers[name]:>3} {name}" if short else name, *cells)
    for name in destinations:
        if short and name not in sources:
            table.add_row(f"{numbers[name]:>3} {name}", style="dim")
    return table


def _cell(outcome: Outcome | None, *, short: bool) -> Text:
    if outcome is None:
        return Text("-", style="dim")
    text = Text(LETTERS[outcome.result] if short else str(outcome.result), style=_STYLES[outcome.result])
    if not outcome.as_expected:
        text.append("!" if short else f" (expected {outcome.expected})", style="bold red")
    return text


def describe_unexpected(outcomes: Sequence[Outcome]) -> list[str]:
    """Return a line for each probe that did not end as the manifests say."""
    return [
        f"{o.source} -> {o.destination} ({o.address}) {_title(o.protocol, o.port, o.family)}: "
        f"{o.result}{f' ({o.detail})' if o.detail else ''}, the manifests say {o.expected}: {o.reason}"
        for o in outcomes
        if not o.as_expected
    ]


def lab_tree(plan: LabPlan, engines: Mapping[str, str]) -> Tree:
    """Return the picture as a tree; `engines` says how each node's engine is."""
    gateways = " ".join(plan.gateways)
    root = Tree(Text.assemble((f"fabric {BRIDGE}", "bold"), f"  {gateways}"))
    outside = " ".join(address.partition("/")[0] for address in plan.outside)
    root.add(Text.assemble(("outside", "bold"), f"  {outside}"))
    for node in plan.nodes:
        state = engines.get(node.name, "")
        title = Text.assemble((node.name, "bold cyan"), f"  {' '.join(node.networks)}", (f"  {state}", "dim"))
        branch = root.add(title)
        for pod in plan.pods:
            if pod.node == node.name:
                branch.add(_pod_text(pod))
    return root


def _pod_text(pod: PodPlan) -> Text:
    addresses = " ".join(network.partition("/")[0] for network in pod.networks)
    labels = " ".join(f"{key}={value}" for key, value in sorted(pod.labels.items()))
    return Text.assemble((pod.name, "green"), f"  {addresses}  {pod.interface}", (f"  {labels}", "dim"))


def lab_dot(plan: LabPlan) -> str:
    """Return the picture in the language of graphviz."""
    quote = json.dumps
    lines = ["graph lab {", "  node [shape=box];", f"  fabric [shape=ellipse, label={quote(BRIDGE)}];"]
    for index, node in enumerate(plan.nodes):
        label = quote("\n".join([node.name, *node.networks]))
        lines += [
            f"  subgraph cluster_{index} {{",
            f"    label={quote(node.name)};",
            f"    n{index} [label={label}];",
        ]
        for number, pod in enumerate(plan.pods):
            if pod.node == node.name:
                addresses = [network.partition("/")[0] for network in pod.networks]
                lines.append(
                    f"    p{number} [shape=oval, label={quote(chr(10).join([pod.name, *addresses]))}];"
                )
                lines.append(f"    n{index} -- p{number} [label={quote(pod.interface)}];")
        lines += ["  }", f"  fabric -- n{index};"]
    lines.append("}")
    return "\n".join(lines) + "\n"
