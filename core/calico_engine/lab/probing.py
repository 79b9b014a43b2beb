"""Ask every pair of pods whether they can talk, and compare with what the manifests say they should.

The prediction is `calico_engine.evaluation`'s, from the resources alone; the answer is real packets.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Sequence

import msgspec

from calico_engine.errors import ConfigError, UnavailableError
from calico_engine.evaluation import Flow, Verdict, World, evaluate
from calico_engine.lab.cluster import Lab
from calico_engine.lab.plan import FABRIC, LabPlan, PodPlan
from calico_engine.lab.prober import Job, Probe, ProbeResult, Spot
from calico_engine.lab.prober import Verdict as ProbeVerdict
from calico_engine.model import Resource

DEFAULT_PORTS = (80,)
#: Long enough for one SYN to be lost and sent again.
DEFAULT_TIMEOUT_S = 1.3

OUTSIDE = "outside"
#: The packet reached the pod, or it did not.
_ARRIVED = frozenset({ProbeResult.OPEN, ProbeResult.REFUSED})
_STOPPED = frozenset({ProbeResult.DENIED, ProbeResult.UNREACHABLE})


class ProbeWish(msgspec.Struct, frozen=True, kw_only=True):
    """What to try: every pair of these pods (all when empty), each port, each family, ICMP when asked for."""

    pods: tuple[str, ...] = ()
    tcp: tuple[int, ...] = DEFAULT_PORTS
    udp: tuple[int, ...] = ()
    icmp: bool = False
    families: tuple[int, ...] = (4, 6)
    with_outside: bool = False
    timeout_s: float = DEFAULT_TIMEOUT_S


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """One probe: what was tried, what came of it, what the manifests say, and who decides."""

    source: str
    destination: str
    address: str
    family: int
    protocol: str
    port: int
    result: ProbeResult
    elapsed_ms: float
    expected: str
    as_expected: bool
    decided_by: str
    rule_index: int | None
    direction: str
    reason: str
    detail: str = ""


class _Place(msgspec.Struct, frozen=True):
    """An end of probes: its name in the picture, its namespace, its addresses by family."""

    name: str
    spot: str
    addresses: dict[int, str]


def run_probes(lab: Lab, wish: ProbeWish) -> list[Outcome]:
    """Try everything and return the outcomes in order. Raises: ConfigError, UnavailableError."""
    plan = lab.plan()
    places = _places(plan, wish)
    probes = list(_probes(places, wish))
    serves = tuple([("tcp", port) for port in wish.tcp] + [("udp", port) for port in wish.udp])
    spots = tuple(Spot(place.spot, tuple(place.addresses.values()), serves) for place in places)
    tried = [probe for _, _, _, probe in probes]
    verdicts = _run_prober(lab, Job(spots, tuple(tried), wish.timeout_s))
    world = World(lab.resources())
    outcomes = [
        _outcome(world, source, destination, family, probe, verdict)
        for (source, destination, family, probe), verdict in zip(probes, verdicts, strict=True)
    ]
    return _try_silent_again(lab, spots, tried, outcomes, wish.timeout_s)


def _try_silent_again(
    lab: Lab, spots: tuple[Spot, ...], tried: Sequence[Probe], outcomes: list[Outcome], timeout_s: float
) -> list[Outcome]:
    """Ask once more, patiently, what should have answered and did not: on a busy machine silence may be mere delay.

    What answers where it should not is never asked again.
    """
    silent = [
        index
        for index, outcome in enumerate(outcomes)
        if outcome.result is ProbeResult.DENIED and not outcome.as_expected
    ]
    if not silent:
        return outcomes
    again = _run_prober(lab, Job(spots, tuple(tried[index] for index in silent), timeout_s * 3))
    for index, verdict in zip(silent, again, strict=True):
        outcomes[index] = msgspec.structs.replace(
            outcomes[index],
            result=verdict.result,
            elapsed_ms=verdict.elapsed_ms,
            detail=verdict.detail or "tried twice",
            as_expected=verdict.result in _ARRIVED,
        )
    return outcomes


def predict(
    resources: Iterable[Resource], source: str, destination: str, protocol: str, port: int
) -> Verdict:
    """Return what the manifests say of a flow between two addresses."""
    return evaluate(World(resources), Flow(src=source, dst=destination, protocol=protocol, dst_port=port))


def _places(plan: LabPlan, wish: ProbeWish) -> list[_Place]:
    pods = [plan.pod(name) for name in wish.pods] if wish.pods else list(plan.pods)
    places = [_place_of(pod, wish.families) for pod in pods]
    if wish.with_outside:
        outside = {6 if ":" in net else 4: net.partition("/")[0] for net in plan.outside}
        chosen = {family: address for family, address in outside.items() if family in wish.families}
        places.append(_Place(OUTSIDE, FABRIC, chosen))
    if len(places) < 2:
        raise ConfigError("there is no pair of pods to probe", key="pods", hint="name two, or add endpoints")
    return places


def _place_of(pod: PodPlan, families: Sequence[int]) -> _Place:
    addresses = {family: pod.address(family) for family in families if pod.address(family)}
    return _Place(pod.name, pod.name, addresses)


def _probes(places: Sequence[_Place], wish: ProbeWish) -> Iterable[tuple[_Place, _Place, int, Probe]]:
    kinds = [("tcp", port) for port in wish.tcp] + [("udp", port) for port in wish.udp]
    kinds += [("icmp", 0)] if wish.icmp else []
    for protocol, port in kinds:
        for family in wish.families:
            for source in places:
                for destination in places:
                    address = destination.addresses.get(family)
                    if source is destination or not address or family not in source.addresses:
                        continue
                    # The outside world has no way back to an address that is not a node's.
                    if source.spot == FABRIC:
                        continue
                    yield (
                        source,
                        destination,
                        family,
                        Probe(source.spot, destination.spot, address, protocol, port),
                    )


def _run_prober(lab: Lab, job: Job) -> list[ProbeVerdict]:
    longest_s = job.timeout_s * (1 + len(job.probes) / 100) + 30
    try:
        done = subprocess.run(
            [sys.executable, "-m", "calico_engine.lab.prober", str(lab.paths.root)],
            input=msgspec.json.encode(job),
            capture_output=True,
            check=False,
            timeout=longest_s,
        )
    except subprocess.TimeoutExpired as error:
        raise UnavailableError(f"lab {lab.name}: the prober did not end in {longest_s:g} s") from error
    if done.returncode != 0:
        raise UnavailableError(
            f"lab {lab.name}: the prober failed: {done.stderr.decode(errors='replace').strip()}"
        )
    return msgspec.json.decode(done.stdout, type=list[ProbeVerdict])


def _outcome(
    world: World, source: _Place, destination: _Place, family: int, probe: Probe, verdict: ProbeVerdict
) -> Outcome:
    protocol = "icmpv6" if probe.protocol == "icmp" and family == 6 else probe.protocol
    flow = Flow(src=source.addresses[family], dst=probe.address, protocol=protocol, dst_port=probe.port)
    said = evaluate(world, flow)
    arrived = verdict.result in _ARRIVED
    stopped = verdict.result in _STOPPED
    return Outcome(
        source=source.name,
        destination=destination.name,
        address=probe.address,
        family=family,
        protocol=probe.protocol,
        port=probe.port,
        result=verdict.result,
        elapsed_ms=verdict.elapsed_ms,
        expected=str(said.action),
        as_expected=arrived if said.allowed else stopped,
        decided_by=str(said.policy or ""),
        rule_index=said.rule_index,
        direction=str(said.direction or ""),
        reason=said.reason,
        detail=verdict.detail,
    )
