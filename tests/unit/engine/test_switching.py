"""Exchanging a running engine's dataplane: what is in which kernel, at every moment and after every failure."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest

from calico_engine.engine import Engine, EngineProfile
from calico_engine.engine.choice import FILE_NAME, Choice, ChoiceFile
from calico_engine.engine.events import DataplaneSwitch
from calico_engine.engine.profile import EngineOptions
from calico_engine.engine.status import SwitchPhase, SwitchStatus
from calico_engine.engine.switch_order import AlreadyInForceError, SwitchRefusedError
from calico_engine.errors import (
    ConfigError,
    KernelUnsupportedError,
    PluginNotFoundError,
    UnavailableError,
)
from calico_engine.messages import Message, NodeUpdate
from calico_engine.plugin.protocols import ApplyResult, Capability, EndpointStatus, PluginContext
from calico_engine.testing.builders import make_endpoint, make_global_policy, make_node, make_rule
from calico_engine.testing.fakes import RecordingDataplane

from .conftest import Rig

OLD, NEW = ("sets", "rules"), ("other",)
ENDPOINT = make_endpoint("web", labels={"app": "web"}, node="node-a", interface="caliweb")
POLICY = make_global_policy("allow-web", selector="app == 'web'", ingress=[make_rule(selector="app == 'lb'")])


class SwitchRig(Rig):
    """As Rig, with the real graph, one endpoint, and a dataplane `other` that no profile names."""

    def __init__(self, run_dir: Path) -> None:
        super().__init__(run_dir)
        self.other = self.fakes.add_dataplane("other")
        self.fakes.contents |= {r.key: r for r in (make_node("node-a"), ENDPOINT, POLICY)}
        self.on_made: Callable[[RecordingDataplane], None] = lambda _: None
        make = self.fakes._make_dataplane

        def made(context: PluginContext) -> RecordingDataplane:
            plugin = make(context)
            assert isinstance(plugin, RecordingDataplane)
            if context.name == "other":
                self.on_made(plugin)
            return plugin

        for name in (*OLD, *NEW):
            plugin = self.fakes.registry.load("dataplane", name)
            plugin._make = made  # type: ignore[attr-defined]  # the fake's own

    def make(self, profile: EngineProfile | None = None) -> Engine:
        self.engine = Engine(
            profile or self.fakes.profile(),
            "node-a",
            run_dir=self.run_dir,
            environ={},
            registry=self.fakes.registry,
            config_file=self.run_dir / "felix.cfg",
            families=(4, 6),
        )
        self.engine.bus.subscribe(self.events.append)
        return self.engine

    async def switch(self, *names: str, timeout_s: float = 5.0) -> SwitchStatus:
        self.engine.switcher.begin(names, timeout_s)
        return await self.ended()

    async def ended(self) -> SwitchStatus:
        await self.until(lambda: self.status is not None and self.status.phase.is_last)
        assert self.status is not None
        return self.status

    @property
    def status(self) -> SwitchStatus | None:
        return self.engine.switcher.status

    @property
    def choice(self) -> Choice:
        return ChoiceFile(self.run_dir).read()

    def whole(self, *names: str) -> bool:
        """Whether these kernels have all that there is to enforce, as the one that routes follow has it."""
        return all(self.fakes.kernels[name].objects == self.desired() for name in names)

    def desired(self) -> dict[str, Message]:
        return dict(self.fakes.kernels["routes"].objects)

    def empty(self, *names: str) -> bool:
        return not any(self.fakes.kernels[name].objects for name in names)


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[SwitchRig]:
    made = SwitchRig(tmp_path / "run")
    yield made
    await made.stop()


async def test_the_new_dataplane_is_in_force_and_the_old_one_gone(rig: SwitchRig) -> None:
    engine = await rig.start()

    ended = await rig.switch(*NEW)

    assert ended.phase is SwitchPhase.DONE, ended
    assert rig.whole(*NEW)
    assert rig.empty(*OLD)
    assert [plugin.name for plugin in engine.status().plugins] == ["other", "routes"]
    assert engine.status().dataplane == NEW
    assert all(rig.fakes.dataplane(name).closed for name in OLD)
    assert not rig.fakes.dataplane("other").closed
    assert rig.choice == Choice(chosen=NEW)
    assert engine.is_settled()


async def test_old_goes_after_new_is_whole_and_sets_after_rules(rig: SwitchRig) -> None:
    await rig.start()
    kernels, seen = rig.fakes.kernels, []
    for name in OLD:
        change = kernels[name].change

        def watched(
            added: dict[str, Message],
            removed: list[str],
            name: str = name,
            change: Callable[..., int] = change,
        ) -> int:
            if removed:
                seen.append((name, rig.whole("other")))
            return change(added, removed)

        kernels[name].change = watched  # type: ignore[method-assign,assignment]

    await rig.switch(*NEW)

    assert seen[:2] == [("rules", True), ("sets", True)]


async def test_back_again_forgets_the_choice(rig: SwitchRig) -> None:
    await rig.start()
    await rig.switch(*NEW)

    ended = await rig.switch(*OLD)

    assert ended.phase is SwitchPhase.DONE
    assert rig.whole(*OLD)
    assert rig.empty(*NEW)
    assert rig.choice == Choice()
    assert not (rig.run_dir / FILE_NAME).exists()
    assert list(rig.fakes.kernels["other"].names()) == []


async def test_a_plugin_of_both_is_left_alone(rig: SwitchRig) -> None:
    await rig.start()
    writes = rig.fakes.kernels["sets"].writes

    ended = await rig.switch("sets", "other")

    assert ended.phase is SwitchPhase.DONE
    assert rig.whole("sets", "other")
    assert rig.empty("rules")
    assert rig.fakes.kernels["sets"].writes == writes
    assert len(rig.fakes.made["sets"]) == 1
    await rig.fakes.datastore.put(make_node("late"))
    await rig.until(lambda: "NodeUpdate:late" in rig.fakes.kernels["sets"].names())


async def test_what_changes_meanwhile_reaches_both(rig: SwitchRig) -> None:
    # The first apply may take long: the old one must not wait for it.
    entered, go_on = asyncio.Event(), asyncio.Event()

    def slow(plugin: RecordingDataplane) -> None:
        apply = plugin.apply

        async def first() -> ApplyResult:
            result = await apply()
            if not entered.is_set():
                entered.set()
                await go_on.wait()
            return result

        plugin.apply = first  # type: ignore[method-assign]

    rig.on_made = slow
    engine = await rig.start()
    engine.switcher.begin(NEW, 5)
    await entered.wait()

    await rig.fakes.datastore.put(make_node("late"))
    await rig.until(lambda: "NodeUpdate:late" in rig.fakes.kernels["rules"].names())
    assert len(rig.fakes.dataplane("other").batches) == 1
    go_on.set()
    await rig.ended()

    assert "NodeUpdate:late" in rig.other.names()
    assert rig.whole(*NEW)


async def test_batches_while_the_new_one_fails_reach_the_old_one_at_once(rig: SwitchRig) -> None:
    rig.other.refuse(1000)
    options = EngineOptions(
        plumbing=False, link_monitor=False, apply_burst=1000, retry_initial_s=0.05, retry_max_s=0.05
    )
    engine = await rig.start(rig.fakes.profile(options))
    engine.switcher.begin(NEW, 5)
    await rig.until(lambda: len(rig.other.refusals) < 1000)

    await rig.fakes.datastore.put(make_node("late"))
    await rig.until(lambda: "NodeUpdate:late" in rig.fakes.kernels["rules"].names())

    assert rig.status is not None
    assert rig.status.phase is SwitchPhase.PROGRAMMING
    assert engine.is_ready()
    assert engine.status().endpoints == {str(ENDPOINT.key): EndpointStatus.UP}


# Failures


async def failed(rig: SwitchRig, *names: str, timeout_s: float = 5.0) -> str:
    """Switch; see that it failed and that nothing of it is left. Returns the reason."""
    before = rig.desired()

    ended = await rig.switch(*(names or NEW), timeout_s=timeout_s)

    assert ended.phase is SwitchPhase.FAILED
    assert rig.whole(*OLD)
    assert rig.empty(*NEW)
    assert rig.desired() == before
    assert rig.engine.status().dataplane == OLD
    assert rig.choice == Choice()
    assert rig.engine.is_settled()
    assert not rig.task.done()
    assert all(plugin.closed for plugin in rig.fakes.made["other"])
    assert rig.engine.switcher._aside == []
    return ended.error


async def test_a_new_one_that_the_kernel_refuses_is_undone(rig: SwitchRig) -> None:
    await rig.start()
    rig.other.refuse(11)

    error = await failed(rig)

    assert "no luck" in error
    assert not rig.fakes.dataplane("rules").closed


async def test_a_new_one_that_cannot_is_not_tried_ten_times(rig: SwitchRig) -> None:
    await rig.start()
    rig.other.refuse(100, KernelUnsupportedError("maps", hint="use iptables"))

    error = await failed(rig)

    assert "use iptables" in error
    assert len(rig.other.refusals) == 96  # one beside the passes, three within


async def test_a_new_one_that_fails_once_is_tried_again(rig: SwitchRig) -> None:
    await rig.start()
    rig.other.refuse(2)

    assert (await rig.switch(*NEW)).phase is SwitchPhase.DONE


async def test_one_that_takes_too_long_is_undone(rig: SwitchRig) -> None:
    never = asyncio.Event()

    async def hang() -> ApplyResult:
        await never.wait()
        raise AssertionError("unreachable")

    def hanging(plugin: RecordingDataplane) -> None:
        plugin.apply = hang  # type: ignore[method-assign]

    rig.on_made = hanging
    await rig.start()

    error = await failed(rig, timeout_s=0.3)

    assert "not complete within 0.3 s" in error


async def test_a_kernel_that_is_not_as_it_was_told_is_found_out(rig: SwitchRig) -> None:
    def forgetful(plugin: RecordingDataplane) -> None:
        apply = plugin.apply

        async def apply_and_lose() -> ApplyResult:
            result = await apply()
            rig.other.objects.pop("ConfigUpdate", None)
            return result

        plugin.apply = apply_and_lose  # type: ignore[method-assign]

    rig.on_made = forgetful
    await rig.start()

    error = await failed(rig)

    assert error == "not verified: dataplane:other: the kernel differs in 1 objects: + kernel ConfigUpdate"


async def test_one_that_would_close_an_endpoint_is_undone(rig: SwitchRig) -> None:
    def strict(plugin: RecordingDataplane) -> None:
        plugin.endpoint_status = EndpointStatus.ERROR
        plugin.problems = {"web": "policy allow-web: ports are beyond me"}  # type: ignore[attr-defined]

    rig.on_made = strict
    await rig.start()

    error = await failed(rig)

    assert "WorkloadEndpoint(default/web) would be error with other: policy allow-web" in error


async def test_what_enforces_no_policy_is_refused(rig: SwitchRig) -> None:
    def silent(plugin: RecordingDataplane) -> None:
        apply = plugin.apply

        async def apply_only() -> ApplyResult:
            return msgspec.structs.replace(await apply(), endpoint_status={})

        plugin.apply = apply_only  # type: ignore[method-assign]

    rig.on_made = silent
    await rig.start()

    error = await failed(rig)

    assert error.endswith("no status of WorkloadEndpoint(default/web): does other enforce policy?")


async def test_leaving_out_the_plugin_that_enforces_is_refused(rig: SwitchRig) -> None:
    await rig.start()
    sets = rig.fakes.dataplane("sets")
    apply = sets.apply

    async def apply_only() -> ApplyResult:
        return msgspec.structs.replace(await apply(), endpoint_status={})

    sets.apply = apply_only  # type: ignore[method-assign]
    assert rig.engine.applier is not None
    rig.engine.applier.members["dataplane:sets"].endpoint_status.clear()

    error = await failed(rig, "sets")

    assert "does sets enforce policy?" in error


async def test_missing_capabilities_are_named(rig: SwitchRig) -> None:
    missing = Capability(name="nf_tables", ok=False, needed_for="everything", remedy="load the module")
    optional = Capability(name="speed", ok=False, needed_for="speed", required=False)
    rig.fakes.add_dataplane("demanding", [optional, missing])
    await rig.start()

    error = await failed(rig, "demanding")

    assert "dataplane:demanding needs nf_tables, for everything" in error
    assert "load the module" in error
    assert rig.fakes.made["demanding"] == []


async def test_shared_mark_bits_are_named(rig: SwitchRig) -> None:
    await rig.start()
    rig.fakes.dataplane("rules").mark_bits = 0xFF0000

    def marking(plugin: RecordingDataplane) -> None:
        plugin.mark_bits = 0x1F10000

    rig.on_made = marking

    error = await failed(rig)

    assert "dataplane:other and dataplane:rules both use the mark bits 0xf10000" in error
    assert rig.status is not None
    assert rig.status.lines == ("sets, rules stays in force",)
    assert "IptablesMarkMask" in error


async def test_a_choice_that_cannot_be_recorded_changes_nothing(
    rig: SwitchRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rig.start()
    write = ChoiceFile.write

    def full(file: ChoiceFile, choice: Choice) -> None:
        if choice.chosen is not None:
            raise OSError(28, "No space left on device")
        write(file, choice)

    monkeypatch.setattr(ChoiceFile, "write", full)

    assert "No space left" in await failed(rig)


async def test_wrong_wishes_are_refused_at_once(rig: SwitchRig) -> None:
    await rig.start()

    with pytest.raises(PluginNotFoundError, match="nosuch"):
        rig.engine.switcher.begin(["nosuch"])
    with pytest.raises(ConfigError, match="once each"):
        rig.engine.switcher.begin(["other", "other"])
    with pytest.raises(ConfigError, match="once each"):
        rig.engine.switcher.begin([""])
    with pytest.raises(AlreadyInForceError, match="sets, rules is in force already"):
        rig.engine.switcher.begin(OLD)

    assert rig.status is None
    assert rig.choice == Choice()


async def test_nothing_is_switched_before_the_datastore_is_in_sync(rig: SwitchRig) -> None:
    rig.fakes.hold_sync = True
    engine = rig.begin()
    await rig.until(lambda: engine.applier is not None)

    with pytest.raises(UnavailableError, match="in sync"):
        engine.switcher.begin(NEW)


async def test_a_second_switch_is_refused_while_one_runs(rig: SwitchRig) -> None:
    rig.other.refuse(1000)
    await rig.start()
    rig.engine.switcher.begin(NEW, 0.3)

    with pytest.raises(SwitchRefusedError, match="a switch to other is under way"):
        rig.engine.switcher.begin(NEW)
    with pytest.raises(SwitchRefusedError, match="under way"):
        await rig.engine.switcher.forget()

    rig.other.refusals.clear()
    assert (await rig.ended()).phase.is_last


async def test_an_old_one_that_does_not_go_is_tried_again_and_said(rig: SwitchRig) -> None:
    await rig.start()
    rig.fakes.kernels["rules"].refuse(3)
    seen = []
    rig.engine.switcher.begin(NEW)

    def look() -> bool:
        seen.append(dict(rig.engine.status().problems))
        return rig.status is not None and rig.status.phase.is_last

    await rig.until(look)

    assert {"switch": "dataplane:rules is not removed yet, trying again: fake: no luck"} in seen
    assert rig.engine.status().problems == {}
    assert rig.empty(*OLD)
    assert rig.status is not None
    assert rig.status.phase is SwitchPhase.DONE


# What is seen of it


async def test_phases_are_events(rig: SwitchRig) -> None:
    await rig.start()
    await rig.switch(*NEW)

    told = [event for event in rig.events if isinstance(event, DataplaneSwitch)]

    assert [event.phase for event in told] == ["checking", "programming", "removing", "done"]
    assert {(event.before, event.after, event.error) for event in told} == {(OLD, NEW, "")}


async def test_endpoints_status_does_not_flap(rig: SwitchRig) -> None:
    await rig.start(rig.fakes.profile(EndpointReportingEnabled="true", EndpointReportingDelaySecs="0"))
    await rig.until(lambda: bool(rig.fakes.datastore.reports))
    seen = []
    rig.engine.bus.subscribe(lambda _: seen.append(dict(rig.engine.status().endpoints)))

    await rig.switch(*NEW)
    await rig.switch(*OLD)

    assert len(seen) > 8
    assert {tuple(endpoints.items()) for endpoints in seen} == {((str(ENDPOINT.key), EndpointStatus.UP),)}
    assert {tuple(report.endpoints.values()) for report in rig.fakes.datastore.reports} == {
        (EndpointStatus.UP,)
    }


async def test_a_rehearsal_says_what_would_be_and_writes_nothing(rig: SwitchRig) -> None:
    await rig.start()
    count = len(rig.desired())

    lines = await rig.engine.switcher.rehearse(NEW)

    assert lines == [
        f"would program {count} objects: dataplane:other",
        "would then be removed: dataplane:rules",
        "would then be removed: dataplane:sets",
        f"would be remembered in {rig.run_dir / FILE_NAME}",
    ]
    assert rig.other.writes == 0
    assert rig.fakes.dataplane("other").closed
    assert rig.choice == Choice()
    assert rig.status is None


async def test_the_removed_plugin_is_no_metric_any_more(rig: SwitchRig) -> None:
    await rig.start()
    await rig.switch(*NEW)

    text = rig.engine.metrics.render()

    assert 'calico_engine_plugin_up{plugin="dataplane:other"} 1.0' in text
    assert "dataplane:rules" not in text


# Across restarts


async def restart(rig: SwitchRig, profile: EngineProfile | None = None) -> None:
    await rig.stop()
    await rig.start(profile)


async def test_a_restart_comes_up_with_the_choice(rig: SwitchRig) -> None:
    await rig.start()
    await rig.switch(*NEW)
    writes = rig.other.writes

    await restart(rig)

    assert rig.engine.status().dataplane == NEW
    assert rig.whole(*NEW)
    assert rig.empty(*OLD)
    assert rig.other.writes == writes
    (notice,) = [text for text in rig.engine.status().notices if "switch" in text]
    assert "dataplane other was chosen by `switch`, the profile says sets, rules" in notice


async def test_an_engine_that_is_stopped_in_a_switch_leaves_it_to_the_next(rig: SwitchRig) -> None:
    second = rig.fakes.add_dataplane("second")
    second.refuse(1000)
    await rig.start()
    rig.engine.switcher.begin(["other", "second"], 60)
    await rig.until(lambda: rig.whole("other"))

    await rig.stop()

    assert rig.choice == Choice(discard=("other", "second"))
    assert all(plugin.closed for name in ("other", "second") for plugin in rig.fakes.made[name])
    second.refusals.clear()
    await rig.start()
    ended = await rig.ended()
    assert ended.phase is SwitchPhase.DONE
    assert ended.lines[0] == "finishing what an earlier engine began: other, second is to be removed"
    assert rig.whole(*OLD)
    assert rig.empty("other", "second")


async def test_what_a_clean_up_takes_of_the_new_one_comes_back(rig: SwitchRig) -> None:
    await rig.start()
    rules = rig.fakes.dataplane("rules")
    cleanup = rules.cleanup

    async def too_thorough() -> int:
        rig.other.objects.pop("ConfigUpdate", None)
        return await cleanup()

    rules.cleanup = too_thorough  # type: ignore[method-assign]

    await rig.switch(*NEW)

    await rig.until(lambda: rig.whole(*NEW))


async def test_a_forgotten_choice_leaves_it_to_the_profile(rig: SwitchRig) -> None:
    await rig.start()
    await rig.switch(*NEW)

    told = await rig.engine.switcher.forget()

    assert "sets, rules" in told
    assert rig.whole(*NEW)
    assert rig.engine.status().dataplane == NEW

    await restart(rig)
    await rig.ended()

    assert rig.whole(*OLD)
    assert rig.empty(*NEW)
    assert rig.choice == Choice()


async def test_a_choice_can_be_made_again_after_it_was_forgotten(rig: SwitchRig) -> None:
    await rig.start()
    await rig.switch(*NEW)
    await rig.engine.switcher.forget()
    rig.fakes.kernels["sets"].refuse(11)

    assert (await rig.switch(*OLD)).phase is SwitchPhase.FAILED
    assert rig.choice == Choice(discard=NEW)
    assert (await rig.switch(*OLD)).phase is SwitchPhase.DONE
    assert rig.choice == Choice()
    assert rig.empty(*NEW)


async def test_what_was_forgotten_can_be_chosen_again_as_it_is(rig: SwitchRig) -> None:
    await rig.start()
    await rig.switch(*NEW)
    await rig.engine.switcher.forget()
    writes = rig.other.writes

    ended = await rig.switch(*NEW)

    assert ended.phase is SwitchPhase.DONE
    assert rig.choice == Choice(chosen=NEW)
    assert rig.other.writes == writes
    assert rig.whole(*NEW)


async def test_nothing_to_forget_is_said(rig: SwitchRig) -> None:
    await rig.start()

    assert "nothing is remembered" in await rig.engine.switcher.forget()


async def test_a_profile_that_says_what_was_chosen_ends_the_choice(rig: SwitchRig) -> None:
    await rig.start()
    await rig.switch(*NEW)

    await restart(rig, msgspec.structs.replace(rig.fakes.profile(), dataplane=NEW))

    assert rig.engine.status().notices == ()
    assert rig.engine.status().dataplane == NEW
    await rig.until(lambda: rig.choice == Choice())


async def test_a_reload_does_not_take_the_choice_for_a_change(rig: SwitchRig) -> None:
    await rig.start()
    await rig.switch(*NEW)

    assert rig.engine.reload(rig.fakes.profile()) == []
    assert rig.engine.profile.dataplane == NEW
    changed = msgspec.structs.replace(rig.fakes.profile(), dataplane=("rules",))
    assert rig.engine.reload(changed) == ["dataplane"]


async def test_a_chosen_plugin_that_is_gone_is_an_error_that_says_what_to_do(rig: SwitchRig) -> None:
    rig.run_dir.mkdir()
    ChoiceFile(rig.run_dir).write(Choice(chosen=("gone",)))

    with pytest.raises(
        ConfigError, match=r"dataplane\.json, written by `switch`: no dataplane plugin named 'gone'.*--forget"
    ):
        rig.make()


async def test_a_damaged_file_is_named(rig: SwitchRig) -> None:
    rig.run_dir.mkdir()
    (rig.run_dir / FILE_NAME).write_text("{")

    with pytest.raises(ConfigError, match=r"dataplane\.json"):
        rig.make()


async def test_a_plugin_to_be_removed_that_is_gone_keeps_no_other(rig: SwitchRig) -> None:
    rig.run_dir.mkdir()
    rig.other.objects["left"] = NodeUpdate(node="left")
    ChoiceFile(rig.run_dir).write(Choice(discard=("gone", "other")))

    await rig.start()
    ended = await rig.ended()

    assert rig.empty("other")
    assert ended.error == "not removed: gone"
    assert rig.choice == Choice(discard=("gone",))
    assert "no dataplane plugin named 'gone'" in rig.engine.status().problems["switch"]


class Moment(msgspec.Struct, frozen=True):
    """All that a kill leaves: the kernels and the file."""

    kernels: dict[str, dict[str, Message]]
    file: bytes | None


def watch_moments(rig: SwitchRig, monkeypatch: pytest.MonkeyPatch) -> list[Moment]:
    """Return a list that fills with what there is before and after every write."""
    moments: list[Moment] = []

    def look() -> None:
        path = rig.run_dir / FILE_NAME
        kernels = {name: dict(kernel.objects) for name, kernel in rig.fakes.kernels.items()}
        moments.append(Moment(kernels, path.read_bytes() if path.exists() else None))

    for kernel in rig.fakes.kernels.values():
        change = kernel.change

        def watched(
            added: dict[str, Message], removed: list[str], change: Callable[..., int] = change
        ) -> int:
            look()
            count = change(added, removed)
            look()
            return count

        kernel.change = watched  # type: ignore[method-assign,assignment]
    write = ChoiceFile.write

    def recorded(file: ChoiceFile, choice: Choice) -> None:
        look()
        write(file, choice)
        look()

    monkeypatch.setattr(ChoiceFile, "write", recorded)
    return moments


@pytest.mark.parametrize("way", ["there", "back", "refused", "forgotten"])
async def test_a_kill_at_any_moment_leaves_one_whole_and_the_next_start_finishes(
    way: str, rig: SwitchRig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rig.start()
    whole = rig.desired()
    if way in ("back", "forgotten"):
        await rig.switch(*NEW)
    if way == "forgotten":
        await rig.engine.switcher.forget()
    if way == "refused":
        rig.fakes.add_dataplane("second").refuse(1000)
    with monkeypatch.context() as patch:
        moments = watch_moments(rig, patch)
        wish = {"there": NEW, "refused": ("other", "second")}.get(way, OLD)
        await rig.switch(*wish)
    await rig.stop()

    assert len(moments) >= 8
    for number, moment in enumerate(moments):
        old_whole = all(moment.kernels[name] == whole for name in OLD)
        assert old_whole or moment.kernels["other"] == whole
        again = SwitchRig(tmp_path / f"{number}")
        if way == "refused":
            again.fakes.add_dataplane("second")
        for name, objects in moment.kernels.items():
            again.fakes.kernels[name].objects.update(objects)
        again.run_dir.mkdir()
        if moment.file is not None:
            (again.run_dir / FILE_NAME).write_bytes(moment.file)
        try:
            await again.start()
            if moment.file is not None and again.status is not None:
                await again.ended()
            in_force = again.engine.status().dataplane
            assert again.whole(*in_force)
            assert in_force in (OLD, NEW)
            assert again.empty(*(name for name in (*OLD, *NEW) if name not in in_force)), (
                number,
                moment.file,
            )
            assert again.choice == Choice(chosen=None if in_force == OLD else in_force)
        finally:
            await again.stop()


async def test_the_file_says_what_it_says(rig: SwitchRig) -> None:
    await rig.start()
    await rig.switch(*NEW)

    assert json.loads((rig.run_dir / FILE_NAME).read_text()) == {"chosen": ["other"], "discard": []}
    assert [p.name for p in rig.run_dir.iterdir() if p.name.startswith(".")] == []
