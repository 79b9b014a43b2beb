"""Longest prefixes first, both families, and nothing left behind."""

from __future__ import annotations

from calico_engine.calc.prefixes import PrefixMap


def test_covering_networks_come_longest_first() -> None:
    prefixes: PrefixMap[str] = PrefixMap()
    for cidr in ("10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/26", "10.1.2.3/32", "fd00::/8", "0.0.0.0/0"):
        prefixes[cidr] = cidr

    def found(cidr: str) -> list[str]:
        return [value for _, value in prefixes.covering(cidr)]

    assert found("10.1.2.3") == ["10.1.2.3/32", "10.1.2.0/26", "10.1.0.0/16", "10.0.0.0/8", "0.0.0.0/0"]
    assert found("10.1.2.0/26") == ["10.1.2.0/26", "10.1.0.0/16", "10.0.0.0/8", "0.0.0.0/0"]
    assert found("10.1.2.64/26") == ["10.1.0.0/16", "10.0.0.0/8", "0.0.0.0/0"]
    assert found("fd00::1") == ["fd00::/8"]
    assert found("2001:db8::1") == []


def test_what_is_taken_out_is_gone() -> None:
    prefixes: PrefixMap[int] = PrefixMap()
    prefixes["10.0.0.0/8"] = 1
    prefixes["11.0.0.0/8"] = 2

    prefixes.pop("10.0.0.0/8")
    prefixes.pop("10.0.0.0/8")
    prefixes.pop("10.0.0.0/24")

    assert list(prefixes.covering("10.0.0.1")) == []
    assert [value for _, value in prefixes.covering("11.0.0.1")] == [2]
    prefixes.pop("11.0.0.0/8")
    assert not prefixes
