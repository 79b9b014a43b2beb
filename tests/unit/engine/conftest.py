"""One running engine a test, made of the fakes, and small words for what tests do with it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from calico_engine.engine import Engine, EngineProfile
from calico_engine.engine.events import Event
from calico_engine.model.node import Node
from calico_engine.model.resource import Metadata
from calico_engine.testing.fakes import Fakes, PassThroughGraph


def make_node(name: str, address: str = "192.0.2.1") -> Node:
    return Node(metadata=Metadata(name=name, labels={"address": address}))


def message_name(name: str) -> str:
    """What the fakes call the one message that make_node(name) leads to."""
    return f"NodeUpdate:Node({name})"


class Rig:
    """An engine over fakes. `start` runs it; what it publishes is in `events`."""

    def __init__(self, run_dir: Path) -> None:
        self.fakes = Fakes()
        self.run_dir = run_dir
        self.events: list[Event] = []
        self.environ: dict[str, str] = {}
        self.families: tuple[int, ...] = (4, 6)
        self.engine: Engine
        self.task: asyncio.Task[None]

    def make(self, profile: EngineProfile | None = None) -> Engine:
        self.engine = Engine(
            profile or self.fakes.profile(),
            "node-a",
            run_dir=self.run_dir,
            environ=self.environ,
            registry=self.fakes.registry,
            config_file=self.run_dir / "felix.cfg",
            make_graph=PassThroughGraph,
            families=self.families,
        )
        self.engine.bus.subscribe(self.events.append)
        return self.engine

    def begin(self, profile: EngineProfile | None = None) -> Engine:
        """Start without waiting for anything."""
        engine = self.make(profile)
        self.task = asyncio.get_running_loop().create_task(engine.run())
        return engine

    async def start(self, profile: EngineProfile | None = None) -> Engine:
        engine = self.begin(profile)
        await engine.wait_applied(5)
        return engine

    async def put(self, *nodes: Node) -> None:
        """Write nodes and wait until the last plugin has them."""
        for node in nodes:
            await self.fakes.datastore.put(node)
        await self.until(lambda: all(message_name(n.metadata.name) in self.kernel("routes") for n in nodes))

    def kernel(self, name: str) -> set[str]:
        return self.fakes.kernels[name].names("NodeUpdate")

    async def until(self, condition: Callable[[], bool], timeout_s: float = 5.0) -> None:
        """Let the engine go on until the condition holds. Raises: TimeoutError."""
        async with asyncio.timeout(timeout_s):
            while not condition():
                await asyncio.sleep(0.001)

    async def stop(self) -> None:
        if hasattr(self, "task") and not self.task.done():
            self.engine.request_stop()
            await asyncio.wait_for(self.task, 10)


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    made = Rig(tmp_path / "run")
    yield made
    await made.stop()
