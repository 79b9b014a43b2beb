"""Sets: the kernel's own cost (bench/floor/ipset_floor.c) beside ours and `ipset restore`, in turns.

    python -m bench.ipset [--rounds N] [--json] [--figures FILE]

In a network namespace of its own. What is counted, by subject:

    floor                       C and raw netlink: packed addresses to messages, sent and acknowledged
    rows                        the plugin's own way to the kernel, from the packed rows that it keeps as its state
    rows, pure Python           the same with the fast path in Python
    plugin                      all of the plugin: on_batch with the members as text, and the apply that follows
    ipset restore               the program, from text that is ready: the set made as Felix makes it, and left to grow
    ipset restore, sized        the same, with room for all members at once

A load makes a set and fills it; `one member` is added to a set of 100k, and taken away again unmeasured. A read-back
ends with sorted rows; for the plugin also with the comparison, and nothing to write. `waits` is the longest time for
which the plugin keeps an event loop from its other tasks, by the clock: on a busy machine it contains the waiting for a
CPU. After each load the number of members is checked. Without a compiler there is no floor, and no other fast path than
Python's.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence

import msgspec

from bench import figures
from bench.figures import Figure, Subject, interleave, timed, timed_us
from bench.programs import compiled
from calico_engine.fastpath import SET_ROW_SIZE, backend, set_messages, sort_rows
from calico_engine.kernel import ipset as ipset_module
from calico_engine.kernel.ipset import IpsetSocket
from calico_engine.kernel.namespaces import NetworkNamespace
from calico_engine.kernel.set_rows import pack_members
from calico_engine.messages import Batch, IPSetDelta, IPSetRemove, IPSetUpdate, Message, SetKind
from calico_engine.plugin.protocols import PluginContext
from calico_engine.settings import FelixSettings
from calico_engine_ipset.kernel_set import hashsize_for
from calico_engine_ipset.plugin import IpsetDataplane

LOADS = (1_000, 10_000, 100_000)
CHANGED = 100_000
#: A single change takes microseconds: so many are one measurement, whose median counts.
ONES = 50
SET = "cali40bench"
PEERS = ("ipset restore", "ipset restore, sized")
_NO_MEMBERS = frozenset[str]()


def addresses(count: int) -> list[str]:
    return [f"10.{i >> 16}.{i >> 8 & 255}.{i & 255}" for i in range(count)]


def restore(text: str) -> None:
    subprocess.run(["ipset", "restore", "-exist"], input=text.encode(), check=True)


def median_us(call: Callable[[], None], after: Callable[[], None]) -> float:
    times = []
    for _ in range(ONES):
        times.append(timed_us(call))
        after()
    return statistics.median(times)


class Floor:
    """The C program, kept running so that no start is measured."""

    def __init__(self, path: str) -> None:
        self._process = subprocess.Popen([path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask_us(self, command: str) -> float:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{command}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"ipset_floor {command}: it ended with {self._process.wait()}")
        return int(answer) / 1000

    def close(self) -> None:
        self._process.communicate()


class Plugin:
    """The ipset plugin as the engine drives it, in an event loop of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        context = PluginContext(
            name="ipset",
            node="bench",
            settings=FelixSettings(),
            options={},
            families=(4,),
            request_apply=lambda reason: None,
            notify=lambda notification: None,
        )
        self._dataplane = IpsetDataplane(context)
        self._revision = 0
        self.apply()

    def _on_batch(self, *messages: Message) -> None:
        self._revision += 1
        self._dataplane.on_batch(Batch(revision=self._revision, in_sync=True, messages=messages))

    def apply(self, *messages: Message) -> None:
        self._on_batch(*messages)
        self._loop.run_until_complete(self._dataplane.apply())

    def load(self, members: frozenset[str]) -> None:
        self.apply(IPSetUpdate(set_id="bench", kind=SetKind.NET, members=members))

    def add(self, member: str) -> None:
        self.apply(IPSetDelta(set_id="bench", added=frozenset({member}), removed=_NO_MEMBERS))

    def delete(self, member: str) -> None:
        self.apply(IPSetDelta(set_id="bench", added=_NO_MEMBERS, removed=frozenset({member})))

    def read_back(self) -> None:
        self._dataplane.invalidate("bench")
        self._loop.run_until_complete(self._dataplane.apply())

    def longest_wait_us(self, work: Callable[[], Coroutine[None, None, object]]) -> float:
        """Return the longest time between two turns of a task that wants every turn."""

        async def run() -> float:
            longest_us = 0.0

            async def beat() -> None:
                nonlocal longest_us
                while True:
                    started = time.perf_counter_ns()
                    await asyncio.sleep(0)
                    longest_us = max(longest_us, (time.perf_counter_ns() - started) / 1000)

            beats = asyncio.create_task(beat())
            await asyncio.sleep(0)
            await work()
            beats.cancel()
            return longest_us

        return self._loop.run_until_complete(run())

    def load_wait_us(self, members: frozenset[str]) -> float:
        async def load() -> None:
            self._on_batch(IPSetUpdate(set_id="bench", kind=SetKind.NET, members=members))
            await self._dataplane.apply()

        return self.longest_wait_us(load)

    def read_wait_us(self) -> float:
        self._dataplane.invalidate("bench")
        return self.longest_wait_us(self._dataplane.apply)

    def remove(self) -> None:
        self.apply(IPSetRemove(set_id="bench"))
        self._loop.run_until_complete(self._dataplane.prune())

    def close(self) -> None:
        self._loop.run_until_complete(self._dataplane.cleanup())
        self._loop.run_until_complete(self._dataplane.close())
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()


