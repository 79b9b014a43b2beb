"""Whether somebody else's iptables drops what this machine forwards, but for rules of ours that accept it first.

Docker and others set the policy of the chain FORWARD to DROP. Rules of our plugin `iptables` stand in that chain and
accept what policy allows; an `accept` in a table of nftables' own does not spare a packet that chain.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from calico_engine.errors import KernelUnsupportedError
from calico_engine.kernel.command import try_command
from calico_engine.kernel.probe import IptablesVariant, has_legacy_tables, iptables_program

_TIMEOUT_S = 20.0
_POLICY_DROP = re.compile(r"^:FORWARD DROP ", re.MULTILINE)
#: A rule that accepts everything, or all of an interface whose name is a beginning such as cali+.
_ACCEPTS = re.compile(
    r'^-A FORWARD(?: -[io] \S+\+)?(?: -m comment --comment (?:"[^"]*"|\S+))? -j ACCEPT$', re.MULTILINE
)


async def forwarding_closed_by(families: Sequence[int]) -> tuple[str, ...]:
    """Return which iptables let nothing be forwarded that our rules in them do not accept."""
    closed = []
    for family in families:
        for variant in IptablesVariant:
            if variant is IptablesVariant.LEGACY and not has_legacy_tables(family):
                continue
            try:
                program = iptables_program(family, variant, "save")
            except KernelUnsupportedError:
                continue
            saved = await try_command([program, "-t", "filter"], timeout_s=_TIMEOUT_S)
            if drops_by_policy(saved.text):
                closed.append(program.removesuffix("-save"))
    return tuple(closed)


def drops_by_policy(saved: str) -> bool:
    """Tell of a filter table, as iptables-save prints it, whether nobody but us accepts what is forwarded."""
    if _POLICY_DROP.search(saved) is None:
        return False
    return not any("cali:" not in rule[0] for rule in _ACCEPTS.finditer(saved))
