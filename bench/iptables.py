"""The iptables plugin beside iptables-restore: a node's whole policy loaded, and one policy's rules replaced.

    python -m bench.iptables [--rounds N] [--rules N ...]

The least that a program can do that goes by way of the tool is one iptables-restore of the finished text: that is the
floor here. `save and restore` is what an agent pays that looks at the table before each change. calico-engine is
measured from a Batch to the end of apply and prune; its sets are in the kernel beforehand for the load, as the others
need them too.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import sys

from bench import figures, nft_change, nft_load, peers
from bench.figures import Figure, Subject, interleave, timed_us
from bench.node import STACKS, Node, make_dataplanes
from bench.world import batch, endpoint_world, endpoints_for, own_policy, policy_name

RULES = (1_000, 10_000)
SAVE_AND_RESTORE = "save and restore"
_ENDPOINT = 7
#: Five of Calico: each but the last is followed by a return.
_POLICY_RULES = 9


def save(node: Node, backend: str) -> None:
    node.sh(f"iptables-{backend}-save")


def rules_in(node: Node, backend: str, chain: str = "") -> int:
    return node.sh(f"iptables-{backend}-save").count(f"\n-A {chain}")


def saving_first(node: Node, backend: str, restore: Subject) -> Subject:
    """Return the same restore with a save before it."""

    def measure() -> float:
        return timed_us(lambda: save(node, backend)) + restore.measure()

    return Subject(SAVE_AND_RESTORE, measure, restore.prepare, restore.verify)


def plugin_load(node: Node, backend: str, endpoints: int, rules: int) -> Subject:
    """Return the load by a new plugin into empty tables."""
    world = endpoint_world(endpoints)

    def prepare() -> None:
        peers.clear_iptables(node, backend)
        node.forget()
        sets, tables = make_dataplanes(STACKS[f"iptables-{backend}"], node.lock_file)
        sets.on_batch(world)
        node.run(sets.apply())
        node.dataplanes = [tables]

    return Subject(
        f"calico-engine iptables-{backend}",
        lambda: node.run(node.take_us(world)),
        prepare,
        lambda: peers.expect("rules", rules_in(node, backend), rules),
    )


def plugin_change(node: Node, backend: str, endpoints: int) -> Subject:
    """Return one policy replaced in what the plugins have programmed."""
    node.program(endpoint_world(endpoints))
    versions = itertools.cycle((1, 2))

    def measure() -> float:
        return node.run(node.take_us(batch(own_policy(_ENDPOINT, next(versions)), revision=2)))

    chain = f"cali-pi-gnp/{policy_name(_ENDPOINT)} "
    return Subject(
        f"calico-engine iptables-{backend}",
        measure,
        verify=lambda: peers.expect("rules of the policy", rules_in(node, backend, chain), _POLICY_RULES),
    )


def measure_size(backend: str, rules: int, rounds: int) -> list[Figure]:
    endpoints = endpoints_for(rules)
    name, ours = f"iptables-{backend}", f"calico-engine iptables-{backend}"
    restored = f"{name}-restore"
    found = []
    with contextlib.ExitStack() as stack:
        peer = stack.enter_context(Node(STACKS[name]))
        text = nft_load.rendered(peer, backend, endpoints)
        load = nft_load.restore_subject(peer, backend, text)
        change = nft_change.restore_subject(peer, backend, endpoints)
        node = stack.enter_context(Node(STACKS[name]))
        jobs = {
            f"{name} load {rules // 1000}k rules": (
                load,
                plugin_load(node, backend, endpoints, text.count("\n-A ")),
            ),
            f"{name} change 1 policy of {rules // 1000}k rules": (change, None),
        }
        for scenario, (restore, plugin) in jobs.items():
            if plugin is None:
                # What the last load left is not what the plugin that changes it made.
                peers.clear_iptables(node, backend)
                node.forget()
                plugin = plugin_change(node, backend, endpoints)
                peers.clear_iptables(peer, backend)
                peers.restore(peer, backend, text)
            values = interleave([restore, saving_first(peer, backend, restore), plugin], rounds)
            found += figures.rows(
                scenario,
                values,
                floors={ours: restored, SAVE_AND_RESTORE: restored},
                peers={ours: [restored, SAVE_AND_RESTORE]},
            )
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.iptables", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rules", type=int, action="append")
    figures.add_arguments(parser)
    options = parser.parse_args()
    found: list[Figure] = []
    for backend in ("legacy", "nft"):
        for rules in options.rules or RULES:
            rows = measure_size(backend, rules, options.rounds)
            print(figures.table(rows), flush=True)
            found += rows
    figures.write(options.figures, found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
