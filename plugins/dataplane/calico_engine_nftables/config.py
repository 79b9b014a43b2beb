"""The options of the plugin `nftables` in a profile."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from calico_engine.ruleset.state import PolicyForm


class OwnTable(StrEnum):
    """Whether others are kept from changing our table, `nft flush ruleset` included."""

    AUTO = "auto"  # where the kernel can, 6.9 or later
    NO = "no"


class NftablesConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[options.nftables]`.

    `form`: by maps, at the same cost however many policies there are, or rule by rule. `table`: the name of our table
    in the families ip and ip6. `rule_counters`: count packets and bytes at every rule; `element_counters`: at every
    verdict of a map, whose comment names the rule that decided. `own_table`: keep others from changing our table.
    """

    form: PolicyForm = PolicyForm.CLASSIFIED
    table: str = "calico"
    rule_counters: bool = True
    element_counters: bool = False
    own_table: OwnTable = OwnTable.NO
