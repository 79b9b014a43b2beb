"""Static chains, NAT and the fixed sets."""

import pytest
from msgspec.structs import replace

from calico_engine.errors import ConfigError
from calico_engine.messages import NodeUpdate, PoolEncap, PoolUpdate, SetKind, VtepUpdate
from calico_engine.model.endpoint import IPNAT
from calico_engine.ruleset.compile_nat import compile_cidr_block, compile_floating_ips, compile_nat_outgoing
from calico_engine.ruleset.compile_sets import compile_sets, family_members, find_tunnels
from calico_engine.ruleset.compile_static import Tunnels, compile_static
from calico_engine.ruleset.interpret import Packet, Path, Verdict, interpret
from calico_engine.ruleset.ir import ChainKey, Family, Hook, Layer
from calico_engine.ruleset.static_common import port_range_without
from calico_engine.ruleset.world import compile_world
from calico_engine.settings import ChainInsertMode, FelixSettings, HostPort, Layout
from calico_engine.testing.messages import make_set, make_state, make_workload_update
from calico_engine_iptables.words import fragments

V3 = FelixSettings()
POOLS = (
    PoolUpdate(cidr="10.65.0.0/16", nat_outgoing=True, encap=PoolEncap.IPIP),
    PoolUpdate(cidr="10.66.0.0/16", nat_outgoing=False, encap=PoolEncap.NONE),
    PoolUpdate(cidr="fd00::/48", nat_outgoing=True, encap=PoolEncap.VXLAN),
)
NODES = (
    NodeUpdate(node="a", ipv4_address="192.0.2.1", ipv6_address="2001:db8::1"),
    NodeUpdate(node="b", ipv4_address="192.0.2.2"),
)


def nat_outgoing(settings: FelixSettings, family: Family = Family.V4) -> list[str]:
    rules = compile_nat_outgoing(settings, family, active=True)[ChainKey(Layer.NAT, "cali-nat-outgoing")]
    return [fragments(rule, family, settings.layout) for rule in rules]


MASQUERADED = "-m set --match-set cali40masq-ipam-pools src -m set ! --match-set cali40network-ip-pools dst"


def test_outgoing_nat_is_for_what_leaves_all_pools() -> None:
    assert nat_outgoing(V3) == [f"{MASQUERADED} --jump MASQUERADE"]
    assert nat_outgoing(FelixSettings(layout=Layout.V2)) == [
        "-m set --match-set cali4-masq-ipam-pools src -m set ! --match-set cali4-all-ipam-pools dst --jump MASQUERADE"
    ]


def test_no_pool_wants_nat_no_rule() -> None:
    assert compile_nat_outgoing(V3, Family.V4, active=False) == {ChainKey(Layer.NAT, "cali-nat-outgoing"): ()}


def test_outgoing_nat_with_ports_address_exclusions_and_interface() -> None:
    settings = FelixSettings(
        nat_port_range="32768:65535",
        nat_outgoing_address="192.0.2.7",
        nat_outgoing_exclusions="IPPoolsAndHostIPs",
        iptables_nat_outgoing_interface_filter="eth+",
    )
    matches = f"{MASQUERADED} -m set ! --match-set cali40all-hosts-net dst"

    assert nat_outgoing(settings) == [
        f"{matches} -p tcp --out-interface eth+ --jump SNAT --to-source 192.0.2.7:32768-65535",
        f"{matches} -p tcp --out-interface eth+ --jump RETURN",
        f"{matches} -p udp --out-interface eth+ --jump SNAT --to-source 192.0.2.7:32768-65535",
        f"{matches} -p udp --out-interface eth+ --jump RETURN",
        f"{matches} --out-interface eth+ --jump SNAT --to-source 192.0.2.7",
    ]
    # An address of the other family is not for this one.
    assert nat_outgoing(settings, Family.V6)[-1].endswith("--jump MASQUERADE")


