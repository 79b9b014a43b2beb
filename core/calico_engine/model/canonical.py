"""One spelling for what can be written in many: addresses, networks, ports, protocols, AS numbers, MACs.

Pure. Each function returns the canonical form or raises a plain ValueError that says what is allowed; callers add
which resource and field. Each is idempotent. Networks always carry a mask: "172.16.1.1" is "172.16.1.1/32".
"""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache

from calico_engine.model.policy import PROTOCOL_NUMBERS, Port, PortRange, Protocol

PROTOCOL_NAMES = ("TCP", "UDP", "ICMP", "ICMPv6", "SCTP", "UDPLite")
_PROTOCOL_BY_LOWER = {name.lower(): name for name in PROTOCOL_NAMES}

_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_PLAIN_IPV4 = re.compile(rf"{_OCTET}\.{_OCTET}\.{_OCTET}\.{_OCTET}(/32)?")
_PLAIN_IPV4_NETWORK = re.compile(
    r"(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])\." * 3
    + r"(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])/(3[0-2]|[12][0-9]|[0-9])"
)
_NETWORK_TEXT = re.compile(r"[0-9a-fA-F:.]+(?:/(0|[1-9][0-9]{0,2}))?")
_PORT_NUMBER = re.compile(r"[0-9]{1,5}")
_PORT_RANGE = re.compile(r"([0-9]{1,5}):([0-9]{1,5})")
#: What a port's name may look like where a rule refers to it.
_PORT_NAME = re.compile(r"[a-zA-Z0-9_.-]{1,128}")
_MAC = re.compile(r"[0-9a-fA-F]{2}(?:([:-])[0-9a-fA-F]{2})(?:\1[0-9a-fA-F]{2}){4}")
_PLAIN_MAC = re.compile(r"[0-9a-f]{2}(?::[0-9a-f]{2}){5}")

_CACHED_NETWORKS = 65_536
MAX_AS_NUMBER = 0xFFFFFFFF


@lru_cache(maxsize=_CACHED_NETWORKS)
def parse_network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """Return the network of an address or CIDR, without host bits.

    Raises: ValueError, also when bits are set to the right of the mask.
    """
    if _NETWORK_TEXT.fullmatch(text) is None:
        raise ValueError(
            f"{shorten(text)} is neither an IP address nor a CIDR such as 10.0.0.0/8 or fd00::/64"
        )
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        pass
    try:
        masked = ipaddress.ip_network(text, strict=False)
    except ValueError:
        reason = f"{shorten(text)} is neither an IP address nor a CIDR such as 10.0.0.0/8 or fd00::/64"
        raise ValueError(reason) from None
    raise ValueError(f"{text} has bits set to the right of its mask; write {masked}")


def canonical_network(text: str) -> str:
    """Return the CIDR of an address or network: "10.0.0.1" gives "10.0.0.1/32".

    Raises: ValueError, also when bits are set to the right of the mask.
    """
    # Addresses of endpoints come by the hundred thousand and mostly look like this.
    plain = _PLAIN_IPV4.fullmatch(text)
    if plain is not None:
        return text if plain[1] else text + "/32"
    if _is_plain_network(text):
        return text
    return str(parse_network(text))


def _is_plain_network(text: str) -> bool:
    """Return whether a text is an IPv4 network in canonical form. Network sets hold them by the ten thousand."""
    plain = _PLAIN_IPV4_NETWORK.fullmatch(text)
    if plain is None:
        return False
    a, b, c, d, length = map(int, plain.groups())
    return not (a << 24 | b << 16 | c << 8 | d) & (0xFFFFFFFF >> length)


def is_plain_host(text: str) -> bool:
    """Return whether a text is one IPv4 address in canonical form, mask included."""
    plain = _PLAIN_IPV4.fullmatch(text)
    return plain is not None and plain[1] is not None


def mask_network(text: str) -> str:
    """Return the CIDR of an address or network, with host bits cleared.

    Raises: ValueError.
    """
    if _is_plain_network(text):
        return text
    if _NETWORK_TEXT.fullmatch(text) is None:
        return canonical_network(text)
    try:
        return str(ipaddress.ip_network(text, strict=False))
    except ValueError:
        return canonical_network(text)


def canonical_address(text: str) -> str:
    """Return an IP address in its shortest form. Raises: ValueError."""
    if _PLAIN_IPV4.fullmatch(text) is not None and "/" not in text:
        return text
    if _NETWORK_TEXT.fullmatch(text) is not None and "/" not in text:
        try:
            return str(ipaddress.ip_address(text))
        except ValueError:
            pass
    raise ValueError(f"{shorten(text)} is not an IP address")


