"""What a packet costs on its way through a node, between two workloads whose policies judge it in both directions.

    python -m bench.packet_path [--full] [--rounds N] [--size ENDPOINTSxPOLICIES ...] [--stack NAME ...]

For each size one node per stack of plugins, and two without any: one that only forwards (the floor, "no rules"), one
that tracks connections besides. All are there at once and take turns, within each round and each measurement, so that
every ratio is one of neighbours. The plugins program from Batches what they would on a real node: dispatch for all
endpoints, every endpoint with all policies, fifty thousand addresses in the sets; only the last policy allows what is
measured. Before that, another port must be denied. One thread on one CPU owns both ends of every connection
(bench/floor/packet_probe.c).

udp is one flow that was answered once, ns a datagram; flow is datagrams/s of which each is a flow of its own, so that
no rule for established ones covers it; rr a TCP round trip; bulk TCP throughput; conn TCP connections/s.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from bench import figures
from bench.figures import Figure, Subject, WrongContentError, interleave
from bench.node import STACKS, Wired
from bench.programs import compiled
from bench.world import ALLOWED_PORT, DENIED_PORT, policy_world
from calico_engine.plugin.registry import installed

NO_RULES, CONNTRACK = "no rules", "conntrack only"
#: Measurement -> unit.
MODES = {"udp": "ns", "flow": "flows/s", "rr": "us", "bulk": "Gbit/s", "conn": "conns/s"}


class Size(msgspec.Struct, frozen=True):
    """How many endpoints a node has, and policies each of them."""

    endpoints: int
    policies: int

    @classmethod
    def parse(cls, text: str) -> Size:
        endpoints, _, policies = text.partition("x")
        return cls(int(endpoints), int(policies))

    def __str__(self) -> str:
        return f"E={self.endpoints} P={self.policies}"


SHORT = (Size(100, 1), Size(100, 100), Size(100, 1000), Size(1000, 10))
FULL = tuple(Size(endpoints, policies) for endpoints in (10, 100, 1000) for policies in (1, 10, 100, 1000))
_TRACKING = """table ip bench {
    chain forward { type filter hook forward priority filter; ct state established accept; }
}
"""


def subject_name(stack: str) -> str:
    return f"calico-engine {stack}"


@contextlib.contextmanager
def nodes(size: Size, stacks: Sequence[str]) -> Iterator[dict[str, Wired]]:
    """Give a node per subject, programmed."""
    with contextlib.ExitStack() as stack:
        made = {NO_RULES: stack.enter_context(Wired()), CONNTRACK: stack.enter_context(Wired())}
        made[CONNTRACK].sh("nft", "-f", "-", stdin=_TRACKING)
        for name in stacks:
            node = made[subject_name(name)] = stack.enter_context(Wired(STACKS[name]))
            node.program(policy_world(size.endpoints, size.policies))
        yield made


def check(node: Wired, name: str, probe: Path) -> None:
    """Raise WrongContentError where what no policy allows comes through."""
    if node.probe(probe, DENIED_PORT, 1, ["denied"])["denied"] != 1:
        raise WrongContentError(f"{name}: port {DENIED_PORT} is not denied")


def measure_size(
    size: Size, stacks: Sequence[str], probe: Path, rounds: int, milliseconds: int
) -> list[Figure]:
    found = []
    with nodes(size, stacks) as made:
        for name in stacks:
            check(made[subject_name(name)], name, probe)
        for mode, unit in MODES.items():
            subjects = [
                Subject(name, _measurement(node, mode, probe, milliseconds)) for name, node in made.items()
            ]
            values = interleave(subjects, rounds)
            others = [subject_name(stack) for stack in stacks if stack != "nftables"]
            found += figures.rows(
                f"packet-path {mode} {size}",
                values,
                floors=dict.fromkeys(made.keys() - {NO_RULES}, NO_RULES),
                peers={
                    subject_name("nftables"): [CONNTRACK, *others],
                    **{name: [CONNTRACK] for name in others},
                },
                unit=unit,
            )
    return found


def _measurement(node: Wired, mode: str, probe: Path, milliseconds: int) -> Callable[[], float]:
    return lambda: node.probe(probe, ALLOWED_PORT, milliseconds, [mode])[mode]


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.packet_path", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--full", action="store_true", help="every size, and more rounds")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--milliseconds", type=int, default=20, help="that one measurement takes")
    parser.add_argument("--size", type=Size.parse, action="append", help="such as 100x10")
    parser.add_argument("--stack", choices=list(STACKS), action="append")
    figures.add_arguments(parser)
    options = parser.parse_args()
    probe = compiled("packet_probe")
    if probe is None:
        return 0
    present = {info.name for info in installed("dataplane")}
    stacks = [name for name in options.stack or STACKS if set(STACKS[name].dataplanes) <= present]
    found: list[Figure] = []
    for size in options.size or (FULL if options.full else SHORT):
        rows = measure_size(
            size, stacks, probe, options.rounds or (25 if options.full else 15), options.milliseconds
        )
        print(figures.table(rows), flush=True)
        found += rows
    figures.write(options.figures, found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
