"""The nftables dataplane: TableDataplane over one NftablesBackend a family."""

from __future__ import annotations

import logging

from calico_engine.plugin.protocols import PluginContext
from calico_engine.ruleset.ir import Family
from calico_engine.settings import Layout
from calico_engine.tables.dataplane import TableDataplane
from calico_engine_nftables.backend import NftablesBackend
from calico_engine_nftables.config import NftablesConfig
from calico_engine_nftables.events import Listening

log = logging.getLogger(__name__)


def make_dataplane(context: PluginContext) -> TableDataplane:
    """Return the dataplane for the families of the context. No I/O."""
    options = context.options if isinstance(context.options, NftablesConfig) else NftablesConfig()
    if context.settings.layout is Layout.V2:
        log.info("layout v2 is for iptables: nftables has a layout of its own")
    settings = context.settings
    families = [family for family in context.families if family == 4 or settings.ipv6_support]
    listening = Listening()
    return TableDataplane(
        context,
        [NftablesBackend(Family(str(family)), options, listening, context.metrics) for family in families],
        form=options.form,
    )
