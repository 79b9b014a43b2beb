"""Finds, loads and calls plugins.

Listing reads distribution metadata only; a plugin's module is imported when a profile selects it and then registered
as `family:name`. pluggy's own loader is not used: it imports everything in a group and hides the second of two plugins
with one name. The only module that talks to pluggy's PluginManager.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Mapping, Sequence
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, TypeVar

import msgspec
import pluggy

from calico_engine.errors import (
    MissingExtraError,
    PluginConflictError,
    PluginContractError,
    PluginError,
    PluginNotFoundError,
)
from calico_engine.plugin.hookspecs import PROJECT, Hookspecs, Orchestrator
from calico_engine.plugin.protocols import Capability, Dataplane, Datastore, PluginContext, Routing

if TYPE_CHECKING:
    import click

FAMILIES = ("datastore", "dataplane", "routing", "orchestrator", "extension")
OWN_DISTRIBUTION = "calico-engine"

T = TypeVar("T")


class PluginInfo(msgspec.Struct, frozen=True, order=True):
    """A plugin as its distribution's metadata describes it; nothing of it has been imported."""

    family: str
    name: str
    module: str
    distribution: str
    version: str

    @property
    def built_in(self) -> bool:
        return self.distribution == OWN_DISTRIBUTION


class HookFailure(msgspec.Struct, frozen=True):
    """One plugin's hook raised."""

    plugin: str
    hook: str
    error: Exception


def installed(family: str = "") -> tuple[PluginInfo, ...]:
    """List installed plugins of one family, or of all, sorted; imports nothing."""
    everything = entry_points()
    found = {
        _describe(known, point)
        for known in FAMILIES
        if family in ("", known)
        for point in everything.select(group=f"{PROJECT}.{known}")
    }
    return tuple(sorted(found))


def _describe(family: str, point: EntryPoint) -> PluginInfo:
    distribution = point.dist
    return PluginInfo(
        family=family,
        name=point.name,
        module=point.value,
        distribution=distribution.name if distribution else "",
        version=distribution.version if distribution else "",
    )


class PluginRegistry:
    """The plugins one engine has loaded, and the calls made to them."""

    def __init__(self) -> None:
        self._manager = pluggy.PluginManager(PROJECT)
        self._manager.add_hookspecs(Hookspecs)

    @cached_property
    def _installed(self) -> tuple[PluginInfo, ...]:
        """Looked up once: it reads the metadata of every distribution there is."""
        return installed()

    def register(self, family: str, name: str, plugin: object) -> None:
        """Enter a module or object with hookimpls under `family:name`, as `load` does for installed ones.

        Raises: PluginConflictError when the name is taken, PluginContractError for hooks that cannot be called.
        """
        _known_family(family)
        full_name = f"{family}:{name}"
        if self._manager.has_plugin(full_name):
            raise PluginConflictError(family, name, ["the one loaded already", "another"])
        if isinstance(plugin, type):
            raise PluginContractError(f"{full_name} is a class; register an instance or a module")
        _refuse_unusable_hooks(full_name, plugin, self._manager)
        if self._manager.is_registered(plugin):
            # One module may serve two families; pluggy wants distinct objects.
            plugin = _Alias(plugin)
        try:
            self._manager.register(plugin, full_name)
            self._manager.check_pending()
        except pluggy.PluginValidationError as error:
            self._manager.unregister(name=full_name)
            raise PluginContractError(f"{full_name}: {error}") from error

    def load(self, family: str, name: str) -> object:
        """Import the selected plugin, once, and return its module.

        Raises: PluginNotFoundError, PluginConflictError, MissingExtraError, PluginContractError.
        """
        _known_family(family)
        present = self._manager.get_plugin(f"{family}:{name}")
        if present is not None:
            return present
        candidates = [info for info in self._installed if (info.family, info.name) == (family, name)]
        if not candidates:
            raise PluginNotFoundError(family, name, _nearest_first(name, self.names(family)))
        if len(candidates) > 1:
            raise PluginConflictError(family, name, [f"{c.distribution} ({c.module})" for c in candidates])
        self.register(family, name, _import(candidates[0]))
        loaded = self._manager.get_plugin(f"{family}:{name}")
        assert loaded is not None
        return loaded

    def names(self, family: str) -> list[str]:
        """Every name of a family a profile could select: installed or registered here."""
        prefix = f"{family}:"
        here = {n.removeprefix(prefix) for n, _ in self._manager.list_name_plugin() if n.startswith(prefix)}
        return sorted(here | {info.name for info in self._installed if info.family == family})

    def config_type(self, family: str, name: str) -> type | None:
        """The struct for the plugin's options, or None for a plain dict."""
        answer = self._ask(family, name, "ce_config_type", {})
        if answer is not None and not isinstance(answer, type):
            raise PluginContractError(f"{family}:{name}: ce_config_type must return a type, not {answer!r}")
        return answer

    def checks(self, family: str, name: str) -> Sequence[Capability]:
        """What the machine must have for this plugin."""
        answer = self._ask(family, name, "ce_checks", {})
        if answer is None:
            return ()
        if not isinstance(answer, Sequence) or not all(isinstance(item, Capability) for item in answer):
            raise PluginContractError(f"{family}:{name}: ce_checks must return a list of Capability")
        return answer

    def make_datastore(self, name: str, context: PluginContext) -> Datastore:
        return self._make("datastore", name, context, Datastore)  # type: ignore[type-abstract]  # a Protocol to check

    def make_dataplane(self, name: str, context: PluginContext) -> Dataplane:
        return self._make("dataplane", name, context, Dataplane)  # type: ignore[type-abstract]  # a Protocol to check

    def make_routing(self, name: str, context: PluginContext) -> Routing:
        return self._make("routing", name, context, Dataplane)  # type: ignore[type-abstract]  # a Protocol to check

    def make_orchestrator(self, name: str, context: PluginContext) -> Orchestrator:
        return self._make("orchestrator", name, context, Orchestrator)  # type: ignore[type-abstract]  # as above

    def commands(self, family: str, name: str) -> Sequence[click.Command]:
        """The commands a plugin adds to the command line."""
        answer = self._ask(family, name, "ce_register_commands", {})
        return answer if isinstance(answer, Sequence) else ()

    def profiles(self, family: str, name: str) -> Mapping[str, str]:
        """The engine profiles a plugin brings, as TOML text."""
        answer = self._ask(family, name, "ce_register_profiles", {})
        return answer if isinstance(answer, Mapping) else {}

    def notify(self, hook: str, arguments: Mapping[str, object]) -> tuple[HookFailure, ...]:
        """Call a notification hook on every loaded plugin; return what they raised. Never raises itself."""
        failures = []
        for implementation in getattr(self._manager.hook, hook).get_hookimpls():
            try:
                implementation.function(*(arguments[argument] for argument in implementation.argnames))
            except Exception as error:  # noqa: BLE001  # the bus's isolation point
                failures.append(HookFailure(implementation.plugin_name, hook, error))
        return tuple(failures)

    def _ask(self, family: str, name: str, hook: str, arguments: Mapping[str, object]) -> object:
        """Call one hook on one plugin; None when it has no such hook."""
        plugin = self.load(family, name)
        for implementation in getattr(self._manager.hook, hook).get_hookimpls():
            if implementation.plugin is plugin:
                return implementation.function(*(arguments[argument] for argument in implementation.argnames))
        return None

    def _make(self, family: str, name: str, context: PluginContext, protocol: type[T]) -> T:
        made = self._ask(family, name, f"ce_make_{family}", {"context": context})
        if made is None:
            raise PluginContractError(f"{family}:{name} has no ce_make_{family} hook, or it returned None")
        missing = [method for method in _methods(protocol) if not callable(getattr(made, method, None))]
        if missing:
            raise PluginContractError(
                f"{family}:{name}: {type(made).__name__} lacks {', '.join(missing)} of {protocol.__name__}"
            )
        return made  # type: ignore[return-value]  # checked structurally above


