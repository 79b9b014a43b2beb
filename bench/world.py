"""What the benchmarks program: nodes with so many endpoints and policies, as Batches of the calculation graph.

Two worlds. `policy_world` is for packets: a client and a server among other endpoints, all with the same list of
policies, of which only the last allows what the two say to each other, while the selectors of all policies together
have fifty thousand other members. `endpoint_world` is for loads and changes: many endpoints with a policy of their own
each, whose five rules look up sets that the endpoints share.
"""

from __future__ import annotations

from collections.abc import Iterator

from calico_engine.messages import ActivePolicyUpdate, ActiveRule, Batch, InterfaceUpdate, Message
from calico_engine.model.policy import Action
from calico_engine.testing.messages import (
    make_interface,
    make_policy_update,
    make_set,
    make_tier,
    make_workload_update,
    ports,
)

TCP, UDP = 6, 17
CLIENT, SERVER = "10.65.0.2", "10.65.0.3"
CLIENT_INTERFACE, SERVER_INTERFACE = "caliclient", "caliserver"
ALLOWED_PORT, DENIED_PORT = 5201, 5202
REMOTE_ADDRESSES = 50_000
#: endpoint_world: how many sets, of how many members; rules of the linear form that an endpoint brings about.
SHARED_SETS, SHARED_MEMBERS = 20, 100
RULES_PER_ENDPOINT = 30


def addresses(count: int, first: int = 10 << 24 | 100 << 16) -> list[str]:
    return [f"{n >> 24}.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}" for n in range(first, first + count)]


def batch(*messages: Message, revision: int = 1) -> Batch:
    return Batch(revision=revision, in_sync=True, messages=messages)


def interface(number: int) -> str:
    return f"cali{number:07x}"


# For packets


def policy_world(endpoints: int, policies: int) -> Batch:
    """Return a node whose client may reach its server at one port by TCP and UDP, by the last of the policies."""
    remote = addresses(REMOTE_ADDRESSES)
    share = REMOTE_ADDRESSES // policies
    messages: list[Message] = [
        make_set(f"s:peers-{number}", *remote[number * share : (number + 1) * share])
        for number in range(policies)
    ]
    messages.append(make_set("s:pair", CLIENT, SERVER))
    names = [f"policy-{number:04}" for number in range(policies)]
    for number, name in enumerate(names):
        is_last = number == policies - 1
        inbound = (*_rules(number, out=False), *(_pair_rules(out=False) if is_last else ()))
        outbound = (*_rules(number, out=True), *(_pair_rules(out=True) if is_last else ()))
        messages.append(make_policy_update(name, inbound=inbound, outbound=outbound, selector="all()"))
    tiers = (make_tier(*names),)
    ends = ((CLIENT_INTERFACE, CLIENT), (SERVER_INTERFACE, SERVER))
    others = zip(
        [interface(n) for n in range(endpoints - 2)], addresses(endpoints, 10 << 24 | 66 << 16), strict=False
    )
    for name, address in (*ends, *others):
        messages.append(
            make_workload_update(f"{name}-eth0", interface=name, networks=(f"{address}/32",), tiers=tiers)
        )
    return batch(*messages, *interfaces())


def interfaces() -> tuple[InterfaceUpdate, ...]:
    """Return the links that exist; of the other endpoints there are only the entries that dispatch to them."""
    return make_interface(CLIENT_INTERFACE), make_interface(SERVER_INTERFACE)


def _rules(number: int, *, out: bool) -> tuple[ActiveRule, ...]:
    peers = f"s:peers-{number}"
    return (
        _allow(TCP, peers, (80, 443, 8000 + number), out=out),
        _allow(UDP, peers, (53, 8000 + number), out=out),
    )


def _pair_rules(*, out: bool) -> tuple[ActiveRule, ...]:
    return tuple(_allow(protocol, "s:pair", (ALLOWED_PORT,), out=out) for protocol in (TCP, UDP))


def _allow(protocol: int, peers: str, numbers: tuple[int, ...], *, out: bool) -> ActiveRule:
    return ActiveRule(
        action=Action.ALLOW,
        protocol=protocol,
        dst_ports=ports(*numbers),
        dst_sets=(peers,) if out else (),
        src_sets=() if out else (peers,),
    )


# For loads and changes


def endpoints_for(rules: int) -> int:
    return max(1, rules // RULES_PER_ENDPOINT)


def endpoint_world(endpoints: int) -> Batch:
    """Return a node with so many endpoints, each with a policy of five rules of its own."""
    messages: list[Message] = [
        make_set(f"s:shared-{number}", *addresses(SHARED_MEMBERS, 10 << 24 | 100 << 16 | number << 8))
        for number in range(SHARED_SETS)
    ]
    messages += [own_policy(number) for number in range(endpoints)]
    own = addresses(endpoints, 10 << 24 | 65 << 16)
    for number in range(endpoints):
        messages.append(
            make_workload_update(
                f"endpoint-{number}",
                interface=interface(number),
                networks=(f"{own[number]}/32",),
                tiers=(make_tier(policy_name(number)),),
            )
        )
    return batch(*messages)


def policy_name(number: int) -> str:
    return f"policy-{number:05}"


def own_policy(number: int, version: int = 0) -> ActivePolicyUpdate:
    """Return an endpoint's policy; another `version` has other ports."""
    return make_policy_update(
        policy_name(number),
        inbound=tuple(_own_rules(number, version)),
        outbound=(ActiveRule(action=Action.ALLOW),),
    )


def _own_rules(number: int, version: int) -> Iterator[ActiveRule]:
    for rule in range(5):
        yield ActiveRule(
            action=Action.ALLOW,
            protocol=TCP,
            src_sets=(f"s:shared-{(number + rule) % SHARED_SETS}",),
            dst_ports=ports(1000 + 100 * version + 10 * rule + number % 7),
        )


def set_world(members: int) -> Batch:
    """Return a node with one endpoint, whose one policy lets in a set of so many addresses."""
    rule = ActiveRule(action=Action.ALLOW, protocol=TCP, src_sets=("s:members",), dst_ports=ports(80))
    return batch(
        make_set("s:members", *addresses(members, 10 << 24)),
        make_policy_update("policy", inbound=(rule,), outbound=(ActiveRule(action=Action.ALLOW),)),
        make_workload_update(
            "endpoint", interface=interface(0), networks=("10.65.0.1/32",), tiers=(make_tier("policy"),)
        ),
    )
