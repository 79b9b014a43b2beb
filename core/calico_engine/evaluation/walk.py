"""Follow a packet through every node it crosses, and say what policy makes of it.

Pure; from resources alone. On each node a packet meets, in this order:

    arriving by an interface      untracked ingress, pre-DNAT ingress of the interface's host endpoint
    then, to the node itself      normal ingress of the host endpoint; from a workload instead: the workload's egress,
                                  then the configured action for workloads that talk to their node
    or, forwarded                 apply-on-forward ingress, egress of a local source workload, ingress of a local
                                  destination workload, apply-on-forward egress of the interface it leaves by
    from the node itself          untracked egress, normal egress; to a local workload: nothing, a node may always;
                                  to itself: egress and then all of ingress of what guards lo, "*" among them

An Allow of untracked or pre-DNAT policy goes past normal and apply-on-forward ingress of that host endpoint.
Source: felix/rules/static.go, endpoints.go, dispatch.go; felix/dataplane/linux/endpoint_mgr.go.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence

from calico_engine.evaluation.flow import (
    ICMPV6,
    TCP,
    UDP,
    Address,
    Direction,
    Flow,
    Packet,
    Stage,
    Step,
    StepAction,
    Verdict,
    VerdictAction,
    make_flow,
    make_packet,
)
from calico_engine.evaluation.hosts import (
    Host,
    Outside,
    Party,
    Workload,
    default_host_endpoint,
    named_host_endpoint,
    resolve_parties,
)
from calico_engine.evaluation.match import rule_matches
from calico_engine.evaluation.world import Endpoint, Policy, TierView, World, policy_rules
from calico_engine.model.canonical import protocol_number
from calico_engine.model.endpoint import HostEndpoint
from calico_engine.model.policy import Action, GlobalNetworkPolicy, Profile
from calico_engine.model.resource import Resource
from calico_engine.settings import EndpointToHostAction, FelixSettings, HostPort

_LOOPBACK = "lo"

_IPIP = 4
#: Without these an IPv6 router cannot work, so a node takes them from its workloads whatever policy says.
_NEIGHBOUR_TYPES = (130, 131, 132, 133, 135, 136)
_STEP_ACTIONS = {
    Action.ALLOW: StepAction.ALLOW,
    Action.DENY: StepAction.DENY,
    Action.PASS: StepAction.PASS,
    Action.LOG: StepAction.LOG,
}


def evaluate(
    world: World | Iterable[Resource | Mapping[str, object] | str | bytes],
    flow: Flow | Mapping[str, object],
    *,
    settings: FelixSettings | None = None,
) -> Verdict:
    """Return whether the first packet of a flow arrives, and which policy and rule decided.

    Args: world: a World, or resources or manifests to make one of (then with `settings`); flow: a Flow or its fields.
    Raises: ValidationError for a manifest that does not load, ValueError for a flow that makes no sense.
    """
    if not isinstance(world, World):
        world = World(world, settings)
    flow = make_flow(flow)
    source, destination = resolve_parties(world, flow.src, flow.dst)
    packet = make_packet(flow, source.address, destination.address)
    return _Walk(world, flow, packet, source, destination).run()


class _Denied(Exception):  # noqa: N818  an outcome, not an error
    """The packet is dropped; the last step says why."""


class _Walk:
    """One packet on its way; `steps` grows as decisions are made."""

    def __init__(self, world: World, flow: Flow, packet: Packet, source: Party, destination: Party) -> None:
        self.world = world
        self.flow = flow
        self.packet = packet
        self.source = source
        self.destination = destination
        self.steps: list[Step] = []

    def run(self) -> Verdict:
        try:
            self._follow()
        except _Denied:
            return self._verdict(VerdictAction.DENY, self.steps[-1])
        deciding = [step for step in self.steps if step.action is StepAction.ALLOW]
        return self._verdict(VerdictAction.ALLOW, deciding[-1] if deciding else None)

    def _verdict(self, action: VerdictAction, step: Step | None) -> Verdict:
        if step is None:
            return Verdict(
                action=action, reason="no endpoint with policy is on the way", steps=tuple(self.steps)
            )
        return Verdict(
            action=action,
            reason=str(step),
            policy=step.policy,
            rule_index=step.rule_index,
            direction=step.direction,
            steps=tuple(self.steps),
        )

    # The way

    def _follow(self) -> None:
        source, destination = self.source, self.destination
        if isinstance(source, Workload):
            self._leave_workload(source)
        elif isinstance(source, Host):
            self._leave_host(source)
        elif isinstance(destination, Outside) and self.flow.node:
            self._pass_through(self.flow.node)
        if not isinstance(destination, Outside) and destination.node != source.node:
            self._arrive(destination)

    def _leave_workload(self, source: Workload) -> None:
        """On the source's node; to a neighbour on the same node that is all of the way."""
        destination = self.destination
        if isinstance(destination, Workload) and destination.endpoint.key == source.endpoint.key:
            return  # It talks to itself: the packet never leaves it.
        entry = default_host_endpoint(self.world, source.node)
        accepted = self._pre_dnat(entry)
        if isinstance(destination, Host) and destination.node == source.node:
            self._workload_to_host(source)
            return
        if not accepted:
            self._forward(entry, Direction.INGRESS)
        self._workload_policy(source, Direction.EGRESS)
        if isinstance(destination, Workload) and destination.node == source.node:
            self._workload_policy(destination, Direction.INGRESS)
            self._forward(default_host_endpoint(self.world, source.node), Direction.EGRESS)
        else:
            self._forward(self._guard(source.node, self.flow.out_interface, None), Direction.EGRESS)

    def _leave_host(self, source: Host) -> None:
        if isinstance(self.destination, Host) and self.destination.node == source.node:
            self._to_itself(source)
            return
        if self.destination.node == source.node:
            text = "a node may talk to its own workloads"
            self._note(None, source.node, Direction.EGRESS, Stage.NORMAL, StepAction.ALLOW, text)
            return
        named = named_host_endpoint(self.world, source.node, self.flow.out_interface, source.address)
        if named is not None and self._untracked(named, Direction.EGRESS):
            return
        guard = named or default_host_endpoint(self.world, source.node)
        if guard is not None:
            self._host_policy(guard, Direction.EGRESS)

    def _to_itself(self, source: Host) -> None:
        """Through lo, which the host endpoint for all interfaces guards too, both ways."""
        own = ipaddress.ip_address("127.0.0.1" if source.address.version == 4 else "::1")
        named = named_host_endpoint(self.world, source.node, _LOOPBACK, own)
        guard = named or default_host_endpoint(self.world, source.node)
        if guard is None:
            text = "a node may talk to itself"
            self._note(None, source.node, Direction.EGRESS, Stage.NORMAL, StepAction.ALLOW, text)
            return
        if named is None or not self._untracked(named, Direction.EGRESS):
            self._host_policy(guard, Direction.EGRESS)
        if not self._enter(source.node, own, _LOOPBACK):
            self._host_policy(guard, Direction.INGRESS)

    def _arrive(self, destination: Party) -> None:
        """On the destination's node, coming from another one or from outside."""
        node = destination.node
        own = destination.address if isinstance(destination, Host) else None
        accepted = self._enter(node, own, self.flow.in_interface)
        guard = self._guard(node, self.flow.in_interface, own)
        if isinstance(destination, Host):
            if guard is not None and not accepted:
                self._host_policy(guard, Direction.INGRESS)
        elif isinstance(destination, Workload):
            if not accepted:
                self._forward(guard, Direction.INGRESS)
            self._workload_policy(destination, Direction.INGRESS)
            self._forward(default_host_endpoint(self.world, node), Direction.EGRESS)

    def _pass_through(self, node: str) -> None:
        if not self._enter(node, None, self.flow.in_interface):
            self._forward(self._guard(node, self.flow.in_interface, None), Direction.INGRESS)
        self._forward(self._guard(node, self.flow.out_interface, None), Direction.EGRESS)

    def _enter(self, node: str, own: Address | None, interface: str) -> bool:
        """What comes before routing. Return whether untracked or pre-DNAT policy let the packet in."""
        named = named_host_endpoint(self.world, node, interface, own)
        if named is not None and self._untracked(named, Direction.INGRESS):
            return True
        guard = named
        if named is None or not self._has_policies(named, Direction.INGRESS, Stage.PRE_DNAT):
            guard = default_host_endpoint(self.world, node)
        return self._pre_dnat(guard)

    def _guard(self, node: str, interface: str, own: Address | None) -> HostEndpoint | None:
        """Return the host endpoint of an interface, its own or the one for all others."""
        return named_host_endpoint(self.world, node, interface, own) or default_host_endpoint(
            self.world, node
        )

    # Endpoints

    def _untracked(self, endpoint: HostEndpoint, direction: Direction) -> bool:
        if not self._has_policies(endpoint, direction, Stage.UNTRACKED):
            return False
        settings = self.world.settings
        inbound, outbound = settings.failsafe_inbound_host_ports, settings.failsafe_outbound_host_ports
        if direction is Direction.EGRESS:
            inbound, outbound = outbound, inbound
        # Answers to what failsafes let through must not be taken for flows of their own before tracking knows them.
        failsafe = self._is_failsafe(inbound, direction) or self._is_failsafe_answer(outbound, direction)
        return not failsafe and self._tiers(endpoint, direction, Stage.UNTRACKED) is StepAction.ALLOW

    def _pre_dnat(self, endpoint: HostEndpoint | None) -> bool:
        if endpoint is None or not self._has_policies(endpoint, Direction.INGRESS, Stage.PRE_DNAT):
            return False
        if self._is_failsafe(self.world.settings.failsafe_inbound_host_ports, Direction.INGRESS):
            return False
        return self._tiers(endpoint, Direction.INGRESS, Stage.PRE_DNAT) is StepAction.ALLOW

    def _forward(self, endpoint: HostEndpoint | None, direction: Direction) -> None:
        """Apply-on-forward policy. Where there is none, forwarded packets go through."""
        if endpoint is not None:
            self._tiers(endpoint, direction, Stage.FORWARD)

    def _host_policy(self, endpoint: HostEndpoint, direction: Direction) -> None:
        """Normal policy of a host endpoint: failsafes, tiers, profiles."""
        settings = self.world.settings
        inbound, outbound = settings.failsafe_inbound_host_ports, settings.failsafe_outbound_host_ports
        if self._is_failsafe(inbound if direction is Direction.INGRESS else outbound, direction):
            text = "a failsafe port is always open"
            self._note(endpoint, endpoint.spec.node, direction, Stage.NORMAL, StepAction.ALLOW, text)
            return
        self._normal(endpoint, direction)

    def _workload_policy(self, party: Workload, direction: Direction) -> None:
        if direction is Direction.EGRESS:
            self._refuse_encapsulated(party)
        self._normal(party.endpoint, direction)

    def _refuse_encapsulated(self, party: Workload) -> None:
        """A workload that encapsulates by itself would get round its own egress policy."""
        settings, packet = self.world.settings, self.packet
        vxlan = packet.protocol == UDP and packet.dst_port == settings.vxlan_port
        if vxlan and not settings.allow_vxlan_packets_from_workloads:
            self._deny(party.endpoint, Direction.EGRESS, "workloads may not send VXLAN")
        if packet.protocol == _IPIP and not settings.allow_ipip_packets_from_workloads:
            self._deny(party.endpoint, Direction.EGRESS, "workloads may not send IPIP")

    def _workload_to_host(self, source: Workload) -> None:
        """A workload talks to its own node: its egress policy, then the configured action."""
        packet, endpoint = self.packet, source.endpoint
        special = packet.protocol == ICMPV6 and packet.icmp_type in _NEIGHBOUR_TYPES
        if special or self._is_openstack_service():
            text = "a node always serves neighbour discovery, and OpenStack's services where they are on"
            self._note(endpoint, source.node, Direction.EGRESS, Stage.TO_HOST, StepAction.ALLOW, text)
            return
        self._workload_policy(source, Direction.EGRESS)
        action = self.world.settings.default_endpoint_to_host_action
        text = f"DefaultEndpointToHostAction is {action}"
        outcome = StepAction.DENY if action is EndpointToHostAction.DROP else StepAction.ALLOW
        self._note(endpoint, source.node, Direction.EGRESS, Stage.TO_HOST, outcome, text)
        if outcome is StepAction.DENY:
            raise _Denied

    def _is_openstack_service(self) -> bool:
        settings, packet = self.world.settings, self.packet
        if not settings.openstack_metadata:
            return False
        dhcp = (68, 67) if packet.version == 4 else (546, 547)
        if packet.protocol == UDP:
            return packet.dst_port == 53 or (packet.src_port, packet.dst_port) == dhcp
        return (
            packet.protocol == TCP
            and str(packet.dst) == settings.metadata_addr
            and packet.dst_port == settings.metadata_port
        )

    def _is_failsafe(self, ports: Sequence[HostPort], direction: Direction) -> bool:
        return self._matches_failsafe(ports, self.packet.dst_port, direction)

    def _is_failsafe_answer(self, ports: Sequence[HostPort], direction: Direction) -> bool:
        return self._matches_failsafe(ports, self.packet.src_port, direction)

    def _matches_failsafe(self, ports: Sequence[HostPort], number: int, direction: Direction) -> bool:
        peer = self.packet.src if direction is Direction.INGRESS else self.packet.dst
        return any(
            protocol_number(port.protocol) == self.packet.protocol
            and port.port == number
            and (not port.net or peer in ipaddress.ip_network(port.net, strict=False))
            for port in ports
        )

    # Tiers, policies, rules

    def _normal(self, endpoint: Endpoint, direction: Direction) -> None:
        """Tiers, then profiles; what nobody allows is denied."""
        if self._tiers(endpoint, direction, Stage.NORMAL) is StepAction.ALLOW:
            return
        for name in endpoint.spec.profiles:
            profile = self.world.profiles.get(name)
            if profile is None:
                continue  # A profile that does not exist allows nothing.
            action = self._rules(profile, endpoint, direction, Stage.NORMAL, "")
            if action is StepAction.ALLOW:
                return
        missing = [f"Profile({name})" for name in endpoint.spec.profiles if name not in self.world.profiles]
        told = f"; {' and '.join(missing)} not found" if missing else ""
        self._deny(endpoint, direction, f"no policy and no profile allows it{told}")

    def _has_policies(self, endpoint: Endpoint, direction: Direction, stage: Stage) -> bool:
        return bool(self._tiers_of(endpoint, direction, stage))

    def _tiers_of(self, endpoint: Endpoint, direction: Direction, stage: Stage) -> list[TierView]:
        views = []
        for view in self.world.tiers_for(endpoint, direction):
            policies = tuple([policy for policy in view.policies if _belongs(policy, stage)])
            if policies:
                views.append(TierView(view.name, view.default_action, policies))
        return views

    def _tiers(self, endpoint: Endpoint, direction: Direction, stage: Stage) -> StepAction:
        """Return ALLOW when a policy allowed, CONTINUE when none decided. Raises: _Denied."""
        for tier in self._tiers_of(endpoint, direction, stage):
            action = StepAction.CONTINUE
            for policy in tier.policies:
                action = self._rules(policy, endpoint, direction, stage, tier.name)
                if action is StepAction.ALLOW:
                    return action
                if action is StepAction.PASS:
                    break
            drops = stage in (Stage.NORMAL, Stage.FORWARD) and tier.default_action is not Action.PASS
            if action is StepAction.CONTINUE and drops:
                self._deny(endpoint, direction, f"end of tier {tier.name}: no policy decided", stage)
        return StepAction.CONTINUE

    def _rules(
        self, owner: Policy | Profile, endpoint: Endpoint, direction: Direction, stage: Stage, tier: str
    ) -> StepAction:
        """Try the rules of a policy or profile in order. Raises: _Denied."""
        for index, rule in enumerate(policy_rules(owner, direction)):
            if not rule_matches(rule, self.packet, self.world, owner.metadata.namespace):
                continue
            action = _STEP_ACTIONS[rule.action]
            self.steps.append(
                Step(
                    endpoint=endpoint.key,
                    node=endpoint.spec.node,
                    direction=direction,
                    stage=stage,
                    action=action,
                    tier=tier,
                    policy=owner.key,
                    rule_index=index,
                )
            )
            if action is StepAction.DENY:
                raise _Denied
            if action is not StepAction.LOG:
                return action
        return StepAction.CONTINUE

    def _deny(self, endpoint: Endpoint, direction: Direction, text: str, stage: Stage = Stage.NORMAL) -> None:
        self._note(endpoint, endpoint.spec.node, direction, stage, StepAction.DENY, text)
        raise _Denied

    def _note(
        self,
        endpoint: Endpoint | None,
        node: str,
        direction: Direction,
        stage: Stage,
        action: StepAction,
        text: str,
    ) -> None:
        key = endpoint.key if endpoint is not None else None
        self.steps.append(
            Step(endpoint=key, node=node, direction=direction, stage=stage, action=action, text=text)
        )


def _belongs(policy: Policy, stage: Stage) -> bool:
    """Return whether a policy is enforced at a stage; untracked and pre-DNAT ones nowhere else."""
    if not isinstance(policy, GlobalNetworkPolicy):
        return stage is Stage.NORMAL
    spec = policy.spec
    if spec.do_not_track:
        return stage is Stage.UNTRACKED
    if spec.pre_dnat:
        return stage is Stage.PRE_DNAT
    return stage is Stage.NORMAL or (stage is Stage.FORWARD and spec.apply_on_forward)
