"""Kill engines 100 times at random moments of programming, and see that nothing opens, drifts or stays behind.

    python -m bench.soak [--kills N] [--seed S] [--backend legacy|nft ...] [--json]
    python -m bench.soak --switches N [--kills M] [--dataplane NAME[,NAME]] [...]

For each backend: a lab of two nodes whose manifests are rewritten all the time, and a prober that sends packets of
flows that every version denies, and of flows that every version allows. An engine, with or without the programs that
it runs, is killed; it is started again; its plan must be empty. After every tenth kill, and the last, tables, sets,
routes and neighbours are compared with those of a lab built afresh, in both families. At the end `cleanup` must leave
what others made, and nothing else. Exit code 1 when anything did not hold.

With --switches engines are not killed but told to exchange their dataplane for another, and back, N times, under the
same load and connections kept open; then, with --kills, M times more, with a kill in the middle of it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import msgspec

from calico_engine.testing.soak.report import SoakReport
from calico_engine.testing.soak.run import SoakWish, run_soak
from calico_engine.testing.soak.switches import SwitchWish, run_switches


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, help="default: 100, and none with --switches")
    parser.add_argument("--switches", type=int, metavar="N", help="round trips from dataplane to dataplane")
    parser.add_argument("--dataplane", default="nftables", help="where the round trips lead")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--backend", action="append", choices=("legacy", "nft"), help="default: both")
    parser.add_argument("--compare-every", type=int, default=10)
    parser.add_argument("--logs", type=Path, help="a directory to copy the engines' logs to")
    parser.add_argument("--json", action="store_true", help="print the reports as JSON")
    options = parser.parse_args()
    reports = []
    for backend in options.backend or ("legacy", "nft"):
        with tempfile.TemporaryDirectory(prefix="celab-") as base:
            report = _run(options, backend, Path(base))
        reports.append(report)
        if not options.json:
            print("\n".join(report.lines()), flush=True)
    if options.json:
        print(msgspec.json.encode(reports).decode())
    return 1 if any(report.failures for report in reports) else 0


def _run(options: argparse.Namespace, backend: str, base: Path) -> SoakReport:
    def progress(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    if options.switches is not None:
        wish = SwitchWish(
            round_trips=options.switches,
            kills=options.kills or 0,
            dataplane=tuple(options.dataplane.split(",")),
            seed=options.seed,
            backend=backend,
            base=base,
            logs=options.logs,
        )
        return run_switches(wish, progress=progress)
    return run_soak(
        SoakWish(
            kills=100 if options.kills is None else options.kills,
            seed=options.seed,
            backend=backend,
            base=base,
            compare_every=options.compare_every,
            logs=options.logs,
        ),
        progress=progress,
    )


if __name__ == "__main__":
    sys.exit(main())
