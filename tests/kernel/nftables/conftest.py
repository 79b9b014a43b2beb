"""A table of ours in a fresh network namespace, written by the codec alone and read back by the nft program."""

import json
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest

from calico_engine.kernel.namespaces import NetworkNamespace
from calico_engine.kernel.nfnetlink import TransactionSocket
from calico_engine.ruleset.ir import ChainKey, Family, Hook, Layer, Rule
from calico_engine.tables.backend import ActualSet, Element, SetShape
from calico_engine.tables.single_table import chain_name
from calico_engine_nftables import dump, messages
from calico_engine_nftables.elements import encode_deletions, encode_elements
from calico_engine_nftables.expressions import rule_bytes

TABLE = "calico"


class Kernel:
    """One table of one family. Chains and sets are made as they are first used."""

    def __init__(self, namespace: NetworkNamespace, family: Family) -> None:
        self.namespace = namespace
        self.family = family
        self.socket = TransactionSocket()
        namespace.run(self.socket.open)
        self.commit(messages.new_table(family, TABLE))

    def commit(self, *parts: bytes) -> None:
        self.socket.commit_now(b"".join(parts))

    def add_set(self, name: str, shape: SetShape, elements: Mapping[bytes, Element] | None = None) -> None:
        self.commit(messages.new_set(self.family, TABLE, name, shape, note=f"about {name}"))
        self.add(name, shape, elements or {})

    def add(self, name: str, shape: SetShape, elements: Mapping[bytes, Element]) -> None:
        self.commit(*encode_elements(self.family, TABLE, name, shape, elements))

    def delete(self, name: str, shape: SetShape, keys: Sequence[bytes]) -> None:
        self.commit(*encode_deletions(self.family, TABLE, name, shape, keys))

    def add_chain(self, *names: str) -> None:
        self.commit(*(messages.new_chain(self.family, TABLE, name) for name in names))

    def add_hook(self, layer: Layer, hook: Hook) -> ChainKey:
        key = ChainKey(layer, hook.value)
        self.commit(messages.new_base_chain(self.family, TABLE, chain_name(key), layer, hook))
        return key

    def add_rules(self, key: ChainKey, rules: Sequence[Rule]) -> None:
        """Append rules, each with its number for a comment."""
        found = [
            messages.new_rule(self.family, TABLE, chain_name(key), spelled, note=str(number))
            for number, rule in enumerate(rules)
            for spelled in rule_bytes(rule, key, self.family)
        ]
        self.commit(*found)

    def read_set(self, name: str) -> ActualSet:
        """Return a set, once the kernel has stopped making its table larger."""
        before = None
        for _ in range(50):
            (sets,) = self.socket.dump_now(dump.sets_request(self.family, TABLE))
            heads = {head.name: head for head in dump.parse_sets(sets, self.family, TABLE)}
            (elements,) = self.socket.dump_now(dump.elements_request(self.family, TABLE, name))
            found = dump.parse_elements(elements, self.family, heads[name].shape)
            if dump.is_whole(heads[name], found.elements, before):
                return found
            before = len(found.elements)
        raise AssertionError(f"{name} is never read whole")

    def nft(self, *words: str) -> str:
        return self.run("nft", *words)

    def run(self, *argv: str) -> str:
        """Return what a program prints; it must neither fail nor complain."""
        done = self.namespace.run(lambda: subprocess.run(argv, capture_output=True, text=True))
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    def listed_rules(self, chain: str) -> dict[int, list[str]]:
        """Return what nft says of each numbered rule, without counter and comment."""
        found: dict[int, list[str]] = {}
        for line in self.nft("list", "chain", self.family_word, TABLE, chain).splitlines():
            rule, mark, number = line.strip().rpartition(" comment ")
            if mark:
                words = rule.replace("counter packets 0 bytes 0", "").split()
                found.setdefault(int(number.strip('"')), []).append(" ".join(words))
        return found

    def counters(self, chain: str) -> dict[int, int]:
        """Return how many packets each numbered rule has counted."""
        found: dict[int, int] = {}
        for item in self.json("chain", chain):
            if rule := item.get("rule"):
                packets = [word["counter"]["packets"] for word in rule["expr"] if "counter" in word]
                found[int(rule["comment"])] = found.get(int(rule["comment"]), 0) + sum(packets)
        return found

    def json(self, noun: str, name: str) -> list[dict[str, Any]]:
        listed = json.loads(self.nft("-j", "list", noun, self.family_word, TABLE, name))["nftables"]
        assert isinstance(listed, list)
        return listed

    def add_address(self, address: str) -> None:
        """Give lo an address, and wait until it is this host's own: for IPv6 the kernel does that a moment later."""
        version = "-4" if self.family is Family.V4 else "-6"
        self.run("ip", version, "address", "add", address, "dev", "lo")
        end = time.monotonic() + 5.0
        while f"local {address} " not in self.run("ip", version, "route", "show", "table", "local"):
            assert time.monotonic() < end, f"{address} never becomes local"

    @property
    def family_word(self) -> str:
        return "ip" if self.family is Family.V4 else "ip6"


@pytest.fixture
def namespace() -> Iterator[NetworkNamespace]:
    with NetworkNamespace.create() as made:
        made.run(lambda: subprocess.run(["ip", "link", "set", "lo", "up"], check=True))
        yield made


@pytest.fixture(params=list(Family), ids=["v4", "v6"])
def kernel(namespace: NetworkNamespace, request: pytest.FixtureRequest) -> Iterator[Kernel]:
    made = Kernel(namespace, request.param)
    yield made
    made.socket.close()
