"""The dataplane plugin `iptables`: policy as chains of iptables and ip6tables, legacy or nft."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from calico_engine.plugin import hookimpl

if TYPE_CHECKING:
    from calico_engine.plugin.protocols import Capability, Dataplane, PluginContext


@hookimpl
def ce_make_dataplane(context: PluginContext) -> Dataplane:
    from calico_engine_iptables.plugin import make_dataplane

    return make_dataplane(context)


@hookimpl
def ce_checks() -> Sequence[Capability]:
    from calico_engine_iptables.checks import check_capabilities

    return check_capabilities()
