"""Manifests as text: documents, lists, limits, and what YAML must not change behind the user's back."""

import json
from itertools import pairwise

import pytest

from calico_engine.errors import ValidationError
from calico_engine.model import (
    GlobalNetworkPolicy,
    GlobalNetworkSet,
    NetworkPolicy,
    Resource,
    Tier,
    decode,
    dump,
    encode,
    load,
    load_each,
)
from calico_engine.testing import make_endpoint, make_global_network_set, make_global_policy, make_rule

TIER = "apiVersion: projectcalico.org/v3\nkind: Tier\nmetadata:\n  name: security\nspec:\n  order: 10\n"
SET = "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkSet\nmetadata:\n  name: a\n  labels: {LABELS}\n"


def error_of(document: object, **options: str) -> ValidationError:
    with pytest.raises(ValidationError) as caught:
        load(document, **options)  # type: ignore[arg-type]  # wrong on purpose, at times
    return caught.value


def labels_of(text: str) -> dict[str, str]:
    (network_set,) = load(SET.replace("{LABELS}", text))
    return network_set.labels


def test_several_documents_keep_their_order() -> None:
    first, second = load(TIER + "---\n" + TIER.replace("security", "platform"))

    assert [first.metadata.name, second.metadata.name] == ["security", "platform"]


@pytest.mark.parametrize("document", ["", "---\n", "# only a remark\n", b"", "null", []])
def test_nothing_is_no_resource(document: str) -> None:
    assert load(document) == ()


def test_list_of_resources_loads() -> None:
    document = json.loads(json.dumps([json.loads(dump(tier, "json")) for tier in load(TIER)]))

    assert load(document) == load(TIER)


@pytest.mark.parametrize("kind", ["List", "TierList"])
def test_kubernetes_lists_load(kind: str) -> None:
    item = json.loads(dump(load(TIER)[0], "json"))

    found = load({"apiVersion": "projectcalico.org/v3", "kind": kind, "items": [item]})

    assert found == load(TIER)


def test_items_of_a_typed_list_need_not_repeat_their_kind() -> None:
    items = [{"metadata": {"name": "security"}, "spec": {"order": 10}}]

    assert load({"apiVersion": "projectcalico.org/v3", "kind": "TierList", "items": items}) == load(TIER)


def test_json_text_loads() -> None:
    assert load(dump(load(TIER)[0], "json").encode()) == load(TIER)


def test_load_each_keeps_good_resources_beside_bad_ones() -> None:
    bad = TIER.replace("order: 10", "order: ten")

    good, error, other = load_each(f"{TIER}---\n{bad}---\n{TIER}")

    assert isinstance(good, Tier)
    assert isinstance(error, ValidationError)
    assert error.path == "spec.order"
    assert isinstance(other, Tier)


def test_errors_name_source_and_line_of_the_document() -> None:
    error = error_of(TIER + "---\n" + TIER.replace("order: 10", "order: ten"), source="tiers.yaml")

    assert str(error) == "tiers.yaml line 7: Tier(security): spec.order: must be a number, found text"
    assert error.source == "tiers.yaml line 7"
    assert error.key == "Tier(security)"


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ("a: [", "did not find expected node content"),
        ("a: b\n  c: d", "line 2: mapping values are not allowed in this context"),
        ("kind: Tier\nkind: Tier\n", "line 2: key 'kind' appears twice in one mapping"),
        ('{"kind": 1, "kind": 2}', "key 'kind' appears twice in one mapping"),
        ("&a [*a]", "line 1: *a has no &a before it"),
        ("a: !!python/object:os.system x", "tag 'tag:yaml.org,2002:python/object:os.system' is not allowed"),
        ("- " * 100_000, "nest deeper than 64"),
        ("[" * 100_000, "nest too deep"),
        ("a: \x00", "character U+0000 is not allowed"),
        (b"\xff\xfe", "byte 0 is not UTF-8 text"),
        ('{"a": ' + "9" * 5000 + "}", "a number has too many digits"),
        ('{"a": NaN}', "NaN is not a number that JSON allows"),
        ("<<: [1]", "<< merges mappings only"),
    ],
)
def test_text_that_does_not_parse_says_where(document: str | bytes, reason: str) -> None:
    assert reason in str(error_of(document))


def test_alias_bomb_is_refused() -> None:
    names = "abcdefghij"
    lines = ["a: &a [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]" for before, name in pairwise(names)]

    assert "aliases expand to more than" in str(error_of("\n".join(lines)))


def test_size_limit_is_an_argument() -> None:
    with pytest.raises(ValidationError, match="larger than 10 bytes"):
        load(TIER, limit_bytes=10)


