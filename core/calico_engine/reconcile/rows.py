"""Turn objects into rows: fixed-width sortable key bytes, then an 8-byte digest of the value.

Pure. Rows are what fastpath compares: a driver packs its desired objects once, packs or receives what
the kernel dumped, and gets the keys that differ without building an object per entry.
"""

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from ipaddress import IPv4Network, IPv6Network

import msgspec

from calico_engine import fastpath

DIGEST_SIZE_BYTES = 8
NETWORK_KEY_SIZE_BYTES = 18


class KeyDiff(msgspec.Struct, frozen=True):
    """Keys that differ between two row buffers, each part ascending."""

    added: tuple[bytes, ...] = ()
    changed: tuple[bytes, ...] = ()
    removed: tuple[bytes, ...] = ()


def digest_value(value: bytes) -> bytes:
    """Return the 8-byte digest by which two values of one key are told apart."""
    return blake2b(value, digest_size=DIGEST_SIZE_BYTES).digest()


def pack_name(name: str, key_size: int) -> bytes:
    """Return the name as a key: UTF-8, filled up with NULs, so keys sort as the names' bytes do.

    Raises: ValueError when it does not fit, or holds a NUL (two names would share a key).
    """
    encoded = name.encode()
    if len(encoded) > key_size:
        raise ValueError(f"name {name!r}: {len(encoded)} bytes, a key holds {key_size}")
    if b"\0" in encoded:
        raise ValueError(f"name {name!r}: must not contain NUL")
    return encoded.ljust(key_size, b"\0")


def pack_network(network: IPv4Network | IPv6Network) -> bytes:
    """Return the network as an 18-byte key: IP version, address, prefix length; v4 sorts before v6."""
    address = network.network_address.packed.ljust(16, b"\0")
    return bytes([network.version]) + address + bytes([network.prefixlen])


def pack_rows(values: Mapping[bytes, bytes], key_size: int) -> bytes:
    """Return the sorted row buffer of key -> encoded value.

    Raises: ValueError when a key is not key_size bytes long.
    """
    for key in values:
        if len(key) != key_size:
            raise ValueError(f"key {key.hex()}: {len(key)} bytes, must be {key_size}")
    rows = b"".join(key + digest_value(value) for key, value in values.items())
    return fastpath.sort_rows(rows, key_size + DIGEST_SIZE_BYTES)


def diff_keys(desired: bytes, actual: bytes, key_size: int) -> KeyDiff:
    """Return the keys to add, change and remove to turn actual into desired.

    Both are sorted buffers as pack_rows makes them, with the same key_size.
    Raises: ValueError when one is not sorted, or has a key twice.
    """
    row_size = key_size + DIGEST_SIZE_BYTES
    added, changed, removed = fastpath.diff_rows(desired, actual, key_size, row_size)
    return KeyDiff(
        _keys_at(desired, added, key_size),
        _keys_at(desired, changed, key_size),
        _keys_at(actual, removed, key_size),
    )


def _keys_at(rows: bytes, indexes: Sequence[int], key_size: int) -> tuple[bytes, ...]:
    row_size = key_size + DIGEST_SIZE_BYTES
    return tuple(rows[i * row_size : i * row_size + key_size] for i in indexes)
