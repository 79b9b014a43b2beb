"""Which of the kernel's nftables events concern our table: all of them, as nobody else has business in it."""

from __future__ import annotations

from collections.abc import Callable

from calico_engine.kernel.nft_events import NftEvents, attribute_text
from calico_engine.ruleset.ir import Family
from calico_engine_nftables.wire import NF_FAMILIES

#: Of tables, chains, rules, sets, elements and all other objects alike.
_TABLE_NAME = 1


class TableEvents(NftEvents):
    """Foreign changes of one family's table."""

    def __init__(self, family: Family, table: str, changed: Callable[[str], None]) -> None:
        self._nf_family = NF_FAMILIES[family]
        self._table = table
        super().__init__(self._touches, changed)

    def _touches(self, _kind: int, payload: memoryview) -> str:
        if payload[0] != self._nf_family or attribute_text(payload, _TABLE_NAME) != self._table:
            return ""
        return f"table {self._table} was changed"
