"""What people and programs do to the directory of manifests, and what the datastore makes of it."""

from __future__ import annotations

import asyncio
import mmap
import os
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from calico_engine.errors import ConflictError, DatastoreError, UnavailableError
from calico_engine.model import Resource, ResourceKey, dump
from calico_engine.model.validate import validate
from calico_engine.plugin import Notification, StatusReport, Update
from calico_engine.testing.builders import make_endpoint, make_policy, make_profile
from calico_engine.testing.conformance.watching import WatchView, watching
from calico_engine_file import plugin
from calico_engine_file.config import FileConfig
from calico_engine_file.editing import EditError, render_manifest
from calico_engine_file.plugin import FileDatastore

WAIT_S = 20.0
WEB = make_policy("web", order=1.0)
UNKNOWN = "what the file holds is unknown and NOT in force"


class Watched:
    """A store on `root`, what its watch says, and what it reports."""

    def __init__(self, root: Path, **settings: object) -> None:
        self.root = root
        self.notes: list[Notification] = []
        config = msgspec.convert({"path": str(root), **settings}, FileConfig)
        self.store = FileDatastore(config, notify=self._note)
        self.view = WatchView()
        self._noted = asyncio.Event()

    def _note(self, note: Notification) -> None:
        self.notes.append(note)
        self._noted.set()

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        await self.view.until(condition, WAIT_S, what)

    async def until_says(self, *wanted: Resource) -> None:
        facts = {(resource.key, dump(resource)) for resource in wanted}
        await self.until(
            lambda: {(key, bare_text(found)) for key, found in self.view.resources.items()} == facts,
            f"view of {[str(resource.key) for resource in wanted]}",
        )

    async def until_reports(self, text: str) -> str:
        """Wait for a warning that has `text` in it, and return it."""
        async with asyncio.timeout(WAIT_S):
            while True:
                for note in self.notes:
                    if note.kind == "warning" and text in note.message:
                        return note.message
                self._noted.clear()
                await self._noted.wait()

    async def settle(self) -> None:
        """Wait until what was written before has been seen: until a file written now is."""
        marker = make_profile("settle-marker")
        path = self.root / "zzz-marker.yaml"
        path.write_bytes(render_manifest(marker))
        await self.until(lambda: marker.key in self.view.resources, "marker")
        path.unlink()
        await self.until(lambda: marker.key not in self.view.resources, "end of the marker")


def bare_text(resource: Resource) -> str:
    return dump(
        msgspec.structs.replace(
            resource, metadata=msgspec.structs.replace(resource.metadata, resource_version="")
        )
    )


@asynccontextmanager
async def watched(root: Path, **settings: object) -> AsyncIterator[Watched]:
    root.mkdir(exist_ok=True)
    it = Watched(root, **settings)
    async with watching(it.store) as view:
        it.view = view
        await it.until(lambda: view.in_sync, "IN_SYNC")
        yield it
    await it.store.close()


def write(path: Path, *resources: Resource) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"---\n".join(render_manifest(resource) for resource in resources))


