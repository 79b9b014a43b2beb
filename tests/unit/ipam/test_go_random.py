"""The block a host tries first is the one Calico on that host would take."""

import pytest

from calico_engine.ipam.go_random import first_index


# What Go 1 gives for rand.New(rand.NewSource(FNV-1 of the name)) and big.Int.Rand.
@pytest.mark.parametrize(
    ("host", "count", "expected"),
    [
        ("node1", 1, 0),
        ("node1", 3, 2),
        ("node1", 16, 7),
        ("node1", 1024, 666),
        ("node1", 67108864, 61412948),
        ("node1", 2**64, 13848646716548840090),
        ("node1", 2**70, 628109767315690228551),
        ("k8s-node02", 1024, 235),
        ("k8s-node02", 2**70, 1091292970473072948832),
        ("a-long-host.example.com", 16, 4),
        ("a-long-host.example.com", 2**64, 17901826093393163492),
        ("", 1024, 271),
        ("", 2**70, 1050148127157597977688),
    ],
)
def test_start_is_what_go_draws(host: str, count: int, expected: int) -> None:
    assert first_index(host, count) == expected


# Blocks of the articles: IPIP and BGP clusters of Calico 3.x, and one of Calico 2.6 with docker.
@pytest.mark.parametrize(
    ("host", "block"),
    [
        ("k8s-master", (235, 192)),
        ("k8s-node01", (85, 192)),
        ("k8s-node02", (58, 192)),
        ("etcd1", (36, 192)),
        ("etcd2", (57, 64)),
    ],
)
def test_start_is_the_block_the_articles_show(host: str, block: tuple[int, int]) -> None:
    index = first_index(host, 1024)

    assert (index // 4, index % 4 * 64) == block
