"""The last good version of every manifest, kept on disk so that one which is broken at the next start still counts.

A log of JSON lines, a file of its own per store. The first line names the store; each other one says what one manifest
held when it was last in order, and replaces the earlier lines of that path. A manifest that is gone or holds nothing
has a line without resources. A line that a crash cut short is passed over, so what counts then is the line before it.
Once most lines are replaced ones, the log is written anew.

Every method may block on the disk.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path

import msgspec

from calico_engine.errors import ValidationError
from calico_engine.model import Resource, decode, encode
from calico_engine_file.manifest import Entry, set_revision, with_revision
from calico_engine_file.writing import cannot_write, exclusive, safe_name, write_atomically

LIMIT_BYTES = 256 * 1024 * 1024
#: Replaced lines may take as much room as those that count, and this much more.
_SLACK_BYTES = 1024 * 1024
_FORMAT = 1


class _Head(msgspec.Struct, frozen=True):
    """The first line of a log."""

    store: str
    format: int = _FORMAT


class Good(msgspec.Struct, frozen=True):
    """One resource as it last was in order, and when the file that said so was written."""

    time: str
    kind: str
    resource: msgspec.Raw


class Record(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one manifest held. `digest` is that of its bytes when all of it was in order, "" otherwise."""

    path: str
    digest: str = ""
    resources: tuple[Good, ...] = ()


class _Outline(msgspec.Struct, frozen=True):
    """As much of a record as is needed to know whether it still holds."""

    path: str
    digest: str = ""
    resources: msgspec.Raw = msgspec.Raw(b"[]")


_HEAD = msgspec.json.Decoder(_Head)
_RECORD = msgspec.json.Decoder(Record)
_OUTLINE = msgspec.json.Decoder(_Outline)


def time_text(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns // 1_000_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def make_record(path: str, digest: str, entries: tuple[Entry, ...], written_ns: int) -> Record:
    """Return the record of a file's entries: what was written with the file, and older versions that stand in."""
    written = time_text(written_ns)
    return Record(
        path,
        digest,
        tuple(
            Good(
                entry.good_since or written,
                entry.resource.KIND,
                msgspec.Raw(encode(set_revision(entry.resource, ""))),
            )
            for entry in entries
            if entry.resource is not None
        ),
    )


class Remembered(msgspec.Struct, frozen=True):
    """What the log says of one manifest; decoded only where it is needed."""

    digest: str
    line: bytes

    def entries(self) -> tuple[Entry, ...]:
        """Return the resources, each with the time of its version. Raises: ValidationError."""
        try:
            record = _RECORD.decode(self.line)
        except msgspec.DecodeError as error:
            raise ValidationError("", "", f"not a record of this version: {error}") from None
        found: list[Entry] = []
        for good in record.resources:
            resource: Resource = with_revision(decode(good.kind, bytes(good.resource)))
            found.append(Entry((), resource.key, resource, good_since=good.time))
        return tuple(found)


class LastGood:
    """The log of one store. Several processes may write it: each line is true whoever wrote it."""

    def __init__(
        self, folder: Path, store: Path, *, limit_bytes: int = LIMIT_BYTES, lock_timeout_s: float = 5.0
    ) -> None:
        """store: the directory of manifests, by the name that the configuration gives it."""
        self._store = printable(os.path.abspath(store))  # noqa: PTH100  # not resolved: a link may be pointed anew
        name = f"{safe_name(Path(self._store).name)}-{_short_digest(self._store)}.last-good.jsonl"
        self.path = folder / name
        self._limit_bytes = limit_bytes
        self._lock_timeout_s = lock_timeout_s
        self._sizes: dict[str, int] = {}
        self._head = msgspec.json.encode(_Head(self._store)) + b"\n"

    def is_there(self) -> bool:
        # Not Path.exists, which raises where one may not look.
        return os.path.exists(self.path)  # noqa: PTH110

    def read(self) -> dict[str, Remembered]:
        """Return what is known, by path of the manifest; nothing where the log is of another store.

        Raises: OSError.
        """
        found = self._last_lines()
        self._sizes = {path: len(known.line) for path, known in found.items()}
        return found

    def write(self, records: Mapping[str, Record]) -> list[str]:
        """Add records, durably; return the paths of those that would make the log too large.

        Raises: DatastoreError.
        """
        lines: list[bytes] = []
        refused: list[str] = []
        live_bytes = sum(self._sizes.values())
        for path, record in records.items():
            line = msgspec.json.encode(record)
            live_bytes -= self._sizes.pop(path, 0)
            if record.resources and live_bytes + len(line) > self._limit_bytes:
                refused.append(path)
                line = msgspec.json.encode(Record(path))
            elif record.resources:
                self._sizes[path] = len(line)
                live_bytes += len(line)
            lines.append(line + b"\n")
        if lines:
            self._append(b"".join(lines), live_bytes)
        return refused

    def _append(self, data: bytes, live_bytes: int) -> None:
        folder = self.path.parent
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with exclusive(folder, self._lock_timeout_s):
                if not self._is_ours():
                    write_atomically(self.path, self._head + data, mode=0o600)
                elif _append_whole_lines(self.path, data) > 2 * live_bytes + _SLACK_BYTES:
                    self._write_anew()
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def _write_anew(self) -> None:
        """Leave out what is replaced, also by others."""
        found = self._last_lines()
        self._sizes = {path: len(known.line) for path, known in found.items()}
        data = b"".join(known.line + b"\n" for known in found.values())
        write_atomically(self.path, self._head + data, mode=0o600)

    def _is_ours(self) -> bool:
        try:
            with self.path.open("rb") as file:
                return self._knows_head(file.readline())
        except FileNotFoundError:
            return False

    def _knows_head(self, line: bytes) -> bool:
        try:
            return _HEAD.decode(line) == _Head(self._store)
        except msgspec.DecodeError:
            return False

    def _last_lines(self) -> dict[str, Remembered]:
        """Return the last line of each path that holds something."""
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return {}
        head, _, rest = data.partition(b"\n")
        if not self._knows_head(head):
            return {}
        found: dict[str, Remembered] = {}
        for line in rest.split(b"\n"):
            try:
                outline = _OUTLINE.decode(line)
            except msgspec.DecodeError:
                continue  # an empty one, or cut short by a crash
            found.pop(outline.path, None)
            if bytes(outline.resources) != b"[]":
                found[outline.path] = Remembered(outline.digest, line)
        return found


def _append_whole_lines(path: Path, data: bytes) -> int:
    """Add to a file, behind a line that was cut short; return the file's size."""
    flags = os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags), "r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(data if file.read(1) == b"\n" else b"\n" + data)
        file.flush()
        os.fsync(file.fileno())
        return file.tell()


def printable(path: str) -> str:
    """Return a path that can be sent and stored: the name of a file may be any bytes."""
    return path if path.isascii() else path.encode("utf-8", "backslashreplace").decode()


def _short_digest(text: str) -> str:
    return blake2b(text.encode(), digest_size=4).hexdigest()
