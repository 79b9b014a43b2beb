"""The flows that the soak run probes are what it says they are, whichever versions of the manifests meet."""

from functools import cache
from random import Random

import pytest

from calico_engine import evaluate
from calico_engine.evaluation import Flow, World
from calico_engine.model import Resource, ResourceKey, WorkloadEndpoint, load
from calico_engine.testing.soak import world as soak


def flow(ends: soak.FlowEnds) -> Flow:
    return Flow(
        src=ends.source_address,
        dst=ends.destination_address,
        protocol=ends.protocol.upper(),
        dst_port=ends.port,
    )


@cache
def read_file(text: bytes) -> tuple[Resource, ...]:
    return load(text)


def read(files: dict[str, bytes]) -> dict[ResourceKey, Resource]:
    return {resource.key: resource for text in files.values() for resource in read_file(text)}


@pytest.mark.parametrize("seed", range(4))
def test_promises_hold_for_any_mixture_of_versions(seed: int) -> None:
    random = Random(seed)
    made = soak.World(random)
    files = made.first()
    versions: dict[ResourceKey, list[Resource | None]] = {key: [found] for key, found in read(files).items()}
    for _ in range(6):
        before = read(files)
        files |= made.change()
        for key in before.keys() | read(files).keys():
            versions.setdefault(key, [None]).append(read(files).get(key))

    mixed = [resource for known in versions.values() if (resource := random.choice(known)) is not None]

    world = World(mixed)
    present = {resource.metadata.name for resource in mixed if isinstance(resource, WorkloadEndpoint)}
    # A pod without an endpoint cannot be reached, which evaluation cannot know: to it the address is nobody's.
    denied = [ends for ends in soak.DENIED if {ends.source, ends.destination} <= present]
    assert [str(ends) for ends in denied if evaluate(world, flow(ends)).allowed] == []
    assert [str(ends) for ends in soak.ALLOWED if not evaluate(world, flow(ends)).allowed] == []


def test_same_seed_makes_the_same_manifests() -> None:
    first, second = (soak.World(Random(5)) for _ in range(2))

    assert first.first() == second.first()
    assert [first.change() for _ in range(5)] == [second.change() for _ in range(5)]


def test_guests_are_let_in_by_some_versions_only() -> None:
    made = soak.World(Random(1))
    files = made.first()
    seen = set()
    ends = soak.flows("guest", "closed", (soak.FLIPPING_PORT,))[0]
    for _ in range(20):
        files |= made.change()
        seen.add(evaluate(World(read(files).values()), flow(ends)).allowed)

    assert seen == {True, False}
