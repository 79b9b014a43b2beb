"""Who waits for whom when an engine was killed and programs of it go on."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from calico_engine.engine.run_lock import RunLock
from calico_engine.errors import ConfigError

ENGINE = """
import asyncio, sys
from pathlib import Path
from calico_engine.engine.run_lock import RunLock
from calico_engine.kernel.command import try_command
RunLock(Path(sys.argv[1])).acquire()
script = "echo started > $0/started; while [ ! -e $0/go ]; do sleep 0.01; done; echo done > $0/done"
asyncio.run(try_command(["sh", "-c", script, sys.argv[1]]))
"""


@pytest.fixture
def orphaned(tmp_path: Path) -> Iterator[Path]:
    """The run directory of an engine that was killed; its program goes on until there is a file `go`."""
    engine = subprocess.Popen([sys.executable, "-c", ENGINE, str(tmp_path)])
    end_s = time.monotonic() + 10
    while not (tmp_path / "started").exists():
        assert time.monotonic() < end_s
        time.sleep(0.005)
    engine.kill()
    engine.wait()

    yield tmp_path

    (tmp_path / "go").touch()


def test_next_engine_waits_for_the_programs_of_a_killed_one(orphaned: Path) -> None:
    lock = RunLock(orphaned)
    timer = threading.Timer(0.2, (orphaned / "go").touch)
    timer.start()

    lock.acquire()

    assert (orphaned / "done").exists()
    lock.release()
    timer.join()


def test_program_that_does_not_end_is_named_and_nothing_stays_locked(orphaned: Path) -> None:
    with pytest.raises(ConfigError, match="programs of an engine that was killed"):
        RunLock(orphaned, programs_s=0.05).acquire()

    (orphaned / "go").touch()
    lock = RunLock(orphaned)
    lock.acquire()
    lock.release()
