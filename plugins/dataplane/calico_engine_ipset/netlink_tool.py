"""Do to the kernel's sets by netlink what the ipset program does: no process, no text, thousands of members at once."""

from __future__ import annotations

import errno
import logging
from collections.abc import Sequence

from calico_engine.errors import KernelError, KernelUnsupportedError
from calico_engine.kernel.ipset import INLINE_MEMBERS, IpsetSocket, run_ipset
from calico_engine.kernel.ipset_errors import IpsetError
from calico_engine.plugin.protocols import NO_METRICS, MetricSink
from calico_engine.ruleset.names import owns_set
from calico_engine_ipset.kernel_set import SetShape, hashsize_for
from calico_engine_ipset.row_set import normal_rows
from calico_engine_ipset.saved_set import READABLE, SavedSet
from calico_engine_ipset.steps import Add, AddPieces, Create, Delete, Destroy, Step, Swap, count_lines

log = logging.getLogger(__name__)

#: How many members there are, or whether a module must be loaded first, only the kernel knows: not in the event loop.
_UNKNOWN = INLINE_MEMBERS + 1


class NetlinkTool:
    """One socket, opened at first use in the network namespace of the thread that uses it."""

    def __init__(self) -> None:
        self._ipset = IpsetSocket()

    async def probe(self) -> None:
        """Raises: KernelUnsupportedError where the kernel does not do this."""
        await run_ipset(self._ipset, IpsetSocket.open, _UNKNOWN)

    async def run(self, steps: Sequence[Step], metrics: MetricSink = NO_METRICS) -> None:
        """Carry out steps in order; what is so already is no error. Raises: KernelError naming set and member.

        It is not atomic: steps before the one that failed were carried out, and part of that one may have been.
        """
        if not steps:
            return
        lines = count_lines(steps)
        metrics.count("felix_ipset_calls")
        metrics.count("felix_ipset_lines_executed", lines)
        try:
            await run_ipset(self._ipset, lambda kernel: _run(kernel, steps), lines)
        except KernelUnsupportedError as error:
            # Of one set's type: no reason to give up the other sets.
            metrics.count("felix_ipset_errors")
            raise KernelError(error.command, f"not supported by this kernel; {error.hint}") from error
        except KernelError:
            metrics.count("felix_ipset_errors")
            raise

    async def read_own_sets(self) -> tuple[dict[str, SavedSet], frozenset[str]]:
        """Return our sets by name, rows sorted, and the names of those of ours that cannot be read."""
        return await run_ipset(self._ipset, _read, _UNKNOWN)

    async def own_names(self) -> list[str]:
        headers = await run_ipset(self._ipset, IpsetSocket.headers, 0)
        return [header.name for header in headers if owns_set(header.name)]

    async def destroy(self, names: Sequence[str]) -> tuple[list[str], list[str]]:
        """Destroy sets; return those destroyed, and those that rules still refer to."""
        return await run_ipset(self._ipset, lambda kernel: _destroy(kernel, names), len(names))

    def close(self) -> None:
        self._ipset.close()


def _run(kernel: IpsetSocket, steps: Sequence[Step]) -> None:
    for step in steps:
        match step:
            case Create(name=name, shape=shape, count=count):
                kernel.create(
                    name, shape.type, shape.family, hashsize=hashsize_for(count), maxelem=shape.maxelem
                )
            case Add(name=name, rows=rows):
                kernel.add(name, rows)
            case AddPieces(name=name, pieces=pieces):
                for rows in pieces:
                    kernel.add(name, rows)
            case Delete(name=name, rows=rows):
                kernel.delete(name, rows)
            case Swap(name=name, other=other):
                kernel.swap(name, other)
            case Destroy(name=name):
                kernel.destroy(name)


def _read(kernel: IpsetSocket) -> tuple[dict[str, SavedSet], frozenset[str]]:
    found: dict[str, SavedSet] = {}
    unreadable: set[str] = set()
    for header in kernel.headers():
        if not owns_set(header.name):
            continue
        shape = SetShape(header.type, header.family, header.maxelem)
        if header.type not in READABLE:
            found[header.name] = SavedSet(shape, b"")
            continue
        try:
            found[header.name] = SavedSet(shape, normal_rows(kernel.members(header.name)))
        except KernelError as error:
            if error.errno == errno.ENOENT:
                continue  # somebody destroyed it meanwhile
            if error.errno:
                raise
            log.warning("set cannot be read and is made anew: %s", error)
            unreadable.add(header.name)
    return found, frozenset(unreadable)


def _destroy(kernel: IpsetSocket, names: Sequence[str]) -> tuple[list[str], list[str]]:
    destroyed: list[str] = []
    busy: list[str] = []
    for name in names:
        try:
            kernel.destroy(name)
        except KernelError as error:
            if error.errno not in (IpsetError.BUSY, IpsetError.REFERENCED):
                raise
            busy.append(name)
        else:
            destroyed.append(name)
    return destroyed, busy
