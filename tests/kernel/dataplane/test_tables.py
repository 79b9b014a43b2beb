"""What the iptables plugin leaves in the kernel: its own rules alone, the same after a restart, mended when broken."""

import asyncio
import fcntl
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.kernel.dataplane.conftest import EVERY_VARIANT, without_counters

from calico_engine.messages import (
    ActivePolicyRemove,
    ActiveProfileUpdate,
    ConfigUpdate,
    IPSetUpdate,
    SetKind,
    WorkloadEndpointRemove,
)
from calico_engine.model.policy import Action
from calico_engine.plugin.protocols import EndpointStatus
from calico_engine.settings import ChainInsertMode, DenyAction, Layout

pytestmark = pytest.mark.kernel(
    tools=("iptables-legacy", "iptables-nft", "ipset"),
    features=("veth", "ipset", "iptables-legacy", "iptables-nft"),
)

FOREIGN = "-A FORWARD -s 192.0.2.1/32 -j DROP"


def one_endpoint(rig: Any, name: str = "web", *rules: Any) -> list[Any]:
    """Return the messages of an endpoint with one policy and one set."""
    policy = rig.policy(f"p-{name}", rules or [rig.rule(src_sets=("s:peers",))], [rig.rule()])
    members = frozenset({"10.0.0.1", "10.1.0.0/16", "fd00::1"})
    return [
        IPSetUpdate(set_id="s:peers", kind=SetKind.NET, members=members),
        policy,
        rig.endpoint(name).update([policy.policy], [policy.policy]),
    ]


every_variant = pytest.mark.parametrize("variant", EVERY_VARIANT, indirect=True)


@every_variant
def test_nothing_is_written_before_the_first_snapshot_is_whole(rig: Any) -> None:
    async def scenario() -> None:
        rig.hear(*one_endpoint(rig), in_sync=False)

        assert await rig.writes() == 0
        assert (rig.saved(), rig.sets()) == ({4: [], 6: []}, {})
        rig.hear(in_sync=True)
        assert await rig.writes() > 0

    rig.run(scenario)


@every_variant
def test_second_apply_writes_nothing(rig: Any) -> None:
    async def scenario() -> None:
        await rig.settle(*one_endpoint(rig))
        before = rig.saved()

        again = await rig.writes()
        rig.rules.invalidate("test")
        rig.ipset.invalidate("test")
        after_read_back = await rig.writes()

        assert (again, after_read_back, await rig.rules.plan(), await rig.ipset.plan()) == (0, 0, [], [])
        assert rig.saved() == before
        assert all("caliweb" in "".join(before[version]) for version in (4, 6))

    rig.run(scenario)


@every_variant
def test_restart_without_memory_recognises_everything(rig: Any) -> None:
    async def scenario() -> None:
        messages = one_endpoint(rig)
        await rig.settle(*messages)
        before = rig.saved()
        await rig.rules.close()

        rig.make_dataplanes()
        writes = await rig.writes(*messages)

        assert writes == 0
        assert rig.saved() == before
        assert rig.node.notifications == []

    rig.run(scenario)


@every_variant
def test_what_is_not_wanted_after_a_restart_is_removed(rig: Any) -> None:
    async def scenario() -> None:
        await rig.settle(*one_endpoint(rig), *one_endpoint(rig, "old", rig.rule(src_sets=("s:gone",))))
        await rig.settle(IPSetUpdate(set_id="s:gone", kind=SetKind.NET, members=frozenset({"10.0.0.9"})))
        await rig.rules.close()

        rig.make_dataplanes()
        await rig.settle(*one_endpoint(rig))

        names = "\n".join([*rig.saved()[4], *rig.saved()[6]])
        assert "caliold" not in names
        assert "p-old" not in names
        assert not any("gone" in name for name in rig.sets())

    rig.run(scenario)


def test_rendered_state_is_what_the_tool_then_prints(rig: Any) -> None:
    async def scenario() -> None:
        await rig.settle(*one_endpoint(rig))

        rendered = rig.rules.render()

        four, six = rendered.split("# ip6tables-save\n")
        for version, text in ((4, four), (6, six)):
            ours = {line for line in without_counters(text) if line.startswith(("-A", ":cali"))}
            kernels = {line for line in rig.saved()[version] if line.startswith(("-A", ":cali"))}
            assert ours == kernels

    rig.run(scenario)


