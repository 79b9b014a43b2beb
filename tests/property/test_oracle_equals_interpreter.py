"""Differential test: resources -> calculation graph -> compiler -> interpreter says what the oracle says.

Worlds are drawn from a seed: two nodes, workloads in two namespaces, host endpoints, policies of every kind in several
tiers, profiles, network sets, named ports. A flow is followed from node to node, through each node's own ruleset. What
the two disagree on is cut down to the resources and rules that it takes, and printed with its seed.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any, TypeVar

import pytest
from msgspec.structs import replace

from calico_engine.calc.graph import CalcGraph
from calico_engine.errors import ValidationError
from calico_engine.evaluation import Flow, World, evaluate
from calico_engine.model import dump, validate
from calico_engine.model.endpoint import EndpointPort, WorkloadEndpoint
from calico_engine.model.node import Node
from calico_engine.model.policy import (
    Action,
    EntityRule,
    GlobalNetworkPolicy,
    ICMPFields,
    NetworkPolicy,
    PolicyType,
    Port,
    Profile,
    Rule,
)
from calico_engine.model.resource import Resource
from calico_engine.plugin.protocols import SyncStatus, Update
from calico_engine.ruleset.interpret import Interpreter, Outcome, Packet, Path
from calico_engine.ruleset.ir import Family
from calico_engine.ruleset.lower import lower
from calico_engine.ruleset.state import DesiredState
from calico_engine.ruleset.verify import verify
from calico_engine.ruleset.world import compile_world
from calico_engine.settings import EndpointToHostAction, FelixSettings, Layout
from calico_engine.testing.builders import (
    make_endpoint,
    make_global_network_set,
    make_global_policy,
    make_host_endpoint,
    make_network_set,
    make_node,
    make_policy,
    make_profile,
    make_tier,
)
from calico_engine.testing.messages import make_batch, make_interface

#: Worlds per case; eight flows each. The long form: CE_WORLDS=5000.
WORLDS = int(os.environ.get("CE_WORLDS", "150"))
FLOWS = 8

NODES = {"n1": ("192.0.2.1", "2001:db8::1"), "n2": ("192.0.2.2", "2001:db8::2")}
WORKLOADS: dict[str, tuple[str, str, str, str]] = {
    "w1": ("n1", "cali1", "10.65.0.1", "fd00::1"),
    "w2": ("n1", "cali2", "10.65.0.2", "fd00::2"),
    "w3": ("n2", "cali3", "10.65.1.3", "fd00:1::3"),
}
OUTSIDE = (("198.51.100.1", "2001:db8:9::1"), ("203.0.113.7", "2001:db8:a::7"))
#: The one interface of a node that is no workload's; its host endpoints expect the node's addresses on it.
UPLINK = "eth0"
NETS = (
    *("10.65.0.0/16", "10.65.0.1/32", "192.0.2.0/24", "198.51.100.0/24", "0.0.0.0/0"),
    *("fd00::/32", "fd00::1/128", "2001:db8::/64", "2001:db8:9::/48", "::/0"),
)
NAMESPACES = ("default", "other")
PORTS: tuple[int, ...] = (22, 53, 80, 443, 5473, 8080)
LABELS = {"app": ("web", "db"), "tier": ("front", "back"), "role": ("", "x")}
PORT_NAMES = ("http", "dns")
FAMILIES = {Family.V4: 0, Family.V6: 1}


T = TypeVar("T")


class Case:
    """What is drawn from one seed."""

    def __init__(self, seed: int, *, hosts: bool, layout: Layout) -> None:
        self.random = Random(seed)
        # v2 has no guard against workloads that encapsulate by themselves.
        may_wrap = layout is Layout.V2 or self.random.random() < 0.5
        self.settings = FelixSettings(
            layout=layout,
            default_endpoint_to_host_action=self.random.choice(list(EndpointToHostAction)),
            allow_vxlan_packets_from_workloads=may_wrap,
        )
        drawn = [*self.endpoints(hosts=hosts), *self.policies(hosts=hosts), *self.others()]
        self.resources = [resource for resource in drawn if is_valid(resource)]
        self.flows = [self.flow(hosts=hosts) for _ in range(FLOWS)]

    def some(self, population: Sequence[Any], most: int) -> tuple[Any, ...]:
        return tuple(self.random.sample(population, self.random.randint(0, min(most, len(population)))))

    def maybe(self, make: Callable[[], T], default: T, chance: float = 0.25) -> T:
        return make() if self.random.random() < chance else default

    def labels(self) -> dict[str, str]:
        return {name: self.random.choice(LABELS[name]) for name in self.some(list(LABELS), 3)}

    def selector(self) -> str:
        name = self.random.choice(list(LABELS))
        value = self.random.choice(LABELS[name])
        simple = [
            f"{name} == '{value}'",
            f"{name} != '{value}'",
            f"has({name})",
            f"!has({name})",
            f"{name} in {{'web', 'x'}}",
            f"{name} not in {{'web', 'x'}}",
            f"{name} starts with 'f'",
            "all()",
        ]
        one = self.random.choice(simple)
        return self.maybe(
            lambda: f"{one} {self.random.choice(('&&', '||'))} {self.random.choice(simple)}", one
        )

    def endpoints(self, *, hosts: bool) -> Iterator[Resource]:
        for name, (v4, v6) in NODES.items():
            yield make_node(name, ipv4=f"{v4}/24", ipv6=f"{v6}/64")
        for name, (node, interface, *both) in WORKLOADS.items():
            yield make_endpoint(
                name,
                ip=both,
                labels=self.labels(),
                node=node,
                namespace=self.random.choice(NAMESPACES),
                interface=interface,
                profiles=self.some(("open", "some", "missing"), 3),
                ports=self.named_ports(),
            )
        if not hosts:
            return
        for node, addresses in NODES.items():
            for name, interface, chance in (("a", UPLINK, 0.5), ("b", "", 0.3), ("rest", "*", 0.3)):
                if self.random.random() < chance:
                    yield make_host_endpoint(
                        f"{node}-{name}",
                        interface=interface,
                        expected_ips=addresses if interface != "*" else (),
                        labels=self.labels(),
                        node=node,
                        profiles=self.some(("open", "some"), 1),
                        ports=self.named_ports(),
                    )

    def named_ports(self) -> list[EndpointPort]:
        return [
            EndpointPort(
                name=name, protocol=self.random.choice(("TCP", "UDP")), port=self.random.choice(PORTS)
            )
            for name in self.some(PORT_NAMES, 2)
        ]

    def policies(self, *, hosts: bool) -> Iterator[Resource]:
        # Few selectors, so that policies of one selector follow each other and form groups.
        selectors = [self.selector() for _ in range(2)]
        for number in range(self.random.choice((0, 1, 2, 3, 4, 8))):
            common: dict[str, Any] = {
                "selector": self.random.choice(selectors),
                "order": self.random.choice((None, 1.0, 2.0, 2.0)),
                "tier": self.random.choice(("default", "default", "first")),
                "types": self.some(list(PolicyType), 2),
            }
            kind = (
                self.random.choice(("plain", "plain", "forward", "untracked", "early")) if hosts else "plain"
            )
            if self.random.random() < 0.5 and kind == "plain":
                namespace = self.random.choice(NAMESPACES)
                common |= {"ingress": self.rules(), "egress": self.rules()}
                yield make_policy(f"p{number}", namespace=namespace, **common)
                continue
            early = kind == "early"
            if early:
                common["types"] = (PolicyType.INGRESS,)
            yield make_global_policy(
                f"p{number}",
                ingress=self.rules(),
                egress=() if early else self.rules(),
                apply_on_forward=kind != "plain",
                do_not_track=kind == "untracked",
                pre_dnat=early,
                namespace_selector=self.maybe(lambda: "app == 'ns'", "", 0.1) if kind == "plain" else "",
                **common,
            )

    def others(self) -> Iterator[Resource]:
        yield make_tier("first", order=1.0, default_action=self.random.choice((Action.DENY, Action.PASS)))
        yield make_profile("open", ingress=[Rule(action=Action.ALLOW)], egress=[Rule(action=Action.ALLOW)])
        yield make_profile("some", ingress=self.rules(), egress=self.rules(), labels_to_apply=self.labels())
        for namespace in NAMESPACES:
            yield make_profile(
                f"kns.{namespace}", labels_to_apply={"pcns.app": "ns"} if namespace == "default" else {}
            )
        for number in range(2):
            yield make_global_network_set(
                f"g{number}", nets=self.some(NETS[:4] + NETS[5:9], 3), labels=self.labels()
            )
        yield make_network_set(
            "s", namespace=self.random.choice(NAMESPACES), nets=self.some(NETS[:4], 2), labels=self.labels()
        )

    def rules(self) -> tuple[Rule, ...]:
        return tuple(self.rule() for _ in range(self.random.randint(0, 3)))

    def rule(self) -> Rule:
        protocol = self.random.choice((None, None, "TCP", "UDP", "SCTP", "ICMP", "ICMPv6", 47))
        has_ports = protocol in ("TCP", "UDP", "SCTP")
        icmp = ICMPFields(type=self.random.choice((0, 8, 128)), code=self.random.choice((None, 0, 1)))
        is_icmp = protocol in ("ICMP", "ICMPv6")
        return Rule(
            action=self.random.choice((Action.ALLOW, Action.ALLOW, Action.DENY, Action.PASS, Action.LOG)),
            ip_version=self.maybe(lambda: self.random.choice((4, 6)), None, 0.1),
            protocol=protocol,
            not_protocol=self.maybe(lambda: self.random.choice(("TCP", "UDP", 47)), None, 0.1),
            icmp=self.maybe(lambda: icmp, None, 0.4) if is_icmp else None,
            not_icmp=self.maybe(lambda: icmp, None, 0.3) if is_icmp else None,
            source=self.entity(has_ports=has_ports),
            destination=self.entity(has_ports=has_ports),
        )

    def entity(self, *, has_ports: bool) -> EntityRule:
        return EntityRule(
            nets=self.maybe(lambda: self.some(NETS, 6), (), 0.4),
            not_nets=self.maybe(lambda: self.some(NETS, 3), (), 0.15),
            selector=self.maybe(self.selector, ""),
            not_selector=self.maybe(self.selector, "", 0.15),
            namespace_selector=self.maybe(
                lambda: self.random.choice(("all()", "global()", "app == 'ns'")), "", 0.1
            ),
            ports=self.maybe(self.ports, (), 0.4) if has_ports else (),
            not_ports=self.maybe(self.ports, (), 0.15) if has_ports else (),
        )

    def ports(self) -> tuple[Port, ...]:
        many = tuple(range(1, self.random.choice((1, 1, 1, 20, 40))))
        low, high = sorted(self.random.sample(PORTS, 2))
        ports: list[Port] = [*self.some(PORTS, 3), *many]
        if self.random.random() < 0.25:
            ports.append(f"{low}:{high}")
        return (*ports, *self.some(PORT_NAMES, 1))

    def flow(self, *, hosts: bool) -> Flow:
        family = self.random.choice((0, 1))
        workloads = [addresses[family] for _, _, *addresses in WORKLOADS.values()]
        nodes = [addresses[family] for addresses in NODES.values()] if hosts else []
        outside = [addresses[family] for addresses in OUTSIDE]
        src = self.random.choice((*workloads, *workloads, *outside, *nodes))
        dst = self.random.choice([a for a in (*workloads, *workloads, *outside, *nodes) if a != src])
        return Flow(
            src=src,
            dst=dst,
            protocol=self.random.choice(("TCP", "TCP", "UDP", "SCTP", ("ICMP", "ICMPv6")[family], 47)),
            src_port=self.random.choice((40000, 53, 22)),
            dst_port=self.random.choice((*PORTS, 15, 4789)),
            icmp_type=self.random.choice((0, 8, 128)),
            icmp_code=self.random.choice((0, 1)),
            node="n1",
        )


def is_valid(resource: Resource) -> bool:
    try:
        validate(resource)
    except ValidationError:
        return False
    return True


class Cluster:
    """Every node's ruleset, made the way the engine makes it."""

    def __init__(self, resources: Sequence[Resource], settings: FelixSettings) -> None:
        self._interpreters: dict[tuple[str, Family], Interpreter] = {}
        for node, addresses in NODES.items():
            graph = CalcGraph(node)
            graph.on_updates([Update(resource.key, resource) for resource in resources])
            graph.on_status(SyncStatus.IN_SYNC)
            batch = graph.flush()
            assert batch is not None
            assert graph.rejected == []
            state = DesiredState(settings)
            state.apply(batch)
            state.apply(make_batch(make_interface(UPLINK, *addresses)))
            for family in Family:
                ruleset = lower(compile_world(state, settings, family), settings)
                assert verify(ruleset) == ()
                self._interpreters[node, family] = Interpreter(ruleset)

    def follow(self, flow: Flow) -> list[tuple[str, Outcome]]:
        """Send a flow's first packet through every node on its way, until one drops it."""
        passed: list[tuple[str, Outcome]] = []
        for node, path, into, out in route(flow):
            family = Family.V6 if ":" in flow.src else Family.V4
            packet = Packet(
                src=flow.src,
                dst=flow.dst,
                protocol=NUMBERS[flow.protocol],
                src_port=flow.src_port,
                dst_port=flow.dst_port,
                icmp_type=flow.icmp_type or 0,
                icmp_code=flow.icmp_code or 0,
                in_interface=into,
                out_interface=out,
                src_local=path is Path.FROM_HOST,
                dst_local=path is Path.TO_HOST,
            )
            passed.append((node, self._interpreters[node, family].run(packet, path)))
            if not passed[-1][1].allowed:
                break
        return passed


