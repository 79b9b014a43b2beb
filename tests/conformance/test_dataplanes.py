"""The recording fake keeps the dataplane contract. The example plugin brings its own test of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from calico_engine.plugin import Dataplane, PluginContext
from calico_engine.settings import FelixSettings
from calico_engine.testing.conformance.dataplane import (
    DataplaneConformance,
    DataplaneHarness,
    Scenario,
    run_here,
)
from calico_engine.testing.fakes import FakeKernel, RecordingDataplane


class RecordingHarness:
    """A kernel in memory."""

    def __init__(self) -> None:
        self._kernel = FakeKernel()

    def run(self, scenario: Scenario) -> None:
        run_here(scenario)

    def make(self) -> Dataplane:
        context = PluginContext(
            name="fake",
            node="node-1",
            settings=FelixSettings(),
            options={},
            request_apply=lambda _: None,
            notify=lambda _: None,
        )
        return RecordingDataplane(context, self._kernel)

    def outside(self) -> object:
        return dict(self._kernel.objects)

    def disturb(self) -> None:
        del self._kernel.objects[min(self._kernel.objects)]

    @contextmanager
    def refusing(self) -> Iterator[None]:
        self._kernel.refuse(1000)
        yield
        self._kernel.refusals.clear()


class TestRecordingDataplane(DataplaneConformance):
    @pytest.fixture
    def harness(self) -> DataplaneHarness:
        return RecordingHarness()
