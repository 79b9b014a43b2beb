"""A set as it was read back, from text or as rows, and how it differs from what it should be. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from calico_engine.fastpath import SET_ROW_SIZE, diff_rows, sort_rows
from calico_engine.kernel.set_rows import pack_members, unpack_members
from calico_engine_ipset.kernel_set import SetShape


class TextSet(msgspec.Struct, gc=False):
    """A set as `ipset save` shows it."""

    shape: SetShape
    members: list[str]


class RowSet(msgspec.Struct, gc=False):
    """A set as the kernel dumps it: rows, sorted."""

    shape: SetShape
    rows: bytes

    @property
    def members(self) -> list[str]:
        return unpack_members(self.rows)


SavedSet = TextSet | RowSet


class Comparison(msgspec.Struct, frozen=True):
    """The desired members as sorted rows, and by which members the kernel's differ from them."""

    desired_rows: bytes
    missing: frozenset[str]
    extra: frozenset[str]


def compare(desired: bytes | tuple[str, ...], actual_rows: bytes) -> Comparison | None:
    """Compare desired members, sorted rows or text, with a set's sorted rows; only what differs becomes text.

    None when a member cannot be told by its row: then the texts must be compared.
    """
    if isinstance(desired, bytes):
        rows = desired
    else:
        try:
            rows = sort_rows(pack_members(desired), SET_ROW_SIZE)
        except ValueError:
            return None
    if rows == actual_rows:
        return Comparison(rows, frozenset(), frozenset())
    try:
        missing, _, extra = diff_rows(rows, actual_rows, SET_ROW_SIZE, SET_ROW_SIZE)
    except ValueError:
        return None  # two spellings of one member
    return Comparison(rows, _texts(rows, missing), _texts(actual_rows, extra))


def _texts(rows: bytes, indexes: Sequence[int]) -> frozenset[str]:
    return frozenset(
        unpack_members(b"".join(rows[i * SET_ROW_SIZE : (i + 1) * SET_ROW_SIZE] for i in indexes))
    )