NUMBERS: dict[int | str, int] = {"TCP": 6, "UDP": 17, "SCTP": 132, "ICMP": 1, "ICMPv6": 58, 47: 47}


def locate(address: str) -> tuple[str, str]:
    """Return the node and the interface of an address; "" for outside and for a node's own."""
    for node, interface, *addresses in WORKLOADS.values():
        if address in addresses:
            return node, interface
    return next((node for node, addresses in NODES.items() if address in addresses), ""), ""


def route(flow: Flow) -> Iterator[tuple[str, Path, str, str]]:
    """Yield the nodes on the way, with path and interfaces. Outside to outside passes through flow.node."""
    (src_node, src_interface), (dst_node, dst_interface) = locate(flow.src), locate(flow.dst)
    if src_node:
        out = dst_interface if src_node == dst_node else UPLINK
        if not src_interface:
            yield src_node, Path.FROM_HOST, "", out
        elif src_node == dst_node and not dst_interface:
            yield src_node, Path.TO_HOST, src_interface, ""
        else:
            yield src_node, Path.FORWARD, src_interface, out
    elif not dst_node:
        yield flow.node, Path.FORWARD, UPLINK, UPLINK
    if dst_node and dst_node != src_node:
        if dst_interface:
            yield dst_node, Path.FORWARD, UPLINK, dst_interface
        else:
            yield dst_node, Path.TO_HOST, UPLINK, ""


