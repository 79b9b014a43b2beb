"""What clients of IPAM are given, one client at a time."""

import random
from ipaddress import ip_address, ip_network

import pytest
from msgspec.structs import replace

from calico_engine.errors import (
    AddressTakenError,
    BlockMalformedError,
    BlockTakenError,
    ConflictError,
    NoPoolError,
    NotFoundError,
    StaleReleaseError,
    UnavailableError,
    ValidationError,
)
from calico_engine.ipam import (
    AffinityKey,
    AffinityOwner,
    AffinityState,
    AssignRequest,
    AutoAssignRequest,
    BlockAffinity,
    BlockKey,
    Era,
    Holder,
    IpamClient,
    IPAMConfig,
    PoolUse,
    Problem,
    ReleaseRequest,
    TunnelKind,
    ensure_tunnel_address,
)
from calico_engine.model import IPPool, IPReservation
from calico_engine.model.node import IPReservationSpec
from calico_engine.testing.builders import make_pool
from calico_engine.testing.ipam import ManualClock, MemoryCluster, MemoryStore, Side


class Rig:
    """A store, a cluster of four nodes and a client."""

    def __init__(self, *cidrs: str, era: Era = Era.V3) -> None:
        self.store = MemoryStore(era)
        self.cluster = MemoryCluster(*cidrs, nodes=("k8s-node01", "k8s-node02", "node3", "node4"))
        self.clock = ManualClock()
        self.ipam = IpamClient(self.store, self.cluster, self.clock)

    async def give(self, host: str = "k8s-node02", count: int = 1, handle: str | None = None) -> list[str]:
        assignment = await self.ipam.auto_assign(
            AutoAssignRequest(host=host, count=count, holder=Holder(handle_id=handle))
        )
        return [str(address) for address in assignment.addresses]

    async def blocks(self) -> dict[str, str | None]:
        return {str(stored.value.cidr): stored.value.affinity for stored in await self.store.list_blocks()}

    async def problems(self) -> list[Problem]:
        return [finding.problem for finding in await self.ipam.check()]


def with_spec(pool: IPPool, **fields: object) -> IPPool:
    return replace(pool, spec=replace(pool.spec, **fields))


@pytest.mark.parametrize("era", list(Era))
async def test_first_pods_without_tunnel_get_the_addresses_of_the_articles(era: Era) -> None:
    rig = Rig("10.244.0.0/16", era=era)

    assert await rig.give("k8s-node02", 2) == ["10.244.58.192", "10.244.58.193"]
    assert await rig.give("k8s-node01") == ["10.244.85.192"]


async def test_first_pod_of_the_docker_article_gets_its_address() -> None:
    rig = Rig("192.168.0.0/16")
    rig.cluster.labels |= {"etcd1": {}, "etcd2": {}}

    assert await rig.give("etcd1") == ["192.168.36.192"]
    assert await rig.give("etcd2") == ["192.168.57.64"]


async def test_with_ipip_the_tunnel_takes_the_first_address_and_pods_come_after() -> None:
    rig = Rig("10.244.0.0/16")
    pools = (ip_network("10.244.0.0/16"),)

    tunnel = await ensure_tunnel_address(rig.ipam, "k8s-node02", TunnelKind.IPIP, pools, None)
    pods = await rig.give("k8s-node02", 2)
    again = await ensure_tunnel_address(rig.ipam, "k8s-node02", TunnelKind.IPIP, pools, tunnel)

    assert str(tunnel) == "10.244.58.192"
    assert pods == ["10.244.58.193", "10.244.58.194"]
    assert again == tunnel
    attribute = await rig.ipam.attributes(tunnel)
    assert attribute.handle_id == "ipip-tunnel-addr-k8s-node02"
    assert attribute.active_owner == {"node": "k8s-node02", "type": "ipipTunnelAddress"}


