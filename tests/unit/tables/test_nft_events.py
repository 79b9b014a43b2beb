"""Which of the kernel's nftables events are somebody else's changes to what is ours."""

import socket
import struct

import pytest

from calico_engine.ruleset.ir import Family
from calico_engine_iptables.events import NftEvents

OURS, THEIRS = 100, 200
NEW_RULE, DEL_RULE, NEW_CHAIN, DEL_TABLE, NEW_SET, NEW_GENERATION = 6, 8, 3, 2, 9, 15


def attribute(kind: int, value: bytes) -> bytes:
    length = 4 + len(value)
    return struct.pack("=HH", length, kind) + value + b"\0" * (-length % 4)


def message(kind: int, process: int, *attributes: bytes, family: int = socket.AF_INET) -> bytes:
    body = struct.pack("=BBH", family, 0, 0) + b"".join(attributes)
    return struct.pack("=IHHII", 16 + len(body), 10 << 8 | kind, 0, 0, process) + body


def rule(
    chain: str, process: int = THEIRS, table: str = "filter", kind: int = NEW_RULE, **fields: int
) -> bytes:
    names = attribute(1, table.encode() + b"\0"), attribute(2, chain.encode() + b"\0")
    return message(kind, process, *names, **fields)


def end(process: int = THEIRS) -> bytes:
    return message(NEW_GENERATION, process, attribute(2, struct.pack("!I", process)))


@pytest.fixture
def heard() -> list[str]:
    return []


@pytest.fixture
def events(heard: list[str]) -> NftEvents:
    made = NftEvents(Family.V4, heard.append)
    made.ignore_process(OURS)
    return made


def test_foreign_transaction_is_told_of_once_at_its_end(events: NftEvents, heard: list[str]) -> None:
    events.feed(rule("cali-FORWARD") + rule("INPUT", kind=DEL_RULE))
    before_end = list(heard)
    events.feed(end())

    assert before_end == []
    assert heard == ["chain cali-FORWARD of filter changed"]


@pytest.mark.parametrize(
    "data",
    [
        rule("cali-FORWARD", OURS) + end(OURS),
        rule("KUBE-SERVICES") + end(),
        rule("cali-FORWARD", table="mine") + end(),
        rule("cali-FORWARD", family=socket.AF_INET6) + end(),
        message(NEW_SET, THEIRS, attribute(1, b"filter\0"), attribute(2, b"cali-x\0")) + end(),
        end(),
        b"\0" * 7,
    ],
)
def test_what_is_ours_or_none_of_ours_is_not_told(data: bytes, events: NftEvents, heard: list[str]) -> None:
    events.feed(data)

    assert heard == []


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (message(DEL_TABLE, THEIRS, attribute(1, b"nat\0")), "table nat was deleted"),
        (
            message(NEW_CHAIN, THEIRS, attribute(1, b"raw\0"), attribute(3, b"cali-x\0")),
            "chain cali-x of raw changed",
        ),
        (rule("FORWARD"), "chain FORWARD of filter changed"),
    ],
)
def test_reasons(data: bytes, reason: str, events: NftEvents, heard: list[str]) -> None:
    events.feed(data + end())

    assert heard == [reason]


def test_ours_beside_theirs(events: NftEvents, heard: list[str]) -> None:
    events.feed(rule("cali-A", OURS) + end(OURS) + rule("cali-B") + end() + rule("cali-C", OURS) + end(OURS))

    assert heard == ["chain cali-B of filter changed"]
