"""`calico-engine profiles`: which engine profiles there are, and what is in one."""

from __future__ import annotations

import click

from calico_engine.cli import EXIT_FAILED, EXIT_OK
from calico_engine.cli.options import set_option
from calico_engine.cli.output import output_option, print_json, print_table


@click.group(invoke_without_command=True)
@output_option
@click.pass_context
def profiles(context: click.Context, output: str) -> int | None:
    """The engine profiles there are: in /etc/calico-engine/profiles, in the package, from installed plugins."""
    if context.invoked_subcommand is None:
        return _list(output)
    return None


@profiles.command(name="list")
@output_option
def list_command(output: str) -> int:
    """List the profiles. Exit code 1 when one of them cannot be loaded.

    JSON: [{"name", "source", "description", "problem"}]
    """
    return _list(output)


def _list(output: str) -> int:
    from calico_engine.engine.profile import list_profiles

    found = list_profiles()
    if output == "json":
        print_json(found)
    else:
        print_table(
            ["profile", "description", "from"],
            [[info.name, info.problem or info.description, info.source] for info in found],
        )
    return EXIT_FAILED if any(info.problem for info in found) else EXIT_OK


@profiles.command()
@click.argument("name")
@set_option
@output_option
def show(name: str, overrides: tuple[str, ...], output: str) -> int:
    """Show what a profile, by name or path, selects and sets.

    JSON: {"name", "source", "description", "datastore", "dataplane", "routing", "orchestrator", "extensions",
    "engine": {...}, "felix": {...}, "options": {...}}
    """
    from calico_engine.engine.profile import load_profile

    profile = load_profile(name, overrides=overrides)
    if output == "json":
        print_json(profile)
        return EXIT_OK
    rows = [
        [field, ", ".join(value) if isinstance(value, tuple) else str(value)]
        for field in (
            "name",
            "source",
            "description",
            "datastore",
            "dataplane",
            "routing",
            "orchestrator",
            "extensions",
        )
        if (value := getattr(profile, field))
    ]
    engine = profile.engine
    rows += [[f"engine.{field}", str(getattr(engine, field))] for field in engine.__struct_fields__]
    rows += [[f"felix.{key}", str(value)] for key, value in profile.felix.items()]
    rows += [
        [f"options.{plugin}.{key}", str(value)]
        for plugin, options in profile.options.items()
        for key, value in options.items()
    ]
    print_table(["key", "value"], rows)
    return EXIT_OK
