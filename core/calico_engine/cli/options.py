"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import click

from calico_engine.cli.client import DEFAULT_RUN_DIRECTORY

C = TypeVar("C", bound=Callable[..., object])

DEFAULT_PROFILE = "standalone"


def run_dir_option(command: C) -> C:
    return click.option(
        "--run-dir",
        default=DEFAULT_RUN_DIRECTORY,
        show_default=True,
        envvar="CALICO_ENGINE_RUN_DIR",
        show_envvar=True,
        help="Where the engine keeps its lock and its socket.",
    )(command)


def profile_option(command: C) -> C:
    return click.option(
        "--profile",
        default=DEFAULT_PROFILE,
        show_default=True,
        envvar="CALICO_ENGINE_PROFILE",
        show_envvar=True,
        help="Name or path of the engine profile; see `calico-engine profiles`.",
    )(command)


def set_option(command: C) -> C:
    return click.option(
        "--set",
        "overrides",
        multiple=True,
        metavar="KEY=VALUE",
        help="Change a key of the profile, e.g. felix.LogSeverityScreen=Debug. Can be given again.",
    )(command)


def node_option(*, required: bool) -> Callable[[C], C]:
    def add(command: C) -> C:
        return click.option(
            "--node",
            default=None if required else "",
            required=required,
            help="Name of the node."
            if required
            else "Name of this node; its host name unless NODENAME says else.",
        )(command)

    return add


def manifests_option(*, required: bool) -> Callable[[C], C]:
    def add(command: C) -> C:
        return click.option(
            "--manifests",
            required=required,
            type=click.Path(exists=True),
            metavar="PATH",
            help="A directory of manifests (YAML, JSON; v3 and v1), or one file.",
        )(command)

    return add
