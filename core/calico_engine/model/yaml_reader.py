"""YAML text to plain values, without YAML's surprises.

Pure. Built on the parser's events rather than PyYAML's constructor, because that lets one loop without recursion
do what is needed: depth and size limits, duplicate keys refused, and YAML 1.2's core rules for plain scalars, so
that `on`, `yes`, `012`, `0x1f`, `1_000`, `12:30:00` and `2024-01-01` stay text. What is not text:

    null   empty, ~, null, Null, NULL
    bool   true, True, TRUE, false, False, FALSE
    int    [-+]?(0|[1-9][0-9]*)
    float  [-+]?digits with a point or an exponent

Text copied from a web page often has no-break spaces; at either end of a line they count as spaces.
Aliases and `<<` merge keys work; what they expand to is limited by MAX_EXPANDED. Tags other than the core schema's
are refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import yaml

MAX_DEPTH = 64
#: Values that aliases may add to what is written out.
MAX_EXPANDED = 1_000_000
_MAX_NUMBER_CHARS = 64

_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?")
_PASTED_SPACES = re.compile("^[ \u00a0]+|[ \u00a0]+$", re.MULTILINE)
_CONSTANTS: dict[str, object] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_TAG = "tag:yaml.org,2002:"


class YAMLSyntaxError(ValueError):
    """The text is not YAML that we read; `line` counts from 1."""

    def __init__(self, reason: str, line: int) -> None:
        self.reason = reason
        self.line = line
        super().__init__(f"line {line}: {reason}")


class _Frame:
    """A list or mapping under construction."""

    __slots__ = ("anchor", "key", "line", "merged", "nodes", "value")

    def __init__(self, value: list[object] | dict[str, object], anchor: str | None, line: int) -> None:
        self.value = value
        self.anchor = anchor
        self.line = line
        self.key: str | None = None
        self.merged: list[dict[str, object]] = []
        self.nodes = 1


_Found = tuple[object, int]


def read_documents(text: str) -> Iterator[tuple[object, int]]:
    """Yield each document's value and the line it starts on. Raises: YAMLSyntaxError."""
    reader = _Reader()
    if "\u00a0" in text:
        text = _PASTED_SPACES.sub(lambda spaces: " " * len(spaces[0]), text)
    try:
        next_event = yaml.CSafeLoader(text).get_event
        take, take_scalar = reader.take, reader.take_scalar
        while True:
            event = next_event()
            if isinstance(event, yaml.ScalarEvent):
                take_scalar(event)
            elif isinstance(event, yaml.DocumentStartEvent):
                reader.start(_line(event))
            elif isinstance(event, yaml.DocumentEndEvent):
                yield reader.document, reader.document_line
            elif event is None or isinstance(event, yaml.StreamEndEvent):
                return
            else:
                take(event)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise YAMLSyntaxError(error.problem or "not YAML", mark.line + 1 if mark else 1) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1 if isinstance(error.position, int) else 1
        character = error.character
        code = ord(character) if isinstance(character, str) else character
        raise YAMLSyntaxError(f"character U+{code:04X} is not allowed", line) from None
    except yaml.YAMLError as error:
        raise YAMLSyntaxError(" ".join(str(error).split()), 1) from None
    except UnicodeEncodeError:
        raise YAMLSyntaxError("the text holds characters that are no Unicode text", 1) from None


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark is not None else 1


