"""Which addresses are in which active set, and what changed since the last flush.

Membership is not stored: a set's members are the contributions of the items in the classes its selector matches. A
new set is told whole; of an old one only the differences are, found by asking before and after every move of an
item whether its contributions are there by anybody. An address that two endpoints share stays until both are gone.
Pure. Source: felix/labelindex/named_port_index.go for what an item contributes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain

from calico_engine.calc.label_classes import Item, LabelClass, Query
from calico_engine.calc.label_index import LabelIndex
from calico_engine.calc.rule_scanner import ANY_PROTOCOL, SetSpec
from calico_engine.messages import IPSetDelta, IPSetRemove, IPSetUpdate

# From here on it pays to enter an item's addresses at once.
_MANY = 8


class SetMembers:
    """All endpoints and network sets of the cluster in; whole sets, differences and removals out."""

    def __init__(self) -> None:
        self._index: LabelIndex[SetSpec] = LabelIndex(self._on_move)
        #: Enter or replace an endpoint or network set; take it out. Not wrapped: called for all of the cluster.
        self.put = self._index.put
        self.drop = self._index.drop
        # Who has an address: one item, or a list where several share it.
        self._holders: dict[str, Item | list[Item]] = {}
        self._queries: dict[str, Query[SetSpec]] = {}
        self._live: dict[str, SetSpec] = {}
        self._touched: dict[str, dict[str, bool]] = {}

    @property
    def selector_count(self) -> int:
        """How many different selectors are in use by rules."""
        return len(self._index.queries)

    def put_profile_labels(self, name: str, labels: Mapping[str, str] | None) -> None:
        """Give a profile the labels that its items inherit; None when it is gone."""
        self._index.set_parent(name, labels)

    def flush(
        self, added: Iterable[SetSpec], removed: Iterable[SetSpec]
    ) -> tuple[list[IPSetUpdate | IPSetDelta], list[IPSetRemove]]:
        """Bring membership up to date; `added` and `removed` say which sets come into and go out of use.

        Returns: what is to be said of sets in use, and of those no longer in use.
        """
        removals = [self._stop(spec) for spec in removed]
        new = {spec.set_id: spec for spec in added}
        for spec in new.values():
            if not spec.service:
                self._queries[spec.set_id] = self._index.add_query(spec.selector, spec)
        self._index.flush()
        self._index.take_touched()
        updates: list[IPSetUpdate | IPSetDelta] = [
            IPSetUpdate(set_id=spec.set_id, kind=spec.kind, members=self._members(spec))
            for spec in new.values()
        ]
        updates += self._take_deltas()
        self._live.update(new)
        return updates, removals

    def _stop(self, spec: SetSpec) -> IPSetRemove:
        del self._live[spec.set_id]
        if not spec.service:
            del self._queries[spec.set_id]
            self._index.remove_query(spec.selector, spec)
        return IPSetRemove(set_id=spec.set_id)

    def _members(self, spec: SetSpec) -> frozenset[str]:
        query = self._queries.get(spec.set_id)
        if query is None:
            return frozenset()
        items = chain.from_iterable([each.items for each in query.classes.values()])
        if spec.port_name:
            found = [_port_members(spec, item) for item in items if item.ports]
            return frozenset(chain.from_iterable(found))
        return frozenset(chain.from_iterable([item.members for item in items]))

    def _take_deltas(self) -> list[IPSetDelta]:
        deltas: list[IPSetDelta] = []
        for set_id, members in self._touched.items():
            spec = self._live[set_id]
            added: list[str] = []
            removed: list[str] = []
            for member, was_there in members.items():
                if self._is_there(spec, member) is not was_there:
                    (removed if was_there else added).append(member)
            if added or removed:
                deltas.append(IPSetDelta(set_id=set_id, added=frozenset(added), removed=frozenset(removed)))
        self._touched.clear()
        return deltas

    # -- moves ---------------------------------------------------------------------------------------------------

    def _on_move(
        self, item: Item, before: LabelClass[SetSpec] | None, after: LabelClass[SetSpec] | None
    ) -> None:
        if self._live:
            old = before.matched if before is not None else frozenset()
            new = after.matched if after is not None else frozenset()
            for query in old ^ new:
                for spec in query.users:
                    if spec.set_id in self._live:
                        self._touch(spec, item)
        if before is None:
            self._hold(item)
        elif after is None:
            self._release(item)

    def _touch(self, spec: SetSpec, item: Item) -> None:
        """Remember for each of the item's contributions whether it was there before this round."""
        known = self._touched.setdefault(spec.set_id, {})
        for member in _port_members(spec, item) if spec.port_name else item.members:
            if member not in known:
                known[member] = self._is_there(spec, member)

    def _is_there(self, spec: SetSpec, member: str) -> bool:
        """Return whether anybody contributes a member now."""
        holders = self._holders.get(member.partition(",")[0])
        if holders is None:
            return False
        classes = self._queries[spec.set_id].classes
        for item in holders if isinstance(holders, list) else (holders,):
            if item.class_number in classes and (not spec.port_name or member in _port_members(spec, item)):
                return True
        return False

    def _hold(self, item: Item) -> None:
        holders = self._holders
        if len(item.members) > _MANY and holders.keys().isdisjoint(item.members):
            holders.update(dict.fromkeys(item.members, item))
            return
        for member in item.members:
            known = holders.setdefault(member, item)
            if known is not item:
                if isinstance(known, list):
                    known.append(item)
                else:
                    holders[member] = [known, item]

    def _release(self, item: Item) -> None:
        for member in item.members:
            known = self._holders[member]
            if isinstance(known, list):
                known.remove(item)
                if len(known) == 1:
                    self._holders[member] = known[0]
            else:
                del self._holders[member]


def _port_members(spec: SetSpec, item: Item) -> list[str]:
    """Return what an item contributes to a set of named ports: each address with each matching port."""
    found: list[str] = []
    for name, protocol, number in item.ports:
        if name == spec.port_name and spec.port_protocol in (protocol, ANY_PROTOCOL):
            found += [f"{member.partition('/')[0]},{protocol}:{number}" for member in item.members]
    return found
