"""A node for kernel tests: a network namespace without a name, entered by a thread of its own."""

import asyncio
import json
import re
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from calico_engine.kernel.links import LinkMonitor
from calico_engine.kernel.namespaces import NetworkNamespace
from calico_engine.messages import Batch, InterfaceUpdate, Message
from calico_engine.plugin.protocols import Dataplane, Notification, PluginContext
from calico_engine.settings import FelixSettings


async def wait_until(condition: Callable[[], bool], timeout_s: float = 5.0) -> None:
    """Give the event loop turns until the condition holds."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"not within {timeout_s:g} s: {condition}"
        await asyncio.sleep(0.005)


class NodeNamespace:
    """Runs scenarios and programs in one namespace, and makes what plugins are made of."""

    def __init__(self, namespace: NetworkNamespace) -> None:
        self.namespace = namespace
        self.notifications: list[Notification] = []
        self.requests: list[str] = []
        self._revision = 0

    def run(self, scenario: Callable[[], Awaitable[None]]) -> None:
        """Run an async scenario to its end, in the namespace."""

        async def main() -> None:
            await scenario()

        self.namespace.run(lambda: asyncio.run(main()))

    def sh(self, *argv: str, check: bool = True) -> str:
        """Run a program in the namespace of the calling thread; only inside `run`, or through `command`."""
        done = subprocess.run(argv, text=True, capture_output=True, check=False)
        assert not check or done.returncode == 0, f"{argv}: {done.stderr}"
        return done.stdout

    def command(self, *argv: str) -> str:
        return self.namespace.run(lambda: self.sh(*argv))

    def ip(self, words: str) -> Any:
        """Return what `ip -j WORDS` says. Only inside `run`."""
        text = self.sh("ip", "-j", *words.split())
        return json.loads(text) if text.strip() else []

    def routes(self, family: int, selector: str = "") -> dict[str, dict[str, Any]]:
        """Return the main table by destination, as the ip program reads it. Only inside `run`."""
        return {route["dst"]: route for route in self.ip(f"-{family} -d route show {selector}".strip())}

    def ruleset(self, family: str = "") -> list[str]:
        """Return all of nftables, or one family's; neither chains nor elements have an order that means anything."""
        words = ["list", "ruleset", family] if family else ["list", "ruleset"]
        text = self.sh("nft", "--stateless", *words)
        chain = re.compile(r"\tchain (\S+) \{\n(.*?)\n?\t\}", re.DOTALL)
        chains = [f"{name}: {rules}" for name, rules in chain.findall(text)]
        rest = map(str.strip, re.split(r"[,{}\n]", chain.sub("", text)))
        return sorted([*chains, *filter(None, rest)])

    def sysctl(self, name: str) -> str:
        return self.sh("cat", f"/proc/sys/{name}").strip()

    def add_veth(self, name: str, peer: str = "", *, up: bool = True) -> None:
        """Make a veth pair; both ends are up, or both down. Only inside `run`."""
        peer = peer or f"p{name[-10:]}"
        self.sh("ip", "link", "add", name, "type", "veth", "peer", "name", peer)
        if up:
            self.set_up(peer, name)

    def set_up(self, *names: str) -> None:
        """Set links up and wait for their carrier: the kernel works that out a moment later. Only inside `run`."""
        for name in names:
            self.sh("ip", "link", "set", name, "up")
        end = time.monotonic() + 5.0
        while any(self.ip(f"link show dev {name}")[0]["operstate"] != "UP" for name in names):
            assert time.monotonic() < end, f"no carrier on {names}"

    def context(self, settings: FelixSettings | None = None, *, node: str = "n1") -> PluginContext:
        return PluginContext(
            name="under-test",
            node=node,
            settings=settings or FelixSettings(),
            options={},
            request_apply=self.requests.append,
            notify=self.notifications.append,
        )

    def batch(self, *messages: Message) -> Batch:
        self._revision += 1
        return Batch(revision=self._revision, in_sync=True, messages=messages)

    async def interfaces(self) -> tuple[InterfaceUpdate, ...]:
        """Return all interfaces as the link monitor sees them now."""
        monitor = LinkMonitor()
        async for messages in monitor.updates():
            await monitor.close()
            return tuple(message for message in messages if isinstance(message, InterfaceUpdate))
        raise AssertionError("unreachable")

    async def settle(self, plugin: Dataplane, *messages: Message) -> int:
        """Hand over messages, apply and prune. Returns the number of writes."""
        plugin.on_batch(self.batch(*messages))
        applied = await plugin.apply()
        pruned = await plugin.prune()
        return applied.writes + pruned.writes


@pytest.fixture
def node() -> Iterator[NodeNamespace]:
    """A fresh network namespace, with lo up."""
    with NetworkNamespace.create() as namespace:
        made = NodeNamespace(namespace)
        made.command("ip", "link", "set", "lo", "up")

        yield made


@pytest.fixture
def wait() -> Callable[..., Awaitable[None]]:
    return wait_until
