"""Turns what the kernel says of links into Batches for the plugins."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from calico_engine.engine.applier import Applier
from calico_engine.engine.metrics import EngineMetrics
from calico_engine.engine.world import World
from calico_engine.errors import KernelError
from calico_engine.messages import Batch, InterfaceRemove, InterfaceUpdate

log = logging.getLogger(__name__)

_RETRY_S = 1.0
_RETRY_MAX_S = 30.0


class LinkFollower:
    """Follows the kernel's links for ever; a monitor that fails is made anew."""

    def __init__(
        self, world: World, applier: Applier, metrics: EngineMetrics, resync_interval_s: Callable[[], float]
    ) -> None:
        self._world = world
        self._applier = applier
        self._metrics = metrics
        self._resync_interval_s = resync_interval_s

    async def run(self) -> None:
        from calico_engine.kernel.links import LinkMonitor  # only where there is a kernel to follow

        delay_s = _RETRY_S
        while True:
            monitor = LinkMonitor(resync_interval_s=self._resync_interval_s())
            first = True
            try:
                async for messages in monitor.updates():
                    self._pass_on(messages, complete=first)
                    first = False
                    delay_s = _RETRY_S
            except (KernelError, OSError) as error:
                # Policy must not wait for links: what needs an interface waits for it by itself.
                self._applier.release()
                log.warning("links cannot be followed, trying again in %.0f s: %s", delay_s, error)
            await asyncio.sleep(delay_s)
            delay_s = min(delay_s * 2, _RETRY_MAX_S)

    def _pass_on(self, messages: Sequence[InterfaceUpdate | InterfaceRemove], *, complete: bool) -> None:
        """Hand on; a monitor's first word is all there is, so what it does not mention is gone."""
        known = self._world.interfaces
        if complete:
            told = {message.name for message in messages}
            gone = [InterfaceRemove(name=name) for name in known if name not in told]
            changed = [m for m in messages if not isinstance(m, InterfaceUpdate) or known.get(m.name) != m]
            messages = [*gone, *changed]
        if messages:
            self._metrics.observe("felix_int_dataplane_iface_msg_batch_size", len(messages))
            moved = sum(
                message.addresses != (known[message.name].addresses if message.name in known else ())
                for message in messages
                if isinstance(message, InterfaceUpdate)
            )
            if moved:
                self._metrics.observe("felix_int_dataplane_addr_msg_batch_size", moved)
            self._applier.on_batch(
                Batch(revision=self._world.revision, in_sync=self._world.in_sync, messages=tuple(messages))
            )
        if complete:
            self._applier.release()