def test_aliases_and_merge_keys_work_and_own_keys_win() -> None:
    document = (
        "- &base\n  apiVersion: projectcalico.org/v3\n  kind: Tier\n  metadata: {name: a}\n  spec: {order: 1}\n"
        "- <<: *base\n  metadata: {name: b}\n"
    )

    first, second = load(document)

    assert isinstance(first, Tier)
    assert isinstance(second, Tier)
    assert (first.metadata.name, second.metadata.name) == ("a", "b")
    assert first.spec == second.spec


@pytest.mark.parametrize(
    "word", ["on", "off", "yes", "no", "y", "n", "012", "0x1f", "0o17", "1_000", "08", "2024-01-01"]
)
def test_words_that_yaml_1_1_takes_for_something_else_stay_text(word: str) -> None:
    assert labels_of(f"{{{word}: {word}}}") == {word: word}


@pytest.mark.parametrize("value", ["1.10", "80", "true", "1e3"])
def test_numbers_and_truth_values_as_labels_are_refused_not_rewritten(value: str) -> None:
    error = error_of(SET.replace("{LABELS}", f"{{a: {value}}}"))

    assert error.path == "metadata.labels.a"
    assert "put it in quotes" in error.reason


@pytest.mark.parametrize("value", ["1.10", "80", "true", "null", "~x"])
def test_quoted_values_are_text(value: str) -> None:
    if value == "~x":
        assert "is not a label value" in str(error_of(SET.replace("{LABELS}", f"{{a: '{value}'}}")))
    else:
        assert labels_of(f"{{a: '{value}'}}") == {"a": value}


def test_numbers_as_keys_are_text() -> None:
    assert labels_of("{8080: x, true: y}") == {"8080": "x", "true": "y"}


def test_unquoted_dotted_as_number_is_refused_not_rewritten() -> None:
    peer = "apiVersion: projectcalico.org/v3\nkind: BGPPeer\nmetadata: {name: a}\nspec: {asNumber: 1.10}\n"

    assert error_of(peer).path == "spec.asNumber"


def test_nulls_count_as_absent() -> None:
    (network_set,) = load(SET.replace("{LABELS}", "null") + "spec: null\nstatus: null\n")

    assert network_set == make_global_network_set("a", nets=())


def test_no_break_spaces_of_pasted_text_count_as_spaces() -> None:
    assert load(TIER.replace("  ", "\u00a0 ").replace("order: 10", "order: 10\u00a0")) == load(TIER)


def test_namespaced_resource_without_namespace_goes_to_default() -> None:
    (policy,) = load("apiVersion: projectcalico.org/v3\nkind: NetworkPolicy\nmetadata: {name: a}\n")

    assert isinstance(policy, NetworkPolicy)
    assert policy.key.namespace == "default"


def test_workload_endpoint_without_name_is_named_by_its_identifiers() -> None:
    (endpoint,) = load(
        "apiVersion: projectcalico.org/v3\nkind: WorkloadEndpoint\nmetadata: {namespace: shop}\n"
        "spec: {node: node-1, orchestrator: k8s, pod: web-1, endpoint: eth0}\n"
    )

    assert endpoint.metadata.name == "node--1-k8s-web--1-eth0"


def test_what_is_loaded_is_canonical() -> None:
    (policy,) = load(
        {
            "apiVersion": "projectcalico.org/v3",
            "kind": "GlobalNetworkPolicy",
            "metadata": {"name": "a"},
            "spec": {
                "ingress": [
                    {
                        "action": "Allow",
                        "protocol": "tcp",
                        "source": {"nets": ["10.0.0.1", "10.1.0.0/16"]},
                        "destination": {"ports": ["80", "90:90", "100:200", "http"]},
                    }
                ]
            },
        }
    )

    assert isinstance(policy, GlobalNetworkPolicy)
    (rule,) = policy.spec.ingress
    assert rule.protocol == "TCP"
    assert rule.source.nets == ("10.0.0.1/32", "10.1.0.0/16")
    assert rule.destination.ports == (80, 90, "100:200", "http")


@pytest.mark.parametrize(
    ("document", "path", "reason"),
    [
        ("just text", "", "must be a mapping with apiVersion, kind, metadata and spec, found str"),
        ({"apiVersion": "projectcalico.org/v3"}, "kind", "is required"),
        (
            {"kind": "Tier"},
            "apiVersion",
            "must be projectcalico.org/v3 (or v1 for manifests of Calico 2), found none",
        ),
        (
            {"apiVersion": "projectcalico.org/v3", "kind": "NetworkPolcy"},
            "kind",
            "unknown kind 'NetworkPolcy'; did you mean NetworkPolicy?",
        ),
        (
            {"apiVersion": "projectcalico.org/v3", "kind": "ipPool"},
            "kind",
            "'ipPool' is a kind of apiVersion v1, not of projectcalico.org/v3",
        ),
        ({"apiVersion": "v1", "kind": "Policy"}, "kind", "unknown kind 'Policy'; did you mean policy?"),
    ],
)
def test_what_is_no_resource_says_why(document: object, path: str, reason: str) -> None:
    error = error_of(document)

    assert (error.path, error.reason) == (path, reason)


