"""Sets and maps: what is written is what nft reads, and what the dump gives back."""

import itertools
import json

import pytest
from tests.kernel.nftables.conftest import TABLE, Kernel

from calico_engine.errors import TransactionRefusedError
from calico_engine.ruleset.ir import Family, Level
from calico_engine.tables import set_content as content
from calico_engine.tables.backend import CATCH_ALL, Element, KeyPart, SetShape, ValueKind
from calico_engine_nftables import dump, messages
from calico_engine_nftables.elements import encode_deletions, encode_elements

pytestmark = pytest.mark.kernel(tools=("nft",), features=("nftables",))

HTTP = bytes((6, 0, 0, 0, 0, 80, 0, 0))
RANGES = SetShape((KeyPart.PROTOCOL, KeyPart.PORT), ValueKind.NUMBER, intervals=True)


def number(value: int) -> bytes:
    return value.to_bytes(4, "big")


def address(family: Family, last: int) -> bytes:
    """Return 10.0.x.x or fd00::x."""
    return (
        bytes((10, 0)) + last.to_bytes(2, "big")
        if family is Family.V4
        else b"\xfd" + last.to_bytes(15, "big")
    )


def spelled(family: Family, last: int) -> str:
    return f"10.0.{last >> 8}.{last & 255}" if family is Family.V4 else f"fd00::{last:x}"


def test_every_shape_is_read_by_nft_and_back(kernel: Kernel) -> None:
    family = kernel.family
    first, second = address(family, 1), address(family, 2)
    kernel.add_chain("cali-t")
    pair = number(5) + number(7)
    sets = {
        "hosts": (content.HOSTS, {first: Element(number(5), "web"), CATCH_ALL: Element(number(0))}),
        "nets": (content.NETS, {first + second: Element(number(7), "pool"), CATCH_ALL: Element(number(0))}),
        "pairs": (content.PAIRS, {pair: Element()}),
        "ports": (content.IP_PORTS, {first + HTTP: Element()}),
        "sources": (content.SOURCES, {b"cali1".ljust(16, b"\0") + first: Element(b"", "default/web")}),
        "dispatch": (content.DISPATCH, {b"cali1".ljust(16, b"\0"): Element(b"goto cali-t", "default/web")}),
        "ranges": (RANGES, {HTTP + bytes((6, 0, 0, 0, 0, 90, 0, 0)): Element(number(3))}),
        "T-ports": (content.LEVELS[Level.PORTS], {pair + HTTP: Element(b"return", "rule 1")}),
        "T-protocols": (content.LEVELS[Level.PROTOCOLS], {pair + HTTP[:4]: Element(b"jump cali-t")}),
        "T-world": (content.LEVELS[Level.WORLD], {HTTP[:4]: Element(b"accept"), CATCH_ALL: Element(b"drop")}),
    }

    for name, (shape, elements) in sets.items():
        kernel.add_set(name, shape, elements)

    for name, (shape, elements) in sets.items():
        assert (kernel.read_set(name).shape, kernel.read_set(name).elements) == (shape, elements), name
    listed = " ".join(kernel.nft("list", "ruleset").split())
    word = "ipv4_addr" if family is Family.V4 else "ipv6_addr"
    one, two = spelled(family, 1), spelled(family, 2)
    for text in (
        f'map hosts {{ type {word} : mark comment "about hosts" elements = {{ {one} comment "web" : 0x00000005, * :',
        f'type {word} : mark flags interval comment "about nets" elements = {{ {one}-{two} comment "pool" : 0x00000007',
        "type mark . mark comment",
        "elements = { 0x00000005 . 0x00000007 }",
        f"elements = {{ {one} . tcp . 80 }}",
        f'elements = {{ "cali1" . {one} comment "default/web" }}',
        'elements = { "cali1" comment "default/web" : goto cali-t }',
        "elements = { tcp . 80-90 : 0x00000003 }",
        'elements = { 0x00000005 . 0x00000007 . tcp . 80 comment "rule 1" : return }',
        "elements = { 0x00000005 . 0x00000007 . tcp : jump cali-t }",
        "elements = { tcp : accept, * : drop }",
    ):
        assert text in listed
    assert json.loads(kernel.nft("-j", "list", "ruleset"))


def test_elements_go_one_by_one(kernel: Kernel) -> None:
    ours = {address(kernel.family, i): Element(number(i)) for i in range(3)} | {CATCH_ALL: Element(number(9))}
    kernel.add_set("hosts", content.HOSTS, ours)

    for key in list(ours):
        kernel.delete("hosts", content.HOSTS, [key])
        del ours[key]
        assert kernel.read_set("hosts").elements == ours


