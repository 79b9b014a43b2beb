"""JSON text to plain values, as strict as the YAML reader: no key twice, no NaN, nothing that is no Unicode text.

Pure. What is wrong is a JSONDecodeError where the text is not JSON at all, a JSONValueError where it is but may not be.
"""

from __future__ import annotations

import json
import re

from calico_engine.model.canonical import shorten

# "\ud83d\ude00" is one character, "\ud83d" alone is half of one: such text can be neither stored nor printed.
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class JSONValueError(ValueError):
    """The text is JSON, and holds what no resource can."""


def read_json(text: str) -> object:
    """Return the value of a JSON text. Raises: json.JSONDecodeError, JSONValueError."""
    try:
        value: object = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise JSONValueError("lists and mappings nest too deep") from None
    except UnicodeEncodeError:
        raise JSONValueError("the text holds characters that are no Unicode text") from None
    except ValueError as error:
        if isinstance(error, json.JSONDecodeError | JSONValueError):
            raise
        raise JSONValueError("a number has too many digits") from None
    return value


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    mapping = dict(pairs)
    if len(mapping) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise JSONValueError(f"key {shorten(twice)} appears twice in one mapping")
    return mapping


def _refuse_constant(name: str) -> object:
    raise JSONValueError(f"{name} is not a number that JSON allows")
