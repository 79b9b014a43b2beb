"""What this machine must have for nftables: nf_tables, and the kinds of maps and expressions that our table uses."""

from __future__ import annotations

from collections.abc import Sequence

from calico_engine.kernel.probe import ProbeStep, probe_in_namespace
from calico_engine.plugin.protocols import Capability

_TABLE = "add table ip calico-probe\n"
_CHAIN = "add chain ip calico-probe c\n"
_BASE = "add chain ip calico-probe {name} {{ type {kind} hook {hook} priority {priority}; }}\n"

# Name, what it takes in nft's words, what it is for, whether policy cannot be without it.
_FEATURES = (
    (
        "catch-all elements of maps (5.13)",
        "add map ip calico-probe m { type ipv4_addr : mark; elements = { * : 0x0 }; }\n",
        "addresses that no selector names",
        True,
    ),
    (
        "verdict maps of several fields",
        _CHAIN
        + "add map ip calico-probe m { type mark . mark . inet_proto . inet_service : verdict; }\n"
        + "add element ip calico-probe m { 0x1 . 0x2 . tcp . 80 : goto c }\n",
        "verdicts",
        True,
    ),
    (
        "maps of address ranges",
        "add map ip calico-probe m { type ipv4_addr : mark; flags interval; elements = { 10.0.0.0/8 : 0x1 }; }\n",
        "rules with networks",
        True,
    ),
    (
        "conntrack",
        _CHAIN + "add rule ip calico-probe c ct state established,related accept\n",
        "replies",
        True,
    ),
    (
        "fib",
        _BASE.format(name="b", kind="filter", hook="prerouting", priority=-300)
        + "add rule ip calico-probe b fib saddr . mark . iif oif 0 drop\n",
        "dropping forged source addresses",
        True,
    ),
    (
        "notrack",
        _BASE.format(name="b", kind="filter", hook="prerouting", priority=-300)
        + "add rule ip calico-probe b notrack\n",
        "doNotTrack policies",
        False,
    ),
    (
        "masquerade",
        _BASE.format(name="b", kind="nat", hook="postrouting", priority=100)
        + "add rule ip calico-probe b masquerade\n",
        "natOutgoing of IP pools",
        False,
    ),
    ("reject", _CHAIN + "add rule ip calico-probe c reject\n", "the deny action Reject", False),
    (
        "log",
        _CHAIN + 'add rule ip calico-probe c log prefix "calico-packet: "\n',
        "rules with action Log",
        False,
    ),
)


def check_capabilities() -> Sequence[Capability]:
    """Try each feature in a network namespace of its own. The program nft is used for these checks alone."""
    return [
        probe_in_namespace(
            f"nftables: {name}",
            [ProbeStep(("nft", "-f", "-"), _TABLE + words)],
            needed_for=purpose,
            remedy="the kernel needs CONFIG_NF_TABLES and its modules; the check itself needs the program nft",
            required=required,
        )
        for name, words, purpose, required in _FEATURES
    ]