class Rig:
    """What the subjects share."""

    def __init__(self) -> None:
        self.kernel = IpsetSocket()
        self.plugin = Plugin()
        path = compiled("ipset_floor")
        self.floor = Floor(str(path)) if path else None

    def close(self) -> None:
        if self.floor:
            self.floor.close()
        self.plugin.close()
        self.kernel.close()

    def size(self) -> int:
        return next((header.elements for header in self.kernel.headers() if header.name == SET), 0)


def use_encoder(encoder: Callable[[bytes, bytes, int], tuple[bytes, Sequence[int]]]) -> None:
    """Have the one process use either fast path, in turns."""
    vars(ipset_module)["encode_set_members"] = encoder


def use_native() -> None:
    from calico_engine.fastpath import native

    use_encoder(native.encode_set_members)


def use_pure() -> None:
    use_encoder(set_messages.encode_set_members)


def load_subjects(rig: Rig, count: int) -> list[Subject]:
    members = addresses(count)
    rows, wanted = pack_members(members), frozenset(members)
    hashsize = hashsize_for(count)
    lines = "".join(f"add {SET} {member}\n" for member in members)
    create = f"create {SET} hash:net family inet maxelem 1048576"

    def fill() -> None:
        rig.kernel.create(SET, "hash:net", "inet", hashsize=hashsize, maxelem=1 << 20)
        rig.kernel.add(SET, rows)

    def check() -> None:
        if rig.size() != count:
            raise figures.WrongContentError(f"set has {rig.size()} members instead of {count}")

    def clear() -> None:
        check()
        rig.kernel.destroy(SET)

    def clear_plugin() -> None:
        check()
        rig.plugin.remove()

    subjects = [Subject("rows, pure Python", timed(fill), use_pure, clear)]
    if backend() == "native":
        subjects += [Subject("rows", timed(fill), use_native, clear)]
    if rig.floor:
        ask_us = rig.floor.ask_us
        subjects += [Subject("floor", lambda: ask_us(f"load {SET} {count} {hashsize}"), None, clear)]
    best = use_native if backend() == "native" else use_pure
    return [
        *subjects,
        Subject("plugin", timed(lambda: rig.plugin.load(wanted)), best, clear_plugin),
        Subject(PEERS[0], timed(lambda: restore(f"{create}\n{lines}")), None, clear),
        Subject(PEERS[1], timed(lambda: restore(f"{create} hashsize {hashsize}\n{lines}")), None, clear),
    ]


