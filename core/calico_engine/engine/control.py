"""The control socket: what `calico-engine status`, `dump` and `plan` talk to. HTTP with JSON over a unix socket.

    GET  /status                                  EngineStatus
    GET  /dump?what=state|rules|sets|routes|config   what is desired, as data or in the tool's own save format
    GET  /plan                                    {"plugins": {name: [Change]}}: what an apply would change
    POST /apply                                   reads the kernel back and applies: {"results": [ApplyResult]}
    POST /reload                                  reads the profile again, as SIGHUP does: {"needs_restart": [...]}
    POST /switch?dataplane=A,B[&timeout_s=120]    begins to switch: {"switch": SwitchStatus}; null: it is in force
    GET  /switch                                  how that goes: {"switch": SwitchStatus or null}
    GET  /switch?dataplane=A,B                    what it would do: {"would": [line]}
    POST /forget                                  what was switched to is not remembered: {"forgotten": text}

An error is {"error": text} with 400, 404, 409, 500 or 503.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from aiohttp import web

from calico_engine.engine.switch_order import AlreadyInForceError
from calico_engine.engine.switching import DEFAULT_TIMEOUT_S
from calico_engine.errors import CalicoEngineError, ConfigError, UnavailableError
from calico_engine.messages import Message

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from calico_engine.engine.engine import Engine

log = logging.getLogger(__name__)

SOCKET_NAME = "engine.sock"
DUMPS = ("state", "rules", "sets", "routes", "config")


async def start(engine: Engine) -> web.AppRunner | None:
    """Listen on the engine's socket; what an engine that died left there goes first.

    None when there can be no socket: reported, and the engine goes on without.
    """
    path = engine.run_dir / SOCKET_NAME
    runner = web.AppRunner(application(engine), access_log=None)
    await runner.setup()
    try:
        path.unlink(missing_ok=True)  # the run lock says that nobody else listens
        await web.UnixSite(runner, str(path)).start()
        _restrict(path)
    except OSError as error:
        log.warning("no control socket, `status` and `plan` will not reach this engine: %s: %s", path, error)
        await runner.cleanup()
        return None
    return runner


def _restrict(path: Path) -> None:
    path.chmod(0o660)


async def stop(engine: Engine, runner: web.AppRunner) -> None:
    await runner.cleanup()
    (engine.run_dir / SOCKET_NAME).unlink(missing_ok=True)


def application(engine: Engine) -> web.Application:
    """The control endpoints of an engine."""

    async def status(_: web.Request) -> web.Response:
        return _json(engine.status())

    async def dump(request: web.Request) -> web.Response:
        what = request.query.get("what", "state")
        if what not in DUMPS:
            return _json({"error": f"no dump {what!r}; there are: {', '.join(DUMPS)}"}, status=404)
        return _json(dump_of(engine, what))

    async def plan(_: web.Request) -> web.Response:
        return _json({"plugins": await engine.plan()})

    async def apply(_: web.Request) -> web.Response:
        return _json({"results": await engine.apply_now()})

    async def reload(_: web.Request) -> web.Response:
        return _json({"needs_restart": engine.reload_from_source()})

    async def begin_switch(request: web.Request) -> web.Response:
        names = request.query.get("dataplane", "").split(",")
        try:
            return _json({"switch": engine.switcher.begin(names, _seconds(request, "timeout_s"))})
        except AlreadyInForceError as error:
            return _json({"switch": None, "in_force": error.names, "remembered": error.remembered})

    async def show_switch(request: web.Request) -> web.Response:
        if "dataplane" in request.query:
            return _json({"would": await engine.switcher.rehearse(request.query["dataplane"].split(","))})
        return _json({"switch": engine.switcher.status})

    async def forget(_: web.Request) -> web.Response:
        return _json({"forgotten": await engine.switcher.forget()})

    made = web.Application(middlewares=[_errors_as_json])
    made.add_routes(
        [
            web.get("/status", status),
            web.get("/dump", dump),
            web.get("/plan", plan),
            web.post("/apply", apply),
            web.post("/reload", reload),
            web.post("/switch", begin_switch),
            web.get("/switch", show_switch),
            web.post("/forget", forget),
        ]
    )
    return made


def dump_of(engine: Engine, what: str) -> dict[str, object]:
    """The desired state as data; `rules` and `routes` as each plugin prints it."""
    answer: dict[str, object] = {"node": engine.node, "what": what, "revision": engine.world.revision}
    if what == "state":
        answer["messages"] = [_typed(message) for message in engine.world.messages()]
    elif what == "sets":
        answer["sets"] = engine.world.sorted_sets()
    elif what == "config":
        answer["settings"] = engine.settings
    else:
        family = "dataplane" if what == "rules" else "routing"
        members = engine.applier.members.values() if engine.applier else ()
        answer["plugins"] = {m.full_name: m.plugin.render() for m in members if m.family == family}
    return answer


def _seconds(request: web.Request, name: str) -> float:
    """Return a time of the request. Raises: ConfigError for what is none."""
    text = request.query.get(name, f"{DEFAULT_TIMEOUT_S:g}")
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0 < found < float("inf"):
        raise ConfigError(f"{name} {text!r}", key=name, hint="a number of seconds, more than 0")
    return found


def _typed(message: Message) -> dict[str, object]:
    """A Message as JSON data with its type's name in front."""
    return {"message": type(message).__name__, **msgspec.to_builtins(message, enc_hook=str)}


def _json(value: object, status: int = 200) -> web.Response:
    try:
        body = msgspec.json.encode(_plain(value))
    except UnicodeEncodeError:
        # What a plugin quotes may hold bytes that are no text; an answer must not fail for it.
        body = json.dumps(_plain(value), default=str, ensure_ascii=False).encode("utf-8", "replace")
    return web.Response(body=body, status=status, content_type="application/json")


def _plain(value: object) -> object:
    """Mappings keyed by ResourceKey become mappings keyed by text; the rest msgspec knows."""
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if isinstance(value, msgspec.Struct):
        return {name: _plain(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, (set, frozenset)):
        return sorted((_plain(inner) for inner in value), key=str)
    return value


@web.middleware
async def _errors_as_json(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except UnavailableError as error:
        return _json({"error": str(error)}, status=503)
    except ConfigError as error:
        return _json({"error": str(error)}, status=400)
    except CalicoEngineError as error:
        return _json({"error": str(error)}, status=409)
    except web.HTTPException:
        raise
    except Exception as error:
        log.exception("control: %s %s failed", request.method, request.path)
        return _json({"error": f"{type(error).__name__}: {error}"}, status=500)
