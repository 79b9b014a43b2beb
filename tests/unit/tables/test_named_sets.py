"""TableDataplane with named sets, over a kernel in memory: one transaction, nothing unused, element by element."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import pytest

from calico_engine.errors import KernelError
from calico_engine.messages import (
    ActivePolicyRemove,
    ActiveRule,
    IPSetDelta,
    Message,
    SetKind,
    WorkloadEndpointRemove,
)
from calico_engine.model.policy import Action
from calico_engine.plugin.protocols import ApplyResult, EndpointStatus, Notification, PluginContext
from calico_engine.ruleset.ir import (
    ChainKey,
    Classify,
    DispatchByInterface,
    Family,
    Goto,
    Jump,
    Layer,
    Rule,
    SetLookup,
)
from calico_engine.ruleset.state import PolicyForm
from calico_engine.settings import FelixSettings
from calico_engine.tables.backend import (
    ActualSet,
    ActualTables,
    Element,
    HookRule,
    HookWrite,
    Limits,
    SetShape,
    TableDelta,
)
from calico_engine.tables.dataplane import TableDataplane
from calico_engine.tables.single_table import HOSTS_MAP, NETS_MAP, dispatch_map, level_map, members_set
from calico_engine.testing.messages import (
    ALLOW,
    make_batch,
    make_interface,
    make_policy_update,
    make_set,
    make_tier,
    make_workload_update,
    ports,
)

PEERS = make_set("s:peers", "10.0.0.1", "10.1.0.0/16")
POLICY = make_policy_update("web", inbound=[ActiveRule(action=Action.ALLOW, src_sets=("s:peers",))])
#: Source ports are for the linear chain, whichever the form.
WALKED = make_policy_update(
    "walked",
    inbound=[ActiveRule(action=Action.ALLOW, protocol=6, src_ports=ports(80), src_sets=("s:peers",))],
)
NAMED = make_policy_update(
    "named", inbound=[ActiveRule(action=Action.ALLOW, protocol=6, dst_named_port_sets=("n:http",))]
)
HTTP = make_set("n:http", "10.0.0.1,tcp:80", "fd00::1,tcp:80", kind=SetKind.IP_PORT)
ENDPOINT = make_workload_update(tiers=[make_tier("web")])
WORLD: tuple[Message, ...] = (PEERS, POLICY, ENDPOINT, make_interface("cali1"))


class MemoryKernel:
    """Refuses what the kernel refuses, and elements of the sets in `refuse`; if `silent`, it does not say of which."""

    def __init__(self) -> None:
        self.rules: dict[ChainKey, tuple[Rule, ...]] = {}
        self.hashes: dict[ChainKey, tuple[str, ...]] = {}
        self.hooks: dict[ChainKey, tuple[Rule, ...]] = {}
        self.hook_hashes: dict[ChainKey, tuple[str, ...]] = {}
        self.shapes: dict[str, SetShape | None] = {}
        self.elements: dict[str, dict[bytes, Element]] = {}
        self.refuse: set[str] = set()
        self.silent = False
        self.deltas: list[TableDelta] = []

    def take(self, delta: TableDelta) -> None:
        """Carry out a transaction whole, or not at all."""
        trial = MemoryKernel()
        for name in ("rules", "hashes", "hooks", "hook_hashes", "shapes"):
            setattr(trial, name, dict(getattr(self, name)))
        trial.elements = {name: dict(elements) for name, elements in self.elements.items()}
        trial.silent = self.silent
        trial._carry_out(delta, self.refuse)
        for name in ("rules", "hashes", "hooks", "hook_hashes", "shapes", "elements"):
            setattr(self, name, getattr(trial, name))
        self.deltas.append(delta)

    def _carry_out(self, delta: TableDelta, refuse: set[str]) -> None:
        for write in delta.chains:
            self.rules[write.key], self.hashes[write.key] = write.rules, write.hashes
        for hook in delta.hooks:
            self.hooks[hook.key], self.hook_hashes[hook.key] = hook.placed, hook.placed_hashes
        for change in delta.sets:
            if change.name in refuse:
                raise KernelError("kernel", "no room", line="" if self.silent else f"set {change.name}")
            if change.create:
                if change.name in self.shapes:
                    assert not self._users(change.name, besides={write.key for write in delta.chains})
                self.shapes[change.name], self.elements[change.name] = change.shape, {}
            held = self.elements[change.name]
            for packed in change.removed:
                del held[packed]
            for packed, element in change.added.items():
                assert packed not in held
                held[packed] = element
        for key in delta.deletions:
            del self.rules[key], self.hashes[key]
        for name in delta.set_deletions:
            del self.shapes[name], self.elements[name]
        self._check()

    def _users(self, name: str, besides: set[ChainKey]) -> list[ChainKey]:
        everything = {**self.rules, **self.hooks}
        return [key for key, rules in everything.items() if key not in besides and name in used(key, rules)]

    def _check(self) -> None:
        """Nothing leads to what is not there."""
        for key, rules in {**self.rules, **self.hooks}.items():
            assert used(key, rules) <= self.shapes.keys()
            for rule in rules:
                if isinstance(rule.op, Jump | Goto):
                    assert ChainKey(key.layer, rule.op.chain) in self.rules
        for elements in self.elements.values():
            for element in elements.values():
                verb, _, chain = element.value.partition(b" ")
                assert verb != b"goto" or ChainKey(Layer.FILTER, chain.decode()) in self.rules


def used(key: ChainKey, rules: Sequence[Rule]) -> set[str]:
    """Return the sets that rules look into."""
    found: set[str] = set()
    for rule in rules:
        for match in rule.matches:
            if isinstance(match, SetLookup):
                found.add(members_set(match.set_id))
                found.update((HOSTS_MAP, NETS_MAP) if match.kind is SetKind.NET else ())
        if isinstance(rule.op, Classify):
            found.update(level_map(rule.op.table, level) for level in rule.op.levels)
        elif isinstance(rule.op, DispatchByInterface):
            found.add(dispatch_map(key))
    return found


class MemoryBackend:
    """A table backend with named sets over a MemoryKernel."""

    limits = Limits(has_verdict_maps=True, has_named_sets=True)

    def __init__(self, family: Family, kernel: MemoryKernel) -> None:
        self.family = family
        self.kernel = kernel
        self._rendered: list[TableDelta] = []
        self.changed: Callable[[str], None] = lambda reason: None

    def configure(self, settings: FelixSettings, /) -> None: ...

    def hash_rules(self, chain: str, rules: Sequence[Rule], /) -> tuple[str, ...]:
        # As a backend's spelling: what a dispatch leads to is in its map.
        return tuple(
            str(
                msgspec.structs.replace(rule, op=msgspec.structs.replace(rule.op, targets=(), comments=()))
                if isinstance(rule.op, DispatchByInterface)
                else rule
            )
            for rule in rules
        )

    def hook_texts(self, write: HookWrite, /) -> tuple[str, ...]:
        return ("",) * (len(write.placed_hashes) + len(write.appended_hashes))

    def render(self, delta: TableDelta, /) -> bytes:
        self._rendered.append(delta)
        return str(len(self._rendered) - 1).encode()

    def render_save(self, desired: TableDelta, /) -> str:
        return "".join(f"{change.name}\n" for change in desired.sets)

    def blame(self, error: KernelError, /) -> ChainKey | str | None:
        return error.line.removeprefix("set ") or None

    async def read_back(self) -> ActualTables:
        kernel = self.kernel
        return ActualTables(
            chains=dict(kernel.hashes),
            hooks={key: tuple(map(HookRule, hashes)) for key, hashes in kernel.hook_hashes.items()},
            sets={
                name: ActualSet(shape, dict(kernel.elements[name])) for name, shape in kernel.shapes.items()
            },
        )

    async def commit(self, transaction: bytes, /) -> None:
        self.kernel.take(self._rendered[int(transaction)])

    def watch(self, changed: Callable[[str], None], /) -> None:
        self.changed = changed

    def measure(self, chains: Mapping[Layer, int], rules: Mapping[Layer, int], /) -> None: ...

    async def clean_leftovers(self) -> int:
        return 0

    async def clean(self) -> int:
        return 0

    def close(self) -> None: ...


class Bench:
    """A dataplane over one kernel, IPv4 alone."""

    def __init__(self, form: PolicyForm) -> None:
        self.form = form
        self.kernel = MemoryKernel()
        self.notes: list[Notification] = []
        self.restart()

    def restart(self) -> None:
        context = PluginContext(
            name="memory",
            node="n1",
            settings=FelixSettings(),
            options={},
            request_apply=lambda reason: None,
            notify=self.notes.append,
        )
        self.dataplane = TableDataplane(context, [MemoryBackend(Family.V4, self.kernel)], form=self.form)

    async def settle(self, *messages: Message) -> ApplyResult:
        if messages:
            self.dataplane.on_batch(make_batch(*messages))
        result = await self.dataplane.apply()
        await self.dataplane.prune()
        return result

    def needed(self) -> set[str]:
        found: set[str] = set()
        for key, rules in {**self.kernel.rules, **self.kernel.hooks}.items():
            found |= used(key, rules)
        return found


@pytest.fixture(params=list(PolicyForm))
def bench(request: pytest.FixtureRequest) -> Bench:
    return Bench(request.param)


def written(delta: TableDelta) -> dict[str, tuple[int, int]]:
    return {change.name: (len(change.added), len(change.removed)) for change in delta.sets}


async def test_everything_goes_in_one_transaction(bench: Bench) -> None:
    result = await bench.settle(*WORLD)

    (delta,) = bench.kernel.deltas
    assert delta.chains
    assert delta.hooks
    assert HOSTS_MAP in written(delta)
    assert any("set cali-hosts" in change.where for change in result.changes)
    assert (await bench.settle()).writes == 0
    assert (await bench.settle(*WORLD)).writes == 0


async def test_kernel_has_the_sets_that_chains_look_into_and_no_others(bench: Bench) -> None:
    for messages in (
        WORLD,
        (WALKED, NAMED, HTTP, make_workload_update(tiers=[make_tier("web", "walked", "named")])),
        (make_workload_update(tiers=[make_tier("named")]),),
        (ENDPOINT,),
        (WorkloadEndpointRemove(endpoint=ENDPOINT.endpoint), ActivePolicyRemove(policy=POLICY.policy)),
        WORLD,
    ):
        await bench.settle(*messages)

        found = set(bench.kernel.shapes) - {"cali-sources", "cali-interfaces"}
        assert found - {HOSTS_MAP, NETS_MAP} == bench.needed() - {HOSTS_MAP, NETS_MAP}
        assert bench.needed() - found == set()


async def test_member_that_comes_is_one_element(bench: Bench) -> None:
    await bench.settle(*WORLD)
    bench.kernel.deltas.clear()

    await bench.settle(IPSetDelta(set_id="s:peers", added=frozenset({"10.0.0.2"}), removed=frozenset()))
    await bench.settle(IPSetDelta(set_id="s:peers", added=frozenset(), removed=frozenset({"10.0.0.1"})))

    assert [written(delta) for delta in bench.kernel.deltas] == [{HOSTS_MAP: (1, 0)}, {HOSTS_MAP: (0, 1)}]
    assert not any(delta.chains or delta.hooks or delta.deletions for delta in bench.kernel.deltas)


async def test_verdicts_of_an_identity_that_is_no_more_go_after_it(bench: Bench) -> None:
    """A packet that has found the old identity must not miss its verdict, and get the world's."""
    denied = make_policy_update(
        "web", inbound=[ActiveRule(action=Action.DENY, src_sets=("s:peers",)), ALLOW], outbound=[ALLOW]
    )
    await bench.settle(*WORLD, denied)
    before = {name: set(elements) for name, elements in bench.kernel.elements.items()}
    bench.kernel.deltas.clear()

    gone = frozenset({"10.0.0.1"})
    await bench.settle(IPSetDelta(set_id="s:peers", added=frozenset(), removed=gone))

    taken, retired = map(written, bench.kernel.deltas)
    assert taken == {HOSTS_MAP: (0, 1)}
    assert retired
    assert all(added == 0 and removed > 0 for added, removed in retired.values())
    await bench.settle(IPSetDelta(set_id="s:peers", added=gone, removed=frozenset()))
    assert {name: set(elements) for name, elements in bench.kernel.elements.items()} == before
    assert (await bench.settle()).writes == 0


