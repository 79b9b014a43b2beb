"""Put what changed into one Batch, in an order in which everything a message refers to is already there.

    additions   config, sets, set differences, policies, profiles, endpoints, nodes, pools, VTEPs, routes
    removals    routes, VTEPs, pools, nodes, endpoints, profiles, policies, sets

Pure. Remembers what was said last, so that nothing is said twice and only what was said is taken back.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from calico_engine.messages import (
    ActivePolicyRemove,
    ActivePolicyUpdate,
    ActiveProfileRemove,
    ActiveProfileUpdate,
    ConfigUpdate,
    HostEndpointRemove,
    HostEndpointUpdate,
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
    VtepRemove,
    VtepUpdate,
    WorkloadEndpointRemove,
    WorkloadEndpointUpdate,
)


class _Said:
    """What was last said of one kind of thing, and what is to be said now."""

    __slots__ = ("last", "removals", "updates")

    def __init__(self) -> None:
        self.last: dict[Hashable, Message] = {}
        self.updates: dict[Hashable, Message] = {}
        self.removals: dict[Hashable, Message] = {}

    def say(self, key: Hashable, update: Message) -> None:
        self.removals.pop(key, None)
        if self.last.get(key) == update:
            self.updates.pop(key, None)
        else:
            self.updates[key] = update

    def take_back(self, key: Hashable, removal: Message) -> None:
        self.updates.pop(key, None)
        if key in self.last:
            self.removals[key] = removal

    def take_updates(self) -> Iterable[Message]:
        updates, self.updates = self.updates, {}
        self.last.update(updates)
        return updates.values()

    def take_removals(self) -> Iterable[Message]:
        removals, self.removals = self.removals, {}
        for key in removals:
            del self.last[key]
        return removals.values()


class Sequencer:
    """Updates and removals in, ordered messages out."""

    def __init__(self) -> None:
        self._config = _Said()
        self._policies = _Said()
        self._profiles = _Said()
        self._workloads = _Said()
        self._hosts = _Said()
        self._nodes = _Said()
        self._pools = _Said()
        self._vteps = _Said()
        self._routes = _Said()
        self._set_updates: list[Message] = []
        self._set_removals: list[Message] = []

    def add(self, update: Message) -> None:
        """Note that a thing now is as the update says."""
        match update:
            case ConfigUpdate():
                self._config.say("", update)
            case IPSetUpdate() | IPSetDelta():
                self._set_updates.append(update)
            case ActivePolicyUpdate():
                self._policies.say(update.policy, update)
            case ActiveProfileUpdate():
                self._profiles.say(update.profile, update)
            case WorkloadEndpointUpdate():
                self._workloads.say(update.endpoint, update)
            case HostEndpointUpdate():
                self._hosts.say(update.endpoint, update)
            case NodeUpdate():
                self._nodes.say(update.node, update)
            case PoolUpdate():
                self._pools.say(update.cidr, update)
            case VtepUpdate():
                self._vteps.say(update.node, update)
            case RouteUpdate():
                self._routes.say(update.dst, update)
            case _:
                raise TypeError(f"the calculation graph does not say {type(update).__name__}")

    def remove(self, removal: Message) -> None:
        """Note that a thing is gone; nothing is said of things that were never said to be there."""
        match removal:
            case IPSetRemove():
                self._set_removals.append(removal)
            case ActivePolicyRemove():
                self._policies.take_back(removal.policy, removal)
            case ActiveProfileRemove():
                self._profiles.take_back(removal.profile, removal)
            case WorkloadEndpointRemove():
                self._workloads.take_back(removal.endpoint, removal)
            case HostEndpointRemove():
                self._hosts.take_back(removal.endpoint, removal)
            case NodeRemove():
                self._nodes.take_back(removal.node, removal)
            case PoolRemove():
                self._pools.take_back(removal.cidr, removal)
            case VtepRemove():
                self._vteps.take_back(removal.node, removal)
            case RouteRemove():
                self._routes.take_back(removal.dst, removal)
            case _:
                raise TypeError(f"the calculation graph does not say {type(removal).__name__}")

    def flush(self) -> tuple[Message, ...]:
        """Return everything noted since the last call, in order."""
        messages: list[Message] = [*self._config.take_updates(), *self._set_updates]
        endpoints = (self._workloads, self._hosts)
        network = (self._nodes, self._pools, self._vteps, self._routes)
        for said in (self._policies, self._profiles, *endpoints, *network):
            messages += said.take_updates()
        for said in (*reversed(network), *endpoints, self._profiles, self._policies):
            messages += said.take_removals()
        messages += self._set_removals
        self._set_updates, self._set_removals = [], []
        return tuple(messages)
