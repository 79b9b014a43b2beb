"""Which identity every address has, kept up to date from the members of sets.

Pure. An address's identity is a pair: the combination of sets that list it as a single address, and that of sets with
a network around it. The pairs that exist are what verdict tables are computed over, as bitmaps: each pair has a slot,
each set a bitmap of the pairs that are members. A member that comes or goes moves one address from pair to pair.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from collections.abc import Set as AbstractSet
from ipaddress import IPv6Address

from calico_engine.ruleset.classify.bitmaps import bits_of
from calico_engine.ruleset.classify.combinations import Combination, Combinations, Digest, digest_ids
from calico_engine.ruleset.classify.hosts import HostList
from calico_engine.ruleset.classify.journal import Journal, Numbers
from calico_engine.ruleset.classify.nets import Net, NetIndex, Resettled, pack_v4, parse_net
from calico_engine.ruleset.ir import Family, Identities

#: The slot of the world: every address that no set has.
WORLD_SLOT = 0
#: Addresses between two chances to pause.
_SLICE = 500
#: Begins the id of the set that a network in a rule stands for.
NET_PREFIX = "net:"


class Pair:
    """One identity: a host and a net combination, and the listed addresses that have it."""

    __slots__ = ("addresses", "host", "net", "numbers", "slot")

    def __init__(self, host: Combination, net: Combination) -> None:
        self.host = host
        self.net = net
        self.addresses: set[bytes] = set()
        #: The pair's numbers and place in the bitmaps, once it is announced.
        self.numbers: Numbers = (0, 0)
        self.slot = -1

    @property
    def set_ids(self) -> tuple[str, ...]:
        """The sets that the pair is a member of, sorted."""
        if not self.host.ids or not self.net.ids:
            return self.host.ids or self.net.ids
        return tuple(sorted({*self.host.ids, *self.net.ids}))


class _SetChange:
    """What is to become of one set: all its members, or some more and some less."""

    __slots__ = ("added", "removed", "whole")

    def __init__(self) -> None:
        self.whole: Collection[str] | None = None
        self.added: set[str] = set()
        self.removed: set[str] = set()


class _Work:
    """What one round of settling is about: addresses read so far, and the host combination each is to have."""

    __slots__ = ("packed", "pending")

    def __init__(self) -> None:
        self.packed: dict[str, bytes] = {}
        self.pending: dict[bytes, Combination] = {}


class IdentityIndex:
    """The identities of one family, from sets of members.

    Changes are noted and take effect in `settle`. `born` and `dead` then hold the pairs that came and went, and
    `renumbered` says whether any other's numbers changed, for whoever computes over pairs; he resets them.
    """

    def __init__(self, family: Family, digest: Digest = digest_ids) -> None:
        self._host_combinations = Combinations(digest)
        self._net_combinations = Combinations(digest)
        self._nets = NetIndex(family, self._net_combinations)
        self._is_v4 = family is Family.V4
        self._hosts: dict[bytes, Pair] = {}
        self._sorted_hosts = HostList(self._hosts)
        self._pairs: dict[tuple[Combination, Combination], Pair] = {}
        self._announced: dict[Numbers, Pair] = {}
        self._doubtful: dict[Pair, None] = {}
        self._changes: dict[str, _SetChange] = {}
        self._set_nets: dict[str, set[Net]] = {}
        self._bitmaps: dict[str, int] = {}
        self._known: dict[str, None] = {}
        self._free_slots: list[int] = []
        self._world = Pair(self._host_combinations.empty, self._net_combinations.empty)
        self._world.slot = WORLD_SLOT
        self._slots: list[Pair | None] = [self._world]
        self._pairs[self._world.host, self._world.net] = self._world
        self.journal = Journal()
        self.born: list[Pair] = []
        self.dead: list[Pair] = []
        self.renumbered = False
        self.identities = Identities(_HostView(self._hosts), self._nets.ranges, _MemberView(self))

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
            change.whole = (cidr.removesuffix("/32" if self._is_v4 else "/128"),)
        else:
            change.whole = ()

    # Reading

    def bitmap(self, set_id: str) -> int:
        """Return the pairs that are members of a set, one bit a slot."""
        return self._bitmaps.get(set_id, 0)

    def numbers_at(self, slot: int) -> Numbers:
        """Return the numbers of the pair in a slot."""
        pair = self._slots[slot]
        assert pair is not None
        return pair.numbers

    def has_pair(self, set_id: str, numbers: Numbers) -> bool:
        """Tell whether a pair exists and is a member of a set."""
        pair = self._announced.get(numbers)
        return (
            pair is not None and set_id in self._known and (set_id in pair.host.ids or set_id in pair.net.ids)
        )

    def members(self, set_id: str) -> frozenset[Numbers]:
        """Return the numbers of the pairs that are members of a set."""
        return frozenset(self.numbers_at(slot) for slot in bits_of(self.bitmap(set_id)))

    # Settling

    def settle(self) -> Iterator[None]:
        """Carry out what was noted, a slice a step. Must be run to its end before anything is read."""
        changes, self._changes = self._changes, {}
        work = _Work()
        for set_id, change in changes.items():
            yield from self._change_set(set_id, change, work)
            yield
        yield from self._settle_nets()
        yield from self._move_hosts(work.pending)
        self._settle_pairs()
        self._host_combinations.forget_unused()
        self._net_combinations.forget_unused()
        yield

    def _change_set(self, set_id: str, change: _SetChange, work: _Work) -> Iterator[None]:
        """Work out the new host combination of every address that comes into a set or leaves it."""
        texts_in, texts_out = change.added, change.removed
        if change.whole is not None:
            texts_in = set(change.whole) - texts_out | texts_in
        hosts_in: list[bytes] = []
        for done, text in enumerate(texts_in, 1):
            if "/" not in text:
                hosts_in.append(self._pack(text, work.packed))
            if not done % _SLICE:
                yield
        if change.whole is None:
            hosts_out = [self._pack(text, work.packed) for text in texts_out if "/" not in text]
        else:
            stay = set(hosts_in)
            hosts_out = [packed for packed in self._listed(set_id) if packed not in stay]
        yield from self._change_nets(set_id, change, texts_in)
        combinations = self._host_combinations
        pending = work.pending
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
        nets_in = {parse_net(text) for text in texts_in if "/" in text}
        if change.whole is None:
            nets_out = {parse_net(text) for text in change.removed if "/" in text}
        else:
            nets_out = own - nets_in
        for done, net in enumerate(nets_out, 1):
            self._nets.remove(set_id, net)
            if not done % _SLICE:
                yield
        for done, net in enumerate(nets_in, 1):
            self._nets.add(set_id, net)
            if not done % _SLICE:
                yield
        own -= nets_out
        own |= nets_in
        if not own:
            del self._set_nets[set_id]

    def _listed(self, set_id: str) -> Iterator[bytes]:
        """Yield the addresses that a set lists."""
        for slot in bits_of(self.bitmap(set_id)):
            pair = self._slots[slot]
            if pair is not None and set_id in pair.host.ids:
                yield from pair.addresses

    def _pack(self, text: str, packed: dict[str, bytes]) -> bytes:
        found = packed.get(text)
        if found is None:
            found = pack_v4(text) if self._is_v4 else IPv6Address(text).packed
            packed[text] = found
        return found

    def _settle_nets(self) -> Iterator[None]:
        """Make ranges afresh where networks changed, and move the listed addresses within to other pairs."""
        for resettled in self._nets.settle():
            self._note_ranges(resettled)
            for done, packed in enumerate(self._sorted_hosts.between(resettled.first, resettled.last), 1):
                pair = self._hosts[packed]
                net = self._nets.combination(packed)
                if net is not pair.net:
                    self._move(packed, pair, self._pair(pair.host, net))
                if not done % _SLICE:
                    yield
            yield

    def _note_ranges(self, resettled: Resettled) -> None:
        empty = self._host_combinations.empty
        for span, combination in resettled.gone:
            self.journal.note_range(span, combination.number)
            self._doubtful[self._pair(empty, combination)] = None
        for span, combination in resettled.new:
            self.journal.note_range(span, None)
            self._doubtful[self._pair(empty, combination)] = None

    def _move_hosts(self, pending: dict[bytes, Combination]) -> Iterator[None]:
        empty = self._host_combinations.empty
        for done, (packed, combination) in enumerate(pending.items(), 1):
            pair = self._hosts.get(packed)
            if combination is empty:
                if pair is not None:
                    self._move(packed, pair, None)
            elif pair is None or pair.host is not combination:
                net = self._nets.combination(packed) if pair is None else pair.net
                self._move(packed, pair, self._pair(combination, net))
            if not done % _SLICE:
                yield

    def _pair(self, host: Combination, net: Combination) -> Pair:
        pair = self._pairs.get((host, net))
        if pair is None:
            pair = self._pairs[host, net] = Pair(host, net)
            self._doubtful[pair] = None
        return pair

    def _move(self, packed: bytes, old: Pair | None, new: Pair | None) -> None:
        self.journal.note_host(packed, None if old is None else old.numbers[0])
        if old is None:
            self._sorted_hosts.add(packed)
        else:
            old.addresses.remove(packed)
            if not old.addresses:
                self._doubtful[old] = None
        if new is None:
            del self._hosts[packed]
        else:
            new.addresses.add(packed)
            self._hosts[packed] = new

    # Announcing pairs

    def _settle_pairs(self) -> None:
        """Withdraw pairs that no address has any more, announce new ones, and give both their numbers."""
        doubtful, self._doubtful = self._doubtful, {}
        exist = {pair for pair in doubtful if self._exists(pair)}
        fresh = [pair for pair in doubtful if pair in exist and pair.slot < 0]
        # Claims before releases: a combination in use all along keeps its number.
        for pair in fresh:
            self._host_combinations.claim(pair.host)
            self._net_combinations.claim(pair.net)
        for pair in doubtful:
            if pair not in exist:
                del self._pairs[pair.host, pair.net]
                if pair.slot >= 0:
                    self._withdraw(pair)
        moved = self._renumber()
        for pair in fresh:
            self._announce(pair)
        for pair in moved:
            self._publish(pair)

    def _exists(self, pair: Pair) -> bool:
        """Tell whether any address may have this identity: a listed one, or the rest of a range."""
        if pair.addresses or pair is self._world:
            return True
        return pair.host is self._host_combinations.empty and self._nets.spread[pair.net] > 0

    def _withdraw(self, pair: Pair) -> None:
        self._unpublish(pair)
        mask = ~(1 << pair.slot)
        for set_id in pair.set_ids:
            self._bitmaps[set_id] &= mask
            if not self._bitmaps[set_id]:
                del self._bitmaps[set_id]
        self._slots[pair.slot] = None
        self._free_slots.append(pair.slot)
        pair.slot = -1
        self.dead.append(pair)
        self._host_combinations.release(pair.host)
        self._net_combinations.release(pair.net)

    def _announce(self, pair: Pair) -> None:
        if self._free_slots:
            pair.slot = self._free_slots.pop()
            self._slots[pair.slot] = pair
        else:
            pair.slot = len(self._slots)
            self._slots.append(pair)
        bit = 1 << pair.slot
        for set_id in pair.set_ids:
            self._bitmaps[set_id] = self._bitmaps.get(set_id, 0) | bit
        self.born.append(pair)
        self._publish(pair)

    def _publish(self, pair: Pair) -> None:
        pair.numbers = (pair.host.number, pair.net.number)
        self._announced[pair.numbers] = pair
        for set_id in pair.set_ids:
            if not set_id.startswith(NET_PREFIX):
                self.journal.note_member(set_id, pair.numbers, was=False)

    def _unpublish(self, pair: Pair) -> None:
        del self._announced[pair.numbers]
        for set_id in pair.set_ids:
            if not set_id.startswith(NET_PREFIX):
                self.journal.note_member(set_id, pair.numbers, was=True)

    def _renumber(self) -> list[Pair]:
        """Give combinations whose digests clash their numbers; return the pairs this changed, unpublished."""
        changed = {
            combination: number
            for combinations in (self._host_combinations, self._net_combinations)
            for combination, number in combinations.renumber()
        }
        if not changed:
            return []
        self.renumbered = True
        moved = [
            pair for pair in self._slots if pair is not None and (pair.host in changed or pair.net in changed)
        ]
        for pair in moved:
            self._unpublish(pair)
            for packed in pair.addresses:
                self.journal.note_host(packed, pair.numbers[0])
        for span, combination in self._nets.all_ranges():
            if combination in changed:
                self.journal.note_range(span, combination.number)
        for combination, number in changed.items():
            combination.number = number
        return moved


class _HostView(Mapping[bytes, int]):
    """Listed addresses as a mapping to numbers."""

    def __init__(self, hosts: Mapping[bytes, Pair]) -> None:
        self._hosts = hosts

    def __getitem__(self, packed: bytes) -> int:
        return self._hosts[packed].numbers[0]

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._hosts)

    def __len__(self) -> int:
        return len(self._hosts)


class _MemberView(Mapping[str, AbstractSet[Numbers]]):
    """Sets as a mapping to the pairs that are their members."""

    def __init__(self, index: IdentityIndex) -> None:
        self._index = index

    def __getitem__(self, set_id: str) -> frozenset[Numbers]:
        if set_id not in self._index.known:
            raise KeyError(set_id)
        return self._index.members(set_id)

    def __iter__(self) -> Iterator[str]:
        return iter(self._index.known)

    def __len__(self) -> int:
        return len(self._index.known)