async def test_tunnel_address_moves_with_its_pool() -> None:
    rig = Rig("10.244.0.0/16", "10.9.0.0/16")
    old = await ensure_tunnel_address(
        rig.ipam, "node3", TunnelKind.VXLAN, (ip_network("10.244.0.0/16"),), None
    )

    new = await ensure_tunnel_address(rig.ipam, "node3", TunnelKind.VXLAN, (ip_network("10.9.0.0/16"),), old)

    assert new in ip_network("10.9.0.0/16")
    with pytest.raises(NotFoundError):
        await rig.ipam.attributes(old)


async def test_tunnel_does_not_keep_a_pods_address() -> None:
    rig = Rig("10.244.0.0/16")
    pod = ip_address((await rig.give("node3", handle="pod"))[0])

    tunnel = await ensure_tunnel_address(
        rig.ipam, "node3", TunnelKind.IPIP, (ip_network("10.244.0.0/16"),), pod
    )

    assert tunnel != pod
    assert (await rig.ipam.attributes(pod)).handle == "pod"


async def test_ipv6_is_given_out_the_same_way() -> None:
    rig = Rig("fd00:10::/48")

    assignment = await rig.ipam.auto_assign(AutoAssignRequest(host="node3", version=6, count=2))

    first, second = assignment.addresses
    assert int(first) % 64 == 0
    assert second == first + 1


async def test_second_block_is_claimed_when_the_first_is_full() -> None:
    rig = Rig("10.244.0.0/16")

    addresses = await rig.give(count=70)

    assert len(set(addresses)) == 70
    assert await rig.blocks() == {"10.244.58.192/26": "host:k8s-node02", "10.244.59.0/26": "host:k8s-node02"}
    assert await rig.problems() == []


async def test_full_pool_is_borrowed_from() -> None:
    rig = Rig("10.244.0.0/26")
    await rig.give("k8s-node01", 60)

    assignment = await rig.ipam.auto_assign(AutoAssignRequest(host="k8s-node02", count=6))

    assert len(assignment.addresses) == 4
    assert not assignment.complete
    assert "no free block" in assignment.messages[0]
    assert await rig.blocks() == {"10.244.0.0/26": "host:k8s-node01"}


async def test_strict_affinity_borrows_nothing() -> None:
    rig = Rig("10.244.0.0/26")
    await rig.ipam.set_config(IPAMConfig(strict_affinity=True))
    await rig.give("k8s-node01")

    assert await rig.give("k8s-node02") == []
    with pytest.raises(BlockTakenError):
        await rig.ipam.assign(AssignRequest(address=ip_address("10.244.0.9"), host="k8s-node02"))


async def test_host_claims_no_more_blocks_than_its_limit() -> None:
    rig = Rig("10.244.0.0/24")
    await rig.ipam.set_config(IPAMConfig(strict_affinity=True, max_blocks_per_host=2))

    assignment = await rig.ipam.auto_assign(AutoAssignRequest(host="node3", count=200))

    assert len(assignment.addresses) == 128
    assert assignment.messages == ("limit of 2 blocks per host reached",)


async def test_limit_is_twenty_blocks_unless_said_otherwise() -> None:
    rig = Rig("10.244.0.0/16")
    rig.cluster.ip_pools = [make_pool(cidr="10.244.0.0/16", block_size=30)]

    assert len(await rig.give(count=100)) == 80


async def test_configurations_that_make_no_sense_are_refused() -> None:
    rig = Rig("10.244.0.0/16")

    with pytest.raises(ValidationError):
        await rig.ipam.set_config(IPAMConfig(auto_allocate_blocks=False))
    with pytest.raises(ValidationError):
        await rig.ipam.set_config(IPAMConfig(max_blocks_per_host=3))
    assert await rig.ipam.config() == IPAMConfig()


