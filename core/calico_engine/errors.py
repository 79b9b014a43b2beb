"""The whole exception tree.

A message says what failed, on what, and what to do about it; the facts are fields, so that callers never parse text.

    CalicoEngineError(retryable)
    ├── ConfigError                      a profile, setting or environment variable is wrong
    ├── PluginError
    │   ├── PluginNotFoundError          no such name in the entry-point group
    │   ├── PluginConflictError          two distributions claim one name
    │   ├── PluginContractError          a plugin does not do what the protocol says
    │   └── MissingExtraError            a dependency is absent; names the extra that brings it
    ├── ResourceError
    │   ├── ValidationError              (key, field path, what is allowed)
    │   └── SelectorSyntaxError          (text, offset); also a ValueError
    ├── DatastoreError
    │   ├── NotFoundError
    │   ├── ConflictError                (expected, found revision)
    │   └── UnavailableError             retryable
    ├── IpamError
    │   ├── AddressTakenError            somebody has the address; says under which handle
    │   ├── StaleReleaseError            the release is about another allocation (handle, sequence number)
    │   ├── NoPoolError                  no pool qualifies; says what was asked for
    │   ├── BlockTakenError              another host has the block
    │   ├── BlockNotEmptyError           the block has addresses in use
    │   ├── BlockMalformedError          the block contradicts itself: it is not written
    │   └── IpamContendedError           retryable: others were faster every time
    └── KernelError                      (argv or errno, the tool's last words, the line of our transaction)
        ├── KernelUnsupportedError       (capability, hint)
        ├── TransactionRefusedError      (index of the message, where in it): nothing happened
        ├── OutcomeUnknownError          whether it happened is not known: read back
        └── DataplaneStuckError          retried, rebuilt, and still refused
"""

from __future__ import annotations

from collections.abc import Sequence


class CalicoEngineError(Exception):
    """Anything this project raises on purpose. `retryable` says whether the same call may succeed later."""

    retryable: bool = False


class ConfigError(CalicoEngineError):
    """A setting is wrong: `key` where it is, `hint` what would be right."""

    def __init__(self, message: str, *, key: str = "", hint: str = "") -> None:
        self.key = key
        self.hint = hint
        super().__init__(f"{message} ({hint})" if hint else message)


class PluginError(CalicoEngineError):
    """A plugin cannot be loaded or misbehaves."""


class PluginNotFoundError(PluginError):
    """No installed distribution offers this plugin; names the nearest that exist."""

    def __init__(self, family: str, name: str, available: Sequence[str]) -> None:
        self.family = family
        self.name = name
        self.available = tuple(available)
        listing = ", ".join(available) or "none"
        super().__init__(f"no {family} plugin named {name!r} is installed; installed: {listing}")


class PluginConflictError(PluginError):
    """Two distributions register one name."""

    def __init__(self, family: str, name: str, distributions: Sequence[str]) -> None:
        self.family = family
        self.name = name
        self.distributions = tuple(distributions)
        super().__init__(
            f"{family} plugin {name!r} is offered by {' and '.join(distributions)}; uninstall all but one"
        )


class PluginContractError(PluginError):
    """A plugin does not keep the contract: which plugin, which rule, what to change."""


class MissingExtraError(PluginError):
    """A plugin's dependency is not installed."""

    def __init__(self, plugin: str, module: str, extra: str) -> None:
        self.plugin = plugin
        self.module = module
        self.extra = extra
        super().__init__(
            f"{plugin} needs the Python module {module!r}; install it with: pip install 'calico-engine[{extra}]'"
        )


class ResourceError(CalicoEngineError):
    """A resource as users write it is wrong."""


class ValidationError(ResourceError, ValueError):
    """A field of a resource is not allowed: `key` names the resource, `path` the field, `reason` what is allowed.

    `source` is where the resource was written, say a file; "" when nobody said.
    """

    def __init__(self, key: str, path: str, reason: str, *, source: str = "") -> None:
        self.key = key
        self.path = path
        self.reason = reason
        self.source = source
        super().__init__(": ".join([part for part in (source, key, path, reason) if part]))


class SelectorSyntaxError(ResourceError, ValueError):
    """A selector does not parse; `offset_chars` points at the first character that is wrong."""

    def __init__(self, text: str, offset_chars: int, reason: str) -> None:
        self.text = text
        self.offset_chars = offset_chars
        self.reason = reason
        shown = text if len(text) <= 120 else text[:117] + "..."
        super().__init__(f"selector {shown!r}, character {offset_chars}: {reason}")


class DatastoreError(CalicoEngineError):
    """The datastore refused or failed."""


class NotFoundError(DatastoreError):
    """No resource under this key."""

    def __init__(self, key: str) -> None:
        self.key = key
        super().__init__(f"{key} does not exist")