@pytest.mark.parametrize(
    "settings",
    [
        FelixSettings(nat_outgoing_address="192.0.2.1\n-A INPUT -j ACCEPT"),
        FelixSettings(nat_outgoing_address="fe80::1%eth0"),
        FelixSettings(nat_port_range="1-2 -j ACCEPT"),
        FelixSettings(iptables_nat_outgoing_interface_filter="eth0 -j ACCEPT"),
        FelixSettings(interface_prefix=("ca li",)),
        FelixSettings(metadata_addr="host"),
        FelixSettings(failsafe_inbound_host_ports=(HostPort("tcp", 22, "10.0.0.0/8 -j DROP"),)),
    ],
)
def test_a_setting_that_is_not_what_it_should_be_never_becomes_part_of_a_rule(
    settings: FelixSettings,
) -> None:
    with pytest.raises(ConfigError):
        compile_static(settings, Family.V4)
    with pytest.raises(ConfigError):
        compile_nat_outgoing(settings, Family.V4, active=True)


def test_a_floating_address_leads_to_its_endpoint_and_back_to_itself() -> None:
    nats = [
        IPNAT(internal_ip="10.65.0.1", external_ip="198.51.100.1"),
        IPNAT(internal_ip="fd00::1", external_ip="2001:db8::9"),
        IPNAT(internal_ip="10.65.0.1", external_ip="not an address"),
    ]
    state = make_state(make_workload_update(nats=nats))
    settings = FelixSettings(floating_ips="Enabled")
    ruleset = compile_world(state, settings, Family.V4)
    packet = Packet(
        src="192.0.2.1", dst="198.51.100.1", protocol=6, in_interface="eth0", out_interface="eth1"
    )

    translated = interpret(ruleset, packet, Path.FORWARD).packet
    looped = interpret(ruleset, replace(packet, src="10.65.0.1"), Path.FORWARD).packet

    assert (translated.src, translated.dst, translated.ct_dnat) == ("192.0.2.1", "10.65.0.1", True)
    assert (looped.src, looped.dst) == ("198.51.100.1", "10.65.0.1")
    assert len(ruleset.chains[ChainKey(Layer.NAT, "cali-fip-dnat")]) == 1


def test_floating_addresses_are_off_in_v3_unless_enabled_and_on_in_v2() -> None:
    endpoints = [make_workload_update(nats=[IPNAT(internal_ip="10.65.0.1", external_ip="198.51.100.1")])]
    dnat = ChainKey(Layer.NAT, "cali-fip-dnat")

    assert compile_floating_ips(endpoints, V3, Family.V4)[dnat] == ()
    assert len(compile_floating_ips(endpoints, FelixSettings(layout=Layout.V2), Family.V4)[dnat]) == 1


def test_of_two_endpoints_with_one_floating_address_the_first_has_it() -> None:
    endpoints = [
        make_workload_update(name, nats=[IPNAT(internal_ip=internal, external_ip="198.51.100.1")])
        for name, internal in (("b", "10.65.0.2"), ("a", "10.65.0.1"))
    ]

    rules = compile_floating_ips(endpoints, FelixSettings(floating_ips="Enabled"), Family.V4)

    ops = [str(rule.op) for rule in rules[ChainKey(Layer.NAT, "cali-fip-dnat")]]
    assert len(ops) == 1
    assert "10.65.0.1" in ops[0]


@pytest.mark.parametrize(("word", "verdict"), [("Drop", "DROP"), ("Reject", "REJECT"), ("Disabled", "")])
def test_service_cidrs_do_not_loop(word: str, verdict: str) -> None:
    settings = FelixSettings(service_loop_prevention=word)

    chains = compile_cidr_block(["10.96.0.0/12", "fd01::/108"], settings, Family.V4)

    lines = [
        fragments(rule, Family.V4, Layout.V3) for rule in chains[ChainKey(Layer.FILTER, "cali-cidr-block")]
    ]
    assert lines == ([f"--destination 10.96.0.0/12 --jump {verdict}"] if verdict else [])


def test_tunnels_are_those_of_the_pools_unless_configured() -> None:
    state = make_state(*POOLS)

    assert find_tunnels(state, V3, Family.V4) == Tunnels(ipip=True)
    assert find_tunnels(state, V3, Family.V6) == Tunnels(vxlan=True)
    assert find_tunnels(state, FelixSettings(ip_in_ip_enabled=False), Family.V4) == Tunnels()
    assert find_tunnels(make_state(), FelixSettings(vxlan_enabled=True), Family.V4) == Tunnels(vxlan=True)


