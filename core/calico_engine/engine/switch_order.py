"""What a switch of dataplanes is asked to do, and what is to be seen before anything is written (switching.py)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec

from calico_engine.engine.assembly import Assembly
from calico_engine.engine.choice import Choice
from calico_engine.engine.member import Member
from calico_engine.errors import CalicoEngineError, ConfigError, KernelUnsupportedError
from calico_engine.plugin.protocols import ClaimsMarks
from calico_engine.plugin.registry import PluginRegistry
from calico_engine.settings import FelixSettings

#: What people say -> the plugins that it takes.
ALIASES: dict[str, tuple[str, ...]] = {"iptables": ("ipset", "iptables")}

_CHECK_S = 60.0


class SwitchRefusedError(CalicoEngineError):
    """A switch cannot begin; nothing has changed."""


class SwitchFailedError(CalicoEngineError):
    """The new dataplane could not be put in force."""


class AlreadyInForceError(SwitchRefusedError):
    """There is nothing to switch."""

    def __init__(self, names: Sequence[str], *, remembered: bool) -> None:
        self.names = tuple(names)
        self.remembered = remembered
        super().__init__(f"{list_names(names)} is in force already")


class SwitchOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What is exchanged for what. `assembly` makes the plugins of `after`, `earlier` is what was remembered before."""

    before: tuple[str, ...]
    after: tuple[str, ...]
    assembly: Assembly
    earlier: Choice

    @property
    def joining(self) -> tuple[str, ...]:
        return tuple(name for name in self.after if name not in self.before)

    @property
    def leaving(self) -> tuple[str, ...]:
        return tuple(name for name in self.before if name not in self.after)

    def choice(
        self, names: tuple[str, ...], profile: tuple[str, ...], discard: tuple[str, ...] = ()
    ) -> Choice:
        """Return what to remember while `names` is complete and `discard` is, or may be, in the kernel too.

        What an earlier engine could not remove is still owed.
        """
        still = tuple(name for name in self.earlier.discard if name not in (*self.before, *self.after))
        return Choice(chosen=None if names == profile else names, discard=(*discard, *still))


def resolve_names(names: Sequence[str]) -> tuple[str, ...]:
    """Return the plugins that were asked for. Raises: ConfigError for none, or one twice."""
    wanted = tuple(name.strip() for name in names if name.strip())
    if len(wanted) == 1:
        wanted = ALIASES.get(wanted[0], wanted)
    if not wanted or len(set(wanted)) != len(wanted):
        raise ConfigError(
            f"dataplane {', '.join(names) or '(none)'}",
            key="dataplane",
            hint="name plugins once each, in the order they are applied: nftables, or ipset,iptables",
        )
    return wanted


def list_names(names: Sequence[str]) -> str:
    return ", ".join(names) or "nothing"


async def check_plugins(registry: PluginRegistry, names: Sequence[str]) -> None:
    """See that this machine has what plugins need. Raises: KernelUnsupportedError, PluginError, TimeoutError."""
    for name in names:
        async with asyncio.timeout(_CHECK_S):
            found = await asyncio.to_thread(registry.checks, "dataplane", name)
        for capability in found:
            if capability.required and not capability.ok:
                detail = f" ({capability.detail})" if capability.detail else ""
                raise KernelUnsupportedError(
                    f"dataplane:{name} needs {capability.name}{detail}, for {capability.needed_for}",
                    hint=capability.remedy or "see `calico-engine check`",
                )


async def check_forwarding(families: Sequence[int], settings: FelixSettings) -> None:
    """See that packets can be forwarded without the rules of the plugin iptables. Raises: SwitchFailedError."""
    from calico_engine.kernel.forwarding import forwarding_closed_by  # only where there is iptables

    closed = await forwarding_closed_by(families)
    if closed:
        pods = f"{settings.interface_prefix[0]}+"
        raise SwitchFailedError(
            f"the chain FORWARD of {list_names(closed)} has the policy DROP, and nobody but the plugin iptables "
            f"accepts what policy allows: without it no pod has a connection (accept it there first: "
            f"{closed[0]} -A FORWARD -i {pods} -j ACCEPT, and the same with -o, or {closed[0]} -P FORWARD ACCEPT)"
        )


def refuse_same_marks(joining: Sequence[Member], leaving: Sequence[Member], settings: FelixSettings) -> None:
    """Raises: ConfigError when old and new would overwrite each other's bits of the packet mark."""
    for member in joining:
        for other in leaving:
            shared = _marks(member) & _marks(other)
            if shared:
                raise ConfigError(
                    f"{member.full_name} and {other.full_name} both use the mark bits {shared:#x}: too few in "
                    f"IptablesMarkMask {settings.iptables_mark_mask:#x} for two dataplanes",
                    key="iptables_mark_mask",
                    hint="give it 10 bits or more that nothing else on this machine uses, and restart",
                )


def _marks(member: Member) -> int:
    return member.plugin.mark_bits if isinstance(member.plugin, ClaimsMarks) else 0
