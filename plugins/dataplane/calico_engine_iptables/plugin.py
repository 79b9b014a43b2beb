"""The iptables dataplane: TableDataplane over one IptablesBackend a family."""

from __future__ import annotations

from calico_engine.plugin.protocols import PluginContext
from calico_engine.ruleset.ir import Family
from calico_engine.tables.dataplane import TableDataplane
from calico_engine_iptables.backend import IptablesBackend, VariantChoice


def make_dataplane(context: PluginContext) -> TableDataplane:
    """Return the dataplane for the families of the context. No I/O: the variant is chosen at the first apply."""
    settings = context.settings
    families = [family for family in context.families if family == 4 or settings.ipv6_support]
    variant = VariantChoice(settings.iptables_backend, families)
    return TableDataplane(
        context,
        [IptablesBackend(Family(str(family)), settings, variant, context.metrics) for family in families],
    )