async def test_files_of_any_depth_and_format_are_read(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", WEB, make_profile("p"))
    write(tmp_path / "team/web/b.yml", make_policy("b"))
    (tmp_path / "c.json").write_text(dump(make_policy("c"), "json"))
    (tmp_path / "old.yaml").write_text("apiVersion: v1\nkind: profile\nmetadata: {name: old}\n")
    (tmp_path / "README.txt").write_text("not: [a manifest")

    async with watched(tmp_path) as it:
        assert {key.name for key in it.view.resources} == {"web", "p", "b", "c", "old"}
        assert not it.notes


async def test_what_is_read_need_not_be_validated_again(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", WEB)
    async with watched(tmp_path) as it:
        (update,) = [word for word in it.view.said if isinstance(word, Update)]

        assert update.checked
        validate(update.resource)  # type: ignore[arg-type]  # it is there


async def test_half_written_file_keeps_the_last_good_version_and_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "web.yaml"
    write(path, WEB)
    async with watched(tmp_path) as it:
        path.write_text(path.read_text()[:60] + "\n  name: [")
        await it.until_reports("web.yaml: line")
        await it.settle()
        await it.until_says(WEB)

        write(path, make_policy("web", order=2.0))
        await it.until_says(make_policy("web", order=2.0))
        assert not it.store.problems


async def test_writer_that_takes_its_time_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "web.yaml"
    write(path, WEB)
    async with watched(tmp_path) as it:
        text = render_manifest(make_policy("web", order=2.0)) + b"---\n" + render_manifest(make_profile("p"))
        with path.open("wb", buffering=0) as file:
            for start in range(0, len(text), 20):
                file.write(text[start : start + 20])
                await asyncio.sleep(0)
            assert not it.notes

        await it.until_says(make_policy("web", order=2.0), make_profile("p"))
        assert not it.notes


async def test_file_emptied_keeps_its_resources_and_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "web.yaml"
    write(path, WEB)
    async with watched(tmp_path) as it:
        path.write_text("")
        assert "delete it" in await it.until_reports("empty")
        await it.until_says(WEB)

        path.write_text("# really nothing\n")
        await it.until_says()


async def test_one_invalid_resource_keeps_its_last_good_version_beside_good_news(tmp_path: Path) -> None:
    path = tmp_path / "both.yaml"
    write(path, WEB, make_policy("db", order=1.0))
    async with watched(tmp_path) as it:
        text = render_manifest(make_policy("web", order=2.0)).decode() + "---\n"
        path.write_text(text + render_manifest(make_policy("db", order=1.0)).decode().replace("1.0", "first"))

        await it.until_says(make_policy("web", order=2.0), make_policy("db", order=1.0))
        report = await it.until_reports("NetworkPolicy(default/db)")
        assert "order" in report
        assert "serving the version of 20" in report
        with pytest.raises(ConflictError):
            await it.store.put(make_policy("db"), expect_revision="0")


async def test_invalid_resource_that_was_never_good_is_told_as_an_error(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(
        render_manifest(make_policy("x", selector="all()")).decode().replace("all()", "all((")
    )
    async with watched(tmp_path) as it:
        key = make_policy("x").key
        assert "selector" in it.view.errors[key]
        with pytest.raises(DatastoreError, match="selector"):
            await it.store.get(key)

        write(tmp_path / "x.yaml", make_policy("x"))
        await it.until_says(make_policy("x"))


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ("kind: NetworkPolicy", "kind: NetworkPolicies", "NetworkPolicies"),
        ("name: web", "name:", "metadata.name: is required"),
        ("name: web", "name: Web", "metadata.name: 'Web' is not allowed"),
        ("namespace: default", "namespace: 7", "metadata.namespace"),
    ],
)
async def test_resource_whose_name_was_lost_stays(tmp_path: Path, old: str, new: str, word: str) -> None:
    path = tmp_path / "both.yaml"
    write(path, WEB, make_profile("p"))
    async with watched(tmp_path) as it:
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))
        await it.until_reports(word)
        await it.settle()

        await it.until_says(WEB, make_profile("p"))

        path.write_text(path.read_text() + "# looked at again\n")
        await it.settle()
        await it.until_says(WEB, make_profile("p"))

        write(path, make_profile("p"))
        await it.until_says(make_profile("p"))


async def test_what_was_always_wrong_keeps_nothing_that_is_deleted(tmp_path: Path) -> None:
    path = tmp_path / "three.yaml"
    wrong = render_manifest(make_policy("wrong", order=4.0)).replace(b"order: 4", b"order: nothing")
    path.write_bytes(wrong + b"---\n" + b"---\n".join(map(render_manifest, (WEB, make_profile("p")))))
    async with watched(tmp_path) as it:
        await it.until_says(WEB, make_profile("p"))

        path.write_bytes(wrong + b"---\n" + render_manifest(make_profile("p")))

        await it.until_says(make_profile("p"))


async def test_first_path_wins_a_key_that_two_files_hold(tmp_path: Path) -> None:
    write(tmp_path / "b.yaml", make_policy("web", order=2.0))
    async with watched(tmp_path) as it:
        write(tmp_path / "a.yaml", make_policy("web", order=1.0))
        await it.until_says(make_policy("web", order=1.0))
        assert "a.yaml counts" in await it.until_reports("in a.yaml and in b.yaml")

        (tmp_path / "a.yaml").unlink()
        await it.until_says(make_policy("web", order=2.0))
        assert not it.store.problems


