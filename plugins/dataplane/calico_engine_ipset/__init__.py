"""The dataplane plugin `ipset`: the kernel's sets behind selectors, named ports, services and pools."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from calico_engine.plugin import hookimpl

if TYPE_CHECKING:
    from calico_engine.plugin.protocols import Capability, Dataplane, PluginContext


@hookimpl
def ce_make_dataplane(context: PluginContext) -> Dataplane:
    from calico_engine_ipset.plugin import IpsetDataplane

    return IpsetDataplane(context)


@hookimpl
def ce_config_type() -> type:
    from calico_engine_ipset.config import IpsetConfig

    return IpsetConfig


@hookimpl
def ce_checks() -> Sequence[Capability]:
    from calico_engine_ipset.checks import check_capabilities

    return check_capabilities()
