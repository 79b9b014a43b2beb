"""Cluster-wide settings and status kinds.

FelixConfiguration's parameters are checked for shape only: which exist is known where settings are resolved.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from calico_engine.model.canonical import shorten
from calico_engine.model.config import (
    CalicoNodeStatus,
    ClusterInformation,
    FelixConfiguration,
    KubeControllersConfiguration,
)
from calico_engine.model.shape import FieldError, join
from calico_engine.model.validate.bgp import LOG_LEVELS
from calico_engine.model.validate.checks import (
    check_choice,
    check_duration,
    check_name,
    check_printable,
    check_range,
    check_unique,
    require,
)

_PARAMETER = re.compile(r"[a-z][A-Za-z0-9]{0,99}")


def check_felix(configuration: FelixConfiguration) -> None:
    for parameter, value in configuration.spec.items():
        if _PARAMETER.fullmatch(parameter) is None:
            raise FieldError(
                "spec", f"{shorten(parameter)} is not the name of a parameter such as logSeverityScreen"
            )
        _check_value(join("spec", parameter), value)


def _check_value(path: str, value: object) -> None:
    if isinstance(value, str):
        check_printable(path, value)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            _check_value(join(path, str(key)), item)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            _check_value(f"{path}[{index}]", item)
    elif not isinstance(value, bool | int | float) and value is not None:
        raise FieldError(path, f"must be text, a number, true, false or a list, found {type(value).__name__}")


def check_cluster_information(information: ClusterInformation) -> None:
    spec = information.spec
    check_printable("spec.clusterGUID", spec.cluster_guid)
    check_printable("spec.clusterType", spec.cluster_type)
    check_printable("spec.calicoVersion", spec.calico_version)


def check_kube_controllers(configuration: KubeControllersConfiguration) -> None:
    spec = configuration.spec
    check_choice("spec.logSeverityScreen", spec.log_severity_screen, LOG_LEVELS)
    check_choice("spec.healthChecks", spec.health_checks, ("Enabled", "Disabled"))
    check_duration("spec.etcdV3CompactionPeriod", spec.etcd_v3_compaction_period)
    check_range("spec.prometheusMetricsPort", spec.prometheus_metrics_port, 0, 65535)
    check_range("spec.debugProfilePort", spec.debug_profile_port, 0, 65535)


def check_node_status(status: CalicoNodeStatus) -> None:
    spec = status.spec
    require("spec.node", spec.node)
    check_name("spec.node", spec.node)
    require("spec.classes", spec.classes)
    check_unique("spec.classes", spec.classes)
    if spec.update_period_seconds is None:
        raise FieldError("spec.updatePeriodSeconds", "is required; 0 stops the reports")
    check_range("spec.updatePeriodSeconds", spec.update_period_seconds, 0, 86400)
