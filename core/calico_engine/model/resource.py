"""What every resource has in common: key, metadata, the registry of kinds.

Pure. Attribute names are the snake_case of Calico's JSON keys (`expectedIPs` is `expected_ips`); lists are tuples,
so that a decoded resource is immutable. JSON names that camelCase does not give are listed per struct in `rename`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, TypeVar

import msgspec

API_VERSION = "projectcalico.org/v3"


def camel(*exceptions: tuple[str, str]) -> Callable[[str], str]:
    """Rename rule for msgspec: snake_case to camelCase, but for the given (attribute, JSON key) pairs."""
    fixed = dict(exceptions)

    def rename(name: str) -> str:
        if name in fixed:
            return fixed[name]
        head, *tail = name.split("_")
        return head + "".join(part.capitalize() for part in tail)

    return rename


class ResourceKey(msgspec.Struct, frozen=True, order=True, gc=False):
    """Names one resource: kind as in its manifest, namespace ("" where the kind has none), name."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind}({self.namespace}/{self.name})" if self.namespace else f"{self.kind}({self.name})"


class Metadata(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    gc=False,
    omit_defaults=True,
    rename=camel(),
):
    """The part of Kubernetes' ObjectMeta that Calico keeps; other keys of it are accepted and dropped."""

    name: str = ""
    namespace: str = ""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    uid: str = ""
    resource_version: str = ""
    creation_timestamp: str | None = None
    generation: int | None = None
    deletion_timestamp: str | None = None


class Resource(msgspec.Struct, frozen=True, kw_only=True, gc=False, rename=camel()):
    """Base of every kind. Subclasses add `spec` (and `status` where the kind has one)."""

    KIND: ClassVar[str] = ""
    PLURAL: ClassVar[str] = ""
    NAMESPACED: ClassVar[bool] = False

    api_version: str = API_VERSION
    kind: str = ""
    metadata: Metadata = Metadata()

    def __post_init__(self) -> None:
        # Code that builds a resource need not repeat its class's name; frozen forbids plain assignment.
        if not self.kind:
            msgspec.structs.force_setattr(self, "kind", self.KIND)

    @property
    def key(self) -> ResourceKey:
        return ResourceKey(self.KIND, self.metadata.namespace, self.metadata.name)

    @property
    def labels(self) -> dict[str, str]:
        return self.metadata.labels


R = TypeVar("R", bound=type[Resource])

KINDS: dict[str, type[Resource]] = {}


def register_kind(plural: str, *, namespaced: bool = False) -> Callable[[R], R]:
    """Class decorator: enter a kind, named as its class, into the registry `KINDS`."""

    def enter(cls: R) -> R:
        cls.KIND = cls.__name__
        cls.PLURAL = plural
        cls.NAMESPACED = namespaced
        KINDS[cls.__name__] = cls
        return cls

    return enter
