"""The engine's HTTP servers: health and metrics on TCP as settings say, control on a unix socket.

health   GET /liveness, /readiness   200 with detail, 204 without, 503 when bad
metrics  GET /metrics                Prometheus text
control  engine/control.py, at <run_dir>/engine.sock, for root and its group alone
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec
from aiohttp import web

from calico_engine.engine import control, logs
from calico_engine.engine.status import Health, render_health
from calico_engine.settings import FelixSettings

if TYPE_CHECKING:
    from calico_engine.engine.engine import Engine

log = logging.getLogger(__name__)

_RETRY_S = 10.0


class Address(msgspec.Struct, frozen=True):
    """Where a TCP server listens; an empty host is every address."""

    host: str
    port: int


async def run(engine: Engine) -> None:
    """Serve until cancelled; follow changes of settings. A port in use is reported and tried again."""
    changed = asyncio.Event()
    engine.on_settings(lambda _: changed.set())
    running: dict[str, tuple[Address, web.AppRunner]] = {}
    control_runner = await control.start(engine) if engine.profile.engine.control_socket else None
    try:
        while True:
            changed.clear()
            complete = await _follow(engine, running)
            try:
                async with asyncio.timeout(None if complete else _RETRY_S):
                    await changed.wait()
            except TimeoutError:
                pass
    finally:
        for _, runner in running.values():
            await runner.cleanup()
        if control_runner is not None:
            await control.stop(engine, control_runner)


async def _follow(engine: Engine, running: dict[str, tuple[Address, web.AppRunner]]) -> bool:
    """Start and stop servers until they are as the settings want; whether that went well."""
    complete = True
    for name, address, make in _wanted(engine, engine.settings):
        present = running.get(name)
        if present is not None and present[0] != address:
            await running.pop(name)[1].cleanup()
            present = None
        if address is None or present is not None:
            continue
        runner = web.AppRunner(make(), access_log=None)
        await runner.setup()
        try:
            await _listen(runner, address)
        except OSError as error:
            log.warning(
                "%s server cannot listen on %s port %d: %s", name, address.host or "*", address.port, error
            )
            await runner.cleanup()
            complete = False
            continue
        log.info("%s server listens on %s port %d", name, address.host or "*", address.port)
        running[name] = (address, runner)
    return complete


async def _listen(runner: web.AppRunner, address: Address) -> None:
    """Listen on every address the host has. Raises: OSError when there is none to listen on.

    One by one: "localhost" is ::1 too, also where IPv6 is switched off.
    """
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(
        address.host or None, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    errors: list[OSError] = []
    hosts = sorted({str(sockaddr[0]) for *_, sockaddr in found})
    for host in hosts:
        try:
            await web.TCPSite(runner, host, address.port).start()
        except OSError as error:
            errors.append(error)
    unavailable = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
    refused = [error for error in errors if error.errno not in unavailable]
    if refused or len(errors) == len(hosts):
        raise (refused or errors)[0]


def _wanted(
    engine: Engine, settings: FelixSettings
) -> list[tuple[str, Address | None, Callable[[], web.Application]]]:
    health = Address(settings.health_host, settings.health_port) if settings.health_enabled else None
    metrics = None
    if settings.prometheus_metrics_enabled:
        metrics = Address(settings.prometheus_metrics_host, settings.prometheus_metrics_port)
    return [
        ("health", health, lambda: health_application(engine)),
        ("metrics", metrics, lambda: metrics_application(engine)),
    ]


def health_application(engine: Engine) -> web.Application:
    """The health endpoints of an engine."""

    async def liveness(_: web.Request) -> web.Response:
        parts = engine.health()
        return _health_response(parts, good=all(part.live for part in parts))

    async def readiness(_: web.Request) -> web.Response:
        parts = engine.health()
        return _health_response(parts, good=all(part.ready for part in parts))

    application = web.Application()
    application.add_routes([web.get("/liveness", liveness), web.get("/readiness", readiness)])
    return application


def metrics_application(engine: Engine) -> web.Application:
    """The metrics endpoint of an engine."""

    async def metrics(_: web.Request) -> web.Response:
        lost = logs.lost_records() - engine.metrics.value("felix_log_errors")
        engine.metrics.count("felix_log_errors", lost)
        return web.Response(
            body=engine.metrics.render().encode(), headers={"Content-Type": "text/plain; version=0.0.4"}
        )

    application = web.Application()
    application.add_routes([web.get("/metrics", metrics)])
    return application


def _health_response(parts: tuple[Health, ...], *, good: bool) -> web.Response:
    text = render_health(parts)
    if good and not text:
        return web.Response(status=204)
    return web.Response(text=text, status=200 if good else 503)
