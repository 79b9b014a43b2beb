"""The prober sees what the nodes of the packet-path benchmark let through, and what they do not."""

import pytest
from bench.node import STACKS, Wired
from bench.programs import compiled
from bench.world import ALLOWED_PORT, DENIED_PORT, policy_world

MODES = ["udp", "flow", "rr", "bulk", "conn"]

pytestmark = pytest.mark.kernel(tools=("cc", "ip", "nft", "ipset"), features=("veth",))


def test_a_node_without_rules_denies_nothing() -> None:
    probe = compiled("packet_probe")
    assert probe is not None

    with Wired() as node:
        denied = node.probe(probe, DENIED_PORT, 1, ["denied"])
        values = node.probe(probe, ALLOWED_PORT, 1, MODES)

    assert denied == {"denied": 0}
    assert all(values[mode] > 0 for mode in MODES)


@pytest.mark.parametrize("stack", list(STACKS))
def test_only_what_the_last_policy_allows_comes_through(stack: str) -> None:
    probe = compiled("packet_probe")
    assert probe is not None

    with Wired(STACKS[stack]) as node:
        node.program(policy_world(4, 3))
        denied = node.probe(probe, DENIED_PORT, 1, ["denied"])
        values = node.probe(probe, ALLOWED_PORT, 1, MODES)

    assert denied == {"denied": 1}
    assert all(values[mode] > 0 for mode in MODES)