async def test_pools_are_chosen_by_selector_use_and_request() -> None:
    rig = Rig()
    rig.cluster.labels["node3"] = {"rack": "a"}
    rig.cluster.ip_pools = [
        with_spec(make_pool("a-disabled", cidr="10.1.0.0/24"), disabled=True),
        with_spec(make_pool("b-manual", cidr="10.2.0.0/24"), assignment_mode="Manual"),
        with_spec(make_pool("c-tunnels", cidr="10.3.0.0/24"), allowed_uses=("Tunnel",)),
        with_spec(make_pool("d-rack", cidr="10.4.0.0/24"), node_selector="rack == 'a'"),
        with_spec(make_pool("e-namespace", cidr="10.5.0.0/24"), namespace_selector="team == 'red'"),
        make_pool("f-all", cidr="10.6.0.0/24"),
    ]

    async def pool_for(host: str, **fields: object) -> str:
        request = replace(AutoAssignRequest(host=host), **fields)
        assignment = await rig.ipam.auto_assign(request)
        return str(assignment.addresses[0]).rsplit(".", 2)[0]

    assert await pool_for("node3") == "10.4"
    assert await pool_for("k8s-node01") == "10.6"
    # Blocks a host has come first, so ask as one that has none.
    assert await pool_for("k8s-node02", namespace_labels={"team": "red"}) == "10.5"
    assert await pool_for("node4", use=PoolUse.TUNNEL) == "10.3"
    assert await pool_for("k8s-node01", pools=(ip_network("10.2.0.0/24"),)) == "10.2"
    assert await pool_for("k8s-node01", pools=(ip_network("10.4.0.0/24"),)) == "10.4"
    with pytest.raises(NoPoolError, match=r"10\.1\.0\.0/24"):
        await pool_for("k8s-node01", pools=(ip_network("10.1.0.0/24"),))
    with pytest.raises(NoPoolError, match="LoadBalancer"):
        await pool_for("lb", use=PoolUse.LOAD_BALANCER)


async def test_load_balancer_blocks_are_affine_to_no_host() -> None:
    rig = Rig()
    rig.cluster.ip_pools = [with_spec(make_pool(cidr="10.7.0.0/24"), allowed_uses=("LoadBalancer",))]

    await rig.ipam.auto_assign(AutoAssignRequest(host="load-balancer", use=PoolUse.LOAD_BALANCER))

    assert list((await rig.blocks()).values()) == ["virtual:load-balancer"]


async def test_reserved_addresses_are_given_to_those_who_name_them_only() -> None:
    rig = Rig("10.244.0.0/25")
    rig.cluster.ip_reservations = [
        IPReservation(spec=IPReservationSpec(reserved_cidrs=("10.244.0.0/26", "10.244.0.64/27")))
    ]

    given = await rig.give(count=40)
    await rig.ipam.assign(AssignRequest(address=ip_address("10.244.0.5"), host="node3"))

    assert len(given) == 32
    assert min(ip_address(text) for text in given) == ip_address("10.244.0.96")


async def test_blocks_of_another_size_are_never_laid_across() -> None:
    rig = Rig("10.244.0.0/26")
    await rig.give("k8s-node01")
    rig.cluster.ip_pools = [make_pool(cidr="10.244.0.0/26", block_size=28)]

    given = await rig.give("k8s-node02")
    await rig.ipam.assign(AssignRequest(address=ip_address("10.244.0.40"), host="node3"))

    assert given == ["10.244.0.1"]
    assert list(await rig.blocks()) == ["10.244.0.0/26"]


async def test_block_from_before_pools_got_smaller_is_found_for_release() -> None:
    rig = Rig("10.244.0.0/26")
    (address,) = await rig.give("k8s-node01", handle="pod")
    rig.cluster.ip_pools = [make_pool(cidr="10.244.0.0/26", block_size=28)]

    outcome = await rig.ipam.release_addresses([ReleaseRequest(ip_address(address))])

    assert outcome.released == (ip_address(address),)
    assert await rig.problems() == []


