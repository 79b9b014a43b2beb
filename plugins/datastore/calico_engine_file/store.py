"""Read and write single resources of a directory of manifests, from a thread.

A revision is a digest of what a resource says, so it needs no place in the file, is the same for every process, and a
compare-and-set succeeds exactly while the resource still says what the caller read. Writers take one lock file per
directory; readers take none, for every write is a rename.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from calico_engine.errors import ConflictError, DatastoreError, NotFoundError, UnavailableError
from calico_engine.model import Resource, ResourceKey, decode, encode
from calico_engine.plugin.protocols import StatusReport
from calico_engine_file.catalogue import Catalogue
from calico_engine_file.config import FileConfig
from calico_engine_file.editing import EditError, remove_resource, render_manifest, replace_resource
from calico_engine_file.manifest import Place, with_revision
from calico_engine_file.scanning import read_manifest
from calico_engine_file.writing import exclusive, remove_file, remove_leftovers, safe_name, write_atomically

STATUS_FOLDER = ".status"


class Store:
    """get, list, put and delete on a catalogue whose lock the caller holds."""

    def __init__(self, catalogue: Catalogue, config: FileConfig) -> None:
        self.root = Path(config.path)
        self._catalogue = catalogue
        self._config = config

    def get(self, key: ResourceKey) -> Resource:
        """Return the resource. Raises: NotFoundError, DatastoreError when what is there is not valid."""
        self._catalogue.refresh_key(key)
        held = self._catalogue.held(key)
        if held is None:
            raise NotFoundError(str(key))
        if held.entry.resource is None:
            raise DatastoreError(f"{held.path}: {held.entry.error}")
        return held.entry.resource

    def list(self, kind: str, namespace: str) -> Sequence[Resource]:
        """Return all valid resources of a kind, in the order of their keys."""
        self._catalogue.refresh_all()
        found = (
            self._catalogue.resource(key)
            for key in self._catalogue.sorted_keys()
            if key.kind == kind and (not namespace or key.namespace == namespace)
        )
        return [resource for resource in found if resource is not None]

    def put(self, resource: Resource, expected: str | None) -> Resource:
        """Write a resource. Raises: ConflictError, ValidationError, EditError, UnavailableError."""
        # What comes back from the disk is canonical, and so must be what the revision is made of.
        new = with_revision(decode(resource.KIND, encode(resource)))
        with exclusive(self.root, self._config.lock_timeout_s):
            self._check_revision(new.key, expected)
            path = self._write(new)
            self._catalogue.refresh([path])
        return new

    def delete(self, key: ResourceKey, expected: str | None) -> None:
        """Remove a resource from every file that holds it, and files that hold nothing else.

        Raises: NotFoundError, ConflictError, EditError, UnavailableError.
        """
        with exclusive(self.root, self._config.lock_timeout_s):
            self._check_revision(key, expected)
            paths = self._catalogue.paths(key)
            if not paths:
                raise NotFoundError(str(key))
            for path in paths:
                self._remove(path, key)
            self._catalogue.refresh(paths)

    def write_status(self, report: StatusReport) -> None:
        """Write `.status/<node>.json`, which the watch does not look at."""
        if not self.root.is_dir():
            raise UnavailableError(f"{self.root}: the directory is not there")
        data = msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n"
        target = self.root / STATUS_FOLDER / f"{safe_name(report.node)}.json"
        write_atomically(target, data, durable=False)

    def _check_revision(self, key: ResourceKey, expected: str | None) -> None:
        self._catalogue.refresh_key(key)
        if expected is None:
            return
        held = self._catalogue.held(key)
        found = "" if held is None else held.entry.revision
        if held is not None and held.entry.error:
            found = "something not valid"
        if found != expected:
            raise ConflictError(str(key), expected, found)

    def _write(self, resource: Resource) -> str:
        """Write a resource where it belongs; return the path. The lock is held."""
        key = resource.key
        held = self._catalogue.held(key)
        if held is None:
            path = self._new_path(resource)
            target = self.root / path
            if target.parent.exists():
                remove_leftovers(target.parent)
            write_atomically(target, render_manifest(resource))
            return path
        data, place, alone = self._locate(held.path, key)
        if held.entry.error or held.entry.revision != resource.metadata.resource_version:
            if alone and place == (0,) and b"#" not in data and data.startswith(b"apiVersion:"):
                new = render_manifest(resource)  # our own file, most likely: nothing else to keep
            else:
                new = replace_resource(held.path, data, place, resource)
            write_atomically(self._real(held.path), new)
        return held.path

    def _remove(self, path: str, key: ResourceKey) -> None:
        data, place, alone = self._locate(path, key)
        new = None if alone else remove_resource(path, data, place, key)
        if new is None:
            remove_file(self.root / path)
        else:
            write_atomically(self._real(path), new)

    def _locate(self, path: str, key: ResourceKey) -> tuple[bytes, Place, bool]:
        """Return a file's present bytes, where in it the key is, and whether it is all that the file holds."""
        if self._catalogue.is_broken(path):
            raise EditError(path, key, self._catalogue.problems.get(path, "the file cannot be read"))
        data, _ = read_manifest(self.root, path, self._config.max_file_bytes)
        entries = self._catalogue.entries(path, data)
        for entry in entries:
            if entry.key == key and entry.place:
                return data, entry.place, len(entries) == 1
        raise EditError(path, key, "the file holds an item that is not valid, which may be it")

    def _real(self, path: str) -> Path:
        """Return what a manifest's path stands for: a linked file is written where it is."""
        return (self.root / path).resolve()

    def _new_path(self, resource: Resource) -> str:
        """Return a path for a new file; another one where a user's file has taken the name."""
        key = resource.key
        folder = f"{resource.PLURAL}/{safe_name(key.namespace)}" if key.namespace else resource.PLURAL
        path = f"{folder}/{safe_name(key.name)}.yaml"
        number = 2
        while (self.root / path).exists():
            path = f"{folder}/{safe_name(key.name)}-{number}.yaml"
            number += 1
        return path
