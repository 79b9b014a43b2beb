"""Compare a decoded document with the structs it is meant to fill, and say plainly what does not fit.

Pure. `clean` refuses unknown fields, naming the nearest one or the place where the field belongs, and drops nulls,
which the API servers treat as absent. `convert` makes the struct; its errors name the field path and what is allowed.
"""

from __future__ import annotations

import difflib
import enum
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import TypeVar

import msgspec

from calico_engine.model.canonical import shorten

T = TypeVar("T")

#: Kubernetes' ObjectMeta fields that are accepted and dropped.
IGNORED_METADATA = frozenset(
    (
        "generateName",
        "selfLink",
        "deletionGracePeriodSeconds",
        "ownerReferences",
        "finalizers",
        "managedFields",
    )
)
_LOCATION = re.compile(r"^(?P<what>.*?)(?: - at `(?P<where>.*)`)?$", re.DOTALL)
_WRONG_TYPE = re.compile(r"Expected `(?P<expected>[^`]*)`, got `(?P<found>[^`]*)`")
_MISSING = re.compile(r"Object missing required field `(?P<field>[^`]*)`")
_TYPE_WORDS = {
    "str": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "array": "a list",
    "object": "a mapping",
    "null": "nothing",
}


class FieldError(ValueError):
    """A field does not fit: `path` from the document's root, `reason` what is allowed."""

    def __init__(self, path: str, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(f"{path}: {reason}")


class Shape:
    """What may stand at one place of a document: `fields` of a struct, `item` of a list, or anything."""

    __slots__ = ("allowed", "fields", "item", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.fields: dict[str, Shape] | None = None
        self.item: Shape | None = None
        self.allowed: tuple[str, ...] = ()


@cache
def shape_of(cls: type) -> Shape:
    """Return the shape of a struct class."""
    return _build(msgspec.inspect.type_info(cls))


def _build(info: msgspec.inspect.Type) -> Shape:
    if isinstance(info, msgspec.inspect.UnionType):
        shaped = [
            member for member in map(_build, info.types) if member.fields or member.item or member.allowed
        ]
        return shaped[0] if shaped else Shape("value")
    if isinstance(info, msgspec.inspect.StructType):
        shape = Shape(info.cls.__name__)
        shape.fields = {field.encode_name: _build(field.type) for field in info.fields}
        return shape
    shape = Shape("value")
    if isinstance(info, msgspec.inspect.VarTupleType):
        shape.item = _build(info.item_type)
    elif isinstance(info, msgspec.inspect.EnumType) and issubclass(info.cls, enum.StrEnum):
        shape.allowed = tuple(member.value for member in info.cls)
    return shape


def clean(
    document: object, shape: Shape, path: str = "", parents: tuple[tuple[str, Shape], ...] = ()
) -> object:
    """Return a copy without nulls. Raises: FieldError for a field that the struct does not have."""
    if not path and not parents and isinstance(document, dict):
        # Nearly every document is in order: paths are only put together for one that is not.
        quick = _strip(document, shape)
        if quick is not None:
            return quick
    if isinstance(document, Mapping):
        return _clean_mapping(document, shape, path, parents)
    if isinstance(document, list | tuple):
        item = shape.item or _OPEN
        return [clean(value, item, f"{path}[{index}]", parents) for index, value in enumerate(document)]
    return document


_OPEN = Shape("value")


def _strip(document: dict[object, object], shape: Shape) -> dict[str, object] | None:
    """Return what `clean` does where nothing but known fields is in plain mappings and lists; None where it is not."""
    stripped: dict[str, object] = {}
    fields = shape.fields
    for key, value in document.items():
        if not isinstance(key, str):
            return None
        child = _OPEN if fields is None else fields.get(key)
        if child is None:
            return None
        if value is None:
            continue
        if type(value) not in _PLAIN:
            value = _strip_value(value, child)
            if value is None:
                return None
        stripped[key] = value
    return stripped


def _strip_value(value: object, shape: Shape) -> object:
    """Return what `_strip` does of a mapping or list, None for anything else and what is not in order."""
    if isinstance(value, dict):
        return _strip(value, shape)
    return _strip_list(value, shape.item or _OPEN) if isinstance(value, list) else None


_PLAIN = frozenset((str, int, float, bool))


def _strip_list(items: list[object], shape: Shape) -> list[object] | None:
    stripped: list[object] = []
    for value in items:
        if type(value) not in _PLAIN:
            value = _strip_value(value, shape)
            if value is None:
                return None
        stripped.append(value)
    return stripped


def _clean_mapping(
    document: Mapping[object, object], shape: Shape, path: str, parents: tuple[tuple[str, Shape], ...]
) -> dict[str, object]:
    cleaned: dict[str, object] = {}
    fields = shape.fields
    inner = (*parents, (path, shape)) if fields is not None else parents
    for key, value in document.items():
        if not isinstance(key, str):
            raise FieldError(path, f"key {shorten(str(key))} must be text; quote it")
        if fields is None:
            child = _OPEN
        elif key in fields:
            child = fields[key]
        elif (shape.name == "Metadata" and key in IGNORED_METADATA) or (not parents and key == "status"):
            continue
        else:
            raise FieldError(join(path, key), explain_unknown(key, value, inner))
        if value is not None:
            cleaned[key] = clean(value, child, join(path, key), inner)
    return cleaned


def join(path: str, key: str) -> str:
    """Return the path of a key below a path; unusual keys are quoted."""
    if len(key) <= 64 and re.fullmatch(r"[A-Za-z0-9_-]+", key):
        return f"{path}.{key}" if path else key
    return f"{path}[{shorten(key)}]"


def explain_unknown(key: str, value: object, parents: tuple[tuple[str, Shape], ...]) -> str:
    """Return why `key` cannot stand in the last of `parents`, and where it could."""
    _, shape = parents[-1]
    fields = shape.fields or {}
    below = [name for name, child in fields.items() if key in ((child.item or child).fields or {})]
    if below:
        return _explain_below(key, value, below)
    nearest = difflib.get_close_matches(key, fields, n=1, cutoff=0.75)
    folded = [name for name in fields if name.lower() == key.lower().replace("-", "").replace("_", "")]
    if folded or nearest:
        return f"unknown field {shorten(key)}; did you mean {(folded or nearest)[0]!r}?"
    for above, parent in reversed(parents[:-1]):
        if key in (parent.fields or {}):
            return f"unknown field {shorten(key)} here; it belongs in {above or 'the top level'}"
    for above, parent in reversed(parents[:-1]):
        for name, child in (parent.fields or {}).items():
            if child is not shape and key in (child.fields or {}):
                return f"unknown field {shorten(key)} here; it belongs under {join(above, name)}"
    loose = difflib.get_close_matches(key, fields, n=1, cutoff=0.5)
    if loose:
        return f"unknown field {shorten(key)}; did you mean {loose[0]!r}?"
    return f"unknown field {shorten(key)}; allowed are {', '.join(fields)}"


def _explain_below(key: str, value: object, below: list[str]) -> str:
    places = " or ".join(below)
    if key in ("ports", "notPorts"):
        numbers = [str(number) for number in _numbers(value)] or ["80"]
        return f"{key} belongs under {places}, as plain numbers: {below[-1]}: {{{key}: [{', '.join(numbers[:15])}]}}"
    return f"{key} belongs under {places}"


def _numbers(value: object) -> Iterator[int]:
    """Find port numbers in whatever somebody wrote for a list of ports."""
    if isinstance(value, bool):
        return
    if isinstance(value, int):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _numbers(part)
    elif isinstance(value, list):
        for part in value:
            yield from _numbers(part)


def convert(document: object, cls: type[T]) -> T:
    """Return the struct that a cleaned document stands for. Raises: FieldError."""
    try:
        return msgspec.convert(document, cls, strict=True)
    except msgspec.ValidationError as error:
        raise explain_mismatch(str(error), document, cls) from None
    except RecursionError:
        raise FieldError("", "the document nests too deep") from None


def explain_mismatch(message: str, document: object, cls: type) -> FieldError:
    """Turn msgspec's message into a field error with our words."""
    matched = _LOCATION.match(message)
    what, where = (matched["what"], matched["where"] or "") if matched else (message, "")
    path, value, shape = _follow(where, document, shape_of(cls))
    if wrong := _WRONG_TYPE.match(what):
        return FieldError(path, _explain_type(wrong["expected"], value, wrong["found"]))
    if missing := _MISSING.match(what):
        return FieldError(join(path, missing["field"]), "is required")
    if shape.allowed:
        nearest = [
            option for option in shape.allowed if isinstance(value, str) and option.lower() == value.lower()
        ]
        hint = f"; did you mean {nearest[0]}?" if nearest else ""
        return FieldError(path, f"{shorten(str(value))} is not one of {', '.join(shape.allowed)}{hint}")
    return FieldError(path, what)


def _follow(where: str, document: object, shape: Shape) -> tuple[str, object, Shape]:
    """Walk msgspec's `$.a[0].b[...]` down the document; "[...]" is the first value of a mapping that is no text."""
    path, value = "", document
    for name, index in re.findall(r"\.([^.\[\]]+)|\[(\d+|\.\.\.)\]", where):
        if name:
            value = value.get(name) if isinstance(value, Mapping) else None
            shape = (shape.fields or {}).get(name, _OPEN)
            path = join(path, name)
        elif index == "...":
            bad = (
                [key for key, item in value.items() if not isinstance(item, str)]
                if isinstance(value, Mapping)
                else []
            )
            if bad and isinstance(value, Mapping):
                path, value = join(path, bad[0]), value[bad[0]]
        else:
            value = value[int(index)] if isinstance(value, list) and int(index) < len(value) else None
            shape = shape.item or _OPEN
            path = f"{path}[{index}]"
    return path, value, shape


def _explain_type(expected: str, value: object, found: str) -> str:
    words = " or ".join(
        _TYPE_WORDS.get(part.strip(), part.strip()) for part in expected.split("|") if "null" not in part
    )
    if isinstance(value, bool | int | float) and "str" in expected:
        shown = str(value).lower() if isinstance(value, bool) else value
        return f"must be {words}, found {shown}; put it in quotes"
    shown_type = _TYPE_WORDS.get(found, found)
    return f"must be {words}, found {shown_type}"
