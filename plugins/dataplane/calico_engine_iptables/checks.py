"""What this machine must have for iptables: one of the two variants, and the matches and targets our rules use."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from calico_engine.kernel.probe import IptablesVariant, ProbeStep, probe_in_namespace
from calico_engine.plugin.protocols import Capability

# One rule a feature, by the module of the kernel that has to be there.
_FEATURES = (
    ("xt_comment", "filter", '-m comment --comment "cali:probe" -j ACCEPT', "recognising our rules"),
    (
        "xt_mark",
        "filter",
        "-m mark --mark 0x10000/0x10000 -j MARK --set-mark 0x10000/0x10000",
        "policy verdicts",
    ),
    ("xt_conntrack", "filter", "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT", "replies"),
    ("xt_multiport", "filter", "-p tcp -m multiport --dports 80,443 -j ACCEPT", "rules with ports"),
    ("xt_set", "filter", "-m set ! --match-set cali4probe src -j DROP", "rules with selectors"),
    ("xt_addrtype", "filter", "-m addrtype --dst-type LOCAL -j ACCEPT", "host endpoints and tunnels"),
    ("xt_rpfilter", "raw", "-m rpfilter --invert --validmark -j DROP", "dropping forged source addresses"),
    ("xt_CT", "raw", "-j CT --notrack", "doNotTrack policies"),
    ("xt_MASQUERADE", "nat", "-j MASQUERADE", "natOutgoing of IP pools"),
    ("xt_LOG", "filter", '-j LOG --log-prefix "calico-packet: " --log-level 5', "rules with action Log"),
)
_OPTIONAL = frozenset({"xt_LOG", "xt_CT", "xt_rpfilter", "xt_MASQUERADE"})
_SET = ProbeStep(("ipset", "create", "cali4probe", "hash:net"))


def check_capabilities() -> Sequence[Capability]:
    """Try each feature in a network namespace of its own, with each variant; either variant will do."""
    tools = {variant: _check_tool(variant) for variant in IptablesVariant}
    working = [variant for variant, tool in tools.items() if tool.ok]
    if not working:
        return [msgspec.structs.replace(tool, required=True) for tool in tools.values()]
    features = [
        _check_feature(variant, module, table, words, purpose)
        for variant in working
        for module, table, words, purpose in _FEATURES
    ]
    return [*tools.values(), *features]


def _restore(variant: IptablesVariant, table: str, line: str) -> ProbeStep:
    return ProbeStep(
        (f"iptables-{variant}-restore", "--noflush"), f"*{table}\n:cali-probe - [0:0]\n{line}COMMIT\n"
    )


def _check_tool(variant: IptablesVariant) -> Capability:
    option = "CONFIG_IP_NF_IPTABLES_LEGACY" if variant is IptablesVariant.LEGACY else "CONFIG_NFT_COMPAT"
    return probe_in_namespace(
        f"iptables-{variant}",
        [_restore(variant, "filter", "")],
        needed_for="the iptables dataplane (one of legacy and nft is enough)",
        remedy=f"install the package iptables; the kernel needs {option}",
        required=False,
    )


def _check_feature(variant: IptablesVariant, module: str, table: str, words: str, purpose: str) -> Capability:
    # MASQUERADE and some matches are refused outside of chains the right hook leads to; an unused chain will do.
    return probe_in_namespace(
        f"{module} (iptables-{variant})",
        [*([_SET] if module == "xt_set" else []), _restore(variant, table, f"-A cali-probe {words}\n")],
        needed_for=purpose,
        remedy=f"load or build the kernel module {module}",
        required=module not in _OPTIONAL,
    )
