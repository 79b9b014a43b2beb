"""What this machine must have for ipsets: the program, and the two set types in both families."""

from __future__ import annotations

from collections.abc import Sequence

from calico_engine.kernel.probe import ProbeStep, probe_in_namespace
from calico_engine.plugin.protocols import Capability

_TYPES = (("hash:net", "rules with selectors"), ("hash:ip,port", "rules with named ports or services"))


def check_capabilities() -> Sequence[Capability]:
    """Make a set of each type in a network namespace of its own."""
    return [
        probe_in_namespace(
            f"ipset {kind} {family}",
            [ProbeStep(("ipset", "create", "cali4probe", kind, "family", family))],
            needed_for=purpose,
            remedy=f"install the package ipset; load or build the kernel module ip_set_{kind.translate(_TO_MODULE)}",
            required=family == "inet",
        )
        for kind, purpose in _TYPES
        for family in ("inet", "inet6")
    ]


_TO_MODULE = str.maketrans({":": "_", ",": ""})