def differs(resources: Sequence[Resource], settings: FelixSettings, flow: Flow) -> bool:
    passed = Cluster(resources, settings).follow(flow)
    return passed[-1][1].allowed is not evaluate(World(resources, settings), flow).allowed


def reductions(resources: Sequence[Resource]) -> Iterator[list[Resource]]:
    """Yield worlds that lack one resource or one rule of this one; who has which address stays."""
    for position, resource in enumerate(resources):
        if not isinstance(resource, WorkloadEndpoint | Node):
            yield [*resources[:position], *resources[position + 1 :]]
        if isinstance(resource, NetworkPolicy | GlobalNetworkPolicy | Profile):
            for direction in ("ingress", "egress"):
                rules = getattr(resource.spec, direction)
                for index in range(len(rules)):
                    fewer = {direction: rules[:index] + rules[index + 1 :]}
                    smaller: Resource = replace(resource, spec=replace(resource.spec, **fewer))
                    yield [*resources[:position], smaller, *resources[position + 1 :]]


def reduce_world(resources: list[Resource], settings: FelixSettings, flow: Flow) -> list[Resource]:
    """Take away what can be taken away without the two agreeing."""
    shrinking = True
    while shrinking:
        shrinking = False
        for smaller in reductions(resources):
            if differs(smaller, settings, flow):
                resources, shrinking = smaller, True
                break
    return resources