class ConflictError(DatastoreError):
    """Compare-and-set lost: somebody else changed the resource in between; read it again and retry."""

    retryable = True

    def __init__(self, key: str, expected: str, found: str) -> None:
        self.key = key
        self.expected = expected
        self.found = found
        super().__init__(
            f"{key}: expected revision {expected or 'none'}, found {found or 'none'}; read it again"
        )


class UnavailableError(DatastoreError):
    """The datastore does not answer for now."""

    retryable = True


class IpamError(CalicoEngineError):
    """An address or a block cannot be given out or taken back."""


class AddressTakenError(IpamError):
    """The address is allocated: `handle` says to whom ("" for no handle), `detail` what else is known."""

    def __init__(self, address: str, *, handle: str = "", detail: str = "") -> None:
        self.address = address
        self.handle = handle
        self.detail = detail
        by = detail or (f"is assigned to handle {handle}" if handle else "is assigned already")
        super().__init__(f"address {address} {by}; ask for another, or release it first")


class StaleReleaseError(IpamError):
    """A release names another allocation than the one the address has now; nothing was released."""

    def __init__(self, address: str, field: str, requested: str, found: str) -> None:
        self.address = address
        self.field = field
        self.requested = requested
        self.found = found
        super().__init__(
            f"address {address}: the release names {field} {requested}, the allocation has {found or 'none'}; "
            "it was released and given out again since, so there is nothing left to release"
        )


class NoPoolError(IpamError):
    """No IP pool qualifies for a request."""


class BlockTakenError(IpamError):
    """The block is affine to somebody else: `owner`, "" for nobody."""

    def __init__(self, cidr: str, owner: str) -> None:
        self.cidr = cidr
        self.owner = owner
        super().__init__(f"block {cidr} is affine to {owner or 'nobody'}; use another block")


class BlockNotEmptyError(IpamError):
    """The block has `count` addresses in use and was to be given up only if it had none."""

    def __init__(self, cidr: str, count: int) -> None:
        self.cidr = cidr
        self.count = count
        super().__init__(f"block {cidr} has {count} addresses in use; release them first")


class BlockMalformedError(IpamError):
    """The block contradicts itself; nobody writes it until somebody has looked."""

    def __init__(self, cidr: str, reason: str) -> None:
        self.cidr = cidr
        self.reason = reason
        super().__init__(f"block {cidr} contradicts itself: {reason}; correct or delete it by hand")


class IpamContendedError(IpamError):
    """Compare-and-set lost every time; too many clients write the same record."""

    retryable = True

    def __init__(self, what: str, attempts: int) -> None:
        self.what = what
        self.attempts = attempts
        super().__init__(f"{what}: others were faster {attempts} times in a row; try again")


class KernelError(CalicoEngineError):
    """The kernel or one of its tools refused: `command` what was run, `stderr` its last words, `line` our line."""

    retryable = True

    def __init__(
        self, command: str, reason: str, *, errno: int = 0, stderr: str = "", line: str = ""
    ) -> None:
        self.command = command
        self.reason = reason
        self.errno = errno
        self.stderr = stderr
        self.line = line
        parts = [f"{command}: {reason}"]
        if stderr:
            parts.append(stderr.strip()[-500:])
        if line:
            parts.append(f"our line: {line}")
        super().__init__("; ".join(parts))


class KernelUnsupportedError(KernelError):
    """The kernel lacks a capability; `hint` says what to use instead."""

    retryable = False

    def __init__(self, capability: str, *, hint: str) -> None:
        self.capability = capability
        self.hint = hint
        super().__init__(capability, f"not supported by this kernel; {hint}")


class ProgramMissingError(KernelUnsupportedError):
    """A program that is needed cannot be started."""

    def __init__(self, program: str, reason: str) -> None:
        self.capability = program
        self.hint = "install it or put it on PATH"
        KernelError.__init__(self, program, f"cannot be started ({reason}); {self.hint}")


class TransactionRefusedError(KernelError):
    """The kernel refused a transaction as a whole, because of one message; nothing of it happened.

    `index` of the message in the transaction, -1 for none in particular; `offset_bytes` within it, -1 if unknown.
    """

    def __init__(
        self, command: str, reason: str, *, errno: int = 0, index: int = -1, offset_bytes: int = -1
    ) -> None:
        self.index = index
        self.offset_bytes = offset_bytes
        place = f"{command}, message {index}" if index >= 0 else command
        super().__init__(place, reason, errno=errno)


class OutcomeUnknownError(KernelError):
    """Whether the kernel did what it was asked for is not known; read back what it has."""


class DataplaneStuckError(KernelError):
    """The dataplane was retried and rebuilt from scratch and is still refused; the engine stops loudly."""

    retryable = False
