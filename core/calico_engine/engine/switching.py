"""Exchange the dataplane of a running engine for another without a gap: `calico-engine switch`.

    checking      the new plugins can be had, and this machine has what they need        nothing has changed
    programming   they are fed, applied and verified beside the old ones (trial.py)      each packet must pass both
    removing      the new ones are in force; the old ones' objects are removed           the new ones alone decide
    done

Every step is on record (choice.py) before it is taken: an engine that dies in it is followed by one that comes up with
what is complete and removes the rest. What fails before `removing` is undone, and the old ones have never stopped.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from calico_engine.engine.choice import Choice, ChoiceFile
from calico_engine.engine.events import DataplaneSwitch
from calico_engine.engine.member import BackOff, Member
from calico_engine.engine.status import SwitchPhase, SwitchStatus
from calico_engine.engine.switch_order import (
    AlreadyInForceError,
    SwitchFailedError,
    SwitchOrder,
    SwitchRefusedError,
    check_forwarding,
    check_plugins,
    list_names,
    refuse_same_marks,
    resolve_names,
)
from calico_engine.engine.trial import Trial
from calico_engine.errors import CalicoEngineError, UnavailableError

if TYPE_CHECKING:
    from calico_engine.engine.engine import Engine

log = logging.getLogger(__name__)

DEFAULT_TIMEOUT_S = 120.0

#: A cleanup that leaves nothing is followed by one that finds nothing; a plugin that counts wrongly is believed.
_MOST_CLEANUPS = 4


class Switcher:
    """One engine's switches, one at a time. `status` is how the last one fares; None when there was none."""

    def __init__(self, engine: Engine, file: ChoiceFile, choice: Choice, profile: tuple[str, ...]) -> None:
        """`profile` is what the profile says, whatever was chosen."""
        self.status: SwitchStatus | None = None
        self.choice = choice
        self.profile = profile
        self._engine = engine
        self._file = file
        self._aside: list[Member] = []

    # Asked for

    def begin(self, names: Sequence[str], timeout_s: float = DEFAULT_TIMEOUT_S) -> SwitchStatus:
        """Begin to switch, and return at once.

        Raises: SwitchRefusedError, UnavailableError, PluginError, ConfigError; nothing has changed then.
        """
        order = self._order(names)
        self._start(order.before, order.after, SwitchPhase.CHECKING)
        self._engine.tasks.start("switch", self._switch(order, timeout_s))
        assert self.status is not None
        return self.status

    async def rehearse(self, names: Sequence[str]) -> list[str]:
        """Say what a switch would do; writes nothing. Raises: as `begin`, and what the plugins raise."""
        order = self._order(names)
        await self._check(order)
        lines = []
        members = order.assembly.make_dataplanes(order.joining)
        try:
            refuse_same_marks(members, self._leaving(order), self._engine.settings)
            for member in members:
                member.plugin.on_batch(self._engine.world.snapshot())
                changes = await member.plugin.plan()
                lines.append(f"would program {len(changes)} objects: {member.full_name}")
        finally:
            for member in members:
                await member.plugin.close()
        stays = [name for name in order.before if name in order.after]
        lines += [f"would go on as it is: dataplane:{name}" for name in stays]
        lines += [f"would then be removed: dataplane:{name}" for name in reversed(order.leaving)]
        lines.append(f"would be remembered in {self._file.path}" if order.after != self.profile else
                     "is what the profile says: nothing would be remembered")  # fmt: skip
        return lines

    async def forget(self) -> str:
        """Have the next start ask the profile again; return that in words. Raises: SwitchRefusedError, OSError."""
        self._refuse_second()
        if self.choice.chosen is None:
            return "nothing is remembered: the profile's dataplane is in force"
        await self._record(self.choice.forgotten())
        return f"forgotten: the next start comes up with {list_names(self.profile)}, as the profile says"

    def _order(self, names: Sequence[str]) -> SwitchOrder:
        self._refuse_second()
        after = resolve_names(names)
        before = self._engine.profile.dataplane
        applier = self._engine.applier
        if applier is None or not applier.may_write:
            raise UnavailableError("nothing is switched before the datastore is in sync; look at status")
        if after == before == self.choice.selected(self.profile):
            raise AlreadyInForceError(after, remembered=self.choice.chosen is not None)
        return SwitchOrder(
            before=before, after=after, assembly=self._engine.assembly_with(after), earlier=self.choice
        )

    def _refuse_second(self) -> None:
        if self.status is not None and not self.status.phase.is_last:
            raise SwitchRefusedError(
                f"a switch to {list_names(self.status.after)} is under way ({self.status.phase}); "
                "wait for its end, `calico-engine status` shows it"
            )

    # The steps

    async def _switch(self, order: SwitchOrder, timeout_s: float) -> None:
        is_written = False
        try:
            await self._check(order)
            members = self._aside = order.assembly.make_dataplanes(order.joining)
            refuse_same_marks(members, self._leaving(order), self._engine.settings)
            is_written = True
            await self._record(order.choice(order.before, self.profile, order.joining))
            leaving = await self._try(order, members, timeout_s)
        except Exception as error:  # noqa: BLE001  # isolation: the dataplane in force goes on
            await self._undo(order, error, is_written=is_written)
            return
        self._aside = leaving
        self._enter(SwitchPhase.REMOVING, f"in force: {list_names(order.after)}")
        await self._remove(leaving)
        self._read_back()
        await self._record_or_warn(order.choice(order.after, self.profile))
        self._enter(
            SwitchPhase.DONE, f"switched from {list_names(order.before)} to {list_names(order.after)}"
        )

    async def _check(self, order: SwitchOrder) -> None:
        """See that this machine has what it takes. Raises: SwitchFailedError, KernelUnsupportedError, PluginError."""
        settings = self._engine.settings
        if "iptables" in order.leaving:
            families = [f for f in self._engine.families if f == 4 or settings.ipv6_support]
            await check_forwarding(families, settings)
        await check_plugins(self._engine.registry, order.joining)

    def _leaving(self, order: SwitchOrder) -> list[Member]:
        assert self._engine.applier is not None
        return [self._engine.applier.members[f"dataplane:{name}"] for name in order.leaving]

    async def _try(self, order: SwitchOrder, members: Sequence[Member], timeout_s: float) -> list[Member]:
        """Have the new ones take over; return those they replaced. Raises: SwitchFailedError."""
        applier = self._engine.applier
        assert applier is not None
        self._enter(
            SwitchPhase.PROGRAMMING,
            f"programming beside {list_names(order.before)}: {list_names(order.joining)}",
        )
        leaving = self._leaving(order)
        present = {member.name: member for member in applier.members.values() if member.family == "dataplane"}
        joining = {member.name: member for member in members}

        async def record() -> None:
            self._say("verified: the kernel is as it should be, and no endpoint worse off")
            await self._record(order.choice(order.after, self.profile, order.leaving))
            self._engine.take_dataplane(order.after)

        trial = Trial(
            members,
            [joining.get(name) or present[name] for name in order.after],
            ends_at_s=self._engine.now_s() + timeout_s,
            on_verified=record,
        )
        applier.start_trial(trial)
        began_s = self._engine.now_s()
        await trial.warm_up()
        self._say(f"programmed for the first time in {self._engine.now_s() - began_s:.2f} s")
        applier.apply_trial(trial)
        await asyncio.wait({trial.outcome}, timeout=trial.left_s())
        late = f"not complete within {timeout_s:g} s: {trial.fault}"
        reason = await applier.end_trial(trial, late)
        if reason:
            raise SwitchFailedError(reason)
        return leaving

    async def _undo(self, order: SwitchOrder, error: Exception, *, is_written: bool) -> None:
        """Remove what was programmed of the new ones, if anything, and say why."""
        expected = isinstance(error, CalicoEngineError | OSError)
        reason = str(error) if expected and str(error) else f"{type(error).__name__}: {error}"
        stays = f"{list_names(order.before)} stays in force"
        log.error(
            "switch to %s failed: %s", list_names(order.after), reason, exc_info=None if expected else error
        )
        if is_written:
            self._enter(SwitchPhase.UNDOING, f"{stays}; removing the new one", reason)
            await self._remove(self._aside)
            self._read_back()
            await self._record_or_warn(order.earlier)
        for member in tuple(self._aside):
            await self._close(member)
        self._enter(SwitchPhase.FAILED, stays, reason)

    async def _remove(self, members: Sequence[Member]) -> None:
        """Remove everything of these plugins, the last first, for as long as it takes."""
        for member in tuple(reversed(members)):
            back_off = BackOff(
                self._engine.profile.engine.retry_initial_s, self._engine.profile.engine.retry_max_s
            )
            while True:
                try:
                    self._say(f"removed {await self._clean(member)} objects: {member.full_name}")
                    break
                except Exception as error:  # noqa: BLE001  # isolation: what is in force goes on
                    back_off.failed(self._engine.now_s())
                    self._trouble(f"{member.full_name} is not removed yet, trying again: {_text(error)}")
                    assert back_off.retry_at_s is not None
                    await asyncio.sleep(back_off.retry_at_s - self._engine.now_s())
            self._trouble("")
            await self._close(member)

    def _read_back(self) -> None:
        """See soon that what is in force is whole: a clean-up is thorough, and may have taken what is not its own."""
        applier = self._engine.applier
        for name in applier.members if applier else ():
            if applier and name.startswith("dataplane:"):
                applier.invalidate(name, "another dataplane was removed")

    async def _clean(self, member: Member) -> int:
        total = 0
        for _ in range(_MOST_CLEANUPS):
            async with asyncio.timeout(self._engine.profile.engine.apply_timeout_s):
                count = await member.plugin.cleanup()
            total += count
            if not count:
                break
        return total

    # Across restarts

    async def finish_earlier(self) -> None:
        """Remove what an earlier engine was about to, once what is in force has been applied."""
        owed = self.choice.owed(self.profile)
        in_force = self._engine.profile.dataplane
        if owed:
            self._start(owed, in_force, SwitchPhase.REMOVING)
            self._say(f"finishing what an earlier engine began: {list_names(owed)} is to be removed")
            await self._engine.wait_dataplane()
        left: dict[str, str] = {}
        for name in owed:
            try:
                self._aside += self._engine.assembly_with((name,)).make_dataplanes((name,))
            except Exception as error:  # noqa: BLE001  # a plugin that is gone must not keep the others
                left[name] = _text(error)
        await self._remove(self._aside)
        if owed:
            self._read_back()
        remembered = Choice(chosen=None if in_force == self.profile else in_force, discard=tuple(left))
        if remembered != self.choice:
            await self._record_or_warn(remembered)
        if owed:
            self._trouble("; ".join(f"dataplane:{name} is not removed: {why}" for name, why in left.items()))
            error_text = f"not removed: {list_names(tuple(left))}" if left else ""
            phase = SwitchPhase.FAILED if left else SwitchPhase.DONE
            self._enter(phase, f"in force: {list_names(in_force)}", error_text)

    async def close(self) -> None:
        """Let go of plugins that are neither in force nor gone; the kernel stays as it is."""
        for member in tuple(self._aside):
            await self._close(member)

    async def _close(self, member: Member) -> None:
        if member in self._aside:
            self._aside = [other for other in self._aside if other is not member]
            try:
                async with asyncio.timeout(5):
                    await member.plugin.close()
            except Exception as error:  # noqa: BLE001  # closing is a courtesy
                log.warning("closing %s: %s", member.full_name, error)

    async def _record(self, choice: Choice) -> None:
        await asyncio.to_thread(self._file.write, choice)
        self.choice = choice

    async def _record_or_warn(self, choice: Choice) -> None:
        """As `_record`; what is not written makes the next start do again what is done."""
        try:
            await self._record(choice)
        except OSError as error:
            log.warning("%s cannot be written: %s", self._file.path, error)

    # What is said

    def _start(self, before: tuple[str, ...], after: tuple[str, ...], phase: SwitchPhase) -> None:
        self.status = SwitchStatus(before=before, after=after, phase=phase)
        self._publish()

    def _enter(self, phase: SwitchPhase, line: str, error: str = "") -> None:
        assert self.status is not None
        self.status = msgspec.structs.replace(self.status, phase=phase, error=error)
        self._say(line)
        self._publish()

    def _say(self, line: str) -> None:
        assert self.status is not None
        log.info("switch: %s", line)
        self.status = msgspec.structs.replace(self.status, lines=(*self.status.lines, line))

    def _trouble(self, text: str) -> None:
        """Show what keeps the switch from ending; "" when nothing does any more."""
        assert self.status is not None
        if text:
            log.warning("switch: %s", text)
        self.status = msgspec.structs.replace(self.status, trouble=text)

    def _publish(self) -> None:
        assert self.status is not None
        said = self.status
        self._engine.bus.publish(
            DataplaneSwitch(before=said.before, after=said.after, phase=str(said.phase), error=said.error)
        )


def _text(error: BaseException) -> str:
    return str(error) or type(error).__name__
