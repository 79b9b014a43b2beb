"""Outgoing NAT, floating addresses, and the small chains that depend on endpoints: rpf-skip, cidr-block."""

from __future__ import annotations

from collections.abc import Iterable

from calico_engine.messages import WorkloadEndpointUpdate
from calico_engine.ruleset.ir import ChainKey, Family, Rule
from calico_engine.settings import FelixSettings


def compile_nat_outgoing(
    settings: FelixSettings, family: Family, *, active: bool
) -> dict[ChainKey, tuple[Rule, ...]]:
    """Return cali-nat-outgoing; `active` when any pool of this family wants NAT."""
    raise NotImplementedError


def compile_floating_ips(
    endpoints: Iterable[WorkloadEndpointUpdate], settings: FelixSettings, family: Family
) -> dict[ChainKey, tuple[Rule, ...]]:
    """Return cali-fip-dnat and cali-fip-snat."""
    raise NotImplementedError


def compile_rpf_skip(
    endpoints: Iterable[WorkloadEndpointUpdate], settings: FelixSettings, family: Family
) -> dict[ChainKey, tuple[Rule, ...]]:
    """Return cali-rpf-skip: source prefixes that an endpoint may send from beside its own addresses."""
    raise NotImplementedError


def compile_cidr_block(
    cidrs: Iterable[str], settings: FelixSettings, family: Family
) -> dict[ChainKey, tuple[Rule, ...]]:
    """Return cali-cidr-block: service CIDRs that must not loop back out of this node."""
    raise NotImplementedError
