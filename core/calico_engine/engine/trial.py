"""Dataplanes that are programmed beside those in force, until they are verified and take over.

The first apply is the long one: `warm_up` does it beside the applier's passes, so that it holds up no change of policy;
batches that come meanwhile wait for its end. Then the applier feeds the members every batch, and applies them at the
end of each pass. In the pass in which all of them are applied, the kernel read back is as they want it and no endpoint
is worse off, they replace the others before the next batch is handed on: there is no moment in which one of the two
knows more than the other.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence

from calico_engine.engine.member import STATUS_RANK, Member, combined_status
from calico_engine.messages import Batch
from calico_engine.model.resource import ResourceKey
from calico_engine.plugin.protocols import EndpointStatus, ReportsProblems

log = logging.getLogger(__name__)

#: Enough for what the kernel is slow to let go of, and few: an endpoint that is worse off is cut off meanwhile.
_ATTEMPTS = 5
AGAIN_S = 0.2
_SHOWN = 3


class Trial:
    """`members` join, `in_force` is all there will be. `outcome` is "" once they have taken over, else the reason."""

    def __init__(
        self,
        members: Sequence[Member],
        in_force: Sequence[Member],
        *,
        ends_at_s: float,
        on_verified: Callable[[], Awaitable[None]],
    ) -> None:
        """`on_verified` makes the change known before it happens; when it raises, the trial has failed."""
        self.members = tuple(members)
        self.in_force = tuple(in_force)
        self.on_verified = on_verified
        self.outcome: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.is_committing = False
        self.is_warming = True
        self.arrived: list[Batch] = []
        self.fault = "it was not applied yet"
        self._ends_at_s = ends_at_s
        self._attempts = 0
        self._again_at_s = 0.0

    @property
    def is_over(self) -> bool:
        return self.outcome.done()

    @property
    def is_due(self) -> bool:
        """Whether to verify now: not at once after a refusal, however many batches cause passes."""
        return self._now_s() >= self._again_at_s

    def left_s(self) -> float:
        return max(0.1, self._ends_at_s - self._now_s())

    def _now_s(self) -> float:
        return self.outcome.get_loop().time()

    def end(self, reason: str = "") -> None:
        """Take note of how it ended: "" well; the first word counts."""
        if not self.is_over:
            self.outcome.set_result(reason)

    async def warm_up(self) -> None:
        """Apply every member once, beside the passes. What fails here is tried again, and judged, in a pass."""
        for member in self.members:
            if member.lost:
                return
            try:
                async with asyncio.timeout(self.left_s()):
                    await member.plugin.apply()
            except Exception as error:  # noqa: BLE001  # a plugin's, as in the applier
                log.warning("%s on trial: %s", member.full_name, str(error) or type(error).__name__)
                if isinstance(error, TimeoutError):
                    member.lost = True  # nobody knows where it was cut off
                return

    async def verify(self, in_force: Mapping[str, Member]) -> bool:
        """Read the kernel back and compare; too many refusals end the trial."""
        self.fault = await self._find_fault(in_force)
        if not self.fault:
            return True
        self._attempts += 1
        self._again_at_s = self._now_s() + AGAIN_S
        if self._attempts >= _ATTEMPTS:
            self.end(f"not verified: {self.fault}")
        return False

    async def _find_fault(self, in_force: Mapping[str, Member]) -> str:
        for member in self.members:
            try:
                async with asyncio.timeout(self.left_s()):
                    changes = list(await member.plugin.plan())
            except Exception as error:  # noqa: BLE001  # a plugin's, as in the applier
                return f"{member.full_name} cannot be read back: {str(error) or type(error).__name__}"
            if changes:
                shown = "; ".join(f"{c.action} {c.where} {c.text}".strip() for c in changes[:_SHOWN])
                return f"{member.full_name}: the kernel differs in {len(changes)} objects: {shown}"
        return self._worse_off(in_force)

    def _worse_off(self, in_force: Mapping[str, Member]) -> str:
        """Name endpoints that the new ones report worse than the old ones, or not at all: do they enforce policy?"""
        before = combined_status({n: m for n, m in in_force.items() if m.family == "dataplane"})
        after = combined_status({member.full_name: member for member in self.in_force})
        silent = [key for key in before if key not in after]
        if silent:
            return f"no status of {_list(silent)}: does {self._names()} enforce policy?"
        worse = [key for key, status in after.items() if STATUS_RANK[status] > _rank_of(before.get(key))]
        if not worse:
            return ""
        problems = [
            text
            for member in self.members
            if isinstance(member.plugin, ReportsProblems)
            for text in member.plugin.problems.values()
        ]
        why = f": {'; '.join(problems[:_SHOWN])}" if problems else ""
        return f"{_list(worse)} would be {after[worse[0]]} with {self._names()}{why}"

    def _names(self) -> str:
        return ", ".join(member.name for member in self.in_force)


def _rank_of(status: EndpointStatus | None) -> int:
    """An endpoint nobody reported may be anything."""
    return max(STATUS_RANK.values()) if status is None else STATUS_RANK[status]


def _list(keys: Sequence[ResourceKey]) -> str:
    shown = ", ".join(str(key) for key in keys[:_SHOWN])
    return f"{shown} and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else shown
