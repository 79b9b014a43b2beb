"""The datastore `file` keeps the datastore contract."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest

from calico_engine.model import Resource, ResourceKey
from calico_engine.testing.conformance.datastore import ClientFactory, DatastoreConformance, DatastoreHarness
from calico_engine_file.config import FileConfig, WatchMode
from calico_engine_file.plugin import FileDatastore


class FileHarness:
    """A directory; it is away while it has another name."""

    settle_s = 20.0

    def __init__(self, folder: Path, watch: WatchMode) -> None:
        self._root = folder / "manifests"
        self._root.mkdir()
        self._hidden = folder / "away"
        self._watch = watch

    def _factory(self, root: Path) -> ClientFactory:
        return partial(FileDatastore, FileConfig(path=str(root), watch=self._watch, poll_s=0.2))

    def factory(self) -> ClientFactory:
        return self._factory(self._root)

    async def take_away(self) -> bool:
        self._root.rename(self._hidden)
        return True

    async def bring_back(self) -> None:
        self._hidden.rename(self._root)

    async def change_while_away(self, put: Sequence[Resource], delete: Sequence[ResourceKey]) -> bool:
        store = self._factory(self._hidden)()
        for resource in put:
            await store.put(resource)
        for key in delete:
            await store.delete(key)
        return True

    async def store_garbage(self, key: ResourceKey) -> bool:
        metadata = f"{{name: {key.name}, namespace: {key.namespace}}}"
        text = f"apiVersion: projectcalico.org/v3\nkind: {key.kind}\nmetadata: {metadata}\nspec: {{order: nothing}}\n"
        (self._root / "garbage.yaml").write_text(text)
        return True


class TestFileByInotify(DatastoreConformance):
    @pytest.fixture
    def harness(self, tmp_path: Path) -> DatastoreHarness:
        return FileHarness(tmp_path, WatchMode.AUTO)


class TestFileByPolling(DatastoreConformance):
    @pytest.fixture
    def harness(self, tmp_path: Path) -> DatastoreHarness:
        return FileHarness(tmp_path, WatchMode.POLL)
