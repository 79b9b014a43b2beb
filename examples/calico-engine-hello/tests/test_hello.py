"""The example plugin on its own: what the Dataplane contract asks, on a real file."""

import asyncio
import json
from pathlib import Path

import pytest

from calico_engine.errors import KernelError
from calico_engine.messages import Batch, IPSetDelta, IPSetRemove, IPSetUpdate, Message, SetKind
from calico_engine.plugin import Dataplane
from calico_engine_hello.plugin import HelloDataplane

WEB = IPSetUpdate(set_id="s:web", kind=SetKind.NET, members=frozenset({"10.65.0.2", "fd00::2"}))
DB = IPSetUpdate(set_id="s:db", kind=SetKind.NET, members=frozenset({"10.65.0.3"}))


def make_batch(*messages: Message) -> Batch:
    return Batch(revision=1, in_sync=True, messages=messages)


def make_dataplane(path: Path, *messages: Message) -> HelloDataplane:
    dataplane = HelloDataplane("hello", path)
    dataplane.on_batch(make_batch(*messages))
    return dataplane


def apply_and_prune(dataplane: HelloDataplane) -> int:
    """Return how many writes it took."""

    async def both() -> int:
        return (await dataplane.apply()).writes + (await dataplane.prune()).writes

    return asyncio.run(both())


def test_it_is_a_dataplane(tmp_path: Path) -> None:
    assert isinstance(make_dataplane(tmp_path / "hello.json"), Dataplane)


def test_apply_writes_what_is_desired_and_a_second_one_nothing(tmp_path: Path) -> None:
    dataplane = make_dataplane(tmp_path / "hello.json", WEB)

    first, second = apply_and_prune(dataplane), apply_and_prune(dataplane)

    document = json.loads((tmp_path / "hello.json").read_text())
    assert document["set s:web"]["members"] == ["10.65.0.2", "fd00::2"]
    assert (first, second) == (1, 0)
    assert dataplane.render() == (tmp_path / "hello.json").read_text()


def test_a_set_delta_changes_members(tmp_path: Path) -> None:
    dataplane = make_dataplane(tmp_path / "hello.json", WEB)
    apply_and_prune(dataplane)

    delta = IPSetDelta(set_id="s:web", added=frozenset({"10.65.0.9"}), removed=frozenset({"fd00::2"}))
    dataplane.on_batch(make_batch(delta))
    apply_and_prune(dataplane)

    document = json.loads((tmp_path / "hello.json").read_text())
    assert document["set s:web"]["members"] == ["10.65.0.2", "10.65.0.9"]


def test_removal_waits_for_prune(tmp_path: Path) -> None:
    dataplane = make_dataplane(tmp_path / "hello.json", WEB, DB)
    apply_and_prune(dataplane)
    dataplane.on_batch(make_batch(IPSetRemove(set_id="s:web")))

    asyncio.run(dataplane.apply())
    after_apply = set(json.loads((tmp_path / "hello.json").read_text()))
    asyncio.run(dataplane.prune())
    after_prune = set(json.loads((tmp_path / "hello.json").read_text()))

    assert after_apply == {"set s:web", "set s:db"}
    assert after_prune == {"set s:db"}


def test_a_restart_finds_its_file_and_writes_only_the_difference(tmp_path: Path) -> None:
    apply_and_prune(make_dataplane(tmp_path / "hello.json", WEB, DB))

    assert apply_and_prune(make_dataplane(tmp_path / "hello.json", WEB, DB)) == 0
    assert apply_and_prune(make_dataplane(tmp_path / "hello.json", WEB)) == 1


@pytest.mark.parametrize("damage", ['{"set s:web": {}, "foreign": 1}', '{"set', ""])
def test_damage_is_planned_and_repaired_after_invalidate(tmp_path: Path, damage: str) -> None:
    dataplane = make_dataplane(tmp_path / "hello.json", WEB)
    apply_and_prune(dataplane)
    (tmp_path / "hello.json").write_text(damage)

    planned = asyncio.run(dataplane.plan())
    dataplane.invalidate("test")
    apply_and_prune(dataplane)

    assert planned
    assert (tmp_path / "hello.json").read_text() == dataplane.render()


def test_a_failed_write_names_the_file_and_stays_pending(tmp_path: Path) -> None:
    (tmp_path / "blocked").write_text("a file where a directory must be")
    dataplane = make_dataplane(tmp_path / "blocked" / "hello.json", WEB)

    with pytest.raises(KernelError, match=r"blocked/hello\.json"):
        asyncio.run(dataplane.apply())
    (tmp_path / "blocked").unlink()

    assert apply_and_prune(dataplane) == 1


def test_cleanup_removes_everything_and_needs_no_state(tmp_path: Path) -> None:
    apply_and_prune(make_dataplane(tmp_path / "hello.json", WEB, DB))

    assert asyncio.run(HelloDataplane("hello", tmp_path / "hello.json").cleanup()) == 2
    assert list(tmp_path.iterdir()) == []
