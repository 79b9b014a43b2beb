"""What is done to the kernel's sets, as data: the same steps go through netlink or through the ipset program. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import assert_never

import msgspec

from calico_engine.kernel.set_rows import unpack_members
from calico_engine_ipset.kernel_set import SetShape
from calico_engine_ipset.row_set import count_rows
from calico_engine_ipset.text import create_line, member_lines


class Create(msgspec.Struct, frozen=True, gc=False):
    """Make a set with room for `count` members at once."""

    name: str
    shape: SetShape
    count: int


class Add(msgspec.Struct, frozen=True):
    """Add members, as rows."""

    name: str
    rows: bytes


class AddPieces(msgspec.Struct, frozen=True):
    """Add members, as rows that come in pieces; it can be carried out once. About `count` of them."""

    name: str
    pieces: Iterator[bytes]
    count: int


class Delete(msgspec.Struct, frozen=True):
    """Delete members, as rows."""

    name: str
    rows: bytes


class Swap(msgspec.Struct, frozen=True, gc=False):
    name: str
    other: str


class Destroy(msgspec.Struct, frozen=True, gc=False):
    name: str


Step = Create | Add | AddPieces | Delete | Swap | Destroy


def fill_steps(name: str, shape: SetShape, rows: bytes) -> list[Step]:
    """Return what makes a set that does not exist."""
    return [Create(name, shape, count_rows(rows)), Add(name, rows)]


def swap_steps(name: str, temporary: str, shape: SetShape, rows: bytes) -> list[Step]:
    """Return what gives a set in use other members, or another size, at one stroke."""
    return [*fill_steps(temporary, shape, rows), Swap(temporary, name), Destroy(temporary)]


def change_steps(name: str, added: bytes, deleted: bytes) -> list[Step]:
    """Return what changes a set's members; deletions first, so that a set that is full has room."""
    return [Delete(name, deleted), Add(name, added)]


def count_lines(steps: Iterable[Step]) -> int:
    """Return how many lines of `ipset restore` the steps are: a line a member."""
    return sum(map(_count, steps))


def _count(step: Step) -> int:
    match step:
        case Add(rows=rows) | Delete(rows=rows):
            return count_rows(rows)
        case AddPieces(count=count):
            return count
        case Create() | Swap() | Destroy():
            return 1
        case _:
            assert_never(step)


def render_steps(steps: Iterable[Step]) -> str:
    """Return the steps as input of `ipset restore`."""
    return "".join(map(_render, steps))


def _render(step: Step) -> str:
    match step:
        case Create(name=name, shape=shape, count=count):
            return create_line(name, shape, count) + "\n"
        case Add(name=name, rows=rows):
            return member_lines("add", name, unpack_members(rows))
        case AddPieces(name=name, pieces=pieces):
            return "".join(member_lines("add", name, unpack_members(rows)) for rows in pieces)
        case Delete(name=name, rows=rows):
            return member_lines("del", name, unpack_members(rows))
        case Swap(name=name, other=other):
            return f"swap {name} {other}\n"
        case Destroy(name=name):
            return f"destroy {name}\n"