async def test_member_of_a_port_set_is_one_element_in_its_family(bench: Bench) -> None:
    await bench.settle(NAMED, HTTP, make_workload_update(tiers=[make_tier("named")]))
    bench.kernel.deltas.clear()

    await bench.settle(
        IPSetDelta(
            set_id="n:http", added=frozenset({"10.0.0.2,tcp:80", "fd00::2,tcp:80"}), removed=frozenset()
        )
    )

    assert [written(delta) for delta in bench.kernel.deltas] == [{"cali-s-n/http": (1, 0)}]
    assert len(bench.kernel.elements["cali-s-n/http"]) == 2


async def test_endpoint_that_comes_changes_the_dispatch_maps_alone(bench: Bench) -> None:
    await bench.settle(*WORLD)
    bench.kernel.deltas.clear()
    other = make_workload_update(
        "web-2", interface="cali2", networks=("10.65.0.9/32",), tiers=[make_tier("web")]
    )

    await bench.settle(other)
    await bench.settle(WorkloadEndpointRemove(endpoint=other.endpoint))

    came, gone = map(written, bench.kernel.deltas)
    assert {name: count for name, count in came.items() if "dispatch" in name} == {
        "cali-from-wl-dispatch": (1, 0),
        "cali-to-wl-dispatch": (1, 0),
    }
    assert {name: (removed, added) for name, (added, removed) in gone.items()} == came
    assert not any(delta.chains or delta.deletions for delta in bench.kernel.deltas)


