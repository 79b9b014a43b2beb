"""The chains that are there whatever the endpoints and policies are, and what we insert into the kernel's own."""

from __future__ import annotations

import msgspec

from calico_engine.ruleset.ir import ChainKey, Family, Hook, Layer, Rule
from calico_engine.settings import FelixSettings


class Tunnels(msgspec.Struct, frozen=True, gc=False):
    """Which encapsulations this node uses, per family already decided."""

    ipip: bool = False
    vxlan: bool = False


class StaticRules(msgspec.Struct, frozen=True):
    """`hooks` are inserted into the kernel's chains, `appends` appended to them."""

    chains: dict[ChainKey, tuple[Rule, ...]]
    hooks: dict[tuple[Layer, Hook], tuple[Rule, ...]]
    appends: dict[tuple[Layer, Hook], tuple[Rule, ...]]


def compile_static(settings: FelixSettings, family: Family, tunnels: Tunnels = Tunnels()) -> StaticRules:
    """Return static chains and hooks of the settings' layout."""
    raise NotImplementedError
