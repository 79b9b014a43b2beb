"""`calico-engine run`: this node's engine, in the foreground."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import click

from calico_engine.cli import EXIT_OK
from calico_engine.cli.options import node_option, profile_option, run_dir_option, set_option

if TYPE_CHECKING:
    from calico_engine.engine import Engine


@click.command()
@profile_option
@node_option(required=False)
@set_option
@click.option(
    "--manifests",
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False),
    help="Directory of the datastore `file`; short for --set options.file.path=DIR.",
)
@run_dir_option
@click.option(
    "--state-dir",
    metavar="DIR",
    default="",
    envvar="CALICO_ENGINE_STATE_DIR",
    show_envvar=True,
    help="Where the engine keeps what is to outlive a reboot, such as manifests' last good versions. "
    "[default: the profile's engine.state_dir, else /var/lib/calico-engine, or state/ in a --run-dir of your own]",
)
@click.option(
    "--once", is_flag=True, help="Exit when everything has been applied once; the kernel stays as it is."
)
@click.option(
    "--timeout",
    "timeout_s",
    type=float,
    default=60.0,
    show_default=True,
    help="With --once: seconds to wait.",
)
def run(
    profile: str,
    node: str,
    overrides: tuple[str, ...],
    manifests: str | None,
    run_dir: str,
    state_dir: str,
    once: bool,
    timeout_s: float,
) -> int:
    """Run this node's engine.

    SIGTERM and ctrl-C stop it and leave the kernel as it is; `calico-engine cleanup` removes what it made. SIGHUP reads
    the profile again.
    """
    from calico_engine.engine.daemon import make_engine, run_daemon

    if manifests is not None:
        overrides = (*overrides, f"options.file.path={_toml_text(manifests)}")
    engine = make_engine(profile, overrides=overrides, node=node, run_dir=run_dir, state_dir=state_dir)
    asyncio.run(_run_once(engine, timeout_s) if once else run_daemon(engine))
    return EXIT_OK


def _toml_text(text: str) -> str:
    import json

    return json.dumps(text)


async def _run_once(engine: Engine, timeout_s: float) -> None:
    """Run until everything has been applied. Raises: what the engine raises; UnavailableError after the timeout."""
    from calico_engine.engine.daemon import run_daemon
    from calico_engine.engine.tasks import TaskSet
    from calico_engine.errors import UnavailableError

    late: list[str] = []

    async def stop_when_applied() -> None:
        try:
            await engine.wait_applied(timeout_s)
        except TimeoutError:
            late.extend(part.detail or part.part for part in engine.health() if not part.ready)
            late.append("")
        engine.request_stop()

    tasks = TaskSet(lambda _, error: late.append(str(error)))
    tasks.start("once", stop_when_applied())
    try:
        await run_daemon(engine)
    finally:
        await tasks.cancel_all()
    if late:
        raise UnavailableError(
            f"not everything was applied within {timeout_s:g} s: {'; '.join(filter(None, late))}"
        )
