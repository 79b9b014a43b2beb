"""Which bits of the packet mark mean what.

Pure. Bits are taken from the mask, lowest first, as Felix takes them; the native layout takes the highest first, so
that it can stand beside another while one takes over from the other. Source: felix/dataplane/driver.go,
felix/markbits; layout v2 as the articles print it (Calico 2.1).
"""

from __future__ import annotations

from functools import lru_cache

import msgspec

from calico_engine.errors import ConfigError
from calico_engine.settings import FelixSettings, Layout

_DEFAULT_MASK_V2 = 0xFF000000
_DEFAULT_MASK_V3 = 0xFFFF0000


class Marks(msgspec.Struct, frozen=True, gc=False):
    """One bit each. `drop` is 0 in v2 and native, which have none. `cleared` is what the static chains reset."""

    accept: int
    pass_: int
    drop: int
    scratch0: int
    scratch1: int
    cleared: int

    @property
    def from_workload(self) -> int:
        """The bit that raw's PREROUTING sets on packets of workloads; nothing reads it later."""
        return self.scratch0

    @property
    def bits(self) -> int:
        """All of them."""
        return self.accept | self.pass_ | self.drop | self.scratch0 | self.scratch1


def allocate_marks(settings: FelixSettings) -> Marks:
    """Return this node's bits. v2 with v3's default mask gets v2's default.

    Raises: ConfigError when the mask has too few bits.
    """
    return _allocate(settings.iptables_mark_mask, settings.layout)


@lru_cache(maxsize=16)
def _allocate(mask: int, layout: Layout) -> Marks:
    v2 = layout is Layout.V2
    if v2 and mask == _DEFAULT_MASK_V3:
        mask = _DEFAULT_MASK_V2
    bits = [1 << shift for shift in range(32) if mask & (1 << shift)]
    with_drop = layout is Layout.V3
    needed = 5 if with_drop else 4
    if len(bits) < needed:
        raise ConfigError(
            f"IptablesMarkMask {mask:#x} has {len(bits)} bits",
            key="iptables_mark_mask",
            hint=f"give it {needed} bits that nothing else on this machine uses",
        )
    if layout is Layout.NATIVE:
        bits.reverse()
    drop = bits.pop(2) if with_drop else 0
    accept, pass_, scratch0, scratch1 = bits[:4]
    cleared = accept | pass_ | scratch0 | (0 if v2 else scratch1)
    return Marks(accept, pass_, drop, scratch0, scratch1, cleared)
