"""Get into a lab's namespaces: from outside, and from the holder into its nodes and pods.

Each node's processes have a mount namespace in which /run is the node's own directory, so that lock files, sockets and
run directories of several nodes never meet. All of this needs a process with a single thread.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from calico_engine.errors import ConfigError, KernelError
from calico_engine.kernel.namespaces import (
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUSER,
    enter_namespace,
    unshare_namespaces,
)
from calico_engine.lab.paths import INSIDE, LabPaths
from calico_engine.lab.plan import FABRIC, namespace_name

MS_BIND, MS_REC, MS_PRIVATE, MS_NOSUID, MS_NODEV, MS_NOEXEC = 0x1000, 0x4000, 0x40000, 0x2, 0x4, 0x8
PR_SET_PDEATHSIG, PR_SET_DUMPABLE = 1, 4
NETNS_DIRECTORY = Path("/run/netns")

#: Not every user's PATH has the directories of ip, iptables and ipset.
SYSTEM_PATH = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"

_libc = ctypes.CDLL(None, use_errno=True)


def mount(source: str, target: str | os.PathLike[str], kind: str = "", flags: int = 0) -> None:
    """mount(2). Raises: KernelError."""
    arguments = (source.encode(), os.fsencode(target), kind.encode() or None, ctypes.c_ulong(flags), None)
    if _libc.mount(*arguments) != 0:
        number = ctypes.get_errno()
        raise KernelError(f"mount {os.fspath(target)}", os.strerror(number), errno=number, line=source)


def privatise_mounts() -> None:
    """Give this process mounts of its own that show nothing outside. Raises: KernelError."""
    unshare_namespaces(CLONE_NEWNS)
    try:
        mount("none", "/", flags=MS_REC | MS_PRIVATE)
    except KernelError as error:
        if error.errno != errno.EINVAL:
            raise
        # In a chroot "/" need not be the root of a mount: make it one. What is mounted over "/" is found at "/..".
        mount("/", "/", flags=MS_BIND | MS_REC)
        os.chroot("/..")
        os.chdir("/")
        mount("none", "/", flags=MS_REC | MS_PRIVATE)


def mount_run(state: Path, place: str) -> None:
    """Put a place's own directory over /run, with the lab's state at /run/lab in it. Raises: KernelError."""
    run = LabPaths(state).run(place)
    for directory in (run / "lab", run / "netns", run / "calico"):
        directory.mkdir(parents=True, exist_ok=True)
    mount(str(state), run / "lab", flags=MS_BIND | MS_REC)
    if Path("/run/netns").is_dir() and state == INSIDE:
        mount("/run/netns", run / "netns", flags=MS_BIND | MS_REC)
    mount(str(run), "/run", flags=MS_BIND | MS_REC)
    if not Path("/var/run").is_symlink() and Path("/var/run").is_dir():
        mount("/run", "/var/run", flags=MS_BIND | MS_REC)


def enter_place(place: str, *, is_node: bool) -> None:
    """From inside the lab, move this process to a node or pod (or stay, for the fabric). Raises: KernelError."""
    if place != FABRIC:
        path = NETNS_DIRECTORY / namespace_name(place)
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        enter_namespace(descriptor, CLONE_NEWNET)
        os.close(descriptor)
    if is_node:
        privatise_mounts()
        mount_run(INSIDE, place)


class Holder:
    """The process that keeps a lab's namespaces, as its lock file names it: ids as seen from outside."""

    def __init__(self, outer: int, inner: int) -> None:
        self.outer = outer
        self.inner = inner

    @classmethod
    def find(cls, paths: LabPaths) -> Holder | None:
        """Return the holder of a running lab, None when there is none."""
        try:
            found = json.loads(paths.lock.read_text())
            holder = cls(int(found["outer"]), int(found["inner"]))
            started = start_time(holder.outer)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        # A process id alone may by now be somebody else's.
        return holder if started == found.get("started") else None

    def enter(self) -> None:
        """Move this process into the holder's namespaces; its children will be in its PID namespace.

        Raises: KernelError.
        """
        kinds = {"user": CLONE_NEWUSER, "mnt": CLONE_NEWNS, "pid": CLONE_NEWPID, "net": CLONE_NEWNET}
        descriptors: list[tuple[int, int]] = []
        for name, kind in kinds.items():
            path = Path(f"/proc/{self.inner}/ns/{name}")
            try:
                if name == "user" and path.readlink() == Path("/proc/self/ns/user").readlink():
                    continue
                descriptors.append((os.open(path, os.O_RDONLY | os.O_CLOEXEC), kind))
            except OSError as error:
                raise KernelError(
                    f"open {path}", error.strerror or str(error), errno=error.errno or 0
                ) from error
        # Entering mounts leads to their root, which is not the holder's when the lab was made in a chroot.
        root = os.open(f"/proc/{self.inner}/root", os.O_PATH | os.O_CLOEXEC)
        for descriptor, kind in descriptors:
            enter_namespace(descriptor, kind)
            os.close(descriptor)
        os.fchdir(root)
        os.chroot(".")
        os.close(root)


