"""The process that is a lab: it owns the namespaces, and everything in the lab is a child of it.

    python -m calico_engine.lab.holder STATE-DIRECTORY [--end-with-parent]

It makes new namespaces for itself (network: the fabric; mounts; processes; users when it is not root), builds what
lab.json says, starts the engines and answers requests until it is told to end. When it dies, by whatever signal, the
kernel ends all processes in its PID namespace, and every namespace, link, rule and route goes with them.

Requests: one JSON object a connection on holder.sock; the answer is one, with "error" when it failed.
    {"op": "status"}                              {"ready", "phase", "failure", "engines": {node: {"pid", "exit"}}}
    {"op": "start", "node": N}                    starts the engine of a node
    {"op": "signal", "node": N, "signal": 15}     sends it a signal; its pids are those of the lab
    {"op": "update"}                              reads lab.json again; adds and removes nodes and pods
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import logging
import os
import selectors
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import msgspec

from calico_engine.errors import CalicoEngineError, KernelError
from calico_engine.kernel.namespaces import (
    CLONE_NEWNET,
    CLONE_NEWPID,
    CLONE_NEWUSER,
    CLONE_NEWUTS,
    unshare_namespaces,
)
from calico_engine.lab import topology
from calico_engine.lab.entering import (
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    PR_SET_DUMPABLE,
    SYSTEM_PATH,
    end_with_parent,
    enter_place,
    mount,
    mount_run,
    privatise_mounts,
    start_time,
)
from calico_engine.lab.paths import INSIDE, LabPaths
from calico_engine.lab.plan import FABRIC, LabPlan

log = logging.getLogger("calico_engine.lab.holder")

ENGINE_LIMIT_BYTES = 1 << 20


class LabHolder:
    """What runs as the first process of the lab."""

    def __init__(self, paths: LabPaths) -> None:
        self._paths = paths
        self._plan = LabPlan(name="", profile="")
        self._engines: dict[str, subprocess.Popen[bytes]] = {}
        self._exits: dict[str, int] = {}
        self._phase = "starting"
        self._failure = ""
        self._ready = False

    def serve(self) -> None:
        """Build the lab and answer requests for ever."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # The directory's name may be longer than a socket's may be.
        os.chdir(self._paths.root)
        Path(self._paths.socket.name).unlink(missing_ok=True)
        listener.bind(self._paths.socket.name)
        listener.listen(16)
        listener.settimeout(0)
        woken, waker = socket.socketpair()
        for end in (woken, waker):
            end.settimeout(0)
        signal.set_wakeup_fd(waker.fileno())
        signal.signal(signal.SIGCHLD, lambda *_: None)
        selector = selectors.DefaultSelector()
        selector.register(listener, selectors.EVENT_READ)
        selector.register(woken, selectors.EVENT_READ)
        steps: Iterator[str] | None = self._steps()
        while True:
            # One step of building between looks at the socket: `status` says how far it is.
            for key, _ in selector.select(0 if steps is not None else None):
                if key.fileobj is woken:
                    with contextlib.suppress(BlockingIOError):
                        woken.recv(4096)
                else:
                    self._answer(listener)
            self._reap()
            if steps is not None and not self._advance(steps):
                steps = None

    def _advance(self, steps: Iterator[str]) -> bool:
        """Do one step; False at the end, well or not."""
        try:
            self._phase = next(steps)
        except StopIteration:
            self._ready, self._phase = True, "ready"
            return False
        except (CalicoEngineError, OSError, msgspec.MsgspecError) as error:
            log.exception("the lab cannot be built")
            self._failure = f"{self._phase}: {error}"
            return False
        return True

    def _steps(self) -> Iterator[str]:
        self._plan = self._read_plan()
        topology.forward_packets()
        topology.make_fabric(self._plan)
        yield "making nodes"
        for node in self._plan.nodes:
            topology.make_node(node, self._plan.gateways)
            yield f"made node {node.name}"
        for node in self._plan.nodes:
            self._start(node.name)
            yield f"started the engine of {node.name}"
        for pod in self._plan.pods:
            topology.make_pod(pod)
            yield f"made pod {pod.name}"

    def _read_plan(self) -> LabPlan:
        return msgspec.json.decode(self._paths.plan.read_bytes(), type=LabPlan)

    def _answer(self, listener: socket.socket) -> None:
        try:
            connection, _ = listener.accept()
        except BlockingIOError:
            return
        with connection:
            connection.settimeout(5.0)
            try:
                request = json.loads(_read_line(connection))
                answer = self._handle(request)
            except (CalicoEngineError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                log.warning("request failed: %s", error)
                answer = {"error": f"{type(error).__name__}: {error}"}
            with contextlib.suppress(OSError):
                connection.sendall(json.dumps(answer).encode() + b"\n")

    def _handle(self, request: dict[str, object]) -> dict[str, object]:
        match request:
            case {"op": "status"}:
                return self._status()
            case {"op": "start", "node": str(node)}:
                self._start(node)
                return self._status()
            case {"op": "signal", "node": str(node), "signal": int(number)}:
                process = self._engines.get(node)
                if process is None:
                    return {"error": f"no engine runs on {node}"}
                process.send_signal(number)
                return self._status()
            case {"op": "update"}:
                self._update()
                return self._status()
        return {"error": f"no such request: {request}"}

    def _status(self) -> dict[str, object]:
        engines: dict[str, dict[str, int | None]] = {
            node.name: {"pid": None, "exit": self._exits.get(node.name)} for node in self._plan.nodes
        }
        for node, process in self._engines.items():
            engines[node] = {"pid": process.pid, "exit": None}
        return {"ready": self._ready, "phase": self._phase, "failure": self._failure, "engines": engines}

    def _update(self) -> None:
        """Bring nodes and pods to what lab.json says now. Raises: CalicoEngineError, OSError."""
        before, now = self._plan, self._read_plan()
        present = {node.name for node in before.nodes}
        for pod in before.pods:
            if pod not in now.pods:
                topology.remove_pod(pod)
        for node in now.nodes:
            if node.name not in present:
                topology.make_node(node, now.gateways)
                self._start(node.name)
        for pod in now.pods:
            if pod not in before.pods:
                topology.make_pod(pod)
        self._plan = msgspec.structs.replace(
            now, nodes=(*before.nodes, *(n for n in now.nodes if n.name not in present))
        )

    def _start(self, node: str) -> None:
        """Start a node's engine. Raises: OSError."""
        if node in self._engines:
            return
        if node not in {known.name for known in self._plan.nodes}:
            raise KeyError(f"no node {node}")
        path = self._paths.engine_log(node)
        path.parent.mkdir(parents=True, exist_ok=True)
        overrides = (f"options.file.path={INSIDE / 'manifests'}", *self._plan.overrides)
        argv = [sys.executable, "-m", "calico_engine.lab.agent", self._plan.profile, node, *overrides]
        environ = {**os.environ, "PATH": f"{os.environ.get('PATH', '')}:{SYSTEM_PATH}"}
        with path.open("ab") as output:
            self._engines[node] = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environ,
                cwd="/",
                start_new_session=True,
                preexec_fn=lambda: enter_place(node, is_node=True),  # noqa: PLW1509  # there are no threads
            )
        self._exits.pop(node, None)
        log.info("engine started: node=%s pid=%d", node, self._engines[node].pid)

    def _reap(self) -> None:
        """Take note of engines that ended, and bury what was orphaned: the first process inherits it."""
        for node, process in list(self._engines.items()):
            code = process.poll()
            if code is not None:
                del self._engines[node]
                self._exits[node] = code
                log.warning("engine ended: node=%s exit=%d", node, code)
        ours = {process.pid for process in self._engines.values()}
        while True:
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if found is None or found.si_pid in ours:
                return
            os.waitpid(found.si_pid, 0)


