"""A verdict table in exact keys gives every packet the verdict of the table it was made from."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from calico_engine.ruleset.classify.exact import PORT_PROTOCOLS, make_exact
from calico_engine.ruleset.ir import CellVerdict, Drop, Goto, Level, Return, ServiceRange, VerdictTable

PROTOCOLS = (1, 6, 17, 47)
PAIRS = [(0, 0), (1, 0), (1, 5), (2, 0), (0, 5)]
verdicts = st.sampled_from([CellVerdict(Return()), CellVerdict(Drop()), CellVerdict(Goto("linear"))])


@st.composite
def tables(draw: st.DrawFn) -> VerdictTable:
    services: list[ServiceRange] = []
    for protocol in draw(st.sets(st.sampled_from(PROTOCOLS))):
        if protocol not in PORT_PROTOCOLS:
            services.append(ServiceRange(protocol, 0, 65535, protocol << 16))
            continue
        cuts = sorted(draw(st.sets(st.sampled_from([0, 1, 79, 80, 81, 443, 1024, 65000, 65535]), max_size=6)))
        numbers = {first: protocol << 16 | first for first in cuts}
        for first, after in pairwise([*cuts, 65536]):
            if draw(st.booleans()):
                # Some ranges of a protocol, and of two protocols, are one class.
                number = draw(st.sampled_from([numbers[first], numbers[cuts[0]], 99]))
                services.append(ServiceRange(protocol, first, after - 1, number))
    classes = sorted({0, *(service.number for service in services)})
    world = {number: draw(verdicts) for number in classes}
    keys = [(*pair, number) for pair in PAIRS if pair != (0, 0) for number in classes]
    cells = {key: draw(verdicts) for key in keys if draw(st.booleans())}
    return VerdictTable(tuple(services), cells, world)


def verdict(table: VerdictTable, pair: tuple[int, int], protocol: int, port: int) -> CellVerdict:
    number = 0
    for service in table.services:
        if service.protocol == protocol and service.first <= port <= service.last:
            number = service.number
    return table.cells.get((*pair, number), table.world[number])


@given(tables())
def test_the_exact_form_gives_every_packet_the_same_verdict(table: VerdictTable) -> None:
    exact = make_exact(table, 1 << 20)

    assert exact is not None
    for pair in PAIRS:
        for protocol in (*PROTOCOLS, 132):
            for port in (0, 1, 2, 78, 79, 80, 81, 442, 443, 444, 1023, 1024, 64999, 65000, 65535):
                packet_port = port if protocol in PORT_PROTOCOLS else 0
                wanted = verdict(table, pair, protocol, packet_port)
                assert exact.verdict(pair, protocol, packet_port).op == wanted.op


@given(tables())
def test_a_level_without_entries_is_not_asked(table: VerdictTable) -> None:
    exact = make_exact(table, 1 << 20)

    assert exact is not None
    assert (Level.PORTS in exact.levels) == bool(exact.ports)
    assert (Level.PROTOCOLS in exact.levels) == bool(exact.protocols)
    assert (Level.IDENTITIES in exact.levels) == bool(exact.identities)
    assert (Level.WORLD_PORTS in exact.levels) == bool(exact.world_ports)
    assert exact.levels[-1] is Level.WORLD


@given(tables(), st.integers(0, 200))
def test_a_table_beyond_the_limit_has_no_exact_form(table: VerdictTable, limit: int) -> None:
    whole = make_exact(table, 1 << 20)
    limited = make_exact(table, limit)

    assert whole is not None
    if limited is not None:
        assert limited == whole
        assert (
            len(limited.ports) + len(limited.protocols) + len(limited.identities) + len(limited.world_ports)
            <= limit
        )
