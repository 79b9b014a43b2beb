"""Desired against actual: which objects to add, change and delete. Pure."""

from calico_engine.reconcile.delta import Delta, DeltaTracker
from calico_engine.reconcile.rows import (
    DIGEST_SIZE_BYTES,
    NETWORK_KEY_SIZE_BYTES,
    KeyDiff,
    diff_keys,
    digest_value,
    pack_name,
    pack_network,
    pack_rows,
)

__all__ = [
    "DIGEST_SIZE_BYTES",
    "NETWORK_KEY_SIZE_BYTES",
    "Delta",
    "DeltaTracker",
    "KeyDiff",
    "diff_keys",
    "digest_value",
    "pack_name",
    "pack_network",
    "pack_rows",
]
