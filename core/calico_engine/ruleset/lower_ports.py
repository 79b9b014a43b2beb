"""Cut port lists to what xt_multiport takes."""

from __future__ import annotations

from collections.abc import Sequence

from calico_engine.messages import PortRange

#: Source: iptables-extensions(8), multiport: "up to 15 ports"; a range counts as two.
MULTIPORT_SLOTS = 15


def split_ports(
    ports: Sequence[PortRange], limit_slots: int = MULTIPORT_SLOTS
) -> list[tuple[PortRange, ...]]:
    """Cut a port list into groups that fit one multiport match.

    A single port takes 1 slot, a range 2. Order is kept; no group is empty.
    Raises: ValueError when limit_slots < 2.
    """
    if limit_slots < 2:
        raise ValueError(f"a port range needs 2 slots, the limit is {limit_slots}")
    groups: list[tuple[PortRange, ...]] = []
    group: list[PortRange] = []
    free = limit_slots
    for ports_range in ports:
        slots = 1 if ports_range.first == ports_range.last else 2
        if slots > free:
            groups.append(tuple(group))
            group, free = [], limit_slots
        group.append(ports_range)
        free -= slots
    if group:
        groups.append(tuple(group))
    return groups
