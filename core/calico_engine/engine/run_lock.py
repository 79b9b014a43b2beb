"""One engine a run directory: a lock that the kernel drops when its holder dies."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from calico_engine.errors import ConfigError


class RunLock:
    """Held from `acquire` to `release`, or to the end of the process."""

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / "engine.lock"
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock. Raises: ConfigError when another engine runs here or the directory cannot be used."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise ConfigError(
                f"run directory {self._path.parent}: {error}",
                key="run_dir",
                hint="give one that can be written",
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(descriptor)
            raise ConfigError(
                f"another engine (process {holder}) runs with {self._path.parent}",
                key="run_dir",
                hint="stop it first, or give this one its own run directory",
            ) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._descriptor = descriptor

    def release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
