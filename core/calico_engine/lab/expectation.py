"""Know what an engine must know: the messages its calculation makes of the manifests.

The lab computes them by the same graph, so that it can wait for exactly this state instead of for a while.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

import msgspec

from calico_engine.calc import CalcGraph
from calico_engine.model import Resource
from calico_engine.plugin.protocols import SyncStatus, Update

#: Told by the kernel or by configuration, not by the manifests.
_OTHERS = frozenset({"ConfigUpdate", "InterfaceUpdate", "InterfaceRemove"})


def expected_messages(node: str, resources: Iterable[Resource]) -> frozenset[str]:
    """Return, as canonical JSON, the messages that say all the resources mean for a node."""
    graph = CalcGraph(node)
    graph.on_updates([Update(key=resource.key, resource=resource) for resource in resources])
    graph.on_status(SyncStatus.IN_SYNC)
    batch = graph.flush()
    messages = batch.messages if batch is not None else ()
    return frozenset(
        _canonical({"message": type(message).__name__, **msgspec.to_builtins(message, enc_hook=str)})
        for message in messages
        if type(message).__name__ not in _OTHERS
    )


def describe_difference(expected: frozenset[str], dump: bytes) -> str:
    """Return what an engine's `dump?what=state` lacks or has too much, "" when it is as expected."""
    messages = json.loads(dump).get("messages", [])
    found = frozenset(_canonical(message) for message in messages if message.get("message") not in _OTHERS)
    missing, extra = sorted(expected - found), sorted(found - expected)
    if missing:
        return f"{len(missing)} of {len(expected)} messages missing, first {missing[0][:200]}"
    return f"{len(extra)} messages too many, first {extra[0][:200]}" if extra else ""


def _canonical(message: dict[str, object]) -> str:
    return json.dumps(_sorted_sets(message), sort_keys=True)


def _sorted_sets(value: object) -> object:
    """Members of a set come in any order; those of the other lists say something."""
    if isinstance(value, dict):
        return {
            key: sorted(inner) if key == "members" and isinstance(inner, list) else _sorted_sets(inner)
            for key, inner in value.items()
        }
    return [_sorted_sets(inner) for inner in value] if isinstance(value, list) else value
