"""Where an engine keeps files: its run directory, which a reboot empties, and its state directory, which stays."""

from __future__ import annotations

from pathlib import Path

RUN_DIRECTORY = "/var/run/calico"
STATE_DIRECTORY = "/var/lib/calico-engine"


def state_directory(run_dir: str | Path, *choices: str | Path | None) -> Path:
    """Return the first choice that is one; else the default, or `state` below a run directory that isn't the default.

    So two engines on one machine, each with its own run directory, keep apart.
    """
    for choice in choices:
        if choice:
            return Path(choice)
    own = Path(run_dir)
    return Path(STATE_DIRECTORY) if own == Path(RUN_DIRECTORY) else own / "state"
