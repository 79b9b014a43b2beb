"""Parse the text forms that Felix's parameters take. Each parser raises ValueError that says what is allowed.

Source: felix/config/param_types.go; durations also in the form FelixConfiguration uses ("90s", "1m30s", "100ms").
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable
from enum import StrEnum

from calico_engine.settings import HostPort

Parser = Callable[[str], object]

_TRUE = frozenset({"true", "1", "yes", "y", "t"})
_FALSE = frozenset({"false", "0", "no", "n", "f"})
_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_INTERFACE = re.compile(r"[a-zA-Z0-9:._+-]{1,15}")
_MIN_MARK_BITS = 2


def parse_bool(text: str) -> bool:
    lowered = text.lower()
    if lowered in _TRUE:
        return True
    if lowered in _FALSE:
        return False
    raise ValueError("allowed: true, yes, y, t, 1 or false, no, n, f, 0")


def parse_text(text: str) -> str:
    if any(ord(char) < 32 for char in text):
        raise ValueError("allowed: text without control characters")
    return text


def integer(low: int, high: int) -> Parser:
    """A parser of integers low..high, decimal, 0x, 0o or 0b."""

    def parse(text: str) -> int:
        try:
            value = int(text, 0)
        except ValueError:
            raise ValueError(f"allowed: an integer from {low} to {high}") from None
        if not low <= value <= high:
            raise ValueError(f"allowed: an integer from {low} to {high}")
        return value

    return parse


def parse_seconds(text: str) -> float:
    """Return seconds from a number of seconds or a duration with units."""
    return _duration(text, 1.0)


def parse_millis(text: str) -> int:
    """Return milliseconds from a number of milliseconds or a duration with units."""
    return round(_duration(text, 1e-3) * 1000)


def _duration(text: str, unit_s: float) -> float:
    allowed = "allowed: a number that is not negative, or a duration such as 90s, 1m30s, 100ms"
    stripped = text.strip()
    try:
        value = float(stripped) * unit_s
    except ValueError:
        parts = _DURATION.findall(stripped)
        if not parts or "".join(number + unit for number, unit in parts) != stripped:
            raise ValueError(allowed) from None
        value = sum(float(number) * _SECONDS[unit] for number, unit in parts)
    if not 0 <= value < 1e12:
        raise ValueError(allowed)
    return value


def parse_mask(text: str) -> int:
    """Return a packet mark mask of 32 bits."""
    allowed = f"allowed: a mask such as 0xffff0000 with at least {_MIN_MARK_BITS} of its 32 bits set"
    try:
        value = int(text, 0)
    except ValueError:
        raise ValueError(allowed) from None
    if not 0 <= value <= 0xFFFFFFFF or value.bit_count() < _MIN_MARK_BITS:
        raise ValueError(allowed)
    return value


def one_of(*choices: str) -> Parser:
    """A parser that takes one of the words whatever their case, and returns it as spelled here."""
    by_lower = {choice.lower(): choice for choice in choices}

    def parse(text: str) -> str:
        chosen = by_lower.get(text.strip().lower())
        if chosen is None:
            raise ValueError(f"allowed: {', '.join(choices)}")
        return chosen

    return parse


def one_of_enum(enum: Iterable[StrEnum]) -> Parser:
    """A parser for a StrEnum's values, or for some of them."""
    members: dict[str, object] = {str(member).lower(): member for member in enum}

    def parse(text: str) -> object:
        chosen = members.get(text.strip().lower())
        if chosen is None:
            raise ValueError(f"allowed: {', '.join(str(member) for member in members.values())}")
        return chosen

    return parse


def parse_interface(text: str) -> str:
    if not _INTERFACE.fullmatch(text):
        raise ValueError("allowed: an interface name of 1 to 15 letters, digits and : . _ + -")
    return text