async def test_restart_over_the_same_kernel_writes_nothing(bench: Bench) -> None:
    await bench.settle(*WORLD, WALKED, NAMED, HTTP)

    bench.restart()
    result = await bench.settle(*WORLD, WALKED, NAMED, HTTP)

    assert result.writes == 0
    assert bench.notes == []


async def test_leftovers_of_an_earlier_life_are_removed(bench: Bench) -> None:
    await bench.settle(*WORLD, NAMED, HTTP, make_workload_update(tiers=[make_tier("web", "named")]))

    bench.restart()
    await bench.settle(*WORLD)

    assert "cali-s-n/http" not in bench.kernel.shapes
    assert bench.needed() <= set(bench.kernel.shapes)


@pytest.mark.parametrize("damage", ["gone", "more", "less", "other"])
async def test_drift_in_a_set_is_mended_and_told_of(bench: Bench, damage: str) -> None:
    await bench.settle(*WORLD)
    before = {name: dict(elements) for name, elements in bench.kernel.elements.items()}
    hosts = bench.kernel.elements[HOSTS_MAP]
    match damage:
        case "gone":
            hosts.clear()
        case "more":
            hosts[b"\1\2\3\4"] = Element(b"\0\0\0\1")
        case "less":
            del hosts[b""]
        case _:
            hosts[b""] = Element(b"\0\0\0\7")

    planned = await bench.dataplane.plan()
    bench.dataplane.invalidate("test")
    result = await bench.settle()

    assert bench.kernel.elements == before
    assert [change.where for change in result.changes] == ["ipv4 set cali-hosts"]
    assert [change.where for change in planned] == ["ipv4 set cali-hosts"]
    assert [note.kind for note in bench.notes] == ["drift"]
    assert "set cali-hosts" in bench.notes[0].message


