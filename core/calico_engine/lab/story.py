"""The tenant example, told in four steps on a lab: two frontends and a database in one namespace, on two nodes.

The manifests are in lab/tenant; every step changes one of them. What each step must show is stated here, so that the
demo fails when the dataplane does otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path

import msgspec

from calico_engine.lab.cluster import Lab
from calico_engine.lab.prober import ProbeResult
from calico_engine.lab.probing import Outcome, ProbeWish, run_probes
from calico_engine.model import Resource
from calico_engine.model.policy import EntityRule, GlobalNetworkPolicy, Profile, Rule

FRONTENDS = ("slave1-frontend1", "slave1-frontend2")
DATABASE = "slave2-database"
DATABASE_NODE = "slave2"
DATABASE_PORT = 3306
OTHER_PORT = 8080
#: The chains of Calico 2, which have readable names and are those the article shows.
OVERRIDES = ("felix.Layout=v2",)

_STARTING = ("cluster.yaml", "endpoints.yaml", "policy.yaml", "profile.yaml")


class StoryStep(msgspec.Struct, frozen=True, kw_only=True):
    """What is changed, what is seen, and why. `opened`: the (source, destination, port) that must be open, no other."""

    title: str
    change: str
    explanation: str
    opened: frozenset[tuple[str, str, int]]
    manifest: str = ""
    source: str = ""
    shows: str = ""
    chain: str = ""


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """A step as it turned out. `shown` is the policy or profile in words, `kernel` its chain on the database's node."""

    step: StoryStep
    outcomes: tuple[Outcome, ...]
    shown: tuple[str, ...]
    kernel: tuple[str, ...]
    differences: tuple[str, ...]


def _pairs(
    ports: Sequence[int], sources: Sequence[str], destinations: Sequence[str]
) -> set[tuple[str, str, int]]:
    return {(src, dst, port) for port in ports for src in sources for dst in destinations if src != dst}


_BOTH = (DATABASE_PORT, OTHER_PORT)
_ALL = (*FRONTENDS, DATABASE)
_AMONG_FRONTENDS = _pairs(_BOTH, _ALL, FRONTENDS)

STEPS = (
    StoryStep(
        title="The manifests as they are written",
        change=(
            "Policy namespace-default lets the namespace talk to itself. Profile profile-database is meant to close\n"
            "the database but for port 3306; it begins with a deny."
        ),
        explanation=(
            "Everything is open, the database too. A policy that selects an endpoint decides before its profiles:\n"
            "namespace-default allows every packet from the namespace, so the database's profile is never asked."
        ),
        opened=frozenset(_pairs(_BOTH, _ALL, _ALL)),
        shows="namespace-default",
    ),
    StoryStep(
        title="A deny in front of the policy's allow",
        change="The nodes of the example had this policy: the same allow, behind a deny for everything.",
        explanation=(
            "Nothing is open. Rules are tried in the order they are written and the first that matches decides:\n"
            "the deny matches every packet, so the allow behind it is dead."
        ),
        opened=frozenset(),
        manifest="policy.yaml",
        source="steps/policy-deny-in-front.yaml",
        shows="namespace-default",
        chain="cali-pi-namespace-default",
    ),
    StoryStep(
        title="The policy in order",
        change=(
            "The allow comes first, the deny last, and what goes to the database is passed on to the database's own\n"
            "profile, which is still as it was written."
        ),
        explanation=(
            "The frontends talk again. The database is dark: its profile has the same mistake, a deny in front that\n"
            "makes the allow for 3306 dead."
        ),
        opened=frozenset(_AMONG_FRONTENDS),
        manifest="policy.yaml",
        source="steps/policy-in-order.yaml",
        shows="profile-database",
    ),
    StoryStep(
        title="The profile in order too",
        change="The profile's allow comes first, its deny last.",
        explanation="The database answers its frontends on 3306, and nobody on anything else. This is what was wanted.",
        opened=frozenset(_AMONG_FRONTENDS | _pairs([DATABASE_PORT], FRONTENDS, [DATABASE])),
        manifest="profile.yaml",
        source="steps/profile-in-order.yaml",
        shows="profile-database",
        chain="cali-pri-profile-database",
    ),
)


