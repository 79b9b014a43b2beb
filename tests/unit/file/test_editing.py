"""Changing one resource in a file that people wrote leaves the rest of its text alone."""

from __future__ import annotations

import json

import pytest

from calico_engine.model import ResourceKey
from calico_engine.testing.builders import make_policy, make_profile
from calico_engine_file.editing import EditError, remove_resource, render_manifest, replace_resource
from calico_engine_file.manifest import Entry, ManifestError, parse_manifest

WEB = make_policy("web", order=7.0)

TWO_DOCUMENTS = """\
# who owns this: the web team
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata:
  name: web   # the front
  namespace: default
spec:
  selector: app == "web"
# between the documents
---
# the database
apiVersion: projectcalico.org/v3
kind: Profile
metadata: {name: db}   # nothing in it
"""

LIST = """\
apiVersion: v1
kind: List
items:
  # first
  - apiVersion: projectcalico.org/v3
    kind: Profile
    metadata:
      name: db
  # second
  - apiVersion: projectcalico.org/v3
    kind: NetworkPolicy
    metadata:
      name: web
      namespace: default
    spec:
      selector: all()

  # third
  - {apiVersion: projectcalico.org/v3, kind: Profile, metadata: {name: cache}}  # in one line
"""

V1_LIST = """\
- apiVersion: v1
  kind: policy
  metadata:
    name: deny
  spec:
    selector: has(x)
    ingress:
    - action: deny
- apiVersion: v1
  kind: profile
  metadata:
    name: db
"""


def entry(text: str, name: str, path: str = "f.yaml") -> Entry:
    return next(
        found for found in parse_manifest(path, text.encode()) if found.key and found.key.name == name
    )


def key_of(found: Entry) -> ResourceKey:
    assert found.key
    return found.key


def replace(text: str, resource: object, path: str = "f.yaml") -> str:
    name = resource.metadata.name  # type: ignore[attr-defined]
    return replace_resource(path, text.encode(), entry(text, name, path).place, resource).decode()  # type: ignore[arg-type]


def remove(text: str, name: str, path: str = "f.yaml") -> str | None:
    found = entry(text, name, path)
    left = remove_resource(path, text.encode(), found.place, key_of(found))
    return left.decode() if left is not None else None


def test_replacing_a_document_keeps_the_others_to_the_letter() -> None:
    new = replace(TWO_DOCUMENTS, WEB)

    before, after = TWO_DOCUMENTS.split("# between")
    assert new.startswith("# who owns this: the web team\napiVersion")
    assert new.endswith("\n# between" + after)
    assert "order: 7" in new
    assert 'app == "web"' not in new
    assert before not in new


def test_replacing_a_flow_document_keeps_its_comment() -> None:
    new = replace(TWO_DOCUMENTS, make_profile("db", labels_to_apply={"a": "b"}))

    assert new.startswith(TWO_DOCUMENTS.split("# the database")[0])
    assert "# the database" in new
    found = entry(new, "db").resource
    assert found
    assert found.spec.labels_to_apply == {"a": "b"}  # type: ignore[attr-defined]


def test_replacing_an_item_of_a_list_keeps_the_others_to_the_letter() -> None:
    new = replace(LIST, WEB)

    head, tail = LIST.split("  - apiVersion: projectcalico.org/v3\n    kind: NetworkPolicy")
    assert new.startswith(head)
    assert new.endswith(tail[tail.index("\n\n  # third") :])
    assert "      order: 7" in new


def test_replacing_an_item_in_one_line() -> None:
    new = replace(LIST, make_profile("cache", labels_to_apply={"a": "b"}))

    assert new.startswith(LIST[: LIST.index("  - {")])
    assert new.endswith("  # in one line\n")


def test_replacing_an_old_manifest_writes_a_new_one_beside_old_ones() -> None:
    new = replace(V1_LIST, make_profile("db", labels_to_apply={"a": "b"}))

    assert new.startswith(V1_LIST[: V1_LIST.index("- apiVersion: v1\n  kind: profile")])
    assert entry(new, "deny").revision == entry(V1_LIST, "deny").revision


def test_replacing_in_json_keeps_the_other_values() -> None:
    items = [
        {"apiVersion": "projectcalico.org/v3", "kind": "Profile", "metadata": {"name": name}} for name in "ab"
    ]
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": items})

    new = replace(text, make_profile("b", labels_to_apply={"x": "y"}), "f.json")

    assert json.loads(new)["items"][0] == items[0]
    assert json.loads(new)["items"][1]["spec"] == {"labelsToApply": {"x": "y"}}