def policy_with(rule: dict[str, object]) -> dict[str, object]:
    return {
        "apiVersion": "projectcalico.org/v3",
        "kind": "GlobalNetworkPolicy",
        "metadata": {"name": "a"},
        "spec": {"ingress": [{"action": "Allow"}, rule]},
    }


@pytest.mark.parametrize(
    ("rule", "path", "reason"),
    [
        ({"action": "Allow", "ports": [{"int": 80}]}, "ports",
         "ports belongs under source or destination, as plain numbers: destination: {ports: [80]}"),
        ({"action": "Allow", "ports": "x"}, "ports",
         "ports belongs under source or destination, as plain numbers: destination: {ports: [80]}"),
        ({"action": "Allow", "nets": []}, "nets", "nets belongs under source or destination"),
        ({"action": "Allow", "source": {"port": [80]}}, "source.port", "unknown field 'port'; did you mean 'ports'?"),
        ({"action": "Allow", "source": {"net": "10.0.0.0/8"}}, "source.net",
         "unknown field 'net'; did you mean 'nets'?"),
        ({"action": "Allow", "source": {"protocol": "TCP"}}, "source.protocol",
         "unknown field 'protocol' here; it belongs in spec.ingress[1]"),
        ({"action": "Allow", "source": {"labels": {}}}, "source.labels",
         "unknown field 'labels' here; it belongs under metadata"),
        ({"action": "Allow", "not_protocol": "TCP"}, "not_protocol",
         "unknown field 'not_protocol'; did you mean 'notProtocol'?"),
        ({"action": "allow"}, "action", "'allow' is not one of Allow, Deny, Log, Pass; did you mean Allow?"),
        ({}, "action", "is required"),
        ({"action": "Allow", "source": []}, "source", "must be a mapping, found a list"),
        ({"action": "Allow", "ipVersion": "4"}, "ipVersion", "must be a whole number, found text"),
    ],
)  # fmt: skip
def test_fields_that_do_not_fit_say_where_they_belong(
    rule: dict[str, object], path: str, reason: str
) -> None:
    error = error_of(policy_with(rule))

    assert (error.path, error.reason) == (f"spec.ingress[1].{path}", reason)


def test_unknown_field_unlike_any_other_lists_what_is_allowed() -> None:
    document = {
        "apiVersion": "projectcalico.org/v3",
        "kind": "Tier",
        "metadata": {"name": "a"},
        "spec": {"zzz": 1},
    }

    assert error_of(document).reason == "unknown field 'zzz'; allowed are order, defaultAction"


def test_other_metadata_of_kubernetes_and_status_are_dropped() -> None:
    document = {
        "apiVersion": "projectcalico.org/v3",
        "kind": "Tier",
        "metadata": {"name": "security", "managedFields": [{}], "ownerReferences": [], "selfLink": "x"},
        "spec": {"order": 10},
        "status": {"conditions": []},
    }

    assert load(document) == load(TIER)


def test_decode_reads_one_stored_document() -> None:
    endpoint = make_endpoint(labels={"app": "web"})

    assert decode("WorkloadEndpoint", encode(endpoint)) == endpoint


def test_decode_ignores_fields_of_newer_versions_outside_of_rules() -> None:
    stored = json.loads(encode(make_endpoint()))
    stored["spec"]["newField"] = 1
    stored["metadata"]["labels"] = None

    assert decode("WorkloadEndpoint", json.dumps(stored).encode()) == make_endpoint()


def test_decode_refuses_a_rule_with_a_criterion_it_does_not_know() -> None:
    stored = json.loads(encode(make_global_policy(ingress=[make_rule()])))
    stored["spec"]["ingress"][0]["source"]["newCriterion"] = "x"

    with pytest.raises(ValidationError, match=r"spec\.ingress\[0\]\.source\.newCriterion: unknown field"):
        decode("GlobalNetworkPolicy", json.dumps(stored).encode())


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b'{"kind": "Node"}', b'{"metadata": 1}', b"\xff", b"[" * 100_000]
)
def test_decode_refuses_what_is_not_the_kind(data: bytes) -> None:
    with pytest.raises(ValidationError):
        decode("WorkloadEndpoint", data)


def test_dump_knows_two_formats() -> None:
    tier: Resource = load(TIER)[0]

    assert dump(tier).startswith(
        "apiVersion: projectcalico.org/v3\nkind: Tier\nmetadata:\n  name: security\n"
    )
    with pytest.raises(ValueError, match="format must be yaml or json"):
        dump(tier, "xml")


def test_resources_made_in_code_carry_their_kind() -> None:
    assert json.loads(encode(GlobalNetworkSet()))["kind"] == "GlobalNetworkSet"