async def test_deleted_file_takes_its_resources_with_it(tmp_path: Path) -> None:
    write(tmp_path / "sub/a.yaml", WEB, make_profile("p"))
    write(tmp_path / "b.yaml", make_policy("b"))
    async with watched(tmp_path) as it:
        (tmp_path / "sub/a.yaml").unlink()
        await it.until_says(make_policy("b"))


async def test_directories_come_go_and_move(tmp_path: Path) -> None:
    root = tmp_path / "root"
    outside = tmp_path / "outside"
    write(outside / "deep/a.yaml", WEB)
    async with watched(root) as it:
        outside.rename(root / "in")
        await it.until_says(WEB)
        (root / "in").rename(root / "renamed")
        await it.settle()
        await it.until_says(WEB)
        (root / "renamed").rename(outside)
        await it.until_says()


async def test_saving_by_rename_never_takes_the_resource_away(tmp_path: Path) -> None:
    path = tmp_path / "web.yaml"
    write(path, WEB)
    async with watched(tmp_path) as it:
        for order in (2.0, 3.0, 4.0):
            # As vim does it: a swap file, the old version out of the way, a new file, the backup removed.
            (tmp_path / ".web.yaml.swp").write_bytes(b"b0VIM \x00\xff")
            (tmp_path / "4913").write_text("")
            path.rename(tmp_path / "web.yaml~")
            write(path, make_policy("web", order=order))
            (tmp_path / "web.yaml~").unlink()
            await it.until_says(make_policy("web", order=order))
            # As most others do it: a new file, renamed over the old one.
            write(tmp_path / ".web.yaml.tmp", make_policy("web", order=order + 0.5))
            (tmp_path / ".web.yaml.tmp").rename(path)
            await it.until_says(make_policy("web", order=order + 0.5))

        assert not [word for word in it.view.said if getattr(word, "resource", WEB) is None]
        assert not it.notes


async def test_renamed_file_is_no_change(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", WEB)
    async with watched(tmp_path) as it:
        said = len(it.view.said)
        (tmp_path / "a.yaml").rename(tmp_path / "b.yaml")
        await it.settle()

        assert [word for word in it.view.said[said:] if "settle-marker" not in str(word)] == []
        assert not it.notes


async def test_volume_of_links_is_followed(tmp_path: Path) -> None:
    # As Kubernetes mounts a ConfigMap.
    write(tmp_path / "..one/web.yaml", WEB)
    write(tmp_path / "..two/web.yaml", make_policy("web", order=2.0))
    (tmp_path / "..data").symlink_to("..one")
    (tmp_path / "web.yaml").symlink_to("..data/web.yaml")
    async with watched(tmp_path) as it:
        await it.until_says(WEB)
        (tmp_path / "..data_tmp").symlink_to("..two")
        (tmp_path / "..data_tmp").rename(tmp_path / "..data")
        await it.until_says(make_policy("web", order=2.0))
        assert not it.notes


async def test_what_could_do_harm_is_refused_and_reported(tmp_path: Path) -> None:
    root = tmp_path / "root"
    write(root / "good.yaml", WEB)
    write(tmp_path / "secret.yaml", make_policy("secret"))
    (root / "link.yaml").symlink_to(tmp_path / "secret.yaml")
    (root / "loop.yaml").symlink_to("loop.yaml")
    (root / "dangling.yaml").symlink_to("nowhere")
    (root / "folder").symlink_to(tmp_path)
    os.mkfifo(root / "pipe.yaml")
    (root / "big.yaml").write_text("#" * 5000)
    async with watched(root, max_file_bytes=4096) as it:
        await it.until_says(WEB)
        for name, reason in {
            "link.yaml": "leads out",
            "loop.yaml": "loop.yaml",
            "dangling.yaml": "nowhere",
            "folder": "link to a directory",
            "pipe.yaml": "not a regular file",
            "big.yaml": "max_file_bytes",
        }.items():
            assert reason in it.store.problems[name]
            await it.until_reports(name)


async def test_put_goes_to_the_file_that_holds_the_resource(tmp_path: Path) -> None:
    path = tmp_path / "team/all.yaml"
    write(path, WEB, make_profile("p"))
    path.write_text("# ours\n" + path.read_text().replace("kind: Profile", "kind: Profile # mine"))
    path.chmod(0o640)
    async with watched(tmp_path) as it:
        await it.store.put(make_policy("web", order=2.0))

        await it.until_says(make_policy("web", order=2.0), make_profile("p"))
        assert "# ours" in path.read_text()
        assert "# mine" in path.read_text()
        assert path.stat().st_mode & 0o777 == 0o640
        assert not (tmp_path / "networkpolicies").exists()


async def test_put_that_cannot_be_done_in_place_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(
        "apiVersion: projectcalico.org/v3\nkind: Profile\nmetadata: &m {name: p}\n---\n"
        "apiVersion: projectcalico.org/v3\nkind: Profile\nmetadata: {name: q, labels: &l {a: b}, annotations: *l}\n"
    )
    before = path.read_bytes()
    store = FileDatastore(FileConfig(path=str(tmp_path)))

    with pytest.raises(EditError, match="aliases"):
        await store.put(make_profile("p", labels_to_apply={"x": "y"}))

    assert path.read_bytes() == before


async def test_new_resources_get_a_file_named_after_them(tmp_path: Path) -> None:
    store = FileDatastore(FileConfig(path=str(tmp_path)))
    write(tmp_path / "profiles/taken.yaml", make_profile("other"))

    await store.put(make_policy("web", namespace="prod"))
    await store.put(make_profile("kns.prod"))
    await store.put(make_profile("taken"))

    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.yaml")) == [
        "networkpolicies/prod/web.yaml",
        "profiles/kns.prod.yaml",
        "profiles/taken-2.yaml",
        "profiles/taken.yaml",
    ]


