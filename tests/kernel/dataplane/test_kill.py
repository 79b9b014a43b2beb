"""Killed at any moment of programming: nothing denied gets through, and the next run ends in the same state."""

import contextlib
import os
import pickle
import random
import signal
import socket
import subprocess
import sys
import time
from typing import Any

import pytest
from tests.kernel.dataplane.conftest import EVERY_VARIANT

from calico_engine.messages import IPSetRemove, IPSetUpdate, SetKind
from calico_engine.model.policy import Action

pytestmark = [
    pytest.mark.kernel(
        tools=("iptables-legacy", "iptables-nft", "ipset", "nft"),
        features=("veth", "ipset", "iptables-legacy", "iptables-nft"),
    ),
]

ROUNDS = 8

#: Programs one world after the other until it is killed. The client may reach web in none of them.
CHURN = """
import asyncio, pickle, sys
from calico_engine.messages import Batch
from calico_engine.plugin.protocols import PluginContext

settings, worlds, options = pickle.loads(sys.stdin.buffer.read())
def context(name):
    return PluginContext(name=name, node="n", settings=settings, options=options, request_apply=id, notify=id)
def make():
    if options is not None:
        from calico_engine_nftables.plugin import make_dataplane
        return [make_dataplane(context("nftables"))]
    from calico_engine_ipset.plugin import IpsetDataplane
    from calico_engine_iptables.plugin import make_dataplane
    return [IpsetDataplane(context("ipset")), make_dataplane(context("iptables"))]
async def main():
    dataplanes = make()
    print("ready", flush=True)
    revision = 0
    while True:
        for messages in worlds:
            revision += 1
            batch = Batch(revision=revision, in_sync=True, messages=messages)
            for dataplane in dataplanes:
                dataplane.on_batch(batch)
            for dataplane in dataplanes:
                await dataplane.apply()
            for dataplane in reversed(dataplanes):
                await dataplane.prune()
asyncio.run(main())
"""


def make_worlds(rig: Any, web: Any, client: Any) -> list[tuple[Any, ...]]:
    """Return two sets of messages that touch everything, each from the other.

    The client is in both deny sets in both worlds: members and rules do not change in one transaction.
    """
    bad = frozenset({*client.addresses.values(), *(f"10.9.{i >> 8}.{i & 255}" for i in range(600))})
    other = frozenset({*client.addresses.values(), "10.8.0.0/16", "fd08::/64"})
    deny = rig.policy("deny", [rig.rule(Action.DENY, src_sets=("s:bad",)), rig.rule()], [rig.rule()])
    second = rig.policy("second", [rig.rule(Action.DENY, src_sets=("s:other",)), rig.rule()], [rig.rule()])
    allow = rig.policy("allow", [rig.rule()], [rig.rule()])
    both = (allow, client.update([allow.policy], [allow.policy]))
    first_world = (
        IPSetUpdate(set_id="s:bad", kind=SetKind.NET, members=bad),
        IPSetUpdate(set_id="s:other", kind=SetKind.NET, members=frozenset(client.addresses.values())),
        deny,
        *both,
        web.update([deny.policy], [allow.policy]),
    )
    second_world = (
        IPSetUpdate(set_id="s:other", kind=SetKind.NET, members=other),
        IPSetUpdate(
            set_id="s:bad", kind=SetKind.NET, members=frozenset({"10.9.0.1", *client.addresses.values()})
        ),
        second,
        *both,
        web.update([second.policy, deny.policy], [allow.policy]),
    )
    return [first_world, second_world]


def saved(rig: Any) -> list[str]:
    return sorted(line.split(" [")[0] for lines in rig.saved().values() for line in lines)


class Prober:
    """Sends datagrams that policy denies; `arrived` counts those that came through, `sent` all."""

    def __init__(self, source: Any, target: Any) -> None:
        self.arrived = 0
        self.sent = 0
        self._pairs = []
        for version in (4, 6):
            server, client = (pod.socket(version, socket.SOCK_DGRAM) for pod in (target, source))
            server.bind((target.addresses[version], 7000))
            server.setblocking(False)
            self._pairs.append((server, client, (target.addresses[version], 7000)))

    def probe(self) -> None:
        for server, client, address in self._pairs:
            client.sendto(b"x", address)
            self.sent += 1
            with contextlib.suppress(BlockingIOError):
                while server.recv(8):
                    self.arrived += 1

    def close(self) -> None:
        for server, client, _ in self._pairs:
            server.close()
            client.close()


def churn_and_kill(payload: bytes, after_s: float, prober: Prober) -> None:
    """Start a process that programs, kill it and what it started after a while, probing all the time."""
    process = subprocess.Popen(
        [sys.executable, "-c", CHURN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        process.stdin.write(payload)
        process.stdin.close()
        assert process.stdout.readline() == b"ready\n"
        end_s = time.monotonic() + after_s
        while time.monotonic() < end_s:
            prober.probe()
        assert process.poll() is None
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("variant", EVERY_VARIANT, indirect=True)
def test_kill_opens_nothing_and_leaves_nothing(rig: Any) -> None:
    async def scenario() -> None:
        web, client = rig.add_pod("web"), rig.add_pod("client")
        worlds = make_worlds(rig, web, client)
        await rig.settle(*worlds[0])
        rules, sets = saved(rig), rig.sets()
        await rig.rules.close()
        payload = pickle.dumps((rig.settings, worlds, rig.options))
        prober = Prober(client, web)
        pauses = random.Random(20261121)

        for _ in range(ROUNDS):
            churn_and_kill(payload, pauses.uniform(0.02, 0.3), prober)
            rig.make_dataplanes()
            await rig.settle(*worlds[0])
            await rig.rules.close()
            assert (saved(rig), rig.sets()) == (rules, sets)

        prober.probe()
        assert prober.arrived == 0
        assert rig.udp(web, client, 4, 7001)
        prober.close()

    rig.run(scenario)


@pytest.mark.parametrize("variant", ["nftables"], indirect=True)
def test_members_and_rules_that_change_together_open_nothing(rig: Any) -> None:
    """The set that denies the client is another in each world, and there for one of them alone."""

    def world(web: Any, client: Any, here: str, gone: str) -> tuple[Any, ...]:
        members = frozenset({*client.addresses.values(), "10.8.0.0/16", "fd08::/64"})
        deny = rig.policy("deny", [rig.rule(Action.DENY, src_sets=(here,)), rig.rule()], [rig.rule()])
        update = IPSetUpdate(set_id=here, kind=SetKind.NET, members=members)
        allow = rig.policy("allow", [rig.rule()], [rig.rule()])
        endpoints = (
            client.update([allow.policy], [allow.policy]),
            web.update([deny.policy], [allow.policy]),
        )
        return (update, deny, allow, *endpoints, IPSetRemove(set_id=gone))

    async def scenario() -> None:
        web, client = rig.add_pod("web"), rig.add_pod("client")
        worlds = [world(web, client, "s:one", "s:other"), world(web, client, "s:other", "s:one")]
        await rig.settle(*worlds[0])
        await rig.rules.close()
        prober = Prober(client, web)

        churn_and_kill(pickle.dumps((rig.settings, worlds, rig.options)), 2.0, prober)
        prober.probe()

        assert prober.sent > 1000
        assert prober.arrived == 0
        prober.close()

    rig.run(scenario)
