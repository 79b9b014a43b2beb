"""The example plugin keeps the dataplane contract: the suite that calico-engine ships, over the real file."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from calico_engine.plugin import Dataplane
from calico_engine.testing.conformance.dataplane import (
    DataplaneConformance,
    DataplaneHarness,
    Scenario,
    run_here,
)
from calico_engine_hello.plugin import HelloDataplane


class HelloHarness:
    """A file that stands for a kernel."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def run(self, scenario: Scenario) -> None:
        run_here(scenario)

    def make(self) -> Dataplane:
        return HelloDataplane("hello", self._path)

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


class TestHelloDataplane(DataplaneConformance):
    @pytest.fixture
    def harness(self, tmp_path: Path) -> DataplaneHarness:
        return HelloHarness(tmp_path / "hello.json")
