"""What a store that was started anew makes of manifests that broke while nobody watched."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from calico_engine.errors import UnavailableError
from calico_engine.model import Resource, dump
from calico_engine.plugin import Notification
from calico_engine.testing.builders import make_policy, make_profile
from calico_engine.testing.conformance.watching import WatchView, watching
from calico_engine_file.config import FileConfig
from calico_engine_file.editing import render_manifest
from calico_engine_file.last_good import LastGood, Record, make_record
from calico_engine_file.manifest import Entry
from calico_engine_file.plugin import FileDatastore
from calico_engine_file.writing import exclusive

WAIT_S = 20.0
DENY = make_policy("deny", order=1.0)
OTHER = make_policy("other", order=2.0)
NOT_YAML = "spec: [\n"


class Node:
    """A node's manifests and its state directory; `run` is the engine's part of one life of it."""

    def __init__(self, folder: Path) -> None:
        self.manifests = folder / "manifests"
        self.manifests.mkdir()
        self.state = folder / "state"
        self.notes: list[Notification] = []

    def write(self, name: str, *resources: Resource) -> Path:
        path = self.manifests / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"---\n".join(render_manifest(resource) for resource in resources))
        return path

    @asynccontextmanager
    async def run(self, manifests: Path | None = None) -> AsyncIterator[Life]:
        config = msgspec.convert({"path": str(manifests or self.manifests), "poll_s": 0.2}, FileConfig)
        store = FileDatastore(config, notify=self.notes.append, state_dir=str(self.state))
        async with watching(store) as view:
            await view.until(lambda: view.in_sync, WAIT_S, "IN_SYNC")
            yield Life(store, view)
            await store.close()

    def log(self) -> Path:
        (path,) = self.state.rglob("*.jsonl")
        return path

    def kept(self) -> dict[str, list[dict[str, Any]]]:
        """What the log says now, read as a person would: its last line of each path."""
        lines = [json.loads(line) for line in self.log().read_text().splitlines()]
        last = {line["path"]: line for line in lines[1:]}
        return {path: line["resources"] for path, line in last.items() if line.get("resources")}


class Life:
    """One running store."""

    def __init__(self, store: FileDatastore, view: WatchView) -> None:
        self.store = store
        self.view = view

    def says(self, resource: Resource) -> bool:
        found = self.view.resources.get(resource.key)
        return found is not None and _bare(found) == _bare(resource)


def _bare(resource: Resource) -> str:
    return dump(
        msgspec.structs.replace(
            resource, metadata=msgspec.structs.replace(resource.metadata, resource_version="")
        )
    )


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


async def test_file_that_broke_while_stopped_counts_as_it_last_was_in_order(node: Node) -> None:
    path = node.write("deny.yaml", DENY)
    os.utime(path, (0, 1_700_000_000))
    async with node.run():
        pass
    path.write_text(NOT_YAML)

    async with node.run() as life:
        assert life.says(DENY)
        (text,) = life.store.problems.values()
        assert text.startswith(
            "deny.yaml: serving the version of 2023-11-14T22:13:20Z; broken since: deny.yaml: line 2"
        )

        node.write("deny.yaml", make_policy("deny", order=5.0))
        await life.view.until(lambda: life.says(make_policy("deny", order=5.0)), WAIT_S, "mended")
        assert not life.store.problems


async def test_it_counts_however_often_the_store_is_started(node: Node) -> None:
    path = node.write("deny.yaml", DENY)
    async with node.run():
        pass
    path.write_text(NOT_YAML)

    for _ in range(3):
        async with node.run() as life:
            assert life.says(DENY)


async def test_the_version_kept_is_the_latest(node: Node) -> None:
    path = node.write("deny.yaml", DENY)
    newer = make_policy("deny", order=7.0)
    async with node.run() as life:
        node.write("deny.yaml", newer)
        await life.view.until(lambda: life.says(newer), WAIT_S, "newer version")
    path.write_text(NOT_YAML)

    async with node.run() as life:
        assert life.says(newer)


@pytest.mark.parametrize(
    "text", ["", "\x00", "apiVersion: projectcalico.org/v3\nkind: NetworkPolicy\nmetadata: {}\n"]
)
async def test_emptied_binary_or_nameless_keeps_what_was_there(node: Node, text: str) -> None:
    path = node.write("deny.yaml", DENY)
    async with node.run():
        pass
    path.write_text(text)

    async with node.run() as life:
        assert life.says(DENY)
        assert "serving the version of" in " ".join(life.store.problems.values())


async def test_one_refused_resource_counts_as_it_was_beside_good_news(node: Node) -> None:
    path = node.write("both.yaml", DENY, OTHER)
    async with node.run():
        pass
    refused = render_manifest(DENY).replace(b"order: 1", b"order: nothing")
    path.write_bytes(refused + b"---\n" + render_manifest(make_policy("other", order=3.0)))

    async with node.run() as life:
        assert life.says(DENY)
        assert life.says(make_policy("other", order=3.0))
        (text,) = life.store.problems.values()
        assert "serving the version of" in text
        assert "order" in text
    # The good one is the version to fall back to now, the refused one stays what it was.
    path.write_text(NOT_YAML)
    async with node.run() as life:
        assert life.says(DENY)
        assert life.says(make_policy("other", order=3.0))


async def test_what_was_never_in_order_is_said_to_be_unknown(node: Node) -> None:
    node.write("deny.yaml", DENY)
    (node.manifests / "broken.yaml").write_text(NOT_YAML)

    async with node.run() as life:
        assert life.says(DENY)
        (text,) = life.store.problems.values()
        assert "broken.yaml" in text
        assert "what the file holds is unknown and NOT in force" in text
        assert [note.kind for note in node.notes] == ["warning"]


async def test_deleted_file_is_forgotten(node: Node) -> None:
    path = node.write("deny.yaml", DENY)
    node.write("other.yaml", OTHER)
    async with node.run() as life:
        path.unlink()
        await life.view.until(lambda: DENY.key not in life.view.resources, WAIT_S, "deny gone")
    assert set(node.kept()) == {"other.yaml"}
    path.write_text(NOT_YAML)

    async with node.run() as life:
        assert DENY.key not in life.view.resources
        assert life.says(OTHER)


async def test_file_deleted_while_stopped_is_forgotten(node: Node) -> None:
    path = node.write("deny.yaml", DENY)
    async with node.run():
        pass
    path.unlink()
    async with node.run() as life:
        assert DENY.key not in life.view.resources
    path.write_text(NOT_YAML)

    async with node.run() as life:
        assert DENY.key not in life.view.resources


async def test_resource_taken_out_of_a_good_file_does_not_come_back(node: Node) -> None:
    path = node.write("both.yaml", DENY, OTHER)
    async with node.run():
        pass
    node.write("both.yaml", OTHER)
    async with node.run():
        pass
    path.write_text(NOT_YAML)

    async with node.run() as life:
        assert life.says(OTHER)
        assert DENY.key not in life.view.resources


async def test_another_store_takes_nothing_from_it(node: Node, tmp_path: Path) -> None:
    node.write("deny.yaml", DENY)
    async with node.run():
        pass
    log = node.log()
    other = tmp_path / "elsewhere" / "manifests"
    other.mkdir(parents=True)
    (other / "deny.yaml").write_text(NOT_YAML)

    async with node.run(other) as life:
        assert not life.view.resources

    # Nor where one log was put in the place of the other.
    foreign = LastGood(log.parent, other)
    foreign.path.write_bytes(log.read_bytes())
    assert foreign.read() == {}


async def test_log_is_for_people_and_for_nobody_else(node: Node) -> None:
    node.write("team/deny.yaml", DENY)
    async with node.run():
        pass

    log = node.log()
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    assert stat.S_IMODE(log.parent.stat().st_mode) == 0o700
    assert json.loads(log.read_text().splitlines()[0])["store"] == str(node.manifests)
    (kept,) = node.kept()["team/deny.yaml"]
    assert kept["resource"]["metadata"]["name"] == "deny"


async def test_restart_without_a_change_writes_nothing(node: Node) -> None:
    node.write("deny.yaml", DENY)
    async with node.run():
        pass
    before = (node.log().stat().st_mtime_ns, node.log().stat().st_ino)
    async with node.run():
        pass

    assert (node.log().stat().st_mtime_ns, node.log().stat().st_ino) == before


async def test_line_cut_short_by_a_crash_leaves_the_others(node: Node) -> None:
    node.write("deny.yaml", DENY)
    node.write("other.yaml", OTHER)
    async with node.run():
        pass
    with node.log().open("ab") as file:
        file.write(b'{"path":"deny.yaml","resources":[{"ti')
    newest = make_policy("other", order=9.0)
    node.write("other.yaml", newest)
    async with node.run():
        pass
    for name in ("deny.yaml", "other.yaml"):
        (node.manifests / name).write_text(NOT_YAML)

    async with node.run() as life:
        assert life.says(DENY)
        assert life.says(newest)


def test_log_does_not_grow_with_the_changes(node: Node) -> None:
    log, another = LastGood(node.state, node.manifests), LastGood(node.state, node.manifests)
    another.write({"b.yaml": _record("b.yaml", 10)})

    for number in range(100):
        log.write({"a.yaml": _record("a.yaml", 100_000 + number)})

    assert log.path.stat().st_size < 2_000_000
    assert set(log.read()) == {"a.yaml", "b.yaml"}


def test_what_is_too_large_is_not_kept_and_said_so(node: Node) -> None:
    log = LastGood(node.state, node.manifests, limit_bytes=10_000)

    assert log.write({"a.yaml": _record("a.yaml", 6_000)}) == []
    assert log.write({"b.yaml": _record("b.yaml", 6_000)}) == ["b.yaml"]
    assert set(log.read()) == {"a.yaml"}


def _record(path: str, size_bytes: int) -> Record:

    profile = make_profile("p")
    entry = Entry((0,), profile.key, profile)
    return make_record(path, "d" * size_bytes, (entry,), 0)


async def test_state_that_cannot_be_written_is_told_and_stops_nothing(node: Node) -> None:
    node.state.write_text("not a directory")
    node.write("deny.yaml", DENY)

    async with node.run() as life:
        assert life.says(DENY)
        await life.store.close()
        assert "cannot be kept" in life.store.problems["last good versions"]


async def test_state_that_was_removed_is_written_again(node: Node) -> None:
    path = node.write("deny.yaml", DENY)
    async with node.run() as life:
        await life.store.save()
        node.log().unlink()
        node.write("other.yaml", OTHER)
        await life.view.until(lambda: life.says(OTHER), WAIT_S, "other")
    path.write_text(NOT_YAML)

    async with node.run() as life:
        assert life.says(DENY)


async def test_file_name_that_is_no_text_is_remembered_too(node: Node) -> None:
    path = node.manifests / os.fsdecode(b"de\xffny.yaml")
    path.write_bytes(render_manifest(DENY))
    node.write("other.yaml", OTHER)
    async with node.run():
        pass
    path.write_text(NOT_YAML)

    async with node.run() as life:
        assert life.says(DENY)
        assert life.says(OTHER)
    assert set(node.kept()) == {"de\\udcffny.yaml", "other.yaml"}


async def test_without_a_state_directory_nothing_is_written(node: Node) -> None:
    node.write("deny.yaml", DENY)
    store = FileDatastore(FileConfig(path=str(node.manifests)))
    async with watching(store) as view:
        await view.until(lambda: view.in_sync, WAIT_S, "IN_SYNC")
        await store.close()

    assert not node.state.exists()
    assert [entry.name for entry in node.manifests.iterdir()] == ["deny.yaml"]


def test_state_that_another_keeps_locked_is_an_error(node: Node) -> None:

    log = LastGood(node.state, node.manifests, lock_timeout_s=0.05)
    log.write({"a.yaml": _record("a.yaml", 10)})

    with exclusive(node.state, 1.0), pytest.raises(UnavailableError):
        log.write({"a.yaml": _record("a.yaml", 11)})
