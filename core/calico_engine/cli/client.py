"""Talk to a running engine over its control socket: HTTP with JSON, see engine/control.py."""

from __future__ import annotations

import http.client
import socket
from pathlib import Path

import msgspec

from calico_engine.errors import CalicoEngineError, UnavailableError

SOCKET_NAME = "engine.sock"
DEFAULT_RUN_DIRECTORY = "/var/run/calico"


class NotRunningError(CalicoEngineError):
    """Nobody answers on the control socket."""

    def __init__(self, path: Path, reason: str) -> None:
        self.hint = "start it with `calico-engine run`, or name its --run-dir"
        super().__init__(f"no engine answers on {path}: {reason}")


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def ask(run_dir: str, request: str, *, method: str = "GET", timeout_s: float = 60.0) -> dict[str, object]:
    """Return the engine's answer.

    Raises: NotRunningError; UnavailableError when it cannot answer yet; CalicoEngineError with its words.
    """
    path = Path(run_dir) / SOCKET_NAME
    connection = _UnixConnection(path, timeout_s)
    try:
        connection.request(method, request)
        response = connection.getresponse()
        body = response.read()
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise NotRunningError(path, error.strerror or str(error)) from error
    except TimeoutError as error:
        raise UnavailableError(f"the engine at {path} did not answer within {timeout_s:g} s") from error
    except (OSError, http.client.HTTPException) as error:
        raise CalicoEngineError(f"{path}: {error}") from error
    finally:
        connection.close()
    try:
        answer = msgspec.json.decode(body, type=dict[str, object])
    except msgspec.DecodeError as error:
        raise CalicoEngineError(f"{path}: not an answer of an engine: {error}") from error
    if response.status != http.HTTPStatus.OK:
        text = str(answer.get("error", f"HTTP {response.status}"))
        if response.status == http.HTTPStatus.SERVICE_UNAVAILABLE:
            raise UnavailableError(text)
        raise CalicoEngineError(text)
    return answer
