"""LinkMonitor against a real kernel."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from calico_engine.kernel.links import InterfaceMessage, LinkMonitor
from calico_engine.messages import InterfaceRemove, InterfaceUpdate

pytestmark = pytest.mark.kernel(features=("veth",))


class View:
    """Follows a monitor and keeps what it has said."""

    def __init__(self, monitor: LinkMonitor) -> None:
        self.monitor = monitor
        self.now: dict[str, InterfaceUpdate] = {}
        self.yields: list[Sequence[InterfaceMessage]] = []
        self.task = asyncio.get_running_loop().create_task(self._follow())

    async def _follow(self) -> None:
        async for messages in self.monitor.updates():
            self.yields.append(messages)
            for message in messages:
                if isinstance(message, InterfaceRemove):
                    del self.now[message.name]
                else:
                    self.now[message.name] = message

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        await self.monitor.close()


def test_first_yield_is_everything(node: Any, wait: Any) -> None:
    async def scenario() -> None:
        node.add_veth("cali1", "p1")
        view = View(LinkMonitor())

        await wait(lambda: bool(view.yields))

        assert set(view.now) == {"lo", "cali1", "p1"}
        assert view.now["cali1"].up
        assert "127.0.0.1" in view.now["lo"].addresses
        await view.stop()

    node.run(scenario)


def test_interface_comes_gets_an_address_goes_down_and_goes(node: Any, wait: Any) -> None:
    async def scenario() -> None:
        view = View(LinkMonitor(resync_interval_s=0))
        await wait(lambda: bool(view.yields))

        node.add_veth("cali1", "p1")
        await wait(lambda: "cali1" in view.now and view.now["cali1"].up)
        node.sh("ip", "addr", "add", "192.0.2.1/24", "dev", "cali1")
        await wait(lambda: "192.0.2.1" in view.now["cali1"].addresses)
        node.sh("ip", "addr", "del", "192.0.2.1/24", "dev", "cali1")
        await wait(lambda: "192.0.2.1" not in view.now["cali1"].addresses)
        node.sh("ip", "link", "set", "cali1", "down")
        await wait(lambda: not view.now["cali1"].up)
        node.sh("ip", "link", "del", "cali1")
        await wait(lambda: "cali1" not in view.now)

        assert view.monitor.resyncs == 1
        await view.stop()

    node.run(scenario)


def test_renamed_interface(node: Any, wait: Any) -> None:
    async def scenario() -> None:
        node.add_veth("cali1", "p1", up=False)
        view = View(LinkMonitor(resync_interval_s=0))
        await wait(lambda: bool(view.yields))

        node.sh("ip", "link", "set", "cali1", "name", "cali2")
        await wait(lambda: "cali2" in view.now)

        assert "cali1" not in view.now
        await view.stop()

    node.run(scenario)


def test_interface_that_leaves_a_bridge_is_still_there(node: Any, wait: Any) -> None:
    async def scenario() -> None:
        node.sh("ip", "link", "add", "br0", "type", "bridge")
        node.add_veth("cali1", "p1")
        node.sh("ip", "link", "set", "cali1", "master", "br0")
        view = View(LinkMonitor(resync_interval_s=0))
        await wait(lambda: bool(view.yields))

        node.sh("ip", "link", "set", "cali1", "nomaster")
        node.sh("ip", "link", "set", "p1", "alias", "marker")
        node.sh("ip", "link", "del", "br0")
        await wait(lambda: "br0" not in view.now)

        assert "cali1" in view.now
        await view.stop()

    node.run(scenario)


def test_lost_notifications_are_made_up_for(node: Any, wait: Any) -> None:
    async def scenario() -> None:
        view = View(LinkMonitor(resync_interval_s=0, receive_buffer_bytes=1))
        await wait(lambda: bool(view.yields))

        # The event loop is busy here, so the kernel's socket buffer overflows.
        for number in range(40):
            node.add_veth(f"cali{number}", f"p{number}", up=False)
        await wait(lambda: len(view.now) == 81)

        assert view.monitor.resyncs > 1
        await view.stop()

    node.run(scenario)


def test_interval_and_request_resync(node: Any, wait: Any) -> None:
    async def scenario() -> None:
        view = View(LinkMonitor(resync_interval_s=0.05))
        await wait(lambda: view.monitor.resyncs >= 3)
        yields = len(view.yields)
        view.monitor.resync()
        seen = view.monitor.resyncs
        await wait(lambda: view.monitor.resyncs > seen)

        assert yields == 1  # nothing changed, nothing said
        await view.stop()

    node.run(scenario)
