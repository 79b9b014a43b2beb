"""The chains of one workload endpoint: its tiers' policies and its profiles, in order."""

from __future__ import annotations

from collections.abc import Mapping

from calico_engine.messages import ActivePolicyUpdate, WorkloadEndpointUpdate
from calico_engine.model.resource import ResourceKey
from calico_engine.ruleset.ir import ChainKey, Family, Rule
from calico_engine.settings import FelixSettings


def compile_workload(
    update: WorkloadEndpointUpdate,
    policies: Mapping[ResourceKey, ActivePolicyUpdate],
    settings: FelixSettings,
    family: Family,
) -> dict[ChainKey, tuple[Rule, ...]]:
    """Return the endpoint's two filter chains, and the chains of policy groups it shares with others.

    `policies` gives the selectors by which policies are grouped: a changed selector needs a new call.
    """
    raise NotImplementedError
