"""The kernel parameters a node and its workload interfaces need.

Felix sets these on every workload interface, because a container's only neighbour is its host: the host answers every
ARP and NDP question (proxy_arp, proxy_ndp), at once (proxy_delay 0), and forwards. Source:
felix/dataplane/linux/endpoint_mgr.go. All parameters are those of the calling thread's network namespace.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from calico_engine.errors import KernelError
from calico_engine.kernel.netlink import set_proxy_delay
from calico_engine.kernel.sysctl import read_sysctl, write_sysctl
from calico_engine.plugin.protocols import Change
from calico_engine.settings import FelixSettings, Layout

log = logging.getLogger(__name__)

_DEFAULT_RP_FILTER = "net/ipv4/conf/default/rp_filter"


class Parameter(NamedTuple):
    """`needed` False: go on without it where this kernel or namespace does not have it."""

    name: str
    value: str
    needed: bool = True


def global_parameters(settings: FelixSettings, families: Sequence[int]) -> Iterator[Parameter]:
    """Yield what makes the node a router, unless IPForwarding is off: a node that protects only itself is none.

    These come first: writing all/forwarding resets every interface's.
    """
    forwards = settings.ip_forwarding == "Enabled"
    if 4 in families:
        if forwards:
            yield Parameter("net/ipv4/ip_forward", "1")
        if settings.layout is Layout.V2:
            yield Parameter(_DEFAULT_RP_FILTER, "1")
    if 6 in families and forwards:
        yield Parameter("net/ipv6/conf/all/forwarding", "1", needed=False)
    yield Parameter("net/netfilter/nf_conntrack_acct", "1", needed=False)


def interface_parameters(name: str, families: Sequence[int], rp_filter: str) -> Iterator[Parameter]:
    """Yield an interface's parameters. accept_ra is set even where IPv6 is off: a workload must not route the host."""
    yield Parameter(f"net/ipv6/conf/{name}/accept_ra", "0", needed=False)
    if 4 in families:
        yield Parameter(f"net/ipv4/conf/{name}/route_localnet", "1")
        yield Parameter(f"net/ipv4/conf/{name}/proxy_arp", "1")
        yield Parameter(f"net/ipv4/conf/{name}/forwarding", "1")
        yield Parameter(f"net/ipv4/conf/{name}/rp_filter", rp_filter)
    if 6 in families:
        yield Parameter(f"net/ipv6/conf/{name}/proxy_ndp", "1")
        yield Parameter(f"net/ipv6/conf/{name}/forwarding", "1")


def apply_global_parameters(settings: FelixSettings, families: Sequence[int]) -> list[Change]:
    """Make the node forward. Returns what was changed. Raises: KernelError."""
    return [change for parameter in global_parameters(settings, families) if (change := _apply(parameter))]


def apply_interface_parameters(
    name: str, index: int, settings: FelixSettings, families: Sequence[int], *, any_source: bool
) -> list[Change]:
    """Set one workload interface's parameters. Raises: KernelError (ENOENT when the interface has gone).

    any_source: the workload may send from addresses that are not its own, so the reverse path is not checked here.
    """
    changes: list[Change] = []
    if 4 in families:
        changes += _apply_proxy_delay(name, index)
    rp_filter = _rp_filter(settings, any_source=any_source)
    for parameter in interface_parameters(name, families, rp_filter):
        change = _apply(parameter)
        if change is not None:
            changes.append(change)
    return changes


def plan_parameters(parameters: Iterable[Parameter]) -> list[Change]:
    """Return what setting these would change; one that is not there is left out."""
    changes = []
    for name, value, _ in parameters:
        try:
            differs = read_sysctl(name) != value
        except KernelError:
            continue
        if differs:
            changes.append(_change(name, value))
    return changes


def plan_interface_parameters(
    name: str, settings: FelixSettings, families: Sequence[int], *, any_source: bool
) -> list[Change]:
    """Return what apply_interface_parameters would change. Raises: KernelError."""
    delay = [Parameter(f"net/ipv4/neigh/{name}/proxy_delay", "0")] if 4 in families else []
    return plan_parameters(
        [*delay, *interface_parameters(name, families, _rp_filter(settings, any_source=any_source))]
    )


def render_parameters(
    settings: FelixSettings, families: Sequence[int], interfaces: Sequence[str]
) -> list[str]:
    """Return the parameters as sysctl.conf writes them."""
    wanted = list(global_parameters(settings, families))
    for name in interfaces:
        if 4 in families:
            wanted.append(Parameter(f"net/ipv4/neigh/{name}/proxy_delay", "0"))
        wanted += interface_parameters(name, families, "1" if settings.layout is Layout.V2 else "default")
    return [f"{name} = {value}" for name, value, _ in wanted]


def _rp_filter(settings: FelixSettings, *, any_source: bool) -> str:
    if any_source and settings.workload_source_spoofing == "Any":
        return "0"
    return "1" if settings.layout is Layout.V2 else read_sysctl(_DEFAULT_RP_FILTER)


def _apply(parameter: Parameter) -> Change | None:
    try:
        changed = write_sysctl(parameter.name, parameter.value)
    except KernelError as error:
        if parameter.needed:
            raise
        log.debug("parameter left as it is: %s", error)
        return None
    return _change(parameter.name, parameter.value) if changed else None


def _apply_proxy_delay(name: str, index: int) -> list[Change]:
    """Answer proxied ARP at once. The kernel's default delays it by up to 0.8 s at random."""
    parameter = f"net/ipv4/neigh/{name}/proxy_delay"
    try:
        return [_change(parameter, "0")] if write_sysctl(parameter, "0") else []
    except KernelError as error:
        # 6.x: the neigh directory is not there in a namespace that a user namespace owns; netlink is.
        if error.errno != errno.ENOENT:
            raise
    set_proxy_delay(index, 0)
    return []


def _change(name: str, value: str) -> Change:
    return Change(action="~", where="sysctl", text=f"{name} = {value}")
