"""Connect local workload endpoints: host routes, proxy ARP and NDP, sysctls, static neighbours.

The engine always runs this, before the profile's routing plugins. Endpoints and interfaces may come in any order: what
has no interface yet waits for it; one that names an interface without InterfacePrefix is not connected, as policy would
not see its packets. When two endpoints name one interface, the first by key has it; when two name one address, the
first by key among those whose interface is up. The others are reported as in error.
Source of the sysctls: felix/dataplane/linux/endpoint_mgr.go.
"""

from __future__ import annotations

import errno
import ipaddress
import logging
import time
from collections.abc import Callable, Sequence

from calico_engine.errors import KernelError
from calico_engine.kernel.conntrack import delete_connections
from calico_engine.kernel.interfaces import (
    apply_global_parameters,
    apply_interface_parameters,
    global_parameters,
    plan_interface_parameters,
    plan_parameters,
    render_parameters,
)
from calico_engine.kernel.neighbours import NeighbourTable
from calico_engine.kernel.netlink import RTPROT_CALICO, RTPROT_KERNEL, RTPROT_RA
from calico_engine.kernel.routes import Route, RouteKey, RouteTable, RouteType, make_route, route_text
from calico_engine.kernel.time_slice import TimeSlice
from calico_engine.messages import (
    Batch,
    ConfigUpdate,
    InterfaceRemove,
    InterfaceUpdate,
    Message,
    RouteKind,
    RouteRemove,
    RouteUpdate,
    WorkloadEndpointRemove,
    WorkloadEndpointUpdate,
)
from calico_engine.model.resource import ResourceKey
from calico_engine.plugin.protocols import ApplyResult, Change, EndpointStatus, Notification, PluginContext
from calico_engine.settings import FelixSettings

log = logging.getLogger(__name__)

#: An interface's routes that nobody asked for are left this long: its maker may be ahead of the datastore.
GRACE_S = 10.0