def canonical_interface_address(text: str) -> str:
    """Return an address with its subnet's mask, as a node has it: "192.0.2.1/24". Raises: ValueError."""
    if _NETWORK_TEXT.fullmatch(text) is not None:
        try:
            return str(ipaddress.ip_interface(text))
        except ValueError:
            pass
    raise ValueError(
        f"{shorten(text)} is not an IP address with the mask of its subnet, such as 192.0.2.1/24"
    )


def ip_version(text: str) -> int:
    """Return 4 or 6 for a valid address or network."""
    return 6 if ":" in text else 4


def parse_port(port: Port) -> PortRange | str:
    """Return the ports a rule's port stands for: a range, or the name of a workload's port.

    Raises: ValueError.
    """
    if isinstance(port, str):
        if _PORT_NUMBER.fullmatch(port):
            port = int(port)
        elif span := _PORT_RANGE.fullmatch(port):
            return _port_range(int(span[1]), int(span[2]))
        elif _PORT_NAME.fullmatch(port) and not port.isdigit():
            return port
        else:
            raise ValueError(
                f"{shorten(port)} is not a port: write a number 1-65535, a range such as '80:90', or a port's name"
            )
    return _port_range(port, port)


def _port_range(first: int, last: int) -> PortRange:
    if not (1 <= first <= 65535 and 1 <= last <= 65535):
        raise ValueError(
            f"port {first if first == last else f'{first}:{last}'} is out of range; allowed are 1-65535"
        )
    if first > last:
        raise ValueError(f"port range {first}:{last} ends before it starts")
    return PortRange(first, last)


def canonical_port(port: Port) -> Port:
    """Return 80 for "80" and "80:80", "80:90" and names as they are. Raises: ValueError."""
    parsed = parse_port(port)
    if isinstance(parsed, str):
        return parsed
    return parsed.first if parsed.first == parsed.last else f"{parsed.first}:{parsed.last}"


def canonical_protocol(protocol: Protocol) -> Protocol:
    """Return a protocol's number, or its name as the v3 API spells it. Raises: ValueError."""
    if isinstance(protocol, str):
        name = _PROTOCOL_BY_LOWER.get(protocol.lower())
        if name is not None:
            return name
        if not (protocol.isascii() and protocol.isdigit() and len(protocol) <= 3):
            raise ValueError(
                f"{shorten(protocol)} is not one of {', '.join(PROTOCOL_NAMES)}, nor a number 1-255"
            )
        protocol = int(protocol)
    if not 1 <= protocol <= 255:
        raise ValueError(f"protocol number {protocol} is out of range; allowed are 1-255")
    return protocol


def protocol_number(protocol: Protocol) -> int:
    """Return the IP protocol number. Raises: ValueError."""
    canonical = canonical_protocol(protocol)
    return PROTOCOL_NUMBERS[canonical.lower()] if isinstance(canonical, str) else canonical


def parse_as_number(number: int | str) -> int:
    """Return an AS number from plain or dotted notation: "1.10" is 65546. Raises: ValueError."""
    if isinstance(number, int):
        value = number
    else:
        high, dot, low = number.partition(".")
        digits = (high, low) if dot else (high,)
        if not all(part.isascii() and part.isdigit() and len(part) <= 10 for part in digits):
            raise ValueError(f"{shorten(number)} is not an AS number such as 64512 or '1.10'")
        value = int(high)
        if dot:
            if not (value <= 0xFFFF and int(low) <= 0xFFFF):
                raise ValueError(f"{number} is not a dotted AS number: each part is 0-65535")
            value = (value << 16) + int(low)
    if not 0 <= value <= MAX_AS_NUMBER:
        raise ValueError(f"AS number {value} is out of range; allowed are 0-{MAX_AS_NUMBER}")
    return value


def canonical_mac(text: str) -> str:
    """Return a MAC address in lower case with colons. Raises: ValueError."""
    if _MAC.fullmatch(text) is None:
        raise ValueError(f"{shorten(text)} is not a MAC address such as ee:ee:ee:ee:ee:ee")
    return text.lower().replace("-", ":")


def is_plain_mac(text: str) -> bool:
    """Return whether a text is a MAC address in canonical form."""
    return _PLAIN_MAC.fullmatch(text) is not None


def shorten(text: str) -> str:
    """Return a text quoted for a message: printable, and not much longer than a line."""
    shown = ascii(text)
    return shown if len(shown) <= 80 else shown[:76] + "...'"
