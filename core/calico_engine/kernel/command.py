"""Run a program with text on its standard input and a limit of time.

The only way this project starts programs from asyncio: argv lists, never a shell; the environment is inherited but
for what a caller sets; a cancelled caller leaves no child behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import msgspec

from calico_engine.errors import KernelError, ProgramMissingError

DEFAULT_TIMEOUT_S = 60.0

#: What every program gets beside its streams, and keeps open as long as it runs, also when we are killed.
_inherited: set[int] = set()
_listeners: list[Callable[[float], None]] = []


class CommandResult(msgspec.Struct, frozen=True):
    """How a program ended: its exit code and what it wrote."""

    argv: tuple[str, ...]
    returncode: int
    stdout: bytes
    stderr: str

    @property
    def text(self) -> str:
        return self.stdout.decode("utf-8", "replace")


def listen(listener: Callable[[float], None]) -> Callable[[], None]:
    """Have a listener told of every program's time, in seconds, once it has ended. Returns how to stop that."""
    _listeners.append(listener)
    return lambda: _listeners.remove(listener)


def inherit(descriptor: int) -> None:
    """Have every program started from now on keep this open: a lock that outlives us for as long as they run."""
    _inherited.add(descriptor)


def disinherit(descriptor: int) -> None:
    _inherited.discard(descriptor)


@contextlib.contextmanager
def whole_input(text: bytes) -> Iterator[int]:
    """Yield a descriptor from which a program reads all of the text, whatever becomes of us meanwhile.

    When we are killed while we write to a pipe, the program reads a line that is cut off and takes it as it stands:
    half an address is another address. For programs that act on each line as it comes.
    """
    descriptor = os.memfd_create("input", os.MFD_CLOEXEC)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(text)
        os.lseek(descriptor, 0, os.SEEK_SET)
        yield descriptor
    finally:
        os.close(descriptor)


async def try_command(
    argv: Sequence[str],
    *,
    stdin: bytes | int = b"",
    timeout_s: float = DEFAULT_TIMEOUT_S,
    env: Mapping[str, str] | None = None,
    on_start: Callable[[int], None] | None = None,
) -> CommandResult:
    """Run a program to its end, whatever its exit code.

    `stdin`: the input, or a descriptor of it (whole_input). `env` is added to our own environment. `on_start` gets
    the process id before any input is written.
    Raises: ProgramMissingError when there is no such program, KernelError after `timeout_s`.
    """
    started_s = time.monotonic()
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=stdin if isinstance(stdin, int) else asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, **env} if env else None,
            pass_fds=tuple(_inherited),
        )
    except (FileNotFoundError, PermissionError) as error:
        raise ProgramMissingError(argv[0], error.strerror or str(error)) from error
    if on_start is not None:
        on_start(process.pid)
    try:
        async with asyncio.timeout(timeout_s):
            stdout, stderr = await process.communicate(None if isinstance(stdin, int) else stdin)
    except TimeoutError as error:
        raise KernelError(" ".join(argv), f"no end after {timeout_s:g} s; it was killed") from error
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        for listener in _listeners:
            listener(time.monotonic() - started_s)
    assert process.returncode is not None
    return CommandResult(tuple(argv), process.returncode, stdout, stderr.decode("utf-8", "replace"))


async def run_command(
    argv: Sequence[str],
    *,
    stdin: bytes | int = b"",
    timeout_s: float = DEFAULT_TIMEOUT_S,
    env: Mapping[str, str] | None = None,
    on_start: Callable[[int], None] | None = None,
) -> CommandResult:
    """Run a program that must succeed.

    Raises: KernelError with the exit code and the program's last words when the exit code is not 0, and as
    try_command.
    """
    result = await try_command(argv, stdin=stdin, timeout_s=timeout_s, env=env, on_start=on_start)
    if result.returncode != 0:
        raise KernelError(" ".join(argv), f"exit code {result.returncode}", stderr=result.stderr)
    return result
