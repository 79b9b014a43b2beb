"""Differential test: the oracle, the interpreter and the kernel say the same of every packet.

Worlds and flows are drawn from seeds. Each world is programmed by the plugins as the engine does it, over what the
world before left behind; now and then by plugins that start without memory. Each flow's first packet is sent through
the kernel of node n1; what becomes of it at n2, the interpreter says.

The long form: CE_KERNEL_WORLDS=2000, from another first seed with CE_FIRST_SEED. One seed again: CE_FIRST_SEED=N
CE_KERNEL_WORLDS=1.
"""

import os
from collections.abc import Sequence
from typing import Any

import pytest
from tests.kernel.differential.conftest import SUBJECTS

from calico_engine.evaluation import Flow, World, evaluate
from calico_engine.model.resource import Resource
from calico_engine.settings import Layout
from calico_engine.testing.cluster import Cluster, explain, hops, reductions
from calico_engine.testing.worlds import GeneratedWorld

pytestmark = pytest.mark.kernel(
    tools=("iptables-legacy", "iptables-nft", "ipset", "nft", "conntrack"),
    features=("veth", "ipset", "iptables-legacy", "iptables-nft"),
)

#: Worlds a case; forty packets each.
WORLDS = int(os.environ.get("CE_KERNEL_WORLDS", "40"))
FIRST_SEED = int(os.environ.get("CE_FIRST_SEED", "0"))
FLOWS = 40
NODE = "n1"
#: How many worlds the plugins live before they are made anew.
LIVES = 7

#: Host endpoints or not, layout of the static chains, what programs. nftables has a layout of its own.
CASES = {
    f"{kind}-{layout if 'nftables' not in subject else 'native'}-{subject}": (
        kind == "hosts",
        layout,
        subject,
    )
    for kind, layout in (("workloads", Layout.V2), ("workloads", Layout.V3), ("hosts", Layout.V3))
    for subject in SUBJECTS
    if layout is Layout.V3 or "nftables" not in subject
}


class Disagreement(Exception):  # noqa: N818  what the test is there to find
    """What the three say, with the world that it takes."""


async def compare(
    rig: Any, case: GeneratedWorld, resources: Sequence[Resource], flows: Sequence[Flow]
) -> int:
    """Return how many flows were allowed. Raises: Disagreement on the first that the three do not agree on."""
    await rig.program(resources, case.settings)
    cluster, world = Cluster(resources, case.settings, rig.form), World(resources, case.settings)
    here = [(position, hop) for position, flow in enumerate(flows) for hop in hops(flow) if hop.node == NODE]
    arrived = rig.arrive([(flows[position], hop) for position, hop in here])
    kernel = dict(zip(here, arrived, strict=True))
    allowed = 0
    for position, flow in enumerate(flows):
        verdicts = []
        for hop in hops(flow):
            interpreted = cluster.judge(flow, hop).allowed
            verdicts.append(kernel.get((position, hop), interpreted))
            if verdicts[-1] is not interpreted:
                raise Disagreement(flow, f"{hop}: kernel {verdicts[-1]}, interpreter {interpreted}")
        expected = evaluate(world, flow).allowed
        if all(verdicts) is not expected:
            raise Disagreement(flow, f"oracle {expected}, kernel and interpreter {verdicts}")
        allowed += expected
    return allowed


async def check(rig: Any, case: GeneratedWorld) -> int:
    """Compare all flows of one world. Return how many were allowed."""
    try:
        return await compare(rig, case, case.resources, case.flows)
    except Disagreement as found:
        flow, text = found.args
    smallest, last = await reduce_on_kernel(rig, case, flow)
    pytest.fail(f"seed {case.seed}: {text}\nsmallest: {last}\n{explain(smallest, case.settings, flow)}")


async def reduce_on_kernel(rig: Any, case: GeneratedWorld, flow: Flow) -> tuple[list[Resource], str]:
    """Return the smallest world found in which this flow alone is disputed, and how."""
    smallest = case.resources
    text = "this flow alone is not disputed: it takes other packets, or what was programmed before"
    candidates = iter([smallest])
    while True:
        candidate = next(candidates, None)
        if candidate is None:
            return smallest, text
        try:
            await compare(rig, case, candidate, [flow])
        except Disagreement as found:
            smallest, text = candidate, found.args[1]
            candidates = reductions(smallest)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.timeout(120 + 2 * WORLDS)
def test_oracle_interpreter_and_kernel_agree(make_differential_node: Any, case: str) -> None:
    hosts, layout, subject = CASES[case]
    rig = make_differential_node(subject, layout)
    seeds = range(FIRST_SEED, FIRST_SEED + WORLDS)
    allowed: list[int] = []

    async def scenario() -> None:
        for seed in seeds:
            if seed % LIVES == 0:
                await rig.restart()
            allowed.append(await check(rig, GeneratedWorld(seed, hosts=hosts, layout=layout, flows=FLOWS)))

    rig.run(scenario)

    # Neither answer is rare, or nothing was compared.
    assert len(allowed) == WORLDS
    assert 0 < sum(allowed) < WORLDS * FLOWS


@pytest.mark.parametrize("hosts", [False, True])
@pytest.mark.timeout(120 + 2 * WORLDS)
def test_iptables_and_nftables_treat_every_packet_alike(make_differential_node: Any, hosts: bool) -> None:
    """Without oracle or interpreter in between: the same worlds and packets through two kernels' tables."""
    seeds = range(FIRST_SEED, FIRST_SEED + WORLDS)
    arrived: dict[str, list[bool]] = {}

    for subject in ("nft", "nftables"):
        rig = make_differential_node(subject, Layout.V3)
        found = arrived[subject] = []

        async def scenario(rig: Any = rig, found: list[bool] = found) -> None:
            for seed in seeds:
                case = GeneratedWorld(seed, hosts=hosts, layout=Layout.V3, flows=FLOWS)
                await rig.program(case.resources, case.settings)
                found += rig.arrive(
                    [(flow, hop) for flow in case.flows for hop in hops(flow) if hop.node == NODE]
                )

        rig.run(scenario)

    assert arrived["nftables"] == arrived["nft"]
    assert len(set(arrived["nft"])) == 2
