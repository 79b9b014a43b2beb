"""The C programs of bench/floor, compiled when they are needed into bench/out/bin."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

_SOURCES = Path(__file__).resolve().parent / "floor"
_BINARIES = Path(__file__).resolve().parent / "out" / "bin"
_FLAGS = ("-std=c11", "-O2", "-Wall", "-Wextra")


def compiled(name: str) -> Path | None:
    """Return the program's path, compiled anew if its source is newer; None without a compiler."""
    source, binary = _SOURCES / f"{name}.c", _BINARIES / name
    if binary.exists() and binary.stat().st_mtime >= source.stat().st_mtime:
        return binary
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        print(f"no C compiler: {name} is left out")
        return None
    _BINARIES.mkdir(parents=True, exist_ok=True)
    subprocess.run([compiler, *_FLAGS, "-o", str(binary), str(source)], check=True)
    return binary
