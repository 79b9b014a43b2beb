"""Have a sentry (sentry.py) watch a lab for as long as a block lasts."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from calico_engine.errors import UnavailableError
from calico_engine.lab.cluster import Lab
from calico_engine.testing.soak.sentry import Sighting, Watch

_END_S = 10.0


class SentryPost:
    """Where a sentry on duty is asked what it has seen."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def look(self) -> Sighting:
        return msgspec.json.decode(self.ask(b"?"), type=Sighting)

    def ask(self, line: bytes) -> bytes:
        """Send a line and return the answer. Raises: UnavailableError when the sentry has ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(line + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise UnavailableError("the sentry has ended; its words are on standard error") from error
        answer = self._process.stdout.readline()
        if not answer:
            raise UnavailableError("the sentry has ended; its words are on standard error")
        return answer


@contextmanager
def sentry_on(lab: Lab, watch: Watch) -> Iterator[SentryPost]:
    """Watch a lab until the end of the block. Raises: UnavailableError."""
    argv = [sys.executable, "-m", "calico_engine.testing.soak.sentry", str(lab.paths.root)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        post = SentryPost(process)
        try:
            post.ask(msgspec.json.encode(watch))
            yield post
        finally:
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(_END_S)
            except subprocess.TimeoutExpired:
                process.kill()