def _read_line(connection: socket.socket) -> bytes:
    data = b""
    while not data.endswith(b"\n") and len(data) < ENGINE_LIMIT_BYTES:
        more = connection.recv(65536)
        if not more:
            break
        data += more
    return data


def main(arguments: list[str]) -> int:
    """Become the lab of a state directory; returns when it stands by itself, or has ended with its parent."""
    root = Path(arguments[0]).resolve()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    if "--end-with-parent" in arguments:
        end_with_parent()
        return _keep(root, lambda: None)
    told, tell = os.pipe()
    if os.fork() == 0:
        os.close(told)
        os._exit(_keep(root, lambda: os.write(tell, b"up")))
    os.close(tell)
    # Nothing comes when it failed: its words are in the log.
    return 0 if os.read(told, 2) else 1


def _keep(root: Path, on_made: Callable[[], object]) -> int:
    """Make the namespaces and keep them until the first process in them ends."""
    paths = LabPaths(root)
    lock = os.open(paths.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.stderr.write(f"lab {root.name} has a holder already, or is being removed\n")
        return 2
    if not paths.lock.exists() or paths.lock.stat().st_ino != os.fstat(lock).st_ino:
        sys.stderr.write(f"lab {root.name} was removed before it was made\n")
        return 2
    try:
        _unshare_all()
    except (CalicoEngineError, OSError) as error:
        sys.stderr.write(
            f"this user cannot make the lab's namespaces here: {error}; a container needs --privileged, "
            "and see docs/lab.md, Without root\n"
        )
        return 1
    wait, go = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(lock)
        os.close(go)
        # Nothing is made before the lock says who we are.
        if not os.read(wait, 1):
            os._exit(1)
        _become_first_process(paths)
    signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGKILL))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    word = {"outer": os.getpid(), "inner": child, "started": start_time(os.getpid())}
    os.pwrite(lock, json.dumps(word).encode(), 0)
    os.ftruncate(lock, len(json.dumps(word)))
    os.write(go, b"g")
    on_made()
    # Ends once every process of the PID namespace has ended.
    os.waitpid(child, 0)
    return 0


def _unshare_all() -> None:
    kinds = CLONE_NEWNET | CLONE_NEWPID | CLONE_NEWUTS
    if os.geteuid() == 0 and os.environ.get("CALICO_ENGINE_LAB_USERNS") != "1":
        try:
            unshare_namespaces(kinds)
        except KernelError as error:
            # Root of a container, say: what it lacks it has in a user namespace, where it may make one.
            if error.errno != errno.EPERM:
                raise
        else:
            return
    user, group = os.geteuid(), os.getegid()
    unshare_namespaces(kinds | CLONE_NEWUSER)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1")


def _become_first_process(paths: LabPaths) -> NoReturn:
    code = 1
    try:
        end_with_parent()
        libc = ctypes.CDLL(None, use_errno=True)
        # Having changed users we are not readable in /proc by our own user, who is to enter these namespaces.
        libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)
        privatise_mounts()
        mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
        mount_run(paths.root, FABRIC)
        LabHolder(paths.inside()).serve()
    except BaseException:
        log.exception("the lab's first process failed")
    finally:
        os._exit(code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
