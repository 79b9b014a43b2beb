"""What the reference accepts as a resource, checked field by field.

Pure. `validate(resource)` returns nothing or raises ValidationError with the resource's key, the path of the first
wrong field in the manifest's own words, and what is allowed there. It expects canonical form (model.normalise).
"""

from __future__ import annotations

from calico_engine.model.resource import Resource


def validate(resource: Resource) -> None:
    """Check a resource as the reference would. Raises: ValidationError."""


__all__ = ["validate"]
