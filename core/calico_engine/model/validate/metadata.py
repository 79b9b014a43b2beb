"""Names, namespaces, labels and annotations of any resource."""

from __future__ import annotations

import re
from functools import lru_cache

from calico_engine.model.canonical import shorten
from calico_engine.model.names import DNS_LABEL, GLOBAL_POLICY_NAME, MAX_LABEL_CHARS, POLICY_NAME
from calico_engine.model.node import IPAMHandle
from calico_engine.model.policy import (
    GlobalNetworkPolicy,
    NetworkPolicy,
    StagedGlobalNetworkPolicy,
    StagedNetworkPolicy,
    Tier,
)
from calico_engine.model.resource import Resource
from calico_engine.model.shape import FieldError
from calico_engine.model.validate.checks import (
    check_annotations,
    check_labels,
    check_name,
    require,
)

_HANDLE = re.compile(r"[A-Za-z0-9_.:@-]{1,512}")


@lru_cache(maxsize=4096)
def _is_namespace(name: str) -> bool:
    return len(name) <= MAX_LABEL_CHARS and DNS_LABEL.fullmatch(name) is not None


def check_metadata(resource: Resource) -> None:
    metadata = resource.metadata
    require("metadata.name", metadata.name)
    if isinstance(resource, IPAMHandle):
        # Handles are made of the names of networks and containers, which know capitals and underscores.
        if _HANDLE.fullmatch(metadata.name) is None:
            raise FieldError("metadata.name", f"{shorten(metadata.name)} must be letters, digits and '-_.:@'")
    else:
        check_name("metadata.name", metadata.name)
        _check_special_name(resource)
    if resource.NAMESPACED:
        require("metadata.namespace", metadata.namespace)
        if not _is_namespace(metadata.namespace):
            raise FieldError(
                "metadata.namespace",
                f"{shorten(metadata.namespace)} must be at most 63 lower-case letters, digits and '-', "
                "beginning and ending with a letter or digit",
            )
    elif metadata.namespace:
        raise FieldError("metadata.namespace", f"must be absent: a {resource.KIND} belongs to no namespace")
    if metadata.labels:
        check_labels("metadata.labels", metadata.labels)
    if metadata.annotations:
        check_annotations("metadata.annotations", metadata.annotations)


_POLICY_NAMES: dict[type[Resource], re.Pattern[str]] = {
    NetworkPolicy: POLICY_NAME,
    StagedNetworkPolicy: POLICY_NAME,
    GlobalNetworkPolicy: GLOBAL_POLICY_NAME,
    StagedGlobalNetworkPolicy: GLOBAL_POLICY_NAME,
}


def _check_special_name(resource: Resource) -> None:
    name = resource.metadata.name
    pattern = _POLICY_NAMES.get(type(resource))
    if pattern is not None and pattern.fullmatch(name) is None:
        raise FieldError("metadata.name", f"{shorten(name)} may have one dot at most")
    if isinstance(resource, Tier) and (len(name) > MAX_LABEL_CHARS or DNS_LABEL.fullmatch(name) is None):
        raise FieldError(
            "metadata.name", f"{shorten(name)} must be at most {MAX_LABEL_CHARS} characters, without dots"
        )
