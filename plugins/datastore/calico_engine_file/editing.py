"""Change one resource in the text of a manifest and leave every other character as it is.

Pure. Where the resource is in the text comes from the YAML parser's own marks. The result is parsed again and compared,
so that an edit which would touch anything else is refused rather than written.
"""

from __future__ import annotations

import json

import msgspec
import yaml

from calico_engine.errors import DatastoreError
from calico_engine.model import Resource, ResourceKey, dump
from calico_engine_file.manifest import (
    Documents,
    Entry,
    ManifestError,
    Place,
    decode_text,
    list_items,
    parse_manifest,
    set_revision,
    with_revision,
)

Loader = yaml.CSafeLoader


class EditError(DatastoreError):
    """A resource cannot be changed where it is; says what to do by hand."""

    def __init__(self, path: str, key: ResourceKey, reason: str) -> None:
        self.path = path
        self.key = key
        super().__init__(f"{key} is in {path} and cannot be changed there ({reason}): edit the file by hand")


def render_manifest(resource: Resource) -> bytes:
    """Return the text of a file that holds one resource; its revision is not part of it."""
    return dump(set_revision(resource, ""), "yaml").encode()


def replace_resource(path: str, data: bytes, place: Place, resource: Resource) -> bytes:
    """Return the file's text with the resource at `place` replaced.

    Raises: EditError.
    """
    key = resource.key
    bare = set_revision(resource, "")
    documents = decode_text(path, data)
    if documents.is_json:
        new = _edit_json(documents, place, msgspec.json.decode(dump(bare, "json")))
    else:
        new = _replace_yaml(_YamlText(path, data, key), place, bare)
    _verify(path, data, new, key, with_revision(resource).metadata.resource_version)
    return new


def remove_resource(path: str, data: bytes, place: Place, key: ResourceKey) -> bytes | None:
    """Return the file's text without the resource, None when nothing else is in the file.

    Raises: EditError.
    """
    if all(entry.place == place for entry in parse_manifest(path, data)):
        return None
    documents = decode_text(path, data)
    if documents.is_json:
        new = _edit_json(documents, place, None)
    else:
        new = _remove_yaml(_YamlText(path, data, key), place)
    _verify(path, data, new, key, None)
    return new


def _verify(path: str, old: bytes, new: bytes, key: ResourceKey, revision: str | None) -> None:
    """See that the edit did what it should and nothing else. `revision` None: the resource is to be gone."""
    try:
        after = parse_manifest(path, new)
    except ManifestError as error:
        raise EditError(path, key, f"the result would not parse: {error}") from error
    wanted = [_fact(entry) for entry in parse_manifest(path, old) if entry.key != key]
    if [_fact(entry) for entry in after if entry.key != key] != wanted:
        raise EditError(path, key, "other resources of the file would change with it")
    if [entry.revision for entry in after if entry.key == key] != ([] if revision is None else [revision]):
        raise EditError(path, key, "the text does not come out as it should, or holds the resource twice")


def _fact(entry: Entry) -> tuple[object, ...]:
    return (entry.key, entry.revision, entry.error)


# JSON: there are no comments to keep, so the whole file is written anew.


def _edit_json(documents: Documents, place: Place, item: object | None) -> bytes:
    """Return the document with one item replaced, or deleted when `item` is None."""
    _edit_list(documents.values, place, item)
    return (json.dumps(documents.values[0], indent=2, ensure_ascii=False) + "\n").encode()


def _edit_list(values: list[object], place: Place, item: object | None) -> list[object]:
    """Replace or delete one item; return the list that held it."""
    siblings = values
    for index in place[:-1]:
        siblings = list_items(siblings[index]) or []
    if item is None:
        del siblings[place[-1]]
    else:
        siblings[place[-1]] = item
    return siblings


# YAML


def _is_flow(node: yaml.Node) -> bool:
    """Say whether a mapping or list is written with braces or brackets."""
    return bool(getattr(node, "flow_style", False))


