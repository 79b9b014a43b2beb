"""Wrong manifests through the file datastore and the real graph: named in status, never programmed, never fatal."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from calico_engine.engine import Engine
from calico_engine.model import dump
from calico_engine.model.policy import Action
from calico_engine.testing.builders import make_endpoint, make_global_policy, make_node, make_rule
from calico_engine.testing.fakes import Fakes

from .conftest import Rig

HOSTILE = {
    "newline": 'metadata: {name: "x\\n-A INPUT -j ACCEPT"}\nspec: {selector: "all()"}',
    "option": 'metadata: {name: "x -j ACCEPT"}\nspec: {selector: "all()"}',
    "quote": 'metadata: {name: \'x" --jump ACCEPT\'}\nspec: {selector: "all()"}',
    "long-label": f'metadata: {{name: x, labels: {{a: "{"b" * 300}"}}}}\nspec: {{selector: "all()"}}',
    "selector": "metadata: {name: x}\nspec: {selector: \"a == 'b' -j ACCEPT\"}",
}
BROKEN = {
    "truncated": "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {name: x",
    "unknown-kind": "apiVersion: projectcalico.org/v3\nkind: Surprise\nmetadata: {name: x}\n",
    "binary": "\x00\x01\x02",
    "scalar": "42",
    **{
        name: f"apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\n{text}\n"
        for name, text in HOSTILE.items()
    },
}


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[tuple[Rig, Path]]:
    """A rig that reads manifests from a directory, and that directory with one endpoint in it."""
    manifests = tmp_path / "manifests"
    manifests.mkdir()
    endpoint = make_endpoint("web", labels={"app": "web"}, node="node-a", interface="caliweb")
    (manifests / "good.yaml").write_text(dump(make_node("node-a")) + "---\n" + dump(endpoint))
    rig = Rig(tmp_path / "run")
    yield rig, manifests
    await rig.stop()


async def start(rig: Rig, manifests: Path) -> Engine:
    profile = msgspec.structs.replace(
        rig.fakes.profile(),
        datastore="file",
        options={"file": {"path": str(manifests), "watch": "poll", "poll_s": 0.1}},
    )
    rig.engine = Engine(
        profile,
        "node-a",
        run_dir=rig.run_dir,
        environ={},
        registry=rig.fakes.registry,
        config_file=rig.run_dir / "none",
    )
    rig.task = asyncio.get_running_loop().create_task(rig.engine.run())
    await rig.engine.wait_applied(10)
    return rig.engine


@pytest.mark.parametrize("name", sorted(BROKEN))
async def test_a_wrong_manifest_is_named_and_the_rest_goes_on(node: tuple[Rig, Path], name: str) -> None:
    rig, manifests = node
    (manifests / f"{name}.yaml").write_text(BROKEN[name])
    (manifests / "policy.yaml").write_text(dump(make_global_policy("fine", selector="app == 'web'")))

    engine = await start(rig, manifests)

    status = engine.status()
    named = {**status.rejected, **status.problems}
    assert any(f"{name}.yaml" in subject + text for subject, text in named.items()), named
    kernel = "\n".join(rig.fakes.kernels["rules"].names())
    assert "ActivePolicyUpdate:GlobalNetworkPolicy(fine)" in kernel
    assert "(x" not in kernel
    assert engine.is_ready()


async def test_a_wrong_manifest_put_right_is_forgotten(node: tuple[Rig, Path]) -> None:
    rig, manifests = node
    path = manifests / "policy.yaml"
    path.write_text(BROKEN["truncated"])
    engine = await start(rig, manifests)

    path.write_text(dump(make_global_policy("fine", selector="app == 'web'")))
    await rig.until(
        lambda: any("(fine)" in name for name in rig.fakes.kernels["rules"].names()), timeout_s=10
    )

    assert engine.status().rejected == {}
    assert engine.status().problems == {}


@pytest.mark.parametrize(
    "broken",
    ["spec: [\n", dump(make_global_policy("deny", selector="app == 'web'")).replace("app ==", "app = =")],
)
async def test_a_policy_that_breaks_while_the_engine_is_stopped_stays_enforced(
    node: tuple[Rig, Path], broken: str
) -> None:
    rig, manifests = node
    path = manifests / "deny.yaml"
    deny = make_global_policy("deny", selector="app == 'web'", ingress=[make_rule(Action.DENY)])
    path.write_text(dump(deny))
    engine = await start(rig, manifests)
    before = sorted(rig.fakes.kernels["rules"].names())
    await rig.stop()

    path.write_text(broken)
    rig.fakes = Fakes()  # a kernel that has nothing, as after a reboot
    engine = await start(rig, manifests)

    assert sorted(rig.fakes.kernels["rules"].names()) == before
    assert any("GlobalNetworkPolicy(deny)" in name for name in before)
    (problem,) = engine.status().problems.values()
    assert "deny.yaml" in problem
    assert "serving the version of 20" in problem
    assert engine.is_ready()


async def test_a_policy_that_was_never_in_order_is_said_to_be_unknown(node: tuple[Rig, Path]) -> None:
    rig, manifests = node
    (manifests / "deny.yaml").write_text("spec: [\n")

    engine = await start(rig, manifests)

    (problem,) = engine.status().problems.values()
    assert "deny.yaml" in problem
    assert "unknown and NOT in force" in problem
    assert any("deny.yaml" in warning.message for warning in engine.warnings)