def test_ten_thousand_elements_take_several_messages(kernel: Kernel) -> None:
    ours = {address(kernel.family, i): Element(number(i % 7), f"pod {i % 5}") for i in range(10_000)}
    ours[CATCH_ALL] = Element(number(0))

    kernel.add_set("hosts", content.HOSTS, ours)

    assert kernel.read_set("hosts").elements == ours
    kernel.delete("hosts", content.HOSTS, list(ours))
    assert kernel.read_set("hosts").elements == {}


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_ranges_side_by_side_come_and_go_in_any_order(kernel: Kernel, order: tuple[int, ...]) -> None:
    """The kernel keeps a range as two elements: neighbours must not lose each other's."""
    family = kernel.family
    last = b"\xff" * len(address(family, 0))
    bounds = [
        (address(family, 0), address(family, 9)),
        (address(family, 10), address(family, 10)),
        (address(family, 11), last),
    ]
    ranges = {first + end: Element(number(i + 1)) for i, (first, end) in enumerate(bounds)}
    keys = [list(ranges)[i] for i in order]
    kernel.add_set("nets", content.NETS)

    for count, key in enumerate(keys, 1):
        kernel.add("nets", content.NETS, {key: ranges[key]})
        assert kernel.read_set("nets").elements == {key: ranges[key] for key in keys[:count]}
    for count, key in enumerate(keys, 1):
        kernel.delete("nets", content.NETS, [key])
        assert kernel.read_set("nets").elements == {key: ranges[key] for key in keys[count:]}


def test_a_value_changes_in_one_transaction(kernel: Kernel) -> None:
    family = kernel.family
    first, second = address(family, 1), address(family, 9)
    for name, shape, key in (("hosts", content.HOSTS, first), ("nets", content.NETS, first + second)):
        kernel.add_set(name, shape, {key: Element(number(1)), CATCH_ALL: Element(number(1))})
        after = {key: Element(number(2), "new"), CATCH_ALL: Element(number(3))}

        kernel.commit(
            *encode_deletions(family, TABLE, name, shape, after),
            *encode_elements(family, TABLE, name, shape, after),
        )

        assert kernel.read_set(name).elements == after


@pytest.mark.parametrize(
    "definition",
    [
        "type inet_service",
        "type {word} . inet_service . inet_proto . mark . ifname",
        "type {word}; flags timeout",
        "type mark; flags dynamic",
        "type ether_addr",
    ],
)
def test_a_foreign_set_is_none_of_ours(kernel: Kernel, definition: str) -> None:
    """Whatever its type: it is read as a set, and told from every one that we make, or read as what it is."""
    word = "ipv4_addr" if kernel.family is Family.V4 else "ipv6_addr"
    made = definition.replace("{word}", word)

    kernel.nft("add", "set", kernel.family_word, TABLE, "theirs", f"{{ {made}; }}")

    (sets,) = kernel.socket.dump_now(dump.sets_request(kernel.family, TABLE))
    (head,) = dump.parse_sets(sets, kernel.family, TABLE)
    assert head.name == "theirs"
    ours = {content.HOSTS, content.NETS, content.DISPATCH, content.PAIRS, content.IP_PORTS, content.SOURCES}
    assert head.shape not in ours | set(content.LEVELS.values())


def test_what_somebody_adds_to_a_map_of_ours_is_seen(kernel: Kernel) -> None:
    kernel.add_set("hosts", content.HOSTS, {CATCH_ALL: Element(number(0))})
    one = spelled(kernel.family, 1)

    kernel.nft("add", "element", kernel.family_word, TABLE, "hosts", f"{{ {one} : 0x5 }}")

    assert kernel.read_set("hosts").elements == {
        CATCH_ALL: Element(number(0)),
        address(kernel.family, 1): Element(number(5)),
    }


def test_ranges_that_nft_writes_are_read_alike(kernel: Kernel) -> None:
    """nft leaves out the end of a range where the next begins."""
    kernel.add_set("nets", content.NETS)
    names = [spelled(kernel.family, last) for last in (0, 9, 10, 19)]

    elements = f"{{ {names[0]}-{names[1]} : 0x1, {names[2]}-{names[3]} : 0x2 }}"
    kernel.nft("add", "element", kernel.family_word, TABLE, "nets", elements)

    keys = [address(kernel.family, last) for last in (0, 9, 10, 19)]
    assert kernel.read_set("nets").elements == {
        keys[0] + keys[1]: Element(number(1)),
        keys[2] + keys[3]: Element(number(2)),
    }


@pytest.mark.parametrize(
    ("key", "element", "problem"),
    [
        (b"abc", Element(number(1)), "bytes, must be"),
        (None, Element(b"x"), "a number has 4"),
    ],
)
def test_what_is_of_another_shape_is_refused(
    kernel: Kernel, key: bytes | None, element: Element, problem: str
) -> None:
    kernel.add_set("hosts", content.HOSTS)

    for elements in ({}, {address(kernel.family, i): Element(number(1)) for i in range(100)}):
        with pytest.raises(ValueError, match=problem):
            kernel.add("hosts", content.HOSTS, {**elements, key or address(kernel.family, 200): element})


def test_a_set_of_limited_size_says_so_when_it_is_full(kernel: Kernel) -> None:
    made = messages.new_set(kernel.family, TABLE, "hosts", content.HOSTS, size=2)
    kernel.commit(made)

    with pytest.raises(TransactionRefusedError, match="the set is full"):
        kernel.add("hosts", content.HOSTS, {address(kernel.family, i): Element(number(1)) for i in range(3)})
    assert "size 2" in kernel.nft("list", "ruleset")
