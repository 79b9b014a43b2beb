"""However clients of IPAM get into each other's way, and wherever they die: no address twice, none lost."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from tests.property.ipam.world import ADDRESSES, HANDLES, HOSTS, World

from calico_engine.ipam import Era

MAX_RUNNING = 5


def is_free(machine: ConcurrentClients) -> bool:
    return len(machine.world.running) < MAX_RUNNING


def is_busy(machine: ConcurrentClients) -> bool:
    return bool(machine.world.running)


class ConcurrentClients(RuleBasedStateMachine):
    world = World(Era.V3)

    @initialize(era=st.sampled_from(list(Era)))
    def begin(self, era: Era) -> None:
        self.world = World(era)

    @precondition(is_free)
    @rule(host=st.sampled_from(HOSTS), handle=st.sampled_from(HANDLES), count=st.integers(1, 6))
    def auto_assign(self, host: str, handle: str, count: int) -> None:
        self.world.auto_assign(host, handle, count)

    @precondition(is_free)
    @rule(host=st.sampled_from(HOSTS), handle=st.sampled_from(HANDLES), ordinal=st.integers(0, 15))
    def assign(self, host: str, handle: str, ordinal: int) -> None:
        self.world.assign(host, handle, ADDRESSES[ordinal])

    @precondition(is_free)
    @rule(handle=st.sampled_from(HANDLES), whole=st.booleans())
    def release(self, handle: str, whole: bool) -> None:
        if whole:
            self.world.release_handle(handle)
        else:
            self.world.release_address(handle)

    @precondition(is_free)
    @rule(host=st.sampled_from(HOSTS), empty=st.booleans())
    def release_blocks(self, host: str, empty: bool) -> None:
        if empty:
            self.world.release_empty(host)
        else:
            self.world.release_host(host)

    @rule()
    def wait(self) -> None:
        self.world.clock.move(61)

    @precondition(is_busy)
    @rule(index=st.integers(0, MAX_RUNNING - 1), turns=st.integers(1, 25))
    def go_on(self, index: int, turns: int) -> None:
        for _ in range(turns):
            if not self.world.running:
                break
            self.world.turn(index)

    @precondition(is_busy)
    @rule(index=st.integers(0, MAX_RUNNING - 1))
    def die(self, index: int) -> None:
        self.world.die(index)

    def teardown(self) -> None:
        self.world.finish()


ConcurrentClients.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestConcurrentClients = ConcurrentClients.TestCase


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), era=st.sampled_from(list(Era)))
def test_many_clients_in_any_order_of_steps(seed: int, era: Era) -> None:
    chance = random.Random(seed)
    world = World(era, seed)

    for _ in range(40):
        handle, host = chance.choice(HANDLES), chance.choice(HOSTS)
        match chance.randrange(8):
            case 0 | 1 | 2:
                world.auto_assign(host, handle, chance.randint(1, 5))
            case 3:
                world.assign(host, handle, chance.choice(ADDRESSES))
            case 4 | 5:
                world.release_handle(handle)
            case 6:
                world.release_address(handle)
            case _:
                chance.choice((world.release_empty, world.release_host))(host)
        for _ in range(chance.randint(0, 40)):
            if world.running:
                world.turn(chance.randrange(len(world.running)))
        if world.running and chance.random() < 0.1:
            world.die(chance.randrange(len(world.running)))

    world.finish()
    assert world.completed > 10


@pytest.mark.parametrize("era", list(Era))
def test_clients_that_take_turns_share_a_pool_without_remainder(era: Era) -> None:
    world = World(era)

    for number in range(16):
        world.auto_assign(HOSTS[number % 3], HANDLES[number % 4], 1)
    while world.running:
        for index in range(len(world.running), 0, -1):
            world.turn(index - 1)

    assert len(world.held) == 16
    world.finish()
