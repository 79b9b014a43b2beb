"""Makes the plugins that a profile names, and what each is given."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import msgspec

from calico_engine.engine.member import Member
from calico_engine.engine.metrics import EngineMetrics
from calico_engine.engine.profile import EngineProfile
from calico_engine.errors import ConfigError, PluginConflictError
from calico_engine.plugin.context import decode_options, unknown_key
from calico_engine.plugin.hookspecs import Orchestrator
from calico_engine.plugin.protocols import Dataplane, Datastore, Notification, PluginContext
from calico_engine.plugin.registry import FAMILIES, PluginRegistry
from calico_engine.settings import FelixSettings

log = logging.getLogger(__name__)

PLUMBING = "endpoints"


class Surroundings(msgspec.Struct, frozen=True, kw_only=True):
    """What every plugin's context has in common. `settings` is asked each time one is made."""

    node: str
    run_dir: str
    state_dir: str = ""
    settings: Callable[[], FelixSettings]
    families: tuple[int, ...]  # that the kernel has
    request_apply: Callable[[str], None]
    notify: Callable[[Notification], None]
    metrics: EngineMetrics


class Assembly:
    """Loads the profile's plugins at once, so that a wrong profile fails before anything starts."""

    def __init__(self, profile: EngineProfile, registry: PluginRegistry, surroundings: Surroundings) -> None:
        """Raises: PluginError, ConfigError."""
        self._profile = profile
        self._registry = registry
        self._surroundings = surroundings
        for family, name in profile.selected():
            registry.load(family, name)
        self._options = {
            (family, name): decode_options(
                f"{family}:{name}", profile.options_of(family, name), registry.config_type(family, name)
            )
            for family, name in profile.selected()
        }
        self._refuse_options_of_nobody()

    def make_datastore(self) -> Datastore:
        name = self._profile.datastore
        return self._registry.make_datastore(name, self._context("datastore", name))

    def make_members(self) -> list[Member]:
        """Dataplanes, the built-in plumbing, routing plugins: in the order they are applied."""
        members = [self._member("dataplane", name) for name in self._profile.dataplane]
        if self._profile.engine.plumbing:
            if PLUMBING in self._profile.routing:
                raise PluginConflictError("routing", PLUMBING, ["calico-engine itself", "the profile"])
            members.append(self._member("routing", PLUMBING))
        return members + [self._member("routing", name) for name in self._profile.routing]

    def make_dataplanes(self, names: Sequence[str]) -> list[Member]:
        """Some of the profile's dataplanes, to be run beside others."""
        return [self._member("dataplane", name) for name in names]

    def make_orchestrators(self) -> dict[str, Orchestrator]:
        return {
            name: self._registry.make_orchestrator(name, self._context("orchestrator", name))
            for name in self._profile.orchestrator
        }

    def _member(self, family: str, name: str) -> Member:
        def make() -> Dataplane:
            context = self._context(family, name)
            if (family, name) == ("routing", PLUMBING):
                from calico_engine.kernel.plumbing import EndpointPlumber  # only where endpoints are plumbed

                return EndpointPlumber(context)
            if family == "dataplane":
                return self._registry.make_dataplane(name, context)
            return self._registry.make_routing(name, context)

        options = self._profile.engine
        return Member(
            family, name, make, retry_initial_s=options.retry_initial_s, retry_max_s=options.retry_max_s
        )

    def _context(self, family: str, name: str) -> PluginContext:
        settings = self._surroundings.settings()
        return PluginContext(
            name=name,
            node=self._surroundings.node,
            settings=settings,
            options=self._options.get((family, name), {}),
            families=tuple(f for f in self._surroundings.families if f == 4 or settings.ipv6_support),
            run_dir=self._surroundings.run_dir,
            state_dir=self._surroundings.state_dir,
            request_apply=self._surroundings.request_apply,
            notify=self._surroundings.notify,
            metrics=self._surroundings.metrics,
        )

    def _refuse_options_of_nobody(self) -> None:
        """[options.X] for a plugin that is installed but not selected may stand; for no plugin at all it is a slip."""
        known = {name for family in FAMILIES for name in self._registry.names(family)}
        known |= {f"{family}:{name}" for family in FAMILIES for name in self._registry.names(family)}
        for key in self._profile.options:
            if key not in known:
                nearest = unknown_key("options", key, sorted(known))
                raise ConfigError(
                    f"profile {self._profile.name}: [options.{key}] is for no installed plugin",
                    key=f"options.{key}",
                    hint=nearest.hint,
                )
