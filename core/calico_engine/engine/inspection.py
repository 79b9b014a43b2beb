"""Reads health and status off a running Engine."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from calico_engine import __version__
from calico_engine.engine.member import Member, combined_status
from calico_engine.engine.status import EngineStatus, Health, MemberStatus
from calico_engine.plugin.protocols import EndpointStatus, ReportsProblems, SyncStatus

if TYPE_CHECKING:
    from calico_engine.engine.engine import Engine

_GRAPH_HANG_S = 300.0  # a first flush of a big cluster may take minutes on a small machine


def health(engine: Engine) -> tuple[Health, ...]:
    """The health of datastore, graph and dataplane."""
    return (_datastore(engine), _graph(engine), _dataplane(engine))


def endpoint_status(engine: Engine) -> dict[str, EndpointStatus]:
    """Every local endpoint's status as the plugins report it; down for one that nobody reports."""
    world = engine.world
    reported = combined_status(engine.applier.members) if engine.applier else {}
    silent = EndpointStatus.DOWN if engine.profile.engine.plumbing else EndpointStatus.UP
    keys = sorted([*world.workloads, *world.host_endpoints])
    return {str(key): reported.get(key, silent) for key in keys}


def problems(engine: Engine) -> dict[str, str]:
    """What settings and plugins say is wrong now, subject -> sentence."""
    found = {f"settings {number}": text for number, text in enumerate(engine.resolver.problems, 1)}
    plugins: list[object] = [
        member.plugin for member in (engine.applier.members if engine.applier else {}).values()
    ]
    plugins.append(engine.pump.datastore if engine.pump else None)
    for plugin in plugins:
        if isinstance(plugin, ReportsProblems):
            found.update(plugin.problems)
    switch = engine.switcher.status
    if switch is not None and switch.trouble:
        found["switch"] = switch.trouble
    return found


def notices(engine: Engine) -> tuple[str, ...]:
    """What is asked for and not in effect, and why."""
    found = []
    if engine.settings.ipv6_support and 6 not in engine.families:
        found.append("this kernel has no IPv6: Ipv6Support is not in effect")
    if engine.profile.dataplane != engine.switcher.profile:
        later = (
            "`switch --forget` has the next start ask it"
            if engine.switcher.choice.chosen
            else "the next start asks it"
        )
        found.append(
            f"dataplane {', '.join(engine.profile.dataplane)} was chosen by `switch`, the profile says "
            f"{', '.join(engine.switcher.profile) or 'none'}: {later}"
        )
    return tuple(found)


def status(engine: Engine) -> EngineStatus:
    """The whole engine at this moment."""
    now_s = engine.now_s()
    parts = health(engine)
    runner, applier = engine.runner, engine.applier
    members = applier.members.values() if applier else ()
    return EngineStatus(
        node=engine.node,
        profile=engine.profile.name,
        version=__version__,
        pid=os.getpid(),
        uptime_s=time.time() - engine.started_at_s,
        datastore=runner.status if runner else SyncStatus.WAIT_FOR_DATASTORE,
        live=all(part.live for part in parts),
        ready=all(part.ready for part in parts),
        settled=engine.is_settled(),
        revision=engine.world.revision,
        passes=applier.passes if applier else 0,
        plugins=tuple(_member(member, now_s) for member in members),
        endpoints=endpoint_status(engine),
        rejected=dict(sorted(runner.rejected.items())) if runner else {},
        counts=engine.world.counts(),
        problems=problems(engine),
        warnings=tuple(engine.warnings),
        notices=(*engine.resolver.notices, *notices(engine)),
        dataplane=engine.profile.dataplane,
        switch=engine.switcher.status,
    )


def _datastore(engine: Engine) -> Health:
    """Once everything has been in sync, a datastore that is away leaves the node as ready as it was."""
    current = engine.runner.status if engine.runner else SyncStatus.WAIT_FOR_DATASTORE
    ready = current is SyncStatus.IN_SYNC or engine.world.in_sync
    return Health(part="datastore", live=True, ready=ready, detail=str(current))


def _graph(engine: Engine) -> Health:
    since_s = engine.runner.busy_since_s if engine.runner else None
    busy_s = engine.now_s() - since_s if since_s is not None else 0.0
    live = busy_s < _GRAPH_HANG_S
    detail = "" if live else f"busy for {busy_s:.0f} s"
    return Health(part="calc_graph", live=live, ready=engine.world.in_sync, detail=detail)


def _dataplane(engine: Engine) -> Health:
    if engine.applier is None:
        return Health(part="int_dataplane", live=True, ready=False, detail="not started")
    watchdog_s = engine.settings.dataplane_watchdog_timeout_s
    since_s = engine.applier.applying_since_s
    busy_s = engine.now_s() - since_s if since_s is not None else 0.0
    live = not watchdog_s or busy_s < watchdog_s
    problems = [
        f"{m.full_name}: {m.last_error or m.state}" for m in engine.applier.members.values() if not m.is_well
    ]
    if not live:
        problems.append(f"applying for {busy_s:.0f} s")
    ready = not problems and engine.world.in_sync
    return Health(part="int_dataplane", live=live, ready=ready, detail="; ".join(problems))


def _member(member: Member, now_s: float) -> MemberStatus:
    return MemberStatus(
        name=member.name,
        family=member.family,
        state=str(member.state),
        error=member.last_error,
        failures=member.apply_back_off.failures + member.prune_back_off.failures,
        age_s=now_s - member.last_apply_s if member.last_apply_s is not None else None,
        duration_s=member.last_duration_s,
        writes=member.writes,
        rebuilds=member.rebuilds,
        next_resync_s=member.resync_at_s - now_s if member.resync_at_s is not None else None,
    )