@every_variant
def test_chains_nothing_leads_to_are_not_programmed(rig: Any) -> None:
    async def scenario() -> None:
        unused = rig.policy("unused", [rig.rule()])
        await rig.settle(*one_endpoint(rig), unused)

        assert not any("unused" in line for line in rig.saved()[4])

        await rig.settle(WorkloadEndpointRemove(endpoint=rig.endpoint("web").key))

        left = "\n".join([*rig.saved()[4], *rig.saved()[6]])
        assert "p-web" not in left
        assert "caliweb" not in left

    rig.run(scenario)


def test_policy_removed_while_in_use_is_a_drop(rig: Any) -> None:
    async def scenario() -> None:
        set_, policy, endpoint = one_endpoint(rig)
        await rig.settle(set_, policy, endpoint)

        await rig.settle(ActivePolicyRemove(policy=policy.policy))

        chain = [line for line in rig.saved()[4] if line.startswith("-A cali-pi-gnp/p-web ")]
        assert len(chain) == 1
        assert chain[0].endswith("-j DROP")

    rig.run(scenario)


def test_foreign_rules_survive_and_ours_come_first(rig: Any) -> None:
    async def scenario() -> None:
        rig.tables(4, FOREIGN)
        rig.tables(4, "-N THEIRS")
        rig.tables(4, "-A THEIRS -j RETURN")
        await rig.settle(*one_endpoint(rig))
        rig.tables(4, "-I FORWARD -s 192.0.2.2/32 -j ACCEPT")

        rig.rules.invalidate("test")
        await rig.settle()

        forward = [line for line in rig.saved()[4] if line.startswith("-A FORWARD")]
        ours = [line for line in forward if "cali:" in line]
        # Rules that have to be last stay last.
        first = forward.index("-A FORWARD -s 192.0.2.2/32 -j ACCEPT")
        assert first > 0
        assert all("cali:" in line for line in forward[:first])
        assert forward[first : first + 2] == ["-A FORWARD -s 192.0.2.2/32 -j ACCEPT", FOREIGN]
        assert len(forward) == len(ours) + 2
        assert "-A THEIRS -j RETURN" in rig.saved()[4]
        assert await rig.writes() == 0

    rig.run(scenario)


def test_append_mode_puts_ours_last(make_rig: Any) -> None:
    rig = make_rig(chain_insert_mode=ChainInsertMode.APPEND)

    async def scenario() -> None:
        rig.tables(4, FOREIGN)
        await rig.settle(*one_endpoint(rig))

        forward = [line for line in rig.saved()[4] if line.startswith("-A FORWARD")]
        assert forward[0] == FOREIGN
        assert all("cali:" in line for line in forward[1:])
        rig.rules.invalidate("test")
        assert await rig.writes() == 0

    rig.run(scenario)


@pytest.mark.parametrize("damage", ["flush", "chain", "rule", "own"])
def test_damage_by_others_is_mended_at_the_next_look(rig: Any, damage: str) -> None:
    async def scenario() -> None:
        await rig.settle(*one_endpoint(rig))
        before = rig.saved()
        match damage:
            case "flush":
                rig.tables(4, "-F")
                rig.tables(6, "-t nat -F")
            case "chain":
                rig.tables(4, "-F cali-tw-caliweb")
            case "rule":
                rig.tables(4, "-D FORWARD 1")
            case _:
                rig.tables(4, "-I cali-FORWARD -j ACCEPT")
        assert rig.saved() != before

        rig.rules.invalidate("refresh")
        writes = await rig.writes()

        assert writes > 0
        assert rig.saved() == before
        assert [note.kind for note in rig.node.notifications][:1] == ["drift"]

    rig.run(scenario)


@pytest.mark.parametrize("variant", ["nft"], indirect=True)  # of legacy tables the kernel tells nothing
def test_damage_is_told_by_the_kernel_at_once(rig: Any, wait: Any) -> None:
    async def scenario() -> None:
        await rig.settle(*one_endpoint(rig))
        await asyncio.sleep(0)
        assert rig.requests == []
        before = rig.saved()
        rig.tables(4, "-F")

        await wait(lambda: bool(rig.requests))
        due_s = (await rig.settle())[1].resync_after_s or 0.0
        if rig.saved() != before:
            # We looked a moment ago: the next look is put off by a few times what the last one took.
            assert due_s < 0.5
            await asyncio.sleep(due_s)
            await rig.settle()

        assert rig.saved() == before

    rig.run(scenario)


