"""The chains that are there whatever the endpoints and policies are, and what we insert into the kernel's own.

Pure. The layouts are in static_v2, static_v3 and static_native; this chooses.
"""

from __future__ import annotations

from calico_engine.ruleset.check_settings import check_settings
from calico_engine.ruleset.ir import Family
from calico_engine.ruleset.static_common import StaticRules, Tunnels
from calico_engine.ruleset.static_native import Needs, static_native
from calico_engine.ruleset.static_v2 import static_v2
from calico_engine.ruleset.static_v3 import static_v3
from calico_engine.settings import ChainInsertMode, FelixSettings, Layout

__all__ = ["Needs", "StaticRules", "Tunnels", "compile_static"]

NO_TUNNELS = Tunnels()
NO_NEEDS = Needs()


def compile_static(
    settings: FelixSettings, family: Family, tunnels: Tunnels = NO_TUNNELS, needs: Needs = NO_NEEDS
) -> StaticRules:
    """Return static chains and hooks of the settings' layout; `needs` counts for native alone.

    With ChainInsertMode append all our rules go after those that are there, before the ones that must be last. Native
    base chains have nobody else's rules in them.
    Raises: ConfigError.
    """
    check_settings(settings)
    if settings.layout is Layout.NATIVE:
        return static_native(settings, family, tunnels, needs)
    build = static_v2 if settings.layout is Layout.V2 else static_v3
    static = build(settings, family, tunnels)
    if settings.chain_insert_mode is ChainInsertMode.INSERT:
        return static
    appends = dict(static.hooks)
    for hook, rules in static.appends.items():
        appends[hook] = (*appends.get(hook, ()), *rules)
    return StaticRules(static.chains, {}, appends)