class _Alias:
    """Stands for a plugin that is registered under a second name."""

    def __init__(self, target: object) -> None:
        self._target = target
        for attribute in dir(target):
            if attribute.startswith("ce_"):
                setattr(self, attribute, getattr(target, attribute))


def third_party_profiles() -> tuple[dict[str, tuple[str, str]], list[str]]:
    """Return profiles brought by other distributions, name -> (TOML text, where from), and what went wrong.

    Imports every third-party plugin, into a registry of its own: it is asked only when no other place knows the name.
    """
    found: dict[str, tuple[str, str]] = {}
    problems: list[str] = []
    registry = PluginRegistry()
    for info in installed():
        if info.built_in:
            continue
        origin = f"{info.family}:{info.name} of {info.distribution}"
        try:
            profiles = registry.profiles(info.family, info.name)
        except Exception as error:  # noqa: BLE001  # a broken third-party plugin must not hide the others
            problems.append(f"{origin}: {error}")
            continue
        for name, text in profiles.items():
            if name in found and found[name][0] != text:
                problems.append(f"profile {name!r} comes from {found[name][1]} and from {origin}")
                continue
            found[name] = (text, origin)
    return found, problems


def _known_family(family: str) -> None:
    if family not in FAMILIES:
        raise PluginNotFoundError(family, "", FAMILIES)


def _nearest_first(name: str, available: Sequence[str]) -> list[str]:
    near = difflib.get_close_matches(name, available, n=3, cutoff=0.5)
    return near + [other for other in available if other not in near]


def _methods(protocol: type) -> list[str]:
    return [name for name, value in vars(protocol).items() if inspect.isfunction(value) and name[0] != "_"]


def _import(info: PluginInfo) -> object:
    try:
        return importlib.import_module(info.module)
    except ImportError as error:
        missing = error.name or ""
        foreign = missing.partition(".")[0] != info.module.partition(".")[0]
        if info.built_in and isinstance(error, ModuleNotFoundError) and foreign:
            raise MissingExtraError(f"{info.family} plugin {info.name!r}", missing, info.name) from error
        raise PluginError(
            f"{info.family} plugin {info.name!r} cannot be imported: {error}; "
            f"reinstall {info.distribution} {info.version}"
        ) from error


def _refuse_unusable_hooks(full_name: str, plugin: object, manager: pluggy.PluginManager) -> None:
    """A coroutine would never be awaited and a wrapper never be wrapped: say so at load, not by silence later."""
    known = [name for name in vars(Hookspecs) if name.startswith("ce_")]
    for name in dir(plugin):
        if not name.startswith("ce_"):
            continue
        function = getattr(plugin, name)
        options = manager.parse_hookimpl_opts(plugin, name)
        if options is None:
            if name in known:
                raise PluginContractError(f"{full_name}: {name} is not marked; put @hookimpl above it")
            continue
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise PluginContractError(f"{full_name}: there is no hook {name}{hint}")
        if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
            raise PluginContractError(f"{full_name}: {name} is a coroutine; hooks are plain functions")
        if options["wrapper"] or options["hookwrapper"]:
            raise PluginContractError(f"{full_name}: {name} is a hook wrapper; hooks are called one by one")
