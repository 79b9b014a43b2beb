"""Where a lab keeps its state, and how it is found again.

<base>/<name>/lab.json        what the lab is made of (LabPlan)
              lock            held by the holder as long as it lives; holds its process ids
              manifests/      what the engines watch
              holder.sock     what `lab` talks to
              holder.log
              places/<node>/run   /run of that node's processes
              places/<node>/engine.log
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path

import msgspec

from calico_engine.errors import ConfigError

DEFAULT_NAME = "default"
#: Where the state directory is inside the lab's namespaces: their /run is not the machine's.
INSIDE = Path("/run/lab")

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,22}[a-z0-9])?")


class LabPaths(msgspec.Struct, frozen=True):
    """The files of one lab, seen from outside or, with `inside`, from its namespaces."""

    root: Path

    @property
    def plan(self) -> Path:
        return self.root / "lab.json"

    @property
    def lock(self) -> Path:
        return self.root / "lock"

    @property
    def manifests(self) -> Path:
        return self.root / "manifests"

    @property
    def socket(self) -> Path:
        return self.root / "holder.sock"

    @property
    def log(self) -> Path:
        return self.root / "holder.log"

    def run(self, place: str) -> Path:
        return self.root / "places" / place / "run"

    def engine_log(self, node: str) -> Path:
        return self.root / "places" / node / "engine.log"

    def engine_socket(self, node: str) -> Path:
        return self.run(node) / "calico" / "engine.sock"

    def inside(self) -> LabPaths:
        return LabPaths(INSIDE)


def base_directory(environ: Mapping[str, str], user_id: int) -> Path:
    """Return the directory that holds this user's labs."""
    chosen = environ.get("CALICO_ENGINE_LAB_DIR")
    if chosen:
        return Path(chosen)
    if user_id == 0:
        return Path("/run/calico-engine-lab")
    runtime = environ.get("XDG_RUNTIME_DIR")
    if runtime and os.access(runtime, os.W_OK):
        return Path(runtime) / "calico-engine-lab"
    return Path(f"/tmp/calico-engine-lab-{user_id}")


def lab_paths(name: str, base: Path) -> LabPaths:
    """Return the paths of a lab. Raises: ConfigError for a name that cannot be a directory's."""
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"lab name {name!r}", key="name", hint="1 to 24 of a-z, 0-9 and -, beginning and ending with no -"
        )
    return LabPaths(base / name)


def make_base(base: Path) -> None:
    """Make the base directory for this user alone. Raises: ConfigError when somebody else owns it."""
    try:
        base.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = base.lstat()
    except OSError as error:
        raise ConfigError(
            f"lab directory {base}: {error.strerror}",
            key="CALICO_ENGINE_LAB_DIR",
            hint="name one you can write",
        ) from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise ConfigError(
            f"lab directory {base} is not a directory of yours",
            key="CALICO_ENGINE_LAB_DIR",
            hint="name another",
        )


def list_labs(base: Path) -> list[str]:
    """Return the names of the labs that have a directory, whether they still run or not."""
    if not base.is_dir():
        return []
    return sorted(entry.name for entry in base.iterdir() if entry.is_dir() and _NAME.fullmatch(entry.name))
