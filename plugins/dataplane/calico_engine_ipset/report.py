"""What would be done and what should be there, for people. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set

from calico_engine.kernel.set_rows import unpack_members
from calico_engine.plugin.protocols import Change
from calico_engine_ipset.desired import DesiredSets
from calico_engine_ipset.kernel_set import compare
from calico_engine_ipset.row_set import count_rows
from calico_engine_ipset.saved_set import SavedSet
from calico_engine_ipset.text import fill_text


def plan_changes(
    desired: DesiredSets, found: Mapping[str, SavedSet], unreadable: Set[str]
) -> Sequence[Change]:
    """Return what an apply and a prune would change of what was read back."""
    changes: list[Change] = []
    wanted: set[str] = set()
    for set_id, known in sorted(desired.sets.items()):
        name = desired.name(set_id)
        wanted.add(name)
        saved = found.get(name)
        if saved is None or saved.shape != desired.shape(set_id):
            changes.append(Change("+", name, f"{len(known.desired)} members"))
            continue
        difference = compare(known.desired.rows(), saved.rows)
        if difference.missing or difference.extra:
            added, deleted = count_rows(difference.missing), count_rows(difference.extra)
            changes.append(Change("~", name, f"+{added} -{deleted} members"))
    gone = sorted(name for name in (set(found) | unreadable) - wanted if desired.is_ours(name))
    return [*changes, *(Change("-", name, "not used any more") for name in gone)]


def render_sets(desired: DesiredSets) -> str:
    """Return the lines of `ipset restore` that make all sets."""
    return "".join(
        fill_text(desired.name(set_id), desired.shape(set_id), sorted(unpack_members(known.desired.rows())))
        for set_id, known in sorted(desired.sets.items())
        if not desired.is_oversize(set_id)
    )