def test_characters_of_any_width_before_the_place() -> None:
    text = "# 网络 🐈\n" + TWO_DOCUMENTS.replace("the database", "データ ベース")

    new = replace(text, make_profile("db", labels_to_apply={"a": "b"}))

    assert new.startswith(text[: text.index("apiVersion: projectcalico.org/v3\nkind: Profile")])


def test_resource_without_anything_after_its_last_colon() -> None:
    text = TWO_DOCUMENTS.replace('  selector: app == "web"\n', "")

    new = replace(text, WEB)

    assert "# between the documents\n---" in new
    assert entry(new, "web").revision != entry(text, "web").revision


def test_file_with_aliases_is_refused() -> None:
    text = TWO_DOCUMENTS.replace("name: web ", "labels: &l {a: b}\n  annotations: *l\n  name: web ")

    with pytest.raises(EditError, match="aliases"):
        replace(text, WEB)


def test_removing_a_document() -> None:
    assert remove(TWO_DOCUMENTS, "db") == TWO_DOCUMENTS.split("---")[0]
    left = remove(TWO_DOCUMENTS, "web")
    assert left
    assert left.endswith("---" + TWO_DOCUMENTS.split("---")[1])
    assert [key_of(found).name for found in parse_manifest("f.yaml", left.encode())] == ["db"]


@pytest.mark.parametrize("name", ["db", "web", "cache"])
def test_removing_an_item_of_a_list(name: str) -> None:
    left = remove(LIST, name)

    assert left
    names = [key_of(found).name for found in parse_manifest("f.yaml", left.encode())]
    assert names == [other for other in ["db", "web", "cache"] if other != name]
    for line in left.splitlines():
        assert line in LIST.splitlines()


def test_removing_the_last_resource_leaves_no_file() -> None:
    assert remove(render_manifest(WEB).decode(), "web") is None
    assert remove("---\n# nothing\n---\n" + render_manifest(WEB).decode(), "web") is None


def test_removing_the_only_item_of_a_list_removes_its_document() -> None:
    text = (
        TWO_DOCUMENTS
        + "---\n- "
        + render_manifest(make_policy("p")).decode().strip().replace("\n", "\n  ")
        + "\n"
    )

    assert remove(text, "p") == TWO_DOCUMENTS


def test_removing_from_a_list_in_brackets() -> None:
    profile = "{{apiVersion: projectcalico.org/v3, kind: Profile, metadata: {{name: {}}}}}"
    flow = f"[{profile.format('a')}, {profile.format('b')}]"
    text = f"# list\n--- {flow} # end\n"

    left = remove(text, "a")

    assert left
    assert left.startswith("# list\n--- [")
    assert left.endswith("] # end\n")
    assert [key_of(found).name for found in parse_manifest("f.yaml", left.encode())] == ["b"]


def test_typed_list_says_the_kind_for_its_items() -> None:
    text = "apiVersion: projectcalico.org/v3\nkind: ProfileList\nitems:\n- metadata: {name: a}\n- metadata: {name: b}\n"

    names = [str(found.key) for found in parse_manifest("f.yaml", text.encode())]

    assert names == ["Profile(a)", "Profile(b)"]


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("f.yaml", "{"),
        ("f.yaml", "a: b\na: c\n"),
        ("f.yaml", "a: &a [*a]\nb: *c\n"),
        ("f.yaml", "\tkind: x"),
        ("f.json", '{"kind": "Profile"'),
        ("f.json", '{"kind": "a", "kind": "b"}'),
        ("f.json", "[" * 100000),
        ("f.yaml", "[" * 100000),
        ("f.yaml", "\x00"),
    ],
)
def test_text_that_is_no_manifest_names_the_file(path: str, text: str) -> None:
    with pytest.raises(ManifestError, match=path):
        parse_manifest(path, text.encode())


def test_bytes_that_are_no_text_name_the_file() -> None:
    with pytest.raises(ManifestError, match=r"f\.yaml"):
        parse_manifest("f.yaml", b"\xff\xfe\x00")


def test_aliases_that_explode_are_refused() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]

    with pytest.raises(ManifestError, match=r"f\.yaml"):
        parse_manifest("f.yaml", "\n".join(lines).encode())
