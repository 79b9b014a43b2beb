"""Network namespaces without names: made in a thread, kept by a file descriptor, entered by threads of their own.

A namespace belongs to a thread, so nothing here changes the caller's: `run` starts a thread that enters the namespace,
calls, and ends. What the call leaves behind (sockets) stays in that namespace and may be used from any thread.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from calico_engine.errors import KernelError

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

CAP_NET_ADMIN = 12

THREAD_NETNS = Path("/proc/thread-self/ns/net")

_libc = ctypes.CDLL(None, use_errno=True)

T = TypeVar("T")


def enter_namespace(descriptor: int, kind: int = 0) -> None:
    """Move the calling thread into the namespace behind a file descriptor (setns(2)). Raises: KernelError."""
    if _libc.setns(descriptor, kind) != 0:
        number = ctypes.get_errno()
        raise KernelError("setns", os.strerror(number), errno=number)


def unshare_namespaces(kinds: int) -> None:
    """Give the calling thread new namespaces (unshare(2)). Raises: KernelError."""
    if _libc.unshare(kinds) != 0:
        number = ctypes.get_errno()
        raise KernelError("unshare", os.strerror(number), errno=number)


class NetworkNamespace:
    """A network namespace that lives as long as this object, or the file it was opened from."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def create(cls) -> NetworkNamespace:
        """Return a new, empty namespace (lo is down). Needs: CAP_SYS_ADMIN. Raises: KernelError."""

        def make() -> int:
            unshare_namespaces(CLONE_NEWNET)
            return os.open(THREAD_NETNS, os.O_RDONLY | os.O_CLOEXEC)

        return cls(run_in_thread(make))

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> NetworkNamespace:
        """Return the namespace of a file: /proc/PID/ns/net or /run/netns/NAME. Raises: KernelError."""
        try:
            return cls(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            raise KernelError(
                f"open {os.fspath(path)}", error.strerror or str(error), errno=error.errno or 0
            ) from error

    @property
    def descriptor(self) -> int:
        return self._descriptor

    def run(self, call: Callable[[], T]) -> T:
        """Return call(), made by a thread in the namespace. Programs it starts are in the namespace too."""

        def inside() -> T:
            enter_namespace(self._descriptor, CLONE_NEWNET)
            return call()

        return run_in_thread(inside)

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __enter__(self) -> NetworkNamespace:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def has_net_admin() -> bool:
    """Tell whether this process has CAP_NET_ADMIN in its user namespace."""
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    for line in status.splitlines():
        name, _, value = line.partition(":")
        if name == "CapEff":
            return bool(int(value, 16) & 1 << CAP_NET_ADMIN)
    return False


def run_in_thread(call: Callable[[], T]) -> T:
    """Return call(), made by a thread of its own that then ends; its namespaces end with it."""
    results: list[T] = []
    errors: list[BaseException] = []

    def body() -> None:
        try:
            results.append(call())
        except BaseException as error:  # noqa: BLE001  # handed to the caller as it is
            errors.append(error)

    thread = threading.Thread(target=body, name="namespace")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
