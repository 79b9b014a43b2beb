"""`calico-engine render`: what a node would be programmed with, in the tools' own save formats, without root."""

from __future__ import annotations

import click

from calico_engine.cli import EXIT_OK
from calico_engine.cli.options import manifests_option, node_option, profile_option, set_option
from calico_engine.cli.output import output_option, print_json, warn


@click.command()
@manifests_option(required=True)
@node_option(required=True)
@click.option(
    "--dataplane",
    "dataplanes",
    multiple=True,
    metavar="NAME",
    help="A dataplane plugin (iptables, nftables, ipset, ...); those of the profile unless given.",
)
@click.option(
    "--routing", "routings", multiple=True, metavar="NAME", help="A routing plugin whose routes to print."
)
@click.option("--family", type=click.Choice(["4", "6", "both"]), default="both", show_default=True)
@click.option(
    "--layout", type=click.Choice(["v2", "v3"]), help="Shape of the static chains; short for felix.Layout."
)
@profile_option
@set_option
@output_option
def render(
    manifests: str,
    node: str,
    dataplanes: tuple[str, ...],
    routings: tuple[str, ...],
    family: str,
    layout: str | None,
    profile: str,
    overrides: tuple[str, ...],
    output: str,
) -> int:
    """Print what a node would be programmed with.

    Nothing is read from or written to the kernel, and no root is needed. Several plugins' texts follow each other, each
    under a line `# NAME`. What is wrong with the manifests is said on standard error.

    JSON: {"node", "plugins": {NAME: text}, "problems": [text]}
    """
    from calico_engine.cli.loading import address_families, calculate, load_manifests, make_plugin
    from calico_engine.engine.profile import load_profile
    from calico_engine.plugin import PluginRegistry

    if layout is not None:
        overrides = (*overrides, f"felix.Layout={layout}")
    chosen = load_profile(profile, overrides=overrides)
    registry = PluginRegistry()
    plugins = [("dataplane", name) for name in dataplanes] + [("routing", name) for name in routings]
    if not plugins:
        plugins = [("dataplane", name) for name in chosen.dataplane]
    for kind, name in plugins:
        registry.load(kind, name)
    desired = calculate(load_manifests(manifests), node, chosen)
    texts = {
        name: make_plugin(registry, chosen, desired, kind, name, families=address_families(family)).render()
        for kind, name in plugins
    }
    if output == "json":
        print_json({"node": node, "plugins": texts, "problems": desired.problems})
        return EXIT_OK
    for problem in desired.problems:
        warn(problem)
    if not any(type(message).__name__.endswith("EndpointUpdate") for message in desired.batch.messages):
        warn(f"node {node} has no endpoint in these manifests")
    for name, text in texts.items():
        if len(texts) > 1:
            click.echo(f"# {name}")
        click.echo(text, nl=not text.endswith("\n"))
    return EXIT_OK