class _Reader:
    """State of one stream; `document` is the value once its last event was taken."""

    def __init__(self) -> None:
        self.document: object = None
        self.document_line = 1
        self._stack: list[_Frame] = []
        self._anchors: dict[str, _Found] = {}
        self._expanded = 0

    def start(self, line: int) -> None:
        self.document = None
        self.document_line = line
        self._anchors = {}

    def take_scalar(self, event: yaml.ScalarEvent) -> None:
        """Add a scalar. Raises: YAMLSyntaxError."""
        if event.tag is None and event.anchor is None and self._stack:
            # Nearly every one: what `_add` does, without what only the others need.
            frame = self._stack[-1]
            text, target, key = event.value, frame.value, frame.key
            if isinstance(target, list):
                frame.nodes += 1
                target.append(_resolve_plain(text, event) if event.implicit[0] else text)
                return
            if key is None and text != "<<" and text not in target:
                frame.nodes += 1
                frame.key = text
                return
            if key is not None and key is not _MERGE_KEY:
                frame.nodes += 1
                target[key] = _resolve_plain(text, event) if event.implicit[0] else text
                frame.key = None
                return
        value = _resolve(event)
        if event.anchor:
            self._anchors[event.anchor] = (value, 1)
        self._add(value, 1, event)

    def take(self, event: yaml.Event) -> None:
        """Add any other event of a document. Raises: YAMLSyntaxError."""
        if isinstance(event, yaml.MappingStartEvent):
            self._open({}, event)
        elif isinstance(event, yaml.SequenceStartEvent):
            self._open([], event)
        elif isinstance(event, yaml.CollectionEndEvent):
            self._close(event)
        elif isinstance(event, yaml.AliasEvent):
            found = self._anchors.get(event.anchor or "")
            if found is None:
                raise YAMLSyntaxError(f"*{event.anchor} has no &{event.anchor} before it", _line(event))
            self._expanded += found[1]
            if self._expanded > MAX_EXPANDED:
                raise YAMLSyntaxError(f"aliases expand to more than {MAX_EXPANDED} values", _line(event))
            self._add(found[0], found[1], event)

    def _open(self, value: list[object] | dict[str, object], event: yaml.CollectionStartEvent) -> None:
        if len(self._stack) >= MAX_DEPTH:
            raise YAMLSyntaxError(f"lists and mappings nest deeper than {MAX_DEPTH}", _line(event))
        expected = "map" if isinstance(value, dict) else "seq"
        if event.tag and event.tag not in ("!", _TAG + expected):
            raise YAMLSyntaxError(f"tag {event.tag!r} is not allowed", _line(event))
        self._stack.append(_Frame(value, event.anchor, _line(event)))

    def _close(self, event: yaml.Event) -> None:
        frame = self._stack.pop()
        if frame.merged and isinstance(frame.value, dict):
            # A key of the mapping itself wins over a merged one, an earlier merge over a later.
            for mapping in frame.merged:
                for key, value in mapping.items():
                    frame.value.setdefault(key, value)
        if frame.anchor:
            self._anchors[frame.anchor] = (frame.value, frame.nodes)
        self._add(frame.value, frame.nodes, event)

    def _add(self, value: object, nodes: int, event: yaml.Event) -> None:
        """Put a finished value where it belongs: document, list item, key or mapped value."""
        if not self._stack:
            self.document = value
            return
        frame = self._stack[-1]
        frame.nodes += nodes
        if isinstance(frame.value, list):
            frame.value.append(value)
        elif frame.key is None:
            frame.key = self._key(value, frame, event)
        else:
            if frame.key is _MERGE_KEY:
                self._merge(value, frame, event)
            else:
                frame.value[frame.key] = value
            frame.key = None

    def _key(self, value: object, frame: _Frame, event: yaml.Event) -> str:
        if isinstance(event, yaml.ScalarEvent):
            # A key is text however it looks: `8080: x`, `true: x`.
            if event.value == "<<" and event.implicit[0]:
                return _MERGE_KEY
            value = event.value
        if not isinstance(value, str):
            raise YAMLSyntaxError("a key must be text", _line(event))
        if value in frame.value:
            raise YAMLSyntaxError(f"key {value!r} appears twice in one mapping", _line(event))
        return value

    def _merge(self, value: object, frame: _Frame, event: yaml.Event) -> None:
        for mapping in value if isinstance(value, list) else [value]:
            if not isinstance(mapping, dict):
                raise YAMLSyntaxError("<< merges mappings only", _line(event))
            frame.merged.append(mapping)


class _MergeKey(str):
    """Tells the merge key from a quoted "<<"."""


_MERGE_KEY = _MergeKey("<<")


def _resolve(event: yaml.ScalarEvent) -> object:
    text: str = event.value
    tag = event.tag
    if tag is None or tag == "!":
        return _resolve_plain(text, event) if event.implicit[0] else text
    if tag == _TAG + "str":
        return text
    value = _resolve_plain(text, event)
    allowed: dict[str, type | tuple[type, ...]] = {
        "int": int,
        "float": (int, float),
        "bool": bool,
        "null": type(None),
    }
    expected = allowed.get(tag.removeprefix(_TAG))
    if expected is None:
        raise YAMLSyntaxError(f"tag {tag!r} is not allowed", _line(event))
    if not isinstance(value, expected):
        raise YAMLSyntaxError(f"{text!r} does not fit its tag {tag!r}", _line(event))
    return value


def _resolve_plain(text: str, event: yaml.ScalarEvent) -> object:
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if text[0] not in "-+.0123456789" or len(text) > _MAX_NUMBER_CHARS:
        return text
    if _INT.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        number = float(text)
        if number - number != 0:
            raise YAMLSyntaxError(f"number {text} is too large", _line(event))
        return number
    return text
