"""Follow a flow from node to node through rulesets compiled the way the engine does it, and shrink what disagrees.

It works on the topology of `calico_engine.testing.worlds`: who has which address is fixed there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import msgspec
from msgspec.structs import replace

from calico_engine.calc.graph import CalcGraph
from calico_engine.evaluation import Flow, World, evaluate
from calico_engine.model import dump
from calico_engine.model.canonical import protocol_number
from calico_engine.model.endpoint import WorkloadEndpoint
from calico_engine.model.node import Node
from calico_engine.model.policy import GlobalNetworkPolicy, NetworkPolicy, Profile
from calico_engine.model.resource import Resource
from calico_engine.plugin.protocols import SyncStatus, Update
from calico_engine.ruleset.interpret import Interpreter, Outcome, Packet, Path
from calico_engine.ruleset.ir import Family
from calico_engine.ruleset.lower import lower
from calico_engine.ruleset.state import DesiredState, PolicyForm
from calico_engine.ruleset.verify import verify
from calico_engine.ruleset.world import compile_world
from calico_engine.settings import FelixSettings
from calico_engine.testing.messages import make_batch, make_interface
from calico_engine.testing.worlds import NODES, UPLINK, WORKLOADS


class Hop(msgspec.Struct, frozen=True):
    """A node that a flow crosses; interfaces are "" where the packet is the node's own."""

    node: str
    path: Path
    in_interface: str
    out_interface: str


class Cluster:
    """Every node's ruleset. Raises: AssertionError when a resource is rejected or a ruleset is not well formed."""

    def __init__(
        self, resources: Sequence[Resource], settings: FelixSettings, form: PolicyForm | None = None
    ) -> None:
        """Compile all. `form` is how the native layout tells policies, the layout where one is given."""
        self._interpreters: dict[tuple[str, Family], Interpreter] = {}
        for node, addresses in NODES.items():
            graph = CalcGraph(node)
            graph.on_updates([Update(resource.key, resource) for resource in resources])
            graph.on_status(SyncStatus.IN_SYNC)
            batch = graph.flush()
            assert batch is not None
            assert graph.rejected == []
            state = DesiredState(settings, form)
            settings = state.settings
            state.apply(batch)
            state.apply(make_batch(make_interface(UPLINK, *addresses)))
            for family in Family:
                ruleset = lower(compile_world(state, settings, family), settings)
                assert verify(ruleset) == ()
                self._interpreters[node, family] = Interpreter(ruleset)

    def judge(self, flow: Flow, hop: Hop) -> Outcome:
        """Send a flow's first packet through one node."""
        family = Family.V6 if ":" in flow.src else Family.V4
        packet = Packet(
            src=flow.src,
            dst=flow.dst,
            protocol=protocol_number(flow.protocol),
            src_port=flow.src_port,
            dst_port=flow.dst_port,
            icmp_type=flow.icmp_type or 0,
            icmp_code=flow.icmp_code or 0,
            in_interface=hop.in_interface,
            out_interface=hop.out_interface,
            src_local=hop.path is Path.FROM_HOST,
            dst_local=hop.path is Path.TO_HOST,
        )
        return self._interpreters[hop.node, family].run(packet, hop.path)

    def follow(self, flow: Flow) -> list[tuple[Hop, Outcome]]:
        """Send a flow's first packet through every node on its way, until one drops it."""
        passed: list[tuple[Hop, Outcome]] = []
        for hop in hops(flow):
            passed.append((hop, self.judge(flow, hop)))
            if not passed[-1][1].allowed:
                break
        return passed


def hops(flow: Flow) -> Iterator[Hop]:
    """Yield the nodes on the way. What goes from outside to outside passes through flow.node."""
    (src_node, src_interface), (dst_node, dst_interface) = _locate(flow.src), _locate(flow.dst)
    if src_node:
        out = dst_interface if src_node == dst_node else UPLINK
        if not src_interface:
            yield Hop(src_node, Path.FROM_HOST, "", out)
        elif src_node == dst_node and not dst_interface:
            yield Hop(src_node, Path.TO_HOST, src_interface, "")
        else:
            yield Hop(src_node, Path.FORWARD, src_interface, out)
    elif not dst_node:
        yield Hop(flow.node, Path.FORWARD, UPLINK, UPLINK)
    if dst_node and dst_node != src_node:
        if dst_interface:
            yield Hop(dst_node, Path.FORWARD, UPLINK, dst_interface)
        else:
            yield Hop(dst_node, Path.TO_HOST, UPLINK, "")


def _locate(address: str) -> tuple[str, str]:
    """Return the node and the interface of an address; "" for outside and for a node's own."""
    for node, interface, *addresses in WORKLOADS.values():
        if address in addresses:
            return node, interface
    return next((node for node, addresses in NODES.items() if address in addresses), ""), ""


def reduce_world(resources: list[Resource], differs: Callable[[Sequence[Resource]], bool]) -> list[Resource]:
    """Take away resources and rules, one at a time, for as long as what is left still differs."""
    shrinking = True
    while shrinking:
        shrinking = False
        for smaller in reductions(resources):
            if differs(smaller):
                resources, shrinking = smaller, True
                break
    return resources


def reductions(resources: Sequence[Resource]) -> Iterator[list[Resource]]:
    """Yield worlds that lack one resource or one rule of this one; who has which address stays."""
    for position, resource in enumerate(resources):
        before, after = resources[:position], resources[position + 1 :]
        if not isinstance(resource, WorkloadEndpoint | Node):
            yield [*before, *after]
        if isinstance(resource, NetworkPolicy | GlobalNetworkPolicy | Profile):
            for direction in ("ingress", "egress"):
                rules = getattr(resource.spec, direction)
                for index in range(len(rules)):
                    fewer = {direction: rules[:index] + rules[index + 1 :]}
                    smaller: Resource = replace(resource, spec=replace(resource.spec, **fewer))
                    yield [*before, smaller, *after]


def explain(
    resources: Sequence[Resource], settings: FelixSettings, flow: Flow, form: PolicyForm | None = None
) -> str:
    """Return what the oracle and the interpreter say of a flow, with all steps, and the world as YAML."""
    verdict = evaluate(World(resources, settings), flow)
    lines = [f"{flow}", f"oracle: {verdict.action}: {verdict.reason}"]
    lines += [f"    {step}" for step in verdict.steps]
    for hop, outcome in Cluster(resources, settings, form).follow(flow):
        lines.append(f"interpreter, {hop.node} {hop.path}: {outcome.verdict}, decided by {outcome.decided}")
        lines += [f"    {step.layer} {step.chain} {step.index} {step.rule.op}" for step in outcome.trace]
    return "\n".join([*lines, f"{settings}", *(dump(resource) for resource in resources)])
