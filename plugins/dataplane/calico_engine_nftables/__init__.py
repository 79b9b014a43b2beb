"""The dataplane plugin `nftables`: policy as maps and chains of one nftables table a family, by netlink."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from calico_engine.plugin import hookimpl

if TYPE_CHECKING:
    from calico_engine.plugin.protocols import Capability, Dataplane, PluginContext


@hookimpl
def ce_make_dataplane(context: PluginContext) -> Dataplane:
    from calico_engine_nftables.plugin import make_dataplane

    return make_dataplane(context)


@hookimpl
def ce_config_type() -> type:
    from calico_engine_nftables.config import NftablesConfig

    return NftablesConfig


@hookimpl
def ce_checks() -> Sequence[Capability]:
    from calico_engine_nftables.checks import check_capabilities

    return check_capabilities()
