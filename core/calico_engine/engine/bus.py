"""One timeline of Events: the engine publishes, parts of it and the plugins' hooks listen."""

from __future__ import annotations

import logging
from collections.abc import Callable

from calico_engine.engine.events import Event
from calico_engine.plugin.registry import PluginRegistry

log = logging.getLogger(__name__)

Listener = Callable[[Event], None]


class EventBus:
    """Publishes to listeners in the order they subscribed, then to hooks. A failure stops nobody else.

    Events published while one is being delivered are delivered after it, so that all see one order.
    """

    def __init__(self, registry: PluginRegistry) -> None:
        self._registry = registry
        self._listeners: list[Listener] = []
        self._queue: list[Event] = []
        self._delivering = False

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` with every Event from now on; returns what ends that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def publish(self, event: Event) -> None:
        """Deliver an event. Call it on the engine's loop. Never raises."""
        self._queue.append(event)
        if self._delivering:
            return
        self._delivering = True
        try:
            while self._queue:
                self._deliver(self._queue.pop(0))
        finally:
            self._delivering = False

    def _deliver(self, event: Event) -> None:
        for listener in tuple(self._listeners):
            try:
                listener(event)
            except Exception:  # the bus's isolation point
                log.exception("listener failed on %s", type(event).__name__)
        arguments = {name: getattr(event, name) for name in event.__struct_fields__}
        for failure in self._registry.notify(event.HOOK, arguments):
            log.error("hook failed: %s of %s", failure.hook, failure.plugin, exc_info=failure.error)
