"""Change files so that a crash leaves the old content or the new one, and one process at a time does so."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
import time
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path

from calico_engine.errors import DatastoreError, UnavailableError

LOCK_NAME = ".calico-engine.lock"
TEMPORARY = ".calico-engine.tmp-"

_UNSAFE = re.compile(r"[^A-Za-z0-9._@=+-]")


@contextlib.contextmanager
def exclusive(root: Path, timeout_s: float) -> Iterator[None]:
    """Hold the directory's lock, which every process that writes there takes.

    Raises: UnavailableError when another process keeps it for `timeout_s`, or the directory is gone.
    """
    try:
        descriptor = os.open(root / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise cannot_write(root, error) from error
    try:
        _lock(descriptor, root, timeout_s)
        yield
    finally:
        os.close(descriptor)  # and with it the lock


def _lock(descriptor: int, root: Path, timeout_s: float) -> None:
    deadline_s = time.monotonic() + timeout_s
    pause_s = 0.001
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline_s:
                raise UnavailableError(
                    f"{root}: another process has kept {LOCK_NAME} locked for {timeout_s:g} s"
                ) from None
            time.sleep(pause_s)
            pause_s = min(pause_s * 1.5, 0.02)
        else:
            return


def write_atomically(target: Path, data: bytes, *, durable: bool = True, mode: int = 0o644) -> None:
    """Replace a file's content, or make the file: temporary file, fsync, rename, fsync of the directory.

    Mode and owner of a file that was there are kept; `mode` is that of a new one.
    Raises: UnavailableError (full or read-only), DatastoreError.
    """
    temporary = target.parent / f"{TEMPORARY}{os.getpid()}-{time.monotonic_ns():x}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        try:
            with os.fdopen(descriptor, "wb") as file:
                _take_over(target, file.fileno())
                file.write(data)
                file.flush()
                if durable:
                    os.fsync(file.fileno())
            temporary.replace(target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        if durable:
            sync_directory(target.parent)
    except OSError as error:
        raise cannot_write(target, error) from error


def _take_over(target: Path, descriptor: int) -> None:
    """Give an open file the mode and the owner of the one that it will replace."""
    try:
        before = target.stat()
    except FileNotFoundError:
        return
    # The owner first: changing it drops the set-id bits of the mode.
    with contextlib.suppress(PermissionError):
        os.fchown(descriptor, before.st_uid, before.st_gid)
    os.fchmod(descriptor, stat.S_IMODE(before.st_mode))


def remove_file(target: Path) -> None:
    """Delete a file, durably."""
    try:
        target.unlink(missing_ok=True)
        sync_directory(target.parent)
    except OSError as error:
        raise cannot_write(target, error) from error


def sync_directory(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files of processes that were killed. Only while holding the lock."""
    for path in folder.glob(f"{TEMPORARY}*"):
        path.unlink(missing_ok=True)


def safe_name(name: str) -> str:
    """Return `name` as a file name (without suffix): nothing hidden, no separators, at most 200 bytes."""
    text = _UNSAFE.sub(lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode()), name)
    if text.startswith("."):
        text = "%2E" + text[1:]
    if len(text) > 200:
        text = f"{text[:160]}-{blake2b(name.encode(), digest_size=10).hexdigest()}"
    return text


def cannot_write(target: Path, error: OSError) -> DatastoreError:
    """Return the error to raise; only what may pass by itself is retryable."""
    message = f"{target}: cannot be written: {error.strerror}"
    if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS, errno.ELOOP, errno.ENAMETOOLONG}:
        return DatastoreError(message)
    return UnavailableError(message)
