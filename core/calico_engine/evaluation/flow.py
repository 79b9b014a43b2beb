"""What is asked and what is answered: a flow's first packet, and the verdict with all steps that led to it."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from enum import StrEnum

import msgspec

from calico_engine.model.canonical import canonical_protocol, protocol_number
from calico_engine.model.policy import Protocol
from calico_engine.model.resource import ResourceKey

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

ICMP, TCP, UDP, ICMPV6, SCTP = 1, 6, 17, 58, 132
PORT_PROTOCOLS = frozenset((TCP, UDP, SCTP))
#: What `ping` sends.
_ECHO_REQUEST = {ICMP: 8, ICMPV6: 128}


class Flow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The first packet of a flow. What follows in either direction is let through with it.

    src, dst       an IP address, or the name of an endpoint or node: "namespace/name" or "name"
    protocol       TCP, UDP, SCTP, ICMP, ICMPv6, UDPLite or a number
    src_port       an ephemeral port unless said otherwise
    icmp_type      an echo request unless said otherwise
    node           the node that forwards, for a flow between two addresses outside
    out_interface  by which the packet leaves the source's node (or the forwarding one)
    in_interface   by which it enters the destination's node (or the forwarding one)

    An interface that is not named is the one whose host endpoint expects the node's address, or has the only named
    host endpoint of the node; else one that only a host endpoint for all interfaces covers.
    """

    src: str
    dst: str
    protocol: Protocol = "TCP"
    src_port: int = 49152
    dst_port: int = 0
    icmp_type: int | None = None
    icmp_code: int | None = None
    node: str = ""
    out_interface: str = ""
    in_interface: str = ""


def make_flow(flow: Flow | Mapping[str, object]) -> Flow:
    """Return a flow from its fields. Raises: ValueError naming the field."""
    if not isinstance(flow, Flow):
        try:
            flow = msgspec.convert(dict(flow), Flow)
        except msgspec.ValidationError as error:
            raise ValueError(f"flow: {error}") from None
    canonical_protocol(flow.protocol)
    for field in ("src_port", "dst_port"):
        if not 0 <= getattr(flow, field) <= 65535:
            raise ValueError(f"flow: {field} must be 0-65535")
    return flow


class Packet(msgspec.Struct, frozen=True):
    """A flow with its ends resolved."""

    src: Address
    dst: Address
    protocol: int
    src_port: int
    dst_port: int
    icmp_type: int | None
    icmp_code: int | None

    @property
    def version(self) -> int:
        return self.src.version

    @property
    def has_ports(self) -> bool:
        return self.protocol in PORT_PROTOCOLS


def make_packet(flow: Flow, src: Address, dst: Address) -> Packet:
    protocol = protocol_number(flow.protocol)
    icmp_type = _ECHO_REQUEST.get(protocol) if flow.icmp_type is None else flow.icmp_type
    icmp_code = 0 if flow.icmp_code is None and icmp_type is not None else flow.icmp_code
    return Packet(src, dst, protocol, flow.src_port, flow.dst_port, icmp_type, icmp_code)


class VerdictAction(StrEnum):
    ALLOW = "allow"
    DENY = "deny"


class Direction(StrEnum):
    """As seen from the endpoint: egress leaves it, ingress comes to it."""

    INGRESS = "ingress"
    EGRESS = "egress"


class Stage(StrEnum):
    """Where along the way through a node something was decided."""

    UNTRACKED = "untracked"
    PRE_DNAT = "pre-dnat"
    FORWARD = "forward"
    NORMAL = "normal"
    TO_HOST = "to-host"


class StepAction(StrEnum):
    ALLOW = "allow"
    DENY = "deny"
    PASS = "pass"
    LOG = "log"
    CONTINUE = "continue"  # nothing here decided; what comes next does


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One decision. `policy` is the key of a policy or profile; None where a default decided, which `text` names."""

    endpoint: ResourceKey | None
    node: str
    direction: Direction
    stage: Stage
    action: StepAction
    tier: str = ""
    policy: ResourceKey | None = None
    rule_index: int | None = None
    text: str = ""

    def __str__(self) -> str:
        where = f"{self.endpoint or self.node} {self.direction} ({self.stage})"
        if self.policy is None:
            return f"{where}: {self.action}: {self.text}"
        tier = f"tier {self.tier} " if self.tier else ""
        return f"{where}: {self.action} by {tier}{self.policy} {self.direction} rule {self.rule_index}"


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the packet arrives, and what decided: for a denial the step that denied, else the last that allowed.

    `policy` is None and `rule_index` is None where a default decided; `reason` says in words what did.
    """

    action: VerdictAction
    reason: str
    policy: ResourceKey | None = None
    rule_index: int | None = None
    direction: Direction | None = None
    steps: tuple[Step, ...] = ()

    @property
    def allowed(self) -> bool:
        return self.action is VerdictAction.ALLOW
