"""Times as IPAM records hold them: RFC 3339 in UTC, whole seconds.

Pure: the present comes in as an argument, in nanoseconds since the epoch.
"""

from __future__ import annotations

from datetime import UTC, datetime

NS_PER_S = 1_000_000_000


def render_time(now_ns: int) -> str:
    return datetime.fromtimestamp(now_ns // NS_PER_S, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def age_s(text: str, now_ns: int) -> float:
    """Return how long ago a time was; 0 for a text that is no time, as if it were now."""
    try:
        then = datetime.fromisoformat(text)
    except ValueError:
        return 0.0
    if then.tzinfo is None:
        then = then.replace(tzinfo=UTC)
    return now_ns / NS_PER_S - then.timestamp()
