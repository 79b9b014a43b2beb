"""What the Batches have said so far: the compiler's whole input, and what the engine tells a plugin made anew.

Pure. `DesiredState.apply` is the only way in; it says which objects a batch touched, so that callers may recompile
those alone. Everything derived from it is a function of its current content, not of its history.
"""

from __future__ import annotations

from enum import StrEnum
from typing import assert_never

import msgspec

from calico_engine.messages import (
    ActivePolicyRemove,
    ActivePolicyUpdate,
    ActiveProfileRemove,
    ActiveProfileUpdate,
    Batch,
    ConfigUpdate,
    HostEndpointRemove,
    HostEndpointUpdate,
    InterfaceRemove,
    InterfaceUpdate,
    IPSetDelta,
    IPSetRemove,
    IPSetUpdate,
    Message,
    NodeRemove,
    NodeUpdate,
    PoolRemove,
    PoolUpdate,
    RouteRemove,
    RouteUpdate,
    SetKind,
    VtepRemove,
    VtepUpdate,
    WorkloadEndpointRemove,
    WorkloadEndpointUpdate,
)
from calico_engine.model.resource import ResourceKey
from calico_engine.settings import FelixSettings, Layout


class PolicyForm(StrEnum):
    """How lists of policies are programmed in the native layout."""

    CLASSIFIED = "classified"  # one verdict for identity and service, whatever number of policies there are
    LINEAR = (
        "linear"  # policy by policy, rule by rule: slower, and every rule of every policy has its counter
    )


class SetState(msgspec.Struct, gc=False):
    """A set's members of both families. `members` is changed in place by deltas."""

    kind: SetKind
    members: set[str]


class Touched(msgspec.Struct, gc=False):
    """What one batch changed. A flag stands for the whole of its kind.

    `members`: for those of the sets that have but gained and lost members, which, and whether each was there before.
    """

    sets: set[str]
    policies: set[ResourceKey]
    profiles: set[str]
    workloads: set[ResourceKey]
    host_endpoints: bool = False
    routes: bool = False
    pools: bool = False
    nodes: bool = False
    vteps: bool = False
    interfaces: bool = False
    settings: bool = False
    members: dict[str, dict[str, bool]] = {}


