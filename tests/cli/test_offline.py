"""What works from manifests alone: render, explain, validate. No root, no kernel."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli.conftest import ENVIRONMENT, Program


def test_render_prints_what_the_tools_would_save(program: Program, manifests: Path) -> None:
    outcome = program("render", "--manifests", manifests, "--node", "node2")

    assert outcome.code == 0
    assert outcome.err == ""
    sets, rules = outcome.out.split("# iptables\n")
    assert "create cali40s:" in sets
    assert " 172.16.1.1\n" in sets
    assert rules.count("*filter\n") == 2
    assert "--dports 3306" in rules
    assert "cali-tw-cali2" in rules
    assert "cali1" not in rules


def test_render_of_one_dataplane_is_its_text_alone(program: Program, manifests: Path) -> None:
    outcome = program(
        "render", "--manifests", manifests, "--node", "node2", "--dataplane", "ipset", "--family", "4"
    )

    assert all(line.startswith(("create cali40", "add cali40")) for line in outcome.lines)


def test_render_takes_layout_family_and_settings(program: Program, manifests: Path) -> None:
    base = ["render", "--manifests", manifests, "--node", "node2", "--dataplane", "iptables", "--family", "4"]

    old = program(*base, "--layout", "v2").out
    new = program(*base).out
    prefixed = program(*base, "--set", "felix.IptablesMarkMask=0xff00").out

    assert "0x1000000/0x1000000" in old
    assert "0x1000000/0x1000000" not in new
    assert "0x100/0x100" in prefixed
    assert "*filter" in new
    assert new.count("*filter\n") == 1


def test_render_for_machines(program: Program, manifests: Path) -> None:
    (manifests / "wrong.yaml").write_text("apiVersion: v1\nkind: polcy\nmetadata: {name: x}\n")

    outcome = program("render", "--manifests", manifests, "--node", "node2", "-o", "json")

    assert set(outcome.json) == {"node", "plugins", "problems"}
    assert set(outcome.json["plugins"]) == {"ipset", "iptables"}
    assert "polcy" in outcome.json["problems"][0]
    assert "wrong.yaml" in outcome.json["problems"][0]


def test_render_says_what_is_wrong_and_goes_on(program: Program, manifests: Path) -> None:
    (manifests / "half.yaml").write_text("kind: [")

    outcome = program("render", "--manifests", manifests, "--node", "node2", "--dataplane", "iptables")

    assert outcome.code == 0
    assert outcome.err.startswith("warning: half.yaml: line ")
    assert "--dports 3306" in outcome.out


def test_render_of_an_unknown_node_says_so(program: Program, manifests: Path) -> None:
    outcome = program("render", "--manifests", manifests, "--node", "nobody")

    assert "node nobody has no endpoint" in outcome.err


def test_render_needs_no_root(manifests: Path) -> None:
    done = subprocess.run(
        [
            *("unshare", "--user", sys.executable, "-m", "calico_engine"),
            *("render", "--manifests", str(manifests), "--node", "node1"),
        ],
        text=True,
        capture_output=True,
        env=ENVIRONMENT,
    )

    assert done.returncode == 0, done.stderr
    assert "cali-tw-cali1" in done.stdout


def test_render_with_an_unknown_dataplane(program: Program, manifests: Path) -> None:
    outcome = program("render", "--manifests", manifests, "--node", "node1", "--dataplane", "iptable")

    assert outcome.code == 4
    assert "iptables" in outcome.err


@pytest.mark.parametrize(
    ("service", "code", "words"),
    [
        ("3306/tcp", 0, "GlobalNetworkPolicy(database) ingress rule 1"),
        ("tcp/3306", 0, "GlobalNetworkPolicy(database) ingress rule 1"),
        ("3306", 0, "GlobalNetworkPolicy(database) ingress rule 1"),
        ("3307/TCP", 1, "deny"),
        ("icmp", 1, "deny"),
    ],
)
def test_explain_names_the_deciding_rule(
    program: Program, manifests: Path, service: str, code: int, words: str
) -> None:
    outcome = program("explain", "--manifests", manifests, "172.16.1.1", "172.16.1.2", service)

    assert outcome.code == code, outcome
    assert outcome.lines[0].startswith("allow" if code == 0 else "deny")
    assert words in outcome.lines[0]


def test_explain_names_the_place_in_the_manifest_and_what_is_missing(
    program: Program, manifests: Path
) -> None:
    text = (manifests / "tenant.yaml").read_text()
    lost = text.replace("ipNetworks: [172.16.1.2/32]", "ipNetworks: [172.16.1.2/32], profiles: [nowhere]")
    (manifests / "tenant.yaml").write_text(lost)

    allowed = program("explain", "--manifests", manifests, "172.16.1.1", "172.16.1.2", "3306/tcp")
    refused = program("explain", "--manifests", manifests, "172.16.1.2", "172.16.1.1", "80/tcp")

    assert allowed.lines[1].split()[-1] == "FIELD"
    assert allowed.lines[-1].split()[-1] == "spec.ingress[1]"
    assert refused.code == 1
    assert "no policy and no profile allows it; Profile(nowhere) not found" in refused.out


def test_explain_for_machines(program: Program, manifests: Path) -> None:
    answer = program(
        "explain", "--manifests", manifests, "192.0.2.1", "172.16.1.2", "3306/tcp", "-o", "json"
    ).json

    assert (answer["action"], answer["policy"], answer["rule_index"]) == (
        "deny",
        "GlobalNetworkPolicy(database)",
        0,
    )
    assert answer["steps"][-1]["policy"] == "GlobalNetworkPolicy(database)"
    assert answer["problems"] == []


@pytest.mark.parametrize(
    "arguments", [["172.16.1.1", "172.16.1.2", "tcp"], ["172.16.1.1", "x/y", "80"], ["a", "b", "99999/tcp"]]
)
def test_explain_of_no_flow_is_a_usage_error(program: Program, manifests: Path, arguments: list[str]) -> None:
    outcome = program("explain", "--manifests", manifests, *arguments)

    assert outcome.code == 2
    assert outcome.err.startswith("error: ")


def test_validate_accepts_what_is_right(program: Program, manifests: Path) -> None:
    outcome = program("validate", manifests)

    assert outcome.code == 0
    assert outcome.out == "1 file, 4 valid resources, 0 errors\n"


def test_validate_names_file_resource_and_field(program: Program, manifests: Path) -> None:
    wrong = manifests / "wrong.yaml"
    wrong.write_text(
        "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {name: p}\n"
        "spec: {ingress: [{action: Allow, protocol: TCP, destination: {ports: [80, 70000]}}]}\n---\n"
        "apiVersion: projectcalico.org/v3\nkind: Profile\nmetadata: {name: fine}\n"
    )
    half = manifests / "half.json"
    half.write_text('{"kind": "Profile",')

    outcome = program("validate", manifests, "-o", "json")

    assert outcome.code == 1
    assert outcome.json["valid"] is False
    assert (outcome.json["files"], outcome.json["resources"]) == (3, 5)
    errors = {Path(error["file"]).name: error for error in outcome.json["errors"]}
    assert errors["wrong.yaml"]["resource"] == "GlobalNetworkPolicy(p)"
    assert errors["wrong.yaml"]["field"] == "spec.ingress[0].destination.ports[1]"
    assert errors["half.json"]["reason"]
    text = program("validate", wrong).out
    assert f"{wrong}: GlobalNetworkPolicy(p): spec.ingress[0].destination.ports[1]: " in text


def test_validate_reads_standard_input_and_sees_doubles(program: Program, manifests: Path) -> None:
    text = (manifests / "tenant.yaml").read_text()

    assert program("validate", "-", stdin=text).code == 0
    outcome = program("validate", manifests, "-", stdin=text)
    assert outcome.code == 1
    assert "only one of them counts" in outcome.out


def test_hostile_text_cannot_move_the_cursor(program: Program, tmp_path: Path) -> None:
    hostile = tmp_path / "hostile.yaml"
    hostile.write_text(
        'apiVersion: projectcalico.org/v3\nkind: "Pro\\u001b[2Jfile\\nok: 1"\nmetadata: {name: x}\n'
    )

    outcome = program("validate", hostile)

    assert outcome.code == 1
    assert "\x1b" not in outcome.out
    assert len(outcome.lines) == 2
