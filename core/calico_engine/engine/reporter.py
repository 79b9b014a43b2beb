"""Reports this node's and its endpoints' status to the datastore, by interval and soon after a change."""

from __future__ import annotations

import asyncio
import logging
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from calico_engine.engine.events import ApplyFinished, Event
from calico_engine.engine.inspection import endpoint_status
from calico_engine.errors import CalicoEngineError
from calico_engine.plugin.protocols import EndpointStatus, StatusReport

if TYPE_CHECKING:
    from calico_engine.engine.engine import Engine

log = logging.getLogger(__name__)

_TIMEOUT_S = 10.0


async def run(engine: Engine) -> None:
    """Report for ever. ReportingIntervalSecs 0 switches it off; endpoints only with EndpointReportingEnabled."""
    changed = asyncio.Event()
    told: dict[str, EndpointStatus] | None = None
    first = True

    def listen(event: Event) -> None:
        if isinstance(event, ApplyFinished):
            changed.set()

    engine.bus.subscribe(listen)
    while True:
        interval_s = engine.settings.reporting_interval_s
        due = False
        try:
            async with asyncio.timeout(interval_s or 30.0):
                await changed.wait()
        except TimeoutError:
            due = True
        changed.clear()
        if not interval_s:
            continue
        if not due:
            if not engine.settings.endpoint_reporting_enabled or _endpoints(engine) == told:
                continue
            await asyncio.sleep(engine.settings.endpoint_reporting_delay_s)
        told = _endpoints(engine)
        if await _report(engine, told, first=first):
            first = False


def _endpoints(engine: Engine) -> dict[str, EndpointStatus]:
    return endpoint_status(engine) if engine.settings.endpoint_reporting_enabled else {}


async def _report(engine: Engine, endpoints: dict[str, EndpointStatus], *, first: bool) -> bool:
    """Write one report; whether that went well."""
    datastore = engine.pump.datastore if engine.pump else None
    if datastore is None:
        return False
    report = StatusReport(
        node=engine.node,
        time=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        uptime_s=round(time.time() - engine.started_at_s, 3),
        first_update=first,
        endpoints=endpoints,
    )
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            await datastore.report_status(report)
    except (CalicoEngineError, OSError, TimeoutError) as error:
        log.warning("status could not be reported: %s", str(error) or "no answer in time")
    except Exception:
        log.exception("datastore plugin failed in report_status")
    else:
        return True
    return False
