"""Host endpoints: which one governs which interface, and the chains of that interface."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from calico_engine.messages import ActivePolicyUpdate, HostEndpointUpdate, InterfaceUpdate
from calico_engine.model.resource import ResourceKey
from calico_engine.ruleset.ir import ChainKey, Family, Rule
from calico_engine.settings import FelixSettings


def resolve_host_endpoints(
    endpoints: Iterable[HostEndpointUpdate], interfaces: Iterable[InterfaceUpdate], settings: FelixSettings
) -> dict[str, HostEndpointUpdate]:
    """Return the host endpoint that governs each host interface; the one for all others is under "*"."""
    raise NotImplementedError


def compile_host(
    interface_name: str,
    update: HostEndpointUpdate,
    policies: Mapping[ResourceKey, ActivePolicyUpdate],
    settings: FelixSettings,
    family: Family,
) -> dict[ChainKey, tuple[Rule, ...]]:
    """Return all chains of one host interface ("*" for the rest), in raw, mangle and filter, with policy groups."""
    raise NotImplementedError