def read_tenant_file(name: str) -> str:
    """Return one of the example's manifests."""
    return (
        resources.files("calico_engine.lab").joinpath("tenant", *name.split("/")).read_text(encoding="utf-8")
    )


def write_tenant_manifests(directory: Path) -> None:
    """Write the manifests the story starts with."""
    for name in _STARTING:
        (directory / name).write_text(read_tenant_file(name), encoding="utf-8")


def tell_step(lab: Lab, step: StoryStep) -> Told:
    """Change what the step changes, wait until every node follows, and try every pair. Raises: CalicoEngineError."""
    if step.manifest:
        lab.write_manifest(step.manifest, read_tenant_file(step.source))
        lab.settle()
    outcomes = run_probes(lab, ProbeWish(tcp=_BOTH, families=(4,)))
    return Told(
        step=step,
        outcomes=tuple(outcomes),
        shown=tuple(describe_rules(lab.resources(), step.shows)),
        kernel=tuple(read_chain(lab, DATABASE_NODE, step.chain)) if step.chain else (),
        differences=tuple(_differences(step, outcomes)),
    )


def read_chain(lab: Lab, node: str, chain: str) -> Iterator[str]:
    """Yield a chain's rules as the node's kernel has them, whichever iptables programmed them."""
    for program in ("iptables-legacy-save", "iptables-nft-save"):
        done = lab.run(node, [program, "-t", "filter"])
        yield from (line for line in done.stdout.splitlines() if line.startswith(f"-A {chain} "))


def _differences(step: StoryStep, outcomes: Sequence[Outcome]) -> Iterator[str]:
    for outcome in outcomes:
        wanted = (outcome.source, outcome.destination, outcome.port) in step.opened
        is_open = outcome.result is ProbeResult.OPEN
        pair = f"{outcome.source} -> {outcome.destination} TCP {outcome.port}"
        if is_open != wanted:
            yield f"{pair} is {outcome.result}, this step should show it {'open' if wanted else 'denied'}"
        elif not outcome.as_expected:
            yield f"{pair} is {outcome.result}, but evaluating the manifests says {outcome.expected}: {outcome.reason}"


def find_ruled(found: Sequence[Resource], name: str) -> GlobalNetworkPolicy | Profile:
    """Return the policy or profile of a name."""
    for resource in found:
        if isinstance(resource, GlobalNetworkPolicy | Profile) and resource.metadata.name == name:
            return resource
    raise KeyError(name)


def describe_rules(found: Sequence[Resource], name: str) -> Iterator[str]:
    """Yield the ingress rules of a policy or profile in words, saying which can never be reached."""
    ruled = find_ruled(found, name)
    ended = False
    for number, rule in enumerate(ruled.spec.ingress, 1):
        dead = "   <- never reached" if ended else ""
        yield f"{number}. {describe_rule(rule)}{dead}"
        ended = ended or (rule == Rule(action=rule.action) and rule.action.value != "Log")


def describe_rule(rule: Rule) -> str:
    """Return a rule in words."""
    words = [rule.action.value.lower()]
    if rule.protocol is not None:
        words.append(str(rule.protocol).lower())
    words += _entity("from", rule.source)
    words += _entity("to", rule.destination)
    if len(words) == 1:
        words.append("everything")
    return " ".join(words)


def _entity(word: str, entity: EntityRule) -> list[str]:
    parts = [entity.selector] if entity.selector else []
    parts += [", ".join(entity.nets)] if entity.nets else []
    parts += [f"port {', '.join(map(str, entity.ports))}"] if entity.ports else []
    return [word, " ".join(parts)] if parts else []