def end_with_parent() -> None:
    """Die by SIGKILL when the parent does. Entering a user namespace undoes it, so this comes after."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def start_time(pid: int) -> str:
    """Return when a process started, in clock ticks since boot. Raises: OSError when there is none that runs."""
    # The command's name, in parentheses, may hold anything.
    fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    if fields[0] in "ZX":
        raise ProcessLookupError(f"process {pid} has ended")
    return fields[19]


def run_inside(
    paths: LabPaths,
    place: str,
    argv: Sequence[str],
    *,
    is_node: bool,
    environ: Mapping[str, str] | None = None,
) -> int:
    """Run a program in a place of a lab, with our standard streams, and return its exit code.

    Raises: ConfigError when the lab is not up, KernelError.
    """
    holder = Holder.find(paths)
    if holder is None:
        raise ConfigError(f"lab {paths.root.name} is not up", key="name", hint="calico-engine lab up")
    child = os.fork()
    if child == 0:
        _exit_with(lambda: _enter_and_run(holder, place, argv, dict(environ or os.environ), is_node=is_node))
    return _wait_for(child)


def _enter_and_run(
    holder: Holder, place: str, argv: Sequence[str], environ: dict[str, str], *, is_node: bool
) -> int:
    holder.enter()
    end_with_parent()
    # The PID namespace is entered by children alone.
    child = os.fork()
    if child == 0:
        _exit_with(lambda: _run(place, argv, environ, is_node=is_node))
    return _wait_for(child)


def _run(place: str, argv: Sequence[str], environ: dict[str, str], *, is_node: bool) -> int:
    enter_place(place, is_node=is_node)
    end_with_parent()
    # Our own program is found too, in a virtual environment that is not activated.
    environ["PATH"] = f"{environ.get('PATH', '')}:{Path(sys.executable).parent}:{SYSTEM_PATH}".lstrip(":")
    os.environ["PATH"] = environ["PATH"]
    os.chdir("/")
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGPIPE):
        signal.signal(number, signal.SIG_DFL)
    os.execvpe(argv[0], list(argv), environ)


def _exit_with(call: Callable[[], int]) -> NoReturn:
    """End this forked process with what the call returns; nothing of the parent's clean-up runs here."""
    code = 126
    try:
        code = call()
    except FileNotFoundError as error:
        code = 127
        sys.stderr.write(f"{Path(os.fsdecode(error.filename)).name}: no such program\n")
    except (OSError, KernelError) as error:
        sys.stderr.write(f"{error}\n")
    finally:
        sys.stderr.flush()
        os._exit(code)


def _wait_for(child: int) -> int:
    """Wait for a child, passing on what should end it. Returns its exit code, as a shell would say it."""

    def pass_on(number: int, _frame: FrameType | None) -> None:
        with contextlib.suppress(ProcessLookupError):  # it may have ended just now
            os.kill(child, number)

    # Ctrl-C reaches the whole foreground group by itself.
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGQUIT)}
    before |= {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        _, status = os.waitpid(child, 0)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def main(arguments: list[str]) -> int:
    """STATE-DIRECTORY PLACE node|pod PROGRAM ARGUMENT...: run it there, for callers that cannot fork themselves."""
    root, place, kind, *argv = arguments
    return run_inside(LabPaths(Path(root)), place, argv, is_node=kind == "node")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
