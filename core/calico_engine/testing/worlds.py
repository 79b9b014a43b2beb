"""Clusters, policies and flows drawn from a seed, for tests that compare two statements of what policy means.

Two nodes, workloads in two namespaces, an uplink that may be a host endpoint, policies of every kind in several tiers,
profiles (some of them missing), network sets, service accounts, named ports. Who has which address is fixed; the rest
is drawn. The same seed gives the same world on every machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any, TypeVar

from msgspec.structs import replace

from calico_engine.errors import ValidationError
from calico_engine.evaluation import Flow
from calico_engine.model import validate
from calico_engine.model.endpoint import EndpointPort, WorkloadEndpoint
from calico_engine.model.policy import (
    Action,
    EntityRule,
    ICMPFields,
    PolicyType,
    Port,
    Rule,
    ServiceAccountMatch,
)
from calico_engine.model.resource import Resource
from calico_engine.settings import (
    FAILSAFE_INBOUND,
    FAILSAFE_OUTBOUND,
    DenyAction,
    EndpointToHostAction,
    FelixSettings,
    HostPort,
    Layout,
)
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

NODES = {"n1": ("192.0.2.1", "2001:db8::1"), "n2": ("192.0.2.2", "2001:db8::2")}
#: Name -> node, interface, addresses.
WORKLOADS: dict[str, tuple[str, str, str, str]] = {
    "w1": ("n1", "cali1", "10.65.0.1", "fd00::1"),
    "w2": ("n1", "cali2", "10.65.0.2", "fd00::2"),
    "w3": ("n2", "cali3", "10.65.1.3", "fd00:1::3"),
    "w4": ("n1", "cali41", "10.65.0.4", "fd00::4"),
}
OUTSIDE = (("198.51.100.1", "2001:db8:9::1"), ("203.0.113.7", "2001:db8:a::7"))
#: The one interface of a node that is no workload's; its host endpoints expect the node's addresses on it.
UPLINK = "eth0"
#: By IP version; the last holds all addresses.
NETS = {
    4: ("10.65.0.0/16", "10.65.0.1/32", "10.65.0.2/31", "192.0.2.0/24", "198.51.100.0/24", "0.0.0.0/0"),
    6: ("fd00::/32", "fd00::1/128", "fd00::2/127", "2001:db8::/64", "2001:db8:9::/48", "::/0"),
}
NAMESPACES = ("default", "other")
PORTS: tuple[int, ...] = (22, 53, 80, 443, 5473, 8080)
LABELS = {"app": ("web", "db"), "tier": ("front", "back"), "role": ("", "x")}
PORT_NAMES = ("http", "dns")
ACCOUNTS = ("admin", "guest")
#: Types that begin a flow, by IP version: connection tracking takes any other for a part of one.
REQUEST_TYPES = {4: (8, 13), 6: (128, 139)}

_SET_NETS = NETS[4][:-1] + NETS[6][:-1]
_NEEDS_PORTS = ("TCP", "UDP", "SCTP")
_KINDS = ("plain", "plain", "forward", "untracked", "early")

_NO_RULE = Rule(action=Action.ALLOW)
_NO_ICMP = ICMPFields()

T = TypeVar("T")


class GeneratedWorld:
    """What is drawn from one seed: settings, resources, flows."""

    def __init__(self, seed: int, *, hosts: bool, layout: Layout = Layout.V3, flows: int = 8) -> None:
        """Draw. `hosts` adds host endpoints, the policies only they have, and flows from and to nodes."""
        self.seed = seed
        self._random = Random(seed)  # noqa: S311  a draw that can be repeated, not a secret
        self._hosts = hosts
        self._drawn: list[Rule] = []
        self.settings = self._settings(layout)
        drawn = [*self._endpoints(), *self._policies(), *self._others()]
        self.resources = [resource for resource in drawn if _is_valid(resource)]
        self.flows = [self._flow() for _ in range(flows)]

    def _settings(self, layout: Layout) -> FelixSettings:
        peers = ("", "198.51.100.0/24", "2001:db8:9::/48")
        extra = (
            HostPort("udp", 443, self._random.choice(peers)),
            HostPort("tcp", 80, self._random.choice(peers)),
        )
        own = self._random.random() < 0.3
        # v2 has no guard against workloads that encapsulate by themselves.
        return FelixSettings(
            layout=layout,
            default_endpoint_to_host_action=self._random.choice(list(EndpointToHostAction)),
            iptables_filter_deny_action=self._maybe(lambda: DenyAction.REJECT, DenyAction.DROP, 0.2),
            allow_vxlan_packets_from_workloads=layout is Layout.V2 or self._random.random() < 0.5,
            failsafe_inbound_host_ports=extra if own else FAILSAFE_INBOUND,
            failsafe_outbound_host_ports=extra[:1] if own else FAILSAFE_OUTBOUND,
        )

    # Drawing

    def _some(self, population: Sequence[Any], most: int) -> tuple[Any, ...]:
        return tuple(self._random.sample(population, self._random.randint(0, min(most, len(population)))))

    def _maybe(self, make: Callable[[], T], default: T, chance: float = 0.25) -> T:
        return make() if self._random.random() < chance else default

    def _labels(self) -> dict[str, str]:
        return {name: self._random.choice(LABELS[name]) for name in self._some(list(LABELS), 3)}

    def _selector(self) -> str:
        name = self._random.choice(list(LABELS))
        value = self._random.choice(LABELS[name])
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
        one = self._random.choice(simple)
        return self._maybe(
            lambda: f"{one} {self._random.choice(('&&', '||'))} {self._random.choice(simple)}", one
        )

    # Endpoints

    def _endpoints(self) -> Iterator[Resource]:
        for name, (v4, v6) in NODES.items():
            yield make_node(name, ipv4=f"{v4}/24", ipv6=f"{v6}/64")
        for name, (node, interface, *both) in WORKLOADS.items():
            yield self._workload(name, node, interface, both)
        if not self._hosts:
            return
        for node, addresses in NODES.items():
            for name, interface, chance in (("a", UPLINK, 0.5), ("b", "", 0.3), ("rest", "*", 0.3)):
                if self._random.random() < chance:
                    yield make_host_endpoint(
                        f"{node}-{name}",
                        interface=interface,
                        expected_ips=addresses if interface != "*" else (),
                        labels=self._labels(),
                        node=node,
                        profiles=self._some(("open", "some"), 1),
                        ports=self._named_ports(),
                    )

    def _workload(self, name: str, node: str, interface: str, addresses: Sequence[str]) -> WorkloadEndpoint:
        namespace = self._random.choice(NAMESPACES)
        account = self._random.choice((*ACCOUNTS, ""))
        profiles = list(self._some(("open", "some", "missing"), 3))
        if self._random.random() < 0.6:
            profiles += [f"kns.{namespace}", *([f"ksa.{namespace}.{account}"] if account else [])]
        endpoint = make_endpoint(
            name,
            ip=addresses,
            labels=self._labels(),
            node=node,
            namespace=namespace,
            interface=interface,
            profiles=profiles,
            ports=self._named_ports(),
        )
        return replace(endpoint, spec=replace(endpoint.spec, service_account_name=account))

    def _named_ports(self) -> list[EndpointPort]:
        return [
            EndpointPort(
                name=name, protocol=self._random.choice(("TCP", "UDP")), port=self._random.choice(PORTS)
            )
            for name in self._some(PORT_NAMES, 2)
        ]

    def _others(self) -> Iterator[Resource]:
        yield make_tier("first", order=1.0, default_action=self._random.choice((Action.DENY, Action.PASS)))
        yield make_profile("open", ingress=[Rule(action=Action.ALLOW)], egress=[Rule(action=Action.ALLOW)])
        yield make_profile(
            "some", ingress=self._rules(), egress=self._rules(), labels_to_apply=self._labels()
        )
        for namespace in NAMESPACES:
            yield make_profile(
                f"kns.{namespace}", labels_to_apply={"pcns.app": "ns"} if namespace == "default" else {}
            )
            yield make_profile(f"ksa.{namespace}.admin", labels_to_apply={"pcsa.role": "x"})
        for number in range(2):
            yield make_global_network_set(f"g{number}", nets=self._some(_SET_NETS, 3), labels=self._labels())
        yield make_network_set(
            "s",
            namespace=self._random.choice(NAMESPACES),
            nets=self._some(_SET_NETS, 3),
            labels=self._labels(),
        )

    # Policies

    def _policies(self) -> Iterator[Resource]:
        # Without a last word that lets through, most flows end at the end of a tier, whatever other rules say.
        for tier, action in (("first", Action.PASS), ("default", Action.ALLOW)):
            if self._random.random() < 0.7:
                yield make_global_policy(
                    f"last-{tier}",
                    order=9.0,
                    tier=tier,
                    ingress=[Rule(action=action)],
                    egress=[Rule(action=action)],
                    apply_on_forward=self._hosts,
                )
        # Few selectors, so that policies of one selector follow each other and form groups.
        selectors = ["all()", self._selector(), self._selector()]
        for number in range(self._random.choice((0, 2, 3, 4, 6, 8))):
            kind = self._random.choice(_KINDS) if self._hosts else "plain"
            common: dict[str, Any] = {
                "selector": self._random.choice(selectors),
                "order": self._random.choice((None, 1.0, 2.0, 2.0, 3.0, 3.0)),
                "tier": self._random.choice(("default", "default", "first")),
                "types": self._some(list(PolicyType), 2),
                "service_account_selector": self._maybe(lambda: "role == 'x'", "", 0.1)
                if kind == "plain"
                else "",
            }
            if self._random.random() < 0.5 and kind == "plain":
                namespace = self._random.choice(NAMESPACES)
                common |= {"ingress": self._rules(), "egress": self._rules()}
                yield make_policy(f"p{number}", namespace=namespace, **common)
                continue
            early = kind == "early"
            if early:
                common["types"] = (PolicyType.INGRESS,)
            yield make_global_policy(
                f"p{number}",
                ingress=self._rules(),
                egress=() if early else self._rules(),
                apply_on_forward=kind != "plain",
                do_not_track=kind == "untracked",
                pre_dnat=early,
                namespace_selector=self._maybe(lambda: "app == 'ns'", "", 0.1) if kind == "plain" else "",
                **common,
            )

    def _rules(self) -> tuple[Rule, ...]:
        return tuple(self._rule() for _ in range(self._random.randint(0, 4)))

    def _rule(self) -> Rule:
        """Draw until a rule is valid."""
        while True:
            rule = self._any_rule()
            if _is_valid(make_global_policy(ingress=[rule])):
                self._drawn.append(rule)
                return rule

    def _any_rule(self) -> Rule:
        protocol = self._random.choice((None, None, "TCP", "UDP", "SCTP", "ICMP", "ICMPv6", 47))
        # A rule's CIDRs are of one family.
        version = {"ICMP": 4, "ICMPv6": 6}.get(str(protocol)) or self._random.choice((4, 6))
        has_ports = protocol in _NEEDS_PORTS
        is_icmp = protocol in ("ICMP", "ICMPv6")
        icmp, not_icmp = self._icmp(version), self._icmp(version)
        return Rule(
            action=self._random.choice((Action.ALLOW, Action.ALLOW, Action.DENY, Action.PASS, Action.LOG)),
            ip_version=self._maybe(lambda: version, None, 0.15),
            protocol=protocol,
            not_protocol=self._maybe(lambda: self._random.choice(("TCP", "UDP", 47)), None, 0.1),
            icmp=self._maybe(lambda: icmp, None, 0.5) if is_icmp else None,
            not_icmp=self._maybe(lambda: not_icmp, None, 0.3) if is_icmp else None,
            source=self._entity(version, has_ports=has_ports),
            destination=self._entity(version, has_ports=has_ports),
        )

    def _icmp(self, version: int) -> ICMPFields:
        return ICMPFields(
            type=self._random.choice(REQUEST_TYPES[version]), code=self._random.choice((None, 0, 1))
        )

    def _entity(self, version: int, *, has_ports: bool) -> EntityRule:
        nets = NETS[version]
        # Rules of many criteria match next to nothing: most have few.
        often = self._random.choice((0.2, 0.2, 1.0))
        return EntityRule(
            nets=self._maybe(lambda: self._some(nets, 3), (), 0.3 * often),
            not_nets=self._maybe(lambda: self._some(nets[:-1], 3), (), 0.2 * often),
            selector=self._maybe(self._selector, "", 0.4 * often),
            not_selector=self._maybe(self._selector, "", 0.2 * often),
            namespace_selector=self._maybe(
                lambda: self._random.choice(("all()", "global()", "app == 'ns'")), "", 0.15 * often
            ),
            ports=self._maybe(self._ports, (), 0.4) if has_ports else (),
            not_ports=self._maybe(self._ports, (), 0.15) if has_ports else (),
            service_accounts=self._maybe(self._accounts, None, 0.15 * often),
        )

    def _accounts(self) -> ServiceAccountMatch:
        return ServiceAccountMatch(
            names=self._some(ACCOUNTS, 2), selector=self._maybe(lambda: "role == 'x'", "", 0.4)
        )

    def _ports(self) -> tuple[Port, ...]:
        many = tuple(range(1, self._random.choice((1, 1, 1, 20, 40))))
        low, high = sorted(self._random.sample(PORTS, 2))
        ports: list[Port] = [*self._some(PORTS, 3), *many]
        if self._random.random() < 0.25:
            ports.append(f"{low}:{high}")
        return (*ports, *self._some(PORT_NAMES, 1))

    # Flows

    def _flow(self) -> Flow:
        """Draw a flow; most of them speak as some rule does, or nearly so."""
        family = self._random.choice((0, 1))
        workloads = [addresses[family] for _, _, *addresses in WORKLOADS.values()]
        nodes = [addresses[family] for addresses in NODES.values()] if self._hosts else []
        outside = [addresses[family] for addresses in OUTSIDE]
        src = self._random.choice((*workloads, *workloads, *outside, *nodes))
        dst = self._random.choice([a for a in (*workloads, *workloads, *outside, *nodes) if a != src])
        ping = ("ICMP", "ICMPv6")[family]
        rule = self._random.choice(self._drawn or [_NO_RULE])
        like = rule if self._random.random() < 0.7 else _NO_RULE
        protocol = like.protocol if like.protocol in (*_NEEDS_PORTS, ping, 47) else None
        icmp = like.icmp or like.not_icmp or _NO_ICMP
        types = REQUEST_TYPES[(4, 6)[family]]
        return Flow(
            src=src,
            dst=dst,
            protocol=protocol or self._random.choice(("TCP", "TCP", "UDP", "SCTP", ping, 47)),
            src_port=self._port_like(like.source, (40000, 53, 22)),
            dst_port=self._port_like(like.destination, (*PORTS, 15, 4789)),
            icmp_type=icmp.type if icmp.type in types else self._random.choice(types),
            icmp_code=self._random.choice((0, 1)),
            node="n1",
        )

    def _port_like(self, entity: EntityRule, others: Sequence[int]) -> int:
        """Return a port of a rule or the one after it; one of the others where the rule has none."""
        numbers = [port for port in (*entity.ports, *entity.not_ports) if isinstance(port, int)]
        if not numbers or self._random.random() < 0.3:
            return self._random.choice(others)
        return self._random.choice(numbers) + self._random.choice((0, 0, 1))


def _is_valid(resource: Resource) -> bool:
    try:
        validate(resource)
    except ValidationError:
        return False
    return True
