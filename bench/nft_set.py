"""Sets of 10k and 100k addresses: loaded whole, and one member added.

    python -m bench.nft_set [--rounds N] [--members N ...]

The floor is a hash set with room given beforehand, filled by a C program; the peers are given the same. calico-engine
hears of a set that a policy of one endpoint looks up, whose members so become addresses with an identity, and of a
member that comes and goes. `ipset restore` fills a set of the other kind, with room given beforehand too.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from functools import partial

from bench import figures, nft_text, peers
from bench.calico import Calico, nftables_rows
from bench.figures import Figure, Subject, interleave, timed
from bench.node import Node
from bench.world import addresses, set_world

MEMBERS = (10_000, 100_000)
_FLOOR_TIMES = 51


def load_subjects(node: Node, members: int) -> list[Subject]:
    text = nft_text.set_text(members)

    def verify() -> None:
        listed = node.sh("nft", "list", "set", "ip", nft_text.TABLE, "members")
        peers.expect("members", listed.count(",") + 1, members)

    def clear() -> None:
        peers.clear(node)

    found = [Subject("nft -f", timed(lambda: peers.nft(node, text)), clear, verify)]
    if floor := peers.Floor.of(node):
        found.insert(0, Subject(peers.FLOOR, partial(floor.first_us, "set", members), clear, verify))
    if library := peers.libnftables(node):
        found.append(Subject("libnftables", lambda: library.run_us(text), clear, verify))
    return [*found, _ipset_load(node, members)]


def _ipset_load(node: Node, members: int) -> Subject:
    room = 1 << members.bit_length()
    text = f"create members hash:net family inet hashsize {room} maxelem {2 * room}\n"
    text += "".join(f"add members {address}\n" for address in addresses(members, 10 << 24))

    def verify() -> None:
        entries = node.sh("ipset", "list", "-t", "members").rpartition("Number of entries: ")[2]
        peers.expect("members", int(entries), members)
        node.sh("ipset", "destroy", "members")

    return Subject("ipset restore", timed(lambda: _ipset(node, text)), verify=verify)


def _ipset(node: Node, text: str) -> None:
    node.sh("ipset", "restore", stdin=text)


def element_subjects(node: Node, members: int) -> list[Subject]:
    """Return the ways to add one member to a set that is there; each takes it away again beforehand."""
    _ipset(node, f"create one hash:net family inet hashsize {1 << members.bit_length()} maxelem 1048576\n")
    _ipset(node, "".join(f"add one {address}\n" for address in addresses(members, 10 << 24)))
    add, delete = nft_text.element_text("add"), nft_text.element_text("delete")

    def verify() -> None:
        node.sh("nft", "get", "element", "ip", nft_text.TABLE, "members", "{ 11.0.0.0 }")
        peers.nft(node, delete)

    def verify_ipset() -> None:
        node.sh("ipset", "test", "one", "11.0.0.0")
        _ipset(node, "del one 11.0.0.0\n")

    found = [
        Subject("nft -f", timed(lambda: peers.nft(node, add)), verify=verify),
        Subject("ipset restore", timed(lambda: _ipset(node, "add one 11.0.0.0\n")), verify=verify_ipset),
    ]
    if floor := peers.Floor.of(node):
        found.insert(0, Subject(peers.FLOOR, partial(floor.first_us, "element", "members", _FLOOR_TIMES)))
    if library := peers.libnftables(node):
        found.append(Subject("libnftables", lambda: library.run_us(add), verify=verify))
    return found


def measure_load(members: int, rounds: int) -> list[Figure]:
    with contextlib.ExitStack() as stack:
        subjects = load_subjects(stack.enter_context(Node()), members)
        others = [subject.name for subject in subjects if subject.name != peers.FLOOR]
        if Calico.is_installed():
            calico = stack.enter_context(Calico())
            subjects += calico.load_subjects(set_world(members))
        values = interleave(subjects, rounds)
    return nftables_rows(f"nft-set load {members // 1000}k", values, others)


def measure_element(members: int, rounds: int) -> list[Figure]:
    with contextlib.ExitStack() as stack:
        node = stack.enter_context(Node())
        peers.nft(node, nft_text.set_text(members))
        subjects = element_subjects(node, members)
        others = [subject.name for subject in subjects if subject.name != peers.FLOOR]
        if Calico.is_installed():
            calico = stack.enter_context(Calico())
            calico.program(set_world(members))
            subjects += calico.member_subjects("s:members")
        values = interleave(subjects, rounds)
    return nftables_rows(f"nft-set add 1 to {members // 1000}k", values, others)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.nft_set", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--members", type=int, action="append")
    figures.add_arguments(parser)
    options = parser.parse_args()
    found: list[Figure] = []
    for members in options.members or MEMBERS:
        rows = measure_load(members, options.rounds) + measure_element(members, options.rounds)
        print(figures.table(rows), flush=True)
        found += rows
    figures.write(options.figures, found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