async def test_set_of_another_shape_is_made_afresh_with_the_chains_that_use_it(bench: Bench) -> None:
    await bench.settle(*WORLD)
    before = {name: dict(elements) for name, elements in bench.kernel.elements.items()}
    bench.kernel.shapes["cali-from-wl-dispatch"] = None
    bench.kernel.deltas.clear()

    bench.dataplane.invalidate("test")
    await bench.settle()

    (delta,) = bench.kernel.deltas
    assert {write.key.name for write in delta.chains} == {"cali-from-wl-dispatch"}
    assert bench.kernel.elements == before
    assert None not in bench.kernel.shapes.values()


@pytest.mark.parametrize("silent", [False, True])
async def test_verdict_map_that_is_refused_closes_its_list_alone(*, silent: bool) -> None:
    bench = Bench(PolicyForm.CLASSIFIED)
    other = make_workload_update("db", interface="cali2", tiers=[make_tier("open")])
    await bench.settle(
        make_policy_update("open", inbound=[ALLOW], outbound=[ALLOW]), other, make_interface("cali2")
    )
    fresh = Bench(PolicyForm.CLASSIFIED)
    await fresh.settle(*WORLD)
    bench.kernel.refuse = {name for name in fresh.kernel.shapes if name.startswith("cali-li-")}
    bench.kernel.silent = silent

    result = await bench.settle(*WORLD)

    assert result.endpoint_status == {
        ENDPOINT.endpoint: EndpointStatus.ERROR,
        other.endpoint: EndpointStatus.UP,
    }
    assert not bench.kernel.refuse & set(bench.kernel.shapes)
    assert any("no room" in note.message for note in bench.notes)
    bench.kernel.refuse.clear()
    bench.dataplane.invalidate("refresh")
    again = await bench.settle()
    assert again.endpoint_status[ENDPOINT.endpoint] is EndpointStatus.UP


async def test_common_map_that_is_refused_closes_nothing_and_is_raised(bench: Bench) -> None:
    bench.kernel.refuse = {"cali-from-wl-dispatch"}

    with pytest.raises(KernelError, match="no room"):
        await bench.settle(*WORLD)

    assert bench.kernel.shapes == {}
    bench.kernel.refuse.clear()
    await bench.settle()
    assert bench.needed() <= set(bench.kernel.shapes)


async def test_rendering_needs_no_kernel_and_loses_nothing(bench: Bench) -> None:
    bench.dataplane.on_batch(make_batch(*WORLD))

    text = bench.dataplane.render()
    await bench.settle()

    assert set(text.split()) == set(bench.kernel.shapes)
    assert (await bench.settle()).writes == 0


def test_every_layer_has_names_of_its_own() -> None:
    keys = [ChainKey(layer, name) for layer in Layer for name in ("cali-x", "FORWARD", "cali-raw-x")]

    assert len({dispatch_map(key) for key in keys}) == len(keys)


@pytest.mark.parametrize("ids", [("s:a", "s/a "), ("n:x", "n x"), ("s:" + "a" * 200, "s:" + "a" * 199 + "b")])
def test_sets_of_different_ids_have_different_names(ids: tuple[Any, ...]) -> None:
    assert len({members_set(set_id) for set_id in ids}) == len(ids)
