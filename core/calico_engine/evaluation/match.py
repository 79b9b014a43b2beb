"""Whether one rule matches one packet.

Every criterion that is set must match; a negated one must not. Selectors ask who owns an address: an endpoint or a
network set with matching labels. An address that nobody owns matches no selector, and so every negated one.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence

from calico_engine.evaluation.flow import Address, Packet
from calico_engine.evaluation.world import (
    NAMESPACE,
    SERVICE_ACCOUNT,
    Item,
    World,
    matches_namespace,
)
from calico_engine.model.canonical import ip_version, parse_port, protocol_number
from calico_engine.model.policy import EntityRule, ICMPFields, Port, Protocol, Rule
from calico_engine.selector import parse


def rule_matches(rule: Rule, packet: Packet, world: World, namespace: str) -> bool:
    """Return whether a rule matches. `namespace` is that of its policy, "" for a global one or a profile."""
    return (
        _family_matches(rule, packet)
        and _protocol_matches(rule, packet)
        and _entity_matches(rule.source, packet.src, packet.src_port, rule, packet, world, namespace)
        and _entity_matches(rule.destination, packet.dst, packet.dst_port, rule, packet, world, namespace)
    )


def _family_matches(rule: Rule, packet: Packet) -> bool:
    """A rule speaks about a family unless it names the other, or one of its CIDR lists has only the other's."""
    if rule.ip_version not in (None, packet.version):
        return False
    for nets in (rule.source.nets, rule.source.not_nets, rule.destination.nets, rule.destination.not_nets):
        if nets and not any(ip_version(net) == packet.version for net in nets):
            return False
    return True


def _protocol_matches(rule: Rule, packet: Packet) -> bool:
    if rule.protocol is not None and protocol_number(rule.protocol) != packet.protocol:
        return False
    if rule.not_protocol is not None and protocol_number(rule.not_protocol) == packet.protocol:
        return False
    if rule.icmp is not None and not _icmp_matches(rule.icmp, packet):
        return False
    return rule.not_icmp is None or not _icmp_matches(rule.not_icmp, packet)


def _icmp_matches(icmp: ICMPFields, packet: Packet) -> bool:
    return icmp.type in (None, packet.icmp_type) and icmp.code in (None, packet.icmp_code)


def _entity_matches(
    entity: EntityRule,
    address: Address,
    port: int,
    rule: Rule,
    packet: Packet,
    world: World,
    namespace: str,
) -> bool:
    if entity == _EMPTY:
        return True
    if entity.services is not None:
        return False  # No service's endpoints are known here, and what is unknown matches nobody.
    if entity.nets and not _in_any(address, entity.nets):
        return False
    if _in_any(address, entity.not_nets):
        return False
    owners = world.items_at(address)
    chosen = [item for item in owners if _is_chosen(entity, item, namespace)]
    if _selects(entity, namespace):
        if not chosen:
            return False
    elif entity.not_selector and any(parse(entity.not_selector).matches(item.labels) for item in owners):
        return False
    if entity.ports and not _port_matches(entity.ports, port, rule.protocol, packet, chosen):
        return False
    return not (entity.not_ports and _port_matches(entity.not_ports, port, rule.protocol, packet, chosen))


_EMPTY = EntityRule()


def _selects(entity: EntityRule, namespace: str) -> bool:
    """Return whether only owners of certain labels match; in a namespaced policy a negated selector is enough."""
    return bool(
        entity.selector
        or entity.namespace_selector
        or (entity.service_accounts and (entity.service_accounts.names or entity.service_accounts.selector))
        or (namespace and entity.not_selector)
    )


def _is_chosen(entity: EntityRule, item: Item, namespace: str) -> bool:
    """Return whether an owner has the labels that a side of a rule asks for, and not those it refuses."""
    labels = item.labels
    if entity.namespace_selector:
        if not matches_namespace(entity.namespace_selector, labels):
            return False
    elif namespace and _selects(entity, namespace) and labels.get(NAMESPACE) != namespace:
        return False
    if not parse(entity.selector).matches(labels):
        return False
    if entity.not_selector and parse(entity.not_selector).matches(labels):
        return False
    return _service_account_matches(entity, labels)


def _service_account_matches(entity: EntityRule, labels: Mapping[str, str]) -> bool:
    accounts = entity.service_accounts
    if accounts is None:
        return True
    if accounts.names and labels.get(SERVICE_ACCOUNT) not in accounts.names:
        return False
    return not accounts.selector or parse(accounts.selector).with_prefix("pcsa.").matches(labels)


def _in_any(address: Address, nets: Sequence[str]) -> bool:
    return any(address in ipaddress.ip_network(net) for net in nets if ip_version(net) == address.version)


def _port_matches(
    ports: Sequence[Port], port: int, protocol: Protocol | None, packet: Packet, owners: Sequence[Item]
) -> bool:
    """Return whether a port is one of the numbers, or one that an owner of the address has under one of the names."""
    if not packet.has_ports:
        return False
    for written in ports:
        parsed = parse_port(written)
        if isinstance(parsed, str):
            if any(_owner_has_port(owner, parsed, port, packet) for owner in owners):
                return True
        elif parsed.first <= port <= parsed.last:
            return True
    return False


def _owner_has_port(owner: Item, name: str, number: int, packet: Packet) -> bool:
    return any(
        port.name == name and port.port == number and protocol_number(port.protocol) == packet.protocol
        for port in owner.ports
    )
