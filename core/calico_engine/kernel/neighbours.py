"""Static IPv4 neighbours of workloads whose MAC address is known.

The kernel needs no ARP to reach them, and nobody else's answer can take their place. Ours are the permanent entries on
workload interfaces; IPv6 neighbours are left to the kernel, as Felix leaves them.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from typing import NamedTuple

from calico_engine.errors import KernelError
from calico_engine.kernel.netlink import Netlink
from calico_engine.messages import InterfaceRemove, InterfaceUpdate
from calico_engine.plugin.protocols import Change
from calico_engine.reconcile import DeltaTracker

_GONE = frozenset({errno.ENOENT, errno.ENODEV, errno.ENXIO, errno.ESRCH, errno.ENETDOWN, errno.EINVAL})


class NeighbourKey(NamedTuple):
    interface: str
    address: str


class NeighbourTable:
    """Keeps the permanent neighbours of our interfaces equal to what is desired."""

    def __init__(self, owns_interface: Callable[[str], bool]) -> None:
        self._owns_interface = owns_interface
        self._netlink = Netlink()
        self._tracker: DeltaTracker[NeighbourKey, str] = DeltaTracker()
        self._interfaces: dict[str, InterfaceUpdate] = {}
        self._stale = True

    def replace_interface(self, interface: str, wanted: Mapping[str, str]) -> None:
        """Want exactly these (address -> MAC) on an interface."""
        for key in [
            key for key in self._tracker.desired if key.interface == interface and key.address not in wanted
        ]:
            self._tracker.delete_desired(key)
        for address, mac in wanted.items():
            self._tracker.set_desired(NeighbourKey(interface, address), mac.lower())

    def note_interface(self, message: InterfaceUpdate | InterfaceRemove) -> None:
        before = self._interfaces.pop(message.name, None)
        if isinstance(message, InterfaceUpdate):
            self._interfaces[message.name] = message
            if before is not None and before.index == message.index and before.up and message.up:
                return
        # Neighbours go when their interface goes or goes down.
        for key in [key for key in self._tracker.actual if key.interface == message.name]:
            self._tracker.forget(key)

    def invalidate(self) -> None:
        self._stale = True

    async def apply(self) -> list[Change]:
        """Add and change. Raises: KernelError."""
        if self._stale:
            await self.read_back()
        done: list[Change] = []
        delta = self._tracker.pending()
        wanted = [(key, mac, "+") for key, mac in delta.add]
        wanted += [(key, mac, "~") for key, _, mac in delta.change]
        for key, mac, action in wanted:
            interface = self._interfaces.get(key.interface)
            if interface is None or not interface.up:
                continue
            if await self._change("replace", interface.index, key.address, mac):
                self._tracker.set_actual(key, mac)
                done.append(Change(action=action, where="neighbours", text=_text(key, mac)))
        return done

    async def prune(self) -> list[Change]:
        """Remove ours that are not desired. Raises: KernelError."""
        if self._stale:
            await self.read_back()
        done: list[Change] = []
        for key, mac in self._tracker.pending().delete:
            interface = self._interfaces.get(key.interface)
            if interface is not None:
                await self._change("del", interface.index, key.address, "")
            self._tracker.forget(key)
            done.append(Change(action="-", where="neighbours", text=_text(key, mac)))
        return done

    async def plan(self) -> list[Change]:
        await self.read_back()
        delta = self._tracker.pending()
        changes = [Change(action="+", where="neighbours", text=_text(key, mac)) for key, mac in delta.add]
        changes += [
            Change(action="~", where="neighbours", text=_text(key, mac)) for key, _, mac in delta.change
        ]
        changes += [Change(action="-", where="neighbours", text=_text(key, mac)) for key, mac in delta.delete]
        return changes

    def render(self) -> list[str]:
        return [_text(key, mac) for key, mac in sorted(self._tracker.desired.items())]

    async def cleanup(self) -> int:
        for link in await self._netlink.links():
            self.note_interface(InterfaceUpdate(name=link.name, index=link.index, up=link.up))
        self._tracker.replace_desired({})
        self._stale = True
        return len(await self.prune())

    async def close(self) -> None:
        await self._netlink.close()

    async def read_back(self) -> None:
        names = {link.index: link.name for link in await self._netlink.links()}
        found = {
            NeighbourKey(names.get(entry.index, ""), entry.address): entry.mac.lower()
            for entry in await self._netlink.permanent_neighbours()
        }
        self._tracker.replace_actual(
            {key: mac for key, mac in found.items() if self._owns_interface(key.interface)}
        )
        self._stale = False

    async def _change(self, command: str, index: int, address: str, mac: str) -> bool:
        try:
            await self._netlink.change_neighbour(command, index, address, mac)
        except KernelError as error:
            if error.errno in _GONE:
                return False
            self._stale = True
            raise
        return True


def _text(key: NeighbourKey, mac: str) -> str:
    return f"{key.address} dev {key.interface} lladdr {mac} PERMANENT"
