"""What `switch` has chosen, as other commands show and use it."""

from pathlib import Path

from calico_engine.cli.cleanup import _with_switched
from calico_engine.engine.choice import Choice, ChoiceFile
from calico_engine.engine.profile import EngineProfile

from .conftest import Program


def test_switch_without_an_engine_is_exit_code_three(program: Program, tmp_path: Path) -> None:
    outcome = program("switch", "--dataplane", "nftables", "--run-dir", tmp_path)

    assert outcome.code == 3
    assert "no engine answers" in outcome.err


def test_plugins_shows_what_was_chosen(program: Program, tmp_path: Path) -> None:
    ChoiceFile(tmp_path).write(Choice(chosen=("ipset",)))

    said = program("plugins", "--run-dir", tmp_path)
    told = program("plugins", "--run-dir", tmp_path, "-o", "json").json

    assert said.lines[-1] == "chosen by `calico-engine switch`, in place of the profile's dataplane: ipset"
    assert [plugin["name"] for plugin in told if plugin["chosen"]] == ["ipset"]


def test_plugins_without_a_choice_says_nothing_of_it(program: Program, tmp_path: Path) -> None:
    assert "chosen" not in program("plugins", "--run-dir", tmp_path).out.lower()


def test_cleanup_takes_what_was_switched_to() -> None:
    profile = EngineProfile(dataplane=("ipset",))

    found, gone = _with_switched(profile, Choice(chosen=("iptables",), discard=("ipset", "gone", "iptables")))

    assert found.dataplane == ("ipset", "iptables")
    assert gone == {"dataplane:gone": "it is not installed"}
