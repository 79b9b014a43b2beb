"""Cluster-wide settings and status kinds, as users write them (projectcalico.org/v3).

FelixConfiguration keeps its parameters as written, under the reference's JSON names: which of them exist and what
they mean is the business of whoever resolves settings, where environment and profile come in as well.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from calico_engine.model.resource import Resource, camel, register_kind


class _Spec(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True, rename=camel()):
    """Options every spec struct shares."""


@register_kind("felixconfigurations")
class FelixConfiguration(Resource, frozen=True):
    """Felix's parameters: for all nodes when named "default", for one node when named "node.<node>"."""

    spec: dict[str, object] = {}  # noqa: RUF012  msgspec copies it


class ClusterInformationSpec(_Spec, frozen=True, rename=camel(("cluster_guid", "clusterGUID"))):
    cluster_guid: str = ""
    cluster_type: str = ""
    calico_version: str = ""
    datastore_ready: bool | None = None
    variant: str = ""


@register_kind("clusterinformations")
class ClusterInformation(Resource, frozen=True):
    """What the cluster says of itself; the only one is named "default"."""

    spec: ClusterInformationSpec = ClusterInformationSpec()


class KubeControllersConfigurationSpec(
    _Spec, frozen=True, rename=camel(("etcd_v3_compaction_period", "etcdV3CompactionPeriod"))
):
    log_severity_screen: str = ""
    health_checks: str = ""
    etcd_v3_compaction_period: str = ""
    prometheus_metrics_port: int | None = None
    debug_profile_port: int | None = None
    controllers: dict[str, dict[str, object]] = {}


@register_kind("kubecontrollersconfigurations")
class KubeControllersConfiguration(Resource, frozen=True):
    """Settings of the Kubernetes controllers; the only one is named "default"."""

    spec: KubeControllersConfigurationSpec = KubeControllersConfigurationSpec()
    status: dict[str, object] = {}  # noqa: RUF012  msgspec copies it


class NodeStatusClass(StrEnum):
    AGENT = "Agent"
    BGP = "BGP"
    ROUTES = "Routes"


class CalicoNodeStatusSpec(_Spec, frozen=True):
    """Which node shall report which classes how often; 0 seconds stops the reports."""

    node: str = ""
    classes: tuple[NodeStatusClass, ...] = ()
    update_period_seconds: int | None = None


@register_kind("caliconodestatuses")
class CalicoNodeStatus(Resource, frozen=True):
    spec: CalicoNodeStatusSpec = CalicoNodeStatusSpec()
    status: dict[str, object] = {}  # noqa: RUF012  msgspec copies it
