"""The file datastore's section of a profile: where the manifests are, and how patiently they are watched."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class WatchMode(StrEnum):
    """How changes are noticed: by inotify, falling back to polling where it is exhausted; or by polling alone."""

    AUTO = "auto"
    POLL = "poll"


class FileConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the datastore `file`."""

    path: str = "/etc/calico-engine/manifests"
    """Directory of manifests, any nesting. Its `.status` holds what the nodes report."""
    watch: WatchMode = WatchMode.AUTO
    max_file_bytes: int = 64 * 1024 * 1024
    """A larger file is refused, and reported."""
    debounce_ms: int = 15
    """Wait this long after a file was closed or renamed into place before reading it, when others changed just now."""
    unfinished_ms: int = 1000
    """Wait this long for a file that was written to and not closed."""
    vanished_ms: int = 250
    """Wait this long before a file that went away takes its resources with it: editors rename, then write anew."""
    rescan_s: float = 60.0
    """Look at every file this often even while inotify works: network file systems tell it nothing."""
    poll_s: float = 2.0
    """Look at every file this often where inotify does not work."""
    lock_timeout_s: float = 10.0
    """Wait this long for another process that is writing."""
