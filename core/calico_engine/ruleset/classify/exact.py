"""Say a verdict table in exact keys alone, so that the kernel can hold it in hashes.

Pure. Service classes cover ranges of ports, and a look into a kernel's map of ranges of (protocol, port) costs ten
times that into a hash (6.18: 300 ns, 3.5 us with 1000 ranges). So the few ports that differ from their protocol are
spelt out, and what remains is said per protocol, per identity, and at last for the world. Levels are asked in order;
the first that has an entry decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from calico_engine.ruleset.ir import CellVerdict, Level, ServiceRange, VerdictTable

#: Protocols whose packets begin with ports: TCP, UDP, DCCP, SCTP, UDPlite.
PORT_PROTOCOLS = frozenset({6, 17, 33, 132, 136})
_PORTS = 1 << 16

Pair = tuple[int, int]


class ExactTable(msgspec.Struct, frozen=True, gc=False):
    """A verdict table as five maps; identities are pairs (host identity, network identity). `rest` is for all else."""

    ports: Mapping[tuple[int, int, int, int], CellVerdict]
    protocols: Mapping[tuple[int, int, int], CellVerdict]
    identities: Mapping[Pair, CellVerdict]
    world_ports: Mapping[tuple[int, int], CellVerdict]
    world: Mapping[int, CellVerdict]
    rest: CellVerdict

    @property
    def levels(self) -> tuple[Level, ...]:
        """The levels that have entries, in the order they are asked; WORLD is always one."""
        filled = (
            (Level.PORTS, self.ports),
            (Level.PROTOCOLS, self.protocols),
            (Level.IDENTITIES, self.identities),
            (Level.WORLD_PORTS, self.world_ports),
        )
        return (*(level for level, entries in filled if entries), Level.WORLD)

    def verdict(self, pair: Pair, protocol: int, port: int) -> CellVerdict:
        """Return what the maps say of a packet; `port` counts for protocols that have ports."""
        has_port = protocol in PORT_PROTOCOLS
        found = self.ports.get((*pair, protocol, port)) if has_port else None
        found = found or self.protocols.get((*pair, protocol)) or self.identities.get(pair)
        if found is None and has_port:
            found = self.world_ports.get((protocol, port))
        return found or self.world.get(protocol, self.rest)


class _Services(msgspec.Struct, frozen=True, gc=False):
    """`spelt`: ports by protocol whose class is not their protocol's; `main`: the class of the protocol's rest.

    `ports`: the same as `spelt` by protocol and class.
    """

    spelt: Mapping[int, Mapping[int, int]]
    main: Mapping[int, int]
    ports: Mapping[int, Mapping[int, Sequence[int]]]


def make_exact(table: VerdictTable, limit: int) -> ExactTable | None:
    """Return the table in exact keys, None when that takes more than `limit` entries."""
    services = _spell(table.services, limit)
    if services is None:
        return None
    world = table.world
    world_ports = {
        (protocol, port): world[number]
        for protocol, ports in services.spelt.items()
        for port, number in ports.items()
        if world[number].op != world[services.main[protocol]].op
    }
    maker = _Maker(table, services)
    room = limit - len(world_ports)
    for pair, cells in _by_pair(table).items():
        maker.add(pair, cells)
        if maker.size > room:
            return None
    return ExactTable(
        maker.ports,
        maker.protocols,
        maker.identities,
        world_ports,
        {
            protocol: world[number]
            for protocol, number in services.main.items()
            if world[number].op != world[0].op
        },
        world[0],
    )


def update_exact(
    exact: ExactTable, table: VerdictTable, limit: int, pairs: Iterable[Pair]
) -> ExactTable | None:
    """Return what make_exact would, from what it returned before some pairs' cells changed and nothing else."""
    services = _spell(table.services, limit)
    if services is None:
        return None
    maker = _Maker(table, services)
    maker.ports = dict(exact.ports)
    maker.protocols = dict(exact.protocols)
    maker.identities = dict(exact.identities)
    for pair in pairs:
        maker.drop(pair)
        cells = {
            number: verdict
            for number in table.world
            if (verdict := table.cells.get((*pair, number))) is not None
        }
        if cells:
            maker.add(pair, cells)
    if maker.size > limit - len(exact.world_ports):
        return None
    return ExactTable(
        maker.ports, maker.protocols, maker.identities, exact.world_ports, exact.world, exact.rest
    )


