"""Listening to the kernel stops for a large transaction, and nothing that others do meanwhile is lost."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from calico_engine.errors import TransactionRefusedError
from calico_engine.kernel.nfnetlink import TransactionSocket
from calico_engine.ruleset.ir import Family
from calico_engine_nftables import messages
from calico_engine_nftables.events import Listening, TableEvents

pytestmark = pytest.mark.kernel(features=("nftables",))
TABLE = "calico"


@pytest.fixture
def listen(kernel: Any) -> Callable[[Callable[[Listening, TransactionSocket], None]], list[str]]:
    """Return a function: runs a scenario beside a listener of the table, and returns what that was told."""

    def run(scenario: Callable[[Listening, TransactionSocket], None]) -> list[str]:
        told: list[str] = []

        async def main() -> None:
            events = TableEvents(kernel.family, TABLE, told.append)
            events.open()
            events.ignore_port(kernel.socket.port)
            listening = Listening()
            listening.add(events)
            scenario(listening, kernel.socket)
            # What was told waits in the socket: a turn of the loop reads it.
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            events.close()

        kernel.namespace.run(lambda: asyncio.run(main()))
        return told

    return run


def chain(family: Family, name: str) -> bytes:
    return messages.new_chain(family, TABLE, name)


def test_own_transaction_is_not_told(kernel: Any, listen: Any) -> None:
    def scenario(listening: Listening, own: TransactionSocket) -> None:
        with listening.paused(own):
            own.commit_now(chain(kernel.family, "ours"))

    assert listen(scenario) == []


def test_foreign_transaction_while_paused_is_told(kernel: Any, listen: Any) -> None:
    def scenario(listening: Listening, own: TransactionSocket) -> None:
        other = TransactionSocket()
        other.open()
        with listening.paused(own):
            own.commit_now(chain(kernel.family, "ours"))
            other.commit_now(chain(kernel.family, "theirs"))
        other.close()

    assert listen(scenario) == ["nftables changed while we wrote"]


def test_foreign_transaction_after_the_pause_is_heard_again(kernel: Any, listen: Any) -> None:
    def scenario(listening: Listening, own: TransactionSocket) -> None:
        with listening.paused(own):
            own.commit_now(chain(kernel.family, "ours"))
        other = TransactionSocket()
        other.open()
        other.commit_now(chain(kernel.family, "theirs"))
        other.close()

    assert listen(scenario) == ["table calico was changed"]


def test_refused_transaction_is_raised_and_listening_goes_on(kernel: Any, listen: Any) -> None:
    def scenario(listening: Listening, own: TransactionSocket) -> None:
        with pytest.raises(TransactionRefusedError), listening.paused(own):
            own.commit_now(messages.delete_chain(kernel.family, TABLE, "not there"))
        other = TransactionSocket()
        other.open()
        other.commit_now(chain(kernel.family, "theirs"))
        other.close()

    assert listen(scenario) == ["table calico was changed"]
