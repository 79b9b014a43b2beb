"""The plugin `nftables` as a subject: loaded, changed, and its transactions recorded for the floor to replay."""

from __future__ import annotations

import re
import statistics
import struct
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bench import figures, peers
from bench.figures import Figure, Subject
from bench.node import STACKS, Node, make_dataplanes
from bench.peers import Floor, expect
from bench.world import batch, own_policy
from calico_engine.messages import Batch, IPSetDelta, IPSetUpdate, WorkloadEndpointUpdate
from calico_engine.plugin.registry import installed

NFTABLES = "calico-engine nftables"
COMMIT = "calico-engine nftables, commit"
REPLAYED = "its bytes replayed"

_BATCH_BEGIN, _BATCH_END, _SUBSYSTEM_NFTABLES = 0x10, 0x11, 10
_MEMBER = "11.0.0.0"
_REPLAYS = 15


def nftables_rows(
    scenario: str, values: Mapping[str, Sequence[float]], others: Sequence[str]
) -> list[Figure]:
    """Return rows of the plugin beside its own bytes replayed, and of others beside the floor that is theirs."""
    return figures.rows(
        scenario,
        values,
        floors={**dict.fromkeys(others, peers.FLOOR), NFTABLES: REPLAYED, COMMIT: REPLAYED},
        peers={NFTABLES: [*others, peers.FLOOR], COMMIT: [*others, peers.FLOOR]},
    )


