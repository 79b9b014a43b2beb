"""What the manifests say, kept file by file, so that one changed file is read alone.

Every method may block on the disk; the caller runs them in a thread, under `lock`. A file that cannot be read, or an
item of it that is not valid, keeps the last good version of its resources: the one of this object's life, else the one
that `Memory` has from before.

Where two places hold the same key, the first wins: files in the order of their paths, then the order in the file.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable
from hashlib import blake2b
from pathlib import Path

import msgspec

from calico_engine.errors import UnavailableError, ValidationError
from calico_engine.model import Resource, ResourceKey
from calico_engine_file.last_good import Record, make_record, printable, time_text
from calico_engine_file.manifest import Entry, ManifestError, parse_manifest
from calico_engine_file.memory import Memory
from calico_engine_file.scanning import (
    RefusedError,
    Signature,
    find_manifests,
    is_visible,
    read_manifest,
    read_signature,
)

#: A file changed this shortly before it was read may change again without a new time stamp: the kernel's clock ticks.
_TICK_NS = 20_000_000
#: So many problems of one file are told.
_TOLD = 10
_UNKNOWN = "what the file holds is unknown and NOT in force"
#: Of a file that could never be read.
_NEVER = Signature(-1, 0, 0, 0)


def digest_of(data: bytes) -> bytes:
    return blake2b(data, digest_size=16).digest()


class FileState(msgspec.Struct):
    """One file as last read. `entries` may hold last good versions from earlier reads; a broken one has no others."""

    signature: Signature
    read_ns: int
    digest: bytes = b""
    entries: tuple[Entry, ...] = ()
    broken: bool = False

    @property
    def may_have_changed(self) -> bool:
        return self.signature.newest_ns + _TICK_NS > self.read_ns

    @property
    def in_order(self) -> bool:
        """Whether every entry is what the file says now."""
        return not self.broken and not any(entry.error for entry in self.entries)

    def last_good(self) -> tuple[Entry, ...]:
        """Return the entries as older versions, each with its time."""
        written = time_text(self.signature.mtime_ns)
        return tuple(
            entry
            if entry.good_since or entry.resource is None
            else msgspec.structs.replace(entry, good_since=written)
            for entry in self.entries
        )


class Held(msgspec.Struct, frozen=True):
    """What the directory says of one key: the winning entry and its file."""

    path: str
    entry: Entry


Listener = Callable[[set[ResourceKey]], None]


class Catalogue:
    """All resources below a directory. `report(subject, text)` takes problems; an empty text says it is over."""

    def __init__(
        self, root: Path, limit_bytes: int, report: Callable[[str, str], None], memory: Memory
    ) -> None:
        self.root = root
        self.lock = threading.RLock()
        self.listeners: list[Listener] = []
        self.loaded = False
        self.files_read = 0
        self._limit_bytes = limit_bytes
        self._report = report
        self._memory = memory
        self._files: dict[str, FileState] = {}
        self._paths: dict[ResourceKey, list[str]] = {}
        self._problems: dict[str, str] = {}
        self._scan_problems: set[str] = set()

    @property
    def problems(self) -> dict[str, str]:
        """What is wrong now: path, or path and place -> text."""
        return dict(self._problems)

    def sorted_keys(self) -> list[ResourceKey]:
        return sorted(self._paths)

    def held(self, key: ResourceKey) -> Held | None:
        """Return the winning entry of a key, None when no file holds it."""
        for path in self._paths.get(key, ()):
            for entry in self._files[path].entries:
                if entry.key == key:
                    return Held(path, entry)
        return None

    def resource(self, key: ResourceKey) -> Resource | None:
        held = self.held(key)
        return held.entry.resource if held else None

    def paths(self, key: ResourceKey) -> list[str]:
        """Return every file that holds the key, the winner first."""
        return list(self._paths.get(key, ()))

    def all_paths(self) -> set[str]:
        return set(self._files)

    def record(self, path: str) -> Record | None:
        """Return what to remember of a file; None when the present record is to stay."""
        state = self._files.get(path)
        if state is None:
            return Record(printable(path))
        if state.broken and not state.entries:
            return None
        digest = state.digest.hex() if state.in_order else ""
        return make_record(printable(path), digest, state.entries, state.signature.mtime_ns)

    def settle(self) -> None:
        """Everything has been read: forget what the memory has of files that are gone."""
        self.loaded = True
        self._memory.settle(self.all_paths())

    def is_broken(self, path: str) -> bool:
        state = self._files.get(path)
        return state is not None and state.broken

    def entries(self, path: str, data: bytes) -> tuple[Entry, ...]:
        """Return what a file holds whose bytes are `data`. Raises: ManifestError."""
        state = self._files.get(path)
        if state is not None and not state.broken and state.digest == digest_of(data):
            return state.entries
        return parse_manifest(path, data)

    def scan(self, *, only_new: bool = False) -> tuple[list[str], list[str]]:
        """Look at the whole tree; return the files to read (in path order) and the ones that are gone.

        `only_new` takes known files as unchanged, which is quicker by far.
        Raises: UnavailableError when the directory is not there.
        """
        known = {path: state.signature for path, state in self._files.items()} if only_new else {}
        try:
            found = find_manifests(self.root, known)
        except OSError as error:
            raise UnavailableError(
                f"{self.root}: the manifests cannot be listed: {error.strerror}"
            ) from error
        for subject in self._scan_problems - found.problems.keys():
            self._note(subject, "")
        for subject, text in found.problems.items():
            self._note(subject, text)
        self._scan_problems = set(found.problems)
        unreadable = tuple(found.unreadable)
        self._recall_all(path for path in self._memory.paths_below(unreadable) if path not in self._files)
        gone = [
            path
            for path in self._files
            if path not in found.files and not (unreadable and path.startswith(unreadable))
        ]
        stale = [
            path
            for path, signature in found.files.items()
            if not (path in known if only_new else self._is_fresh(path, signature))
        ]
        return stale, gone

    def overdue(self, paths: Iterable[str], age_s: float) -> list[str]:
        """Return those of the files that differ from what was read, and have for so long."""
        late: list[str] = []
        for path in paths:
            state = self._files.get(path)
            try:
                signature = read_signature(self.root, path)
            except RefusedError:
                continue
            changed = signature is not None and (state is None or state.signature != signature)
            if changed and signature and time.time_ns() - signature.newest_ns > age_s * 1e9:
                late.append(path)
        return late

    def _is_fresh(self, path: str, signature: Signature) -> bool:
        state = self._files.get(path)
        return state is not None and state.signature == signature and not state.may_have_changed

    def refresh(self, paths: Iterable[str]) -> None:
        """Bring these files up to date and tell the listeners which keys may say something else now."""
        changed: set[ResourceKey] = set()
        for path in paths:
            self._refresh_file(path, changed)
        self._tell(changed)

    def _tell(self, changed: set[ResourceKey]) -> None:
        if changed:
            for listener in self.listeners:
                listener(changed)

    def refresh_all(self) -> None:
        """Bring everything up to date. Raises: UnavailableError."""
        stale, gone = self.scan()
        self.refresh([*stale, *gone])
        self.settle()

    def refresh_key(self, key: ResourceKey) -> None:
        """Bring up to date what holds the key.

        A key nobody holds may be in a file that is new: programs write new keys to new files, and people's changes
        of other files the watch will find.
        """
        if not self.loaded:
            self.refresh_all()
        elif key in self._paths:
            self.refresh(self.paths(key))
        if key not in self._paths:
            stale, gone = self.scan(only_new=True)
            self.refresh([*stale, *gone])

    def _refresh_file(self, path: str, changed: set[ResourceKey]) -> None:
        before = self._files.get(path)
        try:
            # What was never read is read without a look.
            signature = read_signature(self.root, path) if before and is_visible(path) else None
            if signature is None and (before or not is_visible(path)):
                self._forget(path, changed)
                return
            if before and before.signature == signature and not before.may_have_changed:
                return
            read_ns = time.time_ns()
            self.files_read += 1
            data, signature = read_manifest(self.root, path, self._limit_bytes)
        except FileNotFoundError:
            self._forget(path, changed)
            return
        except RefusedError as error:
            unread = None if before else FileState(_NEVER, 0)
            self._keep(path, before or self._recall(path, changed), str(error), unread)
            return
        self._take(path, data, FileState(signature, read_ns, digest_of(data)), before, changed)

    def _take(
        self, path: str, data: bytes, state: FileState, before: FileState | None, changed: set[ResourceKey]
    ) -> None:
        """Enter a file's new content."""
        if before and not before.broken and before.digest == state.digest:
            state.entries = before.entries
            self._files[path] = state
            return
        if not data.strip():
            before = before or self._recall(path, changed)
            if before and before.entries:
                self._keep(path, before, f"{path}: empty; to remove its resources delete it", state)
                return
        try:
            entries = parse_manifest(path, data)
        except ManifestError as error:
            self._keep(path, before or self._recall(path, changed), str(error), state)
            return
        if before is None and any(entry.resource is None for entry in entries):
            before = self._recall(path, changed)
        entries_before = before.last_good() if before else ()
        self._note(path, "")
        self._note(f"{path}~", "")
        state.entries = self._with_last_good(path, entries, entries_before)
        self._files[path] = state
        self._memory.note(path, state.digest.hex() if state.in_order else "")
        old = {entry.key: entry for entry in reversed(entries_before) if entry.key}
        new = {entry.key: entry for entry in reversed(state.entries) if entry.key}
        for key in old.keys() | new.keys():
            if key not in old:
                self._enter(key, path)
            elif key not in new:
                self._leave(key, path)
            elif old[key].revision == new[key].revision and old[key].error == new[key].error:
                continue
            changed.add(key)

    def _with_last_good(
        self, path: str, entries: tuple[Entry, ...], before: tuple[Entry, ...]
    ) -> tuple[Entry, ...]:
        """Return the entries with the last good version in the place of each that is not valid; report those."""
        good = {entry.key: entry for entry in before if entry.key and entry.resource}
        problems: list[str] = []
        kept: list[Entry] = []
        nameless: set[ResourceKey | None] = set()
        seen: set[ResourceKey] = set()
        for entry in entries:
            if entry.resource is None:
                last = good.get(entry.key) if entry.key else None
                stays = f"; serving the version of {last.good_since}" if last else ""
                problems.append(f"{entry.error}{stays}")
                if last is None:
                    nameless.add(entry.key)
                else:
                    entry = msgspec.structs.replace(entry, resource=last.resource, good_since=last.good_since)
            if entry.key is not None:
                if entry.key in seen:
                    problems.append(f"{entry.key} is there twice: the first counts")
                seen.add(entry.key)
            kept.append(entry)
        lost = _missing_ones(good, seen, nameless, {entry.key for entry in before if entry.key})
        kept.extend(lost)
        problems.extend(f"serving the version of {entry.good_since} of {entry.key}" for entry in lost)
        told = problems[:_TOLD]
        if len(problems) > _TOLD:
            told.append(f"and {len(problems) - _TOLD} more, see `calico-engine validate`")
        self._note(f"{path}#", f"{path}: {'; '.join(told)}" if problems else "")
        return tuple(kept)

    def _keep(self, path: str, before: FileState | None, reason: str, state: FileState | None) -> None:
        """Let a file that cannot be read say what it said before."""
        entries = before.last_good() if before else ()
        since = max((entry.good_since for entry in entries), default="")
        if since:
            self._note(path, f"{path}: serving the version of {since}; broken since: {reason}")
        else:
            self._note(path, f"{reason}; {_UNKNOWN}")
        if state is not None:
            state.entries = entries
            state.broken = True
            self._files[path] = state

    def _recall(self, path: str, changed: set[ResourceKey]) -> FileState | None:
        """Enter what a file held before this object's life, as far as that is known."""
        try:
            entries = self._memory.recall(path)
        except ValidationError as error:
            self._note(f"{path}~", f"{path}: the version kept of it is refused: {error}")
            return None
        if not entries:
            return None
        state = self._files[path] = FileState(_NEVER, 0, entries=entries, broken=True)
        for entry in entries:
            if entry.key:
                self._enter(entry.key, path)
                changed.add(entry.key)
        return state

    def _recall_all(self, paths: Iterable[str]) -> None:
        changed: set[ResourceKey] = set()
        for path in paths:
            self._recall(path, changed)
        self._tell(changed)

    def _forget(self, path: str, changed: set[ResourceKey]) -> None:
        for subject in (path, f"{path}#", f"{path}~"):
            self._note(subject, "")
        state = self._files.pop(path, None)
        if state is not None:
            self._memory.note(path)
        for key in {entry.key for entry in state.entries if entry.key} if state else ():
            self._leave(key, path)
            changed.add(key)

    def _enter(self, key: ResourceKey, path: str) -> None:
        paths = self._paths.setdefault(key, [])
        paths.append(path)
        if len(paths) > 1:
            paths.sort()
            self._note_rivals(key, paths)

    def _leave(self, key: ResourceKey, path: str) -> None:
        paths = self._paths[key]
        paths.remove(path)
        if not paths:
            del self._paths[key]
        self._note_rivals(key, paths)

    def _note_rivals(self, key: ResourceKey, paths: list[str]) -> None:
        """Report a key that several files hold, but not while a file is being renamed."""
        there = [path for path in paths if os.path.lexists(self.root / path)] if len(paths) > 1 else []
        text = f"{key} is in {' and in '.join(there)}: {there[0]} counts" if len(there) > 1 else ""
        self._note(f"={key}", text)

    def _note(self, subject: str, text: str) -> None:
        if self._problems.get(subject, "") == text:
            return
        if text:
            self._problems[subject] = text
        else:
            del self._problems[subject]
        self._report(subject, text)


def _missing_ones(
    good: dict[ResourceKey, Entry],
    seen: set[ResourceKey],
    nameless: set[ResourceKey | None],
    before: set[ResourceKey],
) -> list[Entry]:
    """Return the good ones that are not seen any more, and that one of the items which are not valid may have been.

    nameless: the keys, as far as they can be told, of what is not valid and never was under that name. One that was
    there before, just as wrong, is none of those that are missing; it does not end the stay of one that stayed either.
    """
    is_new = any(key is None or key not in before for key in nameless)
    return [
        msgspec.structs.replace(entry, place=())
        for key, entry in good.items()
        if key not in seen and (is_new or (nameless and not entry.place))
    ]