async def test_named_address_is_given_once() -> None:
    rig = Rig("10.244.0.0/16")
    request = AssignRequest(address=ip_address("10.244.7.7"), host="node3", holder=Holder(handle_id="pod"))
    await rig.ipam.assign(request)

    with pytest.raises(AddressTakenError):
        await rig.ipam.assign(request)
    with pytest.raises(NoPoolError):
        await rig.ipam.assign(AssignRequest(address=ip_address("10.9.0.1"), host="node3"))
    with pytest.raises(NoPoolError, match="allowedUses"):
        await rig.ipam.assign(
            AssignRequest(address=ip_address("10.244.7.8"), host="node3", use=PoolUse.LOAD_BALANCER)
        )

    assert await rig.ipam.addresses_of_handle("pod") == (ip_address("10.244.7.7"),)
    assert await rig.problems() == []


async def test_release_says_what_was_not_allocated() -> None:
    rig = Rig("10.244.0.0/16")
    (address,) = await rig.give(handle="pod")
    requests = [ReleaseRequest(ip_address(text)) for text in (address, "10.244.58.200", "10.8.0.1")]

    outcome = await rig.ipam.release_addresses(requests)

    assert outcome.released == (ip_address(address),)
    assert set(outcome.unallocated) == {ip_address("10.244.58.200"), ip_address("10.8.0.1")}
    with pytest.raises(NotFoundError):
        await rig.ipam.addresses_of_handle("pod")


async def test_release_of_an_earlier_life_is_refused() -> None:
    rig = Rig("10.244.0.0/16")
    (text,) = await rig.give(handle="pod")
    address = ip_address(text)
    stored = await rig.store.get(BlockKey(ip_network("10.244.58.192/26")))
    number = stored.value.sequence_numbers[0]
    await rig.ipam.release_by_handle("pod")
    await rig.ipam.assign(AssignRequest(address=address, host="node3"))

    with pytest.raises(StaleReleaseError):
        await rig.ipam.release_addresses([ReleaseRequest(address, sequence_number=number)])

    assert (await rig.ipam.attributes(address)).handle == ""


async def test_release_by_handle_reaches_all_blocks_and_both_families() -> None:
    rig = Rig("10.244.0.0/16", "fd00:10::/48")
    await rig.give(count=70, handle="pod")
    six = AutoAssignRequest(host="node3", version=6, holder=Holder(handle_id="pod"))
    await rig.ipam.auto_assign(six)

    released = await rig.ipam.release_by_handle("pod")

    assert len(released) == 71
    assert await rig.ipam.check({}) == ()
    with pytest.raises(NotFoundError):
        await rig.ipam.release_by_handle("pod")


async def test_handle_that_counts_too_much_is_gone_after_its_release() -> None:
    rig = Rig("10.244.0.0/16")
    lost = rig.store.sharing(_fail_once("update", "/block/", Side.BEFORE, UnavailableError("gone")))
    client = IpamClient(lost, rig.cluster, rig.clock)
    await rig.give("k8s-node02")

    with pytest.raises(UnavailableError):
        await client.auto_assign(AutoAssignRequest(host="k8s-node02", holder=Holder(handle_id="pod")))
    problems = await rig.problems()
    released = await rig.ipam.release_by_handle("pod")

    assert problems == [Problem.HANDLE_COUNT_HIGH]
    assert released == ()
    assert await rig.problems() == []


async def test_address_whose_answer_was_lost_is_released_by_its_handle() -> None:
    rig = Rig("10.244.0.0/16")
    await rig.give("k8s-node02")
    lost = rig.store.sharing(_fail_once("update", "/block/", Side.AFTER, UnavailableError("gone")))
    client = IpamClient(lost, rig.cluster, rig.clock)

    with pytest.raises(UnavailableError):
        await client.auto_assign(AutoAssignRequest(host="k8s-node02", holder=Holder(handle_id="pod")))

    assert await rig.ipam.release_by_handle("pod") == (ip_address("10.244.58.193"),)


