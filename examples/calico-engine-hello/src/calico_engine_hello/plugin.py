"""A dataplane whose kernel is a JSON file.

The file maps a name ("policy NetworkPolicy(prod/web)") to the message that says what it is. Like every
dataplane it keeps desired against actual in a DeltaTracker, writes only differences, adds in apply,
removes in prune, reads back when told to trust nothing, and keeps what failed pending.
"""

import asyncio
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from calico_engine.errors import KernelError
from calico_engine.messages import (
    ActivePolicyRemove,
    ActivePolicyUpdate,
    ActiveProfileRemove,
    ActiveProfileUpdate,
    Batch,
    HostEndpointRemove,
    HostEndpointUpdate,
    IPSetDelta,
    IPSetRemove,
    IPSetUpdate,
    Message,
    WorkloadEndpointRemove,
    WorkloadEndpointUpdate,
)
from calico_engine.model.resource import ResourceKey
from calico_engine.plugin import ApplyResult, Change, EndpointStatus, PluginContext
from calico_engine.reconcile import Delta, DeltaTracker
from calico_engine_hello.config import HelloConfig

log = logging.getLogger(__name__)

# A message as canonical JSON: equal messages are equal text.
Text = str


class HelloDataplane:
    """Implements calico_engine.plugin.Dataplane."""

    def __init__(self, name: str, path: Path) -> None:
        self._name = name
        self._path = path
        self._tracker: DeltaTracker[str, Text] = DeltaTracker()
        self._sets: dict[str, IPSetUpdate] = {}
        self._endpoints: set[ResourceKey] = set()
        # Nothing is known of the file until it has been read once.
        self._trusted = False

    @classmethod
    def from_context(cls, context: PluginContext) -> "HelloDataplane":
        assert isinstance(context.options, HelloConfig)  # ce_config_type says so
        return cls(context.name, Path(context.options.path or f"{context.run_dir}/hello.json"))

    def on_batch(self, batch: Batch, /) -> None:
        """Note the desired state. No I/O."""
        for message in batch.messages:
            self._note(message)

    def _note(self, message: Message) -> None:
        match message:
            case IPSetUpdate():
                self._sets[message.set_id] = message
                self._want(f"set {message.set_id}", message)
            case IPSetDelta():
                known = self._sets[message.set_id]
                members = (known.members - message.removed) | message.added
                self._note(msgspec.structs.replace(known, members=members))
            case IPSetRemove():
                self._sets.pop(message.set_id, None)
                self._tracker.delete_desired(f"set {message.set_id}")
            case ActivePolicyUpdate():
                self._want(f"policy {message.policy}", message)
            case ActivePolicyRemove():
                self._tracker.delete_desired(f"policy {message.policy}")
            case ActiveProfileUpdate():
                self._want(f"profile {message.profile}", message)
            case ActiveProfileRemove():
                self._tracker.delete_desired(f"profile {message.profile}")
            case WorkloadEndpointUpdate() | HostEndpointUpdate():
                self._endpoints.add(message.endpoint)
                self._want(f"endpoint {message.endpoint}", message)
            case WorkloadEndpointRemove() | HostEndpointRemove():
                self._endpoints.discard(message.endpoint)
                self._tracker.delete_desired(f"endpoint {message.endpoint}")
            case _:
                pass  # routes, pools, nodes and links are a routing plugin's business

    def _want(self, name: str, message: Message) -> None:
        self._tracker.set_desired(name, msgspec.json.encode(message, order="sorted").decode())

    def invalidate(self, reason: str, /) -> None:
        """Trust nothing: the next apply reads the file back."""
        log.info("file will be read back: %s reason=%s", self._path, reason)
        self._trusted = False

    async def apply(self) -> ApplyResult:
        """Add and change what is desired; what is to go stays until prune."""
        pending = await self._read_pending()
        return await self._commit(msgspec.structs.replace(pending, delete=()))

    async def prune(self) -> ApplyResult:
        """Remove what is no longer desired."""
        pending = await self._read_pending()
        return await self._commit(msgspec.structs.replace(pending, add=(), change=()))

    async def plan(self) -> Sequence[Change]:
        """Read the file back and say what apply and prune would do."""
        self._trusted = False
        return self._describe(await self._read_pending())

    def render(self) -> str:
        """Return the file as it should be."""
        return _encode_file(self._tracker.desired)

    async def cleanup(self) -> int:
        """Remove the file; return how many objects were in it."""
        present = await asyncio.to_thread(_read_file, self._path)
        await asyncio.to_thread(self._path.unlink, missing_ok=True)
        self._trusted = False
        return len(present)

    async def close(self) -> None:
        """Leave the file as it is."""

    async def _read_pending(self) -> Delta[str, Text]:
        if not self._trusted:
            self._tracker.replace_actual(await asyncio.to_thread(_read_file, self._path))
            self._trusted = True
        return self._tracker.pending()

    async def _commit(self, delta: Delta[str, Text]) -> ApplyResult:
        """Write the file as it is after the delta. Raises: KernelError; the delta then stays pending."""
        if delta:
            content = dict(self._tracker.actual)
            content.update(delta.add)
            content.update((name, new) for name, _, new in delta.change)
            for name, _ in delta.delete:
                del content[name]
            self._trusted = False
            await asyncio.to_thread(_write_file, self._path, _encode_file(content))
            self._tracker.applied(delta)
            self._trusted = True
            log.info("file written: %s changes=%d", self._path, len(delta))
        return ApplyResult(
            plugin=self._name,
            writes=len(delta),
            changes=self._describe(delta),
            endpoint_status=dict.fromkeys(self._endpoints, EndpointStatus.UP),
        )

    def _describe(self, delta: Delta[str, Text]) -> tuple[Change, ...]:
        where = str(self._path)
        return (
            *(Change("+", where, name) for name, _ in delta.add),
            *(Change("~", where, name) for name, _, _ in delta.change),
            *(Change("-", where, name) for name, _ in delta.delete),
        )


def _encode_file(content: Mapping[str, Text]) -> str:
    document = {name: msgspec.Raw(content[name].encode()) for name in sorted(content)}
    return msgspec.json.format(msgspec.json.encode(document).decode(), indent=2) + "\n"


def _read_file(path: Path) -> dict[str, Text]:
    """Return the file's objects; empty when it is absent, or broken and so to be written anew.

    Raises: KernelError when it cannot be read.
    """
    try:
        document = msgspec.json.decode(path.read_bytes(), type=dict[str, object])
    except FileNotFoundError:
        return {}
    except msgspec.DecodeError as error:
        log.warning("file is broken, writing it anew: %s error=%s", path, error)
        return {}
    except OSError as error:
        raise KernelError(f"read {path}", str(error), errno=error.errno or 0) from error
    return {name: msgspec.json.encode(value, order="sorted").decode() for name, value in document.items()}


def _write_file(path: Path, text: str) -> None:
    """Replace the file in one step, so a reader sees the old or the new one. Raises: KernelError."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with scratch.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
    except OSError as error:
        scratch.unlink(missing_ok=True)
        raise KernelError(f"write {path}", str(error), errno=error.errno or 0) from error
