"""Run every benchmark in a short form and print its table: `make bench` or `python -m bench [NAME ...] [--full]`."""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
from collections.abc import Sequence

import msgspec

import calico_engine


class Bench(msgspec.Struct, frozen=True, kw_only=True):
    """A module of this package that prints one table. `needs_root` where it makes network namespaces."""

    module: str
    short: tuple[str, ...] = ()
    full: tuple[str, ...] = ()
    needs_root: bool = False


BENCHES = {
    "ipset": Bench(module="bench.ipset", short=("--rounds", "5"), full=("--rounds", "21"), needs_root=True),
    "calc_graph": Bench(
        module="bench.calc_graph",
        short=("--rounds", "1", "--scenario", "10k-endpoints-1k-netset-policies"),
    ),
    "startup": Bench(
        module="bench.startup", short=("--rounds", "3"), full=("--rounds", "7"), needs_root=True
    ),
    "latency": Bench(
        module="bench.latency", short=("--changes", "30"), full=("--changes", "200"), needs_root=True
    ),
    "latency-1000-policies": Bench(
        module="bench.latency",
        short=("--changes", "30", "--policies", "1000"),
        full=("--changes", "200", "--policies", "1000"),
        needs_root=True,
    ),
}

_TOOLS = (
    ("iptables-nft", "--version"),
    ("iptables-legacy", "--version"),
    ("nft", "--version"),
    ("ipset", "--version"),
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
            f"kernel   {platform.release()}",
            f"python   {platform.python_version()}, calico-engine {calico_engine.__version__}",
            *(f"tool     {version_of(tool)}" for tool in _TOOLS),
        )
    )


def run(name: str, bench: Bench, arguments: Sequence[str]) -> bool:
    """Run one benchmark; return whether it came to its end."""
    command = [sys.executable, "-m", bench.module, *arguments]
    print(f"\n== {name}: python -m {bench.module} {' '.join(arguments)}", flush=True)
    if bench.needs_root and os.geteuid() != 0:
        print("left out: it makes network namespaces, which takes root")
        return True
    done = subprocess.run(command, check=False)
    if done.returncode != 0:
        print(f"failed with exit code {done.returncode}")
    return done.returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHES)}; all if none is given"
    )
    parser.add_argument("--full", action="store_true", help="as many rounds as figures to quote take")
    options = parser.parse_args()
    unknown = sorted(set(options.names) - BENCHES.keys())
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(BENCHES)}")
    print(header())
    fine = True
    for name in options.names or BENCHES:
        bench = BENCHES[name]
        fine = run(name, bench, bench.full if options.full else bench.short) and fine
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
