"""`calico-engine run`: an Engine with signals, logs and a profile that can be read again.

SIGTERM, SIGINT   stop; the dataplane stays as it is
SIGHUP            read the profile again: what can change does, what needs a restart is logged
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from calico_engine.engine import logs
from calico_engine.engine.directories import RUN_DIRECTORY
from calico_engine.engine.engine import Engine
from calico_engine.engine.environment import file_logging_allowed
from calico_engine.engine.events import ApplyFinished, Event
from calico_engine.engine.profile import EngineProfile, load_profile
from calico_engine.engine.settings import node_name
from calico_engine.errors import ConfigError
from calico_engine.settings import FelixSettings

log = logging.getLogger(__name__)

#: A thread that works lets the event loop go on after so long: it may have to wait at every system call. Python's
#: default is five times that, which makes stalls twice as long.
SWITCH_INTERVAL_S = 0.001


def make_engine(
    reference: str,
    *,
    overrides: Sequence[str] = (),
    node: str = "",
    run_dir: str | Path = RUN_DIRECTORY,
    state_dir: str | Path | None = None,
    environ: Mapping[str, str] | None = None,
) -> Engine:
    """Return an Engine for a profile's name or path. Raises: ConfigError, PluginError."""
    environ = dict(os.environ if environ is None else environ)

    def load() -> EngineProfile:
        return load_profile(reference, overrides=overrides)

    return Engine(
        load(),
        node or node_name(environ),
        run_dir=run_dir,
        state_dir=state_dir,
        environ=environ,
        load_profile=load,
    )


async def run_daemon(engine: Engine) -> None:
    """Run until SIGTERM. Raises: ConfigError, DataplaneStuckError."""
    loop = asyncio.get_running_loop()

    def reload() -> None:
        try:
            engine.reload_from_source()
        except ConfigError as error:
            log.error("profile not taken over, going on with the present one: %s", error)  # noqa: TRY400  # the text says it
        configure(engine.settings)

    def configure(settings: FelixSettings) -> None:
        # Felix writes its file by default; we only when somebody asked for one.
        to_file = engine.resolver.is_set_locally("LogFilePath") and file_logging_allowed(engine.environ)
        logs.configure(settings, log_format=engine.profile.engine.log_format, to_file=to_file)

    def settle(event: Event) -> None:
        # What the first load made stays for long: keep the garbage collector from walking it again and again.
        if isinstance(event, ApplyFinished) and engine.is_ready():
            unsubscribe()
            gc.freeze()

    configure(engine.settings)
    engine.on_settings(configure)
    unsubscribe = engine.bus.subscribe(settle)
    switch_interval_s = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    loop.add_signal_handler(signal.SIGTERM, engine.request_stop)
    loop.add_signal_handler(signal.SIGINT, engine.request_stop)
    loop.add_signal_handler(signal.SIGHUP, reload)
    try:
        await engine.run()
    finally:
        gc.unfreeze()
        sys.setswitchinterval(switch_interval_s)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.remove_signal_handler(number)
