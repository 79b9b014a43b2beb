"""The demo's story, without a lab: what it says of rules, and that what it promises is what the manifests say."""

import pytest

from calico_engine.evaluation import Flow, World, evaluate
from calico_engine.lab.story import STEPS, StoryStep, describe_rules, read_tenant_file
from calico_engine.model import Resource, WorkloadEndpoint, load

STARTING = ("cluster.yaml", "endpoints.yaml", "policy.yaml", "profile.yaml")


def manifests_at(step: StoryStep) -> list[Resource]:
    """Return the resources as they are in a step: each step changes one file, and the change stays."""
    texts = {name: read_tenant_file(name) for name in STARTING}
    for earlier in STEPS[: STEPS.index(step) + 1]:
        if earlier.manifest:
            texts[earlier.manifest] = read_tenant_file(earlier.source)
    return [resource for text in texts.values() for resource in load(text)]


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.title)
def test_what_a_step_promises_is_what_its_manifests_say(step: StoryStep) -> None:
    resources = manifests_at(step)
    pods = {
        resource.spec.endpoint: resource.spec.ip_networks[0].removesuffix("/32")
        for resource in resources
        if isinstance(resource, WorkloadEndpoint)
    }
    world = World(resources)

    opened = {
        (source, destination, port)
        for source in pods
        for destination in pods
        for port in (3306, 8080)
        if source != destination
        and evaluate(world, Flow(src=pods[source], dst=pods[destination], dst_port=port)).allowed
    }

    assert opened == step.opened


def test_rules_behind_one_that_matches_everything_are_called_dead() -> None:
    deny_in_front, in_order = manifests_at(STEPS[1]), manifests_at(STEPS[3])

    assert list(describe_rules(deny_in_front, "namespace-default")) == [
        "1. deny everything",
        "2. allow from namespace == 'default'   <- never reached",
    ]
    assert list(describe_rules(in_order, "profile-database")) == [
        "1. allow tcp from namespace == 'default' && service == 'frontend' to port 3306",
        "2. deny everything",
    ]
