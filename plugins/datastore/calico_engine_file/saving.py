"""Writes last good versions to disk beside the work: in a thread of its own, a moment after they were read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from calico_engine.errors import DatastoreError
from calico_engine_file.catalogue import Catalogue
from calico_engine_file.last_good import LastGood, printable
from calico_engine_file.memory import Memory

SUBJECT = "last good versions"
_LOSS = "a manifest that is broken at the next start will not be in force"
_TOLD = 5


class Saver:
    """Of one store. A save that fails is tried again with the next one."""

    def __init__(
        self, catalogue: Catalogue, memory: Memory, log: LastGood, report: Callable[[str, str], None]
    ) -> None:
        self._catalogue = catalogue
        self._memory = memory
        self._log = log
        self._report = report
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="last-good")
        self._pending: asyncio.Future[None] | None = None
        self._too_large: set[str] = set()
        self._told = ""

    def start(self) -> None:
        """Save soon, unless that is under way or there is nothing."""
        if self._memory.has_unsaved and (self._pending is None or self._pending.done()):
            self._pending = asyncio.get_running_loop().run_in_executor(self._worker, self._save)

    async def finish(self) -> None:
        """Return once what is known by now is on disk, or cannot be."""
        await asyncio.get_running_loop().run_in_executor(self._worker, self._save)

    def _save(self) -> None:
        while self._memory.has_unsaved:
            with self._catalogue.lock:
                paths = self._memory.take_unsaved()
                if not self._log.is_there():
                    paths |= self._catalogue.all_paths()
                records = {printable(path): self._catalogue.record(path) for path in paths}
            try:
                refused = self._log.write({path: record for path, record in records.items() if record})
            except DatastoreError as error:
                with self._catalogue.lock:
                    self._memory.give_back(paths)
                self._tell(f"{SUBJECT} cannot be kept ({error}): {_LOSS}")
                return
            self._too_large = (self._too_large - records.keys()) | set(refused)
            names = ", ".join(sorted(self._too_large)[:_TOLD])
            self._tell(f"{SUBJECT} are not kept of {names}: too large altogether: {_LOSS}" if names else "")

    def _tell(self, text: str) -> None:
        if text != self._told:
            self._told = text
            self._report(SUBJECT, text)
