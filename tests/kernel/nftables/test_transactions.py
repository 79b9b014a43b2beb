"""The transaction socket: whole or not at all, who is to blame, one generation a read."""

import asyncio
import errno
import socket
import struct
import threading
from collections.abc import Iterator

import pytest
from tests.kernel.nftables.conftest import TABLE, Kernel

from calico_engine.errors import KernelError, OutcomeUnknownError, TransactionRefusedError
from calico_engine.kernel.namespaces import NetworkNamespace
from calico_engine.kernel.nfnetlink import INLINE_BYTES, TransactionSocket
from calico_engine.ruleset.ir import ChainKey, Drop, Family, Goto, Hook, Jump, Layer, ProtocolIs, Rule
from calico_engine.tables import set_content as content
from calico_engine.tables.backend import Element
from calico_engine_nftables import dump, messages
from calico_engine_nftables.elements import encode_elements
from calico_engine_nftables.expressions import rule_bytes

pytestmark = pytest.mark.kernel(tools=("nft",), features=("nftables",))

KEY = ChainKey(Layer.FILTER, "cali-x")


def rule(family: Family, chain: str, wanted: Rule) -> bytes:
    (spelled,) = rule_bytes(wanted, KEY, family)
    return messages.new_rule(family, TABLE, chain, spelled)


@pytest.fixture
def other(kernel: Kernel) -> Iterator[TransactionSocket]:
    """Another program's socket in the same namespace."""
    made = TransactionSocket()
    kernel.namespace.run(made.open)
    yield made
    made.close()


def test_a_refused_transaction_names_the_message_and_changes_nothing(kernel: Kernel) -> None:
    family = kernel.family
    before = kernel.nft("list", "ruleset")

    with pytest.raises(TransactionRefusedError, match="message 2: No such file") as caught:
        kernel.commit(
            messages.new_chain(family, TABLE, "cali-x"),
            rule(family, "cali-x", Rule((ProtocolIs(6),), Drop())),
            rule(family, "cali-x", Rule((), Jump("cali-nowhere"))),
            rule(family, "cali-x", Rule((), Drop())),
        )

    assert (caught.value.index, caught.value.errno) == (2, errno.ENOENT)
    assert kernel.nft("list", "ruleset") == before


def test_the_first_of_several_refusals_is_named(kernel: Kernel) -> None:
    family = kernel.family

    with pytest.raises(TransactionRefusedError) as caught:
        kernel.commit(
            messages.new_chain(family, TABLE, "cali-x"),
            messages.delete_chain(family, TABLE, "cali-a"),
            messages.delete_set(family, TABLE, "cali-b"),
        )

    assert caught.value.index == 1
    assert caught.value.offset_bytes > 0


def test_a_loop_is_refused_as_a_whole(kernel: Kernel) -> None:
    family = kernel.family
    kernel.add_hook(Layer.FILTER, Hook.PREROUTING)

    with pytest.raises(TransactionRefusedError) as caught:
        kernel.commit(
            messages.new_chain(family, TABLE, "cali-x"),
            messages.new_chain(family, TABLE, "cali-y"),
            rule(family, "cali-x", Rule((), Goto("cali-y"))),
            rule(family, "cali-y", Rule((), Goto("cali-x"))),
            rule(family, "filter-PREROUTING", Rule((), Jump("cali-x"))),
        )

    assert caught.value.errno in (errno.ELOOP, errno.EMLINK)
    assert "cali-x" not in kernel.nft("list", "ruleset")


def test_nothing_is_no_transaction(kernel: Kernel) -> None:
    before = kernel.socket.generation_now()

    kernel.commit()

    assert kernel.socket.generation_now() == before


def test_a_transaction_of_an_old_generation_is_refused(kernel: Kernel, other: TransactionSocket) -> None:
    family = kernel.family
    read = kernel.socket.generation_now()
    kernel.socket.commit_now(messages.new_chain(family, TABLE, "cali-a"), generation=read)
    other.commit_now(messages.new_chain(family, TABLE, "cali-b"))

    with pytest.raises(TransactionRefusedError, match="somebody else changed") as caught:
        kernel.socket.commit_now(messages.new_chain(family, TABLE, "cali-c"), generation=read + 1)

    assert (caught.value.errno, caught.value.index) == (errno.ERESTART, -1)
    assert "cali-c" not in kernel.nft("list", "ruleset")


def test_megabytes_are_one_transaction(kernel: Kernel) -> None:
    family = kernel.family
    chains = [f"cali-{i}" for i in range(2000)]
    spelled = rule_bytes(Rule((ProtocolIs(6), ProtocolIs(17, True)), Drop()), KEY, family)
    parts = [messages.new_chain(family, TABLE, chain) for chain in chains]
    notes = ["a comment that takes room " * 4] * 10
    parts += [messages.new_rules(family, TABLE, chain, spelled * 10, notes) for chain in chains]
    everything = b"".join(parts)
    before = kernel.socket.generation_now()

    kernel.commit(everything)

    assert len(everything) > 7_000_000
    assert kernel.socket.generation_now() == before + 1
    (rules,) = kernel.socket.dump_now(dump.rules_request(family, TABLE))
    assert len(dump.parse_rules(rules, family, TABLE)) == 20_000


