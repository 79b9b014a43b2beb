"""`calico-engine completion`: the script that teaches a shell our commands."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from calico_engine.cli import EXIT_OK


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> int:
    """Print shell completion.

    For bash, put `eval "$(calico-engine completion bash)"` in ~/.bashrc.
    """
    from calico_engine.cli.app import PROGRAM, app

    script = get_completion_class(shell)
    assert script is not None
    click.echo(script(app, {}, PROGRAM, "_CALICO_ENGINE_COMPLETE").source())
    return EXIT_OK
