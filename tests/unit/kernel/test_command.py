"""Programs that the engine runs, when the engine itself is killed under them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from calico_engine.errors import ProgramMissingError
from calico_engine.kernel.command import listen, try_command

ENGINE = """
import asyncio, sys
from calico_engine.kernel.command import try_command, whole_input
script = "echo started > $0.started; while [ ! -e $0.go ]; do sleep 0.01; done; cat > $0.part; mv $0.part $0"
text = b"add a-set-of-ours 198.51.100.0/24\\n" * 20_000
with whole_input(text) as lines:
    asyncio.run(try_command(["sh", "-c", script, sys.argv[1]], stdin=lines))
"""


def wait_until(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    end_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end_s, "not in time"
        time.sleep(0.005)


async def test_listeners_hear_of_every_program() -> None:
    heard: list[float] = []
    stop = listen(heard.append)

    await try_command(["sleep", "0.05"])
    stop()
    await try_command(["true"])

    assert len(heard) == 1
    assert 0.05 <= heard[0] < 10


async def test_a_program_that_is_not_there_is_no_fault_of_the_kernel() -> None:
    with pytest.raises(ProgramMissingError) as caught:
        await try_command(["no-such-program"])

    assert str(caught.value) == (
        "no-such-program: cannot be started (No such file or directory); install it or put it on PATH"
    )


def test_program_that_outlives_a_killed_engine_reads_all_of_its_input(tmp_path: Path) -> None:
    # A line that is cut off is still a line: "add set 198.51.100.0/2" is taken as it stands.
    target = tmp_path / "text"
    engine = subprocess.Popen([sys.executable, "-c", ENGINE, str(target)])
    wait_until((tmp_path / "text.started").exists)

    os.kill(engine.pid, signal.SIGKILL)
    engine.wait()
    (tmp_path / "text.go").touch()

    wait_until(target.exists)
    assert target.read_text() == "add a-set-of-ours 198.51.100.0/24\n" * 20_000
