"""What the kernel's ipset errors mean, and what to do about them. No effects.

Source: include/uapi/linux/netfilter/ipset/ip_set.h, enum ipset_errno; kernel/net/netfilter/ipset/ip_set_hash_gen.h.
"""

from __future__ import annotations

import errno
import os
from enum import IntEnum

from calico_engine.errors import KernelError, KernelUnsupportedError


class IpsetError(IntEnum):
    """Errors of ipset's own, beside the C library's numbers."""

    PROTOCOL = 4097
    FIND_TYPE = 4098
    MAX_SETS = 4099
    BUSY = 4100
    EXIST_SETNAME2 = 4101
    TYPE_MISMATCH = 4102
    EXIST = 4103
    INVALID_CIDR = 4104
    INVALID_NETMASK = 4105
    INVALID_FAMILY = 4106
    TIMEOUT = 4107
    REFERENCED = 4108
    IPADDR_IPV4 = 4109
    IPADDR_IPV6 = 4110
    #: The first of the errors that each type has of its own; these are the hash types'.
    TYPE_SPECIFIC = 4352
    HASH_FULL = 4352
    HASH_ELEM = 4353
    INVALID_PROTO = 4354
    MISSING_PROTO = 4355
    HASH_RANGE_UNSUPPORTED = 4356
    HASH_RANGE = 4357


_REASONS: dict[int, str] = {
    IpsetError.PROTOCOL: "the kernel does not understand the message: the set is of another type than its members",
    IpsetError.MAX_SETS: "the kernel has as many sets as it can name; destroy sets that nobody uses (ipset list -name)",
    IpsetError.BUSY: "the set is in use; remove the rules that match on it first (iptables-save shows them)",
    IpsetError.REFERENCED: "the set is in use; remove the rules that match on it first (iptables-save shows them)",
    IpsetError.EXIST_SETNAME2: "the other set does not exist, or exists already; read the sets back",
    IpsetError.TYPE_MISMATCH: "the sets are of different types or families; destroy one and make it anew",
    IpsetError.EXIST: "the member is there already, or is not there; read the set back",
    IpsetError.INVALID_CIDR: "no prefix length of such an address; hash:net takes 1 to 32, or 1 to 128",
    IpsetError.INVALID_NETMASK: "no netmask of such an address",
    IpsetError.INVALID_FAMILY: "the set type has no such family; use inet or inet6",
    IpsetError.TIMEOUT: "the set was made without timeouts",
    IpsetError.IPADDR_IPV4: "the set holds IPv4 addresses, the member is none",
    IpsetError.IPADDR_IPV6: "the set holds IPv6 addresses, the member is none",
    IpsetError.HASH_FULL: "the set is full (maxelem); raise max_ipset_size or make the set anew with more room",
    IpsetError.HASH_ELEM: "the hash cannot take the member: too many share its place; make the set anew, larger",
    IpsetError.INVALID_PROTO: "no such protocol in a member with a port",
    IpsetError.MISSING_PROTO: "the set is of type hash:ip,port, the member has no protocol",
    IpsetError.HASH_RANGE_UNSUPPORTED: "the set type takes no prefix or range of this family",
    IpsetError.HASH_RANGE: "the range is too large",
    errno.ENOENT: "there is no such set; read the sets back",
    errno.EEXIST: "a set of this name exists with another type, family or size; swap a new one in or destroy it",
    errno.EBUSY: "somebody lists the set or its like this moment; it is tried again",
    errno.EPERM: "not allowed; run as root, or with CAP_NET_ADMIN in this network namespace",
    errno.ENOBUFS: "the kernel had no memory for the message or its answer; it is tried again",
    errno.ENOMEM: "the kernel has no memory for the set; lower max_ipset_size or free memory",
}


def ipset_error(command: str, number: int, *, member: str = "") -> KernelError:
    """Return the error for a refused request: `command` names it and the set, `member` the one refused if known."""
    if number == IpsetError.FIND_TYPE:
        return KernelUnsupportedError(
            command,
            hint="load or build the kernel module of the set type (ip_set_hash_net, ip_set_hash_ipport)",
        )
    reason = _REASONS.get(number)
    if reason is None:
        reason = os.strerror(number) if number < IpsetError.PROTOCOL else f"ipset error {number}"
    return KernelError(command, reason, errno=number, line=member)
