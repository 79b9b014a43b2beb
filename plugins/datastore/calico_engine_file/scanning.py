"""Find and read the manifests below a directory, refusing what could do harm.

Hidden files and directories (".git", an editor's swap file, our own ".status") are not looked at. Links are followed
to regular files inside the directory only; linked directories are not followed, so that no file is found twice.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from calico_engine.errors import DatastoreError

SUFFIXES = (".yaml", ".yml", ".json")


class RefusedError(DatastoreError):
    """A file is not read: too big, a link that leads out, a device, no permission."""


class Signature(NamedTuple):
    """What changes when a file's content does. The device is left out: it may change when a share is mounted anew."""

    size_bytes: int
    mtime_ns: int
    ctime_ns: int
    inode: int

    @classmethod
    def of(cls, status: os.stat_result) -> Signature:
        return cls(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)

    @property
    def newest_ns(self) -> int:
        return max(self.mtime_ns, self.ctime_ns)


class Found(msgspec.Struct):
    """One look at a directory tree. `files` is in path order; a path is relative, with "/"."""

    files: dict[str, Signature]
    problems: dict[str, str]
    unreadable: list[str]


def is_manifest(name: str) -> bool:
    """Say whether a file of this name (without directories) is looked at."""
    return name.endswith(SUFFIXES) and not name.startswith(".")


def is_visible(path: str) -> bool:
    """Say whether a relative path has no hidden part."""
    return not any(part.startswith(".") for part in path.split("/"))


def find_manifests(root: Path, known: Mapping[str, Signature]) -> Found:
    """Return every manifest below `root` with its signature; for those in `known` that one, without a look.

    Raises: OSError when `root` itself cannot be listed.
    """
    found = Found({}, {}, [])
    _walk(os.path.realpath(root), "", known, found)
    found.files = dict(sorted(found.files.items()))
    return found


def _walk(root: str, below: str, known: Mapping[str, Signature], found: Found) -> None:
    folder = Path(root, below)
    try:
        with os.scandir(folder) as listing:
            entries = list(listing)
    except OSError as error:
        if not below:
            raise
        if error.errno is not None and not isinstance(error, FileNotFoundError):
            found.problems[below] = (
                f"{below}: the directory cannot be read ({error.strerror}): its resources stay as they were"
            )
            found.unreadable.append(below + "/")
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        path = f"{below}/{entry.name}" if below else entry.name
        if path in known:
            found.files[path] = known[path]
            continue
        try:
            if entry.is_dir(follow_symlinks=False):
                _walk(root, path, known, found)
            elif entry.is_symlink() and entry.is_dir():
                found.problems[path] = (
                    f"{path}: a link to a directory is not followed: put the directory itself here"
                )
            elif is_manifest(entry.name):
                found.files[path] = Signature.of(entry.stat())
        except FileNotFoundError:
            if entry.is_symlink():
                found.problems[path] = f"{path}: the link leads nowhere"
        except OSError as error:
            found.problems[path] = f"{path}: cannot be looked at ({error.strerror})"


def read_signature(root: Path, path: str) -> Signature | None:
    """Return the signature of a manifest, None when there is no such file."""
    try:
        return Signature.of((root / path).stat())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise RefusedError(f"{path}: cannot be looked at ({error.strerror})") from error


def read_manifest(root: Path, path: str, limit_bytes: int) -> tuple[bytes, Signature]:
    """Return a manifest's bytes and the signature they have. A file that changes while it is read is read again.

    Raises: RefusedError; FileNotFoundError when it is gone.
    """
    for data, signature in _attempts(root, path, limit_bytes):
        if data is not None:
            return data, signature
    raise RefusedError(
        f"{path}: changes faster than it can be read; write to another file and rename it into place"
    )


def _attempts(root: Path, path: str, limit_bytes: int) -> Iterator[tuple[bytes | None, Signature]]:
    for _ in range(5):
        with open(_open(root, path), "rb") as file:
            before = os.fstat(file.fileno())
            if not stat.S_ISREG(before.st_mode):
                raise RefusedError(f"{path}: not a regular file")
            if before.st_size > limit_bytes:
                raise RefusedError(
                    f"{path}: {before.st_size} bytes, more than max_file_bytes ({limit_bytes}); split it"
                )
            try:
                data = file.read(limit_bytes + 1)
            except OSError as error:
                raise RefusedError(f"{path}: cannot be read ({error.strerror})") from error
            after = Signature.of(os.fstat(file.fileno()))
        unchanged = after == Signature.of(before) and len(data) == after.size_bytes
        yield (data if unchanged else None), after


def _open(root: Path, path: str) -> int:
    """Open a file below `root` for reading; a link in its path may not lead out of `root`."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    if "/" not in path:
        # Right below the root there is no link to follow but the file itself, and that is refused here.
        with contextlib.suppress(OSError):
            return os.open(f"{root}/{path}", flags)
    base = os.path.realpath(root)
    real = os.path.realpath(Path(base, path))
    if not Path(real).is_relative_to(base):
        raise RefusedError(f"{path}: the link leads out of the directory, to {real}")
    try:
        # O_NONBLOCK: opening a pipe would wait for its writer for ever.
        return os.open(real, flags)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise RefusedError(f"{path}: cannot be opened ({error.strerror})") from error
