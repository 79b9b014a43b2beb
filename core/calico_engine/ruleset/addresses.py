"""Addresses and CIDRs as text: of which family, and whether they are nothing more than that.

Pure.
"""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import ip_address, ip_network

from calico_engine.ruleset.ir import Family

_CHARACTERS = re.compile(r"[0-9a-fA-F:./]+", re.ASCII)


def is_family(cidr: str, family: Family) -> bool:
    """Tell whether an address or CIDR is of this family."""
    return (":" in cidr) == (family is Family.V6)


def is_address(text: str) -> bool:
    """Tell whether a text is one address and nothing more: no mask, no zone, no blank."""
    try:
        ip_address(text)
    except ValueError:
        return False
    return _CHARACTERS.fullmatch(text) is not None


@lru_cache(maxsize=1 << 12)
def is_cidr(text: str) -> bool:
    """Tell whether a text is an address or a CIDR and nothing more."""
    try:
        ip_network(text, strict=False)
    except ValueError:
        return False
    return _CHARACTERS.fullmatch(text) is not None