@pytest.mark.parametrize("variant", ["nft"], indirect=True)
def test_changes_to_what_is_not_ours_wake_nobody(rig: Any, wait: Any) -> None:
    async def scenario() -> None:
        await rig.settle(*one_endpoint(rig))
        rig.tables(4, "-N THEIRS")
        rig.tables(4, "-A THEIRS -j RETURN")
        rig.node.sh("nft", "add", "table", "inet", "theirs")

        # What comes last is heard last.
        rig.tables(6, "-F cali-FORWARD")
        await wait(lambda: bool(rig.requests))

        assert all("cali-FORWARD" in reason for reason in rig.requests)

    rig.run(scenario)


def test_timers_find_damage_that_nobody_tells_of(make_rig: Any) -> None:
    rig = make_rig(iptables_refresh_interval_s=0.2, iptables_post_write_check_interval_s=0.05)

    async def scenario() -> None:
        results = await rig.settle(*one_endpoint(rig))
        before = rig.saved()
        rig.tables(4, "-F")
        due_s = results[1].resync_after_s

        assert due_s is not None
        assert due_s <= 0.05
        await asyncio.sleep(due_s)
        await rig.settle()
        assert rig.saved() == before

    rig.run(scenario)


def test_chain_the_kernel_refuses_is_closed_and_told_of(rig: Any) -> None:
    """The set is taken away behind our back: the rule cannot be written, everything else is."""

    async def scenario() -> None:
        bad = rig.policy("bad", [rig.rule(src_sets=("s:peers",))])
        good = rig.policy("good", [rig.rule()])
        rig.hear(
            IPSetUpdate(set_id="s:peers", kind=SetKind.NET, members=frozenset({"10.0.0.1", "fd00::1"})),
            bad,
            good,
            rig.endpoint("a").link(),
            rig.endpoint("b").link(),
            rig.endpoint("a").update([bad.policy]),
            rig.endpoint("b").update([good.policy]),
        )

        result = await rig.rules.apply()  # without the sets

        chain = [line for line in rig.saved()[4] if line.startswith("-A cali-pi-gnp/bad ")]
        assert len(chain) == 1
        assert chain[0].endswith("-j DROP")
        assert any(line.startswith("-A cali-pi-gnp/good ") for line in rig.saved()[6])
        assert result.endpoint_status == {
            rig.endpoint("a").key: EndpointStatus.ERROR,
            rig.endpoint("b").key: EndpointStatus.UP,
        }
        assert any("policy GlobalNetworkPolicy(bad)" in note.message for note in rig.node.notifications)
        await rig.settle()
        rig.rules.invalidate("refresh")
        results = await rig.settle()
        assert any("--match-set" in line for line in rig.saved()[4])
        assert results[1].endpoint_status[rig.endpoint("a").key] is EndpointStatus.UP

    rig.run(scenario)


def test_chain_somebody_else_jumps_to_is_emptied_and_blocks_nothing(rig: Any) -> None:
    async def scenario() -> None:
        await rig.settle(*one_endpoint(rig))
        rig.tables(4, "-N THEIRS")
        rig.tables(4, "-A THEIRS -m comment --comment held -g cali-tw-caliweb")

        await rig.settle(WorkloadEndpointRemove(endpoint=rig.endpoint("web").key))
        await rig.settle(*one_endpoint(rig, "other"))

        assert any(line.startswith("-A cali-tw-caliother ") for line in rig.saved()[4])

    rig.run(scenario)


def test_settings_change_rewrites_what_depends_on_them(rig: Any) -> None:
    async def scenario() -> None:
        deny = rig.policy("deny", [rig.rule(Action.DENY)])
        await rig.settle(deny, rig.endpoint("web").update([deny.policy]))

        await rig.settle(
            ConfigUpdate(
                settings=msgspec.structs.replace(rig.settings, iptables_filter_deny_action=DenyAction.REJECT)
            )
        )

        assert any("REJECT" in line for line in rig.saved()[4] if line.startswith("-A cali-pi-gnp/deny"))
        assert await rig.writes() == 0

    rig.run(scenario)


def test_layout_changes_while_running(rig: Any) -> None:
    async def scenario() -> None:
        await rig.settle(*one_endpoint(rig))
        before, sets = rig.saved(), rig.sets()

        await rig.settle(ConfigUpdate(settings=msgspec.structs.replace(rig.settings, layout=Layout.V2)))

        text = "\n".join([*rig.saved()[4], *rig.saved()[6]])
        assert "cali4-s:peers" in text
        assert "cali40" not in text
        assert {name[:6] for name in rig.sets()} == {"cali4-", "cali6-"}
        assert await rig.writes() == 0
        await rig.settle(ConfigUpdate(settings=rig.settings))
        after = rig.saved()
        # In nft, chains stand in the order in which they were made.
        assert {version: sorted(lines) for version, lines in after.items()} == {
            version: sorted(lines) for version, lines in before.items()
        }
        assert rig.sets() == sets

    rig.run(scenario)


