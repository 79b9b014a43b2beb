"""Which dataplane `switch` has chosen in place of the profile's, kept in the run directory across restarts.

    <run_dir>/dataplane.json   {"chosen": ["nftables"], "discard": ["ipset", "iptables"]}

The file says what is true at any moment of a switch, so that an engine that is killed in it leaves the next one what it
needs: `chosen` is complete in the kernel, and what `discard` names may be there too and is to go. It is replaced whole,
and goes when it has nothing to say. The run directory is emptied with the kernel's tables, when the machine starts.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from calico_engine.errors import ConfigError

FILE_NAME = "dataplane.json"


class Choice(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`chosen` None is what the profile says. `discard` is removed at the next start, unless it is in force then."""

    chosen: tuple[str, ...] | None = None
    discard: tuple[str, ...] = ()

    def selected(self, profile: Sequence[str]) -> tuple[str, ...]:
        """Return the dataplane plugins in force, given those of the profile."""
        return tuple(profile) if self.chosen is None else self.chosen

    def owed(self, profile: Sequence[str]) -> tuple[str, ...]:
        """Return the plugins whose objects are to be removed, in the order they were applied in."""
        selected = self.selected(profile)
        return tuple(name for name in self.discard if name not in selected)

    def forgotten(self) -> Choice:
        """Return the choice after which the profile is asked again, and what was chosen goes."""
        chosen = self.chosen or ()
        return Choice(discard=(*chosen, *(name for name in self.discard if name not in chosen)))


class ChoiceFile:
    """The choice of one run directory. Whoever writes has the run lock."""

    def __init__(self, run_dir: Path) -> None:
        self.path = run_dir / FILE_NAME

    def read(self) -> Choice:
        """Return what is written; nothing chosen when there is no file. Raises: ConfigError when it is damaged."""
        try:
            return msgspec.json.decode(self.path.read_bytes(), type=Choice)
        except FileNotFoundError:
            return Choice()
        except (OSError, msgspec.MsgspecError) as error:
            raise ConfigError(
                f"{self.path}: {error}",
                key="dataplane",
                hint="remove it; then the profile's dataplane comes up, and another one's objects stay in the kernel",
            ) from error

    def write(self, choice: Choice) -> None:
        """Replace the file, durably, or remove it when there is nothing to remember. Raises: OSError."""
        if choice == Choice():
            self.path.unlink(missing_ok=True)
        else:
            fresh = self.path.with_name(f".{FILE_NAME}.new")
            with fresh.open("wb") as file:
                file.write(msgspec.json.encode(choice) + b"\n")
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(self.path)
        directory = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