class EndpointPlumber:
    """A Dataplane (plugin/protocols.py) of host routes and per-interface kernel parameters."""

    def __init__(self, context: PluginContext, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._context = context
        self._settings = context.settings
        self._clock = clock
        self._endpoints: dict[ResourceKey, WorkloadEndpointUpdate] = {}
        self._by_interface: dict[str, set[ResourceKey]] = {}
        self._by_address: dict[str, set[ResourceKey]] = {}
        self._interfaces: dict[str, InterfaceUpdate] = {}
        self._unconnected: set[ResourceKey] = set()
        self._blocks: set[str] = set()
        self._dirty_addresses: set[str] = set()
        self._dirty_interfaces: set[str] = set()
        self._left_addresses: set[str] = set()
        self._wanted_key: dict[str, RouteKey] = {}
        self._failed: dict[str, str] = {}
        self._reported: set[str] = set()
        self._grace_until: dict[str, float] = {}
        self._started = False
        self._globals_due = True
        self._routes = RouteTable(
            context.name,
            self._owns,
            families=context.families,
            on_change=context.request_apply,
            on_drift=self._tell_drift,
            metrics=context.metrics,
        )
        self._neighbours = NeighbourTable(self._is_workload_interface)

    # Desired state

    def on_batch(self, batch: Batch, /) -> None:
        for message in batch.messages:
            self._note(message)
        self._started = self._started or batch.in_sync

    def invalidate(self, reason: str, /) -> None:
        log.debug("plumbing: reading the kernel back: %s", reason)
        self._routes.invalidate()
        self._neighbours.invalidate()
        self._globals_due = True
        self._dirty_interfaces.update(self._by_interface)

    def _note(self, message: Message) -> None:
        match message:
            case WorkloadEndpointUpdate():
                self._forget(message.endpoint)
                self._remember(message)
            case WorkloadEndpointRemove(endpoint=key):
                self._forget(key)
            case InterfaceUpdate() | InterfaceRemove():
                self._note_interface(message)
            case RouteUpdate(dst=dst, kind=kind):
                self._drop_block(dst)
                if kind is RouteKind.LOCAL_BLOCK:
                    self._add_block(dst)
            case RouteRemove(dst=dst):
                self._drop_block(dst)
            case ConfigUpdate(settings=settings):
                if settings != self._settings:
                    self._reconfigure(settings)
            case _:
                pass

    def _reconfigure(self, settings: FelixSettings) -> None:
        endpoints = list(self._endpoints.values())
        for endpoint in endpoints:
            self._forget(endpoint.endpoint)
        self._settings = settings
        for endpoint in endpoints:
            self._remember(endpoint)
        self.invalidate("settings changed")

    def _remember(self, endpoint: WorkloadEndpointUpdate) -> None:
        self._endpoints[endpoint.endpoint] = endpoint
        if not self._is_workload_interface(endpoint.interface_name):
            self._unconnected.add(endpoint.endpoint)
            return
        self._by_interface.setdefault(endpoint.interface_name, set()).add(endpoint.endpoint)
        self._dirty_interfaces.add(endpoint.interface_name)
        for address in self._addresses_of(endpoint):
            self._by_address.setdefault(address, set()).add(endpoint.endpoint)
            self._dirty_addresses.add(address)

    def _forget(self, key: ResourceKey) -> None:
        endpoint = self._endpoints.pop(key, None)
        if endpoint is None:
            return
        if key in self._unconnected:
            self._unconnected.discard(key)
            return
        self._dirty_interfaces.add(endpoint.interface_name)
        _discard(self._by_interface, endpoint.interface_name, key)
        for address in self._addresses_of(endpoint):
            _discard(self._by_address, address, key)
            self._dirty_addresses.add(address)

    def _note_interface(self, message: InterfaceUpdate | InterfaceRemove) -> None:
        self._routes.note_interface(message)
        self._neighbours.note_interface(message)
        name = message.name
        before = self._interfaces.pop(name, None)
        if isinstance(message, InterfaceUpdate):
            self._interfaces[name] = message
            if before is not None and (before.index, before.up) == (message.index, message.up):
                return
            if before is None and self._started and self._is_workload_interface(name):
                self._grace_until[name] = self._clock() + GRACE_S
        else:
            self._grace_until.pop(name, None)
        self._failed.pop(name, None)
        for key in self._by_interface.get(name, ()):
            self._dirty_addresses.update(self._addresses_of(self._endpoints[key]))
            self._dirty_interfaces.add(name)

    def _add_block(self, cidr: str) -> None:
        network = ipaddress.ip_network(cidr)
        # A block of one address is that address's own route; a blackhole would take its place.
        if network.prefixlen < network.max_prefixlen:
            self._blocks.add(cidr)
            self._routes.set_desired(make_route(cidr, RTPROT_CALICO, kind=RouteType.BLACKHOLE))

    def _drop_block(self, cidr: str) -> None:
        if cidr in self._blocks:
            self._blocks.discard(cidr)
            self._routes.delete_desired(make_route(cidr, RTPROT_CALICO, kind=RouteType.BLACKHOLE).key)

    def _addresses_of(self, endpoint: WorkloadEndpointUpdate) -> list[str]:
        """Return the networks to route to the endpoint: its own, and its floating addresses where they are on."""
        networks = list(endpoint.ip_networks)
        if self._settings.floating_ips == "Enabled" or endpoint.orchestrator == "openstack":
            networks += [
                str(ipaddress.ip_network(nat.external_ip)) for nat in endpoint.ip_nats if nat.external_ip
            ]
        versions = self._families()
        return [network for network in networks if (6 if ":" in network else 4) in versions]

    def _families(self) -> tuple[int, ...]:
        wanted = self._context.families
        return wanted if self._settings.ipv6_support else tuple(family for family in wanted if family == 4)

    def _holder(self, interface: str) -> ResourceKey | None:
        """Return the endpoint that has the interface: the first by key."""
        return min(self._by_interface.get(interface, ()), default=None)

    def _resolve_address(self, address: str) -> WorkloadEndpointUpdate | None:
        """Return the endpoint that has the address: up before down, then the first by key."""
        holders = [
            self._endpoints[key]
            for key in self._by_address.get(address, ())
            if self._holder(self._endpoints[key].interface_name) == key
        ]
        return min(holders, key=lambda e: (not self._is_up(e.interface_name), e.endpoint), default=None)

    def _is_up(self, interface: str) -> bool:
        found = self._interfaces.get(interface)
        return found is not None and found.up

    def _is_workload_interface(self, name: str) -> bool:
        return name.startswith(self._settings.interface_prefix)

    # Ownership, from what the kernel shows alone

    def _owns(self, route: Route) -> bool:
        if route.kind is RouteType.BLACKHOLE:
            return route.protocol == RTPROT_CALICO and not route.interface
        if route.kind is not RouteType.UNICAST or not self._is_workload_interface(route.interface):
            return False
        if route.protocol in (self._settings.device_route_protocol, RTPROT_CALICO):
            return True
        if route.protocol in (RTPROT_KERNEL, RTPROT_RA):
            return False
        return self._settings.remove_external_routes

    # Kernel

    async def apply(self) -> ApplyResult:
        """Write parameters before routes: a route leads nowhere before its interface forwards."""
        self._resolve()
        changes: list[Change] = []
        if self._globals_due:
            changes += apply_global_parameters(self._settings, self._families())
            self._globals_due = False
        failure: KernelError | None = None
        time_slice = TimeSlice()
        for name in sorted(self._dirty_interfaces):
            if time_slice.is_over:
                await time_slice.give_way()
            try:
                changes += self._configure(name)
            except KernelError as error:
                # One interface that does not take its parameters must not keep the others from theirs.
                failure = failure or error
        changes += await self._routes.apply()
        changes += await self._neighbours.apply()
        self._report()
        if failure is not None:
            raise failure
        return ApplyResult(
            plugin=self._context.name,
            writes=len(changes),
            changes=tuple(changes),
            endpoint_status=self._statuses(),
            resync_after_s=self._settings.route_refresh_interval_s or None,
        )

    async def prune(self) -> ApplyResult:
        now = self._clock()
        self._grace_until = {name: until for name, until in self._grace_until.items() if until > now}
        changes = await self._routes.prune(keep=self._in_grace)
        changes += await self._neighbours.prune()
        for address in sorted(self._left_addresses):
            # Only when nobody here has it any more, and after its route has gone.
            if address not in self._wanted_key:
                await delete_connections(address.partition("/")[0])
            self._left_addresses.discard(address)
        waits = [until - now for until in self._grace_until.values()]
        return ApplyResult(
            plugin=self._context.name,
            writes=len(changes),
            changes=tuple(changes),
            resync_after_s=min(waits) if waits and not self._routes.in_sync else None,
        )

    async def plan(self) -> Sequence[Change]:
        self._resolve()
        changes = plan_parameters(global_parameters(self._settings, self._families()))
        for name in sorted(self._by_interface):
            key = self._holder(name)
            if key is not None and self._is_up(name):
                changes += plan_interface_parameters(
                    name, self._settings, self._families(), any_source=self._spoofs(key)
                )
        return [*changes, *await self._routes.plan(), *await self._neighbours.plan()]

    @property
    def problems(self) -> dict[str, str]:
        """Endpoints and addresses that cannot be connected, each with why."""
        return {
            f"{self._context.name} {number}": text for number, text in enumerate(sorted(self._reported), 1)
        }

    def render(self) -> str:
        """Return routes as `ip route` shows them, neighbours, and parameters as sysctl.conf writes them."""
        self._resolve()
        lines = [route_text(route) for _, route in sorted(self._routes.desired.items())]
        lines += self._neighbours.render()
        lines += render_parameters(self._settings, self._families(), sorted(self._by_interface))
        return "".join(f"{line}\n" for line in lines)

    async def cleanup(self) -> int:
        removed = await self._routes.cleanup()
        return removed + await self._neighbours.cleanup()

    async def close(self) -> None:
        await self._routes.close()
        await self._neighbours.close()

    def _in_grace(self, route: Route) -> bool:
        return route.interface in self._grace_until

    def _resolve(self) -> None:
        """Turn dirty addresses and interfaces into desired routes and neighbours. No I/O."""
        for name in self._dirty_interfaces:
            # Who has the interface may have changed, and with it all addresses of those who want it.
            for key in self._by_interface.get(name, ()):
                self._dirty_addresses.update(self._addresses_of(self._endpoints[key]))
        touched = set(self._dirty_interfaces)
        for address in self._dirty_addresses:
            endpoint = self._resolve_address(address)
            old = self._wanted_key.pop(address, None)
            if endpoint is None:
                if old is not None:
                    self._routes.delete_desired(old)
                    self._left_addresses.add(address)
                continue
            touched.add(endpoint.interface_name)
            route = self._device_route(address, endpoint.interface_name)
            if old is not None and old != route.key:
                self._routes.delete_desired(old)
            self._wanted_key[address] = route.key
            self._routes.set_desired(route)
        self._dirty_addresses.clear()
        for name in touched:
            self._neighbours.replace_interface(name, self._static_neighbours(name))

    def _device_route(self, address: str, interface: str) -> Route:
        v6, settings = ":" in address, self._settings
        return make_route(
            address,
            settings.device_route_protocol,
            interface=interface,
            priority=settings.ipv6_normal_route_priority if v6 else settings.ipv4_normal_route_priority,
            src=settings.device_route_source_address_ipv6 if v6 else settings.device_route_source_address,
        )

    def _static_neighbours(self, interface: str) -> dict[str, str]:
        key = self._holder(interface)
        endpoint = self._endpoints.get(key) if key is not None else None
        if endpoint is None or not endpoint.mac:
            return {}
        return {
            address.removesuffix("/32"): endpoint.mac
            for address in self._addresses_of(endpoint)
            if address.endswith("/32") and self._resolve_address(address) is endpoint
        }

    def _configure(self, name: str) -> list[Change]:
        """Set one interface's parameters; a failure is kept and tried again at the next apply."""
        key = self._holder(name)
        if key is None or not self._is_up(name):
            self._dirty_interfaces.discard(name)
            return []
        try:
            changes = apply_interface_parameters(
                name,
                self._interfaces[name].index,
                self._settings,
                self._families(),
                any_source=self._spoofs(key),
            )
        except KernelError as error:
            # It went in the meantime: its own event brings us back.
            if error.errno not in (errno.ENOENT, errno.ENODEV):
                raise
            self._failed[name] = str(error)
            return []
        self._failed.pop(name, None)
        self._dirty_interfaces.discard(name)
        return changes

    def _spoofs(self, key: ResourceKey) -> bool:
        return bool(self._endpoints[key].allow_spoofed_source_prefixes)

    # Reports

    def _tell_drift(self, text: str) -> None:
        self._context.notify(Notification(plugin=self._context.name, kind="drift", message=text))

    def _statuses(self) -> dict[ResourceKey, EndpointStatus]:
        return {key: self._status(endpoint) for key, endpoint in self._endpoints.items()}

    def _status(self, endpoint: WorkloadEndpointUpdate) -> EndpointStatus:
        if not endpoint.interface_name:
            return EndpointStatus.DOWN
        if self._holder(endpoint.interface_name) != endpoint.endpoint:
            return EndpointStatus.ERROR
        if not self._is_up(endpoint.interface_name):
            return EndpointStatus.DOWN
        addresses = self._addresses_of(endpoint)
        if endpoint.interface_name in self._failed or any(
            self._resolve_address(address) is not endpoint
            or self._wanted_key.get(address) in self._routes.refused
            for address in addresses
        ):
            return EndpointStatus.ERROR
        return EndpointStatus.UP

    def _report(self) -> None:
        """Tell once of each conflict and refusal, and again only after it was solved."""
        warnings = {
            f"interface {name} is claimed by {_listing(keys)}; {min(keys)} has it"
            for name, keys in self._by_interface.items()
            if len(keys) > 1
        }
        for address, keys in self._by_address.items():
            holder = self._resolve_address(address) if len(keys) > 1 else None
            if holder is not None:
                warnings.add(f"address {address} is claimed by {_listing(keys)}; {holder.endpoint} has it")
        prefixes = ", ".join(self._settings.interface_prefix)
        for key in self._unconnected:
            if name := self._endpoints[key].interface_name:
                warnings.add(
                    f"{key} is not connected: spec.interfaceName {name} does not begin with InterfacePrefix {prefixes}"
                )
        warnings.update(f"route to {key.dst} is refused: {why}" for key, why in self._routes.refused.items())
        warnings.update(self._failed.values())
        for warning in sorted(warnings - self._reported):
            log.warning("%s", warning)
            self._context.notify(Notification(plugin=self._context.name, kind="warning", message=warning))
        self._reported = warnings


def _discard(index: dict[str, set[ResourceKey]], name: str, key: ResourceKey) -> None:
    keys = index.get(name)
    if keys is not None:
        keys.discard(key)
        if not keys:
            del index[name]


def _listing(keys: set[ResourceKey]) -> str:
    return " and ".join(str(key) for key in sorted(keys))