def test_fixed_sets_hold_pools_and_where_used_hosts_and_vxlan_peers() -> None:
    vteps = VtepUpdate(node="a", parent_ipv4="192.0.2.1", parent_ipv6="2001:db8::1")
    state = make_state(*POOLS, *NODES, vteps, make_set("s:a", "10.0.0.1", "fd00::1"))

    v4, v6 = (compile_sets(state, V3, family) for family in Family)

    assert {set_id: set(data.members) for set_id, data in v4.items()} == {
        "s:a": {"10.0.0.1"},
        "network-ip-pools": {"10.65.0.0/16", "10.66.0.0/16"},
        "masq-ipam-pools": {"10.65.0.0/16"},
        "all-hosts-net": {"192.0.2.1", "192.0.2.2"},
    }
    assert v6["all-vxlan-net"].members == {"2001:db8::1"}
    assert "all-hosts-net" not in v6


def test_members_are_told_apart_by_their_address_and_not_by_their_port() -> None:
    members = {"10.0.0.1,tcp:80", "fd00::1,udp:53"}

    assert family_members(members, SetKind.IP_PORT, Family.V4) == {"10.0.0.1,tcp:80"}
    assert family_members(members, SetKind.IP_PORT, Family.V6) == {"fd00::1,udp:53"}


@pytest.mark.parametrize("layout", Layout)
def test_tunnelled_packets_come_from_nodes_alone(layout: Layout) -> None:
    settings = FelixSettings(layout=layout)
    ruleset = compile_world(make_state(*POOLS, *NODES), settings, Family.V4)

    def verdict(src: str) -> Verdict:
        packet = Packet(src=src, dst="192.0.2.1", protocol=4, in_interface="eth0", dst_local=True)
        return interpret(ruleset, packet, Path.TO_HOST).verdict

    assert verdict("192.0.2.2") is Verdict.ACCEPT
    assert verdict("192.0.2.99") is Verdict.DROP


def test_vxlan_goes_untracked_and_comes_from_peers_alone() -> None:
    state = make_state(VtepUpdate(node="b", parent_ipv4="192.0.2.2"))
    ruleset = compile_world(state, FelixSettings(vxlan_enabled=True), Family.V4)

    def verdict(src: str) -> Verdict:
        packet = Packet(
            src=src, dst="192.0.2.1", protocol=17, dst_port=4789, in_interface="eth0", dst_local=True
        )
        outcome = interpret(ruleset, packet, Path.TO_HOST)
        assert outcome.packet.ct_state == "UNTRACKED"
        return outcome.verdict

    assert verdict("192.0.2.2") is Verdict.ACCEPT
    assert verdict("192.0.2.3") is Verdict.DROP


@pytest.mark.parametrize(
    ("number", "ports"), [(4789, "4790-65535"), (65535, "1024-65534"), (1024, "1025-65535")]
)
def test_masquerade_keeps_off_vxlans_port(number: int, ports: str) -> None:
    assert port_range_without(number) == ports


def test_rules_are_inserted_but_for_those_that_must_be_last() -> None:
    static = compile_static(V3, Family.V4)

    assert (Layer.NAT, Hook.POSTROUTING) not in static.hooks
    assert set(static.appends) == {(Layer.NAT, Hook.POSTROUTING), (Layer.FILTER, Hook.FORWARD)}


def test_in_append_mode_all_go_after_and_the_last_stay_last() -> None:
    inserted = compile_static(V3, Family.V4)
    appended = compile_static(FelixSettings(chain_insert_mode=ChainInsertMode.APPEND), Family.V4)

    forward = (Layer.FILTER, Hook.FORWARD)
    assert appended.hooks == {}
    assert appended.appends[forward] == (*inserted.hooks[forward], *inserted.appends[forward])
    assert appended.appends.keys() == inserted.hooks.keys() | inserted.appends.keys()


def test_allowed_packets_go_on_to_other_peoples_rules_where_configured() -> None:
    static = compile_static(FelixSettings(iptables_filter_allow_action="RETURN"), Family.V4)

    ops = {
        type(rule.op).__name__
        for key, rules in static.chains.items()
        if key.name == "cali-INPUT"
        for rule in rules
    }

    assert "Accept" not in ops
