"""A set as it was read back. Pure."""

from __future__ import annotations

import msgspec

from calico_engine.kernel.set_rows import pack_members
from calico_engine_ipset.kernel_set import SetShape
from calico_engine_ipset.row_set import normal_rows
from calico_engine_ipset.text import PrintedSet

#: Types whose members are rows. A set of ours of another type is made anew, whatever it holds.
READABLE = ("hash:net", "hash:ip,port")


class SavedSet(msgspec.Struct, frozen=True, gc=False):
    """Rows are sorted, each once."""

    shape: SetShape
    rows: bytes


def from_text(printed: PrintedSet) -> SavedSet:
    """Raises: ValueError for a member that is no row."""
    if printed.shape.type not in READABLE:
        return SavedSet(printed.shape, b"")
    members = [_without_options(member) for member in printed.members]
    return SavedSet(printed.shape, normal_rows(pack_members(members)))


def _without_options(member: str) -> str:
    """Return a member without what somebody else said of it, but for `nomatch`, which changes what it means."""
    if " " not in member:
        return member
    address, *options = member.split()
    return f"{address} nomatch" if "nomatch" in options else address