class DesiredState:
    """Objects by key, as the last message about each left them."""

    def __init__(self, settings: FelixSettings | None = None, form: PolicyForm | None = None) -> None:
        """Begin with nothing. With a `form` the layout is native, whatever the settings say."""
        self._forced = form is not None
        self.form = form or PolicyForm.CLASSIFIED
        self.settings = self._effective(settings or FelixSettings())
        self.is_configured = False  # whether a batch has said the settings
        self.revision = 0
        self.in_sync = False
        self.sets: dict[str, SetState] = {}
        self.policies: dict[ResourceKey, ActivePolicyUpdate] = {}
        self.profiles: dict[str, ActiveProfileUpdate] = {}
        self.workloads: dict[ResourceKey, WorkloadEndpointUpdate] = {}
        self.host_endpoints: dict[ResourceKey, HostEndpointUpdate] = {}
        self.routes: dict[str, RouteUpdate] = {}
        self.pools: dict[str, PoolUpdate] = {}
        self.nodes: dict[str, NodeUpdate] = {}
        self.vteps: dict[str, VtepUpdate] = {}
        self.interfaces: dict[str, InterfaceUpdate] = {}

    def _effective(self, settings: FelixSettings) -> FelixSettings:
        return msgspec.structs.replace(settings, layout=Layout.NATIVE) if self._forced else settings

    def apply(self, batch: Batch) -> Touched:
        """Take in a batch; return what it changed. Removing what is not there is harmless."""
        touched = Touched(set(), set(), set(), set())
        for message in batch.messages:
            self._note(message, touched)
        self.revision = max(self.revision, batch.revision)
        self.in_sync = self.in_sync or batch.in_sync
        return touched

    def _note(self, message: Message, touched: Touched) -> None:
        match message:
            case IPSetUpdate() | IPSetDelta() | IPSetRemove():
                self._note_set(message, touched)
                touched.sets.add(message.set_id)
            case ActivePolicyUpdate() | ActivePolicyRemove():
                if isinstance(message, ActivePolicyUpdate):
                    self.policies[message.policy] = message
                else:
                    self.policies.pop(message.policy, None)
                touched.policies.add(message.policy)
            case ActiveProfileUpdate() | ActiveProfileRemove():
                if isinstance(message, ActiveProfileUpdate):
                    self.profiles[message.profile] = message
                else:
                    self.profiles.pop(message.profile, None)
                touched.profiles.add(message.profile)
            case WorkloadEndpointUpdate() | WorkloadEndpointRemove():
                if isinstance(message, WorkloadEndpointUpdate):
                    self.workloads[message.endpoint] = message
                else:
                    self.workloads.pop(message.endpoint, None)
                touched.workloads.add(message.endpoint)
            case _:
                self._note_node_object(message, touched)

    def _note_set(self, message: IPSetUpdate | IPSetDelta | IPSetRemove, touched: Touched) -> None:
        match message:
            case IPSetUpdate():
                self.sets[message.set_id] = SetState(message.kind, set(message.members))
                touched.members.pop(message.set_id, None)
            case IPSetDelta():
                self._note_members(message, touched)
            case IPSetRemove():
                self.sets.pop(message.set_id, None)
                touched.members.pop(message.set_id, None)
            case _:
                assert_never(message)

    def _note_members(self, message: IPSetDelta, touched: Touched) -> None:
        set_id = message.set_id
        is_known = set_id in self.sets
        current = self.sets.setdefault(set_id, SetState(SetKind.NET, set()))
        # A set that the batch said as a whole stays so.
        if is_known and (set_id not in touched.sets or set_id in touched.members):
            before = touched.members.setdefault(set_id, {})
            for member in message.removed | message.added:
                before.setdefault(member, member in current.members)
        current.members -= message.removed
        current.members |= message.added

    def _note_node_object(
        self,
        message: HostEndpointUpdate
        | HostEndpointRemove
        | RouteUpdate
        | RouteRemove
        | PoolUpdate
        | PoolRemove
        | NodeUpdate
        | NodeRemove
        | VtepUpdate
        | VtepRemove
        | ConfigUpdate
        | InterfaceUpdate
        | InterfaceRemove,
        touched: Touched,
    ) -> None:
        match message:
            case HostEndpointUpdate():
                self.host_endpoints[message.endpoint] = message
                touched.host_endpoints = True
            case HostEndpointRemove():
                self.host_endpoints.pop(message.endpoint, None)
                touched.host_endpoints = True
            case RouteUpdate():
                self.routes[message.dst] = message
                touched.routes = True
            case RouteRemove():
                self.routes.pop(message.dst, None)
                touched.routes = True
            case PoolUpdate():
                self.pools[message.cidr] = message
                touched.pools = True
            case PoolRemove():
                self.pools.pop(message.cidr, None)
                touched.pools = True
            case NodeUpdate():
                self.nodes[message.node] = message
                touched.nodes = True
            case NodeRemove():
                self.nodes.pop(message.node, None)
                touched.nodes = True
            case VtepUpdate():
                self.vteps[message.node] = message
                touched.vteps = True
            case VtepRemove():
                self.vteps.pop(message.node, None)
                touched.vteps = True
            case ConfigUpdate():
                self.settings = self._effective(message.settings)
                self.is_configured = True
                touched.settings = True
            case InterfaceUpdate():
                self.interfaces[message.name] = message
                touched.interfaces = True
            case InterfaceRemove():
                self.interfaces.pop(message.name, None)
                touched.interfaces = True
            case _:
                assert_never(message)
