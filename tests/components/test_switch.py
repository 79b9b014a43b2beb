"""Engines that exchange their dataplane under load; CE_SWITCHES=20 and CE_SWITCH_KILLS=50 are the long form."""

import os
from pathlib import Path

import pytest

from calico_engine.testing.soak.switches import SwitchWish, run_switches

ROUND_TRIPS = int(os.environ.get("CE_SWITCHES", "2"))
KILLS = int(os.environ.get("CE_SWITCH_KILLS", "6"))

pytestmark = [
    pytest.mark.kernel(features=("nftables",)),
    pytest.mark.component("ip", "iptables", "ipset", "nft", "conntrack"),
    pytest.mark.slow,
    pytest.mark.timeout(180 + 20 * ROUND_TRIPS + 15 * KILLS),
]

BACKENDS = [
    pytest.param("legacy", marks=pytest.mark.kernel(features=("iptables-legacy",))),
    pytest.param("nft", marks=pytest.mark.kernel(features=("iptables-nft",))),
]


@pytest.mark.parametrize("backend", BACKENDS)
def test_switch_breaks_nothing_and_opens_nothing(backend: str, tmp_path: Path) -> None:
    report = run_switches(SwitchWish(round_trips=ROUND_TRIPS, backend=backend, base=tmp_path))

    assert report.failures == []
    # Two nodes, and once more there, so that cleanup finds what was switched to.
    assert len(report.switches) == 2 * (2 * ROUND_TRIPS + 1)
    seen = report.sighting
    assert seen is not None
    assert seen.leaks == ()
    assert seen.broken == 0
    assert seen.connections > 20
    # The sentry is awake, what is allowed passes both, and no answer is long in coming.
    assert seen.denied_sent > 1000
    assert seen.lost < seen.allowed_sent / 100
    assert seen.longest_stall_s < 1.0


@pytest.mark.parametrize("backend", BACKENDS)
def test_engine_killed_in_a_switch_leaves_one_dataplane_whole(backend: str, tmp_path: Path) -> None:
    report = run_switches(SwitchWish(round_trips=0, kills=KILLS, backend=backend, base=tmp_path, seed=3))

    assert report.failures == []
    assert len(report.kills) == KILLS
    seen = report.sighting
    assert seen is not None
    assert seen.leaks == ()
    assert seen.broken == 0
    assert seen.denied_sent > 1000
