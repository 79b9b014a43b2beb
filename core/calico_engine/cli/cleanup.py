"""`calico-engine cleanup`: remove everything of ours from the kernel."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from calico_engine.cli import EXIT_FAILED, EXIT_OK
from calico_engine.cli.options import profile_option, run_dir_option, set_option
from calico_engine.cli.output import output_option, print_json, print_table, progress, warn

if TYPE_CHECKING:
    from calico_engine.engine.choice import Choice
    from calico_engine.engine.profile import EngineProfile


@click.command()
@profile_option
@set_option
@run_dir_option
@click.option("--yes", is_flag=True, help="Do not ask.")
@output_option
def cleanup(profile: str, overrides: tuple[str, ...], run_dir: str, yes: bool, output: str) -> int:
    """Remove everything that an engine of this profile left in the kernel: rules, sets, routes; and the dataplane that
    `switch` has chosen in place of the profile's.

    Policy is no longer enforced after that, and endpoints lose their connection. Refused while an engine runs.
    Lock files in the run directory stay, and kernel parameters (sysctls) as they are.

    JSON: {"removed": {PLUGIN: number}, "errors": {PLUGIN: text}}
    """
    from calico_engine.engine.choice import Choice, ChoiceFile
    from calico_engine.engine.control import SOCKET_NAME
    from calico_engine.engine.profile import load_profile
    from calico_engine.engine.run_lock import RunLock
    from calico_engine.errors import CalicoEngineError, ConfigError

    chosen = load_profile(profile, overrides=overrides)
    if not yes and not sys.stdin.isatty():
        raise click.UsageError("there is no terminal to ask on: add --yes")
    lock = RunLock(Path(run_dir))
    try:
        lock.acquire()
    except ConfigError as error:
        raise CalicoEngineError(str(error)) from error
    try:
        if not yes:
            click.confirm(
                f"Remove the rules, sets and routes of profile {chosen.name} from this machine's kernel?",
                abort=True,
                err=True,
            )
        file = ChoiceFile(Path(run_dir))
        switched, errors = _with_switched(chosen, file.read())
        with progress("removing"):
            removed, failed = asyncio.run(_clean(switched, run_dir))
        errors |= failed
        if not errors:
            file.write(Choice())
        # The lock says that nobody listens: an engine that was killed left it.
        (Path(run_dir) / SOCKET_NAME).unlink(missing_ok=True)
    finally:
        lock.release()
    if output == "json":
        print_json({"removed": removed, "errors": errors})
    else:
        print_table(["plugin", "removed"], [[name, str(count)] for name, count in removed.items()])
        for name, text in errors.items():
            warn(f"{name}: {text}")
    return EXIT_FAILED if errors else EXIT_OK


def _with_switched(profile: EngineProfile, choice: Choice) -> tuple[EngineProfile, dict[str, str]]:
    """Return the profile with what else may be in the kernel, and what of that is not installed any more."""
    from calico_engine.plugin import PluginRegistry

    owed = [n for n in (*(choice.chosen or ()), *choice.discard) if n not in profile.dataplane]
    installed = PluginRegistry().names("dataplane")
    gone = {f"dataplane:{name}": "it is not installed" for name in owed if name not in installed}
    there = tuple(dict.fromkeys(name for name in owed if name in installed))
    return msgspec.structs.replace(profile, dataplane=(*profile.dataplane, *there)), gone


async def _clean(profile: EngineProfile, run_dir: str) -> tuple[dict[str, int], dict[str, str]]:
    """Have every plugin clean up, what is referred to last; one that fails does not keep the others from it."""
    from calico_engine.engine.assembly import Assembly, Surroundings
    from calico_engine.engine.metrics import EngineMetrics
    from calico_engine.engine.settings import SettingsResolver
    from calico_engine.errors import CalicoEngineError
    from calico_engine.kernel.probe import kernel_families
    from calico_engine.plugin import PluginRegistry

    resolved = SettingsResolver(profile.felix, os.environ).resolve({}, {})
    # What an earlier run with IPv6 left goes too.
    settings = msgspec.structs.replace(resolved, ipv6_support=True)
    surroundings = Surroundings(
        node="",
        run_dir=run_dir,
        settings=lambda: settings,
        families=kernel_families(),
        request_apply=lambda _: None,
        notify=lambda note: warn(f"{note.plugin}: {note.message}") if note.kind == "warning" else None,
        metrics=EngineMetrics(),
    )
    removed: dict[str, int] = {}
    errors: dict[str, str] = {}
    for member in reversed(Assembly(profile, PluginRegistry(), surroundings).make_members()):
        try:
            removed[member.full_name] = await member.plugin.cleanup()
        except (CalicoEngineError, OSError) as error:
            errors[member.full_name] = str(error)
        finally:
            await member.plugin.close()
    return removed, errors
