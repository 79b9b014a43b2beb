"""Sets by netlink against `ipset restore`: loads of 1k, 10k and 100k members, and one member on a set of 100k.

    python -m bench.ipset [--rounds N] [--json]

In a network namespace of its own. Subjects take turns within each round, so that a busy machine is busy for all;
medians of the rounds. A load makes the set, with room for all its members, and fills it. `native` and `pure` begin with
packed rows, as they are kept; `native from text` packs strings first; `restore` begins with its text. Without a
compiler there is no native subject.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

import msgspec

from calico_engine.fastpath import backend, set_messages
from calico_engine.kernel import ipset as ipset_module
from calico_engine.kernel.ipset import IpsetSocket
from calico_engine.kernel.namespaces import NetworkNamespace
from calico_engine.kernel.set_rows import pack_members

PEER = "restore"
LOADS = (1_000, 10_000, 100_000)
ONES = 50
_CHANGED = 100_000


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the results; ratio_to_peer below 1 is faster than the peer."""

    scenario: str
    subject: str
    peer: str = PEER
    median: float
    unit: str = "us"
    ratio_to_floor: float | None = None
    ratio_to_peer: float
    n: int


Subject = Callable[[], None]


def addresses(count: int) -> list[str]:
    return [f"10.{i >> 16}.{i >> 8 & 255}.{i & 255}" for i in range(count)]


def room_for(count: int) -> int:
    return 1 << (count - 1).bit_length()


def restore(text: str) -> None:
    subprocess.run(["ipset", "restore", "-exist"], input=text.encode(), check=True)


class Load:
    """Ways to make and fill a set of so many members."""

    def __init__(self, kernel: IpsetSocket, count: int) -> None:
        self._kernel = kernel
        self._members = addresses(count)
        self._rows = pack_members(self._members)
        self._hashsize = room_for(count)
        options = f"family inet hashsize {self._hashsize} maxelem {1 << 20}"
        self._text = f"create load hash:net {options}\n" + "".join(f"add load {m}\n" for m in self._members)

    def _fill(self, rows: bytes) -> None:
        self._kernel.create("load", "hash:net", "inet", hashsize=self._hashsize, maxelem=1 << 20)
        self._kernel.add("load", rows)

    def netlink(self) -> None:
        self._fill(self._rows)

    def from_text(self) -> None:
        self._fill(pack_members(self._members))

    def restore(self) -> None:
        restore(self._text)

    def clear(self) -> None:
        header = next(header for header in self._kernel.headers() if header.name == "load")
        if header.elements != len(self._members):
            raise SystemExit(f"set has {header.elements} members instead of {len(self._members)}")
        self._kernel.destroy("load")


def use_native() -> None:
    from calico_engine.fastpath import native

    set_encoder(native.encode_set_members)


def use_pure() -> None:
    set_encoder(set_messages.encode_set_members)


def set_encoder(encoder: Callable[[bytes, bytes, int], tuple[bytes, Sequence[int]]]) -> None:
    """Have the one process use either fast path, in turns."""
    vars(ipset_module)["encode_set_members"] = encoder


def timed_us(call: Subject) -> float:
    started = time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - started) / 1000


def measure_load(kernel: IpsetSocket, count: int, rounds: int) -> list[Figure]:
    load = Load(kernel, count)
    subjects: dict[str, tuple[Subject, Subject]] = {
        "pure": (use_pure, load.netlink),
        PEER: (use_pure, load.restore),
    }
    if backend() == "native":
        subjects = {
            "native": (use_native, load.netlink),
            "native from text": (use_native, load.from_text),
            **subjects,
        }
    times: dict[str, list[float]] = {name: [] for name in subjects}
    for _ in range(rounds):
        for name, (prepare, call) in subjects.items():
            prepare()
            times[name].append(timed_us(call))
            load.clear()
    return figures(f"load {count // 1000}k", times)


def measure_one(kernel: IpsetSocket, rounds: int) -> list[Figure]:
    """Add one member to a large set, and take it away again out of the measurement."""
    load = Load(kernel, _CHANGED)
    load.netlink()
    one = pack_members(["11.0.0.1"])
    ways: dict[str, Subject] = {
        "netlink": lambda: kernel.add("load", one),
        PEER: lambda: restore("add load 11.0.0.1\n"),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, call in ways.items():
            for _ in range(ONES if name != PEER else 5):
                times[name].append(timed_us(call))
                kernel.delete("load", one)
    load.clear()
    return figures(f"add 1 to {_CHANGED // 1000}k", times)


def figures(scenario: str, times: dict[str, list[float]]) -> list[Figure]:
    medians = {name: statistics.median(values) for name, values in times.items()}
    return [
        Figure(
            scenario=scenario,
            subject=name,
            median=round(median, 1),
            ratio_to_peer=median / medians[PEER],
            n=len(times[name]),
        )
        for name, median in medians.items()
    ]


def show(results: Sequence[Figure]) -> str:
    lines = [f"{'scenario':<16}{'subject':<18}{'median us':>12}{'restore/this':>14}{'n':>6}"]
    for row in results:
        lines.append(
            f"{row.scenario:<16}{row.subject:<18}{row.median:>12.1f}{1 / row.ratio_to_peer:>13.1f}x{row.n:>6}"
        )
    return "\n".join(lines)


def measure(rounds: int) -> list[Figure]:
    kernel = IpsetSocket()
    try:
        results = [row for count in LOADS for row in measure_load(kernel, count, rounds)]
        return results + measure_one(kernel, rounds)
    finally:
        kernel.close()


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.ipset", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true", help="print a list of results as JSON")
    options = parser.parse_args()
    with NetworkNamespace.create() as namespace:
        results = namespace.run(lambda: measure(options.rounds))
    print(msgspec.json.encode(results).decode() if options.json else show(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
