"""The checks that fields of many kinds share. Each raises FieldError with the field's path and what is allowed."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence, Sized
from functools import lru_cache

from calico_engine.errors import SelectorSyntaxError
from calico_engine.model.canonical import (
    canonical_address,
    canonical_network,
    ip_version,
    parse_network,
    shorten,
)
from calico_engine.model.names import DNS_SUBDOMAIN, MAX_SUBDOMAIN_CHARS
from calico_engine.model.shape import FieldError, join
from calico_engine.selector import Selector, parse

MAX_SELECTOR_CHARS = 1024
MAX_ANNOTATION_BYTES = 256 * 1024
MAX_INTERFACE_CHARS = 15
_CACHED_LABELS = 32_768

_QUALIFIED_NAME = re.compile(r"[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_LABEL_VALUE = re.compile(r"(?:[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_INTERFACE = re.compile(r"[a-zA-Z0-9_.-]{1,15}")
_DURATION = re.compile(r"(?:[0-9]+(?:\.[0-9]*)?(?:ns|us|µs|ms|s|m|h))+|0")


def check(path: str, convert: Callable[[str], object], value: str) -> None:
    """Run a conversion that raises a plain ValueError, and name the field when it does."""
    try:
        convert(value)
    except ValueError as error:
        raise FieldError(path, str(error)) from None


def forbid(path: str, value: object, reason: str) -> None:
    """Refuse a field that is set."""
    if value is not None and value is not False and not (isinstance(value, Sized) and len(value) == 0):
        raise FieldError(path, reason)


def require(path: str, value: object) -> None:
    if not value and value != 0:
        raise FieldError(path, "is required")


def is_name(name: str) -> bool:
    """Return whether a resource may have this name."""
    return len(name) <= MAX_SUBDOMAIN_CHARS and DNS_SUBDOMAIN.fullmatch(name) is not None


def check_name(path: str, name: str) -> None:
    """Check the name of a resource."""
    if len(name) > MAX_SUBDOMAIN_CHARS:
        raise FieldError(path, f"{shorten(name)} is longer than {MAX_SUBDOMAIN_CHARS} characters")
    if DNS_SUBDOMAIN.fullmatch(name) is None:
        raise FieldError(
            path,
            f"{shorten(name)} is not allowed: lower-case letters, digits, '-' and '.', "
            "each part beginning and ending with a letter or digit",
        )


def check_names(path: str, names: Sequence[str]) -> None:
    for index, name in enumerate(names):
        check_name(f"{path}[{index}]", name)


@lru_cache(maxsize=_CACHED_LABELS)
def _explain_label_key(key: str) -> str:
    """Return what is wrong with a label's or annotation's key, "" when nothing is."""
    prefix, slash, name = key.rpartition("/")
    if slash and (len(prefix) > MAX_SUBDOMAIN_CHARS or DNS_SUBDOMAIN.fullmatch(prefix) is None):
        return f"key {shorten(key)}: before '/' must stand a DNS name of at most {MAX_SUBDOMAIN_CHARS} characters"
    if _QUALIFIED_NAME.fullmatch(name) is None:
        return (
            f"key {shorten(key)} is not allowed: at most 63 letters, digits, '-', '_' and '.', "
            "beginning and ending with a letter or digit, after an optional DNS name and '/'"
        )
    return ""


@lru_cache(maxsize=_CACHED_LABELS)
def _is_label(key: str, value: str) -> bool:
    return not _explain_label_key(key) and _LABEL_VALUE.fullmatch(value) is not None


def check_labels(path: str, labels: Mapping[str, str]) -> None:
    for key, value in labels.items():
        if _is_label(key, value):
            continue
        if reason := _explain_label_key(key):
            raise FieldError(path, reason)
        raise FieldError(
            join(path, key),
            f"{shorten(value)} is not a label value: at most 63 letters, digits, '-', '_' and '.', "
            "beginning and ending with a letter or digit",
        )


def check_annotations(path: str, annotations: Mapping[str, str]) -> None:
    total_chars = 0
    for key, value in annotations.items():
        if reason := _explain_label_key(key.lower()):
            raise FieldError(path, reason)
        total_chars += len(key) + len(value)
    if total_chars > MAX_ANNOTATION_BYTES:
        raise FieldError(
            path, f"annotations hold {total_chars} characters; allowed are {MAX_ANNOTATION_BYTES}"
        )


def check_selector(path: str, text: str) -> Selector:
    """Check a selector where global() has no meaning."""
    if "global(" in text:
        raise FieldError(
            path, "global() is allowed only in the namespaceSelector of a rule's source or destination"
        )
    return _parse_selector(path, text)


def check_rule_namespace_selector(path: str, text: str) -> None:
    """Check the selector that may be global(), alone."""
    selector = _parse_selector(path, text)
    if "global(" in text and selector.canonical != "global()":
        raise FieldError(path, "global() cannot be combined with other selectors")


def _parse_selector(path: str, text: str) -> Selector:
    if len(text) > MAX_SELECTOR_CHARS:
        raise FieldError(path, f"is longer than {MAX_SELECTOR_CHARS} characters")
    try:
        return parse(text)
    except SelectorSyntaxError as error:
        raise FieldError(path, f"{shorten(text)}, character {error.offset_chars}: {error.reason}") from None


def check_networks(path: str, networks: Sequence[str]) -> None:
    for index, network in enumerate(networks):
        check_network(f"{path}[{index}]", network)


def check_network(path: str, network: str, version: int | None = None) -> None:
    check(path, canonical_network, network)
    if version is not None and ip_version(network) != version:
        raise FieldError(path, f"{network} is not IPv{version}")


def check_address(path: str, address: str, version: int | None = None) -> None:
    check(path, canonical_address, address)
    if version is not None and ip_version(address) != version:
        raise FieldError(path, f"{address} is not IPv{version}")


def is_single_address(network: str) -> bool:
    return parse_network(network).num_addresses == 1


def check_interface(path: str, name: str, *, pattern: re.Pattern[str] = _INTERFACE) -> None:
    if pattern.fullmatch(name) is None or name in (".", ".."):
        raise FieldError(
            path,
            f"{shorten(name)} is not an interface name: 1-{MAX_INTERFACE_CHARS} letters, digits, '-', '_' and '.'",
        )


def check_range(path: str, value: float | None, least: float, most: float) -> None:
    if value is not None and not least <= value <= most:
        raise FieldError(path, f"{value} is out of range; allowed are {least}-{most}")


def check_choice(path: str, value: str, options: Sequence[str]) -> None:
    """Check one of a few words; "" stands for the default."""
    if value and value not in options:
        nearest = [option for option in options if option.lower() == value.lower()]
        hint = f"; did you mean {nearest[0]}?" if nearest else ""
        raise FieldError(path, f"{shorten(value)} is not one of {', '.join(options)}{hint}")


def check_duration(path: str, value: str) -> None:
    if value and (len(value) > 64 or _DURATION.fullmatch(value) is None):
        raise FieldError(path, f"{shorten(value)} is not a duration such as 120s or 1m30s")


def check_unique(path: str, values: Sequence[str]) -> None:
    for index, value in enumerate(values):
        if value in values[:index]:
            raise FieldError(f"{path}[{index}]", f"{shorten(value)} is listed twice")


def check_length(path: str, values: Sized, most: int) -> None:
    if len(values) > most:
        raise FieldError(path, f"has {len(values)} items; allowed are {most}")


def check_printable(path: str, text: str) -> None:
    """Refuse control characters, line breaks and what cannot be shown."""
    if not text.isprintable():
        raise FieldError(path, f"{shorten(text)} holds characters that cannot be printed")