async def test_conflicts_are_retried_and_leave_nothing_behind() -> None:
    rig = Rig("10.244.0.0/16")
    chance = random.Random(1)

    async def gate(operation: str, path: str, side: Side, /) -> None:
        if operation in ("update", "create", "delete") and side is Side.BEFORE and chance.random() < 0.4:
            raise ConflictError(path, "", "")

    client = IpamClient(rig.store.sharing(gate), rig.cluster, rig.clock)
    request = AutoAssignRequest(host="k8s-node02", count=3, holder=Holder(handle_id="pod"))

    assert (await client.auto_assign(request)).complete
    assert await rig.problems() == []


def _fail_once(operation: str, part: str, side: Side, error: Exception):  # type: ignore[no-untyped-def]
    done: list[str] = []

    async def gate(name: str, path: str, at: Side, /) -> None:
        if name == operation and part in path and at is side and not done:
            done.append(path)
            raise error

    return gate


@pytest.mark.parametrize(
    "damage",
    [
        {"allocations": (7, *[None] * 63)},
        {"allocations": (None,) * 63},
        {"unallocated": (1, 1, *range(2, 64))},
        {"unallocated": tuple(range(64)), "allocations": (0, *[None] * 63)},
    ],
)
async def test_block_that_contradicts_itself_is_named_and_left_alone(damage: dict[str, object]) -> None:
    rig = Rig("10.244.0.0/16")
    await rig.give(handle="pod")
    key = BlockKey(ip_network("10.244.58.192/26"))
    stored = await rig.store.get(key)
    await rig.store.update(stored.with_value(replace(stored.value, **damage)))
    before = rig.store.records[key.path]

    given = await rig.give()
    with pytest.raises(BlockMalformedError):
        await rig.ipam.release_by_handle("pod")

    assert given == ["10.244.59.0"]
    assert rig.store.records[key.path] == before
    assert Problem.BLOCK_MALFORMED in await rig.problems()


async def test_empty_blocks_are_given_back_but_for_one() -> None:
    rig = Rig("10.244.0.0/16")
    await rig.give(count=130, handle="pods")
    await rig.ipam.release_by_handle("pods")

    given_back = await rig.ipam.release_empty_blocks(AffinityOwner("k8s-node02"))

    assert len(given_back) == 2
    assert len(await rig.blocks()) == 1
    assert await rig.problems() == []


async def test_host_that_goes_gives_up_blocks_and_keeps_addresses() -> None:
    rig = Rig("10.244.0.0/16")
    await rig.give("k8s-node01", handle="pod")
    owner = AffinityOwner("k8s-node01")

    kept = await rig.ipam.release_host_affinities(owner, must_be_empty=True)
    await rig.ipam.release_host_affinities(owner, must_be_empty=False)
    blocks = await rig.blocks()
    await rig.ipam.release_by_handle("pod")

    assert kept == (ip_network("10.244.85.192/26"),)
    assert blocks == {"10.244.85.192/26": None}
    assert await rig.blocks() == {}
    assert await rig.problems() == []


async def test_old_empty_block_of_another_host_is_taken_when_there_is_no_other() -> None:
    rig = Rig("10.244.0.0/26")
    await rig.give("k8s-node01", handle="pod")
    await rig.ipam.release_by_handle("pod")

    await rig.give("k8s-node02", handle="borrowed")
    young = await rig.blocks()
    await rig.ipam.release_by_handle("borrowed")
    rig.clock.move(61)
    await rig.give("k8s-node02")

    assert young == {"10.244.0.0/26": "host:k8s-node01"}
    assert await rig.blocks() == {"10.244.0.0/26": "host:k8s-node02"}
    assert await rig.problems() == []


