"""The floor in C and the peers' text make the same table, so that their times may be compared."""

import pytest
from bench import nft_text, peers
from bench.node import Node

pytestmark = pytest.mark.kernel(tools=("nft", "cc"))


def table(node: Node) -> str:
    return node.sh("nft", "list", "table", "ip", nft_text.TABLE)


@pytest.mark.parametrize("version", [0, 1])
def test_floor_and_text_make_the_same_table(version: int) -> None:
    with Node() as by_floor, Node() as by_text:
        floor = peers.Floor.of(by_floor)
        assert floor is not None

        floor.run_us("load", 3)
        peers.nft(by_text, nft_text.load_text(3))
        if version:
            floor.run_us("change", 2, 1)
            peers.nft(by_text, nft_text.change_text(2, 1))

        assert table(by_floor) == table(by_text)
        assert table(by_text).count("counter packets 0 ") == 3 * nft_text.RULES


def test_floor_and_text_make_the_same_set() -> None:
    with Node() as by_floor, Node() as by_text:
        floor = peers.Floor.of(by_floor)
        assert floor is not None

        floor.run_us("set", 2500)
        peers.nft(by_text, nft_text.set_text(2500))
        floor.run_us("element", "members", 1)

        assert sorted(table(by_floor).split()) == sorted(table(by_text).split())


def test_what_the_kernel_refuses_ends_the_floor() -> None:
    with Node() as node:
        floor = peers.Floor.of(node)
        assert floor is not None

        with pytest.raises(RuntimeError, match="refused by the kernel: No such file"):
            floor.run_us("change", 0, 1)
