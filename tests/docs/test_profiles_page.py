"""docs/profiles.md says what the code does."""

import re
from pathlib import Path

from calico_engine.engine import EngineOptions, parse_profile
from calico_engine.engine.control import DUMPS

PAGE = (Path(__file__).parents[2] / "docs" / "profiles.md").read_text()


def test_the_example_is_a_profile() -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)

    profile = parse_profile(example, name="example")

    assert (profile.datastore, profile.dataplane, profile.routing) == (
        "file",
        ("ipset", "iptables"),
        ("noencap",),
    )


def test_numbers_and_dumps_are_the_codes() -> None:
    assert f"`stuck_after_failures` ({EngineOptions().stuck_after_failures})" in PAGE
    assert all(f"`{what}`" in PAGE or f"what={what}" in PAGE for what in DUMPS)
