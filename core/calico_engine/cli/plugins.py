"""`calico-engine plugins`: what a profile could select."""

from __future__ import annotations

import click

from calico_engine.cli import EXIT_OK
from calico_engine.cli.output import output_option, plain_data, print_json, print_table


@click.command()
@click.argument("family", required=False, default="")
@output_option
def plugins(family: str, output: str) -> int:
    """The plugins that are installed, of one family or of all. Nothing of them is imported.

    JSON: [{"family", "name", "module", "distribution", "version", "built_in"}]
    """
    from calico_engine.plugin import FAMILIES, installed

    if family and family not in FAMILIES:
        raise click.UsageError(f"no family {family!r}; there are: {', '.join(FAMILIES)}")
    found = installed(family)
    if output == "json":
        print_json([{**_fields(info), "built_in": info.built_in} for info in found])
    else:
        print_table(
            ["family", "name", "from", "version", "module"],
            [[info.family, info.name, info.distribution, info.version, info.module] for info in found],
        )
    return EXIT_OK


def _fields(info: object) -> dict[str, object]:
    fields = plain_data(info)
    assert isinstance(fields, dict)
    return fields
