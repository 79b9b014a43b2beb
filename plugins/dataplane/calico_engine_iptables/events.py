"""Which of the kernel's nftables events concern the tables that iptables-nft keeps there.

Everything outside the four tables, our chains and the kernel's built-in chains is nobody's business here.
"""

from __future__ import annotations

import socket
from collections.abc import Callable

from calico_engine.kernel.nft_events import DELCHAIN, DELRULE, DELTABLE, NEWCHAIN, NEWRULE, attribute_text
from calico_engine.kernel.nft_events import NftEvents as KernelEvents
from calico_engine.ruleset.ir import Family, Hook, Layer
from calico_engine.ruleset.names import owns_chain

_TABLE_NAME = 1  # of tables, chains and rules alike
_CHAIN_NAME = {NEWCHAIN: 3, DELCHAIN: 3, NEWRULE: 2, DELRULE: 2}
_NF_FAMILY = {Family.V4: socket.AF_INET, Family.V6: socket.AF_INET6}
_TABLES = frozenset(layer.value for layer in Layer)
_BUILT_IN = frozenset(hook.value for hook in Hook)


class NftEvents(KernelEvents):
    """Foreign changes of one family's iptables-nft tables."""

    def __init__(self, family: Family, changed: Callable[[str], None]) -> None:
        self._nf_family = _NF_FAMILY[family]
        super().__init__(self._touches, changed)

    def _touches(self, kind: int, payload: memoryview) -> str:
        if payload[0] != self._nf_family or kind not in (*_CHAIN_NAME, DELTABLE):
            return ""
        table = attribute_text(payload, _TABLE_NAME)
        if table not in _TABLES:
            return ""
        if kind == DELTABLE:
            return f"table {table} was deleted"
        chain = attribute_text(payload, _CHAIN_NAME[kind])
        return f"chain {chain} of {table} changed" if owns_chain(chain) or chain in _BUILT_IN else ""
