"""The ways to reach nftables that calico-engine is compared with: the floor in C, the nft command, its library."""

from __future__ import annotations

import ctypes
import ctypes.util
from pathlib import Path

from bench.figures import WrongContentError, timed_us
from bench.nft_text import TABLE
from bench.node import Node
from bench.programs import compiled

FLOOR = "raw netlink"


class Floor:
    """bench/floor/nft_floor.c, run in a node's namespace. It takes its own time."""

    def __init__(self, node: Node, program: Path) -> None:
        self._node = node
        self._program = program

    @classmethod
    def of(cls, node: Node) -> Floor | None:
        """Return the floor, None without a compiler."""
        program = compiled("nft_floor")
        return None if program is None else cls(node, program)

    def run_us(self, *arguments: object) -> list[float]:
        """Return what it says, in microseconds."""
        said = self._node.sh(str(self._program), *(str(argument) for argument in arguments))
        return [int(line) / 1000 for line in said.split()]

    def first_us(self, *arguments: object) -> float:
        return self.run_us(*arguments)[0]


class Libnftables:
    """A context that lives long, as an agent that links the library would have it."""

    def __init__(self, node: Node) -> None:
        """Raises: OSError where the library is not installed."""
        self._library = ctypes.CDLL(ctypes.util.find_library("nftables") or "libnftables.so.1")
        self._library.nft_ctx_new.restype = ctypes.c_void_p
        self._library.nft_ctx_new.argtypes = [ctypes.c_uint32]
        self._library.nft_ctx_buffer_error.argtypes = [ctypes.c_void_p]
        self._library.nft_ctx_get_error_buffer.argtypes = [ctypes.c_void_p]
        self._library.nft_ctx_get_error_buffer.restype = ctypes.c_char_p
        self._library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
        self._library.nft_ctx_free.argtypes = [ctypes.c_void_p]
        self._node = node
        self._context = node.namespace.run(lambda: self._library.nft_ctx_new(0))
        self._library.nft_ctx_buffer_error(self._context)

    def run_us(self, script: str) -> float:
        """Run a script; return what it took, in microseconds. Raises: WrongContentError."""
        return self._node.namespace.run(lambda: timed_us(lambda: self._run(script)))

    def _run(self, script: str) -> None:
        if self._library.nft_run_cmd_from_buffer(self._context, script.encode()) != 0:
            said = self._library.nft_ctx_get_error_buffer(self._context)
            raise WrongContentError(f"libnftables: {said.decode(errors='replace')[:300]}")

    def close(self) -> None:
        self._library.nft_ctx_free(self._context)


def libnftables(node: Node) -> Libnftables | None:
    """Return the library, None where it is not installed."""
    try:
        return Libnftables(node)
    except OSError as error:
        print(f"libnftables is left out: {error}")
        return None


def nft(node: Node, script: str) -> None:
    node.sh("nft", "-f", "-", stdin=script)


def restore(node: Node, backend: str, text: str, *options: str) -> None:
    node.sh(f"iptables-{backend}-restore", *options, stdin=text)


def clear_iptables(node: Node, backend: str) -> None:
    """Empty all tables of a node; its sets stay."""
    if backend == "nft":
        node.sh("nft", "flush", "ruleset")
    else:
        restore(node, backend, "".join(f"*{table}\nCOMMIT\n" for table in ("raw", "mangle", "nat", "filter")))


def clear(node: Node) -> None:
    """Remove the peers' table."""
    node.sh("nft", "add", "table", "ip", TABLE)
    node.sh("nft", "delete", "table", "ip", TABLE)


def expect(what: str, found: int, wanted: int) -> None:
    if found != wanted:
        raise WrongContentError(f"{what}: the kernel holds {found} instead of {wanted}")
