"""The desired state of this node, to be told again: a plugin that lost its way is made anew and gets everything.

`dump` and status show it too.
"""

from __future__ import annotations

from collections.abc import Iterator

from calico_engine.messages import Batch, ConfigUpdate, IPSetUpdate, Message
from calico_engine.ruleset.state import DesiredState


class World(DesiredState):
    """Takes Batches in; yields everything again in an order in which nothing is referred to before it came."""

    def snapshot(self) -> Batch:
        """Return everything in force as one Batch."""
        return Batch(revision=self.revision, in_sync=self.in_sync, messages=tuple(self.messages()))

    def messages(self) -> Iterator[Message]:
        """Yield everything in force, what is referred to first."""
        if self.is_configured:
            yield ConfigUpdate(settings=self.settings)
        for set_id, state in self.sets.items():
            yield IPSetUpdate(set_id=set_id, kind=state.kind, members=frozenset(state.members))
        yield from self.policies.values()
        yield from self.profiles.values()
        yield from self.workloads.values()
        yield from self.host_endpoints.values()
        yield from self.nodes.values()
        yield from self.pools.values()
        yield from self.routes.values()
        yield from self.vteps.values()
        yield from self.interfaces.values()

    def counts(self) -> dict[str, int]:
        """How many of each Message are in force."""
        return {
            "sets": len(self.sets),
            "policies": len(self.policies),
            "profiles": len(self.profiles),
            "workload_endpoints": len(self.workloads),
            "host_endpoints": len(self.host_endpoints),
            "nodes": len(self.nodes),
            "pools": len(self.pools),
            "routes": len(self.routes),
            "vteps": len(self.vteps),
            "interfaces": len(self.interfaces),
        }

    def sorted_sets(self) -> dict[str, list[str]]:
        """Every set's members, sorted."""
        return {set_id: sorted(state.members) for set_id, state in sorted(self.sets.items())}
