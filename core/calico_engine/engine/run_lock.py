"""One engine a run directory: locks that the kernel drops when their holders die.

engine.lock     the engine's
programs.lock   the engine's and that of the programs it runs, which may outlive it when it is killed. An
                iptables-restore of a dead engine must not write after the next one has read.

The files stay when nobody holds them: to remove a lock file that another is about to lock makes two locks.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from calico_engine.errors import ConfigError
from calico_engine.kernel.command import disinherit, inherit

#: A program of a dead engine may wait for the lock of iptables, and then write a table of many rules.
_PROGRAMS_S = 30.0
_POLL_S = 0.01


class RunLock:
    """Held from `acquire` to `release`, or to the end of the process."""

    def __init__(self, run_dir: Path, *, programs_s: float = _PROGRAMS_S) -> None:
        """programs_s: how long to wait for programs of an engine that was killed."""
        self._path = run_dir / "engine.lock"
        self._programs_path = run_dir / "programs.lock"
        self._programs_s = programs_s
        self._descriptor: int | None = None
        self._programs: int | None = None

    def acquire(self) -> None:
        """Take the locks; wait for what a killed engine left running.

        Raises: ConfigError when another engine runs here or the directory cannot be used.
        """
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
        try:
            self._acquire_programs()
        except ConfigError:
            self.release()
            raise

    def _acquire_programs(self) -> None:
        self._programs = os.open(self._programs_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        end_s = time.monotonic() + self._programs_s
        while True:
            try:
                fcntl.flock(self._programs, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                if time.monotonic() > end_s:
                    raise ConfigError(
                        f"programs of an engine that was killed still run with {self._path.parent}",
                        key="run_dir",
                        hint=f"fuser {self._programs_path} names them; end them first",
                    ) from error
                time.sleep(_POLL_S)
            else:
                inherit(self._programs)
                return

    def release(self) -> None:
        if self._programs is not None:
            disinherit(self._programs)
            os.close(self._programs)
            self._programs = None
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
