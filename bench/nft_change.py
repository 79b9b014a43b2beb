"""One policy's rules replaced, and one member of a set added, in tables of about 1k, 10k and 50k rules.

    python -m bench.nft_change [--rounds N] [--rules N ...]

The tables are those of bench.nft_load, and stay. Each subject replaces the rules of one policy (five rules of Calico,
ten of the table) by others with other ports; then it adds an address to a set that a quarter of the policies look up.
calico-engine hears of it as users' engines do: a Batch with one change, then apply and prune. The floor of that is its
own bytes, sent by a C program.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import sys
from collections.abc import Callable
from functools import partial

from bench import figures, nft_text, peers
from bench.calico import COMMIT, NFTABLES, REPLAYED, Calico, nftables_rows
from bench.figures import Figure, Subject, interleave, timed, timed_us
from bench.nft_load import RULES, rendered
from bench.node import STACKS, Node
from bench.world import endpoint_world, endpoints_for, policy_name

_ENDPOINT = 7
_CHAIN = f"pi-{policy_name(_ENDPOINT)}"
_FLOOR_TIMES = 15
_SET = "shared-7"


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


def element_subjects(node: Node) -> list[Subject]:
    """Return the ways to add one member to a set that rules look up; each is taken away again afterwards."""
    add, delete = nft_text.element_text("add", _SET), nft_text.element_text("delete", _SET)

    def verify() -> None:
        node.sh("nft", "get", "element", "ip", nft_text.TABLE, _SET, "{ 11.0.0.0 }")
        peers.nft(node, delete)

    found = [Subject("nft -f", timed(lambda: peers.nft(node, add)), verify=verify)]
    if floor := peers.Floor.of(node):
        found.insert(0, Subject(peers.FLOOR, partial(floor.first_us, "element", _SET, _FLOOR_TIMES)))
    if library := peers.libnftables(node):
        found.append(Subject("libnftables", lambda: library.run_us(add), verify=verify))
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
    size = f"{rules // 1000}k rules"
    with contextlib.ExitStack() as stack:
        raw = stack.enter_context(Node())
        peers.nft(raw, nft_text.load_text(endpoints))
        subjects = raw_subjects(raw)
        elements = element_subjects(raw)
        for backend in ("legacy", "nft"):
            node = stack.enter_context(Node(STACKS[f"iptables-{backend}"]))
            subjects.append(restore_subject(node, backend, endpoints))
        if not Calico.is_installed():
            return _rows(f"1 policy of {size}", subjects, rounds) + _rows(
                f"1 member at {size}", elements, rounds
            )
        calico = stack.enter_context(Calico())
        calico.program(endpoint_world(endpoints))
        found = _rows(f"1 policy of {size}", [*subjects, *calico.policy_subjects(_ENDPOINT)], rounds)
        # The mirror is loaded anew.
        calico.program(endpoint_world(endpoints))
        return found + _rows(f"1 member at {size}", [*elements, *calico.member_subjects(f"s:{_SET}")], rounds)


def _rows(what: str, subjects: list[Subject], rounds: int) -> list[Figure]:
    others = [
        subject.name for subject in subjects if subject.name not in (peers.FLOOR, NFTABLES, COMMIT, REPLAYED)
    ]
    return nftables_rows(f"nft-change {what}", interleave(subjects, rounds), others)


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
