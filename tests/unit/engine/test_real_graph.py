"""The engine with the real calculation graph over in-memory plugins."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from calico_engine.engine import Engine, EngineProfile
from calico_engine.messages import ConfigUpdate
from calico_engine.model.config import FelixConfiguration
from calico_engine.model.resource import Metadata
from calico_engine.plugin.protocols import EndpointStatus
from calico_engine.testing.builders import make_endpoint, make_global_policy, make_node, make_rule

from .conftest import Rig

ENDPOINT = make_endpoint("web", labels={"app": "web"}, node="node-a", interface="caliweb")
POLICY = make_global_policy("allow-web", selector="app == 'web'", ingress=[make_rule(selector="app == 'lb'")])


class RealRig(Rig):
    """As Rig, but with calc.CalcGraph."""

    def make(self, profile: EngineProfile | None = None) -> Engine:
        self.engine = Engine(
            profile or self.fakes.profile(),
            "node-a",
            run_dir=self.run_dir,
            environ={},
            registry=self.fakes.registry,
            config_file=self.run_dir / "felix.cfg",
        )
        return self.engine


@pytest.fixture
async def real(tmp_path: Path) -> AsyncIterator[RealRig]:
    made = RealRig(tmp_path / "run")
    made.fakes.contents |= {r.key: r for r in (make_node("node-a"), ENDPOINT, POLICY)}
    yield made
    await made.stop()


async def test_policy_and_endpoint_reach_the_kernel(real: RealRig) -> None:
    engine = await real.start()

    names = real.fakes.kernels["rules"].names()

    assert f"WorkloadEndpointUpdate:{ENDPOINT.key}" in names
    assert f"ActivePolicyUpdate:{POLICY.key}" in names
    assert engine.status().endpoints == {str(ENDPOINT.key): EndpointStatus.UP}
    assert engine.metrics.value("felix_active_local_endpoints") == 1


async def test_endpoint_status_is_reported_soon_after_it_changes(real: RealRig) -> None:
    await real.start(real.fakes.profile(EndpointReportingEnabled="true", EndpointReportingDelaySecs="0"))

    await real.until(lambda: bool(real.fakes.datastore.reports))
    await real.fakes.datastore.delete(ENDPOINT.key)
    await real.until(lambda: dict(real.fakes.datastore.reports[-1].endpoints) == {})

    assert dict(real.fakes.datastore.reports[0].endpoints) == {str(ENDPOINT.key): "up"}


async def test_wrong_values_of_a_felix_configuration_are_in_status(real: RealRig) -> None:
    engine = await real.start(real.fakes.profile(LogPrefix="local"))
    spec: dict[str, object] = {"iptablesMarkMask": "0x1", "logPrefix": "cluster", "ipv6Support": False}

    await real.fakes.datastore.put(FelixConfiguration(metadata=Metadata(name="default"), spec=spec))
    await real.until(lambda: not engine.settings.ipv6_support)

    assert engine.settings.log_prefix == "local"
    assert any("IptablesMarkMask" in text for text in engine.status().problems.values())


async def test_a_reload_reaches_the_graph(real: RealRig) -> None:
    engine = await real.start(real.fakes.profile(LogPrefix="before"))

    engine.reload(real.fakes.profile(LogPrefix="after"))

    await real.until(lambda: engine.settings.log_prefix == "after" and engine.is_settled())
    config = real.fakes.kernels["rules"].objects["ConfigUpdate"]
    assert isinstance(config, ConfigUpdate)
    assert config.settings.log_prefix == "after"
