"""Ask a lab's holder and its engines, over their unix sockets, from outside the lab."""

from __future__ import annotations

import http.client
import json
import os
import socket
from collections.abc import Mapping
from pathlib import Path

import msgspec

from calico_engine.errors import UnavailableError

_TIMEOUT_S = 30.0


class EngineState(msgspec.Struct, frozen=True, kw_only=True):
    """What the lab needs of an engine's GET /status."""

    datastore: str = ""
    ready: bool = False
    settled: bool = False
    endpoints: dict[str, str] = {}
    rejected: dict[str, str] = {}
    problems: dict[str, str] = {}


def connect(path: Path, timeout_s: float = _TIMEOUT_S) -> socket.socket:
    """Connect to a unix socket however long its path is. Raises: UnavailableError."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    made.settimeout(timeout_s)
    directory = -1
    try:
        # A socket's address holds 107 bytes; a path through our own descriptor is always short enough.
        directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
        made.connect(f"/proc/self/fd/{directory}/{path.name}")
    except OSError as error:
        made.close()
        raise UnavailableError(f"{path}: {error.strerror}; is it up?") from error
    finally:
        if directory >= 0:
            os.close(directory)
    return made


def ask_holder(path: Path, request: Mapping[str, object]) -> dict[str, object]:
    """Return the holder's answer. Raises: UnavailableError, also when the holder says that it failed."""
    with connect(path) as connection:
        try:
            connection.sendall(json.dumps(request).encode() + b"\n")
            data = b"".join(iter(lambda: connection.recv(65536), b""))
            answer = json.loads(data)
        except (OSError, ValueError) as error:
            raise UnavailableError(f"{path}: no answer to {request.get('op')}: {error}") from error
    if not isinstance(answer, dict) or "error" in answer:
        raise UnavailableError(f"lab: {request.get('op')} failed: {answer}")
    return answer


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path
        self._timeout_s = timeout_s

    def connect(self) -> None:
        self.sock = connect(self._path, self._timeout_s)


def ask_engine(path: Path, target: str, *, method: str = "GET", timeout_s: float = _TIMEOUT_S) -> bytes:
    """Return the body of an engine's answer on its control socket. Raises: UnavailableError."""
    connection = _UnixConnection(path, timeout_s)
    try:
        connection.request(method, target)
        answer = connection.getresponse()
        body = answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise UnavailableError(f"{path}: {method} {target}: {error!r}") from error
    finally:
        connection.close()
    if answer.status >= 300:
        raise UnavailableError(
            f"{path}: {method} {target}: {answer.status} {body[:300].decode(errors='replace')}"
        )
    return body


def engine_state(path: Path) -> EngineState:
    """Return an engine's state. Raises: UnavailableError."""
    return msgspec.json.decode(ask_engine(path, "/status"), type=EngineState)
