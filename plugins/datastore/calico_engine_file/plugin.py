"""The datastore `file`: a directory of manifests that people edit and programs compare-and-set."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

from calico_engine.errors import UnavailableError
from calico_engine.model import Resource, ResourceKey
from calico_engine.plugin.protocols import Notification, PluginContext, StatusReport, SyncStatus, Update
from calico_engine_file.catalogue import Catalogue
from calico_engine_file.config import FileConfig, WatchMode
from calico_engine_file.last_good import LastGood, printable
from calico_engine_file.memory import Memory
from calico_engine_file.saving import Saver
from calico_engine_file.store import Store
from calico_engine_file.watching import Agenda, TreeWatch, directory_identity

log = logging.getLogger(__name__)

T = TypeVar("T")

#: So many files are read, and so many updates handed over, at a time.
_SLICE = 500
#: A file that changed so long ago inotify would have told by now: longer than the longest wait of watching.py.
_OVERDUE_S = 15.0


class FileDatastore:
    """Implements `calico_engine.plugin.protocols.Datastore` on a directory of manifests."""

    def __init__(
        self,
        config: FileConfig,
        *,
        name: str = "file",
        notify: Callable[[Notification], None] | None = None,
        state_dir: str = "",
    ) -> None:
        """state_dir: where last good versions are kept for the next start; "" for nowhere."""
        self.root = Path(config.path)
        self._config = config
        self._name = name
        self._notify = notify
        self._loop: asyncio.AbstractEventLoop | None = None
        self._problems: dict[str, str] = {}
        log_ = LastGood(Path(state_dir, name), self.root) if state_dir else None
        self._memory = Memory(log_)
        self._catalogue = Catalogue(self.root, config.max_file_bytes, self._report, self._memory)
        self._saver = Saver(self._catalogue, self._memory, log_, self._report) if log_ else None
        self._store = Store(self._catalogue, config)
        # One of its own: a writer that waits for another process must not use up everybody's threads.
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"datastore-{name}")
        self._tree: TreeWatch | None = None
        self._tree_lock = threading.Lock()
        self._agendas: list[Agenda] = []
        self._closed = False

    @classmethod
    def from_context(cls, context: PluginContext, config: FileConfig) -> FileDatastore:
        return cls(config, name=context.name, notify=context.notify, state_dir=context.state_dir)

    @property
    def problems(self) -> dict[str, str]:
        """What is wrong with the manifests now: subject -> sentence."""
        return dict(self._problems)

    @property
    def files_read(self) -> int:
        """How many times a file has been read so far."""
        return self._catalogue.files_read

    def _report(self, subject: str, text: str) -> None:
        """Take note of a problem, or of its end, and tell the engine on its own thread."""
        subject, text = printable(subject), printable(text)
        if text:
            self._problems[subject] = text
        elif self._problems.pop(subject, None) is None:
            return
        message = text or f"{subject.strip('#=~')}: in order again"
        loop = self._loop
        if self._notify is None or loop is None or loop.is_closed():
            log.log(logging.WARNING if text else logging.INFO, "%s", message)
        else:
            word = Notification(plugin=self._name, kind="warning" if text else "info", message=message)
            loop.call_soon_threadsafe(self._notify, word)

    async def _locked(self, work: Callable[[], T]) -> T:
        """Run `work` in a thread, alone with the catalogue."""
        self._loop = asyncio.get_running_loop()

        def run() -> T:
            with self._catalogue.lock:
                return work()

        return await self._loop.run_in_executor(self._worker, run)

    async def get(self, key: ResourceKey) -> Resource:
        """Return the resource as it is on disk now. Raises: NotFoundError, DatastoreError when it is not valid."""
        return await self._locked(partial(self._store.get, key))

    async def list(self, kind: str, namespace: str = "") -> Sequence[Resource]:
        """Return all valid resources of a kind, in the order of their keys."""
        return await self._locked(partial(self._store.list, kind, namespace))

    async def put(self, resource: Resource, *, expect_revision: str | None = None) -> Resource:
        """Write the resource to the file that holds it, or to `<plural>/[<namespace>/]<name>.yaml`.

        Raises: ConflictError, ValidationError, EditError (no program can edit that file), UnavailableError.
        """
        return await self._locked(partial(self._store.put, resource, expect_revision))

    async def delete(self, key: ResourceKey, *, expect_revision: str | None = None) -> None:
        """Remove the resource from every file that holds it, and files that hold nothing else.

        Raises: NotFoundError, ConflictError, EditError, UnavailableError.
        """
        await self._locked(partial(self._store.delete, key, expect_revision))

    async def report_status(self, report: StatusReport) -> None:
        """Write `.status/<node>.json`, which the watch does not look at."""
        await asyncio.to_thread(self._store.write_status, report)

    async def close(self) -> None:
        """End every watch; have on disk what is to be remembered."""
        self._closed = True
        for agenda in self._agendas:
            agenda.wake()
        await self.save()

    async def save(self) -> None:
        """Return once the last good versions that are known by now are on disk."""
        if self._saver is not None:
            await self._saver.finish()

    def _save_soon(self) -> None:
        if self._saver is not None:
            self._saver.start()

    async def watch(self) -> AsyncIterator[Sequence[Update] | SyncStatus]:
        """Yield what the directory says, and then every change. See protocols.Datastore.watch."""
        self._loop = asyncio.get_running_loop()
        watcher = _Watcher(self._catalogue)
        agenda = Agenda(self._config, self._loop)

        def listen(keys: set[ResourceKey]) -> None:
            watcher.note(keys)
            agenda.wake()

        self._agendas.append(agenda)
        self._catalogue.listeners.append(listen)
        try:
            while not self._closed:
                async for step in self._session(watcher, agenda):
                    yield step
        finally:
            self._catalogue.listeners.remove(listen)
            self._agendas.remove(agenda)
            await asyncio.to_thread(self._unwatch_tree, agenda)

    async def _session(
        self, watcher: _Watcher, agenda: Agenda
    ) -> AsyncIterator[Sequence[Update] | SyncStatus]:
        """One connection, as it were: until the directory is gone or another one is in its place."""
        identity = await asyncio.to_thread(directory_identity, self.root)
        if identity is None:
            yield SyncStatus.WAIT_FOR_DATASTORE
            identity = await self._wait_for_root(agenda)
            if identity is None:
                return
        yield SyncStatus.RESYNC
        interval_s = await asyncio.to_thread(self._watch_tree, agenda)
        try:
            async for updates in self._read_everything(watcher):
                yield updates
            yield SyncStatus.IN_SYNC
            async for updates in self._follow(watcher, agenda, identity, interval_s):
                yield updates
        except UnavailableError as error:
            log.info("%s", error)  # what comes next reports it
        await asyncio.to_thread(self._unwatch_tree, agenda)

    async def _wait_for_root(self, agenda: Agenda) -> tuple[int, int] | None:
        """Return once the directory is there; None when the store was closed."""
        self._report(str(self.root), f"{self.root}: the directory is not there; waiting for it")
        while not self._closed:
            identity = await asyncio.to_thread(directory_identity, self.root)
            if identity is not None:
                self._report(str(self.root), "")
                return identity
            await agenda.wait(min(self._config.poll_s, 0.5))
            agenda.take()
        return None

    async def _read_everything(self, watcher: _Watcher) -> AsyncIterator[Sequence[Update]]:
        """Bring all files up to date, a slice at a time. Raises: UnavailableError."""
        await self._locked(watcher.note_all)
        if not self._catalogue.loaded:
            await self._locked(self._load_memory)
        stale, gone = await self._locked(self._catalogue.scan)
        for start in range(0, len(stale), _SLICE):
            await self._locked(partial(self._catalogue.refresh, stale[start : start + _SLICE]))
            while updates := await self._locked(partial(watcher.take, _SLICE)):
                yield updates
        await self._locked(partial(self._catalogue.refresh, gone))
        await self._locked(self._catalogue.settle)
        while updates := await self._locked(partial(watcher.take, _SLICE)):
            yield updates
        self._save_soon()

    def _load_memory(self) -> None:
        try:
            self._memory.load()
        except OSError as error:
            self._report("last good versions", f"last good versions cannot be read: {error}")

    async def _follow(
        self, watcher: _Watcher, agenda: Agenda, identity: tuple[int, int], interval_s: float
    ) -> AsyncIterator[Sequence[Update]]:
        """Yield changes until closed. Raises: UnavailableError when the directory is gone or replaced."""
        look_at_all_s = time.monotonic() + interval_s
        while not self._closed:
            await agenda.wait(min(look_at_all_s - time.monotonic(), self._config.poll_s))
            paths, everything = agenda.take()
            await self._locked(partial(self._catalogue.refresh, paths))
            if await asyncio.to_thread(directory_identity, self.root) != identity:
                raise UnavailableError(f"{self.root}: the directory is gone; its resources stay as they were")
            if everything or time.monotonic() >= look_at_all_s:
                stale, gone = await self._locked(self._catalogue.scan)
                if not everything and interval_s > self._config.poll_s:
                    late = await self._locked(partial(self._catalogue.overdue, stale, _OVERDUE_S))
                    if late:
                        self._report(
                            "inotify", f"{late[0]} has changed and inotify did not tell; {self._polling}"
                        )
                        interval_s = self._config.poll_s
                await self._locked(partial(self._catalogue.refresh, stale))
                for path in gone:
                    agenda.note_missing(path)
                look_at_all_s = time.monotonic() + interval_s
            self._save_soon()
            while updates := await self._locked(partial(watcher.take, _SLICE)):
                yield updates

    def _watch_tree(self, agenda: Agenda) -> float:
        """Have inotify feed the agenda; return how often to look at everything all the same."""
        if self._config.watch is WatchMode.POLL:
            return self._config.poll_s
        with self._tree_lock:
            if self._tree is None or self._tree.identity != directory_identity(self.root):
                tree = TreeWatch(self.root)
                try:
                    tree.start()
                except OSError as error:
                    self._report(
                        "inotify",
                        f"inotify cannot be used ({error}); {self._polling}; to have it back"
                        " raise fs.inotify.max_user_watches and fs.inotify.max_user_instances",
                    )
                    return self._config.poll_s
                if self._tree is not None:
                    for other in self._tree.agendas:
                        tree.add(other)
                    self._tree.stop()
                self._tree = tree
            self._tree.add(agenda)
        return self._config.rescan_s

    @property
    def _polling(self) -> str:
        return f"looking at the files every {self._config.poll_s:g} s"

    def _unwatch_tree(self, agenda: Agenda) -> None:
        with self._tree_lock:
            if self._tree is not None:
                self._tree.remove(agenda)
                if not self._tree.agendas:
                    self._tree.stop()
                    self._tree = None


class _Watcher:
    """What one consumer of `watch` was told, and which keys it may have to be told anew. Guarded by the catalogue's
    lock."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._dirty: set[ResourceKey] = set()
        self._said: dict[ResourceKey, str] = {}

    def note(self, keys: set[ResourceKey]) -> None:
        self._dirty |= keys

    def note_all(self) -> None:
        """Compare everything that there is with what was said."""
        self._dirty.update(self._catalogue.sorted_keys())

    def take(self, limit: int) -> list[Update]:
        """Return at most `limit` updates of what differs from what was said; empty when there is nothing to say."""
        updates: list[Update] = []
        for key in sorted(self._dirty):
            if len(updates) >= limit:
                break
            self._dirty.discard(key)
            update = self._update(key)
            if update is not None:
                updates.append(update)
        return updates

    def _update(self, key: ResourceKey) -> Update | None:
        held = self._catalogue.held(key)
        if held is None:
            return None if self._said.pop(key, None) is None else Update(key, None)
        entry = held.entry
        word = entry.revision or f"!{entry.error}"
        if self._said.get(key) == word:
            return None
        self._said[key] = word
        return Update(key, entry.resource, "" if entry.resource else entry.error, checked=True)
