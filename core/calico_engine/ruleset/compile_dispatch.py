"""From the shared chains to the chain of the packet's interface."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from calico_engine.messages import HostEndpointUpdate
from calico_engine.ruleset.ir import ChainKey, Rule
from calico_engine.settings import FelixSettings


def compile_workload_dispatch(
    interface_names: Iterable[str], settings: FelixSettings
) -> dict[ChainKey, tuple[Rule, ...]]:
    """Return cali-from-wl-dispatch and cali-to-wl-dispatch; an unknown interface is dropped."""
    raise NotImplementedError


def compile_host_dispatch(
    resolved: Mapping[str, HostEndpointUpdate], settings: FelixSettings
) -> dict[ChainKey, tuple[Rule, ...]]:
    """Return the from/to-host-endpoint chains of raw, mangle and filter (empty ones too: static chains jump there)."""
    raise NotImplementedError
