"""Members of kernel sets: text, as the ipset program spells it, to the fast path's rows and back.

No effects; here because inet_ntop spells addresses as the ipset program does. Row form: fastpath.set_messages.
"""

from __future__ import annotations

import socket
from collections.abc import Collection

from calico_engine.fastpath import SET_ROW_SIZE, pack_set_members, set_messages, set_text

_PROTOCOL_NAMES = {number: name for name, number in set_text.PROTOCOLS.items()}


def pack_members(members: Collection[str]) -> bytes:
    """Return the members as rows, in the order given: `10.0.0.1`, `fd00::/64`, `10.0.0.1,tcp:80`.

    Raises: ValueError naming the member that is none of these.
    """
    rows = b""
    try:
        rows = pack_set_members("\n".join(members).encode("ascii", "backslashreplace"))
    finally:
        if len(rows) != len(members) * SET_ROW_SIZE:
            _refuse_lines(members)
    return rows


def _refuse_lines(members: Collection[str]) -> None:
    """Raises: ValueError naming a member that is not one line of text, if there is one."""
    for member in members:
        if not member or "\n" in member:
            raise ValueError(set_text.bad_member(member.encode("ascii", "backslashreplace")))


def unpack_members(rows: bytes) -> list[str]:
    """Return rows as text, in their order; an exception of a set ends in ` nomatch`."""
    return [_unpack(rows[i : i + SET_ROW_SIZE]) for i in range(0, len(rows), SET_ROW_SIZE)]


def _unpack(row: bytes) -> str:
    v6 = row[0] & ~set_messages.NOMATCH == 6
    member = (
        socket.inet_ntop(socket.AF_INET6, row[2:18]) if v6 else socket.inet_ntop(socket.AF_INET, row[2:6])
    )
    if row[18]:
        member += f",{_PROTOCOL_NAMES.get(row[18], row[18])}:{int.from_bytes(row[19:21], 'big')}"
    elif row[1] != (128 if v6 else 32):
        member += f"/{row[1]}"
    return f"{member} nomatch" if row[0] & set_messages.NOMATCH else member
