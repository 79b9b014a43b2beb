"""The Engine: wires datastore, graph and plugins together and runs them until it is asked to stop.

    Datastore.watch -> Pump -> GraphRunner -> Applier.on_batch -> every plugin -> Applier.run -> the kernel
                                              ^ LinkFollower (interfaces, as Messages)

Nothing is written to the kernel before the datastore is in sync and the links are known; a datastore that goes away
leaves the dataplane as it is, and so does stopping.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from calico_engine.engine import inspection, reporter, servers
from calico_engine.engine.applier import Applier
from calico_engine.engine.assembly import Assembly, Surroundings
from calico_engine.engine.bus import EventBus
from calico_engine.engine.choice import ChoiceFile
from calico_engine.engine.directories import RUN_DIRECTORY, state_directory
from calico_engine.engine.environment import apply_environment
from calico_engine.engine.events import DriftDetected, EngineStarted, EngineStopping, PluginFailed
from calico_engine.engine.graph_runner import ConfigResolver, Graph, GraphRunner
from calico_engine.engine.link_follower import LinkFollower
from calico_engine.engine.member import Member
from calico_engine.engine.metrics import EngineMetrics
from calico_engine.engine.orchestrators import serve_for_ever
from calico_engine.engine.profile import EngineProfile
from calico_engine.engine.pump import Pending, Pump
from calico_engine.engine.run_lock import RunLock
from calico_engine.engine.settings import CONFIG_FILE, SettingsResolver
from calico_engine.engine.status import EngineStatus, Health, PluginWarning
from calico_engine.engine.switching import Switcher
from calico_engine.engine.tasks import TaskSet
from calico_engine.engine.world import World
from calico_engine.errors import ConfigError, PluginError, UnavailableError
from calico_engine.kernel import command
from calico_engine.kernel.probe import kernel_families
from calico_engine.messages import Batch, ConfigUpdate
from calico_engine.plugin.protocols import ApplyResult, Change, Notification
from calico_engine.plugin.registry import PluginRegistry
from calico_engine.settings import FelixSettings

log = logging.getLogger(__name__)

_WARNINGS = 50
_FINISH_S = 5.0

MakeGraph = Callable[[str, ConfigResolver], Graph]


def _calc_graph(node: str, config: ConfigResolver) -> Graph:
    from calico_engine.calc import CalcGraph  # late, so that an embedder with its own graph does without

    return CalcGraph(node, config=config)


class Engine:
    """One node's agent, for one run. Made anywhere; everything else belongs on the loop that `run` runs on."""

    def __init__(
        self,
        profile: EngineProfile,
        node: str,
        *,
        run_dir: str | Path = RUN_DIRECTORY,
        state_dir: str | Path | None = None,
        environ: Mapping[str, str] | None = None,
        registry: PluginRegistry | None = None,
        config_file: Path = CONFIG_FILE,
        make_graph: MakeGraph = _calc_graph,
        load_profile: Callable[[], EngineProfile] | None = None,
        families: tuple[int, ...] | None = None,
    ) -> None:
        """`load_profile` reads the profile again for `reload_from_source`; `families` are those that the kernel has.
        `state_dir` is chosen by the profile, or by `run_dir`, where it is not given.

        Raises: ConfigError, PluginError: what is wrong with profile, settings or plugins is known here."""
        self.environ = dict(os.environ if environ is None else environ)
        self.profile = apply_environment(profile, self.environ)
        self.node = node
        self.run_dir = Path(run_dir)
        self._choice_file = ChoiceFile(self.run_dir)
        choice = self._choice_file.read()
        self.switcher = Switcher(self, self._choice_file, choice, self.profile.dataplane)
        self.take_dataplane(choice.selected(self.profile.dataplane))
        self.state_dir = state_directory(run_dir, state_dir, self.profile.engine.state_dir)
        self.registry = registry or PluginRegistry()
        self.bus = EventBus(self.registry)
        self.resolver = SettingsResolver(self.profile.felix, self.environ, config_file=config_file)
        self.settings = self.resolver.resolve({}, {})
        self.metrics = EngineMetrics(process_metrics=self.settings.prometheus_process_metrics_enabled)
        self.world = World()
        self.warnings: deque[PluginWarning] = deque(maxlen=_WARNINGS)
        self.started_at_s = time.time()
        self._config_file = config_file
        self._wanted_settings = self.settings
        self._config_maps: tuple[Mapping[str, str], Mapping[str, str]] = ({}, {})
        self._settings_listeners: list[Callable[[FelixSettings], None]] = []
        self.families = kernel_families() if families is None else families
        self._make_graph = make_graph
        self._load_profile = load_profile
        self._assembly = self._assemble()
        self.tasks = TaskSet(self._task_failed)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()
        self._failure: BaseException | None = None
        self._passed = asyncio.Event()
        self.applier: Applier | None = None
        self.runner: GraphRunner | None = None
        self.pump: Pump | None = None

    @property
    def profile_name(self) -> str:
        return self.profile.name

    async def run(self) -> None:
        """Run until `request_stop`. Raises: ConfigError at once, DataplaneStuckError when a plugin never recovers."""
        self._loop = asyncio.get_running_loop()
        lock = RunLock(self.run_dir)
        lock.acquire()
        unlisten = command.listen(self._program_ended)
        try:
            if self._choice_file.read() != self.switcher.choice:
                raise ConfigError(
                    "the engine before this one has just switched its dataplane", hint="start again"
                )
            await self._run(self.tasks)
        finally:
            self.bus.publish(EngineStopping(engine=self))
            if self.applier is not None:
                await self.applier.finish(_FINISH_S)
            await self.tasks.cancel_all()
            await self._close_plugins()
            unlisten()
            lock.release()
            log.info("engine stopped; the dataplane stays as it is")
        if self._failure is not None:
            raise self._failure

    async def _run(self, tasks: TaskSet) -> None:
        members = self._assembly.make_members()
        orchestrators = self._assembly.make_orchestrators()
        applier = self.applier = self._make_applier(members)
        pending = Pending()
        runner = self.runner = GraphRunner(
            self._make_graph(self.node, self._resolve),
            pending,
            on_batch=self._on_flush,
            publish=self.bus.publish,
            metrics=self.metrics,
        )
        pump = self.pump = Pump(
            self._assembly.make_datastore,
            pending,
            self._datastore_failed,
            retry_max_s=self.profile.engine.datastore_retry_max_s,
        )
        pump.start()
        if self.profile.engine.link_monitor:
            applier.hold()
            follower = LinkFollower(
                self.world, applier, self.metrics, lambda: self.settings.interface_refresh_interval_s
            )
            tasks.start("links", follower.run())
        tasks.start("applier", applier.run())
        tasks.start("graph", runner.run())
        tasks.start("pump", pump.run())
        tasks.start("reporter", reporter.run(self))
        tasks.start("servers", servers.run(self))
        tasks.start("switch", self.switcher.finish_earlier())
        for name, orchestrator in orchestrators.items():
            tasks.start(f"orchestrator:{name}", serve_for_ever(name, orchestrator, self.bus.publish))
        for notice in inspection.notices(self):
            log.warning("%s", notice)
        log.info("engine started: node=%s profile=%s run_dir=%s", self.node, self.profile.name, self.run_dir)
        self.bus.publish(EngineStarted(engine=self))
        await self._stop.wait()
        for orchestrator in orchestrators.values():
            await orchestrator.close()

    def request_stop(self) -> None:
        """Stop soon; safe from any thread."""
        self._on_loop(self._set_stop)

    stop = request_stop

    def request_apply(self, reason: str) -> None:
        """Ask for an apply soon; safe from any thread."""
        self._on_loop(lambda: self.applier.request(reason) if self.applier else None)

    async def apply_now(self) -> list[ApplyResult]:
        """Read the kernel back and apply. Raises: UnavailableError before the datastore is in sync."""
        return await self._running().force()

    async def plan(self) -> dict[str, list[Change]]:
        """What an apply would change, by plugin. Raises: UnavailableError before the datastore is in sync."""
        return await self._running().plan()

    async def wait_applied(self, timeout_s: float) -> None:
        """Return once everything known has been applied without a failure.

        Raises: TimeoutError; UnavailableError when the engine stops before that.
        """
        async with asyncio.timeout(timeout_s):
            while not self.is_settled():
                if self._stop.is_set():
                    raise UnavailableError("the engine stopped before everything was applied")
                self._passed.clear()
                await self._passed.wait()

    async def wait_dataplane(self) -> None:
        """Return once every dataplane in force has been applied without a failure."""
        while not (
            self.world.in_sync
            and self.applier is not None
            and all(
                member.is_well for member in self.applier.members.values() if member.family == "dataplane"
            )
        ):
            self._passed.clear()
            await self._passed.wait()

    def is_settled(self) -> bool:
        """In sync, every plugin applied and none failing, nothing waiting to be applied."""
        return self.is_ready() and self.applier is not None and self.applier.idle

    def on_settings(self, listener: Callable[[FelixSettings], None]) -> None:
        """Call `listener` with the settings whenever they change."""
        self._settings_listeners.append(listener)

    # Settings

    def reload(self, profile: EngineProfile) -> list[str]:
        """Take over what can change while running; return what cannot. Raises: ConfigError, and nothing changes."""
        profile = apply_environment(profile, self.environ)
        resolver = SettingsResolver(profile.felix, self.environ, config_file=self._config_file)
        fixed = ("datastore", "dataplane", "routing", "orchestrator", "extensions", "options")
        told = msgspec.structs.replace(self.profile, dataplane=self.switcher.profile)
        refused = [name for name in fixed if getattr(profile, name) != getattr(told, name)]
        kept = msgspec.structs.replace(profile, **{name: getattr(self.profile, name) for name in fixed})
        for name in ("plumbing", "link_monitor", "control_socket", "state_dir"):
            before = getattr(self.profile.engine, name)
            if getattr(kept.engine, name) != before:
                refused.append(f"engine.{name}")
                kept = msgspec.structs.replace(
                    kept, engine=msgspec.structs.replace(kept.engine, **{name: before})
                )
        self.profile, self.resolver = kept, resolver
        self._wanted_settings = resolver.resolve(*self._config_maps)
        if self.applier is not None:
            self.applier.set_options(kept.engine)
        if self.runner is not None:
            self.runner.reconfigure()
        log.info(
            "profile read again: %s", f"needs a restart: {', '.join(refused)}" if refused else "in effect"
        )
        return refused

    def reload_from_source(self) -> list[str]:
        """Read the profile from where it came and take it over. Raises: ConfigError, and nothing changes."""
        if self._load_profile is None:
            raise ConfigError("this engine was given its profile as data", hint="call reload(profile)")
        return self.reload(self._load_profile())

    def _resolve(self, global_: Mapping[str, str], node: Mapping[str, str]) -> FelixSettings:
        """The graph's way to settings; remembers what the datastore says for a reload."""
        self._config_maps = (dict(global_), dict(node))
        self._wanted_settings = self.resolver.resolve(global_, node)
        return self._wanted_settings

    def _on_flush(self, batch: Batch | None) -> None:
        """Pass a batch on, with a ConfigUpdate in front when settings changed otherwise than by the datastore."""
        settings = self._wanted_settings
        messages = batch.messages if batch is not None else ()
        told = [message.settings for message in messages if isinstance(message, ConfigUpdate)]
        known = told[-1] if told else (self.world.settings if self.world.is_configured else None)
        if known != settings:
            others = tuple(message for message in messages if not isinstance(message, ConfigUpdate))
            messages = (ConfigUpdate(settings=settings), *others)
        in_sync = self.runner is not None and self.runner.complete
        revision = batch.revision if batch is not None else self.world.revision
        if self.applier is None or (not messages and in_sync == self.world.in_sync):
            return
        self.metrics.count("felix_int_dataplane_messages", len(messages))
        self.metrics.observe("felix_int_dataplane_msg_batch_size", len(messages))
        self.applier.on_batch(Batch(revision=revision, in_sync=in_sync, messages=messages))
        if settings != self.settings:
            self._take_settings(settings)

    def _take_settings(self, settings: FelixSettings) -> None:
        before, self.settings = self.settings, settings
        if before.ipv6_support != settings.ipv6_support and self.applier is not None:
            self.applier.make_anew("Ipv6Support changed")
        for listener in self._settings_listeners:
            try:
                listener(settings)
            except Exception:  # a part of the bus: one listener stops nobody else
                log.exception("a listener failed on changed settings")

    # Plugins

    def take_dataplane(self, names: tuple[str, ...]) -> None:
        """Have these dataplane plugins be those in force, whatever the profile says."""
        self.profile = msgspec.structs.replace(self.profile, dataplane=names)

    def assembly_with(self, dataplane: tuple[str, ...]) -> Assembly:
        """What this engine is assembled from, but for the dataplane. Raises: PluginError, ConfigError."""
        profile = msgspec.structs.replace(self.profile, dataplane=dataplane)
        return Assembly(profile, self.registry, self._surroundings())

    def _assemble(self) -> Assembly:
        try:
            return self.assembly_with(self.profile.dataplane)
        except PluginError as error:
            if self.switcher.choice.chosen is None:
                raise
            raise ConfigError(
                f"{self._choice_file.path}, written by `switch`: {error}",
                key="dataplane",
                hint="calico-engine switch --forget",
            ) from error

    def _surroundings(self) -> Surroundings:
        return Surroundings(
            node=self.node,
            run_dir=str(self.run_dir),
            state_dir=str(self.state_dir),
            settings=lambda: self.settings,
            families=self.families,
            request_apply=self.request_apply,
            notify=self._notified,
            metrics=self.metrics,
        )

    def _make_applier(self, members: list[Member]) -> Applier:
        return Applier(
            members,
            self.world,
            self.bus.publish,
            options=self.profile.engine,
            refresh_interval_s=self._refresh_interval_s,
            metrics=self.metrics,
            on_pass=self._passed.set,
        )

    def _refresh_interval_s(self, member: Member) -> float:
        """How often a plugin's kernel objects are read back when nothing changes; 0 never."""
        if member.family == "routing":
            return self.settings.route_refresh_interval_s
        if member.name == "ipset":
            return self.settings.ipsets_refresh_interval_s
        return self.settings.iptables_refresh_interval_s

    def _notified(self, notification: Notification) -> None:
        self._on_loop(lambda: self._take(notification))

    def _take(self, notification: Notification) -> None:
        if notification.kind == "drift":
            log.warning(
                "%s: somebody changed our objects, repairing: %s", notification.plugin, notification.message
            )
            self.metrics.count("calico_engine_drift_detected")
            self.bus.publish(DriftDetected(plugin=notification.plugin, message=notification.message))
            if self.applier is not None:
                self.applier.repair(notification.plugin)
        elif notification.kind == "warning":
            self._remember(notification)
        else:
            log.info("%s: %s", notification.plugin, notification.message)

    def _remember(self, notification: Notification) -> None:
        """Keep a warning for status, once however often it is repeated."""
        plugin, message = notification.plugin, notification.message
        known = [
            warning for warning in self.warnings if (warning.plugin, warning.message) == (plugin, message)
        ]
        for warning in known:
            self.warnings.remove(warning)
        log.log(logging.DEBUG if known else logging.WARNING, "%s: %s", plugin, message)
        at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        self.warnings.append(PluginWarning(plugin=plugin, message=message, time=at))

    def _datastore_failed(self, phase: str, error: Exception) -> None:
        name = f"datastore:{self.profile.datastore}"
        expected = hasattr(error, "retryable")
        log.error(
            "%s failed in %s, restarting it: %s", name, phase, error, exc_info=None if expected else error
        )
        self.bus.publish(PluginFailed(plugin=name, phase=phase, error=str(error)))

    async def _close_plugins(self) -> None:
        closing = [
            member.plugin.close() for member in (self.applier.members if self.applier else {}).values()
        ]
        if self.pump is not None and self.pump.datastore is not None:
            closing.append(self.pump.datastore.close())
        closing.append(self.switcher.close())
        for close in closing:
            try:
                async with asyncio.timeout(5):
                    await close
            except Exception as error:  # noqa: BLE001  # one that cannot close must not keep the others open
                log.warning("closing a plugin: %s", error)

    # Health and status: engine/inspection.py

    def is_ready(self) -> bool:
        return all(part.ready for part in self.health())

    def health(self) -> tuple[Health, ...]:
        """The health of datastore, graph and dataplane."""
        return inspection.health(self)

    def status(self) -> EngineStatus:
        """The whole engine at this moment."""
        return inspection.status(self)

    def now_s(self) -> float:
        return self._loop.time() if self._loop else 0.0

    def _running(self) -> Applier:
        if self.applier is None:
            raise UnavailableError("the engine is not running")
        return self.applier

    def _program_ended(self, took_s: float) -> None:
        self.metrics.observe("felix_exec_time_micros", took_s * 1e6)

    def _on_loop(self, call: Callable[[], object]) -> None:
        """Run `call` on the engine's loop, whatever thread this is."""
        loop = self._loop
        if loop is None or loop.is_closed():
            call()
            return
        try:
            here = asyncio.get_running_loop() is loop
        except RuntimeError:
            here = False
        if here:
            call()
        else:
            loop.call_soon_threadsafe(call)

    def _task_failed(self, name: str, error: BaseException) -> None:
        log.critical("%s failed, the engine stops: %s", name, error)
        self._failure = self._failure or error
        self._set_stop()

    def _set_stop(self) -> None:
        self._stop.set()
        self._passed.set()
