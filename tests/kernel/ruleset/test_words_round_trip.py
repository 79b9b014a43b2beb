"""A ruleset with everything in it goes into a kernel and comes back word for word."""

import subprocess
from collections import defaultdict

import pytest

from calico_engine.messages import ActiveRule, NodeUpdate, PoolEncap, PoolUpdate, SetKind, VtepUpdate
from calico_engine.model.endpoint import IPNAT
from calico_engine.model.policy import Action
from calico_engine.model.resource import ResourceKey
from calico_engine.ruleset.ir import Family, Layer, Rule, Ruleset
from calico_engine.ruleset.lower import lower
from calico_engine.ruleset.names import set_name
from calico_engine.ruleset.verify import verify
from calico_engine.ruleset.world import compile_world
from calico_engine.settings import DenyAction, EndpointToHostAction, FelixSettings, Layout
from calico_engine.testing.messages import (
    make_host_update,
    make_interface,
    make_policy_update,
    make_profile_update,
    make_set,
    make_state,
    make_tier,
    make_workload_update,
    ports,
)
from calico_engine_iptables.words import chain_hashes, restore_line, save_line

RULES = (
    ActiveRule(
        action=Action.ALLOW,
        ip_version=4,
        protocol=6,
        dst_ports=ports(80, (443, 445)),
        src_nets=("10.0.0.0/8", "192.0.2.1/32"),
    ),
    ActiveRule(action=Action.DENY, protocol=17, not_dst_ports=ports(*range(1, 40)), src_sets=("s:a",)),
    ActiveRule(
        action=Action.ALLOW, protocol=132, src_ports=ports(*range(100, 140)), dst_named_port_sets=("n:p",)
    ),
    ActiveRule(action=Action.LOG, protocol=1, icmp_type=8, icmp_code=0),
    ActiveRule(action=Action.PASS, protocol=1, not_icmp_type=8),
    ActiveRule(action=Action.LOG, protocol=58, icmp_type=128),
    ActiveRule(action=Action.PASS, protocol=58, not_icmp_type=135, not_icmp_code=0),
    ActiveRule(
        action=Action.ALLOW,
        not_protocol=136,
        not_src_nets=("10.0.0.0/8", "fd00::/8"),
        dst_nets=("0.0.0.0/0", "::/0"),
    ),
    ActiveRule(
        action=Action.ALLOW,
        src_nets=("10.0.0.0/8", "fd00::/8"),
        not_src_nets=("10.0.0.1/32", "fd00::1/128"),
        not_dst_sets=("s:a",),
    ),
    ActiveRule(action=Action.ALLOW, protocol=47),
)
NATS = (
    IPNAT(internal_ip="10.65.0.1", external_ip="198.51.100.1"),
    IPNAT(internal_ip="fd00::1", external_ip="2001:db8::77"),
)


def everything(layout: Layout, family: Family) -> Ruleset:
    """Compile every kind of rule: 20 workloads, two host endpoints, all policy kinds, both tunnels, NAT."""
    settings = FelixSettings(
        layout=layout,
        floating_ips="Enabled",
        nat_port_range="32768:65535",
        nat_outgoing_exclusions="IPPoolsAndHostIPs",
        iptables_nat_outgoing_interface_filter="eth+",
        workload_source_spoofing="Any",
        openstack_metadata=True,
        metadata_addr="" if family is Family.V6 else "10.0.0.9",
        default_endpoint_to_host_action=EndpointToHostAction.ACCEPT,
        iptables_filter_deny_action=DenyAction.REJECT,
    )
    tiers = [make_tier("p1", "p2", "p3", tier="first"), make_tier("p4")]
    profiles = ["a-profile-with-a-long-name", "missing"]
    workloads = [
        make_workload_update(
            f"w{number}",
            interface=f"cali{number:03x}",
            tiers=tiers,
            profiles=profiles,
            allow_spoofed=["10.9.0.0/16", "fd09::/32"],
            nats=NATS if not number else (),
        )
        for number in range(20)
    ]
    before = [make_tier(ingress=["before"])]
    state = make_state(
        make_set("s:a", "10.0.0.1", "fd00::1"),
        make_set("n:p", "10.0.0.1,tcp:80", "fd00::1,sctp:9", kind=SetKind.IP_PORT),
        *(make_policy_update(f"p{n}", inbound=RULES, outbound=RULES, selector="all()") for n in range(1, 5)),
        make_policy_update("raw", inbound=RULES, outbound=RULES, untracked=True),
        make_policy_update("before", inbound=RULES, pre_dnat=True),
        make_profile_update(profiles[0], inbound=RULES, outbound=RULES),
        *workloads,
        make_host_update(tiers=tiers, untracked=[make_tier("raw")], pre_dnat=before, forward=tiers),
        make_host_update("rest", interface="*", tiers=tiers, pre_dnat=before),
        make_interface("eth0"),
        PoolUpdate(cidr="10.0.0.0/16", nat_outgoing=True, encap=PoolEncap.IPIP),
        PoolUpdate(cidr="10.1.0.0/16", nat_outgoing=True, encap=PoolEncap.VXLAN),
        PoolUpdate(cidr="fd00::/48", nat_outgoing=True, encap=PoolEncap.VXLAN),
        NodeUpdate(node="n", ipv4_address="192.0.2.9", ipv6_address="2001:db8::9"),
        VtepUpdate(node="n", parent_ipv4="192.0.2.9", parent_ipv6="2001:db8::9"),
        settings=settings,
    )
    assert ResourceKey("HostEndpoint", "", "rest") in state.host_endpoints
    ruleset = lower(compile_world(state, settings, family), settings)
    assert verify(ruleset) == ()
    return ruleset


