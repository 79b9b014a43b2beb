"""Watch this node's links and their addresses.

The kernel's word is taken as it comes; everything is read anew at the start, when the kernel said more than the socket
could hold, and by interval. What is yielded is a function of the kernel's state: an interface that came and went
between two yields is not mentioned.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence

from calico_engine.kernel.netlink import Group, Netlink, NetlinkListener
from calico_engine.kernel.rtnetlink import AddressEvent, LinkEvent, NetlinkEvent, RawLink, RouteEvent
from calico_engine.messages import InterfaceRemove, InterfaceUpdate

log = logging.getLogger(__name__)

InterfaceMessage = InterfaceUpdate | InterfaceRemove


class LinkMonitor:
    """Yields what changed among the interfaces of the thread's network namespace; the first yield is all of them."""

    def __init__(self, *, resync_interval_s: float = 90.0, receive_buffer_bytes: int = 1 << 20) -> None:
        """resync_interval_s: 0 trusts the kernel's notifications alone."""
        self._interval_s = resync_interval_s
        self._buffer_bytes = receive_buffer_bytes
        self._listener = NetlinkListener(Group.LINK | Group.ADDRESS, self._on_events)
        self._netlink = Netlink()
        self._links: dict[int, RawLink] = {}
        self._addresses: dict[int, set[str]] = {}
        self._told: dict[str, InterfaceUpdate] = {}
        #: Names that something was said of since the last yield; None for all.
        self._touched: set[str] | None = None
        self._woken = asyncio.Event()
        self._resync = True
        self.resyncs = 0

    async def updates(self) -> AsyncIterator[Sequence[InterfaceMessage]]:
        """Yield messages for ever. Raises: KernelError when the kernel cannot be read at all."""
        # Listen before the first dump, so that nothing falls between the two.
        self._listener.open(receive_buffer_bytes=self._buffer_bytes)
        first = True
        try:
            while True:
                self._woken.clear()
                if self._resync:
                    await self._read_all()
                messages = self._changes()
                if messages or first:
                    first = False
                    yield messages
                await self._sleep()
        finally:
            await self.close()

    def resync(self) -> None:
        """Read everything anew, soon."""
        self._resync = True
        self._woken.set()

    async def close(self) -> None:
        self._listener.close()
        await self._netlink.close()

    async def _sleep(self) -> None:
        try:
            async with asyncio.timeout(self._interval_s or None):
                await self._woken.wait()
        except TimeoutError:
            self._resync = True

    async def _read_all(self) -> None:
        self._resync = False
        self.resyncs += 1
        links = {link.index: link for link in await self._netlink.links()}
        addresses: dict[int, set[str]] = {}
        for index, address in await self._netlink.addresses():
            addresses.setdefault(index, set()).add(address)
        self._links, self._addresses = links, addresses
        self._touched = None

    def _on_events(self, events: Sequence[NetlinkEvent] | None) -> None:
        if events is None:
            log.warning("interfaces: the kernel's notifications overran us; reading everything anew")
            self._resync = True
        for event in events or ():
            self._note(event)
        self._woken.set()

    def _touch(self, index: int) -> None:
        link = self._links.get(index)
        if link is not None and self._touched is not None:
            self._touched.add(link.name)

    def _note(self, event: NetlinkEvent) -> None:
        match event:
            case LinkEvent(link, gone) if gone:
                self._touch(link.index)
                self._links.pop(link.index, None)
                self._addresses.pop(link.index, None)
            case LinkEvent(link, _):
                # By its old name, too: it may have been renamed.
                self._touch(link.index)
                self._links[link.index] = link
                self._touch(link.index)
            case AddressEvent(index, address, gone):
                self._touch(index)
                known = self._addresses.setdefault(index, set())
                (known.discard if gone else known.add)(address)
            case RouteEvent():
                pass

    def _changes(self) -> list[InterfaceMessage]:
        touched, self._touched = self._touched, set()
        now = {
            link.name: InterfaceUpdate(
                name=link.name,
                index=link.index,
                up=link.up,
                addresses=frozenset(self._addresses.get(link.index, ())),
            )
            for link in self._links.values()
            if touched is None or link.name in touched
        }
        told = self._told.keys() if touched is None else self._told.keys() & touched
        gone = sorted(told - now.keys())
        changed = [update for name, update in sorted(now.items()) if self._told.get(name) != update]
        for name in gone:
            del self._told[name]
        self._told.update((update.name, update) for update in changed)
        return [*(InterfaceRemove(name=name) for name in gone), *changed]
