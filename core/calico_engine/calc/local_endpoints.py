"""This node's own endpoints: which there are, which profiles they use, and what is said of them.

Pure. An endpoint that asks for spoofed source addresses where settings do not allow it counts as absent.
"""

from __future__ import annotations

from calico_engine.calc.endpoint_facts import host_update, workload_labels, workload_update
from calico_engine.calc.policy_resolver import PolicyResolver
from calico_engine.calc.sequencer import Sequencer
from calico_engine.errors import ValidationError
from calico_engine.messages import HostEndpointRemove, WorkloadEndpointRemove
from calico_engine.model.endpoint import HostEndpoint, WorkloadEndpoint
from calico_engine.model.resource import ResourceKey

_HOST_KIND = "HostEndpoint"
_SPOOFING_ALLOWED = "Any"


class LocalEndpoints:
    """Local endpoints in; into the policy resolver, and their updates out."""

    def __init__(self, resolver: PolicyResolver) -> None:
        self._resolver = resolver
        self._endpoints: dict[ResourceKey, WorkloadEndpoint | HostEndpoint] = {}
        self._profile_users: dict[str, int] = {}
        self._dirty_profiles: set[str] = set()
        self._gone: set[ResourceKey] = set()

    def __len__(self) -> int:
        return len(self._endpoints)

    def __contains__(self, key: ResourceKey) -> bool:
        return key in self._endpoints

    def put(self, key: ResourceKey, endpoint: WorkloadEndpoint | HostEndpoint) -> None:
        """Enter or replace an endpoint of this node."""
        if isinstance(endpoint, WorkloadEndpoint):
            labels = workload_labels(endpoint)
        else:
            labels = endpoint.metadata.labels
        old = self._endpoints.get(key)
        self._use_profiles(endpoint.spec.profiles, () if old is None else old.spec.profiles)
        self._endpoints[key] = endpoint
        self._gone.discard(key)
        self._resolver.put_endpoint(key, labels, endpoint.spec.profiles)

    def drop(self, key: ResourceKey) -> None:
        """Remove an endpoint, if it is one of this node."""
        old = self._endpoints.pop(key, None)
        if old is not None:
            self._use_profiles((), old.spec.profiles)
            self._gone.add(key)
            self._resolver.drop_endpoint(key)

    def uses_profile(self, name: str) -> bool:
        """Return whether any local endpoint names a profile."""
        return name in self._profile_users

    def take_dirty_profiles(self) -> set[str]:
        """Return the profiles that came into or went out of use since the last call."""
        dirty, self._dirty_profiles = self._dirty_profiles, set()
        return dirty

    def flush(self, dirty: set[ResourceKey], sequencer: Sequencer) -> None:
        """Say what is new of endpoints."""
        for key in dirty:
            endpoint = self._endpoints[key]
            tiers = self._resolver.tiers(key)
            if isinstance(endpoint, WorkloadEndpoint):
                sequencer.add(workload_update(key, endpoint, workload_labels(endpoint), tiers))
            else:
                sequencer.add(host_update(key, endpoint, tiers))
        for key in self._gone:
            is_host = key.kind == _HOST_KIND
            sequencer.remove(
                HostEndpointRemove(endpoint=key) if is_host else WorkloadEndpointRemove(endpoint=key)
            )
        self._gone.clear()

    def _use_profiles(self, new: tuple[str, ...], old: tuple[str, ...]) -> None:
        users = self._profile_users
        for name in new:
            users[name] = users.get(name, 0) + 1
            if users[name] == 1:
                self._dirty_profiles.add(name)
        for name in old:
            users[name] -= 1
            if users[name] == 0:
                del users[name]
                self._dirty_profiles.add(name)


def check_local_workload(key: ResourceKey, endpoint: WorkloadEndpoint, spoofing: str) -> None:
    """Raise ValidationError if this node cannot have this endpoint."""
    if not endpoint.spec.interface_name:
        raise ValidationError(str(key), "spec.interfaceName", "a workload endpoint needs an interface name")
    if endpoint.spec.allow_spoofed_source_prefixes and spoofing != _SPOOFING_ALLOWED:
        raise ValidationError(
            str(key),
            "spec.allowSpoofedSourcePrefixes",
            f"only allowed where WorkloadSourceSpoofing is {_SPOOFING_ALLOWED}; here it is {spoofing}",
        )
