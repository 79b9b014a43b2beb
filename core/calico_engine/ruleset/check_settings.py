"""Settings whose text goes into rules: refused when it is not what it should be.

Pure. The settings' own parser refuses the same; this is the last door before a table tool.
"""

from __future__ import annotations

import re

from calico_engine.errors import ConfigError
from calico_engine.ruleset.addresses import is_address, is_cidr
from calico_engine.ruleset.names import is_interface_name
from calico_engine.settings import FelixSettings

_PORT_RANGE = re.compile(r"(\d{1,5})[:-](\d{1,5})|(\d{1,5})", re.ASCII)


def check_settings(settings: FelixSettings) -> None:
    """Raise ConfigError for a text that must not become part of a rule."""
    for prefix in settings.interface_prefix:
        if not is_interface_name(prefix):
            raise ConfigError(
                f"{prefix!r} is no interface prefix", key="interface_prefix", hint="such as cali"
            )
    interface = settings.iptables_nat_outgoing_interface_filter
    if interface and not is_interface_name(interface.removesuffix("+")):
        raise ConfigError(
            f"{interface!r} is no interface name",
            key="iptables_nat_outgoing_interface_filter",
            hint="a name, or the beginning of names with a + after it",
        )
    if settings.nat_outgoing_address and not is_address(settings.nat_outgoing_address):
        raise ConfigError(
            f"{settings.nat_outgoing_address!r} is no address",
            key="nat_outgoing_address",
            hint="such as 192.0.2.1",
        )
    metadata = settings.metadata_addr
    if metadata and metadata.lower() != "none" and not is_address(metadata):
        raise ConfigError(f"{metadata!r} is no address", key="metadata_addr", hint="an IP address or None")
    if settings.nat_port_range and not _PORT_RANGE.fullmatch(settings.nat_port_range):
        raise ConfigError(
            f"{settings.nat_port_range!r} is no port range", key="nat_port_range", hint="32768:65535"
        )
    for failsafe in (*settings.failsafe_inbound_host_ports, *settings.failsafe_outbound_host_ports):
        if failsafe.net and not is_cidr(failsafe.net):
            raise ConfigError(
                f"{failsafe.net!r} is no CIDR", key="failsafe_host_ports", hint="such as tcp:10.0.0.0/8:22"
            )
