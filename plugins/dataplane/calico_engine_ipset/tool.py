"""Run the ipset program in this process's network namespace, or have netlink do its work."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Sequence
from typing import Protocol

from calico_engine.errors import KernelError, KernelUnsupportedError
from calico_engine.kernel.command import CommandResult, run_command, try_command, whole_input
from calico_engine.plugin.protocols import NO_METRICS, MetricSink
from calico_engine.ruleset.names import owns_set
from calico_engine_ipset.config import KernelAccess
from calico_engine_ipset.netlink_tool import NetlinkTool
from calico_engine_ipset.saved_set import SavedSet, from_text
from calico_engine_ipset.steps import Step, count_lines, render_steps
from calico_engine_ipset.text import parse_references, parse_save

log = logging.getLogger(__name__)

_ERROR_LINE = re.compile(r"Error in line (\d+)")


#: So many lines are spelled faster than a thread is woken.
_INLINE_LINES = 1000


class SetTool(Protocol):
    """The two ways to the kernel's sets."""

    async def run(self, steps: Sequence[Step], metrics: MetricSink = NO_METRICS) -> None:
        """Carry out steps in order; what is so already is no error. Raises: KernelError. Not atomic."""
        ...

    async def read_own_sets(self) -> tuple[dict[str, SavedSet], frozenset[str]]:
        """Return our sets by name, rows sorted, and the names of those of ours that cannot be read."""
        ...

    async def own_names(self) -> list[str]: ...

    async def destroy(self, names: Sequence[str]) -> tuple[list[str], list[str]]:
        """Destroy sets; return those destroyed, and those that rules still refer to."""
        ...

    def close(self) -> None: ...


class ProgramTool:
    """A process a call."""

    async def run(self, steps: Sequence[Step], metrics: MetricSink = NO_METRICS) -> None:
        if count_lines(steps) > _INLINE_LINES:
            text = await asyncio.to_thread(render_steps, steps)
        else:
            text = render_steps(steps)
        await restore(text, metrics)

    async def read_own_sets(self) -> tuple[dict[str, SavedSet], frozenset[str]]:
        return await read_own_sets()

    async def own_names(self) -> list[str]:
        return await own_names()

    async def destroy(self, names: Sequence[str]) -> tuple[list[str], list[str]]:
        return await destroy(list(names))

    def close(self) -> None:
        """No process outlives its call."""


async def choose_tool(access: KernelAccess) -> SetTool:
    """Return netlink, or the program where that is asked for or netlink cannot be had. Raises: KernelError."""
    if access is KernelAccess.PROGRAM:
        return ProgramTool()
    tool = NetlinkTool()
    try:
        await tool.probe()
    except KernelUnsupportedError as error:
        log.warning("sets go through the ipset program, which is slower: %s", error)
        tool.close()
        return ProgramTool()
    return tool


async def restore(text: str, metrics: MetricSink = NO_METRICS) -> None:
    """Carry out lines of `ipset restore`; what is there already is no error. Raises: KernelError with the line.

    It is not atomic: lines before the one that failed may have been carried out.
    """
    if not text:
        return
    metrics.count("felix_ipset_calls")
    metrics.count("felix_ipset_lines_executed", text.count("\n"))
    with whole_input(text.encode()) as lines:
        result = await try_command(["ipset", "restore", "-exist"], stdin=lines)
    if result.returncode != 0:
        metrics.count("felix_ipset_errors")
        raise _error(result, text)


def _error(result: CommandResult, text: str = "") -> KernelError:
    found = _ERROR_LINE.search(result.stderr)
    line = ""
    if found and text:
        lines = text.split("\n")
        number = min(int(found[1]), len(lines))
        line = lines[number - 1]
    return KernelError(
        " ".join(result.argv), f"exit code {result.returncode}", stderr=result.stderr, line=line
    )


async def read_own_sets() -> tuple[dict[str, SavedSet], frozenset[str]]:
    """Return our sets by name, and the names of those of ours that the program cannot read.

    One that a newer program made may be unreadable, ours or not; then each of ours is read alone.
    """
    result = await try_command(["ipset", "save"])
    if result.returncode == 0:
        return await asyncio.to_thread(_read_own, result.text)
    own: dict[str, SavedSet] = {}
    unreadable: set[str] = set()
    for name in await own_names():
        one = await try_command(["ipset", "save", name])
        if one.returncode == 0:
            found, odd = await asyncio.to_thread(_read_own, one.text)
            own |= found
            unreadable |= odd
        else:
            unreadable.add(name)
    return own, frozenset(unreadable)


def _read_own(text: str) -> tuple[dict[str, SavedSet], frozenset[str]]:
    own: dict[str, SavedSet] = {}
    unreadable: set[str] = set()
    for name, found in parse_save(text).items():
        if not owns_set(name):
            continue
        try:
            own[name] = from_text(found)
        except ValueError as error:
            log.warning("set %s cannot be read and is made anew: %s", name, error)
            unreadable.add(name)
    return own, frozenset(unreadable)


async def own_names() -> list[str]:
    result = await run_command(["ipset", "list", "-name"])
    return [name for name in result.text.split() if owns_set(name)]


async def destroy(names: list[str]) -> tuple[list[str], list[str]]:
    """Destroy sets; return those destroyed, and those that rules still refer to."""
    if not names:
        return [], []
    try:
        await restore("".join(f"destroy {name}\n" for name in names))
    except KernelError:
        # The first one in use stopped the rest: ask which are.
        result = await run_command(["ipset", "list", "-terse"])
        references = parse_references(result.text)
        left = [name for name in names if name in references]
        free = [name for name in left if references[name] == 0]
        await restore("".join(f"destroy {name}\n" for name in free))
        busy = [name for name in left if references[name] > 0]
        return [name for name in names if name not in busy], busy
    return names, []
