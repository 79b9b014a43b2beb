"""The floor of ipsets in C makes the set that ours and the program make, and the benchmark ends with its rows."""

import re
from typing import Any

import pytest
from bench import ipset as bench
from bench.figures import WrongContentError, interleave
from bench.programs import compiled

pytestmark = pytest.mark.kernel(tools=("ipset", "cc"), features=("ipset",))


def saved(node: Any) -> list[str]:
    """Return the set and its members, without what the kernel chose itself."""
    text = node.sh("ipset", "save", bench.SET)
    return sorted(re.sub(r" (initval|bucketsize) \S+", "", line) for line in text.splitlines())


def floor_of() -> bench.Floor:
    path = compiled("ipset_floor")
    assert path is not None
    return bench.Floor(str(path))


def test_all_subjects_of_a_load_make_the_same_set(node: Any) -> None:
    def scenario() -> None:
        rig = bench.Rig()
        made: dict[str, list[str]] = {}
        for subject in bench.load_subjects(rig, 2500):
            if subject.prepare:
                subject.prepare()
            assert subject.measure() > 0
            made[subject.name] = saved(node)
            assert subject.verify is not None
            subject.verify()
            assert bench.SET not in node.sh("ipset", "list", "-name").split()
        rig.close()

        # The one that grows ends with another number of buckets.
        grown = made.pop("ipset restore")
        assert all(lines == made["floor"] for lines in made.values())
        assert [line for line in grown if line.startswith("add")] == made["floor"][:-1]
        assert len(grown) == 2501

    node.namespace.run(scenario)


def test_floor_changes_swaps_and_reads_back(node: Any) -> None:
    def scenario() -> None:
        floor = floor_of()
        floor.ask_us(f"load {bench.SET} 3 1024")
        before = saved(node)

        assert 0 < floor.ask_us(f"change {bench.SET} 10") < 1e6
        assert saved(node) == before
        floor.ask_us("load other 5 1024")
        floor.ask_us(f"swap {bench.SET} other")
        assert floor.ask_us(f"dump {bench.SET}") > 0
        assert len(saved(node)) == 6
        floor.close()

    node.namespace.run(scenario)


def test_what_the_kernel_refuses_ends_the_floor(node: Any) -> None:
    def scenario() -> None:
        floor = floor_of()

        with pytest.raises(RuntimeError, match="change absent 3: it ended with 1"):
            floor.ask_us("change absent 3")
        floor.close()

    node.namespace.run(scenario)


def test_load_that_is_not_whole_is_no_figure(node: Any) -> None:
    def scenario() -> None:
        rig = bench.Rig()
        subject = next(subject for subject in bench.load_subjects(rig, 10) if subject.name == "floor")
        subject.measure()
        node.sh("ipset", "del", bench.SET, "10.0.0.1")

        with pytest.raises(WrongContentError, match="9 members instead of 10"):
            interleave([type(subject)("nothing", lambda: 0.0, None, subject.verify)], 1)
        rig.close()

    node.namespace.run(scenario)
