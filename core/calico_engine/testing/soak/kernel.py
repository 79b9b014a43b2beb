"""What a node's kernel has of an engine's objects, in a form in which two nodes can be compared.

Left out is what no policy says: packet counters, the order of chains, a set's number of buckets and its random seed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping

from calico_engine.errors import UnavailableError
from calico_engine.lab.cluster import Lab

_CALICO, _BOOT = "80", "3"
_MARK = "=====celab"
_COUNTERS = re.compile(r" ?\[\d+:\d+\]")
_SET_DETAILS = re.compile(r" (?:hashsize|bucketsize|initval) \S+")


def _commands(backend: str) -> dict[str, str]:
    return {
        "ipv4 tables": f"iptables-{backend}-save",
        "ipv6 tables": f"ip6tables-{backend}-save",
        "sets": "ipset save",
        "ipv4 routes": "ip -N -j -4 route show table all",
        "ipv6 routes": "ip -N -j -6 route show table all",
        "neighbours": "ip -N -j neighbour show nud permanent",
    }


def read_node(lab: Lab, node: str, backend: str) -> dict[str, tuple[str, ...]]:
    """Return a node's tables, sets, routes and neighbours as sorted lines. Raises: UnavailableError."""
    script = "; ".join(f"echo {_MARK} {name}; {line} || exit 9" for name, line in _commands(backend).items())
    done = lab.run(node, ["sh", "-c", script])
    if done.returncode != 0:
        raise UnavailableError(f"{node}: its kernel cannot be read: {done.stderr}")
    parts: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in done.stdout.splitlines():
        if line.startswith(_MARK):
            lines = parts.setdefault(line.removeprefix(_MARK).strip(), [])
        else:
            lines.append(line)
    normal = {
        "tables": normal_tables,
        "sets": normal_sets,
        "routes": normal_routes,
        "neighbours": normal_neighbours,
    }
    return {name: tuple(normal[name.rpartition(" ")[2]](lines)) for name, lines in parts.items()}


def normal_tables(lines: Iterable[str]) -> list[str]:
    """Return chains in the order of their names with their rules; empty tables, which merely reading makes, go."""
    tables: dict[str, dict[str, list[str]]] = {}
    chains: dict[str, list[str]] = {}
    for line in lines:
        if line.startswith("*"):
            chains = tables.setdefault(line[1:], {})
        elif line.startswith(":"):
            name, policy = _COUNTERS.sub("", line[1:]).split(" ")[:2]
            chains[name] = [f"policy {policy}"]
        elif line.startswith("-A "):
            chains[line.split(" ", 2)[1]].append(line)
    return [
        f"{table} {name} {rule}"
        for table, found in sorted(tables.items())
        for name, rules in sorted(found.items())
        for rule in rules
        if rules != ["policy ACCEPT"]
    ]


def normal_sets(lines: Iterable[str]) -> list[str]:
    return sorted(_SET_DETAILS.sub("", line) for line in lines)


def normal_routes(lines: Iterable[str]) -> Iterator[str]:
    """Yield the routes that engines make."""
    for route in _sorted(lines):
        ours = route.get("protocol") == _CALICO or (
            route.get("protocol") == _BOOT and str(route.get("dev", "")).startswith("cali")
        )
        if ours:
            yield json.dumps(route, sort_keys=True)


def normal_neighbours(lines: Iterable[str]) -> Iterator[str]:
    for neighbour in _sorted(lines):
        if str(neighbour.get("dev", "")).startswith("cali"):
            yield json.dumps(neighbour, sort_keys=True)


def _sorted(lines: Iterable[str]) -> list[dict[str, object]]:
    text = "".join(lines)
    found: list[dict[str, object]] = json.loads(text) if text.strip() else []
    return sorted(found, key=lambda entry: json.dumps(entry, sort_keys=True))


def describe_differences(
    wanted: Mapping[str, Iterable[str]], found: Mapping[str, Iterable[str]]
) -> Iterator[str]:
    """Yield each line that one side has and the other has not; and say so when only their order differs."""
    for name in wanted.keys() | found.keys():
        left, right = list(wanted.get(name, ())), list(found.get(name, ()))
        yield from (f"{name}: missing: {line}" for line in left if line not in set(right))
        yield from (f"{name}: too much: {line}" for line in right if line not in set(left))
        if left != right and set(left) == set(right):
            yield f"{name}: the same lines, in another order or number"
