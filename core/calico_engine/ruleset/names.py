"""Names of chains, sets and interfaces, as Calico gives them.

Pure. A name is a fixed prefix and an id. An id that does not fit, or holds a character that has a meaning to a table
tool, is replaced by a hash of itself, so that no text of a user ever reaches a name as it is.
Source: libcalico-go/lib/hash/unique_id.go, felix/rules/rule_defs.go, felix/ipsets/ipset_defs.go.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from functools import lru_cache

from calico_engine.model.resource import ResourceKey
from calico_engine.ruleset.ir import Family
from calico_engine.settings import Layout

#: iptables and ip6tables take chain names of 28 characters.
CHAIN_NAME_MAX_CHARS = 28
#: The kernel's ipset names: 31 characters and a NUL.
SET_NAME_MAX_CHARS = 31
#: The kernel's interface names: 15 characters and a NUL.
INTERFACE_NAME_MAX_CHARS = 15

INPUT = "cali-INPUT"
FORWARD = "cali-FORWARD"
OUTPUT = "cali-OUTPUT"
PREROUTING = "cali-PREROUTING"
POSTROUTING = "cali-POSTROUTING"
WORKLOAD_TO_HOST = "cali-wl-to-host"
FROM_WORKLOAD_DISPATCH = "cali-from-wl-dispatch"
TO_WORKLOAD_DISPATCH = "cali-to-wl-dispatch"
FROM_HOST_ENDPOINT = "cali-from-host-endpoint"
TO_HOST_ENDPOINT = "cali-to-host-endpoint"
FROM_HOST_ENDPOINT_FORWARD = "cali-from-hep-forward"
TO_HOST_ENDPOINT_FORWARD = "cali-to-hep-forward"
FAILSAFE_IN = "cali-failsafe-in"
FAILSAFE_OUT = "cali-failsafe-out"
FIP_DNAT = "cali-fip-dnat"
FIP_SNAT = "cali-fip-snat"
NAT_OUTGOING = "cali-nat-outgoing"
CIDR_BLOCK = "cali-cidr-block"
RPF_SKIP = "cali-rpf-skip"
ANTI_SPOOF = "cali-anti-spoof"

POLICY_INBOUND = "cali-pi-"
POLICY_OUTBOUND = "cali-po-"
PROFILE_INBOUND = "cali-pri-"
PROFILE_OUTBOUND = "cali-pro-"
GROUP_INBOUND = "cali-gi-"
GROUP_OUTBOUND = "cali-go-"
TO_WORKLOAD = "cali-tw-"
FROM_WORKLOAD = "cali-fw-"
TO_HOST = "cali-th-"
FROM_HOST = "cali-fh-"
TO_HOST_FORWARD = "cali-thfw-"
FROM_HOST_FORWARD = "cali-fhfw-"
# Native layout: lists of policies that endpoints share, to and from an endpoint, and a list walked rule by rule.
LIST_INBOUND = "cali-li-"
LIST_OUTBOUND = "cali-lo-"
LIST_LINEAR = "cali-ll-"
REJECT = "cali-reject"

#: Every prefix Calico has ever used for its chains; what starts with one is ours to remove.
OWNED_CHAIN_PREFIXES = ("cali-", "califw-", "calitw-", "califh-", "calith-", "calipi-", "calipo-", "felix-")
#: The same for sets: what starts with one of these, followed by the family's digit.
OWNED_SET_PREFIXES = ("cali", "felix-")

_KINDS = {
    "NetworkPolicy": "np",
    "GlobalNetworkPolicy": "gnp",
    "StagedNetworkPolicy": "snp",
    "StagedGlobalNetworkPolicy": "sgnp",
    "StagedKubernetesNetworkPolicy": "sknp",
    "KubernetesNetworkPolicy": "knp",
    "KubernetesClusterNetworkPolicy": "kcnp",
}

_SAFE_ID = re.compile(r"[A-Za-z0-9_.:/@=+-]+", re.ASCII)
_SAFE_INTERFACE = re.compile(r"[A-Za-z0-9_.:@-]+", re.ASCII)
_UNSAFE_TEXT = re.compile(r"[^A-Za-z0-9_ @%+=:,./-]", re.ASCII)


def _base64url(digest: bytes) -> str:
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")


def _bytes(text: str) -> bytes:
    """Encode any text at all: half a surrogate pair is still somebody's name."""
    return text.encode("utf-8", "surrogatepass")


def shorten(prefix: str, ident: str, max_chars: int = CHAIN_NAME_MAX_CHARS) -> str:
    """Return prefix + ident if that fits and is harmless, else prefix + "_" + as much of a hash of it as fits.

    An id that just fits and starts with "_" is hashed too: it could be the hash of another.
    """
    ident = ident or "_"
    chars = len(prefix) + len(ident)
    clash = chars == max_chars and ident.startswith("_")
    if chars > max_chars or clash or not _SAFE_ID.fullmatch(ident):
        room = max_chars - 1 - len(prefix)
        return f"{prefix}_{_base64url(hashlib.sha256(_bytes(ident)).digest())[:room]}"
    return prefix + ident


