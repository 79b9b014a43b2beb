"""Manifests to resources and back: YAML or JSON text, lists, and the v1 manifests of Calico 2.

Pure. Every resource that leaves here is validated and in canonical form, so that equal meaning is equal value. Errors
are ValidationErrors only, and name the source, the resource, the field path and what is allowed.

    load        all or nothing: a tuple of resources, or the first error
    load_each   good ones beside the errors of bad ones
    decode      one JSON document of known kind, as datastores hold it: quick, unknown fields of newer versions ignored
                outside of rules (in a rule an unknown criterion would widen it)
    dump encode the reverse
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import get_args

import msgspec
import yaml

from calico_engine.errors import ValidationError
from calico_engine.model import v1
from calico_engine.model.canonical import shorten
from calico_engine.model.json_reader import JSONValueError, read_json
from calico_engine.model.normalise import normalise
from calico_engine.model.policy import NetworkPolicySpec, ProfileSpec, Rule
from calico_engine.model.resource import API_VERSION, KINDS, Resource, ResourceKey
from calico_engine.model.shape import FieldError, clean, convert, shape_of
from calico_engine.model.validate import validate
from calico_engine.model.yaml_reader import YAMLSyntaxError, read_documents

Document = str | bytes | Mapping[str, object] | Sequence[object] | None

DEFAULT_LIMIT_BYTES = 64 * 1024 * 1024
_MAX_LIST_DEPTH = 4
_MAX_LINE_CHARS = 2**30
_ENCODER = msgspec.json.Encoder()


def load(
    document: Document, *, source: str = "", limit_bytes: int = DEFAULT_LIMIT_BYTES
) -> tuple[Resource, ...]:
    """Return all resources of a document, in its order.

    Args: document: text, bytes (UTF-8), or an already decoded mapping or list; source: for messages, say a file name.
    Raises: ValidationError, the first there is.
    """
    resources = []
    for found in load_each(document, source=source, limit_bytes=limit_bytes):
        if isinstance(found, ValidationError):
            raise found
        resources.append(found)
    return tuple(resources)


def load_each(
    document: Document, *, source: str = "", limit_bytes: int = DEFAULT_LIMIT_BYTES
) -> Iterator[Resource | ValidationError]:
    """Yield each resource, or the error that stands in its place. Text that does not parse ends with one error."""
    if not isinstance(document, str | bytes):
        yield from _load_value(document, source)
        return
    try:
        for value, line in _parse(document, limit_bytes):
            yield from _load_value(value, f"{source} line {line}" if source and line > 1 else source)
    except (FieldError, YAMLSyntaxError) as error:
        yield ValidationError("", "", str(error).removeprefix(": "), source=source)


def _parse(document: str | bytes, limit_bytes: int) -> Iterator[tuple[object, int]]:
    if len(document) > limit_bytes:
        raise FieldError("", f"the document is larger than {limit_bytes} bytes; split it")
    if isinstance(document, bytes):
        try:
            document = document.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise FieldError("", f"byte {error.start} is not UTF-8 text") from None
    document = document.removeprefix("\ufeff")
    if document.lstrip()[:1] in ("{", "["):
        try:
            value = _parse_json(document)
        except json.JSONDecodeError:
            pass  # YAML's flow style looks like this too, and its error names a line.
        else:
            yield value, 1
            return
    yield from read_documents(document)


def _parse_json(text: str) -> object:
    try:
        return read_json(text)
    except JSONValueError as error:
        raise FieldError("", str(error)) from None


def _load_value(value: object, source: str) -> Iterator[Resource | ValidationError]:
    for path, item in _flatten(value, "", 0):
        try:
            yield _load_one(item, source)
        except FieldError as error:
            full_path = f"{path}.{error.path}" if path and error.path else path or error.path
            yield ValidationError(name_document(item), full_path, error.reason, source=source)
        except ValidationError as error:
            yield ValidationError(error.key, error.path, error.reason, source=source)
        except RecursionError:
            yield ValidationError(
                name_document(item), path, "lists and mappings nest too deep", source=source
            )


def _flatten(value: object, path: str, depth: int) -> Iterator[tuple[str, object]]:
    """Yield the single documents of lists and of Kubernetes' List kinds, with their path."""
    if value is None:
        return
    if depth <= _MAX_LIST_DEPTH:
        if isinstance(value, list | tuple):
            for index, item in enumerate(value):
                yield from _flatten(item, f"{path}[{index}]", depth + 1)
            return
        if isinstance(value, Mapping):
            kind, items = value.get("kind"), value.get("items")
            if isinstance(kind, str) and kind.endswith("List") and isinstance(items, list | tuple):
                given = {"apiVersion": value.get("apiVersion"), "kind": kind.removesuffix("List")}
                for index, item in enumerate(items):
                    if isinstance(item, Mapping) and kind != "List":
                        item = {**given, **item}
                    yield from _flatten(item, f"{path}.items[{index}]".lstrip("."), depth + 1)
                return
    yield path, value


def _load_one(document: object, source: str) -> Resource:
    """Return one validated resource. Raises: FieldError, ValidationError."""
    if not isinstance(document, Mapping):
        raise FieldError(
            "", f"must be a mapping with apiVersion, kind, metadata and spec, found {type(document).__name__}"
        )
    kind, version = document.get("kind"), document.get("apiVersion")
    if not isinstance(kind, str) or not kind:
        raise FieldError("kind", "is required")
    if version == v1.API_VERSION:
        resource = v1.load_v1(document)
    elif version == API_VERSION:
        cls = KINDS.get(kind)
        if cls is None:
            raise FieldError("kind", _explain_kind(kind, list(KINDS)))
        cleaned = clean(document, shape_of(cls))
        resource = convert(cleaned, cls)
    else:
        found = shorten(version) if isinstance(version, str) else "none"
        raise FieldError(
            "apiVersion", f"must be {API_VERSION} (or v1 for manifests of Calico 2), found {found}"
        )
    return _finish(resource)


