"""`calico-engine check` says which fast path is in use, for people and for programs."""

import re
from pathlib import Path

import pytest
from tests.cli.conftest import Program


@pytest.mark.parametrize(("backend", "word"), [("native", "ok"), ("pure", "not there")])
def test_check_names_the_fast_path_in_use(program: Program, tmp_path: Path, backend: str, word: str) -> None:
    if backend == "native":
        pytest.importorskip("calico_engine._fastpath", exc_type=ImportError)
    env = {"CALICO_ENGINE_FASTPATH": backend}

    text = program("check", "--profile", "standalone", "--run-dir", tmp_path, env=env)
    answer = program("check", "--profile", "standalone", "--run-dir", tmp_path, "-o", "json", env=env)

    (line,) = (line for line in text.lines if "fast path" in line)
    assert re.split(r" {2,}", line.strip())[:3] == ["engine", "fast path in C", word]
    assert backend in line
    (fact,) = (fact for fact in answer.json if fact["name"] == "fast path in C")
    assert (fact["ok"], fact["required"], fact["detail"]) == (backend == "native", False, backend)
    assert "compiler" in fact["remedy"]
    # A slower machine is an able one.
    assert answer.code == (1 if any(f["required"] and not f["ok"] for f in answer.json) else 0)
