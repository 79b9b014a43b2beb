"""Whose iptables would drop what is forwarded, were it not for our rules."""

import pytest

from calico_engine.kernel.forwarding import drops_by_policy

OURS = '-A FORWARD -m comment --comment "cali:abcdefghijklmnop" -j ACCEPT'
OURS_BY_MARK = (
    '-A FORWARD -m comment --comment "cali:S93hcgKJrXEqnTfs" -m mark --mark 0x10000/0x10000 -j ACCEPT'
)
DOCKER = "-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"


def saved(policy: str, *rules: str) -> str:
    lines = ["*filter", ":INPUT ACCEPT [0:0]", f":FORWARD {policy} [12:345]", ":OUTPUT ACCEPT [0:0]", *rules]
    return "\n".join([*lines, "COMMIT", ""])


@pytest.mark.parametrize(
    ("text", "closed"),
    [
        ("", False),
        (saved("ACCEPT", OURS_BY_MARK), False),
        (saved("DROP"), True),
        (saved("DROP", OURS, OURS_BY_MARK, DOCKER), True),
        (saved("DROP", OURS_BY_MARK, "-A FORWARD -i cali+ -j ACCEPT"), False),
        (saved("DROP", '-A FORWARD -o cali+ -m comment --comment "pods, please" -j ACCEPT'), False),
        (saved("DROP", "-A FORWARD -j ACCEPT"), False),
        (saved("DROP", "-A FORWARD -i eth0 -j ACCEPT"), True),
        (saved("DROP", "-A INPUT -i cali+ -j ACCEPT"), True),
    ],
)
def test_a_policy_of_drop_closes_unless_somebody_else_accepts(text: str, closed: bool) -> None:
    assert drops_by_policy(text) is closed
