"""Learn which files changed: inotify through watchdog, and a slow look at everything beside it or instead of it.

Events arrive on watchdog's thread and are only noted. A file is due for reading once its writer closed it or renamed it
into place: the first at once, those that follow closely a little later and together. A file written to and not closed,
and a file that vanished, get more time, because that is what an editor's save looks like half-way.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from watchdog.events import (
    DirCreatedEvent,
    DirDeletedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileModifiedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver

from calico_engine_file.config import FileConfig
from calico_engine_file.scanning import is_manifest, is_visible

_EVENTS: list[type[FileSystemEvent]] = [
    FileCreatedEvent,
    FileModifiedEvent,
    FileClosedEvent,
    FileMovedEvent,
    FileDeletedEvent,
    DirCreatedEvent,
    DirMovedEvent,
    DirDeletedEvent,
]
#: A file that is written to all the time is read this often all the same.
_LONGEST_WAIT_S = 10.0


class Agenda:
    """Which files are due for reading, and when. Filled from any thread, emptied by the event loop of `loop`."""

    def __init__(self, config: FileConfig, loop: asyncio.AbstractEventLoop) -> None:
        self._config = config
        self._loop = loop
        self._lock = threading.Lock()
        self._due_s: dict[str, tuple[float, float]] = {}
        self._everything_due_s: float | None = None
        self._noted_s = float("-inf")
        self._event = asyncio.Event()
        self._woken = False

    def note_written(self, path: str) -> None:
        self._note(path, self._config.debounce_ms)

    def note_complete(self, path: str) -> None:
        """A whole file stands under its name: due at once, unless it is one of several that change now."""
        with self._lock:
            quiet = time.monotonic() - self._noted_s > self._config.debounce_ms / 1000
        self._note(path, 0 if quiet else self._config.debounce_ms)

    def note_unfinished(self, path: str) -> None:
        self._note(path, self._config.unfinished_ms)

    def note_vanished(self, path: str) -> None:
        self._note(path, self._config.vanished_ms)

    def note_missing(self, path: str) -> None:
        """As `note_vanished`, but by somebody who says so again and again."""
        with self._lock:
            if path in self._due_s:
                return
        self.note_vanished(path)

    def note_everything(self) -> None:
        """A directory came, went or moved: look at the whole tree."""
        with self._lock:
            self._noted_s = time.monotonic()
            self._everything_due_s = self._noted_s + self._config.debounce_ms / 1000
        self._signal()

    def wake(self) -> None:
        """Let `wait` return at once."""
        self._woken = True
        self._signal()

    def _signal(self) -> None:
        # The loop may be closed by now, when watchdog's thread has the last word.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._event.set)

    def _note(self, path: str, wait_ms: int) -> None:
        now_s = time.monotonic()
        with self._lock:
            _, first_s = self._due_s.get(path, (0.0, now_s))
            due_s = min(now_s + wait_ms / 1000, first_s + max(_LONGEST_WAIT_S, wait_ms / 1000))
            self._due_s[path] = (due_s, first_s)
            self._noted_s = now_s
        self._signal()

    async def wait(self, timeout_s: float) -> None:
        """Return when something is due, when woken, or after `timeout_s`."""
        end_s = time.monotonic() + timeout_s
        while True:
            self._event.clear()
            if self._woken:
                self._woken = False
                return
            with self._lock:
                times_s = [due_s for due_s, _ in self._due_s.values()]
                if self._everything_due_s is not None:
                    times_s.append(self._everything_due_s)
            now_s = time.monotonic()
            next_s = min([end_s, *times_s])
            if next_s <= now_s:
                return
            try:
                async with asyncio.timeout(next_s - now_s):
                    await self._event.wait()
            except TimeoutError:
                continue

    def take(self) -> tuple[list[str], bool]:
        """Return the files that are due, in path order, and whether the whole tree is."""
        now_s = time.monotonic()
        with self._lock:
            paths = sorted(path for path, (due_s, _) in self._due_s.items() if due_s <= now_s)
            for path in paths:
                del self._due_s[path]
            everything = self._everything_due_s is not None and self._everything_due_s <= now_s
            if everything:
                self._everything_due_s = None
        return paths, everything


def directory_identity(root: Path) -> tuple[int, int] | None:
    """Return what tells a directory from another one in its place; None when there is none that can be listed."""
    try:
        with os.scandir(root):
            status = root.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


class TreeWatch(FileSystemEventHandler):
    """inotify on a directory tree, told to any number of agendas."""

    def __init__(self, root: Path) -> None:
        self._root = os.path.realpath(root)
        self.identity = directory_identity(root)
        self._agendas: list[Agenda] = []
        self._observer: BaseObserver | None = None

    def start(self) -> None:
        """Begin. Raises: OSError when inotify is exhausted or the directory is gone."""
        observer = Observer()
        observer.schedule(self, self._root, recursive=True, event_filter=_EVENTS)
        try:
            observer.start()
        except OSError:
            observer.unschedule_all()
            raise
        self._observer = observer

    def stop(self) -> None:
        if self._observer is not None:
            self._observer.stop()
            self._observer.join()
            self._observer = None

    def add(self, agenda: Agenda) -> None:
        self._agendas = [*self._agendas, agenda]

    def remove(self, agenda: Agenda) -> None:
        self._agendas = [other for other in self._agendas if other is not agenda]

    @property
    def agendas(self) -> list[Agenda]:
        return self._agendas

    def on_any_event(self, event: FileSystemEvent) -> None:
        """Called on watchdog's thread."""
        if event.event_type == "modified":
            self._tell(event, str(event.src_path), Agenda.note_unfinished)
        elif event.event_type == "created":
            self._tell(event, str(event.src_path), Agenda.note_written)
        elif event.event_type == "closed":
            self._tell(event, str(event.src_path), Agenda.note_complete)
        elif event.event_type == "deleted":
            self._tell(event, str(event.src_path), Agenda.note_vanished)
        elif event.event_type == "moved":
            self._tell(event, str(event.src_path), Agenda.note_vanished)
            self._tell(event, str(event.dest_path), Agenda.note_complete)

    def _tell(self, event: FileSystemEvent, path: str, note: Callable[[Agenda, str], None]) -> None:
        relative = os.path.relpath(path, self._root) if path else ""
        name = Path(relative).name
        for agenda in self._agendas:
            if event.is_directory or name == "..data":
                # Kubernetes swaps the link "..data" to replace a volume's files all at once.
                if relative == "." or name == "..data" or is_visible(relative):
                    agenda.note_everything()
            elif is_manifest(name) and is_visible(relative):
                note(agenda, relative)