def ipset_words(ruleset: Ruleset, layout: Layout) -> str:
    lines = []
    for data in ruleset.sets.values():
        name = set_name(data.set_id, ruleset.family, layout)
        kind = "hash:ip,port" if data.kind is SetKind.IP_PORT else "hash:net"
        lines.append(f"create {name} {kind} family {'inet6' if ruleset.family is Family.V6 else 'inet'}")
        lines += [f"add {name} {member}" for member in sorted(data.members)]
    return "\n".join(lines) + "\n"


def table_rules(ruleset: Ruleset, layer: Layer) -> list[tuple[str, tuple[Rule, ...]]]:
    """Return chains of one table, then our rules in the kernel's own."""
    own = [(key.name, rules) for key, rules in ruleset.chains.items() if key.layer is layer]
    kernel = [
        (str(hook), rules)
        for hooked in (ruleset.hooks, ruleset.appends)
        for (hook_layer, hook), rules in hooked.items()
        if hook_layer is layer
    ]
    return own + kernel


@pytest.mark.parametrize("family", Family)
@pytest.mark.parametrize("layout", [Layout.V2, Layout.V3])
@pytest.mark.parametrize(
    "variant",
    [
        pytest.param(
            variant, marks=pytest.mark.kernel(tools=("ipset",), features=(f"iptables-{variant}", "ipset"))
        )
        for variant in ("legacy", "nft")
    ],
)
def test_what_goes_in_comes_back_word_for_word(variant: str, layout: Layout, family: Family) -> None:
    ruleset = everything(layout, family)
    tool = f"{'ip6tables' if family is Family.V6 else 'iptables'}-{variant}"
    restore: list[str] = []
    expected: dict[str, dict[str, list[str]]] = {}
    for layer in Layer:
        chains = table_rules(ruleset, layer)
        restore += [f"*{layer}", *(f":{name} - [0:0]" for name, _ in chains if name.startswith("cali-"))]
        saved: dict[str, list[str]] = defaultdict(list)
        for name, rules in chains:
            for rule, rule_hash in zip(rules, chain_hashes(name, rules, family, layout), strict=True):
                restore.append(restore_line(name, rule, rule_hash, family, layout))
                saved[name].append(save_line(name, rule, rule_hash, family, layout))
        restore.append("COMMIT")
        expected[layer] = saved

    script = f"ipset restore <<'END'\n{ipset_words(ruleset, layout)}END\n{tool}-restore && {tool}-save"
    done = subprocess.run(
        ["unshare", "--net", "sh", "-ec", script],
        input="\n".join(restore) + "\n",
        text=True,
        capture_output=True,
        check=False,
        timeout=30,
    )

    assert done.returncode == 0, done.stderr
    found: dict[str, dict[str, list[str]]] = {layer: defaultdict(list) for layer in Layer}
    table = ""
    for line in done.stdout.splitlines():
        if line.startswith("*"):
            table = line[1:]
        elif line.startswith("-A"):
            found[table][line.split()[1]].append(line)
    assert found == expected