def _explain_kind(kind: str, known: list[str]) -> str:
    folded = {name.lower(): name for name in (*known, *v1.KIND_NAMES)}
    nearest = folded.get(kind.lower())
    if nearest in v1.KIND_NAMES:
        return f"{shorten(kind)} is a kind of apiVersion v1, not of {API_VERSION}"
    return v1.explain_kind(kind, known)


def _finish(resource: Resource) -> Resource:
    resource = normalise(resource)
    validate(resource)
    return resource


def name_document(document: object) -> str:
    """Return the name by which messages call a document that is not a resource yet."""
    if not isinstance(document, Mapping):
        return ""
    kind, metadata = document.get("kind"), document.get("metadata")
    if not isinstance(kind, str) or len(kind) > 100:
        return ""
    parts = [
        metadata.get(field) if isinstance(metadata, Mapping) else None for field in ("namespace", "name")
    ]
    namespace, name = [part if isinstance(part, str) else "" for part in parts]
    if (
        not (name.isprintable() and namespace.isprintable() and kind.isprintable())
        or len(name + namespace) > 600
    ):
        return f"{kind}(?)" if kind.isprintable() else ""
    return str(ResourceKey(kind, namespace, name)) if name else kind


@cache
def _decoder(cls: type[Resource]) -> msgspec.json.Decoder[Resource]:
    return msgspec.json.Decoder(cls)


@cache
def _holds_rules(cls: type[Resource]) -> bool:
    return isinstance(getattr(cls(), "spec", None), NetworkPolicySpec | ProfileSpec)


def decode(kind: str, data: bytes) -> Resource:
    """Return the resource of one JSON document of known kind, as datastores hold it.

    Raises: ValidationError.
    """
    cls = KINDS.get(kind)
    if cls is None:
        raise ValidationError("", "kind", v1.explain_kind(kind, list(KINDS)))
    try:
        resource = _decoder(cls).decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        # Nulls for absent lists land here, and what is really wrong, which then gets its proper words.
        return _decode_slowly(cls, data)
    if resource.kind != kind or (_holds_rules(cls) and not _has_only_known_criteria(data)):
        return _decode_slowly(cls, data)
    return _finish(resource)


def _strict_twin(cls: type[msgspec.Struct]) -> type[msgspec.Struct]:
    """Return a struct of the same field names that refuses all others and looks at no value but structs."""
    fields: list[tuple[str, object, object]] = []
    names = {}
    for field in msgspec.structs.fields(cls):
        names[field.name] = field.encode_name
        inner = [part for part in (field.type, *get_args(field.type)) if isinstance(part, type)]
        nested = [part for part in inner if issubclass(part, msgspec.Struct)]
        fields.append((field.name, _strict_twin(nested[0]) | None if nested else msgspec.Raw, None))
    return msgspec.defstruct(f"Strict{cls.__name__}", fields, rename=names, forbid_unknown_fields=True)


@cache
def _criteria_decoder() -> msgspec.json.Decoder[msgspec.Struct]:
    rules = tuple[_strict_twin(Rule), ...] | None  # type: ignore[misc,valid-type]  # made at run time
    spec = msgspec.defstruct("RulesOfSpec", [("ingress", rules, None), ("egress", rules, None)])
    return msgspec.json.Decoder(msgspec.defstruct("RulesOfResource", [("spec", spec | None, None)]))


def _has_only_known_criteria(data: bytes) -> bool:
    try:
        _criteria_decoder().decode(data)
    except msgspec.DecodeError:
        return False
    return True


def _decode_slowly(cls: type[Resource], data: bytes) -> Resource:
    document: object = None
    try:
        document = _parse_json(data.decode())
        if not isinstance(document, Mapping):
            raise FieldError("", "must be a JSON object")
        if document.get("kind", cls.KIND) != cls.KIND:
            raise FieldError("kind", f"must be {cls.KIND}, found {shorten(str(document['kind']))}")
        shape = shape_of(cls)
        document = clean(document, shape) if _holds_rules(cls) else _drop_nulls(document)
        return _finish(convert(document, cls))
    except FieldError as error:
        raise ValidationError(name_document(document), error.path, error.reason) from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValidationError("", "", f"{cls.KIND} is not JSON: {error}") from None


def _drop_nulls(value: object) -> object:
    if isinstance(value, dict):
        return {key: _drop_nulls(item) for key, item in value.items() if item is not None}
    return [_drop_nulls(item) for item in value] if isinstance(value, list) else value


def encode(resource: Resource) -> bytes:
    """Return a resource as one JSON document."""
    return _ENCODER.encode(resource)


def dump(resource: Resource, format: str = "yaml") -> str:  # noqa: A002  the word users know
    """Return a resource as text, "yaml" or "json"; `load` gives it back."""
    encoded = encode(resource)
    decoded = msgspec.json.decode(encoded, type=dict[str, object])
    value = {key: decoded.pop(key) for key in ("apiVersion", "kind", "metadata")} | decoded
    if format == "json":
        return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
    if format != "yaml":
        raise ValueError(f"format must be yaml or json, not {format!r}")
    # The reader takes no-break spaces at the ends of lines for spaces: escaped, they stay what they are.
    plain = "\u00a0".encode() not in encoded
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=plain, width=_MAX_LINE_CHARS)


class _Dumper(yaml.CSafeDumper):
    """Quotes whatever any YAML version may take for a number, date or truth value."""

    def ignore_aliases(self, data: object) -> bool:
        return True


_Dumper.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?$"),
    list("-+.0123456789"),
)
