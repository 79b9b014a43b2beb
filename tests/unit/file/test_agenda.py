"""When a changed file is read."""

import asyncio
import time

from calico_engine_file.config import FileConfig
from calico_engine_file.watching import Agenda


def make_agenda(debounce_ms: int) -> Agenda:
    return Agenda(FileConfig(debounce_ms=debounce_ms), asyncio.get_running_loop())


async def test_one_whole_file_is_due_at_once() -> None:
    agenda = make_agenda(60_000)

    agenda.note_complete("a.yaml")

    assert agenda.take() == (["a.yaml"], False)


async def test_files_that_follow_closely_are_due_a_little_later() -> None:
    agenda = make_agenda(200)

    agenda.note_complete("a.yaml")
    agenda.note_complete("c.yaml")
    agenda.note_complete("b.yaml")

    assert agenda.take() == (["a.yaml"], False)
    found: list[str] = []
    end_s = time.monotonic() + 5
    while len(found) < 2 and time.monotonic() < end_s:
        await agenda.wait(5)
        found += agenda.take()[0]
    assert sorted(found) == ["b.yaml", "c.yaml"]


async def test_a_file_just_created_waits_for_its_content() -> None:
    agenda = make_agenda(60_000)

    agenda.note_written("a.yaml")
    agenda.note_complete("a.yaml")

    assert agenda.take() == ([], False)


async def test_a_directory_that_moves_makes_its_files_wait() -> None:
    agenda = make_agenda(60_000)

    agenda.note_everything()
    agenda.note_complete("a.yaml")

    assert agenda.take() == ([], False)