def parse_interface_prefixes(text: str) -> tuple[str, ...]:
    """Return the prefixes of a comma-separated list."""
    prefixes = tuple(part.strip() for part in text.split(",") if part.strip())
    if not prefixes or not all(_INTERFACE.fullmatch(prefix) for prefix in prefixes):
        raise ValueError(
            "allowed: interface name prefixes of 1 to 15 letters, digits and : . _ + -, comma-separated"
        )
    return prefixes


def parse_interface_patterns(text: str) -> tuple[str, ...]:
    """Return interface names and /regular expressions/ of a comma-separated list, as they are written."""
    patterns = tuple(part.strip() for part in text.split(",") if part.strip())
    for pattern in patterns:
        if len(pattern) > 2 and pattern[0] == pattern[-1] == "/":
            try:
                re.compile(pattern[1:-1])
            except re.error as error:
                raise ValueError(f"{pattern} is not a regular expression: {error}") from None
        elif not _INTERFACE.fullmatch(pattern):
            raise ValueError("allowed: interface names and /regular expressions/, comma-separated")
    return patterns


def parse_ipv4(text: str) -> str:
    return _address(text, 4)


def parse_ipv6(text: str) -> str:
    return _address(text, 6)


def _address(text: str, version: int) -> str:
    try:
        address = ipaddress.ip_address(text.strip())
    except ValueError:
        raise ValueError(f"allowed: an IPv{version} address") from None
    if address.version != version:
        raise ValueError(f"allowed: an IPv{version} address")
    return str(address)


def parse_host(text: str) -> str:
    """Return a host name or address; empty means every address."""
    if text and not re.fullmatch(r"[a-zA-Z0-9:._\[\]-]{1,253}", text):
        raise ValueError("allowed: a host name or an IP address")
    return text.strip("[]")


def parse_host_ports(text: str) -> tuple[HostPort, ...]:
    """Return failsafe ports from "22,udp:68,tcp:10.0.0.0/8:22,tcp:[fd00::/8]:22"; a bare number is TCP."""
    ports = []
    for part in text.split(","):
        if part.strip():
            ports.append(_host_port(part.strip()))
    return tuple(ports)


def _host_port(part: str) -> HostPort:
    allowed = (
        f"{part!r}: allowed: PORT, PROTOCOL:PORT or PROTOCOL:NET:PORT, an IPv6 net in [], protocol tcp or udp"
    )
    match = re.fullmatch(r"(?:([a-zA-Z]+):)?(?:\[([^\]]+)\]:|([^:\[\]]+):)?(\d{1,5})", part)
    if match is None:
        raise ValueError(allowed)
    protocol = (match[1] or "tcp").lower()
    net = match[2] or match[3] or ""
    port = int(match[4])
    if protocol not in ("tcp", "udp") or port > 65535:
        raise ValueError(allowed)
    if net:
        try:
            parsed = ipaddress.ip_network(net, strict=False)
        except ValueError:
            raise ValueError(allowed) from None
        if (match[2] is not None) != (parsed.version == 6):
            raise ValueError(allowed)
        net = str(parsed)
    return HostPort(protocol, port, net)


def parse_port_range(text: str) -> str:
    """Return "first:last" or a single port, as iptables wants it."""
    match = re.fullmatch(r"(\d{1,5})(?:[:-](\d{1,5}))?", text.strip())
    if match is None:
        raise ValueError("allowed: a port or a range FIRST:LAST, 0 to 65535")
    first, last = int(match[1]), int(match[2] or match[1])
    if not first <= last <= 65535:
        raise ValueError("allowed: a port or a range FIRST:LAST, 0 to 65535")
    return f"{first}:{last}" if last != first else str(first)


def parse_pairs(text: str) -> tuple[tuple[str, str], ...]:
    """Return the pairs of "key=value,key=value"."""
    pairs = []
    for part in text.split(","):
        if not part.strip():
            continue
        key, equals, value = part.partition("=")
        if not equals or not key.strip():
            raise ValueError("allowed: key=value, comma-separated")
        pairs.append((key.strip(), value.strip()))
    return tuple(pairs)
