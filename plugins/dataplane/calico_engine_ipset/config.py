"""The options of the plugin `ipset` in a profile."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class KernelAccess(StrEnum):
    """How the kernel's sets are reached."""

    PROGRAM = "program"
    NETLINK = "netlink"


class IpsetConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[options.ipset]`. Netlink is the default; where it cannot be had, the program does the work, slower."""

    kernel_access: KernelAccess = KernelAccess.NETLINK
