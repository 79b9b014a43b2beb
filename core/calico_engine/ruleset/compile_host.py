"""Host endpoints: which one governs which interface, and the chains of that interface.

Pure. Source: felix/dataplane/linux/endpoint_mgr.go (resolveHostEndpoints), felix/rules/endpoints.go.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from calico_engine.messages import HostEndpointUpdate, InterfaceUpdate, TierPolicies
from calico_engine.ruleset import names
from calico_engine.ruleset.actions import Chains, filter_allow, mangle_allow
from calico_engine.ruleset.compile_dispatch import ALL_INTERFACES
from calico_engine.ruleset.compile_policy import EGRESS, INGRESS
from calico_engine.ruleset.endpoint_chain import ChainKind, ChainShape, EndpointChain, Policies
from calico_engine.ruleset.ir import Accept, Family, Layer, Op, Return
from calico_engine.settings import FelixSettings, Layout


def resolve_host_endpoints(
    endpoints: Iterable[HostEndpointUpdate], interfaces: Iterable[InterfaceUpdate], settings: FelixSettings
) -> dict[str, HostEndpointUpdate]:
    """Return the host endpoint that governs each host interface; the one for all others is under "*".

    Of several that claim an interface the alphabetically first wins. One that names its interface governs it before
    it is there; one that has expected addresses alone waits for them.
    """
    resolved: dict[str, HostEndpointUpdate] = {}
    links = list(interfaces)
    for endpoint in sorted(endpoints, key=lambda update: update.endpoint.name, reverse=True):
        for name in _claims(endpoint, links, settings):
            resolved[name] = endpoint
    return resolved


def _claims(endpoint: HostEndpointUpdate, links: list[InterfaceUpdate], settings: FelixSettings) -> list[str]:
    name = endpoint.interface_name
    if name == ALL_INTERFACES:
        return [name]
    if name:
        return [name] if is_host_interface(name, settings) else []
    expected = {address.split("/")[0] for address in endpoint.expected_ips}
    return [
        link.name
        for link in links
        if is_host_interface(link.name, settings) and not expected.isdisjoint(link.addresses)
    ]


def is_host_interface(name: str, settings: FelixSettings) -> bool:
    """Tell whether an interface may carry a host endpoint: no workload's, and not excluded by InterfaceExclude."""
    if not names.is_interface_name(name) or name.startswith(settings.interface_prefix):
        return False
    return not any(_excludes(pattern, name) for pattern in settings.interface_exclude)


def _excludes(pattern: str, name: str) -> bool:
    if len(pattern) > 1 and pattern.startswith("/") and pattern.endswith("/"):
        return re.search(pattern[1:-1], name) is not None
    return pattern == name


def compile_host(
    interface_name: str,
    update: HostEndpointUpdate,
    policies: Policies,
    settings: FelixSettings,
    family: Family,
) -> Chains:
    """Return all chains of one host interface ("*" for the rest), in raw, mangle and filter, with policy groups."""
    host = _HostChains(interface_name, update, policies, settings)
    allow = filter_allow(settings)
    host.both(Layer.FILTER, ChainKind.NORMAL, update.tiers, allow)
    if settings.layout is not Layout.V2:
        host.both(Layer.FILTER, ChainKind.FORWARD, update.forward_tiers, allow)
        # Accepting in mangle would keep other people's rules there from the packet.
        host.one(Layer.MANGLE, ChainKind.NORMAL, EGRESS, update.tiers, Return())
    if update.pre_dnat_tiers:
        host.one(Layer.MANGLE, ChainKind.PRE_DNAT, INGRESS, update.pre_dnat_tiers, mangle_allow(settings))
    if update.untracked_tiers and interface_name != ALL_INTERFACES:
        host.both(Layer.RAW, ChainKind.UNTRACKED, update.untracked_tiers, Accept())
    return host.chains


class _HostChains:
    """Collects the chains of one interface."""

    def __init__(
        self, interface_name: str, update: HostEndpointUpdate, policies: Policies, settings: FelixSettings
    ) -> None:
        self._interface_name = interface_name
        self._update = update
        self._policies = policies
        self._settings = settings
        self.chains: Chains = {}

    def both(self, layer: Layer, kind: ChainKind, tiers: tuple[TierPolicies, ...], allow: Op) -> None:
        self.one(layer, kind, EGRESS, tiers, allow)
        self.one(layer, kind, INGRESS, tiers, allow)

    def one(
        self, layer: Layer, kind: ChainKind, direction: str, tiers: tuple[TierPolicies, ...], allow: Op
    ) -> None:
        forward = kind is ChainKind.FORWARD
        if direction == INGRESS:
            prefix = names.FROM_HOST_FORWARD if forward else names.FROM_HOST
            failsafe = names.FAILSAFE_IN
        else:
            prefix = names.TO_HOST_FORWARD if forward else names.TO_HOST
            failsafe = names.FAILSAFE_OUT
        shape = ChainShape(
            owner=self._update.endpoint,
            name=names.endpoint_chain(prefix, self._interface_name),
            layer=layer,
            direction=direction,
            kind=kind,
            failsafe="" if forward else failsafe,
            allow=allow,
        )
        profiles = self._update.profiles if kind is ChainKind.NORMAL else ()
        self.chains |= EndpointChain(shape, self._policies, self._settings).build(tiers, profiles)
