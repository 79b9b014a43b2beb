"""The routing plugin `noencap`: plain next-hop routes to what other nodes hold. See plugin.py."""

from __future__ import annotations

from collections.abc import Sequence

from calico_engine.plugin import Capability, PluginContext, Routing, hookimpl


@hookimpl
def ce_make_routing(context: PluginContext) -> Routing:
    from calico_engine_noencap.plugin import NoEncapRouting

    return NoEncapRouting(context)


@hookimpl
def ce_checks() -> Sequence[Capability]:
    """Routes need nothing that a Linux kernel may lack; the right to write them does."""
    from calico_engine_noencap.plugin import check_machine

    return check_machine()
