"""Turn rules as users write them into rules over set ids, and say which sets those are.

    named port        a set of (address, protocol, port) of endpoints that have a port of that name
    selector          a set of addresses of matching endpoints and network sets
    service           a set of (address, protocol, port) at a destination, of addresses at a source

Pure and stateless but for caches. Which sets are in use by anybody is counted by `ActiveSets`.
Source: felix/calc/rule_scanner.go for which criteria share a set and how sets are named.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from functools import lru_cache

import msgspec

from calico_engine.calc.rule_selectors import entity_selectors
from calico_engine.messages import ActiveRule, SetKind
from calico_engine.model.canonical import mask_network, parse_port, protocol_number
from calico_engine.model.policy import EntityRule, Port, PortRange, Protocol, Rule, ServiceMatch
from calico_engine.selector import ALL, Selector

ANY_PROTOCOL = "any"
_PORT_PROTOCOLS = {17: "udp", 132: "sctp"}
_ICMP_FAMILIES = {1: 4, 58: 6}


class SetSpec(msgspec.Struct, frozen=True, gc=False):
    """What a set id stands for.

    A `port_name` makes it a set of named ports, of `port_protocol` ("any" for all). A `service` is "namespace/name".
    """

    set_id: str
    kind: SetKind
    selector: Selector
    port_protocol: str = ""
    port_name: str = ""
    service: str = ""


class ScannedRules(msgspec.Struct, frozen=True, gc=False):
    """A policy's or profile's rules over set ids; rule i comes from rule i of the resource."""

    inbound: tuple[ActiveRule, ...]
    outbound: tuple[ActiveRule, ...]
    sets: dict[str, SetSpec]


def scan_rules(ingress: Sequence[Rule], egress: Sequence[Rule], namespace: str) -> ScannedRules:
    """Return rules over set ids and the sets they need.

    Raises: ValueError when a selector, network, port or protocol cannot be read.
    """
    sets: dict[str, SetSpec] = {}
    inbound = tuple([_scan_cached(rule, namespace, sets) for rule in ingress])
    outbound = tuple([_scan_cached(rule, namespace, sets) for rule in egress])
    return ScannedRules(inbound, outbound, sets)


def _scan_cached(rule: Rule, namespace: str, sets: dict[str, SetSpec]) -> ActiveRule:
    if rule.metadata is not None or rule.http is not None:
        # Neither is enforced here, and annotations cannot be hashed.
        rule = msgspec.structs.replace(rule, metadata=None, http=None)
    active, specs = _scan(rule, namespace)
    for spec in specs:
        sets[spec.set_id] = spec
    return active


# Large clusters repeat rules: one policy per namespace or application, of the same mould.
@lru_cache(maxsize=4096)
def _scan(rule: Rule, namespace: str) -> tuple[ActiveRule, tuple[SetSpec, ...]]:
    specs: list[SetSpec] = []
    protocol = None if rule.protocol is None else protocol_number(rule.protocol)
    criteria: dict[str, object] = {"action": rule.action}
    if rule.ip_version is not None:
        criteria["ip_version"] = rule.ip_version
    elif protocol in _ICMP_FAMILIES:
        criteria["ip_version"] = _ICMP_FAMILIES[protocol]
    if protocol is not None:
        criteria["protocol"] = protocol
    if rule.not_protocol is not None:
        criteria["not_protocol"] = protocol_number(rule.not_protocol)
    if rule.icmp is not None:
        criteria.update(icmp_type=rule.icmp.type, icmp_code=rule.icmp.code)
    if rule.not_icmp is not None:
        criteria.update(not_icmp_type=rule.not_icmp.type, not_icmp_code=rule.not_icmp.code)
    port_protocol = _port_protocol(rule.protocol)
    for side, entity in (("src", rule.source), ("dst", rule.destination)):
        if entity != _NO_CRITERIA:
            _scan_entity(side, entity, namespace, port_protocol, criteria, specs)
    return msgspec.convert(criteria, ActiveRule, strict=True), tuple(specs)


_NO_CRITERIA = EntityRule()


def _scan_entity(
    side: str,
    entity: EntityRule,
    namespace: str,
    port_protocol: str,
    criteria: dict[str, object],
    specs: list[SetSpec],
) -> None:
    """Add the criteria of one side, and the sets they need."""
    chosen, refused = entity_selectors(entity, namespace)
    numeric, named = _split_ports(entity.ports)
    not_numeric, not_named = _split_ports(entity.not_ports)
    within = ALL if chosen is None else chosen
    # A negated named port is narrowed by the positive selector as well: the rule needs both.
    named_specs = [_named_port_spec(within, port_protocol, name) for name in named]
    not_named_specs = [_named_port_spec(within, port_protocol, name) for name in not_named]
    selector_specs: list[SetSpec] = []
    # Named ports alone already are narrowed by the selector; numbers are not.
    if chosen is not None and (numeric or not named):
        selector_specs.append(_selector_spec(chosen))
    service_specs: list[SetSpec] = []
    if entity.services is not None and entity.services.name:
        service = _service_spec(entity.services, with_ports=side == "dst")
        (service_specs if side == "dst" else selector_specs).append(service)
    refused_specs = [] if refused is None else [_selector_spec(refused)]
    found: dict[str, Sequence[object]] = {
        f"{side}_nets": [mask_network(net) for net in entity.nets],
        f"{side}_ports": numeric,
        f"{side}_named_port_sets": _ids(named_specs),
        f"{side}_sets": _ids(selector_specs),
        f"not_{side}_nets": [mask_network(net) for net in entity.not_nets],
        f"not_{side}_ports": not_numeric,
        f"not_{side}_named_port_sets": _ids(not_named_specs),
        f"not_{side}_sets": _ids(refused_specs),
    }
    if service_specs:
        found["dst_ip_port_sets"] = _ids(service_specs)
    criteria.update({name: tuple(values) for name, values in found.items() if values})
    specs += [*named_specs, *not_named_specs, *selector_specs, *service_specs, *refused_specs]


def _ids(specs: Iterable[SetSpec]) -> list[str]:
    return [spec.set_id for spec in specs]


def _split_ports(ports: Sequence[Port]) -> tuple[list[PortRange], list[str]]:
    numeric: list[PortRange] = []
    named: list[str] = []
    for port in ports:
        parsed = parse_port(port)
        if isinstance(parsed, PortRange):
            numeric.append(parsed)
        else:
            named.append(parsed)
    return numeric, named


def _port_protocol(protocol: Protocol | None) -> str:
    return ANY_PROTOCOL if protocol is None else _PORT_PROTOCOLS.get(protocol_number(protocol), "tcp")


def _selector_spec(selector: Selector) -> SetSpec:
    return SetSpec(selector.uid, SetKind.NET, selector)


def _named_port_spec(selector: Selector, protocol: str, name: str) -> SetSpec:
    set_id = _unique_id("n", f"{selector.uid},{protocol},{name}")
    return SetSpec(set_id, SetKind.IP_PORT, selector, protocol, name)


def _service_spec(service: ServiceMatch, *, with_ports: bool) -> SetSpec:
    name = f"{service.namespace}/{service.name}"
    if with_ports:
        return SetSpec(_unique_id("svc", name), SetKind.IP_PORT, ALL, service=name)
    return SetSpec(_unique_id("svcnoport", name), SetKind.NET, ALL, service=name)


def _unique_id(prefix: str, content: str) -> str:
    """Return the reference's unique id. Source: libcalico-go/lib/hash/unique_id.go."""
    digest = hashlib.sha224(f"{prefix}:{content}".encode()).digest()
    return f"{prefix}:" + base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


