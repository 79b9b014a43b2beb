"""Run every benchmark in a short form: `make bench`, `make bench ONLY=nft-load`, `python -m bench [NAME ...] [--full]`.

Each prints its own table; together their rows go to bench/out as results.json, results.md and results.png.
`python -m bench --publish` puts the last results into docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec

import calico_engine
from bench import figures
from bench.figures import Figure
from bench.plot import write_plot

OUT = Path(__file__).resolve().parent / "out"
PAGE = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"
#: What stands between these lines of the page is generated.
_FIRST, _LAST = "<!-- results: python -m bench --publish -->", "<!-- end of results -->"


class Bench(msgspec.Struct, frozen=True, kw_only=True):
    """A module of this package. `needs_root` where it makes network namespaces."""

    module: str
    short: tuple[str, ...] = ()
    full: tuple[str, ...] = ()
    needs_root: bool = True


BENCHES = {
    "nft-load": Bench(module="bench.nft_load", short=("--rounds", "5"), full=("--rounds", "11")),
    "nft-change": Bench(module="bench.nft_change", short=("--rounds", "5"), full=("--rounds", "21")),
    "nft-set": Bench(module="bench.nft_set", short=("--rounds", "5"), full=("--rounds", "11")),
    "iptables": Bench(module="bench.iptables", short=("--rounds", "3"), full=("--rounds", "9")),
    "ipset": Bench(module="bench.ipset", short=("--rounds", "5"), full=("--rounds", "21")),
    "diff": Bench(module="bench.diff", short=("--rounds", "7"), full=("--rounds", "21"), needs_root=False),
    "packet-path": Bench(module="bench.packet_path", full=("--full",)),
    "calc-graph": Bench(
        module="bench.calc_graph",
        short=("--rounds", "1", "--scenario", "10k-endpoints-1k-netset-policies"),
        needs_root=False,
    ),
    "startup": Bench(module="bench.startup", short=("--rounds", "3"), full=("--rounds", "7")),
    "latency": Bench(module="bench.latency", short=("--changes", "30"), full=("--changes", "200")),
    "latency-1000-policies": Bench(
        module="bench.latency",
        short=("--changes", "30", "--policies", "1000"),
        full=("--changes", "200", "--policies", "1000"),
    ),
}

_TOOLS = (
    ("iptables-nft", "--version"),
    ("iptables-legacy", "--version"),
    ("nft", "--version"),
    ("ipset", "--version"),
    ("cc", "--version"),
)


def version_of(argv: Sequence[str]) -> str:
    try:
        done = subprocess.run(argv, text=True, capture_output=True, check=False, timeout=10)
    except OSError:
        return f"{argv[0]}: not installed"
    return (done.stdout or done.stderr).strip().partition("\n")[0]


def processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:  # noqa: PTH123  # a stream, not a file to be slurped
            names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    except OSError:
        return platform.machine()
    return f"{len(names)} x {names[0]}" if names else platform.machine()


def header() -> str:
    load = " ".join(f"{value:.1f}" for value in os.getloadavg())
    return "\n".join(
        (
            f"machine  {processor()}; load {load}",
            f"kernel   {platform.release().partition('-')[0]}",
            f"python   {platform.python_version()}, calico-engine {calico_engine.__version__}",
            *(f"tool     {version_of(tool)}" for tool in _TOOLS),
        )
    )


def run(name: str, bench: Bench, arguments: Sequence[str]) -> tuple[bool, list[Figure]]:
    """Run one benchmark; return whether it came to its end, and its rows."""
    command = [sys.executable, "-m", bench.module, *arguments]
    print(f"\n== {name}: python -m {bench.module} {' '.join(arguments)}", flush=True)
    if bench.needs_root and os.geteuid() != 0:
        print("left out: it makes network namespaces, which takes root")
        return True, []
    with tempfile.TemporaryDirectory(prefix="ce-bench-") as directory:
        path = Path(directory, "rows.json")
        done = subprocess.run([*command, "--figures", str(path)], check=False)
        if done.returncode != 0:
            print(f"failed with exit code {done.returncode}")
            return False, []
        found = figures.read(path) if path.exists() else []
    # Its name comes first, whatever the benchmark itself says.
    return True, [
        row if row.scenario.startswith(name.partition("-")[0]) else _named(name, row) for row in found
    ]


def _named(name: str, row: Figure) -> Figure:
    return msgspec.structs.replace(row, scenario=f"{name} {row.scenario}")


def save(machine: str, found: Sequence[Figure]) -> None:
    """Write the results in their three forms."""
    OUT.mkdir(exist_ok=True)
    figures.write(OUT / "results.json", found)
    (OUT / "results.md").write_text(
        f"# Results\n\n```\n{machine}\n```\n\nMedians; a ratio is the median of the rounds' ratios. "
        f"How to read them is said in docs/benchmarks.md.\n\n{figures.markdown(found)}",
        encoding="utf-8",
    )
    print(f"\nwrote {OUT / 'results.json'}, results.md")
    print(write_plot(OUT / "results.png", found, machine))


def kept(found: Sequence[Figure]) -> list[Figure]:
    """Return the rows of the last results whose benchmarks have not been run again."""
    path = OUT / "results.json"
    anew = {row.scenario.partition(" ")[0] for row in found}
    before = figures.read(path) if path.exists() else []
    return [row for row in before if row.scenario.partition(" ")[0] not in anew]


def publish() -> None:
    """Put the last results into the page."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(_FIRST)
    after = rest.partition(_LAST)[2]
    results = (OUT / "results.md").read_text(encoding="utf-8").partition("\n")[2].replace("\n## ", "\n### ")
    PAGE.write_text(f"{before}{_FIRST}\n{results}\n{_LAST}{after}", encoding="utf-8")
    print(f"wrote {PAGE}")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHES)}; all if none is given"
    )
    parser.add_argument("--full", action="store_true", help="as many rounds as figures to quote take")
    parser.add_argument("--add", action="store_true", help="keep the last results of benchmarks not run now")
    parser.add_argument(
        "--publish", action="store_true", help="run nothing: the last results go into the docs"
    )
    options = parser.parse_args()
    if options.publish:
        publish()
        return 0
    unknown = sorted(set(options.names) - BENCHES.keys())
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(BENCHES)}")
    machine = header()
    print(machine)
    fine, found = True, []
    for name in options.names or BENCHES:
        bench = BENCHES[name]
        done, rows = run(name, bench, bench.full if options.full else bench.short)
        fine = fine and done
        found += rows
    save(machine, [*kept(found), *found] if options.add else found)
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