async def test_delete_removes_the_resource_from_every_file(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", WEB, make_profile("p"))
    write(tmp_path / "b.yaml", make_policy("web", order=2.0))
    async with watched(tmp_path) as it:
        await it.store.delete(WEB.key)

        await it.until_says(make_profile("p"))
        assert not (tmp_path / "b.yaml").exists()


async def test_unchanged_put_does_not_touch_the_file(tmp_path: Path) -> None:
    store = FileDatastore(FileConfig(path=str(tmp_path)))
    first = await store.put(WEB)
    before = (tmp_path / "networkpolicies/default/web.yaml").stat()

    assert await store.put(WEB, expect_revision=first.metadata.resource_version) == first

    after = (tmp_path / "networkpolicies/default/web.yaml").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


async def test_status_goes_beside_the_manifests_and_hostile_node_names_stay_inside(tmp_path: Path) -> None:
    store = FileDatastore(FileConfig(path=str(tmp_path)))

    for node in ("node-1", "../../etc/x", ".hidden", "n" * 300):
        await store.report_status(StatusReport(node=node, time="now", uptime_s=1.0, first_update=True))

    names = sorted(path.name for path in (tmp_path / ".status").iterdir())
    assert len(names) == 4
    assert names[0] == "%2E.%2F..%2Fetc%2Fx.json"
    assert msgspec.json.decode((tmp_path / ".status/node-1.json").read_bytes())["node"] == "node-1"


async def test_only_what_changed_is_read(tmp_path: Path) -> None:
    count = 3000
    for number in range(count):
        folder = tmp_path / str(number // 1000)
        folder.mkdir(exist_ok=True)
        (folder / f"{number}.json").write_bytes(msgspec.json.encode(make_endpoint(f"pod-{number}")))
    # Old enough for the time stamps to be trusted.
    for path in tmp_path.rglob("*.json"):
        os.utime(path, (1_000_000_000, 1_000_000_000))

    async with watched(tmp_path) as it:
        assert len(it.view.resources) == count
        assert it.store.files_read == count

        (tmp_path / "1/1500.json").write_bytes(
            msgspec.json.encode(make_endpoint("pod-1500", labels={"a": "b"}))
        )
        await it.until(lambda: bool(it.view.resources[make_endpoint("pod-1500").key].labels), "change")

        assert it.store.files_read - count <= 2
        assert (await it.store.get(make_endpoint("pod-1").key)).metadata.name == "pod-1"
        assert it.store.files_read - count <= 3


WRITER = """
import asyncio, sys
from calico_engine_file import plugin
from calico_engine_file.config import FileConfig
from calico_engine_file.plugin import FileDatastore
from calico_engine.testing.builders import make_policy, make_profile

async def main():
    store = FileDatastore(FileConfig(path=sys.argv[1]))
    print("ready", flush=True)
    number = 0
    while True:
        number += 1
        await store.put(make_policy("web", order=float(number)))
        await store.put(make_profile(f"p-{number % 7}", labels_to_apply={"n": str(number)}))
        if number % 7 == 0:
            await store.delete(make_profile("p-3").key)

asyncio.run(main())
"""


@pytest.mark.slow
def test_killed_writer_leaves_whole_files_and_no_lock(tmp_path: Path) -> None:
    write(tmp_path / "shared.yaml", make_profile("kept"), WEB)
    chance = random.Random(7)
    for _ in range(8):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE)
        assert writer.stdout
        assert writer.stdout.readline() == b"ready\n"
        try:
            writer.wait(chance.uniform(0.01, 0.15))
        except subprocess.TimeoutExpired:
            os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
        writer.stdout.close()

        store = FileDatastore(FileConfig(path=str(tmp_path), lock_timeout_s=2.0))
        found = asyncio.run(_names(store))
        assert {"kept", "web"} <= found
        assert not store.problems

    asyncio.run(FileDatastore(FileConfig(path=str(tmp_path))).put(make_profile("p-99")))
    assert not list((tmp_path / "profiles").glob(".calico-engine.tmp-*"))


async def _names(store: FileDatastore) -> set[str]:
    await store.put(make_policy("web", order=0.0))
    return {found.metadata.name for kind in ("NetworkPolicy", "Profile") for found in await store.list(kind)}


async def test_lock_that_is_never_released_is_an_error(tmp_path: Path) -> None:
    store = FileDatastore(FileConfig(path=str(tmp_path), lock_timeout_s=0.05))
    await store.put(WEB)
    holder = subprocess.Popen(
        ["flock", str(tmp_path / ".calico-engine.lock"), "sh", "-c", "echo locked; exec cat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout
    assert holder.stdin
    assert holder.stdout.readline() == b"locked\n"

    with pytest.raises(UnavailableError, match="locked"):
        await store.put(make_policy("web", order=9.0))

    assert (await store.get(WEB.key)).key == WEB.key
    holder.communicate()
    await store.put(make_policy("web", order=9.0))


def run_in_user_namespace(
    script: str,
    function: Callable[[Path], Coroutine[object, object, None]],
    folder: Path,
    *flags: str,
) -> None:
    """Run a coroutine function of this module in a child for which `script` has prepared a user namespace."""
    code = (
        "import asyncio, importlib.util, pathlib, sys\n"
        f"spec = importlib.util.spec_from_file_location('store_test', {__file__!r})\n"
        "module = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(module)\n"
        f"asyncio.run(module.{function.__name__}(pathlib.Path({str(folder)!r})))\n"
    )
    done = subprocess.run(
        [
            "unshare",
            "--user",
            *flags,
            "sh",
            "-c",
            f'{script}; exec "$0" -c "$1"',
            sys.executable,
            code,
        ],
        text=True,
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


async def change_without_inotify(folder: Path) -> None:
    async with watched(folder, poll_s=0.1) as it:
        await it.until_reports("max_user_instances")
        write(folder / "a.yaml", WEB)
        await it.until_says(WEB)
        (folder / "a.yaml").unlink()
        await it.until_says()


def test_exhausted_inotify_is_reported_and_polled_around(tmp_path: Path) -> None:
    run_in_user_namespace(
        "echo 0 > /proc/sys/user/max_inotify_instances",
        change_without_inotify,
        tmp_path / "manifests",
        "--map-root-user",
    )


async def keep_what_cannot_be_read(folder: Path) -> None:
    write(folder / "sub/b.yaml", make_policy("b"))
    write(folder / "a.yaml", WEB)
    async with watched(folder, watch="poll", poll_s=0.1) as it:
        (folder / "sub").chmod(0)
        await it.until_reports("sub: the directory cannot be read")
        (folder / "a.yaml").chmod(0)
        os.utime(folder / "a.yaml")
        await it.until_reports("a.yaml: cannot be opened")
        write(folder / "c.yaml", make_profile("c"))
        await it.until_says(WEB, make_policy("b"), make_profile("c"))
        (folder / "sub").chmod(0o755)
        (folder / "a.yaml").chmod(0o644)
        await it.until_says(WEB, make_policy("b"), make_profile("c"))
        folder.chmod(0)
        await it.until(lambda: not it.view.in_sync, "word of the loss")
        folder.chmod(0o755)
        await it.until(lambda: it.view.in_sync, "word of the return")
        await it.until_says(WEB, make_policy("b"), make_profile("c"))


def test_what_cannot_be_read_stays_as_it_was(tmp_path: Path) -> None:
    # There root has no power over files: their owner is not known in that namespace.
    run_in_user_namespace("true", keep_what_cannot_be_read, tmp_path / "manifests")


async def test_revision_is_what_the_resource_says(tmp_path: Path) -> None:
    store = FileDatastore(FileConfig(path=str(tmp_path)))
    first = await store.put(WEB)
    text = (tmp_path / "networkpolicies/default/web.yaml").read_text()

    (tmp_path / "networkpolicies/default/web.yaml").write_text("# a comment\n" + text.replace("\n", "\n\n"))
    assert await store.get(WEB.key) == first
    (tmp_path / "networkpolicies/default/web.yaml").rename(tmp_path / "moved.yaml")
    assert await store.get(WEB.key) == first
    assert "resourceVersion" not in text


async def test_change_that_inotify_does_not_tell_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As on a network file system; here by writing through a memory map, which inotify is silent about.
    monkeypatch.setattr(plugin, "_OVERDUE_S", 0.0)
    path = tmp_path / "web.yaml"
    write(path, WEB)
    async with watched(tmp_path, rescan_s=0.5, poll_s=0.1) as it:
        with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
            at = memory.find(b"order: 1")
            memory[at : at + 8] = b"order: 2"
            memory.flush()

            await it.until_says(make_policy("web", order=2.0))
            await it.until_reports("inotify did not tell")


async def test_key_that_nobody_holds(tmp_path: Path) -> None:
    store = FileDatastore(FileConfig(path=str(tmp_path / "missing")))

    with pytest.raises(UnavailableError, match="missing"):
        await store.get(ResourceKey("Profile", "", "x"))
    with pytest.raises(UnavailableError, match="missing"):
        await store.put(WEB)
    assert not (tmp_path / "missing").exists()


NO_TEXT = {
    "half a character": b'{"apiVersion": "projectcalico.org/v3", "kind": "Tier", "metadata": {"name": "x", '
    b'"annotations": {"a": "\\ud83d"}}}',
    "not a number": b'{"apiVersion": "projectcalico.org/v3", "kind": "Tier", "metadata": {"name": "x"}, '
    b'"spec": {"order": NaN}}',
    "depth": b"[" * 100_000,
    "digits": b"[" + b"9" * 5000 + b"]",
    "utf-16": "kind: Tier".encode("utf-16"),
    "cut": b'{"kind": "Tier",',
}
SENTENCES = {
    "half a character": "the text holds characters that are no Unicode text",
    "not a number": "NaN is not a number that JSON allows",
    "depth": "lists and mappings nest too deep",
    "digits": "a number has too many digits",
    "utf-16": "line 1: not UTF-8 text (byte 0xff)",
    "cut": "line 1: not JSON: Expecting property name enclosed in double quotes",
}


@pytest.mark.parametrize("name", sorted(NO_TEXT))
async def test_text_that_no_resource_can_be_made_of(tmp_path: Path, name: str) -> None:
    write(tmp_path / "web.yaml", WEB)
    (tmp_path / "bad.json").write_bytes(NO_TEXT[name])
    async with watched(tmp_path) as it:
        await it.until_says(WEB)

        assert it.store.problems == {"bad.json": f"bad.json: {SENTENCES[name]}; {UNKNOWN}"}


async def test_file_name_that_is_no_text(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\n.yaml")).write_text("42")
    async with watched(tmp_path) as it:
        await it.until_reports("must be a mapping")

        for subject, text in it.store.problems.items():
            assert "\\udcff" in text
            assert (subject + text).encode()
