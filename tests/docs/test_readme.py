"""What README.md shows is what happens: its commands run, and print what stands there.

A block of ```console holds commands ("$ ...") and what they print: every line shown begins a later line of the real
output, "..." stands for any lines. A command ends with exit code 0 unless its comment says `exit code N`.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
LAB = ("lab",)
#: What reads or changes the kernel's tables.
NODE = ("check", "plan", "run", "cleanup")
PAGES = sorted(path.relative_to(ROOT) for path in (ROOT / "README.md", *ROOT.glob("docs/*.md")))

Command = tuple[str, list[str]]


def commands(text: str) -> list[Command]:
    """Return the commands of a page's console blocks with the lines they are said to print."""
    found: list[Command] = []
    for block in re.findall(r"```console\n(.*?)```", text, re.DOTALL):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line.removeprefix("$ "), []))
            elif line != "...":
                found[-1][1].append(line)
    return found


def word(command: str) -> str:
    """Return what is asked of make or calico-engine."""
    program, what, *_ = shlex.split(command, comments=True)
    assert program in {"make", "calico-engine"}, command
    return f"make {what}" if program == "make" else what


ALL = commands(README)
OFFLINE = [one for one in ALL if not word(one[0]).startswith("make") and word(one[0]) not in LAB + NODE]


def run(argv: list[str], cwd: Path, **environ: str) -> "subprocess.CompletedProcess[str]":
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("FELIX_", "CALICO_"))}
    path = f"{Path(sys.executable).parent}:{clean['PATH']}"
    return subprocess.run(
        argv, cwd=cwd, env={**clean, **environ, "PATH": path}, capture_output=True, text=True
    )


def check_run(command: Command, done: "subprocess.CompletedProcess[str]") -> None:
    text, shown = command
    said = re.search(r"# exit code (\d+)", text)
    assert done.returncode == (int(said[1]) if said else 0), f"{text}\n{done.stdout}\n{done.stderr}"
    lines = iter(done.stdout.splitlines())
    for expected in shown:
        assert any(line.startswith(expected) for line in lines), f"{text}: no {expected!r} in\n{done.stdout}"


def test_targets_of_make_exist() -> None:
    targets = {target for line in (ROOT / "Makefile").read_text().splitlines() for target in _targets(line)}

    named = {word(command).removeprefix("make ") for command, _ in ALL if command.startswith("make ")}

    assert {"demo", "test"} <= named <= targets


def _targets(line: str) -> list[str]:
    names, colon, _ = line.partition(":")
    return names.split() if colon and re.fullmatch(r"[a-z -]+", names) else []


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """What the commands use of a clone, for an engine leaves its status in it."""
    shutil.copytree(ROOT / "examples" / "shop", tmp_path / "examples" / "shop")
    return tmp_path


@pytest.mark.parametrize("command", OFFLINE, ids=[text for text, _ in OFFLINE])
def test_command_without_root(command: Command, clone: Path) -> None:
    check_run(command, run(["sh", "-c", command[0]], clone))


@pytest.mark.component("ip", "iptables", "ipset", "conntrack")
def test_demo() -> None:
    (shown,) = [one for one in ALL if word(one[0]) == "make demo" and one[1]]

    check_run(shown, run(["calico-engine", "demo"], ROOT))


@pytest.mark.component("ip", "iptables", "ipset", "conntrack")
def test_lab(clone: Path) -> None:
    ups = [one for one in ALL if word(one[0]) in LAB]
    assert ups[-1][0] == "calico-engine lab down"
    try:
        for command in ups:
            check_run(
                command, run(["sh", "-c", command[0]], clone, CALICO_ENGINE_LAB_DIR=str(clone / "labs"))
            )
    finally:
        run(["calico-engine", "lab", "down", "--all"], clone, CALICO_ENGINE_LAB_DIR=str(clone / "labs"))


@pytest.mark.kernel(tools=("ipset", "iptables"))
def test_commands_on_a_node(clone: Path) -> None:
    node = [one for one in ALL if word(one[0]) in NODE]
    assert {word(text) for text, _ in node} == set(NODE)
    # One namespace for all of them, with a /run of its own; after each output its exit code, between NULs.
    ends = "printf '\\0%d\\0' $?"
    script = "mount -t tmpfs tmpfs /run; mkdir /run/calico; ip link set lo up\n"
    script += "".join(f"{text}\n{ends}\n" for text, _ in node)

    done = run(["unshare", "--net", "--mount", "sh", "-c", script], clone)

    assert done.returncode == 0, done.stderr
    parts = done.stdout.split("\0")
    for command, output, code in zip(node, parts[0::2], parts[1::2], strict=False):
        check_run(command, subprocess.CompletedProcess([], int(code), output, done.stderr))
    assert len(parts) == 2 * len(node) + 1


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_lead_somewhere(page: Path) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")

    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert ((ROOT / page).parent / target).exists(), f"{page}: {target}"
