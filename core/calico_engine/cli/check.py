"""`calico-engine check`: can this machine run an engine, and if not, what is to be done?"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from calico_engine.cli import EXIT_FAILED, EXIT_OK
from calico_engine.cli.options import run_dir_option, set_option
from calico_engine.cli.output import output_option, print_json, print_table, progress

if TYPE_CHECKING:
    from calico_engine.engine.profile import EngineOptions, EngineProfile
    from calico_engine.plugin import Capability


@click.command()
@click.option(
    "--profile", default="", help="Check for this profile only; for every installed plugin unless given."
)
@set_option
@run_dir_option
@output_option
def check(profile: str, overrides: tuple[str, ...], run_dir: str, output: str) -> int:
    """Can this machine run an engine? Exit code 1 when something that is required is missing.

    Kernel features are tried in a network namespace made for it; nothing else is changed.

    JSON: [{"plugin", "name", "ok", "required", "needed_for", "detail", "remedy"}]
    """
    from calico_engine.engine.profile import load_profile

    chosen = load_profile(profile, overrides=overrides) if profile else None
    with progress("trying what the kernel can do"):
        found = list(_capabilities(chosen, run_dir))
    missing = [name for name, capability in found if capability.required and not capability.ok]
    if output == "json":
        fields = ("name", "ok", "required", "needed_for", "detail", "remedy")
        print_json([{"plugin": name, **{field: getattr(c, field) for field in fields}} for name, c in found])
    else:
        print_table(
            ["for", "what", "", "why", "detail", "remedy"],
            [[name, c.name, _word(c), c.needed_for, c.detail, "" if c.ok else c.remedy] for name, c in found],
        )
        click.echo(f"{len(missing)} required capabilities are missing" if missing else "this machine is able")
    return EXIT_FAILED if missing else EXIT_OK


def _word(capability: Capability) -> str:
    if capability.ok:
        return "ok"
    return "missing" if capability.required else "not there"


def _capabilities(profile: EngineProfile | None, run_dir: str) -> Iterator[tuple[str, Capability]]:
    """Yield (whose, what) for the engine itself and for every plugin that is asked for."""
    from calico_engine.engine.profile import EngineOptions
    from calico_engine.errors import PluginError
    from calico_engine.plugin import Capability, PluginRegistry, installed

    options = profile.engine if profile else EngineOptions()
    for capability in _own_capabilities(run_dir, options):
        yield "engine", capability
    registry = PluginRegistry()
    plugins = profile.selected() if profile else [(info.family, info.name) for info in installed()]
    for family, name in plugins:
        try:
            for capability in registry.checks(family, name):
                yield f"{family}:{name}", capability
        except PluginError as error:
            needed = f"{family} plugin {name}"
            yield (
                f"{family}:{name}",
                Capability(
                    name="loads", ok=False, needed_for=needed, detail=str(error), required=profile is not None
                ),
            )


def _own_capabilities(run_dir: str, options: EngineOptions) -> Iterator[Capability]:
    from calico_engine import fastpath
    from calico_engine.engine.directories import state_directory
    from calico_engine.plugin import Capability

    yield Capability(
        name="python",
        ok=sys.version_info >= (3, 11),
        needed_for="everything",
        detail=platform.python_version(),
    )
    yield Capability(
        name="linux", ok=sys.platform == "linux", needed_for="the kernel", detail=platform.release()
    )
    yield Capability(
        name="root",
        ok=os.geteuid() == 0,
        needed_for="changing the kernel's tables; render, explain and validate do without",
        remedy="run as root, or in a user namespace (`calico-engine lab`)",
    )
    yield Capability(
        name="fast path in C",
        ok=fastpath.backend() == "native",
        needed_for="speed with many endpoints",
        remedy="install a C compiler and Python's headers, then reinstall",
        detail=fastpath.backend(),
        required=False,
    )
    yield _writable(Path(run_dir), "the engine's lock and socket", "give another --run-dir")
    yield _writable(
        state_directory(run_dir, os.environ.get("CALICO_ENGINE_STATE_DIR"), options.state_dir),
        "manifests' last good versions, for the next start",
        "give another engine.state_dir, or --state-dir to `run`",
    )
    if options.plumbing:
        sysctls = Path("/proc/sys/net/ipv4/conf/all")
        yield Capability(
            name="writable /proc/sys/net",
            ok=os.access(sysctls / "proxy_arp", os.W_OK),
            needed_for="proxy ARP and the other parameters of endpoints' interfaces",
            remedy="run as root, and in a container as a privileged one",
        )
    for program, why in (("ip", "the lab"), ("modprobe", "loading kernel modules on demand")):
        yield Capability(
            name=f"program {program}",
            ok=shutil.which(program) is not None,
            needed_for=why,
            remedy=f"install {'iproute2' if program == 'ip' else 'kmod'}",
            required=False,
        )


def _writable(folder: Path, needed_for: str, remedy: str) -> Capability:
    from calico_engine.plugin import Capability

    nearest = next(parent for parent in (folder, *folder.parents) if parent.exists())
    return Capability(
        name=f"writable {folder}",
        ok=nearest.is_dir() and os.access(nearest, os.W_OK),
        needed_for=needed_for,
        remedy=remedy,
    )
