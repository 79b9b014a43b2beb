"""The demo's manifests are the article's, but for what it misplaced."""

from pathlib import Path

import yaml

from calico_engine.lab.story import read_tenant_file

ARTICLE = (Path(__file__).parent / "articles" / "002.txt").read_text(encoding="utf-8")


def test_endpoints_and_policy_are_printed_there() -> None:
    for name in ("endpoints.yaml", "policy.yaml"):
        assert read_tenant_file(name).strip() in ARTICLE


def test_profile_differs_by_its_ports_alone() -> None:
    ours = yaml.safe_load(read_tenant_file("profile.yaml"))
    start = ARTICLE.index("apiVersion: v1\nkind: profile\nmetadata:\n  name: profile-database")
    text = ARTICLE[start : ARTICLE.index("\n\n", start)]
    # The author's remarks stand behind the first two rules.
    lines = [line.split("   ")[0] if "- action" in line else line for line in text.splitlines()]
    printed = yaml.safe_load("\n".join(lines))

    allow = ours["spec"]["ingress"][1]
    assert allow.pop("destination") == {"ports": [3306]}
    assert allow.pop("protocol") == "tcp"
    assert printed["spec"]["ingress"][1].pop("ports") == [{"int": 3306}]
    assert ours == printed


def test_deny_in_front_is_what_the_nodes_had() -> None:
    text = read_tenant_file("steps/policy-deny-in-front.yaml")
    ingress = text[text.index("ingress:") : text.index("  egress:")].replace("\n  ", "\n").strip()

    assert ingress in ARTICLE
