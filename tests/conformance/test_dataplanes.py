"""Dataplanes that need no kernel keep the dataplane contract: the recording fake and the example plugin."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

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

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "calico-engine-hello" / "src"


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


class HelloHarness:
    """A file that stands for a kernel."""

    def __init__(self, module: ModuleType, path: Path) -> None:
        self._module = module
        self._path = path

    def run(self, scenario: Scenario) -> None:
        run_here(scenario)

    def make(self) -> Dataplane:
        made = self._module.HelloDataplane("hello", self._path)
        assert isinstance(made, Dataplane)
        return made

    def outside(self) -> object:
        return json.loads(self._path.read_text()) if self._path.exists() else {}

    def disturb(self) -> None:
        content = json.loads(self._path.read_text())
        del content[min(content)]
        self._path.write_text(json.dumps(content))

    @contextmanager
    def refusing(self) -> Iterator[None]:
        # Where the file should go there is a directory.
        self._path.mkdir()
        yield
        self._path.rmdir()


class TestExampleDataplane(DataplaneConformance):
    @pytest.fixture
    def module(self) -> Iterator[ModuleType]:
        """The example's plugin module, whether or not the example is installed."""
        before = set(sys.modules)
        sys.path.insert(0, str(EXAMPLE))
        try:
            yield importlib.import_module("calico_engine_hello.plugin")
        finally:
            sys.path.remove(str(EXAMPLE))
            for name in set(sys.modules) - before:
                if name.startswith("calico_engine_hello"):
                    del sys.modules[name]

    @pytest.fixture
    def harness(self, module: ModuleType, tmp_path: Path) -> DataplaneHarness:
        return HelloHarness(module, tmp_path / "hello.json")
