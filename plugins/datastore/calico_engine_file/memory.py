"""What the catalogue knows from before its own life, and what of it is not on disk yet. Guarded by its lock."""

from __future__ import annotations

from calico_engine_file.last_good import LastGood, Remembered, printable
from calico_engine_file.manifest import Entry


class Memory:
    """Of one store. Without a log nothing is remembered and nothing is to be saved."""

    def __init__(self, log: LastGood | None) -> None:
        self.log = log
        self._known: dict[str, Remembered] = {}
        self._unsaved: set[str] = set()

    def load(self) -> None:
        """Read the log, before the first look at the manifests. Raises: OSError."""
        if self.log is not None:
            self._known = self.log.read()

    def paths_below(self, folders: tuple[str, ...]) -> list[str]:
        return [path for path in self._known if path.startswith(folders)]

    def recall(self, path: str) -> tuple[Entry, ...]:
        """Return what a file held when it was last in order; nothing where that is not known.

        Raises: ValidationError when that is not valid by today's rules.
        """
        known = self._known.get(printable(path))
        return known.entries() if known else ()

    def note(self, path: str, digest: str = "") -> None:
        """A file says something else now, or is gone. `digest`: of its bytes when all of it is in order."""
        known = self._known.get(printable(path))
        if self.log is not None and not (known and digest and known.digest == digest):
            self._unsaved.add(path)

    def settle(self, paths: set[str]) -> None:
        """All that is there has been read: what is not among `paths` is to be forgotten."""
        there = {printable(path) for path in paths}
        self._unsaved.update(path for path in self._known if path not in there)
        self._known = {}

    @property
    def has_unsaved(self) -> bool:
        return bool(self._unsaved)

    def take_unsaved(self) -> set[str]:
        paths, self._unsaved = self._unsaved, set()
        return paths

    def give_back(self, paths: set[str]) -> None:
        """These were not saved after all."""
        self._unsaved |= paths