def change_subjects(rig: Rig) -> list[Subject]:
    """Ways to add one member to the set that is there. Each leaves it as it was."""
    member = "11.0.0.1"
    row = pack_members([member])
    kernel, plugin = rig.kernel, rig.plugin
    subjects = [
        Subject("rows", lambda: median_us(lambda: kernel.add(SET, row), lambda: kernel.delete(SET, row))),
        Subject("plugin", lambda: median_us(lambda: plugin.add(member), lambda: plugin.delete(member))),
        Subject(
            "ipset restore",
            timed(lambda: restore(f"add {SET} {member}\n")),
            None,
            lambda: kernel.delete(SET, row),
        ),
    ]
    if rig.floor:
        ask_us = rig.floor.ask_us
        subjects.append(Subject("floor", lambda: ask_us(f"change {SET} {ONES}")))
    return subjects


def read_subjects(rig: Rig) -> list[Subject]:
    """Ways to read back the set that is there."""
    kernel = rig.kernel
    subjects = [
        Subject("rows", timed(lambda: _discard(sort_rows(kernel.members(SET), SET_ROW_SIZE)))),
        Subject("plugin", timed(rig.plugin.read_back)),
        Subject(
            "ipset save",
            timed(lambda: _discard(subprocess.run(["ipset", "save", SET], check=True, capture_output=True))),
        ),
    ]
    if rig.floor:
        ask_us = rig.floor.ask_us
        subjects.append(Subject("floor", lambda: ask_us(f"dump {SET}")))
    return subjects


def swap_subjects(rig: Rig) -> list[Subject]:
    kernel = rig.kernel
    other = "cali4t9"

    def make() -> None:
        kernel.create(other, "hash:net", "inet", hashsize=1024, maxelem=1 << 20)

    def clear() -> None:
        kernel.swap(SET, other)
        kernel.destroy(other)

    subjects = [
        Subject("rows", timed(lambda: kernel.swap(SET, other)), make, clear),
        Subject("ipset restore", timed(lambda: restore(f"swap {SET} {other}\n")), make, clear),
    ]
    if rig.floor:
        ask_us = rig.floor.ask_us
        subjects.append(Subject("floor", lambda: ask_us(f"swap {SET} {other}"), make, clear))
    return subjects


def wait_subjects(rig: Rig) -> list[Subject]:
    members = frozenset(addresses(CHANGED))
    return [
        Subject("plugin, load", lambda: rig.plugin.load_wait_us(members), rig.plugin.remove),
        Subject("plugin, read back", rig.plugin.read_wait_us),
    ]


def _discard(result: object) -> None:
    """Take what a call returns, which is not what is measured."""


def compare(scenario: str, subjects: Sequence[Subject], rounds: int, peers: Sequence[str]) -> list[Figure]:
    values = interleave(subjects, rounds)
    names = [name for name in values if name != "floor"]
    floors: Mapping[str, str] = dict.fromkeys(names, "floor")
    return figures.rows(
        scenario, values, floors=floors, peers={name: peers for name in names if name not in peers}
    )


def measure(rounds: int) -> list[Figure]:
    rig = Rig()
    try:
        results = [
            row
            for count in LOADS
            for row in compare(f"ipset load {count // 1000}k", load_subjects(rig, count), rounds, PEERS)
        ]
        rig.plugin.load(frozenset(addresses(CHANGED)))
        of = f"{CHANGED // 1000}k"
        results += compare(f"ipset one member of {of}", change_subjects(rig), rounds, PEERS[:1])
        results += compare(f"ipset swap {of}", swap_subjects(rig), rounds, PEERS[:1])
        results += compare(f"ipset read back {of}", read_subjects(rig), rounds, ["ipset save"])
        results += compare(f"ipset waits {of}", wait_subjects(rig), rounds, [])
        if rig.size() != CHANGED:
            raise figures.WrongContentError(f"set has {rig.size()} members instead of {CHANGED}")
        return results
    finally:
        rig.close()


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.ipset", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true", help="print a list of results as JSON")
    figures.add_arguments(parser)
    options = parser.parse_args()
    with NetworkNamespace.create() as namespace:
        results = namespace.run(lambda: measure(options.rounds))
    figures.write(options.figures, results)
    print(msgspec.json.encode(results).decode() if options.json else figures.table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
