"""Which identity every address has, kept up to date from the members of sets.

Pure. An address's identity is a pair: the combination of sets that list it as a single address, and that of sets with
a network around it. A member that comes or goes moves one address from pair to pair.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from itertools import islice

from calico_engine.ruleset.classify.combinations import Combination, Digest, digest_ids
from calico_engine.ruleset.classify.hosts import HostList
from calico_engine.ruleset.classify.journal import Journal, Numbers
from calico_engine.ruleset.classify.nets import Net, RangeView, Resettled, pack_addresses, parse_net
from calico_engine.ruleset.classify.pairs import Pair, PairIndex
from calico_engine.ruleset.ir import Family, Identities

#: Addresses between two chances to pause.
_SLICE = 500


class _SetChange:
    """What is to become of one set: all its members, or some more and some less."""

    __slots__ = ("added", "removed", "whole")

    def __init__(self) -> None:
        self.whole: Collection[str] | None = None
        self.added: set[str] = set()
        self.removed: set[str] = set()


class IdentityIndex:
    """The identities of one family, from sets of members.

    Changes are noted and take effect in `settle`.
    """

    def __init__(self, family: Family, digest: Digest = digest_ids) -> None:
        self.journal = Journal()
        self.pairs = PairIndex(family, digest, self.journal)
        self._ranges = self.pairs.ranges
        self._family = family
        self._hosts: dict[bytes, Pair] = {}
        self._sorted_hosts = HostList(self._hosts)
        self._changes: dict[str, _SetChange] = {}
        self._set_nets: dict[str, set[Net]] = {}
        self._known: dict[str, None] = {}
        self.identities = Identities(
            _HostView(self._hosts), RangeView(self._ranges), _MemberView(self._known, self.pairs)
        )

    # Noting changes

    @property
    def is_dirty(self) -> bool:
        return bool(self._changes)

    @property
    def known(self) -> AbstractSet[str]:
        """The sets that there are, be they empty."""
        return self._known.keys()

    def set_members(self, set_id: str, members: Collection[str] | None) -> None:
        """Note all members of a set; None when the set is gone. `members` is kept and must not change."""
        if (members is not None) != (set_id in self._known):
            self.journal.note_set(set_id)
            if members is None:
                del self._known[set_id]
            else:
                self._known[set_id] = None
        change = self._changes[set_id] = _SetChange()
        change.whole = members or ()

    def change_members(self, set_id: str, added: Collection[str], removed: Collection[str]) -> None:
        """Note members of a known set that came and went."""
        if set_id not in self._known:
            return
        change = self._changes.setdefault(set_id, _SetChange())
        change.removed.update(removed)
        change.removed.difference_update(added)
        change.added.difference_update(removed)
        change.added.update(added)

    def set_net(self, net_id: str, cidr: str | None) -> None:
        """Note a network that rules name: a set for bitmaps, but none that is known to others."""
        change = self._changes[net_id] = _SetChange()
        if cidr is not None:
            # One address is a listed address, as in the members of other sets.
            change.whole = (cidr.removesuffix("/32" if self._family is Family.V4 else "/128"),)
        else:
            change.whole = ()

    # Settling

    def settle(self) -> Iterator[None]:
        """Carry out what was noted, a slice a step. Must be run to its end before anything is read."""
        changes, self._changes = self._changes, {}
        # The host combination each address is to have.
        pending: dict[bytes, Combination] = {}
        for set_id, change in changes.items():
            yield from self._change_set(set_id, change, pending)
            yield
        yield from self._settle_nets()
        yield from self._move_hosts(pending)
        yield from self.pairs.settle()

    def _change_set(
        self, set_id: str, change: _SetChange, pending: dict[bytes, Combination]
    ) -> Iterator[None]:
        """Work out the new host combination of every address that comes into a set or leaves it."""
        texts_in, texts_out = change.added, change.removed
        if change.whole is not None:
            texts_in = set(change.whole) - texts_out | texts_in
        hosts_in: list[bytes] = []
        for texts in _slices(text for text in texts_in if "/" not in text):
            hosts_in += pack_addresses(texts, self._family)
            yield
        if change.whole is None:
            hosts_out = pack_addresses([text for text in texts_out if "/" not in text], self._family)
        else:
            stay = set(hosts_in)
            hosts_out = [packed for packed in self.pairs.listed(set_id) if packed not in stay]
        yield from self._change_nets(set_id, change, texts_in)
        combinations = self.pairs.hosts
        for hosts, step in ((hosts_out, combinations.without_set), (hosts_in, combinations.with_set)):
            for done, packed in enumerate(hosts, 1):
                combination = pending.get(packed)
                if combination is None:
                    pair = self._hosts.get(packed)
                    combination = combinations.empty if pair is None else pair.host
                pending[packed] = step(combination, set_id)
                if not done % _SLICE:
                    yield

    def _change_nets(self, set_id: str, change: _SetChange, texts_in: AbstractSet[str]) -> Iterator[None]:
        own = self._set_nets.setdefault(set_id, set())
        nets_in: set[Net] = set()
        for done, text in enumerate(texts_in, 1):
            if "/" in text:
                nets_in.add(parse_net(text))
            if not done % _SLICE:
                yield
        if change.whole is None:
            nets_out = {parse_net(text) for text in change.removed if "/" in text}
        else:
            nets_out = own - nets_in
        for done, net in enumerate(nets_out, 1):
            self._ranges.remove(set_id, net)
            if not done % _SLICE:
                yield
        for done, net in enumerate(nets_in, 1):
            self._ranges.add(set_id, net)
            if not done % _SLICE:
                yield
        own -= nets_out
        own |= nets_in
        if not own:
            del self._set_nets[set_id]

    def _settle_nets(self) -> Iterator[None]:
        """Make ranges afresh where networks changed, and move the listed addresses within to other pairs."""
        for resettled in self._ranges.settle():
            self._note_ranges(resettled)
            for done, packed in enumerate(self._sorted_hosts.between(resettled.first, resettled.last), 1):
                pair = self._hosts[packed]
                net = self._ranges.combination(packed)
                if net is not pair.net:
                    self._move(packed, pair, self.pairs.pair(pair.host, net))
                if not done % _SLICE:
                    yield
            yield

    def _note_ranges(self, resettled: Resettled) -> None:
        empty = self.pairs.hosts.empty
        for span, combination in resettled.gone:
            self.journal.note_range(span, combination.number)
            self.pairs.doubt(self.pairs.pair(empty, combination))
        for span, combination in resettled.new:
            self.journal.note_range(span, None)
            self.pairs.doubt(self.pairs.pair(empty, combination))

    def _move_hosts(self, pending: dict[bytes, Combination]) -> Iterator[None]:
        empty = self.pairs.hosts.empty
        for done, (packed, combination) in enumerate(pending.items(), 1):
            pair = self._hosts.get(packed)
            if combination is empty:
                if pair is not None:
                    self._move(packed, pair, None)
            elif pair is None or pair.host is not combination:
                net = self._ranges.combination(packed) if pair is None else pair.net
                self._move(packed, pair, self.pairs.pair(combination, net))
            if not done % _SLICE:
                yield

    def _move(self, packed: bytes, old: Pair | None, new: Pair | None) -> None:
        self.journal.note_host(packed, None if old is None else old.numbers[0])
        if old is None:
            self._sorted_hosts.add(packed)
        else:
            old.addresses.remove(packed)
            if not old.addresses:
                self.pairs.doubt(old)
        if new is None:
            del self._hosts[packed]
        else:
            new.addresses.add(packed)
            self._hosts[packed] = new


def _slices(texts: Iterable[str]) -> Iterator[list[str]]:
    remaining = iter(texts)
    while some := list(islice(remaining, _SLICE)):
        yield some


class _HostView(Mapping[bytes, int]):
    """Listed addresses as a mapping to numbers."""

    def __init__(self, hosts: Mapping[bytes, Pair]) -> None:
        self._hosts = hosts

    def __getitem__(self, packed: bytes) -> int:
        return self._hosts[packed].numbers[0]

    def get(self, packed: bytes, default: int | None = None, /) -> int | None:  # type: ignore[override]  # one form
        # Without an exception for each that is not there.
        pair = self._hosts.get(packed)
        return default if pair is None else pair.numbers[0]

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._hosts)

    def __len__(self) -> int:
        return len(self._hosts)


class _MemberView(Mapping[str, AbstractSet[Numbers]]):
    """Sets as a mapping to the pairs that are their members."""

    def __init__(self, known: Mapping[str, None], pairs: PairIndex) -> None:
        self._known = known
        self._pairs = pairs

    def __getitem__(self, set_id: str) -> frozenset[Numbers]:
        self._known[set_id]
        return self._pairs.members(set_id)

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)
