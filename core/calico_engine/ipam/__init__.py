"""IPAM: addresses out of pools, by blocks, over any datastore with compare-and-set.

`IpamClient` does the work on an `IpamStore`; the rest is pure: records and their JSON (`records`, `codec`, `keys`),
what happens in a block (`block`), which pools and blocks to use (`pools`, `go_random`), what is wrong (`check`).
Records, keys and order of writes are Calico's, so both may work on one datastore at the same time.
"""

from calico_engine.ipam.block import Holder, ReleaseRequest
from calico_engine.ipam.check import Finding, Problem
from calico_engine.ipam.client import Assignment, AssignRequest, AutoAssignRequest, IpamClient
from calico_engine.ipam.codec import Era, encode
from calico_engine.ipam.keys import AffinityKey, BlockKey, ConfigKey, HandleKey, Key, Stored, parse_path
from calico_engine.ipam.pools import PoolUse
from calico_engine.ipam.records import (
    Address,
    AffinityOwner,
    AffinityState,
    AffinityType,
    AllocationAttribute,
    AllocationBlock,
    BlockAffinity,
    Cidr,
    IPAMConfig,
    IPAMHandle,
)
from calico_engine.ipam.releasing import ReleaseOutcome
from calico_engine.ipam.store import Clock, IpamCluster, IpamStore
from calico_engine.ipam.system import SystemClock
from calico_engine.ipam.tunnels import TunnelKind, ensure_tunnel_address, release_tunnel_address
from calico_engine.ipam.utilisation import BlockUtilisation, PoolUtilisation

__all__ = [
    "Address",
    "AffinityKey",
    "AffinityOwner",
    "AffinityState",
    "AffinityType",
    "AllocationAttribute",
    "AllocationBlock",
    "AssignRequest",
    "Assignment",
    "AutoAssignRequest",
    "BlockAffinity",
    "BlockKey",
    "BlockUtilisation",
    "Cidr",
    "Clock",
    "ConfigKey",
    "Era",
    "Finding",
    "HandleKey",
    "Holder",
    "IPAMConfig",
    "IPAMHandle",
    "IpamClient",
    "IpamCluster",
    "IpamStore",
    "Key",
    "PoolUse",
    "PoolUtilisation",
    "Problem",
    "ReleaseOutcome",
    "ReleaseRequest",
    "Stored",
    "SystemClock",
    "TunnelKind",
    "encode",
    "ensure_tunnel_address",
    "parse_path",
    "release_tunnel_address",
]