class Calico(Node):
    """A node with the plugin, and one that is only replayed to."""

    def __init__(self) -> None:
        super().__init__(STACKS["nftables"])
        self._mirror = Node()
        self._floor = Floor.of(self._mirror)
        self._files = Path(self._directory.name)
        self._sent: list[bytes] = []
        self._loaded: list[Path] = []
        self._commit_ns = 0

    @staticmethod
    def is_installed() -> bool:
        return any(info.name == "nftables" for info in installed("dataplane"))

    def close(self) -> None:
        super().close()
        self._mirror.close()

    def _fresh(self) -> None:
        """Make the plugin anew over an empty kernel, its commits watched."""
        self.forget()
        self.sh("nft", "flush", "ruleset")
        self.dataplanes = make_dataplanes(STACKS["nftables"], self.lock_file)
        self._watch()

    def _watch(self) -> None:
        for backend in _backends(self.dataplanes):
            backend.commit = self._recording(backend.commit)

    def _recording(self, commit: Callable[[bytes], Awaitable[None]]) -> Callable[[bytes], Awaitable[None]]:
        async def record(transaction: bytes) -> None:
            self._sent.append(transaction)
            started = time.perf_counter_ns()
            await commit(transaction)
            self._commit_ns += time.perf_counter_ns() - started

        return record

    def _take(self, world: Batch) -> tuple[float, float]:
        """Return what a batch takes in all, and its commits alone, in microseconds."""
        self._sent, self._commit_ns = [], 0
        return self.run(self.take_us(world)), self._commit_ns / 1000

    def _save(self, name: str) -> list[Path]:
        """Write what was sent last to files that the floor can send again."""
        paths = []
        for number, transaction in enumerate(self._sent):
            path = self._files / f"{name}-{number}"
            path.write_bytes(framed(transaction))
            paths.append(path)
        return paths

    def program(self, batch: Batch) -> None:
        """Make the plugin, tell it a state, and apply it; what it sends is kept for the mirror."""
        self._fresh()
        self._take(batch)
        self._loaded = self._save("load")

    # Loads

    def load_subjects(self, world: Batch) -> list[Subject]:
        """Return the load by the plugin, its commits alone, and the same bytes sent by the floor."""
        verify = self._verifier(world)
        self.program(world)
        paths = self._loaded
        subjects = [
            Subject(NFTABLES, lambda: self._take(world)[0], self._fresh, verify),
            Subject(COMMIT, lambda: self._take(world)[1], self._fresh, verify),
        ]
        if self._floor:
            subjects.append(Subject(REPLAYED, lambda: self._replay(paths), self._clear_mirror))
        return subjects

    def _clear_mirror(self) -> None:
        self._mirror.sh("nft", "flush", "ruleset")

    def _replay(self, paths: Sequence[Path]) -> float:
        assert self._floor is not None
        return sum(self._floor.run_us("replay", *paths))

    def _verifier(self, world: Batch) -> Callable[[], None]:
        """Return what compares the kernel's tables, as the nft command lists them, with the world."""
        members = {m for update in world.messages if isinstance(update, IPSetUpdate) for m in update.members}
        names = {u.interface_name for u in world.messages if isinstance(u, WorkloadEndpointUpdate)}

        def verify() -> None:
            listed = self.sh("nft", "list", "ruleset")
            words = set(re.findall(r"[\w.]+", listed))
            expect("interfaces", len(names & words), len(names))
            expect("addresses", len(members & words), len(members))

        return verify

    # Changes

    def policy_subjects(self, endpoint: int) -> list[Subject]:
        """Return a change of one policy of what is programmed, and its bytes replayed."""
        versions = [batch(own_policy(endpoint, version), revision=2) for version in (1, 2)]
        return self._changes(versions, lambda: None)

    def member_subjects(self, set_id: str) -> list[Subject]:
        """Return one member more in a set, and its bytes replayed."""
        one, none = frozenset((_MEMBER,)), frozenset[str]()
        changes = [
            batch(IPSetDelta(set_id=set_id, added=added, removed=removed), revision=2)
            for added, removed in ((one, none), (none, one))
        ]

        def verify() -> None:
            found = _MEMBER in re.findall(r"[\w.]+", self.sh("nft", "list", "ruleset"))
            expect("the member", int(found), 1)

        return self._changes(changes, verify)

    def _changes(self, changes: Sequence[Batch], verify: Callable[[], None]) -> list[Subject]:
        """Return the first of two changes, which undo each other, by the plugin and by the floor."""
        # Once round, so that each of them begins where the other ended.
        before = [
            path for number, change in enumerate(changes) for path in self._one(change, f"before-{number}")
        ]
        paths = [self._one(change, f"change-{number}") for number, change in enumerate(changes)]
        return [
            Subject(NFTABLES, partial(self._middle, 0, changes), verify=verify),
            Subject(COMMIT, partial(self._middle, 1, changes), verify=verify),
            *self._replayed(before, paths),
        ]

    def _middle(self, which: int, changes: Sequence[Batch]) -> float:
        """Return the median of some changes: what all of it takes, or the commits alone.

        The second change undoes the first, and only the first counts; it is the one that is left.
        """
        found = []
        for _ in range(_REPLAYS):
            self._take(changes[1])
            found.append(self._take(changes[0])[which])
        return statistics.median(found)

    def _one(self, change: Batch, name: str) -> list[Path]:
        self._take(change)
        return self._save(name)

    def _replayed(self, before: Sequence[Path], paths: Sequence[Sequence[Path]]) -> Iterator[Subject]:
        """Give the floor, if each change was one transaction, over a mirror of the node."""
        if self._floor is None or any(len(sent) != 1 for sent in paths):
            return
        floor = self._floor
        self._clear_mirror()
        self._replay([*self._loaded, *before])
        arguments = ("alternate", _REPLAYS, *(sent[0] for sent in paths))
        yield Subject(REPLAYED, lambda: floor.first_us(*arguments))


def _backends(dataplanes: Sequence[Any]) -> list[Any]:
    """Return what the dataplane commits with: no business of anybody but those who measure."""
    return [family.backend for dataplane in dataplanes for family in dataplane._families]


def framed(transaction: bytes) -> bytes:
    """Return a transaction between the begin and the end of a batch, if it is not there already."""
    kind = struct.unpack_from("=H", transaction, 4)[0]
    if kind == _BATCH_BEGIN:
        return transaction
    begin, end = (
        struct.pack("=IHHIIBB", 20, kind, 1, 0, 0, 0, 0) + struct.pack(">H", _SUBSYSTEM_NFTABLES)
        for kind in (_BATCH_BEGIN, _BATCH_END)
    )
    return begin + transaction + end