class _YamlText:
    """A file's text with the nodes of its documents."""

    def __init__(self, path: str, data: bytes, key: ResourceKey) -> None:
        self.path = path
        self.data = data
        self.key = key
        try:
            self.text = data.decode("utf-8")
        except UnicodeDecodeError:
            raise EditError(path, key, "the file is not UTF-8") from None
        if self.text.startswith("\ufeff"):
            raise EditError(path, key, "the file begins with a byte order mark")
        events = list(yaml.parse(self.text, Loader))
        if any(isinstance(event, yaml.AliasEvent) for event in events):
            raise EditError(path, key, "the file uses YAML aliases")
        self.document_starts: list[int] = [
            event.start_mark.index
            for event in events
            if isinstance(event, yaml.DocumentStartEvent) and event.start_mark
        ]
        self.roots: list[yaml.Node] = list(yaml.compose_all(self.text, Loader))

    def find(self, place: Place) -> tuple[yaml.Node, yaml.SequenceNode | None]:
        """Return the node at a place, and the sequence that holds it (None for a document of its own)."""
        node, parent = self.roots[place[0]], None
        for index in place[1:]:
            if isinstance(node, yaml.MappingNode):
                node = next(value for name, value in node.value if name.value == "items")
            if not isinstance(node, yaml.SequenceNode):
                raise EditError(self.path, self.key, "its list is not where it was")
            parent, node = node, node.value[index]
        return node, parent

    def end(self, node: yaml.Node) -> int:
        """Return the offset behind a node's last character, without the comments and empty lines that follow."""
        if not node.value or isinstance(node, yaml.ScalarNode) or _is_flow(node):
            start: int = node.start_mark.index
            return start + len(self.text[start : node.end_mark.index].rstrip())
        if isinstance(node, yaml.SequenceNode):
            return self.end(node.value[-1])
        name, value = node.value[-1]
        if value.start_mark.index == value.end_mark.index:  # nothing after the colon
            return self.text.index(":", self.end(name)) + 1
        return self.end(value)

    def splice(self, start: int, end: int, new: str) -> bytes:
        return (self.text[:start] + new + self.text[end:]).encode()

    def line_of_dash(self, node: yaml.Node) -> int:
        """Return where the line begins whose dash introduces an item of a block sequence."""
        dash = self.text.rindex("-", 0, node.start_mark.index)
        line = self.text.rfind("\n", 0, dash) + 1
        if self.text[line:dash].strip():
            raise EditError(self.path, self.key, "its list begins in the middle of a line")
        return line


def _replace_yaml(source: _YamlText, place: Place, resource: Resource) -> bytes:
    node, _ = source.find(place)
    start = node.start_mark.index
    if _is_flow(node):
        return source.splice(start, node.end_mark.index, dump(resource, "json").strip())
    margin = "\n" + " " * node.start_mark.column
    lines = dump(resource, "yaml").strip().split("\n")
    return source.splice(start, source.end(node), margin.join(lines))


def _remove_yaml(source: _YamlText, place: Place) -> bytes:
    node, parent = source.find(place)
    if parent is None:
        ends = [*source.document_starts[1:], len(source.text)]
        return source.splice(source.document_starts[place[0]], ends[place[0]], "")
    if len(parent.value) == 1:
        return _remove_yaml(source, place[:-1])
    if _is_flow(parent):
        siblings = _edit_list(decode_text(source.path, source.data).values, place, None)
        return source.splice(parent.start_mark.index, parent.end_mark.index, json.dumps(siblings))
    start = source.line_of_dash(node)
    if place[-1] + 1 < len(parent.value):
        return source.splice(start, source.line_of_dash(parent.value[place[-1] + 1]), "")
    newline = source.text.find("\n", source.end(node))
    return source.splice(start, newline + 1 if newline >= 0 else len(source.text), "")
