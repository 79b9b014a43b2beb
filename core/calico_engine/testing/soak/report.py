"""What a soak run found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import msgspec

from calico_engine.testing.soak.sentry import Sighting


class Kill(msgspec.Struct, frozen=True, kw_only=True):
    """One kill: where, when and whom, what ran just then, and how long until the node was whole again."""

    number: int
    node: str
    moment: str
    victims: str
    running: tuple[str, ...]
    at_s: float


class SoakReport(msgspec.Struct, kw_only=True):
    """All of a run. `failures` is empty exactly when everything held."""

    backend: str
    seed: int
    kills: list[Kill] = []
    failures: list[str] = []
    restarts: int = 0
    versions: int = 0
    comparisons: int = 0
    duration_s: float = 0.0
    slowest_restart_s: float = 0.0
    longest_rest_s: float = 0.0
    sighting: Sighting | None = None
    lost_at: list[str] = []

    def lines(self) -> Iterator[str]:
        """Yield the report in lines for people."""
        yield self.headline()
        yield from (f"  {line}" for line in self.details())
        for title, counts in self.tallies().items() if self.kills else ():
            yield f"  {title:16} " + ", ".join(f"{name}: {count}" for name, count in counts.most_common())
        yield f"  restarts         {self.restarts}, the slowest whole again after {self.slowest_restart_s:.1f} s"
        yield f"  empty plan       at most {self.longest_rest_s:.1f} s after that, reading included"
        yield f"  manifests        {self.versions} versions; {self.comparisons} comparisons with a fresh run"
        if (seen := self.sighting) is not None:
            yield f"  denied flows     {seen.denied_sent} packets sent, {len(seen.leaks)} got through"
            yield f"  allowed flows    {seen.allowed_sent} packets sent, {seen.lost} lost"
            yield (
                f"  connections      {seen.connections} kept open, {seen.broken} broken, "
                f"longest wait for an answer {seen.longest_stall_s * 1000:.0f} ms"
            )
        yield f"  failures         {len(self.failures) or 'none'}"
        yield from (f"    {failure}" for failure in self.failures)

    def headline(self) -> str:
        return (
            f"iptables-{self.backend}, seed {self.seed}: {len(self.kills)} kills in {self.duration_s:.0f} s"
        )

    def details(self) -> list[str]:
        """Return what only this kind of run has to say."""
        return []

    def tallies(self) -> dict[str, Counter[str]]:
        return {
            "killed when": Counter(kill.moment for kill in self.kills),
            "killed": Counter(kill.victims for kill in self.kills),
            "running then": Counter(name for kill in self.kills for name in kill.running or ("no program",)),
        }
