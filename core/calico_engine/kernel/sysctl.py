"""Read and write the kernel's parameters under /proc/sys/net.

They are those of the calling thread's network namespace. A parameter of an interface that has gone is a KernelError
with ENOENT; one that this kernel or namespace does not have looks the same.
"""

from __future__ import annotations

import os

from calico_engine.errors import KernelError

_MAX_BYTES = 4096


def sysctl_path(name: str) -> str:
    """Return the file of a parameter named with slashes: net/ipv4/conf/eth0.1/forwarding."""
    if ".." in name.split("/"):
        raise ValueError(f"not a parameter's name: {name!r}")
    return f"/proc/sys/{name}"


def read_sysctl(name: str) -> str:
    """Return the value. Raises: KernelError."""
    try:
        # No more than the system calls: a node reads seven parameters for each of its endpoints.
        file = os.open(sysctl_path(name), os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(file, _MAX_BYTES).decode("ascii").strip()
        finally:
            os.close(file)
    except OSError as error:
        raise KernelError(
            f"read /proc/sys/{name}", error.strerror or str(error), errno=error.errno or 0
        ) from error


def write_sysctl(name: str, value: str) -> bool:
    """Set the value and return whether it was another before. Raises: KernelError."""
    if read_sysctl(name) == value:
        return False
    try:
        # One write: the kernel takes a parameter's value from a single call.
        file = os.open(sysctl_path(name), os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
        try:
            os.write(file, value.encode("ascii") + b"\n")
        finally:
            os.close(file)
    except OSError as error:
        raise KernelError(
            f"write /proc/sys/{name}", error.strerror or str(error), errno=error.errno or 0, line=value
        ) from error
    return True
