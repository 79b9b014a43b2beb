"""A node with pods behind veths, programmed by the dataplane plugins alone; packets are sent by Python sockets.

What programs it is a `variant`: ipset with iptables-legacy or iptables-nft, or nftables with verdicts from maps or
rule by rule.
"""

import asyncio
import contextlib
import json
import os
import re
import socket
import struct
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from calico_engine.kernel.namespaces import NetworkNamespace
from calico_engine.messages import (
    ActivePolicyUpdate,
    ActiveRule,
    Batch,
    InterfaceUpdate,
    Message,
    TierPolicies,
    WorkloadEndpointUpdate,
)
from calico_engine.model.policy import Action
from calico_engine.model.resource import ResourceKey
from calico_engine.plugin.protocols import ApplyResult, Change, Dataplane, PluginContext
from calico_engine.ruleset.state import PolicyForm
from calico_engine.settings import FelixSettings
from calico_engine_ipset.plugin import IpsetDataplane
from calico_engine_iptables.plugin import make_dataplane as make_iptables
from calico_engine_nftables.config import NftablesConfig
from calico_engine_nftables.plugin import make_dataplane as make_nftables

#: The variants that are nftables, and the form of each.
#: Even without duplicate address detection an address is usable only once the kernel has come round to it.
NODAD: dict[int, tuple[str, ...]] = {4: (), 6: ("nodad",)}
NFTABLES = {"nftables": PolicyForm.CLASSIFIED, "nftables-linear": PolicyForm.LINEAR}
EVERY_VARIANT = ("legacy", "nft", *NFTABLES)

_ECHO = {4: (8, 0, socket.IPPROTO_ICMP), 6: (128, 129, socket.IPPROTO_ICMPV6)}
_FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
#: A packet between two namespaces of one machine takes far less; one that is dropped costs this much.
ARRIVES_WITHIN_S = 0.15


def without_counters(text: str) -> list[str]:
    """Return chains and rules of what iptables-save printed, without counters and times."""
    return [re.sub(r" \[\d+:\d+\]$", "", line) for line in text.splitlines() if not line.startswith("#")]


class Pod:
    """A namespace with one interface, whose other end is the node's `interface`."""

    def __init__(self, name: str, number: int) -> None:
        self.name = name
        self.interface = f"cali{name}"
        self.addresses = {4: f"10.65.0.{number}", 6: f"fd00:65::{number:x}"}
        self.namespace = NetworkNamespace.create()
        self.key = ResourceKey("WorkloadEndpoint", "default", name)

    def update(
        self, ingress: Sequence[ResourceKey] = (), egress: Sequence[ResourceKey] = (), **fields: Any
    ) -> WorkloadEndpointUpdate:
        """Return this pod's endpoint with the given policies, in that order, in the default tier."""
        tiers = fields.pop("tiers", None)
        if tiers is None:
            tiers = (
                TierPolicies(
                    tier="default", default_action=Action.DENY, ingress=tuple(ingress), egress=tuple(egress)
                ),
            )
        return WorkloadEndpointUpdate(
            endpoint=self.key,
            interface_name=self.interface,
            ip_networks=(f"{self.addresses[4]}/32", f"{self.addresses[6]}/128"),
            tiers=tiers,
            **fields,
        )

    def link(self, *, up: bool = True) -> InterfaceUpdate:
        return InterfaceUpdate(name=self.interface, index=1, up=up)

    def socket(self, version: int, kind: int, protocol: int = 0) -> socket.socket:
        made = self.namespace.run(lambda: socket.socket(_FAMILY[version], kind, protocol))
        made.settimeout(ARRIVES_WITHIN_S)
        return made


def make_policy(
    name: str, inbound: Sequence[ActiveRule] = (), outbound: Sequence[ActiveRule] = (), **fields: Any
) -> ActivePolicyUpdate:
    return ActivePolicyUpdate(
        policy=ResourceKey("GlobalNetworkPolicy", "", name),
        tier="default",
        inbound=tuple(inbound),
        outbound=tuple(outbound),
        **fields,
    )


def make_rule(action: Action = Action.ALLOW, **fields: Any) -> ActiveRule:
    return ActiveRule(action=action, **fields)


