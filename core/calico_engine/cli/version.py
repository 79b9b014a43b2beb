"""`calico-engine version`."""

from __future__ import annotations

import platform

import click

from calico_engine import __version__
from calico_engine.cli import EXIT_OK
from calico_engine.cli.output import output_option, print_fields, print_json


@click.command()
@output_option
def version(output: str) -> int:
    """Print the version, and of what it runs on.

    JSON: {"version", "python", "kernel", "fastpath"}
    """
    from calico_engine import fastpath

    facts = {
        "version": __version__,
        "python": platform.python_version(),
        "kernel": platform.release(),
        "fastpath": fastpath.backend(),
    }
    if output == "json":
        print_json(facts)
    else:
        print_fields(facts)
    return EXIT_OK
