"""An engine that is killed while it programs the kernel, and started again; `make soak` is the long form."""

import time
from pathlib import Path
from random import Random

import msgspec
import pytest

from calico_engine.lab.cluster import Lab, LabWish
from calico_engine.testing.soak.post import sentry_on
from calico_engine.testing.soak.run import SoakWish, run_soak
from calico_engine.testing.soak.sentry import Watch
from calico_engine.testing.soak.world import ALLOWED, DENIED, World

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.component("ip", "iptables", "ipset", "conntrack"),
    pytest.mark.slow,
    pytest.mark.timeout(180),
]


@pytest.mark.parametrize(
    "backend",
    [
        pytest.param("legacy", marks=pytest.mark.kernel(features=("iptables-legacy",))),
        pytest.param("nft", marks=pytest.mark.kernel(features=("iptables-nft",))),
    ],
)
def test_killed_engine_opens_nothing_and_leaves_nothing(backend: str, tmp_path: Path) -> None:
    wish = SoakWish(kills=4, seed=7, backend=backend, base=tmp_path, compare_every=4)

    report = run_soak(wish)

    assert report.failures == []
    assert len(report.kills) == 4
    assert report.comparisons == 1
    seen = report.sighting
    assert seen is not None
    assert seen.leaks == ()
    # The sentry is awake: denied packets were sent, and what is allowed arrives, whoever is dead.
    assert seen.denied_sent > 1000
    assert seen.lost < seen.allowed_sent / 100
    assert seen.broken == 0
    assert list(tmp_path.iterdir()) == []


def test_sentry_sees_what_gets_through_and_what_does_not(tmp_path: Path) -> None:
    manifests = tmp_path / "manifests"
    manifests.mkdir()
    for name, text in World(Random(1)).first().items():
        (manifests / name).write_bytes(text)
    lab = Lab("sentry", tmp_path)
    lab.up(LabWish(manifests=manifests, ends_with_us=True))
    # The wrong way round: what is open is called denied.
    watch = Watch(denied=ALLOWED, allowed=DENIED[:8], denied_per_s=200, allowed_per_s=50)
    try:
        with sentry_on(lab, watch) as post:
            seen = post.look()
            end_s = time.monotonic() + 20
            while len({leak.flow for leak in seen.leaks}) < len(ALLOWED) or seen.lost < 10:
                assert time.monotonic() < end_s, msgspec.structs.replace(seen, leaks=())
                seen = post.look()
                time.sleep(0.05)
    finally:
        lab.down()

    assert {leak.flow for leak in seen.leaks} == {str(ends) for ends in ALLOWED}
    assert 0 < seen.lost <= seen.allowed_sent
