"""The command group: commands are imported when they are chosen, an unknown one names the nearest."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import os
import sys
from collections.abc import Sequence

import click

from calico_engine.cli import (
    EXIT_CONFIG,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_NOT_RUNNING,
    EXIT_OK,
    EXIT_USAGE,
)

PROGRAM = "calico-engine"
_LONGEST_LINE = 600

#: name -> (module, attribute, the line in --help), in the order of --help.
COMMANDS: dict[str, tuple[str, str, str]] = {
    "run": ("calico_engine.cli.run", "run", "Run this node's engine."),
    "status": ("calico_engine.cli.inspect", "status", "How the running engine is."),
    "switch": ("calico_engine.cli.switch", "switch", "Exchange the running engine's dataplane for another."),
    "plan": ("calico_engine.cli.plan", "plan", "What an apply would change in the kernel."),
    "dump": ("calico_engine.cli.inspect", "dump", "What the running engine has computed."),
    "render": ("calico_engine.cli.render", "render", "Print what a node would be programmed with."),
    "explain": ("calico_engine.cli.explain", "explain", "May this packet pass, and which rule says so?"),
    "validate": ("calico_engine.cli.validate", "validate", "Check manifests."),
    "check": ("calico_engine.cli.check", "check", "Can this machine run an engine?"),
    "cleanup": ("calico_engine.cli.cleanup", "cleanup", "Remove everything of ours from the kernel."),
    "profiles": ("calico_engine.cli.profiles", "profiles", "The engine profiles there are."),
    "plugins": ("calico_engine.cli.plugins", "plugins", "The plugins that are installed."),
    "lab": ("calico_engine.cli.lab", "lab", "A cluster of network namespaces on this machine."),
    "demo": ("calico_engine.cli.demo", "demo", "Show it: a tenant's policies on a lab, with real packets."),
    "completion": ("calico_engine.cli.completion", "completion", "Print shell completion."),
    "version": ("calico_engine.cli.version", "version", "Print the version."),
}


class LazyGroup(click.Group):
    """Built-in commands by name, then those that installed extensions bring."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*COMMANDS, *sorted(self.commands)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in COMMANDS:
            module, attribute, _ = COMMANDS[cmd_name]
            command = getattr(importlib.import_module(module), attribute)
            assert isinstance(command, click.Command)
            return command
        return super().get_command(ctx, cmd_name) or _extension_command(cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0] if args else ""
        if not name.startswith("-") and self.get_command(ctx, name) is None:
            near = difflib.get_close_matches(name, list(COMMANDS), n=1, cutoff=0.5)
            raise UnknownCommandError(name, near, ctx)
        return super().resolve_command(ctx, args)


class UnknownCommandError(click.UsageError):
    """There is no such command; `hint` names the nearest."""

    def __init__(self, name: str, near: Sequence[str], context: click.Context) -> None:
        self.hint = f"did you mean {near[0]!r}?" if near else f"see `{PROGRAM} --help`"
        super().__init__(f"no command {name!r}", context)


def _extension_command(name: str) -> click.Command | None:
    """Return a command of that name that a third party's plugin brings."""
    from calico_engine.plugin import PluginRegistry, installed

    registry = PluginRegistry()
    for info in installed():
        if info.built_in:
            continue
        try:
            for command in registry.commands(info.family, info.name):
                if command.name == name:
                    return command
        except Exception as error:
            click.echo(f"warning: commands of {info.family}:{info.name}: {error}", err=True)
    return None


@click.group(
    name=PROGRAM,
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option("--debug", is_flag=True, help="Show the traceback of an error, and debug messages.")
@click.version_option(None, "--version", package_name="calico-engine", prog_name=PROGRAM)
def app(debug: bool) -> None:
    """A Calico node agent assembled from plugins.

    Every command that answers takes `-o json`. Exit codes: 0 done or yes, 1 failed or no, 2 wrong command line,
    3 no engine running here, 4 wrong profile, setting or plugin.
    """
    if debug:
        import logging

        logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)


def run_program(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code; whatever goes wrong is one line on standard error."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = app.main(given, prog_name=PROGRAM, standalone_mode=False)
        sys.stdout.flush()
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has seen enough. Python would complain again when it flushes at exit.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return EXIT_USAGE
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else PROGRAM
        return _say(error.format_message(), getattr(error, "hint", f"see `{path} --help`"), EXIT_USAGE)
    except click.ClickException as error:
        return _say(error.format_message(), "", EXIT_FAILED)
    except Exception as error:
        return _report(error, debug="--debug" in given)
    return code if isinstance(code, int) else EXIT_OK


def _report(error: Exception, *, debug: bool) -> int:
    """Print an error as one line and a hint; return its exit code."""
    from calico_engine.cli.client import NotRunningError
    from calico_engine.errors import CalicoEngineError, ConfigError, PluginError

    if debug:
        import traceback

        traceback.print_exception(error)
    hint = str(getattr(error, "hint", "") or "")
    text = str(error).removesuffix(f"({hint})")
    if isinstance(error, NotRunningError):
        return _say(text, hint, EXIT_NOT_RUNNING)
    if isinstance(error, ConfigError | PluginError):
        return _say(text, hint, EXIT_CONFIG)
    if isinstance(error, CalicoEngineError | OSError):
        return _say(text, hint, EXIT_FAILED)
    return _say(
        f"{type(error).__name__}: {text}", f"this is a bug; `{PROGRAM} --debug ...` shows where", EXIT_FAILED
    )


def _say(text: str, hint: str, code: int) -> int:
    """Print an error in one line and its hint in another; return the exit code."""
    from calico_engine.cli.output import printable

    for name, sentence in (("error", text), ("hint", hint)):
        line = printable(" ".join(sentence.split()))
        if line:
            click.echo(
                f"{name}: {line if len(line) <= _LONGEST_LINE else line[:_LONGEST_LINE] + '...'}", err=True
            )
    return code
