"""One policy's rules replaced in tables of about 1k, 10k and 50k rules.

    python -m bench.nft_change [--rounds N] [--rules N ...]

The tables are those of bench.nft_load, and stay. Each subject replaces the rules of one policy (five rules of Calico,
ten of the table) by others with other ports. calico-engine hears of it as users' engines do: a Batch with one policy,
then apply and prune. The floor of that is its own bytes, sent by a C program.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import sys
from collections.abc import Callable
from functools import partial

from bench import figures, nft_text, peers
from bench.calico import NFTABLES, REPLAYED, Calico
from bench.figures import Figure, Subject, interleave, timed_us
from bench.nft_load import RULES, rendered
from bench.node import STACKS, Node
from bench.world import endpoint_world, endpoints_for, policy_name

_ENDPOINT = 7
_CHAIN = f"pi-{policy_name(_ENDPOINT)}"
_FLOOR_TIMES = 15


def alternating(run_us: Callable[[int], float]) -> Callable[[], float]:
    """Return a measurement that asks for version 1 and 2 in turns, so that there is always something to change."""
    versions = itertools.cycle((1, 2))
    return lambda: run_us(next(versions))


def raw_subjects(node: Node) -> list[Subject]:
    """Return the ways to change bench/nft_text.py's table, which all of them share."""

    def verify() -> None:
        listed = node.sh("nft", "list", "chain", "ip", nft_text.TABLE, _CHAIN)
        peers.expect("rules of the policy", listed.count("counter packets 0 "), 10)
        if "tcp dport 1007" in listed:
            raise figures.WrongContentError("the policy has the rules that were to be replaced")

    def by_command(version: int) -> float:
        script = nft_text.change_text(_ENDPOINT, version)
        return timed_us(lambda: peers.nft(node, script))

    found = [Subject("nft -f", alternating(by_command), verify=verify)]
    if floor := peers.Floor.of(node):
        floor_us = partial(floor.first_us, "change", _ENDPOINT, _FLOOR_TIMES)
        found.insert(0, Subject(peers.FLOOR, floor_us, verify=verify))
    if library := peers.libnftables(node):
        found.append(
            Subject(
                "libnftables",
                alternating(lambda version: library.run_us(nft_text.change_text(_ENDPOINT, version))),
                verify=verify,
            )
        )
    return found


def restore_subject(node: Node, backend: str, endpoints: int) -> Subject:
    """Return iptables-restore of the policy's chain, over what the iptables plugin has programmed."""
    text = rendered(node, backend, endpoints)
    peers.clear_iptables(node, backend)
    peers.restore(node, backend, text)
    chain = f"cali-pi-gnp/{policy_name(_ENDPOINT)}"
    lines = [line for line in text.splitlines() if line.startswith(f"-A {chain} ")]

    def change(version: int) -> float:
        changed = [line.replace("--dports 10", f"--dports {10 + version}") for line in lines]
        script = "\n".join(("*filter", f":{chain} - [0:0]", *changed, "COMMIT", ""))
        return timed_us(lambda: peers.restore(node, backend, script, "--noflush"))

    def verify() -> None:
        saved = node.sh(f"iptables-{backend}-save", "-t", "filter")
        peers.expect("rules of the policy", saved.count(f"\n-A {chain} "), len(lines))

    return Subject(f"iptables-{backend}-restore", alternating(change), verify=verify)


def measure_size(rules: int, rounds: int) -> list[Figure]:
    endpoints = endpoints_for(rules)
    with contextlib.ExitStack() as stack:
        raw = stack.enter_context(Node())
        peers.nft(raw, nft_text.load_text(endpoints))
        subjects = raw_subjects(raw)
        for backend in ("legacy", "nft"):
            node = stack.enter_context(Node(STACKS[f"iptables-{backend}"]))
            subjects.append(restore_subject(node, backend, endpoints))
        others = [subject.name for subject in subjects if subject.name != peers.FLOOR]
        if Calico.is_installed():
            calico = stack.enter_context(Calico())
            calico.program(endpoint_world(endpoints))
            subjects += calico.policy_subjects(_ENDPOINT)
        values = interleave(subjects, rounds)
    return figures.rows(
        f"nft-change 1 policy of {rules // 1000}k rules",
        values,
        floors={**dict.fromkeys(others, peers.FLOOR), NFTABLES: REPLAYED},
        peers={NFTABLES: [*others, peers.FLOOR]},
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.nft_change", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--rules", type=int, action="append")
    figures.add_arguments(parser)
    options = parser.parse_args()
    found: list[Figure] = []
    for rules in options.rules or RULES:
        rows = measure_size(rules, options.rounds)
        print(figures.table(rows), flush=True)
        found += rows
    figures.write(options.figures, found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