def test_cleanup_leaves_nothing_but_what_is_not_ours(rig: Any) -> None:
    async def scenario() -> None:
        rig.tables(4, FOREIGN)
        rig.node.sh("ipset", "create", "theirs", "hash:net")
        await rig.settle(*one_endpoint(rig))
        for old in ("felix-FORWARD", "califw-x"):
            rig.tables(4, f"-N {old}")
        rig.tables(4, "-A FORWARD -j felix-FORWARD")
        await rig.rules.close()

        rig.make_dataplanes()
        count = await rig.rules.cleanup() + await rig.ipset.cleanup()

        assert count > 20
        rules = [line for version in (4, 6) for line in rig.saved()[version] if line.startswith(("-A", ":"))]
        assert [line for line in rules if line.startswith("-A")] == [FOREIGN]
        assert not [line for line in rules if "cali" in line or "felix" in line]
        assert set(rig.sets()) == {"theirs"}
        assert await rig.rules.cleanup() + await rig.ipset.cleanup() == 0

    rig.run(scenario)


@pytest.mark.parametrize("variant", ["legacy"], indirect=True)  # nftables needs no lock
def test_lock_held_by_another_program_is_waited_for(make_rig: Any) -> None:
    rig = make_rig(iptables_lock_timeout_s=5)

    async def scenario() -> None:
        with Path(rig.settings.iptables_lock_file_path).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            asyncio.get_running_loop().call_later(0.3, fcntl.flock, lock, fcntl.LOCK_UN)
            await rig.settle(*one_endpoint(rig))

        assert "cali-tw-caliweb" in rig.save()

    rig.run(scenario)


HOSTILE = (
    '"',
    "\n",
    "-j ACCEPT",
    " --jump ACCEPT\n-A FORWARD -j ACCEPT\n",
    "COMMIT\n*filter",
    "$(id)",
    "\\",
    "é" * 200,
    "x" * 300,
)


@every_variant
def test_hostile_names_reach_no_rule(rig: Any) -> None:
    async def scenario() -> None:
        harmless = len(await rules_with_names(rig, [f"p{i}" for i in range(len(HOSTILE))]))
        rig.make_dataplanes()

        rules = await rules_with_names(rig, list(HOSTILE))

        # As many rules as for harmless names, all of them ours, none that accepts what it should not.
        assert len(rules) == harmless
        assert all("cali:" in line for line in rules)
        rig.rules.invalidate("test")
        assert await rig.writes() == 0

    async def rules_with_names(rig: Any, names: list[str]) -> list[str]:
        policies = [rig.policy(name, [rig.rule(Action.DENY), rig.rule(Action.LOG)]) for name in names]
        profiles = [
            ActiveProfileUpdate(profile=name, inbound=(rig.rule(Action.DENY),), outbound=()) for name in names
        ]
        endpoint = rig.endpoint("web").update([policy.policy for policy in policies], profiles=tuple(names))
        strange = [
            msgspec.structs.replace(endpoint, endpoint=rig.endpoint(f"e{i}").key, interface_name=name)
            for i, name in enumerate(HOSTILE)
        ]
        await rig.settle(*policies, *profiles, endpoint, *strange)
        await rig.rules.close()
        return [rule for version in (4, 6) for rule in rig.rule_texts(version)]

    rig.run(scenario)


def test_change_of_variant_leaves_nothing_behind(make_rig: Any, variant: str) -> None:
    rig = make_rig()

    async def scenario() -> None:
        await rig.settle(*one_endpoint(rig))
        before = rig.saved()
        await rig.rules.close()
        other = {"legacy": "nft", "nft": "legacy"}[variant]
        rig.settings = msgspec.structs.replace(rig.settings, iptables_backend=other)

        rig.make_dataplanes()
        await rig.settle(*one_endpoint(rig))

        left = rig.saved()
        assert "cali" not in "".join(left[4] + left[6])
        rig.variant = other
        after = rig.saved()
        assert sorted(after[4] + after[6]) == sorted(before[4] + before[6])

    rig.run(scenario)