class ActiveSets:
    """Counts who uses which set."""

    def __init__(self) -> None:
        self.specs: dict[str, SetSpec] = {}
        self._users: dict[str, int] = {}
        self._sets_of: dict[object, tuple[str, ...]] = {}
        self._before: dict[str, SetSpec | None] = {}

    def use(self, user: object, sets: dict[str, SetSpec]) -> None:
        """Say which sets a policy or profile uses now; none when it is no longer active."""
        old = self._sets_of.pop(user, ())
        if sets:
            self._sets_of[user] = tuple(sets)
        for set_id, spec in sets.items():
            count = self._users.get(set_id, 0)
            if count == 0:
                self._before.setdefault(set_id, None)
                self.specs[set_id] = spec
            self._users[set_id] = count + 1
        for set_id in old:
            if self._users[set_id] > 1:
                self._users[set_id] -= 1
            else:
                del self._users[set_id]
                self._before.setdefault(set_id, self.specs.pop(set_id))

    def take_changes(self) -> tuple[list[SetSpec], list[SetSpec]]:
        """Return the sets that came into use and those that went out of it since the last call."""
        added: list[SetSpec] = []
        removed: list[SetSpec] = []
        for set_id, before in self._before.items():
            now = self.specs.get(set_id)
            if before is None and now is not None:
                added.append(now)
            elif before is not None and now is None:
                removed.append(before)
        self._before.clear()
        return added, removed