def policy_id(key: ResourceKey, layout: Layout) -> str:
    """Return the id that names a policy's chains: `gnp/name` or `np/namespace/name`; in v2 the bare name.

    v2 knew global policies alone; others keep their namespace, and Kubernetes' their prefix, so that none collide.
    """
    if layout is Layout.V2:
        name = f"knp.default.{key.name}" if key.kind == "KubernetesNetworkPolicy" else key.name
        return f"{key.namespace}/{name}" if key.namespace else name
    kind = _KINDS.get(key.kind, key.kind)
    return f"{kind}/{key.namespace}/{key.name}" if key.namespace else f"{kind}/{key.name}"


def policy_kind_short(key: ResourceKey) -> str:
    """Return the short word for a policy's kind, as log prefixes show it."""
    return _KINDS.get(key.kind, key.kind)


@lru_cache(maxsize=1 << 16)
def policy_chain(prefix: str, key: ResourceKey, layout: Layout) -> str:
    return shorten(prefix, policy_id(key, layout))


def profile_chain(prefix: str, profile: str) -> str:
    return shorten(prefix, profile)


def endpoint_chain(prefix: str, interface_name: str) -> str:
    return shorten(prefix, interface_name) if interface_name != "*" else f"{prefix}*"


def policy_group_chain(prefix: str, selector: str, policies: Sequence[ResourceKey]) -> str:
    """Return the name of the chain that endpoints share for consecutive policies with one selector."""
    direction = "inbound" if prefix == GROUP_INBOUND else "outbound"
    lines = [selector, direction, str(len(policies))]
    lines += [f"{{Name: {key.name}, Namespace: {key.namespace}, Kind: {key.kind}}}" for key in policies]
    digest = hashlib.sha3_224(_bytes("".join(f"{line}\n" for line in lines))).digest()
    return prefix + _base64url(digest)[: CHAIN_NAME_MAX_CHARS - len(prefix)]


def list_chain(prefix: str, text: str) -> str:
    """Return the name of a chain for a list of policies; `text` says all of the list."""
    digest = hashlib.sha256(_bytes(text)).digest()
    return prefix + _base64url(digest)[: CHAIN_NAME_MAX_CHARS - len(prefix)]


def all_pools_set(layout: Layout) -> str:
    return "all-ipam-pools" if layout is Layout.V2 else "network-ip-pools"


def all_hosts_set(layout: Layout) -> str:
    return "all-hosts" if layout is Layout.V2 else "all-hosts-net"


MASQUERADE_POOLS_SET = "masq-ipam-pools"
ALL_VXLAN_SET = "all-vxlan-net"


def set_name(set_id: str, family: Family, layout: Layout) -> str:
    """Return the kernel's name of a set: `cali40s:...` (v2: `cali4-s:...`), cut to 31 characters.

    Cutting is harmless: ids that are longer are hashes.
    """
    prefix = f"cali{family}{'-' if layout is Layout.V2 else '0'}"
    if not _SAFE_ID.fullmatch(set_id):
        return shorten(prefix, set_id, SET_NAME_MAX_CHARS)
    return (prefix + set_id)[:SET_NAME_MAX_CHARS]


def temporary_set_name(number: int, family: Family) -> str:
    """Return the name a set is built under before it is swapped into place."""
    return f"cali{family}t{number}"


def owns_set(name: str) -> bool:
    """Tell whether a set of this name is ours, of any layout and family."""
    return name.startswith(
        ("cali4", "cali6", "felix-4", "felix-6", "felix-masq-ipam-pools", "felix-all-ipam-pools")
    )


def owns_chain(name: str) -> bool:
    return name.startswith(OWNED_CHAIN_PREFIXES)


def is_interface_name(name: str) -> bool:
    """Tell whether a rule may match on this interface name; one that may not is treated as unknown, and dropped."""
    return (
        len(name) <= INTERFACE_NAME_MAX_CHARS
        and bool(_SAFE_INTERFACE.fullmatch(name))
        and name not in (".", "..")
    )


def veth_name(namespace: str, pod: str, prefix: str = "cali") -> str:
    """Return the host side interface of a Kubernetes pod, as Calico's CNI plugin names it.

    Source: libcalico-go/lib/backend/k8s/conversion/workload_endpoint_default.go.
    """
    digest = hashlib.sha1(_bytes(f"{namespace}.{pod}"), usedforsecurity=False).hexdigest()
    return prefix + digest[: INTERFACE_NAME_MAX_CHARS - len(prefix)]


def safe_text(text: str, max_chars: int) -> str:
    """Return text that may stand between quotes in any table tool: what could end them becomes "_"."""
    return _UNSAFE_TEXT.sub("_", text)[:max_chars]