def test_thousands_of_refusals_leave_no_doubt(kernel: Kernel) -> None:
    """More answers than the socket can hold: the first of them still says that nothing happened."""
    family = kernel.family
    bad = messages.delete_chain(family, TABLE, "cali-nowhere")

    with pytest.raises(TransactionRefusedError) as caught:
        kernel.commit(messages.new_chain(family, TABLE, "cali-x"), *[bad] * 50_000)

    assert caught.value.index == 1
    kernel.commit(messages.new_chain(family, TABLE, "cali-y"))
    assert "cali-x" not in kernel.nft("list", "ruleset")


def test_an_answer_that_is_lost_leaves_the_outcome_open(kernel: Kernel) -> None:
    """The receive queue is full of what nobody read, so that the kernel has nowhere to put its answer."""
    family = kernel.family
    opened = kernel.socket._socket
    assert opened is not None
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    for _ in range(100):
        opened.send(struct.pack("=IHHII", 20, 10 << 8 | 16, 1, 2**31, 0) + bytes(4))

    with pytest.raises(OutcomeUnknownError, match="answer was lost"):
        kernel.commit(messages.new_chain(family, TABLE, "cali-x"))

    assert "cali-x" in kernel.nft("list", "ruleset")
    kernel.commit(messages.new_chain(family, TABLE, "cali-y"))
    assert "cali-y" in kernel.nft("list", "ruleset")


def test_a_dump_comes_whole_through_a_small_receive_queue(kernel: Kernel) -> None:
    family = kernel.family
    elements = {i.to_bytes(16 if family is Family.V6 else 4, "big"): Element(bytes(4)) for i in range(5000)}
    kernel.add_set("hosts", content.HOSTS, elements)
    opened = kernel.socket._socket
    assert opened is not None
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)

    assert kernel.read_set("hosts").elements == elements


def test_what_is_no_message_is_not_sent(kernel: Kernel) -> None:
    before = kernel.socket.generation_now()

    with pytest.raises(KernelError, match="cut off"):
        kernel.commit(messages.new_chain(kernel.family, TABLE, "cali-x")[:-4])

    assert kernel.socket.generation_now() == before


def test_a_dump_is_of_one_generation(kernel: Kernel, other: TransactionSocket) -> None:
    """Two sets change together, over and over; no read sees one changed and the other not."""
    family = kernel.family
    elements = {i.to_bytes(16 if family is Family.V6 else 4, "big"): Element(bytes(4)) for i in range(2000)}
    for name in ("one", "two"):
        # Of a limited size, as the hash table of others grows while it is read.
        kernel.commit(messages.new_set(family, TABLE, name, content.HOSTS, size=4096))
    stop = threading.Event()

    def change() -> None:
        while not stop.is_set():
            both = [encode_elements(family, TABLE, name, content.HOSTS, elements) for name in ("one", "two")]
            other.commit_now(b"".join([*both[0], *both[1]]))
            stop.wait(0.02)
            other.commit_now(b"".join(messages.flush_set(family, TABLE, name) for name in ("one", "two")))
            stop.wait(0.02)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        seen = set()
        for _ in range(40):
            found = kernel.socket.dump_now(
                *(dump.elements_request(family, TABLE, name) for name in ("one", "two"))
            )
            counts = [len(dump.parse_elements(part, family, content.HOSTS).elements) for part in found]
            assert counts[0] == counts[1]
            seen.add(counts[0])
    finally:
        stop.set()
        thread.join()
    assert seen <= {0, 2000}


def test_a_dump_of_what_is_not_there_fails(kernel: Kernel) -> None:
    with pytest.raises(KernelError, match="No such file") as caught:
        kernel.socket.dump_now(dump.elements_request(kernel.family, TABLE, "nowhere"))

    assert caught.value.errno == errno.ENOENT
    assert kernel.socket.generation_now() > 0


def test_a_socket_that_was_closed_opens_again(namespace: NetworkNamespace) -> None:
    def use() -> str:
        opened = TransactionSocket()
        opened.commit_now(messages.new_table(Family.V4, TABLE))
        first = opened.port
        opened.close()
        opened.commit_now(messages.new_chain(Family.V4, TABLE, "cali-x"))
        assert opened.port
        assert first
        (chains,) = opened.dump_now(dump.chains_request(Family.V4))
        opened.close()
        return dump.parse_chains(chains, Family.V4, TABLE)[0].name

    assert namespace.run(use) == "cali-x"


def test_the_event_loop_goes_on_during_a_large_transaction(kernel: Kernel) -> None:
    family = kernel.family
    kernel.add_set("hosts", content.HOSTS)
    size = 16 if family is Family.V6 else 4
    elements = {i.to_bytes(size, "big"): Element(bytes(4)) for i in range(100_000)}
    large = b"".join(encode_elements(family, TABLE, "hosts", content.HOSTS, elements))
    turns = 0

    async def scenario() -> None:
        nonlocal turns
        task = asyncio.ensure_future(kernel.socket.commit(large))
        while not task.done():
            await asyncio.sleep(0)
            turns += 1
        await task
        (heads,) = await kernel.socket.dump(dump.sets_request(family, TABLE))
        assert dump.parse_sets(heads, family, TABLE)[0].count in (None, len(elements))

    asyncio.run(scenario())

    assert len(large) > INLINE_BYTES
    assert turns > 10
