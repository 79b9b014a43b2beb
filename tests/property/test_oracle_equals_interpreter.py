"""Differential test: resources -> calculation graph -> compiler -> interpreter says what the oracle says.

Worlds are drawn from a seed (calico_engine.testing.worlds). A flow is followed from node to node, through each node's
own ruleset. What the two disagree on is cut down to the resources and rules that it takes, and printed with its seed.
"""

import os
from collections.abc import Sequence
from functools import partial

import pytest

from calico_engine.evaluation import Flow, World, evaluate
from calico_engine.model.resource import Resource
from calico_engine.ruleset.state import PolicyForm
from calico_engine.settings import FelixSettings, Layout
from calico_engine.testing.cluster import Cluster, explain, reduce_world
from calico_engine.testing.worlds import GeneratedWorld

#: Worlds per case; eight flows each. The long form: CE_WORLDS=5000.
WORLDS = int(os.environ.get("CE_WORLDS", "150"))
FLOWS = 8


def differ(
    settings: FelixSettings, form: PolicyForm | None, flow: Flow, resources: Sequence[Resource]
) -> bool:
    passed = Cluster(resources, settings, form).follow(flow)
    return passed[-1][1].allowed is not evaluate(World(resources, settings), flow).allowed


def check(case: GeneratedWorld, form: PolicyForm | None) -> int:
    """Compare all flows of one world. Return how many the oracle allowed."""
    cluster, world = Cluster(case.resources, case.settings, form), World(case.resources, case.settings)
    allowed = 0
    for flow in case.flows:
        expected = evaluate(world, flow).allowed
        if cluster.follow(flow)[-1][1].allowed is not expected:
            smallest = reduce_world(case.resources, partial(differ, case.settings, form, flow))
            pytest.fail(f"seed {case.seed}: {explain(smallest, case.settings, flow, form)}")
        allowed += expected
    return allowed


@pytest.mark.parametrize(
    ("hosts", "layout", "form"),
    [
        (False, Layout.V3, None),
        (False, Layout.V2, None),
        (True, Layout.V3, None),
        (False, Layout.NATIVE, PolicyForm.CLASSIFIED),
        (False, Layout.NATIVE, PolicyForm.LINEAR),
        (True, Layout.NATIVE, PolicyForm.CLASSIFIED),
        (True, Layout.NATIVE, PolicyForm.LINEAR),
    ],
    ids=[
        "workloads-v3",
        "workloads-v2",
        "hosts-v3",
        "workloads-classified",
        "workloads-linear",
        "hosts-classified",
        "hosts-linear",
    ],
)
@pytest.mark.timeout(max(120, WORLDS))
def test_oracle_and_interpreter_agree(hosts: bool, layout: Layout, form: PolicyForm | None) -> None:
    worlds = (GeneratedWorld(seed, hosts=hosts, layout=layout, flows=FLOWS) for seed in range(WORLDS))

    allowed = sum(check(world, form) for world in worlds)

    # Neither answer is rare, or nothing was compared.
    assert 0.1 < allowed / (WORLDS * FLOWS) < 0.9
