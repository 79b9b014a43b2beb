"""The identities that exist, each with its numbers, and which sets each is a member of.

Pure. An identity is a pair of combinations. It exists as long as a listed address has it, or the rest of a range. Each
has a slot, each set a bitmap of the slots of its members: what verdict tables are computed with.
"""

from __future__ import annotations

from collections.abc import Iterator

from calico_engine.ruleset.classify.bitmaps import bits_of
from calico_engine.ruleset.classify.combinations import Combination, Combinations, Digest
from calico_engine.ruleset.classify.journal import Journal, Numbers
from calico_engine.ruleset.classify.nets import NetIndex
from calico_engine.ruleset.ir import Family

#: The slot of the world: every address that no set has.
WORLD_SLOT = 0
#: Begins the id of the set that a network in a rule stands for.
NET_PREFIX = "net:"
#: Pairs between two chances to pause.
_SLICE = 200


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


class PairIndex:
    """All pairs of one family.

    Pairs whose addresses or ranges changed are `doubt`ed; `settle` withdraws those that are no more and announces new
    ones. `born` and `dead` then hold what came and went, and `renumbered` says whether any other's numbers changed,
    for whoever computes over pairs; he resets them.
    """

    def __init__(self, family: Family, digest: Digest, journal: Journal) -> None:
        self.hosts = Combinations(digest)
        self.nets = Combinations(digest)
        self.ranges = NetIndex(family, self.nets)
        self.world = Pair(self.hosts.empty, self.nets.empty)
        self.world.slot = WORLD_SLOT
        self.born: list[Pair] = []
        self.dead: list[Pair] = []
        self.renumbered = False
        self._journal = journal
        self._pairs = {(self.world.host, self.world.net): self.world}
        self._doubtful: dict[Pair, None] = {}
        self._announced: dict[Numbers, Pair] = {}
        self._slots: list[Pair | None] = [self.world]
        self._free_slots: list[int] = []
        self._bitmaps: dict[str, int] = {}

    def pair(self, host: Combination, net: Combination) -> Pair:
        """Return the pair of two combinations; a new one is yet to be announced."""
        pair = self._pairs.get((host, net))
        if pair is None:
            pair = self._pairs[host, net] = Pair(host, net)
            self._doubtful[pair] = None
        return pair

    def doubt(self, pair: Pair) -> None:
        """Note that a pair may have begun or ceased to exist."""
        self._doubtful[pair] = None

    # Reading

    def bitmap(self, set_id: str) -> int:
        """Return the pairs that are members of a set, one bit a slot."""
        return self._bitmaps.get(set_id, 0)

    def numbers_at(self, slot: int) -> Numbers:
        """Return the numbers of the pair in a slot."""
        pair = self._slots[slot]
        assert pair is not None
        return pair.numbers

    def exists(self, numbers: Numbers) -> bool:
        """Tell whether any address has this identity."""
        return numbers in self._announced

    def has_pair(self, set_id: str, numbers: Numbers) -> bool:
        """Tell whether a pair exists and is a member of a set."""
        pair = self._announced.get(numbers)
        return pair is not None and (set_id in pair.host.ids or set_id in pair.net.ids)

    def members(self, set_id: str) -> frozenset[Numbers]:
        """Return the numbers of the pairs that are members of a set."""
        return frozenset(self.numbers_at(slot) for slot in bits_of(self.bitmap(set_id)))

    def listed(self, set_id: str) -> Iterator[bytes]:
        """Yield the addresses that a set lists."""
        for slot in bits_of(self.bitmap(set_id)):
            pair = self._slots[slot]
            if pair is not None and set_id in pair.host.ids:
                yield from pair.addresses

    # Settling

    def settle(self) -> Iterator[None]:
        """Withdraw pairs that no address has any more, announce new ones, and give both their numbers."""
        doubtful, self._doubtful = self._doubtful, {}
        exist = {pair for pair in doubtful if self._exists(pair)}
        fresh = [pair for pair in doubtful if pair in exist and pair.slot < 0]
        # Claims before releases: a combination in use all along keeps its number.
        for done, pair in enumerate(fresh, 1):
            self.hosts.claim(pair.host)
            self.nets.claim(pair.net)
            if not done % _SLICE:
                yield
        for done, pair in enumerate(doubtful, 1):
            if pair not in exist:
                del self._pairs[pair.host, pair.net]
                if pair.slot >= 0:
                    self._withdraw(pair)
            if not done % _SLICE:
                yield
        # Numbers are free before others get them, so that what is noted of a number's past stays true.
        moved = self._renumber()
        for pair in moved:
            self._publish(pair)
        for done, pair in enumerate(fresh, 1):
            self._announce(pair)
            if not done % _SLICE:
                yield
        self.hosts.forget_unused()
        self.nets.forget_unused()

    def _exists(self, pair: Pair) -> bool:
        """Tell whether any address may have this identity: a listed one, or the rest of a range."""
        if pair.addresses or pair is self.world:
            return True
        return pair.host is self.hosts.empty and self.ranges.spread[pair.net] > 0

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
        self.hosts.release(pair.host)
        self.nets.release(pair.net)

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
                self._journal.note_member(set_id, pair.numbers, was=False)

    def _unpublish(self, pair: Pair) -> None:
        del self._announced[pair.numbers]
        for set_id in pair.set_ids:
            if not set_id.startswith(NET_PREFIX):
                self._journal.note_member(set_id, pair.numbers, was=True)

    def _renumber(self) -> list[Pair]:
        """Give combinations whose digests clash their numbers; return the pairs this changed, unpublished."""
        changed = {
            combination: number
            for combinations in (self.hosts, self.nets)
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
                self._journal.note_host(packed, pair.numbers[0])
        for span, combination in self.ranges.all_ranges():
            if combination in changed:
                self._journal.note_range(span, combination.number)
        for combination, number in changed.items():
            combination.number = number
        return moved
