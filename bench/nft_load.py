"""A node's whole policy loaded into an empty table, at about 1k, 10k and 50k rules.

    python -m bench.nft_load [--rounds N] [--rules N ...]

The floor and the nft peers load the same table, object by object: a chain per endpoint and direction, a chain per
policy, verdict maps for dispatch, a counter and a comment with every rule (bench/nft_text.py, bench/floor/nft_floor.c).
iptables-restore loads what calico-engine's own iptables plugin renders of the same Batch. calico-engine is measured as
users meet it, from a Batch handed to a new plugin to the end of apply; of that, `replayed` is what the kernel takes:
the very bytes that the plugin sent, sent by a C program that does nothing else.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from functools import partial

from bench import figures, nft_text, peers
from bench.calico import COMMIT, NFTABLES, REPLAYED, Calico
from bench.figures import Figure, Subject, interleave, timed
from bench.node import STACKS, Node
from bench.world import endpoint_world, endpoints_for

RULES = (1_000, 10_000, 50_000)


def raw_subjects(node: Node, endpoints: int) -> list[Subject]:
    """Return the ways to load bench/nft_text.py's table."""
    text = nft_text.load_text(endpoints)
    verify = _verifier(node, endpoints)
    ways = [Subject("nft -f", timed(lambda: peers.nft(node, text)), lambda: peers.clear(node), verify)]
    if floor := peers.Floor.of(node):
        load_us = partial(floor.first_us, "load", endpoints)
        ways.insert(0, Subject(peers.FLOOR, load_us, lambda: peers.clear(node), verify))
    if library := peers.libnftables(node):
        ways.append(Subject("libnftables", lambda: library.run_us(text), lambda: peers.clear(node), verify))
    return ways


def _verifier(node: Node, endpoints: int) -> figures.Call:
    def verify() -> None:
        listed = node.sh("nft", "list", "table", "ip", nft_text.TABLE)
        wanted = endpoints * nft_text.RULES
        peers.expect("rules", listed.count("counter packets 0 "), wanted)

    return verify


def restore_subject(node: Node, backend: str, text: str) -> Subject:
    """Return iptables-restore of a text that iptables-save could have printed."""
    rules = text.count("\n-A ")

    def verify() -> None:
        peers.expect("rules", node.sh(f"iptables-{backend}-save").count("\n-A "), rules)

    return Subject(
        f"iptables-{backend}-restore",
        timed(lambda: peers.restore(node, backend, text)),
        lambda: peers.clear_iptables(node, backend),
        verify,
    )


def rendered(node: Node, backend: str, endpoints: int) -> str:
    """Return what the iptables plugin makes of the same Batch; its sets are then in the kernel."""
    node.program(endpoint_world(endpoints))
    text = node.dataplanes[-1].render()
    node.forget()
    return text


def measure_size(rules: int, rounds: int) -> list[Figure]:
    endpoints = endpoints_for(rules)
    with contextlib.ExitStack() as stack:
        subjects = raw_subjects(stack.enter_context(Node()), endpoints)
        for backend in ("legacy", "nft"):
            node = stack.enter_context(Node(STACKS[f"iptables-{backend}"]))
            subjects.append(restore_subject(node, backend, rendered(node, backend, endpoints)))
        others = [subject.name for subject in subjects if subject.name != peers.FLOOR]
        if Calico.is_installed():
            calico = stack.enter_context(Calico())
            subjects += calico.load_subjects(endpoint_world(endpoints))
        values = interleave(subjects, rounds)
    return figures.rows(
        f"nft-load {rules // 1000}k rules",
        values,
        floors={**dict.fromkeys(others, peers.FLOOR), NFTABLES: REPLAYED, COMMIT: REPLAYED},
        peers={NFTABLES: others},
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.nft_load", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rules", type=int, action="append")
    figures.add_arguments(parser)
    options = parser.parse_args()
    found: list[Figure] = []
    for rules in options.rules or RULES:
        rows = measure_size(rules, options.rounds if rules < max(RULES) else max(3, options.rounds // 2))
        print(figures.table(rows), flush=True)
        found += rows
    figures.write(options.figures, found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
