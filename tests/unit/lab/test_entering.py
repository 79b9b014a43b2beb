"""What a program that is run in a lab says when it ends."""

import os
import signal

import pytest

from calico_engine.lab import entering


def test_a_signal_that_comes_once_the_program_has_ended_is_harmless(monkeypatch: pytest.MonkeyPatch) -> None:
    wait = os.waitpid

    def wait_and_be_signalled(pid: int, options: int) -> tuple[int, int]:
        ended = wait(pid, options)
        signal.raise_signal(signal.SIGTERM)
        return ended

    child = os.posix_spawn("/bin/sh", ["sh", "-c", "exit 7"], os.environ)
    monkeypatch.setattr(os, "waitpid", wait_and_be_signalled)

    assert entering._wait_for(child) == 7
