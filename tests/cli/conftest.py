"""Run the real program, as a user does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

ENVIRONMENT = {
    name: value for name, value in os.environ.items() if not name.startswith(("FELIX_", "CALICO_ENGINE_"))
}


class Outcome:
    """What one run of the program printed, and its exit code."""

    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        self.code = done.returncode
        self.out = done.stdout
        self.err = done.stderr

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    def __repr__(self) -> str:
        return f"exit code {self.code}\n{self.out}\n{self.err}"


Program = Callable[..., Outcome]


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """Return call(*arguments, stdin=, env=): runs calico-engine in an empty directory."""
    folder = tmp_path / "cwd"
    folder.mkdir()

    def call(*arguments: str | Path, stdin: str = "", env: Mapping[str, str] | None = None) -> Outcome:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-m", "calico_engine", *map(str, arguments)],
            text=True,
            capture_output=True,
            input=stdin,
            cwd=folder,
            env={**ENVIRONMENT, **(env or {})},
            timeout=50,
        )
        outcome = Outcome(done)
        assert "Traceback" not in outcome.err, outcome
        return outcome

    return call


MANIFESTS = """\
- apiVersion: v1
  kind: workloadEndpoint
  metadata:
    name: eth0
    workload: frontend
    orchestrator: manual
    node: node1
    labels: {role: frontend}
  spec: {interfaceName: cali1, ipNetworks: [172.16.1.1/32]}
- apiVersion: v1
  kind: workloadEndpoint
  metadata:
    name: eth0
    workload: database
    orchestrator: manual
    node: node2
    labels: {role: database}
  spec: {interfaceName: cali2, ipNetworks: [172.16.1.2/32]}
- apiVersion: v1
  kind: policy
  metadata: {name: database}
  spec:
    order: 10
    selector: role == 'database'
    ingress:
    - action: deny
      source: {net: 192.0.2.0/24}
    - action: allow
      protocol: tcp
      source: {selector: role == 'frontend'}
      destination: {ports: [3306]}
- apiVersion: v1
  kind: policy
  metadata: {name: frontend}
  spec:
    order: 20
    selector: role == 'frontend'
    ingress: [{action: allow}]
    egress: [{action: allow}]
"""


@pytest.fixture
def manifests(tmp_path: Path) -> Path:
    """Return a directory that holds a frontend on node1 and a database on node2."""
    folder = tmp_path / "manifests"
    folder.mkdir()
    (folder / "tenant.yaml").write_text(MANIFESTS)
    return folder
