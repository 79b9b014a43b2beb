"""The chains of one workload endpoint: its tiers' policies and its profiles, in order.

Pure. Source: felix/rules/endpoints.go (WorkloadEndpointToIptablesChains).
"""

from __future__ import annotations

from calico_engine.messages import WorkloadEndpointUpdate
from calico_engine.ruleset import names
from calico_engine.ruleset.actions import Chains, filter_allow
from calico_engine.ruleset.compile_policy import EGRESS, INGRESS
from calico_engine.ruleset.endpoint_chain import ChainShape, EndpointChain, Policies
from calico_engine.ruleset.ir import Family, Layer
from calico_engine.settings import FelixSettings, Layout


def compile_workload(
    update: WorkloadEndpointUpdate,
    policies: Policies,
    settings: FelixSettings,
    family: Family,
) -> Chains:
    """Return the endpoint's two filter chains, and the chains of policy groups it shares with others.

    `policies` gives the selectors by which policies are grouped: a changed selector needs a new call. An endpoint
    without a usable interface name has no chains: its packets are those of an unknown interface.
    """
    name = update.interface_name
    if not names.is_interface_name(name):
        return {}
    allow = filter_allow(settings)
    shapes = (
        ChainShape(
            owner=update.endpoint,
            name=names.endpoint_chain(names.TO_WORKLOAD, name),
            layer=Layer.FILTER,
            direction=INGRESS,
            allow=allow,
        ),
        ChainShape(
            owner=update.endpoint,
            name=names.endpoint_chain(names.FROM_WORKLOAD, name),
            layer=Layer.FILTER,
            direction=EGRESS,
            allow=allow,
            guard_encap=settings.layout is not Layout.V2,
        ),
    )
    chains: Chains = {}
    for shape in shapes:
        chains |= EndpointChain(shape, policies, settings).build(update.tiers, update.profiles)
    return chains
