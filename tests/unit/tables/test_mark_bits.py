"""Which bits of the packet mark a table dataplane says it uses."""

import msgspec
import pytest

from calico_engine.errors import ConfigError
from calico_engine.plugin.protocols import ClaimsMarks, PluginContext
from calico_engine.ruleset.marks import allocate_marks
from calico_engine.settings import FelixSettings, Layout
from calico_engine_iptables.plugin import make_dataplane


def context(settings: FelixSettings) -> PluginContext:
    return PluginContext(
        name="iptables",
        node="n1",
        settings=settings,
        options={},
        request_apply=lambda _: None,
        notify=lambda _: None,
    )


def test_iptables_says_which_bits_it_uses() -> None:
    plugin = make_dataplane(context(FelixSettings()))

    assert isinstance(plugin, ClaimsMarks)
    assert plugin.mark_bits == 0x1F0000


def test_two_dataplanes_share_no_bit_of_a_mask_of_ten() -> None:
    settings = FelixSettings(iptables_mark_mask=0x3FF00000)
    native = allocate_marks(msgspec.structs.replace(settings, layout=Layout.NATIVE))

    assert make_dataplane(context(settings)).mark_bits & native.bits == 0


def test_a_mask_that_is_too_small_is_an_error() -> None:
    plugin = make_dataplane(context(FelixSettings(iptables_mark_mask=0x70000)))

    with pytest.raises(ConfigError, match="IptablesMarkMask"):
        _ = plugin.mark_bits
