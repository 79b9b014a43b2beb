"""What the manifests say, kept file by file, so that one changed file is read alone.

Every method may block on the disk; the caller runs them in a thread, under `lock`. A file that cannot be read, or an
item of it that is not valid, keeps the last good version of its resources for as long as this object lives.

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

from calico_engine.errors import UnavailableError
from calico_engine.model import Resource, ResourceKey
from calico_engine_file.manifest import Entry, ManifestError, parse_manifest
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
#: Of a file that could never be read.
_NEVER = Signature(-1, 0, 0, 0)


def digest_of(data: bytes) -> bytes:
    return blake2b(data, digest_size=16).digest()


class FileState(msgspec.Struct):
    """One file as last read. `entries` may hold last good versions from earlier reads."""

    signature: Signature
    read_ns: int
    digest: bytes = b""
    entries: tuple[Entry, ...] = ()
    broken: bool = False

    @property
    def may_have_changed(self) -> bool:
        return self.signature.newest_ns + _TICK_NS > self.read_ns


class Held(msgspec.Struct, frozen=True):
    """What the directory says of one key: the winning entry and its file."""

    path: str
    entry: Entry


Listener = Callable[[set[ResourceKey]], None]


class Catalogue:
    """All resources below a directory. `report(subject, text)` takes problems; an empty text says it is over."""

    def __init__(self, root: Path, limit_bytes: int, report: Callable[[str, str], None]) -> None:
        self.root = root
        self.lock = threading.RLock()
        self.listeners: list[Listener] = []
        self.loaded = False
        self.files_read = 0
        self._limit_bytes = limit_bytes
        self._report = report
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
        if changed:
            for listener in self.listeners:
                listener(changed)

    def refresh_all(self) -> None:
        """Bring everything up to date. Raises: UnavailableError."""
        stale, gone = self.scan()
        self.refresh([*stale, *gone])
        self.loaded = True

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
            signature = read_signature(self.root, path) if is_visible(path) else None
            if signature is None:
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
            self._keep(path, before, str(error), None if before else FileState(_NEVER, 0))
            return
        self._take(path, data, FileState(signature, read_ns, digest_of(data)), before, changed)

    def _take(
        self, path: str, data: bytes, state: FileState, before: FileState | None, changed: set[ResourceKey]
    ) -> None:
        """Enter a file's new content."""
        entries_before = before.entries if before else ()
        if before and not before.broken and before.digest == state.digest:
            state.entries = before.entries
            self._files[path] = state
            return
        if not data.strip() and entries_before:
            self._keep(
                path,
                before,
                f"{path}: empty: its resources stay as they were; to remove them delete it",
                state,
            )
            return
        try:
            entries = parse_manifest(path, data)
        except ManifestError as error:
            stay = "; its resources stay as they were" if entries_before else ""
            self._keep(path, before, f"{error}{stay}", state)
            return
        self._note(path, "")
        state.entries = self._with_last_good(path, entries, entries_before)
        self._files[path] = state
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
        nameless = False
        seen: set[ResourceKey] = set()
        for entry in entries:
            if entry.resource is None:
                last = good.get(entry.key) if entry.key else None
                problems.append(f"{entry.error}" + ("; the last good version stays" if last else ""))
                nameless = nameless or entry.key is None
                if last is not None:
                    entry = msgspec.structs.replace(entry, resource=last.resource)
            if entry.key is not None:
                if entry.key in seen:
                    problems.append(f"{entry.key} is there twice: the first counts")
                seen.add(entry.key)
            kept.append(entry)
        if nameless:
            # One item is not known by name any more: whichever is missing may be the one that it was.
            kept.extend(
                msgspec.structs.replace(entry, place=()) for key, entry in good.items() if key not in seen
            )
        told = problems[:_TOLD]
        if len(problems) > _TOLD:
            told.append(f"and {len(problems) - _TOLD} more, see `calico-engine validate`")
        self._note(f"{path}#", f"{path}: {'; '.join(told)}" if problems else "")
        return tuple(kept)

    def _keep(self, path: str, before: FileState | None, text: str, state: FileState | None = None) -> None:
        """Let a file that cannot be read say what it said before."""
        self._note(path, text)
        if state is None:
            return
        state.entries = before.entries if before else ()
        state.broken = True
        self._files[path] = state

    def _forget(self, path: str, changed: set[ResourceKey]) -> None:
        self._note(path, "")
        self._note(f"{path}#", "")
        state = self._files.pop(path, None)
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
