"""An orchestrator plugin that fails is started again; policy goes on meanwhile."""

import asyncio

import msgspec

from calico_engine.engine.events import Event, PluginFailed
from calico_engine.engine.orchestrators import serve_for_ever
from calico_engine.plugin import PluginContext, hookimpl

from .conftest import Rig


class Orchestrator:
    """Serves as its script says: raises, or serves on."""

    def __init__(self, script: list[Exception | None]) -> None:
        self.script = script
        self.serving = asyncio.Event()
        self.closed = False

    async def serve(self) -> None:
        error = self.script.pop(0)
        if error is not None:
            raise error
        self.serving.set()
        await asyncio.Event().wait()

    async def close(self) -> None:
        self.closed = True


class OrchestratorPlugin:
    def __init__(self, made: Orchestrator) -> None:
        self.made = made

    @hookimpl
    def ce_make_orchestrator(self, context: PluginContext) -> Orchestrator:
        assert context.name == "own"
        return self.made


async def test_a_failing_orchestrator_stops_nothing(rig: Rig) -> None:
    made = Orchestrator([RuntimeError("slip"), None])
    rig.fakes.registry.register("orchestrator", "own", OrchestratorPlugin(made))

    await rig.start(msgspec.structs.replace(rig.fakes.profile(), orchestrator=("own",)))
    await asyncio.wait_for(made.serving.wait(), 5)

    failures = [(e.plugin, e.phase, e.error) for e in rig.events if isinstance(e, PluginFailed)]
    assert failures == [("orchestrator:own", "serve", "RuntimeError: slip")]
    assert rig.engine.is_ready()
    await rig.stop()
    assert made.closed


async def test_one_that_ends_counts_as_failed() -> None:
    class Ending(Orchestrator):
        async def serve(self) -> None:
            return

    events: list[Event] = []
    heard = asyncio.Event()

    def publish(event: Event) -> None:
        events.append(event)
        heard.set()

    task = asyncio.get_running_loop().create_task(serve_for_ever("own", Ending([]), publish))
    await asyncio.wait_for(heard.wait(), 5)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    assert [event.error for event in events if isinstance(event, PluginFailed)] == [
        "it ended; it must serve for ever"
    ]