class _Maker:
    """Collects what identities have of their own."""

    def __init__(self, table: VerdictTable, services: _Services) -> None:
        self.ports: dict[tuple[int, int, int, int], CellVerdict] = {}
        self.protocols: dict[tuple[int, int, int], CellVerdict] = {}
        self.identities: dict[Pair, CellVerdict] = {}
        self._world = table.world
        self._services = services

    @property
    def size(self) -> int:
        return len(self.ports) + len(self.protocols) + len(self.identities)

    def add(self, pair: Pair, cells: Mapping[int, CellVerdict]) -> None:
        """Add one identity's entries, each only where the levels below would say something else."""
        world = self._world
        own = cells.get(0)
        if own is not None:
            self.identities[pair] = own
        for protocol, main in self._services.main.items():
            wanted = cells.get(main, world[main])
            below = own or world[main]
            entry = None if wanted.op == below.op else wanted
            if entry is not None:
                self.protocols[(*pair, protocol)] = entry
            masked = entry or own
            by_class = self._services.ports[protocol]
            # With nothing in between, a port's entry is there for a cell; else every port may need one.
            for number in cells if masked is None else by_class:
                wanted = cells.get(number, world[number])
                below = masked or world[number]
                if wanted.op != below.op:
                    for port in by_class.get(number, ()):
                        self.ports[(*pair, protocol, port)] = wanted

    def drop(self, pair: Pair) -> None:
        """Remove one identity's entries."""
        self.identities.pop(pair, None)
        for protocol, spelt in self._services.spelt.items():
            self.protocols.pop((*pair, protocol), None)
            for port in spelt:
                self.ports.pop((*pair, protocol, port), None)


def _by_pair(table: VerdictTable) -> dict[Pair, dict[int, CellVerdict]]:
    found: dict[Pair, dict[int, CellVerdict]] = {}
    for (host, net, number), verdict in table.cells.items():
        if verdict.op != table.world[number].op:
            found.setdefault((host, net), {})[number] = verdict
    return found


def _spell(services: tuple[ServiceRange, ...], limit: int) -> _Services | None:
    """Choose each protocol's main class, the one of most ports, and spell out the ports of the others."""
    by_protocol: dict[int, list[ServiceRange]] = {}
    for service in services:
        by_protocol.setdefault(service.protocol, []).append(service)
    spelt: dict[int, Mapping[int, int]] = {}
    main: dict[int, int] = {}
    for protocol, ranges in sorted(by_protocol.items()):
        if protocol not in PORT_PROTOCOLS:
            main[protocol], spelt[protocol] = ranges[0].number, {}
            continue
        counts = {0: _PORTS - sum(entry.last - entry.first + 1 for entry in ranges)}
        for entry in ranges:
            counts[entry.number] = counts.get(entry.number, 0) + entry.last - entry.first + 1
        # Of equals the lowest, so that the choice is a function of the table.
        chosen = max(sorted(counts), key=lambda number: counts[number])
        limit -= _PORTS - counts[chosen]
        if limit < 0:
            return None
        main[protocol] = chosen
        spelt[protocol] = {
            port: number
            for first, last, number in _with_gaps(ranges)
            if number != chosen
            for port in range(first, last + 1)
        }
    return _Services(spelt, main, {protocol: _by_class(ports) for protocol, ports in spelt.items()})


def _by_class(ports: Mapping[int, int]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for port, number in ports.items():
        found.setdefault(number, []).append(port)
    return found


def _with_gaps(ranges: list[ServiceRange]) -> Iterator[tuple[int, int, int]]:
    """Yield (first, last, class) over all ports; what is in no range is of class 0."""
    start = 0
    for entry in sorted(ranges, key=lambda entry: entry.first):
        if entry.first > start:
            yield start, entry.first - 1, 0
        yield entry.first, entry.last, entry.number
        start = entry.last + 1
    if start < _PORTS:
        yield start, _PORTS - 1, 0
