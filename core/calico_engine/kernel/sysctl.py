"""Read and write the kernel's parameters under /proc/sys/net.

They are those of the calling thread's network namespace. A parameter of an interface that has gone is a KernelError
with ENOENT; one that this kernel or namespace does not have looks the same.
"""

from __future__ import annotations

from pathlib import Path

from calico_engine.errors import KernelError

PROC_SYS = Path("/proc/sys")


def sysctl_path(name: str) -> Path:
    """Return the file of a parameter named with slashes: net/ipv4/conf/eth0.1/forwarding."""
    path = PROC_SYS.joinpath(*name.split("/"))
    if ".." in path.parts:
        raise ValueError(f"not a parameter's name: {name!r}")
    return path


def read_sysctl(name: str) -> str:
    """Return the value. Raises: KernelError."""
    try:
        return sysctl_path(name).read_text(encoding="ascii").strip()
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
        sysctl_path(name).write_bytes(value.encode("ascii") + b"\n")
    except OSError as error:
        raise KernelError(
            f"write /proc/sys/{name}", error.strerror or str(error), errno=error.errno or 0, line=value
        ) from error
    return True