def explain(seed: int, resources: Sequence[Resource], settings: FelixSettings, flow: Flow) -> str:
    verdict = evaluate(World(resources, settings), flow)
    passed = Cluster(resources, settings).follow(flow)
    lines = [f"seed {seed}: {flow}", f"oracle: {verdict.action}: {verdict.reason}"]
    for node, outcome in passed:
        lines.append(f"{node}: {outcome.verdict}, decided by {outcome.decided}")
        lines += [f"    {step.layer} {step.chain} {step.index} {step.rule.op}" for step in outcome.trace]
    return "\n".join([*lines, *(dump(resource) for resource in resources)])


def check(seed: int, *, hosts: bool, layout: Layout) -> int:
    """Compare all flows of one world. Return how many the oracle allowed."""
    case = Case(seed, hosts=hosts, layout=layout)
    cluster, world = Cluster(case.resources, case.settings), World(case.resources, case.settings)
    allowed = 0
    for flow in case.flows:
        expected = evaluate(world, flow).allowed
        if cluster.follow(flow)[-1][1].allowed is not expected:
            pytest.fail(explain(seed, reduce_world(case.resources, case.settings, flow), case.settings, flow))
        allowed += expected
    return allowed


@pytest.mark.parametrize(
    ("hosts", "layout"),
    [(False, Layout.V3), (False, Layout.V2), (True, Layout.V3)],
    ids=["workloads-v3", "workloads-v2", "hosts-v3"],
)
@pytest.mark.timeout(max(120, WORLDS))
def test_oracle_and_interpreter_agree(hosts: bool, layout: Layout) -> None:
    allowed = sum(check(seed, hosts=hosts, layout=layout) for seed in range(WORLDS))

    # Neither answer is rare, or nothing was compared.
    assert 0.1 < allowed / (WORLDS * FLOWS) < 0.9