async def test_empty_block_of_a_pool_that_selects_the_host_no_more_is_given_back() -> None:
    rig = Rig("10.244.0.0/24", "10.9.0.0/24")
    await rig.give("node3", handle="pod")
    rig.cluster.ip_pools[0] = with_spec(rig.cluster.ip_pools[0], node_selector="rack == 'b'")

    await rig.ipam.release_by_handle("pod")
    after_release = await rig.blocks()
    (address,) = await rig.give("node3")

    assert after_release == {}
    assert address.startswith("10.9.")


@pytest.mark.parametrize("state", list(AffinityState))
async def test_claim_that_was_left_half_done_is_finished(state: AffinityState) -> None:
    rig = Rig("10.244.0.0/16")
    key = AffinityKey(AffinityOwner("k8s-node02"), ip_network("10.244.58.192/26"))
    await rig.store.create(key, BlockAffinity(state=state))

    assert await rig.give() == ["10.244.58.192"]
    assert await rig.problems() == []


async def test_affinity_to_somebody_elses_block_is_cleared_away() -> None:
    rig = Rig("10.244.0.0/16")
    await rig.give("k8s-node01")
    key = AffinityKey(AffinityOwner("k8s-node02"), ip_network("10.244.85.192/26"))
    await rig.store.create(key, BlockAffinity(state=AffinityState.PENDING))
    before = await rig.problems()

    assert await rig.give("k8s-node02") == ["10.244.58.192"]

    assert before == [Problem.AFFINITY_STALE]
    assert await rig.problems() == []


async def test_blocks_can_be_claimed_by_cidr() -> None:
    rig = Rig("10.244.0.0/16")
    await rig.ipam.claim_affinity(ip_network("10.244.1.64/26"), AffinityOwner("k8s-node01"))

    claimed, refused = await rig.ipam.claim_affinity(ip_network("10.244.1.0/24"), AffinityOwner("node3"))

    assert len(claimed) == 3
    assert refused == [ip_network("10.244.1.64/26")]


async def test_released_addresses_cool_down() -> None:
    rig = Rig("10.244.0.0/30")
    rig.cluster.ip_pools = [make_pool(cidr="10.244.0.0/30", block_size=30)]
    await rig.ipam.set_config(IPAMConfig(ip_cooldown_seconds=30))
    await rig.give(count=4, handle="pod")
    await rig.ipam.release_by_handle("pod")

    at_once = await rig.give()
    rig.clock.move(31)
    later = await rig.give()

    assert (at_once, later) == ([], ["10.244.0.0"])


async def test_utilisation_counts_pools_blocks_and_orphans() -> None:
    rig = Rig("10.244.0.0/24", "10.9.0.0/24")
    await rig.give("node3", 3)
    stray = AutoAssignRequest(host="node3", pools=(ip_network("10.9.0.0/24"),))
    await rig.ipam.auto_assign(stray)
    del rig.cluster.ip_pools[1]
    rig.cluster.ip_reservations = [IPReservation(spec=IPReservationSpec(reserved_cidrs=("10.244.0.0/30",)))]

    pool, orphans = await rig.ipam.utilisation()

    assert (pool.capacity, pool.in_use, pool.reserved) == (256, 3, 4)
    assert pool.available in (249, 252)
    assert len(pool.blocks) == 1
    assert (orphans.name, orphans.capacity, orphans.in_use) == ("", 64, 1)


async def test_check_names_leaks_and_addresses_nobody_gave_out() -> None:
    rig = Rig("10.244.0.0/16")
    used, leaked = await rig.give("k8s-node02", 2)
    in_use = {ip_address(used): "web-1", ip_address("10.244.58.250"): "ghost"}

    findings = await rig.ipam.check(in_use)

    assert [(finding.problem, str(finding.address)) for finding in findings] == [
        (Problem.ADDRESS_LEAKED, leaked),
        (Problem.ADDRESS_NOT_ALLOCATED, "10.244.58.250"),
    ]
