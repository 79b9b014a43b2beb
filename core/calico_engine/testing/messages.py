"""Build what the calculation graph would say, for tests of what comes after it.

Every argument has a default; a test names only what matters to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from calico_engine.messages import (
    ActivePolicyUpdate,
    ActiveProfileUpdate,
    ActiveRule,
    Batch,
    HostEndpointUpdate,
    InterfaceUpdate,
    IPSetUpdate,
    Message,
    PortRange,
    SetKind,
    TierPolicies,
    WorkloadEndpointUpdate,
)
from calico_engine.model.endpoint import IPNAT
from calico_engine.model.policy import Action
from calico_engine.model.resource import ResourceKey
from calico_engine.ruleset.state import DesiredState
from calico_engine.settings import FelixSettings

ALLOW = ActiveRule(action=Action.ALLOW)
DENY = ActiveRule(action=Action.DENY)
PASS = ActiveRule(action=Action.PASS)
LOG = ActiveRule(action=Action.LOG)


def policy_key(name: str, namespace: str = "") -> ResourceKey:
    return ResourceKey("NetworkPolicy" if namespace else "GlobalNetworkPolicy", namespace, name)


def endpoint_key(name: str) -> ResourceKey:
    return ResourceKey("WorkloadEndpoint", "default", name)


def ports(*numbers: int | tuple[int, int]) -> tuple[PortRange, ...]:
    """Return ranges: 80 is 80..80, (80, 90) is 80..90."""
    return tuple(PortRange(*n) if isinstance(n, tuple) else PortRange(n, n) for n in numbers)


def make_tier(
    *names: str,
    tier: str = "default",
    default_action: Action = Action.DENY,
    ingress: Sequence[str] | None = None,
    egress: Sequence[str] | None = None,
) -> TierPolicies:
    """Return a tier of global policies, in both directions unless `ingress` or `egress` say otherwise."""
    both = ingress is None and egress is None
    into = names if both else ingress or ()
    out = names if both else egress or ()
    return TierPolicies(
        tier=tier,
        default_action=default_action,
        ingress=tuple(policy_key(name) for name in into),
        egress=tuple(policy_key(name) for name in out),
    )


def make_policy_update(
    name: str = "web",
    *,
    inbound: Iterable[ActiveRule] = (),
    outbound: Iterable[ActiveRule] = (),
    tier: str = "default",
    namespace: str = "",
    untracked: bool = False,
    pre_dnat: bool = False,
    selector: str | None = None,
) -> ActivePolicyUpdate:
    """Return an active policy; its selector is its own unless given, so that policies do not form groups."""
    return ActivePolicyUpdate(
        policy=policy_key(name, namespace),
        tier=tier,
        inbound=tuple(inbound),
        outbound=tuple(outbound),
        untracked=untracked,
        pre_dnat=pre_dnat,
        selector=f"name == '{name}'" if selector is None else selector,
    )


def make_profile_update(
    name: str = "default", *, inbound: Iterable[ActiveRule] = (), outbound: Iterable[ActiveRule] = ()
) -> ActiveProfileUpdate:
    return ActiveProfileUpdate(profile=name, inbound=tuple(inbound), outbound=tuple(outbound))


def make_workload_update(
    name: str = "web-1",
    *,
    interface: str = "cali1",
    networks: Sequence[str] = ("10.65.0.1/32", "fd00::1/128"),
    tiers: Sequence[TierPolicies] = (),
    profiles: Sequence[str] = (),
    allow_spoofed: Sequence[str] = (),
    nats: Sequence[IPNAT] = (),
) -> WorkloadEndpointUpdate:
    return WorkloadEndpointUpdate(
        endpoint=endpoint_key(name),
        interface_name=interface,
        ip_networks=tuple(networks),
        tiers=tuple(tiers),
        profiles=tuple(profiles),
        allow_spoofed_source_prefixes=tuple(allow_spoofed),
        ip_nats=tuple(nats),
    )


def make_host_update(
    name: str = "host-eth0",
    *,
    interface: str = "eth0",
    expected_ips: Sequence[str] = (),
    tiers: Sequence[TierPolicies] = (),
    untracked: Sequence[TierPolicies] = (),
    pre_dnat: Sequence[TierPolicies] = (),
    forward: Sequence[TierPolicies] = (),
    profiles: Sequence[str] = (),
) -> HostEndpointUpdate:
    return HostEndpointUpdate(
        endpoint=ResourceKey("HostEndpoint", "", name),
        interface_name=interface,
        expected_ips=tuple(expected_ips),
        tiers=tuple(tiers),
        untracked_tiers=tuple(untracked),
        pre_dnat_tiers=tuple(pre_dnat),
        forward_tiers=tuple(forward),
        profiles=tuple(profiles),
    )


def make_set(set_id: str, *members: str, kind: SetKind = SetKind.NET) -> IPSetUpdate:
    return IPSetUpdate(set_id=set_id, kind=kind, members=frozenset(members))


def make_interface(name: str, *addresses: str, index: int = 1, up: bool = True) -> InterfaceUpdate:
    return InterfaceUpdate(name=name, index=index, up=up, addresses=frozenset(addresses))


def make_batch(*messages: Message, revision: int = 1) -> Batch:
    return Batch(revision=revision, in_sync=True, messages=messages)


def make_state(*messages: Message, settings: FelixSettings | None = None) -> DesiredState:
    """Return the state after one batch of these messages."""
    state = DesiredState(settings)
    state.apply(make_batch(*messages))
    return state
