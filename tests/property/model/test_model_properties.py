"""What holds for any resource, any text and any network."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from calico_engine.errors import ValidationError
from calico_engine.model import (
    KINDS,
    Resource,
    canonical_network,
    canonical_port,
    canonical_protocol,
    decode,
    dump,
    encode,
    load,
    load_each,
    normalise,
    validate,
)
from calico_engine.model.canonical import mask_network


def _load_strategies() -> ModuleType:
    # importlib mode puts no test folder on the path.
    path = Path(__file__).with_name("resources.py")
    spec = importlib.util.spec_from_file_location("model_resources", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


strategies = _load_strategies()
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
FRAGMENTS = st.sampled_from(
    [
        "apiVersion: projectcalico.org/v3\n", "apiVersion: v1\n", "kind: GlobalNetworkPolicy\n", "kind: policy\n",
        "metadata:\n  name: a\n", "spec:\n  ingress:\n", "  - action: Allow\n", "    source: {nets: [10.0.0.0/8]}\n",
        "- ", "&a [*a]\n", "*a\n", "<<: ", "{", "}", "[", "]", "? ", "!!binary x\n", "|\n", ">-\n", "---\n", "\t",
        "\u00a0",        "'", '"', "\\", "# x\n", "%YAML 1.1\n", "items:\n", "kind: List\n",
    ]
)  # fmt: skip


@given(strategies.resources())
def test_what_is_dumped_loads_as_the_same_resource(resource: Resource) -> None:
    assert load(dump(resource)) == (resource,)
    assert load(dump(resource, "json")) == (resource,)
    assert decode(resource.kind, encode(resource)) == resource


@given(strategies.resources())
def test_valid_resources_are_canonical_and_validate(resource: Resource) -> None:
    validate(resource)

    assert normalise(resource) == resource


@given(st.text() | st.binary() | st.lists(FRAGMENTS, max_size=12).map("".join))
def test_any_text_loads_or_is_a_validation_error(document: str | bytes) -> None:
    for found in load_each(document):
        if isinstance(found, ValidationError):
            assert str(found).isprintable()
        else:
            validate(found)


@given(JSON)
def test_any_json_loads_or_is_a_validation_error(value: object) -> None:
    for document in (json.dumps(value), json.dumps(value).encode()):
        for found in load_each(document):
            assert isinstance(found, Resource | ValidationError)


@given(
    st.sampled_from(sorted(KINDS)),
    st.dictionaries(st.sampled_from(["metadata", "spec", "status", "x"]), JSON),
    JSON,
)
def test_any_content_of_a_known_kind_loads_or_is_a_validation_error(
    kind: str, content: dict[str, object], spec: object
) -> None:
    document = {
        "apiVersion": "projectcalico.org/v3",
        "kind": kind,
        "metadata": {"name": "a"},
        "spec": spec,
        **content,
    }

    for found in load_each(document):
        assert isinstance(found, Resource | ValidationError)


@given(st.sampled_from(sorted(KINDS)), st.binary() | JSON.map(json.dumps).map(str.encode))
def test_any_bytes_decode_or_are_a_validation_error(kind: str, data: bytes) -> None:
    try:
        validate(decode(kind, data))
    except ValidationError as error:
        assert str(error)  # noqa: PT017  both outcomes are allowed


@given(strategies.resources(), st.data())
def test_a_spoilt_resource_loads_or_is_a_validation_error(resource: Resource, data: st.DataObject) -> None:
    document = json.loads(encode(resource))
    node: object = document
    while isinstance(node, dict | list) and node:
        key = data.draw(st.sampled_from(sorted(node) if isinstance(node, dict) else range(len(node))))
        if data.draw(st.booleans()) or not isinstance(node[key], dict | list):
            node[key] = data.draw(JSON)
            break
        node = node[key]

    for found in load_each(document):
        if isinstance(found, ValidationError):
            assert str(found).isprintable()
        else:
            validate(found)


@given(strategies.NETWORKS)
def test_canonical_networks_are_idempotent(network: str) -> None:
    assert canonical_network(network) == network
    assert mask_network(network) == network


@given(st.ip_addresses().map(str), st.integers(0, 128))
def test_masking_gives_a_canonical_network(address: str, length: int) -> None:
    text = f"{address}/{min(length, 128 if ':' in address else 32)}"

    masked = mask_network(text)

    assert canonical_network(masked) == masked


@given(st.text(max_size=20))
def test_canonical_forms_are_idempotent_or_refuse_with_value_error(text: str) -> None:
    for canonical in (canonical_network, canonical_port, canonical_protocol):
        try:
            once = canonical(text)
        except ValueError:
            continue
        assert canonical(once) == once  # type: ignore[arg-type]  # what one gives out it takes


@given(strategies.PORTS)
def test_canonical_ports_are_idempotent(port: int | str) -> None:
    assert canonical_port(port) == port


@given(st.recursive(st.text(max_size=3), st.lists, max_leaves=5))
def test_unencodable_input_is_no_crash(value: object) -> None:
    assert all(isinstance(found, ValidationError) for found in load_each(msgspec.json.encode(value)))
