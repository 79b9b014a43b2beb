"""Two clients, and every way in which one is interrupted by the other and goes on, or dies there."""

from collections.abc import Callable
from itertools import count

import pytest
from tests.property.ipam.world import ADDRESSES, Work, World

from calico_engine.ipam import Era
from calico_engine.ipam.go_random import first_index

# Each starts on a pool where h0 has a block and handle "a" an address of it.
FIRST = ADDRESSES[4 * first_index("h0", 4)]
REQUESTS: dict[str, Callable[[World], None]] = {
    "another address for the handle": lambda world: world.auto_assign("h0", "a", 1),
    "an address for another handle": lambda world: world.auto_assign("h0", "b", 1),
    "a named address for the handle": lambda world: world.assign("h0", "a", ADDRESSES[15]),
    "an address on another host": lambda world: world.auto_assign("h1", "b", 1),
    "release by handle": lambda world: world.release_handle("a"),
    "release of the address": lambda world: world.release_address("a", FIRST),
    "blocks of the host given up": lambda world: world.release_host("h0"),
}
ASSIGNING = [name for name in REQUESTS if "address" in name and "release" not in name]
RELEASING = [name for name in REQUESTS if name not in ASSIGNING]
PAIRS = [
    *((first, second) for first in ASSIGNING for second in RELEASING if "another host" not in first),
    *((second, first) for first in ASSIGNING[:1] for second in RELEASING),
    ("another address for the handle", "another address for the handle"),
    ("an address on another host", "an address on another host"),
    ("release by handle", "release by handle"),
    ("release by handle", "release of the address"),
    ("release of the address", "release by handle"),
]


@pytest.mark.parametrize(
    ("first", "second", "dies"),
    [
        *((first, second, False) for first, second in PAIRS),
        *((first, second, True) for first, second in PAIRS if "another" in first or "release" in first),
    ],
)
def test_interrupted_requests_lose_nothing(first: str, second: str, dies: bool) -> None:
    first_ended = False
    for first_turns in count():
        for second_turns in count():
            world = started(first, second)
            one, two = world.running
            first_ended = advance(world, one, first_turns)
            second_ended = advance(world, two, second_turns)
            if dies and not second_ended:
                # The first goes on over what the second left.
                world.die(world.running.index(two))

            advance(world, one, 10_000)
            world.finish()

            if second_ended:
                break
        if first_ended:
            return


def started(first: str, second: str) -> World:
    world = World(Era.V3)
    world.auto_assign("h0", "a", 1)
    while world.running:
        world.turn(0)
    assert world.held == {FIRST: "a"}
    REQUESTS[first](world)
    REQUESTS[second](world)
    return world


def advance(world: World, work: Work, turns: int) -> bool:
    """Let one client go on for some turns; True when it has ended."""
    for _ in range(turns):
        if work not in world.running:
            break
        world.turn(world.running.index(work))
    return work not in world.running
