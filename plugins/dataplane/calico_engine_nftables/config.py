"""The options of the plugin `nftables` in a profile."""

from __future__ import annotations

import msgspec

from calico_engine.ruleset.state import PolicyForm


class NftablesConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[options.nftables]`.

    `form`: by maps, at the same cost however many policies there are, or rule by rule. `table`: the name of our table
    in the families ip and ip6. `rule_counters`: count packets and bytes at every rule.
    """

    form: PolicyForm = PolicyForm.CLASSIFIED
    table: str = "calico"
    rule_counters: bool = True
