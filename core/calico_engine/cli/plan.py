"""`calico-engine plan`: what an apply would change in the kernel. Writes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import click

from calico_engine.cli import EXIT_OK
from calico_engine.cli.client import ask
from calico_engine.cli.options import (
    manifests_option,
    node_option,
    profile_option,
    run_dir_option,
    set_option,
)
from calico_engine.cli.output import count, output_option, print_json, printable, progress, warn

if TYPE_CHECKING:
    from calico_engine.cli.loading import Desired
    from calico_engine.engine.profile import EngineProfile

Changes = Mapping[str, Sequence[Mapping[str, str]]]


@click.command()
@run_dir_option
@manifests_option(required=False)
@node_option(required=False)
@profile_option
@set_option
@output_option
def plan(
    run_dir: str, manifests: str | None, node: str, profile: str, overrides: tuple[str, ...], output: str
) -> int:
    """What an apply would change in the kernel: + added, ~ changed, - removed.

    Asks the running engine. With --manifests it compares this machine's kernel with what these manifests, the profile
    and --set ask for, without an engine; that needs root, reads only, and leaves out host routes and kernel parameters.

    JSON: {"plugins": {NAME: [{"action": "+"|"~"|"-", "where", "text"}]}}
    """
    if manifests is None:
        with progress("asking the engine"):
            answer = ask(run_dir, "/plan", timeout_s=120.0)
        plugins = answer["plugins"]
        assert isinstance(plugins, dict)
    else:
        plugins = _plan_alone(manifests, node, profile, overrides)
    if output == "json":
        print_json({"plugins": plugins})
    else:
        _print_changes(plugins)
    return EXIT_OK


def _print_changes(plugins: Changes) -> None:
    total = 0
    for name, changes in plugins.items():
        for change in changes:
            total += 1
            line = printable(f"{change['action']} {name} {change['where']} {change['text']}".rstrip())
            click.secho(line, fg={"+": "green", "-": "red", "~": "yellow"}.get(change["action"]))
    click.echo(count(total, "change") if total else "no changes")


def _plan_alone(manifests: str, node: str, profile: str, overrides: tuple[str, ...]) -> Changes:
    import os

    from calico_engine.cli.loading import calculate, load_manifests
    from calico_engine.cli.output import plain_data
    from calico_engine.engine.profile import load_profile
    from calico_engine.engine.settings import node_name

    chosen = load_profile(profile, overrides=overrides)
    desired = calculate(load_manifests(manifests), node or node_name(os.environ), chosen)
    for problem in desired.problems:
        warn(problem)
    with progress("reading the kernel"):
        plans = asyncio.run(_compare(chosen, desired))
    data = plain_data(plans)
    assert isinstance(data, dict)
    return data


async def _compare(profile: EngineProfile, desired: Desired) -> dict[str, object]:
    from calico_engine.cli.loading import make_plugin
    from calico_engine.plugin import PluginRegistry

    registry = PluginRegistry()
    selected = [("dataplane", name) for name in profile.dataplane] + [
        ("routing", name) for name in profile.routing
    ]
    plans: dict[str, object] = {}
    for family, name in selected:
        plugin = make_plugin(registry, profile, desired, family, name)
        try:
            plans[f"{family}:{name}"] = list(await plugin.plan())
        finally:
            await plugin.close()
    return plans
