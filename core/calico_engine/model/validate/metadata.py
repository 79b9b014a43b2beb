"""Names, namespaces, labels and annotations of any resource."""

from __future__ import annotations

import re

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
        if len(metadata.namespace) > MAX_LABEL_CHARS or DNS_LABEL.fullmatch(metadata.namespace) is None:
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


def _check_special_name(resource: Resource) -> None:
    name = resource.metadata.name
    match resource:
        case NetworkPolicy() | StagedNetworkPolicy():
            if POLICY_NAME.fullmatch(name) is None:
                raise FieldError("metadata.name", f"{shorten(name)} may have one dot at most")
        case GlobalNetworkPolicy() | StagedGlobalNetworkPolicy():
            if GLOBAL_POLICY_NAME.fullmatch(name) is None:
                raise FieldError("metadata.name", f"{shorten(name)} may have one dot at most")
        case Tier():
            if len(name) > MAX_LABEL_CHARS or DNS_LABEL.fullmatch(name) is None:
                raise FieldError(
                    "metadata.name", f"{shorten(name)} must be at most 63 characters, without dots"
                )
        case _:
            pass
