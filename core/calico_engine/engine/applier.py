"""Applies: the one task that lets plugins write to the kernel.

One pass = apply of every dataplane, then of every routing plugin, then prune of all in reverse: policy stands before an
endpoint becomes reachable. No pass before the datastore is in sync. What fails is retried with a growing delay, is made
anew half way, and stops the engine loudly in the end. Dataplanes on trial (trial.py) come last, and stop nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from math import inf

from calico_engine.engine.events import ApplyFinished, BatchReady, Event, PluginFailed
from calico_engine.engine.member import Member
from calico_engine.engine.metrics import EngineMetrics
from calico_engine.engine.profile import EngineOptions
from calico_engine.engine.trial import AGAIN_S, Trial
from calico_engine.engine.world import World
from calico_engine.errors import CalicoEngineError, DataplaneStuckError, UnavailableError
from calico_engine.messages import Batch
from calico_engine.plugin.protocols import ApplyResult, Change

log = logging.getLogger(__name__)

RefreshInterval = Callable[[Member], float | None]


class Throttle:
    """A bucket of `burst` tokens that fills by `refill_per_s`."""

    def __init__(self, burst: int, refill_per_s: float, now_s: float) -> None:
        self.burst = burst
        self.refill_per_s = refill_per_s
        self._tokens = float(burst)
        self._at_s = now_s

    def wait_s(self, now_s: float) -> float:
        """Take a token; return how long to wait before it may be used."""
        self._tokens = min(float(self.burst), self._tokens + (now_s - self._at_s) * self.refill_per_s)
        self._at_s = now_s
        self._tokens -= 1
        return max(0.0, -self._tokens / self.refill_per_s)


class Applier:
    """Owns the members. `on_batch` and the `request` methods belong on the engine's loop."""

    def __init__(
        self,
        members: Sequence[Member],
        world: World,
        publish: Callable[[Event], None],
        *,
        options: EngineOptions,
        refresh_interval_s: RefreshInterval,
        metrics: EngineMetrics,
        on_pass: Callable[[], None],
    ) -> None:
        """members: dataplanes in the profile's order, then routing plugins in theirs."""
        self.members = {member.full_name: member for member in members}
        self.options = options
        self.passes = 0
        self.applying_since_s: float | None = None
        self._world = world
        self._publish = publish
        self._refresh_interval_s = refresh_interval_s
        self._metrics = metrics
        self._on_pass = on_pass
        self._started_s = asyncio.get_running_loop().time()
        self._loop = asyncio.get_running_loop()
        self._throttle = Throttle(options.apply_burst, options.apply_refill_per_s, self._loop.time())
        self._woken = asyncio.Event()
        self._dirty: set[str] = set()
        # Batches that came while a pass was under way.
        self._arrived: list[Batch] = []
        self._waiters: list[asyncio.Future[list[ApplyResult]]] = []
        self._planners: list[asyncio.Future[dict[str, list[Change]]]] = []
        self._held = False
        self._finishing = False
        self._applying: Member | None = None
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._initially_applied = False
        self._trial: Trial | None = None

    def set_options(self, options: EngineOptions) -> None:
        """Take over changed throttle, time-outs and retries."""
        self.options = options
        self._throttle = Throttle(options.apply_burst, options.apply_refill_per_s, self._loop.time())
        for member in self._everybody():
            for back_off in (member.apply_back_off, member.prune_back_off):
                back_off.initial_s, back_off.max_s = options.retry_initial_s, options.retry_max_s

    @property
    def idle(self) -> bool:
        """Nothing asked for, nothing under way."""
        return not self._dirty and not self._arrived and self.applying_since_s is None

    def hold(self) -> None:
        """No pass until `release`: something that plugins need is not known yet."""
        self._held = True

    def release(self) -> None:
        self._held = False
        self._woken.set()

    @property
    def may_write(self) -> bool:
        return self._world.in_sync and not self._held and not self._finishing

    def on_batch(self, batch: Batch) -> None:
        """Hand a batch to every plugin, at the end of the pass when one is under way.

        All plugins of a pass work from one state: rules of a later one would look up sets that are not written yet.
        """
        if self.applying_since_s is None:
            self._hand_over(batch)
        else:
            self._arrived.append(batch)

    def _hand_over(self, batch: Batch) -> None:
        """Tell every plugin; one that raises is made anew before its next apply."""
        begins = batch.in_sync and not self._world.in_sync
        self._world.apply(batch)
        everybody = self._everybody()
        if self._trial is not None and self._trial.is_warming:
            self._trial.arrived.append(batch)
        for member in self._listening():
            if not member.lost:
                self._tell(member, batch)
        for key in [k for m in everybody for k in m.endpoint_status if not self._is_local(k)]:
            for member in everybody:
                member.endpoint_status.pop(key, None)
        self._publish(BatchReady(batch=batch))
        if batch.messages or begins:
            self.request("batch")

    def request(self, reason: str) -> None:
        """Ask for a pass soon."""
        self._dirty.add(reason)
        self._woken.set()

    def make_anew(self, reason: str) -> None:
        """Have every plugin made anew with present settings, soon."""
        log.info("every plugin is made anew: %s", reason)
        for member in self._everybody():
            member.lost = True
        self.request(reason)

    def invalidate(self, name: str, reason: str) -> None:
        """Have one plugin, or every one for "", read the kernel back, soon."""
        for member in self._everybody():
            if name in ("", member.name, member.full_name):
                self._invalidate(member, reason)
        self.request(reason)

    def repair(self, name: str) -> None:
        """Somebody else changed a plugin's objects: have them read back and put right, at once.

        A plugin that finds it out within its own apply is putting them right already.
        """
        if self._applying is None or name not in (self._applying.name, self._applying.full_name):
            self.invalidate(name, "drift")

    async def force(self) -> list[ApplyResult]:
        """Read everything back and apply; returns what was done. Raises: UnavailableError before in sync."""
        self._refuse_before_in_sync("applied")
        for member in self._everybody():
            member.apply_back_off.retry_at_s = None
        waiter: asyncio.Future[list[ApplyResult]] = self._loop.create_future()
        self._waiters.append(waiter)
        self.invalidate("", "asked for")
        return await waiter

    async def plan(self) -> dict[str, list[Change]]:
        """What an apply would change, by plugin. Raises: UnavailableError before in sync."""
        self._refuse_before_in_sync("planned")
        planner: asyncio.Future[dict[str, list[Change]]] = self._loop.create_future()
        self._planners.append(planner)
        self._woken.set()
        return await planner

    def start_trial(self, trial: Trial) -> None:
        """Feed further dataplanes from now on, until they take over or `end_trial`; they are warmed up first."""
        self._trial = trial
        for member in trial.members:
            self._tell(member, self._world.snapshot())

    def apply_trial(self, trial: Trial) -> None:
        """They are warm: apply them in every pass from now on."""
        trial.is_warming = False
        for batch in trial.arrived:
            for member in trial.members:
                if not member.lost:
                    self._tell(member, batch)
        self.request("trial")

    async def end_trial(self, trial: Trial, reason: str) -> str:
        """Return how the trial ended: as it did already, or with `reason` once nothing of it is under way."""
        if not trial.is_committing:
            trial.end(reason)
        await self._quiet.wait()
        self._trial = None
        return await trial.outcome

    async def finish(self, timeout_s: float) -> None:
        """Begin no more passes; wait for the one under way, so that no transaction is cut in two."""
        self._finishing = True
        try:
            async with asyncio.timeout(timeout_s):
                await self._quiet.wait()
        except TimeoutError:
            log.warning("an apply did not end within %.0f s and is cut off", timeout_s)

    async def run(self) -> None:
        """Apply for ever. Raises: DataplaneStuckError."""
        try:
            while True:
                await self._wait()
                if not self.may_write:
                    continue
                await self._serve_plans()
                if self._dirty or self._waiters or self._due():
                    await asyncio.sleep(self._throttle.wait_s(self._loop.time()))
                    if self.may_write:
                        await self._pass()
        finally:
            for waiter in self._waiters:
                waiter.cancel()
            for planner in self._planners:
                planner.cancel()

    async def _wait(self) -> None:
        """Sleep until asked for, or until some plugin is due by itself."""
        due_s = None
        if self.may_write:
            times = [at_s for member in self._everybody() if (at_s := member.due_s()) is not None]
            due_s = max(0.0, min(times) - self._loop.time()) if times else None
        try:
            async with asyncio.timeout(due_s):
                await self._woken.wait()
        except TimeoutError:
            pass
        self._woken.clear()

    def _due(self) -> bool:
        now_s = self._loop.time()
        return any((due_s := member.due_s()) is not None and due_s <= now_s for member in self._everybody())

    async def _pass(self) -> None:
        reasons, self._dirty = self._dirty, set()
        waiters, self._waiters = self._waiters, []
        self.applying_since_s = self._loop.time()
        self._quiet.clear()
        results: list[ApplyResult] = []
        failed: set[str] = set()
        try:
            for member in self._order():
                if self._may_apply(member, failed):
                    result = await self._apply(member)
                    if result is not None:
                        results.append(result)
                        continue
                else:
                    member.postpone(self._loop.time())
                failed.add(member.full_name)
            for member in reversed(self._order()):
                if not self._may_prune(member, failed):
                    continue
                result = await self._prune(member)
                if result is None:
                    failed.add(member.full_name)
                else:
                    results.append(result)
            if self._trial is not None and not self._trial.is_warming:
                await self._try_out(self._trial)
        finally:
            self.applying_since_s = None
            arrived, self._arrived = self._arrived, []
            for batch in arrived:
                self._hand_over(batch)
            self._quiet.set()
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(results)
        self.passes += 1
        self._note_pass()
        writes = sum(result.writes for result in results)
        log.log(
            logging.INFO if writes else logging.DEBUG,
            "applied: writes=%d because=%s",
            writes,
            ",".join(sorted(reasons)) or "timer",
        )

    async def _try_out(self, trial: Trial) -> None:
        """Apply the dataplanes on trial; have them take over once all is as it should be. Fails for itself only."""
        for member in trial.members:
            if trial.is_over:
                return
            if not await self._apply_on_trial(trial, member):
                for other in trial.members:
                    other.postpone(self._loop.time())
                return
        for member in reversed(trial.members):
            if trial.is_over or await self._prune(member) is None:
                return
        if trial.is_due and await trial.verify(self.members):
            await self._take_over(trial)
            return
        for member in trial.members:
            member.schedule_resync_by(AGAIN_S, self._loop.time())
        if not trial.members:
            trial.end(trial.fault)  # nothing that a further pass could better

    async def _apply_on_trial(self, trial: Trial, member: Member) -> bool:
        """Apply a member; whether that went well. One that is stuck ends the trial and not the engine."""
        if member.apply_back_off.holds_back(self._loop.time()):
            return False
        try:
            applied = await self._apply(member, limit_s=trial.left_s())
        except DataplaneStuckError as error:
            trial.end(str(error))
            return False
        trial.fault = member.last_error
        return applied is not None

    async def _take_over(self, trial: Trial) -> None:
        """Put the members on trial in force, in the pass in which they were found complete."""
        if trial.is_over:
            return
        trial.is_committing = True
        try:
            await trial.on_verified()
        except (CalicoEngineError, OSError) as error:
            trial.end(f"it could not be recorded: {error}")
            return
        others = [member for member in self.members.values() if member.family != "dataplane"]
        gone = self.members.keys() - {member.full_name for member in (*trial.in_force, *others)}
        self.members = {member.full_name: member for member in (*trial.in_force, *others)}
        self._trial = None
        for name in gone:
            self._metrics.remove("calico_engine_plugin_up", {"plugin": name})
        trial.end()

    def _everybody(self) -> list[Member]:
        """Return all members, those on trial last."""
        return [*self.members.values(), *(self._trial.members if self._trial else ())]

    def _listening(self) -> list[Member]:
        """Return the members that may be told something now: no plugin is within an apply outside of a pass."""
        return list(self.members.values()) if self._trial and self._trial.is_warming else self._everybody()

    def _note_pass(self) -> None:
        for member in self.members.values():
            self._metrics.gauge(
                "calico_engine_plugin_up", float(member.is_well), {"plugin": member.full_name}
            )
        if not self._initially_applied and all(member.is_well for member in self.members.values()):
            self._initially_applied = True
            took_s = self._loop.time() - self._started_s
            self._metrics.gauge("felix_int_dataplane_initial_resync_time_seconds", took_s)
            log.info("dataplane complete %.2f s after the start", took_s)
        self._on_pass()

    def _order(self) -> list[Member]:
        return sorted(self.members.values(), key=lambda member: member.family != "dataplane")

    def _may_apply(self, member: Member, failed: set[str]) -> bool:
        """A dataplane waits for those it refers to; routes wait until policy has once been in place."""
        if member.apply_back_off.holds_back(self._loop.time()):
            return False
        if member.family == "dataplane":
            return not any(name.startswith("dataplane:") for name in failed)
        return all(other.applied_once for other in self.members.values() if other.family == "dataplane")

    def _may_prune(self, member: Member, failed: set[str]) -> bool:
        """Nothing is removed while something that may still refer to it could not be changed."""
        if member.full_name in failed or member.prune_back_off.holds_back(self._loop.time()):
            return False
        return member.family != "dataplane" or not any(name.startswith("dataplane:") for name in failed)

    async def _apply(self, member: Member, *, limit_s: float = inf) -> ApplyResult | None:
        """Apply one member; None when it failed. Raises: DataplaneStuckError."""
        started_s = self._loop.time()
        if member.resync_at_s is not None and member.resync_at_s <= started_s:
            self._invalidate(member, "refresh timer")
            member.resync_at_s = None
        try:
            if member.lost:
                await self._rebuild(member)
            self._applying = member
            async with asyncio.timeout(min(self.options.apply_timeout_s, limit_s)):
                result = await member.plugin.apply()
        except Exception as error:  # noqa: BLE001  # the applier's isolation point
            await self._apply_failed(member, error)
            return None
        finally:
            self._applying = None
        now_s = self._loop.time()
        member.succeeded(result, started_s=started_s, now_s=now_s)
        after_s = self._resync_after_s(member, result)
        if member.resync_at_s is None:
            member.schedule_resync(after_s, now_s)
        elif after_s is not None:
            # This apply read nothing back: what is due stays due, however often others cause a pass.
            member.schedule_resync_by(after_s, now_s)
        self._metrics.observe("felix_int_dataplane_apply_time_seconds", now_s - started_s)
        self._publish(ApplyFinished(result=result))
        return result

    async def _prune(self, member: Member) -> ApplyResult | None:
        try:
            async with asyncio.timeout(self.options.apply_timeout_s):
                result = await member.plugin.prune()
        except Exception as error:  # noqa: BLE001  # the applier's isolation point
            self._failed(member, "prune", error)
            member.prune_back_off.failed(self._loop.time())
            return None
        member.prune_back_off.succeeded()
        if result.resync_after_s:
            member.schedule_resync_by(result.resync_after_s, self._loop.time())
        member.writes += result.writes
        if result.writes:
            self._publish(ApplyFinished(result=result))
        return result

    async def _apply_failed(self, member: Member, error: Exception) -> None:
        self._failed(member, "apply", error)
        member.apply_back_off.failed(self._loop.time())
        self._invalidate(member, "apply failed")
        failures = member.apply_back_off.failures
        if member.is_stuck(error, self.options.stuck_after_failures):
            log.critical("%s is stuck after %d failures: %s", member.full_name, failures, _text(error))
            anew = ", also when made anew" if member.rebuilds else ""
            reason = f"failed {failures} times in a row{anew}; last: {_text(error)}"
            raise DataplaneStuckError(member.full_name, reason) from error
        if failures == self.options.stuck_after_failures // 2:
            member.lost = True

    async def _rebuild(self, member: Member) -> None:
        """Make the plugin anew and tell it everything in force."""
        log.warning("%s is made anew", member.full_name)
        member.rebuilds += 1
        try:
            async with asyncio.timeout(5):
                await member.plugin.close()
        except Exception as error:  # noqa: BLE001  # it failed already: closing is a courtesy
            log.debug("closing the failed %s: %s", member.full_name, error)
        member.plugin = member.make()
        member.plugin.on_batch(self._world.snapshot())
        member.lost = False

    def _tell(self, member: Member, batch: Batch) -> None:
        try:
            member.plugin.on_batch(batch)
        except Exception as error:  # noqa: BLE001  # the applier's isolation point
            member.lost = True
            self._failed(member, "on_batch", error)

    def _invalidate(self, member: Member, reason: str) -> None:
        try:
            member.plugin.invalidate(reason)
        except Exception as error:  # noqa: BLE001  # the applier's isolation point
            member.lost = True
            self._failed(member, "invalidate", error)

    def _failed(self, member: Member, phase: str, error: Exception) -> None:
        member.last_error = f"{phase}: {_text(error)}"
        self._metrics.count("felix_int_dataplane_failures")
        expected = isinstance(error, (OSError, TimeoutError)) or hasattr(error, "retryable")
        log.error(
            "%s failed in %s: %s", member.full_name, phase, _text(error), exc_info=None if expected else error
        )
        self._publish(PluginFailed(plugin=member.full_name, phase=phase, error=_text(error)))

    def _resync_after_s(self, member: Member, result: ApplyResult) -> float | None:
        times = [after_s for after_s in (result.resync_after_s, self._refresh_interval_s(member)) if after_s]
        return min(times, default=None)

    async def _serve_plans(self) -> None:
        planners, self._planners = self._planners, []
        if not planners:
            return
        answer: dict[str, list[Change]] = {}
        problem: Exception | None = None
        for member in self._order():
            try:
                async with asyncio.timeout(self.options.apply_timeout_s):
                    answer[member.full_name] = list(await member.plugin.plan())
            except Exception as error:  # noqa: BLE001  # told to whoever asked
                problem = error
        for planner in planners:
            if planner.done():
                continue
            if problem is None:
                planner.set_result(answer)
            else:
                planner.set_exception(problem)

    def _is_local(self, key: object) -> bool:
        return key in self._world.workloads or key in self._world.host_endpoints

    def _refuse_before_in_sync(self, verb: str) -> None:
        if not self.may_write:
            raise UnavailableError(
                f"nothing is {verb} before the datastore is in sync; look at status and try again"
            )


def _text(error: BaseException) -> str:
    if isinstance(error, TimeoutError) and not str(error):
        return "did not finish in time"
    return f"{error}" if hasattr(error, "retryable") else f"{type(error).__name__}: {error}"
