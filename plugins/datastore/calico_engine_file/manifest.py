"""Take one manifest apart into resources, each with its place in the file.

Pure. A file holds YAML documents or JSON; a document holds a resource, a list of resources, or a `List` kind with
`items`. What is wrong with one resource does not touch the others; what is wrong with the text (a document that ends
in the middle, two equal keys) makes the whole file unreadable.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator

import msgspec

from calico_engine.errors import DatastoreError, ValidationError
from calico_engine.model import KINDS, Resource, ResourceKey, encode, load_each
from calico_engine.model.json_reader import read_json
from calico_engine.model.yaml_reader import read_documents

#: (document number, then the index in every list on the way down), counted from 0; () is no place.
Place = tuple[int, ...]

_KEY = re.compile(r"(?P<kind>\w+)\((?:(?P<namespace>[^/()]*)/)?(?P<name>.*)\)", re.DOTALL)


class ManifestError(DatastoreError):
    """The text of a manifest is not YAML or JSON."""


class Entry(msgspec.Struct, frozen=True):
    """One resource as a file holds it. `resource` is None and `error` says why where it is not valid; `key` is None
    where not even kind and name can be told. `good_since` is set for a version that the file held earlier: when that
    was written."""

    place: Place
    key: ResourceKey | None
    resource: Resource | None
    error: str = ""
    good_since: str = ""

    @property
    def revision(self) -> str:
        return self.resource.metadata.resource_version if self.resource else ""


class Documents(msgspec.Struct, frozen=True):
    """The documents of a file; `is_json` when it is one JSON value, which has no comments to keep."""

    values: list[object]
    is_json: bool


def decode_text(path: str, data: bytes) -> Documents:
    """Return the documents of a file.

    Raises: ManifestError with the line that is wrong.
    """
    try:
        text = data.decode("utf-8-sig")
        looks_like_json = path.endswith(".json") or text.lstrip()[:1] in {"{", "["}
        if looks_like_json and text.strip():
            try:
                return Documents([read_json(text)], is_json=True)
            except json.JSONDecodeError:
                if path.endswith(".json"):
                    raise
                # YAML's flow style looks like this too.
        return Documents([document for document, _ in read_documents(text)], is_json=False)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ManifestError(
            f"{path}: line {line}: not UTF-8 text (byte 0x{data[error.start]:02x})"
        ) from error
    except json.JSONDecodeError as error:
        raise ManifestError(f"{path}: line {error.lineno}: not JSON: {error.msg}") from error
    except ValueError as error:
        # YAMLSyntaxError and JSONValueError.
        raise ManifestError(f"{path}: {' '.join(str(error).split())[:300]}") from error


def split_items(documents: Documents) -> Iterator[tuple[Place, object]]:
    """Yield every resource document and where it is; an empty document holds none."""
    stack: list[tuple[Place, object]] = [((number,), value) for number, value in enumerate(documents.values)]
    stack.reverse()
    while stack:
        place, item = stack.pop()
        children = list_items(item)
        if children is not None:
            given = _given(item)
            for index in reversed(range(len(children))):
                child = children[index]
                if given and isinstance(child, dict):
                    child = {**given, **child}
                stack.append(((*place, index), child))
        elif item is not None:
            yield place, item


def _given(item: object) -> dict[str, object]:
    """Return what a typed list (`NodeList`) says for all of its items."""
    if not isinstance(item, dict) or item.get("kind") == "List":
        return {}
    return {"apiVersion": item.get("apiVersion"), "kind": str(item["kind"]).removesuffix("List")}


def list_items(item: object) -> list[object] | None:
    """Return the members of a list of resources (a sequence or a List kind), None for anything else."""
    if isinstance(item, list):
        return item
    if isinstance(item, dict) and isinstance(item.get("kind"), str) and item["kind"].endswith("List"):
        items = item.get("items")
        return items if isinstance(items, list) else [] if items is None else None
    return None


def parse_manifest(path: str, data: bytes) -> tuple[Entry, ...]:
    """Return the resources of a file, in the order written.

    Raises: ManifestError when the text is not YAML or JSON.
    """
    entries: list[Entry] = []
    for place, item in split_items(decode_text(path, data)):
        entries.extend(_entries(place, item))
    return tuple(entries)


def _entries(place: Place, item: object) -> Iterator[Entry]:
    for result in load_each(item if isinstance(item, dict) else [item]):
        if isinstance(result, Resource):
            yield Entry(place, result.key, with_revision(result))
        else:
            yield Entry(place, _key_of(result), None, str(result))


def _key_of(error: ValidationError) -> ResourceKey | None:
    """Return the key of a resource that is not valid, as far as it can be told."""
    found = _KEY.fullmatch(error.key)
    if not found or found["kind"] not in KINDS:
        return None
    return ResourceKey(found["kind"], found["namespace"] or "", found["name"])


def with_revision(resource: Resource) -> Resource:
    """Return the resource with its revision: a digest of all it says, whoever wrote it and wherever."""
    bare = set_revision(resource, "")
    return set_revision(bare, hashlib.blake2b(encode(bare), digest_size=10).hexdigest())


def set_revision(resource: Resource, revision: str) -> Resource:
    metadata = msgspec.structs.replace(resource.metadata, resource_version=revision)
    return msgspec.structs.replace(resource, metadata=metadata)
