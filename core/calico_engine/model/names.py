"""Which names resources may have, and names made from parts.

Pure. A name ends up in kernel objects and their comments, so only what DNS allows passes.
Source: libcalico-go/lib/validator/v3, libcalico-go/lib/names.
"""

from __future__ import annotations

import re

from calico_engine.model.endpoint import WorkloadEndpointSpec

_LABEL = r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN = rf"{_LABEL}(?:\.{_LABEL})*"
DNS_LABEL = re.compile(_LABEL)
DNS_SUBDOMAIN = re.compile(_SUBDOMAIN)
GLOBAL_POLICY_NAME = re.compile(rf"(?:{_LABEL}\.)?{_LABEL}")
POLICY_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})?|(?:knp|ossg)\.default\.{_SUBDOMAIN}")
MAX_SUBDOMAIN_CHARS = 253
MAX_LABEL_CHARS = 63


def workload_endpoint_name(spec: WorkloadEndpointSpec) -> str:
    """Return the name that a workload endpoint's identifiers give it, "" when one of them is missing.

    The parts are joined by dashes, a dash within a part is doubled.
    """
    match spec.orchestrator:
        case "k8s":
            owner = spec.pod
        case "cni":
            owner = spec.container_id
        case "libnetwork":
            owner = spec.orchestrator
        case _:
            owner = spec.workload
    parts = (spec.node, spec.orchestrator, owner, spec.endpoint)
    return "-".join([part.replace("-", "--") for part in parts]) if all(parts) else ""
