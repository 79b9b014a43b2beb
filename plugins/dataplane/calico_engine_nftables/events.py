"""Which of the kernel's nftables events concern our table: all of them, as nobody else has business in it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from calico_engine.kernel.nfnetlink import TransactionSocket
from calico_engine.kernel.nft_events import NftEvents, attribute_text
from calico_engine.ruleset.ir import Family
from calico_engine_nftables.wire import NF_FAMILIES

_GENERATION_BITS = 0xFFFFFFFF
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


class Listening:
    """The listeners of all families: as long as one listens, the kernel builds messages for every transaction."""

    def __init__(self) -> None:
        self._listeners: list[TableEvents] = []

    def add(self, listener: TableEvents) -> None:
        self._listeners = [other for other in self._listeners if other.is_open]
        self._listeners.append(listener)

    @contextlib.contextmanager
    def paused(self, socket: TransactionSocket) -> Iterator[None]:
        """Listen not while one large transaction is made: being told of it costs more than it does (6.18: 4.5 times).

        The generation tells afterwards whether anybody else made one meanwhile; then ours is read back.
        """
        before = socket.generation_now()
        for listener in self._listeners:
            listener.leave()
        try:
            yield
        finally:
            for listener in self._listeners:
                listener.join()
        if socket.generation_now() != (before + 1) & _GENERATION_BITS:
            for listener in self._listeners:
                listener.tell("nftables changed while we wrote")
