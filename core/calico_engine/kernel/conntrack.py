"""Forget the connections of an address that no longer lives here, so that its next owner starts clean."""

from __future__ import annotations

import logging

from calico_engine.errors import KernelError, KernelUnsupportedError
from calico_engine.kernel.command import try_command

log = logging.getLogger(__name__)

#: An endpoint is the original source of connections it made, and the reply source of those it took.
_DIRECTIONS = ("--orig-src", "--reply-src")
_TRIES = 3


async def delete_connections(address: str) -> None:
    """Delete the tracked connections from and to an address. A missing tool is a warning.

    Raises: KernelError when the tool keeps failing.
    """
    family = "ipv6" if ":" in address else "ipv4"
    for direction in _DIRECTIONS:
        argv = ("conntrack", "--family", family, "--delete", direction, address)
        for attempt in range(_TRIES):
            try:
                result = await try_command(argv, timeout_s=10.0)
            except KernelUnsupportedError as error:
                log.warning("connections of %s are kept until they time out: %s", address, error)
                return
            # It ends with 1 when there was nothing to delete.
            if result.returncode == 0 or "0 flow entries" in result.stderr:
                break
            if attempt == _TRIES - 1:
                raise KernelError(" ".join(argv), f"exit code {result.returncode}", stderr=result.stderr)
