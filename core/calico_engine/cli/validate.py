"""`calico-engine validate`: check manifests, and name each error's file, resource and field."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click

from calico_engine.cli import EXIT_FAILED, EXIT_OK
from calico_engine.cli.output import count, output_option, print_json, printable, progress

_SUFFIXES = (".yaml", ".yml", ".json")


@click.command()
@click.argument(
    "paths", nargs=-1, required=True, metavar="FILE...", type=click.Path(exists=True, allow_dash=True)
)
@output_option
def validate(paths: tuple[str, ...], output: str) -> int:
    """Check manifests: files, directories, or - for standard input. Exit code 1 when one is wrong.

    JSON: {"valid": true|false, "files", "resources", "errors": [{"file", "resource", "field", "reason"}]}
    """
    from calico_engine.errors import ValidationError
    from calico_engine.model import ResourceKey, load_each

    files = resources = 0
    errors: list[dict[str, str]] = []
    places: dict[ResourceKey, str] = {}
    with progress("checking"):
        for name, data in _read(paths, errors):
            files += 1
            for found in load_each(data):
                if isinstance(found, ValidationError):
                    errors.append(_error(name, found.key, found.path, found.reason))
                    continue
                resources += 1
                other = places.setdefault(found.key, name)
                if other is not name:
                    errors.append(
                        _error(name, str(found.key), "", f"is in {other} too: only one of them counts")
                    )
    if output == "json":
        print_json({"valid": not errors, "files": files, "resources": resources, "errors": errors})
    else:
        for error in errors:
            parts = [error["file"], error["resource"], error["field"], error["reason"]]
            click.echo(printable(": ".join(part for part in parts if part)))
        click.echo(
            f"{count(files, 'file')}, {count(resources, 'valid resource')}, {count(len(errors), 'error')}"
        )
    return EXIT_FAILED if errors else EXIT_OK


def _error(file: str, resource: str, field: str, reason: str) -> dict[str, str]:
    return {"file": file, "resource": resource, "field": field, "reason": reason}


def _read(paths: tuple[str, ...], errors: list[dict[str, str]]) -> Iterator[tuple[str, bytes]]:
    """Yield every file's name and bytes; what cannot be read goes to `errors`."""
    for path in paths:
        if path == "-":
            yield path, sys.stdin.buffer.read()
            continue
        given = Path(path)
        for file in _manifests(given) if given.is_dir() else [given]:
            try:
                yield str(file), file.read_bytes()
            except OSError as error:
                errors.append(_error(str(file), "", "", f"cannot be read: {error.strerror}"))


def _manifests(folder: Path) -> list[Path]:
    """Return the files of a directory that the datastore `file` would read."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix in _SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
