"""What the reference accepts as a resource, checked field by field.

Pure. `validate(resource)` returns nothing or raises ValidationError with the resource's key, the path of the first
wrong field in the manifest's own words, and what is allowed there. It expects canonical form (model.normalise).
One module a family; the checks they share are in `checks`.
"""

from __future__ import annotations

from calico_engine.errors import ValidationError
from calico_engine.model.bgp import BGPConfiguration, BGPFilter, BGPPeer
from calico_engine.model.canonical import shorten
from calico_engine.model.config import (
    CalicoNodeStatus,
    ClusterInformation,
    FelixConfiguration,
    KubeControllersConfiguration,
)
from calico_engine.model.endpoint import HostEndpoint, WorkloadEndpoint
from calico_engine.model.node import BlockAffinity, IPAMBlock, IPAMConfiguration, IPPool, IPReservation, Node
from calico_engine.model.policy import (
    GlobalNetworkPolicy,
    GlobalNetworkSet,
    NetworkPolicy,
    NetworkSet,
    Profile,
    StagedGlobalNetworkPolicy,
    StagedKubernetesNetworkPolicy,
    StagedNetworkPolicy,
    Tier,
)
from calico_engine.model.resource import API_VERSION, Resource
from calico_engine.model.shape import FieldError
from calico_engine.model.validate import bgp, config, endpoint, node, policy
from calico_engine.model.validate.metadata import check_metadata

__all__ = ["validate"]


def validate(resource: Resource) -> None:
    """Check a resource as the reference would. Raises: ValidationError."""
    try:
        _check(resource)
    except FieldError as error:
        raise ValidationError(_printable_key(resource), error.path, error.reason) from None


def _printable_key(resource: Resource) -> str:
    """Return the key for a message; a hostile name is shown escaped and cut."""
    key = str(resource.key)
    return (
        key
        if key.isprintable() and len(key) <= 600
        else f"{resource.KIND}({shorten(resource.metadata.name)})"
    )


def _check(resource: Resource) -> None:
    if resource.kind != resource.KIND or resource.api_version != API_VERSION:
        raise FieldError("kind", f"must be {resource.KIND} of {API_VERSION}")
    check_metadata(resource)
    match resource:
        case WorkloadEndpoint():
            endpoint.check_workload(resource)
        case HostEndpoint():
            endpoint.check_host(resource)
        case NetworkPolicy():
            policy.check_policy(resource.spec, namespaced=True)
        case GlobalNetworkPolicy():
            policy.check_global_policy(resource.spec)
        case StagedNetworkPolicy():
            policy.check_staged_policy(resource.spec)
        case StagedGlobalNetworkPolicy():
            policy.check_staged_global_policy(resource.spec)
        case StagedKubernetesNetworkPolicy():
            policy.check_staged_kubernetes_policy(resource.spec)
        case Tier():
            policy.check_tier(resource)
        case Profile():
            policy.check_profile(resource)
        case NetworkSet() | GlobalNetworkSet():
            policy.check_network_set(resource.metadata, resource.spec.nets)
        case _:
            _check_infrastructure(resource)


def _check_infrastructure(resource: Resource) -> None:
    match resource:
        case IPPool():
            node.check_pool(resource)
        case IPReservation():
            node.check_reservation(resource)
        case Node():
            node.check_node(resource)
        case IPAMBlock():
            node.check_block(resource)
        case BlockAffinity():
            node.check_affinity(resource)
        case IPAMConfiguration():
            node.check_ipam_configuration(resource)
        case BGPPeer():
            bgp.check_peer(resource)
        case BGPConfiguration():
            bgp.check_configuration(resource)
        case BGPFilter():
            bgp.check_filter(resource)
        case FelixConfiguration():
            config.check_felix(resource)
        case ClusterInformation():
            config.check_cluster_information(resource)
        case KubeControllersConfiguration():
            config.check_kube_controllers(resource)
        case CalicoNodeStatus():
            config.check_node_status(resource)
        case _:
            pass  # IPAMHandle: its name is all there is to check.
