"""`calico-engine plugins`: what a profile could select."""

from __future__ import annotations

from pathlib import Path

import click

from calico_engine.cli import EXIT_OK
from calico_engine.cli.options import run_dir_option
from calico_engine.cli.output import output_option, plain_data, print_json, print_table


@click.command()
@click.argument("family", required=False, default="")
@run_dir_option
@output_option
def plugins(family: str, run_dir: str, output: str) -> int:
    """The plugins that are installed, of one family or of all. Nothing of them is imported.

    `chosen` are those that `calico-engine switch` has put in place of the profile's in this run directory.

    JSON: [{"family", "name", "module", "distribution", "version", "built_in", "chosen"}]
    """
    from calico_engine.engine.choice import ChoiceFile
    from calico_engine.plugin import FAMILIES, installed

    if family and family not in FAMILIES:
        raise click.UsageError(f"no family {family!r}; there are: {', '.join(FAMILIES)}")
    found = installed(family)
    choice = ChoiceFile(Path(run_dir)).read()
    chosen = [("dataplane", name) for name in choice.chosen or ()]
    if output == "json":
        print_json(
            [
                {
                    **_fields(info),
                    "built_in": info.built_in,
                    "chosen": (info.family, info.name) in chosen,
                }
                for info in found
            ]
        )
    else:
        print_table(
            ["family", "name", "from", "version", "module"],
            [[info.family, info.name, info.distribution, info.version, info.module] for info in found],
        )
        if choice.chosen and family in ("", "dataplane"):
            click.echo(
                f"chosen by `calico-engine switch`, in place of the profile's dataplane: {', '.join(choice.chosen)}"
            )
    return EXIT_OK


def _fields(info: object) -> dict[str, object]:
    fields = plain_data(info)
    assert isinstance(fields, dict)
    return fields
