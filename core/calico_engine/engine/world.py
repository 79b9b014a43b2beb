"""The desired state of this node: every Message in force, as the last Batches left it.

Kept so that a plugin that lost its way can be made anew and told everything, and so that `dump` can show it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import assert_never

from calico_engine.messages import (
    ActivePolicyRemove,
    ActivePolicyUpdate,
    ActiveProfileRemove,
    ActiveProfileUpdate,
    Batch,
    ConfigUpdate,
    HostEndpointRemove,
    HostEndpointUpdate,
    InterfaceRemove,
    InterfaceUpdate,
    IPSetDelta,
    IPSetRemove,
    IPSetUpdate,
    Message,
    NodeRemove,
    NodeUpdate,
    PoolRemove,
    PoolUpdate,
    RouteRemove,
    RouteUpdate,
    SetKind,
    VtepRemove,
    VtepUpdate,
    WorkloadEndpointRemove,
    WorkloadEndpointUpdate,
)
from calico_engine.model.resource import ResourceKey


class World:
    """Applies Batches; yields everything again in an order in which nothing is referred to before it came."""

    def __init__(self) -> None:
        self.revision = 0
        self.in_sync = False
        self.config: ConfigUpdate | None = None
        self._sets: dict[str, tuple[SetKind, set[str]]] = {}
        self._policies: dict[ResourceKey, ActivePolicyUpdate] = {}
        self._profiles: dict[str, ActiveProfileUpdate] = {}
        self.workloads: dict[ResourceKey, WorkloadEndpointUpdate] = {}
        self.hosts: dict[ResourceKey, HostEndpointUpdate] = {}
        self._nodes: dict[str, NodeUpdate] = {}
        self._pools: dict[str, PoolUpdate] = {}
        self._routes: dict[str, RouteUpdate] = {}
        self._vteps: dict[str, VtepUpdate] = {}
        self.interfaces: dict[str, InterfaceUpdate] = {}

    def apply(self, batch: Batch) -> None:
        """Take a Batch in."""
        self.revision = max(self.revision, batch.revision)
        self.in_sync = self.in_sync or batch.in_sync
        for message in batch.messages:
            self._note(message)

    def snapshot(self) -> Batch:
        """Return everything in force as one Batch."""
        return Batch(revision=self.revision, in_sync=self.in_sync, messages=tuple(self.messages()))

    def messages(self) -> Iterator[Message]:
        """Yield everything in force, what is referred to first."""
        if self.config is not None:
            yield self.config
        for set_id, (kind, members) in self._sets.items():
            yield IPSetUpdate(set_id=set_id, kind=kind, members=frozenset(members))
        yield from self._policies.values()
        yield from self._profiles.values()
        yield from self.workloads.values()
        yield from self.hosts.values()
        yield from self._nodes.values()
        yield from self._pools.values()
        yield from self._routes.values()
        yield from self._vteps.values()
        yield from self.interfaces.values()

    def counts(self) -> dict[str, int]:
        """How many of each Message are in force."""
        counter: Counter[str] = Counter()
        counter.update(
            sets=len(self._sets),
            policies=len(self._policies),
            profiles=len(self._profiles),
            workload_endpoints=len(self.workloads),
            host_endpoints=len(self.hosts),
            nodes=len(self._nodes),
            pools=len(self._pools),
            routes=len(self._routes),
            vteps=len(self._vteps),
            interfaces=len(self.interfaces),
        )
        return dict(counter)

    def sets(self) -> dict[str, list[str]]:
        """Every set's members, sorted."""
        return {set_id: sorted(members) for set_id, (_, members) in sorted(self._sets.items())}

    def _note(self, message: Message) -> None:  # noqa: C901  # one case a message
        match message:
            case ConfigUpdate():
                self.config = message
            case IPSetUpdate():
                self._sets[message.set_id] = (message.kind, set(message.members))
            case IPSetDelta():
                known = self._sets.get(message.set_id)
                if known is not None:
                    known[1].difference_update(message.removed)
                    known[1].update(message.added)
            case IPSetRemove():
                self._sets.pop(message.set_id, None)
            case ActivePolicyUpdate():
                self._policies[message.policy] = message
            case ActivePolicyRemove():
                self._policies.pop(message.policy, None)
            case ActiveProfileUpdate():
                self._profiles[message.profile] = message
            case ActiveProfileRemove():
                self._profiles.pop(message.profile, None)
            case WorkloadEndpointUpdate():
                self.workloads[message.endpoint] = message
            case WorkloadEndpointRemove():
                self.workloads.pop(message.endpoint, None)
            case HostEndpointUpdate():
                self.hosts[message.endpoint] = message
            case HostEndpointRemove():
                self.hosts.pop(message.endpoint, None)
            case NodeUpdate():
                self._nodes[message.node] = message
            case NodeRemove():
                self._nodes.pop(message.node, None)
            case PoolUpdate():
                self._pools[message.cidr] = message
            case PoolRemove():
                self._pools.pop(message.cidr, None)
            case RouteUpdate():
                self._routes[message.dst] = message
            case RouteRemove():
                self._routes.pop(message.dst, None)
            case VtepUpdate():
                self._vteps[message.node] = message
            case VtepRemove():
                self._vteps.pop(message.node, None)
            case InterfaceUpdate():
                self.interfaces[message.name] = message
            case InterfaceRemove():
                self.interfaces.pop(message.name, None)
            case _:
                assert_never(message)
