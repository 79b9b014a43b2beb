"""Keeps orchestrator plugins serving."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from calico_engine.engine.events import Event, PluginFailed
from calico_engine.plugin.hookspecs import Orchestrator

log = logging.getLogger(__name__)

_RETRY_S = 1.0
_RETRY_MAX_S = 30.0


async def serve_for_ever(name: str, orchestrator: Orchestrator, publish: Callable[[Event], None]) -> None:
    """Have a plugin serve; one that fails is started again, ever later. Policy goes on meanwhile."""
    delay_s = _RETRY_S
    while True:
        try:
            await orchestrator.serve()
            error = "it ended; it must serve for ever"
        except Exception as raised:  # noqa: BLE001  # isolation: scheduling stands still, policy does not
            error = f"{type(raised).__name__}: {raised}"
        log.error("orchestrator:%s failed, starting it again in %.0f s: %s", name, delay_s, error)
        publish(PluginFailed(plugin=f"orchestrator:{name}", phase="serve", error=error))
        await asyncio.sleep(delay_s)
        delay_s = min(delay_s * 2, _RETRY_MAX_S)