class NoSets:
    """Stands where a variant has no dataplane for sets alone."""

    def on_batch(self, batch: Batch, /) -> None: ...

    def invalidate(self, reason: str, /) -> None: ...

    async def apply(self) -> ApplyResult:
        return ApplyResult(plugin="no sets")

    async def prune(self) -> ApplyResult:
        return ApplyResult(plugin="no sets")

    async def plan(self) -> Sequence[Change]:
        return []

    def render(self) -> str:
        return ""

    async def cleanup(self) -> int:
        return 0

    async def close(self) -> None: ...


class Rig:
    """One node's namespace, its pods and the dataplanes in the order of a profile: `ipset`, then `rules`."""

    policy = staticmethod(make_policy)
    rule = staticmethod(make_rule)

    def __init__(self, node: Any, variant: str, settings: FelixSettings, lock_file: Path) -> None:
        self.node = node
        self.settings = msgspec.structs.replace(settings, iptables_lock_file_path=str(lock_file))
        if variant not in NFTABLES:
            self.settings = msgspec.structs.replace(self.settings, iptables_backend=variant)
        self.variant = variant
        self.pods: dict[str, Pod] = {}
        self.outside: Pod | None = None
        self.as_host: Pod
        self.ipset: Dataplane
        self.rules: Any
        self.requests: list[str] = []
        self.more_options: dict[str, Any] = {}
        self.make_dataplanes()

    @property
    def options(self) -> NftablesConfig | None:
        """What nftables is told; None where it is not nftables."""
        if self.variant not in NFTABLES:
            return None
        return NftablesConfig(form=NFTABLES[self.variant], **self.more_options)

    def context(self, name: str) -> PluginContext:
        return PluginContext(
            name=name,
            node="node-1",
            settings=self.settings,
            options=self.options or {},
            request_apply=self.requests.append,
            notify=self.node.notifications.append,
        )

    def make_dataplanes(self) -> None:
        """Make all anew, as an engine that starts without memory does."""
        if self.variant in NFTABLES:
            self.ipset = NoSets()
            self.rules = make_nftables(self.context("nftables"))
        else:
            self.ipset = IpsetDataplane(self.context("ipset"))
            self.rules = make_iptables(self.context("iptables"))

    def hear(self, *messages: Message, in_sync: bool = True) -> None:
        batch = msgspec.structs.replace(self.node.batch(*messages), in_sync=in_sync)
        self.ipset.on_batch(batch)
        self.rules.on_batch(batch)

    async def settle(self, *messages: Message) -> list[ApplyResult]:
        """Take messages in and do what the engine does after a batch."""
        if messages:
            self.hear(*messages)
        results = [await self.ipset.apply(), await self.rules.apply()]
        return [*results, await self.rules.prune(), await self.ipset.prune()]

    async def writes(self, *messages: Message) -> int:
        return sum(result.writes for result in await self.settle(*messages))

    def run(self, scenario: Callable[[], Awaitable[None]]) -> None:
        """Run an async scenario in the node's namespace; what it watches is closed at its end."""

        async def main() -> None:
            try:
                await scenario()
            finally:
                await self.rules.close()
                await self.ipset.close()

        self.node.namespace.run(lambda: asyncio.run(main()))

    # What is there, as the tools see it

    def saved(self) -> dict[int, list[str]]:
        """Return chains and rules of both families, without counters and times."""
        return {version: self._saved(version) for version in (4, 6)}

    def _saved(self, version: int) -> list[str]:
        if self.variant in NFTABLES:
            return list(self.node.ruleset("ip6" if version == 6 else "ip"))
        return without_counters(self.save(version))

    def rule_texts(self, version: int) -> list[str]:
        """Return all rules there are, ours and others'."""
        if self.variant not in NFTABLES:
            return [line for line in self._saved(version) if line.startswith("-A")]
        listing = self.node.sh("nft", "-j", "list", "ruleset", "ip6" if version == 6 else "ip")
        return [json.dumps(entry["rule"]) for entry in json.loads(listing)["nftables"] if "rule" in entry]

    def save(self, version: int = 4, *arguments: str) -> str:
        tool = "ip6tables" if version == 6 else "iptables"
        return str(self.node.sh(f"{tool}-{self.variant}-save", *arguments))

    def tables(self, version: int = 4, words: str = "") -> str:
        """Run iptables of this variant."""
        tool = "ip6tables" if version == 6 else "iptables"
        return str(self.node.sh(f"{tool}-{self.variant}", *words.split()))

    def sets(self) -> dict[str, set[str]]:
        """Return the members of all sets, by name."""
        found: dict[str, set[str]] = {}
        for line in self.node.sh("ipset", "save").splitlines():
            verb, name, rest = line.split(" ", 2)
            if verb == "create":
                found[name] = set()
            else:
                found[name].add(rest)
        return found

    # Pods and packets

    def endpoint(self, name: str) -> Pod:
        """Return a pod without links: enough where no packet is sent."""
        if name not in self.pods:
            self.pods[name] = Pod(name, 2 + len(self.pods))
        return self.pods[name]

    def add_pod(self, name: str) -> Pod:
        """Make a pod with routes and fixed neighbours both ways. Only inside `run`."""
        sh = self.node.sh
        pod = self.endpoint(name)
        interface = pod.interface
        sh(
            "sysctl",
            "-qw",
            "net.ipv4.ip_forward=1",
            "net.ipv6.conf.all.forwarding=1",
            "net.ipv6.conf.default.accept_dad=0",
        )
        pod.namespace.run(lambda: sh("sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0"))
        sh("ip", "link", "add", interface, "type", "veth", "peer", "name", "eth0", "netns", self._path(pod))
        inside, outside = "02:00:00:00:00:01", "ee:ee:ee:ee:ee:ee"
        sh("ip", "link", "set", interface, "address", outside, "up")

        def configure() -> None:
            sh("ip", "link", "set", "eth0", "address", inside, "up")
            sh("ip", "link", "set", "lo", "up")
            for version, gateway in ((4, "169.254.1.1"), (6, "fe80::1")):
                sh(
                    "ip",
                    f"-{version}",
                    "address",
                    "add",
                    pod.addresses[version],
                    "dev",
                    "eth0",
                    *NODAD[version],
                )
                if version == 4:
                    sh("ip", "route", "add", gateway, "dev", "eth0")
                sh(
                    "ip",
                    f"-{version}",
                    "neighbour",
                    "add",
                    gateway,
                    "lladdr",
                    outside,
                    "dev",
                    "eth0",
                    "nud",
                    "permanent",
                )
                sh("ip", f"-{version}", "route", "add", "default", "via", gateway, "dev", "eth0")

        pod.namespace.run(configure)
        for version, address in pod.addresses.items():
            sh("ip", f"-{version}", "route", "add", address, "dev", interface)
            sh(
                "ip",
                f"-{version}",
                "neighbour",
                "add",
                address,
                "lladdr",
                inside,
                "dev",
                interface,
                "nud",
                "permanent",
            )
        return pod

    def add_outside(self) -> Pod:
        """Make a host beyond the node's interface eth0, which knows the way to the pods. Only inside `run`."""
        sh = self.node.sh
        host = self.outside = Pod("outside", 2)
        host.interface, host.addresses = "eth0", {4: "192.0.2.2", 6: "fd02::2"}
        own = {4: "192.0.2.1", 6: "fd02::1"}
        self.as_host = Pod("node", 1)
        self.as_host.namespace.close()
        self.as_host.namespace = self.node.namespace
        self.as_host.interface, self.as_host.addresses = "eth0", own
        forward = ("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
        sh("sysctl", "-qw", *forward, "net.ipv6.conf.default.accept_dad=0")
        host.namespace.run(lambda: sh("sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0"))
        sh("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", self._path(host))
        sh("ip", "link", "set", "eth0", "up")
        for version, length in ((4, 24), (6, 64)):
            sh(
                "ip",
                f"-{version}",
                "address",
                "add",
                f"{own[version]}/{length}",
                "dev",
                "eth0",
                *NODAD[version],
            )

        def configure() -> None:
            sh("ip", "link", "set", "lo", "up")
            sh("ip", "link", "set", "eth0", "up")
            for version, length in ((4, 24), (6, 64)):
                sh(
                    "ip",
                    f"-{version}",
                    "address",
                    "add",
                    f"{host.addresses[version]}/{length}",
                    "dev",
                    "eth0",
                    *NODAD[version],
                )
                sh("ip", f"-{version}", "route", "add", "default", "via", own[version], "dev", "eth0")
            self._fix_neighbours(own, "02:00:00:00:00:01", "02:00:00:00:00:02")

        host.namespace.run(configure)
        self._fix_neighbours(host.addresses, "02:00:00:00:00:02", "02:00:00:00:00:01")
        return host

    def _fix_neighbours(self, addresses: dict[int, str], theirs: str, ours: str) -> None:
        """A host endpoint drops neighbour discovery too, in Calico as here: no policy of the tests lets it through."""
        self.node.sh("ip", "link", "set", "eth0", "address", ours)
        for version, address in addresses.items():
            permanent = ("lladdr", theirs, "dev", "eth0", "nud", "permanent")
            self.node.sh("ip", f"-{version}", "neighbour", "replace", address, *permanent)

    @staticmethod
    def _path(pod: Pod) -> str:
        return f"/proc/{os.getpid()}/fd/{pod.namespace.descriptor}"

    def tcp(self, source: Pod, target: Pod, version: int, port: int) -> bool:
        """Tell whether a TCP connection comes about."""
        with (
            target.socket(version, socket.SOCK_STREAM) as server,
            source.socket(version, socket.SOCK_STREAM) as client,
        ):
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind((target.addresses[version], port))
            server.listen()
            try:
                client.connect((target.addresses[version], port))
            except (TimeoutError, ConnectionRefusedError, PermissionError):
                return False
            return True

    def udp(self, source: Pod, target: Pod, version: int, port: int) -> bool:
        """Tell whether a datagram arrives."""
        return bool(self.udp_source(source, target, version, port))

    def udp_source(self, source: Pod, target: Pod, version: int, port: int, sender: str = "") -> str:
        """Send a datagram, from the address `sender` if given; return whom it came from, "" if it did not come."""
        with (
            target.socket(version, socket.SOCK_DGRAM) as server,
            source.socket(version, socket.SOCK_DGRAM) as client,
        ):
            server.bind((target.addresses[version], port))
            if sender:
                client.bind((sender, 0))
            with contextlib.suppress(PermissionError):  # what a DROP on the way out says
                client.sendto(b"probe", (target.addresses[version], port))
            with contextlib.suppress(TimeoutError):
                return str(server.recvfrom(16)[1][0])
            return ""

    def ping(self, source: Pod, target: Pod, version: int) -> bool:
        """Tell whether an echo request is answered."""
        request, reply, protocol = _ECHO[version]
        packet = struct.pack("!BBHHH", request, 0, 0, 77, 1)
        checksum = ~sum(struct.unpack("!4H", packet)) & 0xFFFF
        packet = struct.pack("!BBHHH", request, 0, checksum, 77, 1)
        with source.socket(version, socket.SOCK_RAW, protocol) as client:
            client.sendto(packet, (target.addresses[version], 0))
            with contextlib.suppress(TimeoutError):
                while True:
                    data = client.recv(256)
                    kind = data[20] if version == 4 else data[0]
                    if kind == reply:
                        return True
            return False

    def close(self) -> None:
        for pod in [*self.pods.values(), *([self.outside] if self.outside else [])]:
            pod.namespace.close()


@pytest.fixture(params=["legacy", "nft"])
def variant(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def make_rig(node: Any, variant: str, tmp_path: Path) -> Iterator[Callable[..., Rig]]:
    """Return a factory of rigs with changed settings."""
    rigs: list[Rig] = []

    def make(**settings: Any) -> Rig:
        rigs.append(Rig(node, variant, FelixSettings(**settings), tmp_path / "xtables.lock"))
        return rigs[-1]

    yield make

    for rig in rigs:
        rig.close()


@pytest.fixture
def rig(make_rig: Callable[..., Rig]) -> Rig:
    return make_rig()
