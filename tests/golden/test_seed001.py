"""The veth names that the article on Kubernetes prints in its routing tables."""

import re
from pathlib import Path

from calico_engine.ruleset.names import veth_name

ARTICLE = Path(__file__).parent / "articles" / "001.txt"
POD = re.compile(r"^(busybox-\S+) 1/1 Running \d+ \S+ (\S+) ")
ROUTE = re.compile(r"^(10\.244\.\d+\.\d+) .*\b(cali[0-9a-f]{11})\b")


def printed_veths(article: str) -> dict[str, str]:
    """Return interface by pod. A pod's address is taken from the last listing before the route."""
    pods: dict[str, str] = {}
    veths: dict[str, str] = {}
    for line in article.splitlines():
        if listing := POD.match(line):
            pods[listing[2]] = listing[1]
        elif route := ROUTE.match(line):
            veths[pods[route[1]]] = route[2]
    return veths


def test_every_veth_the_article_prints_is_named_as_we_name_it() -> None:
    veths = printed_veths(ARTICLE.read_text(encoding="utf-8"))

    named = {pod: veth_name("default", pod) for pod in veths}

    assert len(veths) == 4
    assert named == veths


def test_a_longer_prefix_leaves_fewer_characters_of_the_hash() -> None:
    assert len(veth_name("default", "web", prefix="calico")) == 15
    assert veth_name("default", "web", prefix="calico")[6:] == veth_name("default", "web")[4:13]
