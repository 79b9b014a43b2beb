"""Layout v2 against the article: every rule it prints of its two nodes, with hash, chain and set names.

The article prints rules table by table in words between them; the test reads those lines from the article itself.
The messages are those of its example: three endpoints on two nodes, policy namespace-default, profile
profile-database (with `ports:` where it belongs, under destination).
"""

import re
from collections import Counter
from pathlib import Path

import pytest
from calico_engine.messages import (
    ActivePolicyUpdate,
    ActiveProfileUpdate,
    ActiveRule,
    Batch,
    IPSetUpdate,
    Message,
    PortRange,
    SetKind,
    TierPolicies,
    WorkloadEndpointUpdate,
)
from calico_engine.model.policy import Action
from calico_engine.model.resource import ResourceKey
from calico_engine.ruleset.ir import Family, Layer, Ruleset, SetMark
from calico_engine.ruleset.lower import lower
from calico_engine.ruleset.names import set_name
from calico_engine.ruleset.state import DesiredState
from calico_engine.ruleset.world import compile_world
from calico_engine.selector import parse
from calico_engine.settings import EndpointToHostAction, FelixSettings, Layout
from calico_engine_iptables.words import chain_hashes, save_line

ARTICLE = Path(__file__).parent / "articles" / "002.txt"
RULE = re.compile(r'^-A (\S+) .*--comment "cali:([A-Za-z0-9_-]{16})".*$', re.MULTILINE)

SETTINGS = FelixSettings(
    layout=Layout.V2,
    default_endpoint_to_host_action=EndpointToHostAction.RETURN,
    openstack_metadata=True,
)
POLICY = ResourceKey("GlobalNetworkPolicy", "", "namespace-default")
NAMESPACE = parse("namespace == 'default'").uid
FRONTEND = parse("namespace == 'default' && service == 'frontend'").uid


def endpoint(name: str, interface: str, address: str, *profiles: str) -> WorkloadEndpointUpdate:
    return WorkloadEndpointUpdate(
        endpoint=ResourceKey("WorkloadEndpoint", "default", name),
        interface_name=interface,
        ip_networks=(address,),
        tiers=(TierPolicies(tier="default", default_action=Action.DENY, ingress=(POLICY,), egress=(POLICY,)),),
        profiles=profiles,
    )


def node_messages(node: str) -> list[Message]:
    messages: list[Message] = [
        IPSetUpdate(
            set_id=NAMESPACE, kind=SetKind.NET, members=frozenset({"172.16.1.1", "172.16.1.2", "172.16.1.3"})
        ),
        # The article's listing is of a time when the deny stood first in the policy too.
        ActivePolicyUpdate(
            policy=POLICY,
            tier="default",
            inbound=(
                ActiveRule(action=Action.DENY),
                ActiveRule(action=Action.ALLOW, src_sets=(NAMESPACE,)),
            ),
            outbound=(ActiveRule(action=Action.ALLOW),),
        ),
    ]
    if node == "slave1":
        return [
            *messages,
            endpoint("slave1-frontend1", "cali0ef24b1", "172.16.1.1/32"),
            endpoint("slave1-frontend2", "cali0ef24b2", "172.16.1.2/32"),
        ]
    profile = ActiveProfileUpdate(
        profile="profile-database",
        inbound=(
            ActiveRule(action=Action.DENY),
            ActiveRule(
                action=Action.ALLOW,
                protocol=6,
                src_sets=(FRONTEND,),
                dst_ports=(PortRange(3306, 3306),),
            ),
        ),
        outbound=(ActiveRule(action=Action.ALLOW),),
    )
    frontends = IPSetUpdate(
        set_id=FRONTEND, kind=SetKind.NET, members=frozenset({"172.16.1.1", "172.16.1.2"})
    )
    database = endpoint("slave2-database", "cali0ef24b3", "172.16.1.3/32", "profile-database")
    return [*messages, frontends, profile, database]


def compile_node(node: str) -> Ruleset:
    state = DesiredState(SETTINGS)
    state.apply(Batch(revision=1, in_sync=True, messages=tuple(node_messages(node))))
    return lower(compile_world(state, SETTINGS, Family.V4), SETTINGS)


def saved_chains(ruleset: Ruleset) -> dict[tuple[Layer, str], list[str]]:
    """Return each chain's rules as iptables-save prints them; our rules in the kernel's chains too."""
    chains = {(key.layer, key.name): rules for key, rules in ruleset.chains.items()}
    chains |= {(layer, str(hook)): rules for (layer, hook), rules in ruleset.hooks.items()}
    saved = {}
    for (layer, name), rules in chains.items():
        hashes = chain_hashes(name, rules, Family.V4, Layout.V2)
        saved[layer, name] = [
            save_line(name, rule, rule_hash, Family.V4, Layout.V2)
            for rule, rule_hash in zip(rules, hashes, strict=True)
        ]
    return saved


@pytest.fixture(scope="module")
def printed() -> list[str]:
    return [match[0] for match in RULE.finditer(ARTICLE.read_text(encoding="utf-8"))]


@pytest.fixture(scope="module")
def nodes() -> list[dict[tuple[Layer, str], list[str]]]:
    return [saved_chains(compile_node(node)) for node in ("slave1", "slave2")]


def test_every_rule_line_and_hash_the_article_prints_is_rendered(
    printed: list[str], nodes: list[dict[tuple[Layer, str], list[str]]]
) -> None:
    rendered = {line for node in nodes for lines in node.values() for line in lines}

    missing = [line for line in printed if line not in rendered]

    # 92 rule lines with a hash are printed; seven of them twice.
    assert len(printed) == 92
    assert len(set(printed)) == 85
    assert missing == []


def test_a_chain_has_no_rule_before_or_between_those_printed(
    printed: list[str], nodes: list[dict[tuple[Layer, str], list[str]]]
) -> None:
    by_chain: dict[str, list[str]] = {}
    for line in dict.fromkeys(printed):
        by_chain.setdefault(line.split()[1], []).append(line)

    for chain, lines in by_chain.items():
        # One name may be of several tables (cali-PREROUTING): the article's rules of each are in that one's order.
        candidates = [
            rules for node in nodes for (_, name), rules in node.items() if name == chain and set(rules) & set(lines)
        ]
        assert candidates, chain
        for rules in candidates:
            wanted = [line for line in lines if line in rules]
            assert rules[: len(wanted)] == wanted, chain


def test_no_two_printed_rules_share_a_hash(printed: list[str]) -> None:
    hashes = Counter(match[2] for line in set(printed) if (match := RULE.match(line)))

    assert len(hashes) == 85
    assert set(hashes.values()) == {1}


def test_set_names_are_the_articles() -> None:
    article = ARTICLE.read_text(encoding="utf-8")

    names = {set_name(set_id, Family.V4, Layout.V2) for set_id in (NAMESPACE, FRONTEND)}

    assert names == {"cali4-s:CEmFgJFwDvohR01JKvOkO8D", "cali4-s:i357Nlxxj3AMBTQ4WyOllNt"}
    assert names == set(re.findall(r"--match-set (\S+)", article))


def test_mark_bits_are_those_the_article_explains() -> None:
    article = ARTICLE.read_text(encoding="utf-8")

    masks = set(re.findall(r"--set-xmark 0x[0-9a-f]+/(0x[0-9a-f]+)", article))
    ours = {
        f"{rule.op.mask:#x}"
        for node in ("slave1", "slave2")
        for rules in compile_node(node).chains.values()
        for rule in rules
        if isinstance(rule.op, SetMark)
    }

    assert ours == masks
