"""What differs between 100k desired rules and those that the kernel holds, when 1 % of them do.

    python -m bench.diff [--rounds N]

Rules are rows, sorted: chain and place as key, a digest of the rule. `diff_rows` compares all, in C and in Python, as
start-up, drift and resync need it. The tracker is what an ordinary change meets: it is told which hundred of its ten
thousand chains are wanted otherwise, and answers which to write; `all compared` is the same tracker after a read-back.
"""

from __future__ import annotations

import argparse
import sys

from bench import figures
from bench.figures import Figure, Subject, interleave, rows, timed
from bench.peers import expect
from calico_engine.fastpath import backend, pure
from calico_engine.reconcile import DeltaTracker, pack_rows
from calico_engine.reconcile.rows import DIGEST_SIZE_BYTES, pack_name

CHAINS, RULES_PER_CHAIN, CHANGED_CHAINS = 10_000, 10, 100
IN_C, IN_PYTHON = "calico-engine diff_rows in C", "diff_rows in Python"
TRACKED, COMPARED = "calico-engine tracker, dirty chains", "calico-engine tracker, all compared"
_KEY_BYTES = 40
_ROW_BYTES = _KEY_BYTES + DIGEST_SIZE_BYTES

Hashes = tuple[str, ...]


def chain(number: int) -> str:
    return f"cali-pi-gnp/policy-{number:05}"


def hashes(number: int, version: int) -> Hashes:
    return tuple(f"{version:02}-{number:06}-{place:05}" for place in range(RULES_PER_CHAIN))


def versions(changed: int) -> dict[str, Hashes]:
    """Return all chains, every hundredth in another version."""
    step = CHAINS // CHANGED_CHAINS
    return {chain(n): hashes(n, changed if n % step == 0 else 0) for n in range(CHAINS)}


def packed(chains: dict[str, Hashes]) -> bytes:
    values = {
        pack_name(f"{name} {place:02}", _KEY_BYTES): digest.encode()
        for name, digests in chains.items()
        for place, digest in enumerate(digests)
    }
    return pack_rows(values, _KEY_BYTES)


class Bulk:
    """The two row buffers, compared by either fast path."""

    def __init__(self) -> None:
        self._desired, self._actual = packed(versions(1)), packed(versions(0))
        self._found = 0

    def in_python(self) -> None:
        self._found = len(pure.diff_rows(self._desired, self._actual, _KEY_BYTES, _ROW_BYTES)[1])

    def in_c(self) -> None:
        from calico_engine.fastpath import native

        self._found = len(native.diff_rows(self._desired, self._actual, _KEY_BYTES, _ROW_BYTES)[1])

    def verify(self) -> None:
        expect("rules that differ", self._found, CHANGED_CHAINS * RULES_PER_CHAIN)


class Tracked:
    """A tracker in sync, told of the chains that change."""

    def __init__(self) -> None:
        self._tracker: DeltaTracker[str, Hashes] = DeltaTracker()
        self._wanted = versions(1)
        self._found = 0
        self.reset()

    def reset(self) -> None:
        self._tracker.replace_desired(versions(0))
        self._tracker.replace_actual(versions(0))

    def dirty(self) -> None:
        for number in range(0, CHAINS, CHAINS // CHANGED_CHAINS):
            name = chain(number)
            self._tracker.set_desired(name, self._wanted[name])
        self._found = len(self._tracker.pending().change)

    def compared(self) -> None:
        self._tracker.replace_actual(self._wanted)
        self._found = len(self._tracker.pending().change)

    def verify(self) -> None:
        expect("chains that differ", self._found, CHANGED_CHAINS)


def measure(rounds: int) -> list[Figure]:
    bulk, tracked = Bulk(), Tracked()
    subjects = [
        Subject(IN_PYTHON, timed(bulk.in_python), verify=bulk.verify),
        Subject(TRACKED, timed(tracked.dirty), tracked.reset, tracked.verify),
        Subject(COMPARED, timed(tracked.compared), tracked.reset, tracked.verify),
    ]
    if backend() == "native":
        subjects.insert(0, Subject(IN_C, timed(bulk.in_c), verify=bulk.verify))
    values = interleave(subjects, rounds)
    return rows(
        "diff 100k rules 1% changed",
        values,
        peers={name: [IN_PYTHON] for name in (IN_C, TRACKED, COMPARED)},
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.diff", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--rounds", type=int, default=7)
    figures.add_arguments(parser)
    options = parser.parse_args()
    found = measure(options.rounds)
    print(figures.table(found))
    figures.write(options.figures, found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
